"""Tests run in float64 with strict promotion of dtypes, except those of what users run; doctests as a reader sees."""

import gc
import shutil
import signal

import jax
import jaxtyping
import pytest
from covering import left_out
from jaxtyping import jaxtyped
from shared_context import SharedContext

# Compiling is most of what the tests cost, and most programs run once; this compiles them five times faster.
COMPILE_QUICKLY = (
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)


def checked_at_boundaries(typechecker):
    """The checks of shapes and types, for all but functions within functions: those are no boundary, and they would be
    decorated anew at every trace, which is slow.
    """
    check = jaxtyped(typechecker=typechecker)
    return lambda function: function if "<locals>" in function.__qualname__ else check(function)


jaxtyping.jaxtyped = checked_at_boundaries  # what --jaxtyping-packages decorates with

CONTEXT = SharedContext()
CONTEXT.install()

AS_IN_USE = {
    "test_benchmarks",
    "test_comparison",
    "test_cli",
    "test_cli_commands",
    "test_cli_compare",
    "test_cli_export",
    "test_cli_hostile",
    "test_cli_parts",
    "test_exports",
    "test_fuzz",
    "test_pages_run",
    "test_readme",
    "test_reproduce",
    "test_river",
    "test_runs",
    "test_streams_engine",
    "test_streams_command",
    "test_sharing",
    "test_stream_worker",
    "test_partitioned_command",
    "test_sweep",
    "test_text",
}


MOST_BYTES = 2**31  # of compiled programs that are kept


def pytest_configure(config):
    """What is compiled is kept for the next run, and the processes of one run share it."""
    if getattr(config, "cache", None) is None:  # pytest -p no:cacheprovider
        return
    folder = config.cache.mkdir("compiled")
    if not hasattr(config, "workerinput") and sum(entry.stat().st_size for entry in folder.iterdir()) > MOST_BYTES:
        shutil.rmtree(folder)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_sessionstart():
    from onward.support.small_loops import request  # imported above, the library would escape the checks of its types

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XLA_FLAGS", COMPILE_QUICKLY)
        request()
        jax.devices()  # XLA reads the flags now, once; processes that the tests start compile as for users
    # Looking for cycles among the many small objects that programs are made of took a tenth of the time.
    gc.freeze()
    gc.set_threshold(200_000, 50, 100)


def pytest_addoption(parser):
    parser.addoption(
        "--every-pair",
        action="store_true",
        help="run every case of the tests that are products, and not a choice of them (minutes more)",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config, items):
    """Doctests belong to the quick tier, `make check`; other tests are marked as `core` where they stand.

    Of a product of cases a few are run, see `covering.py`. They are chosen from what `-k` and `-m` let through, so that
    one estimator asked for by name meets every check and every cell. All cases are run with `--every-pair`, and if one
    is asked for by its brackets. What empties JAX's caches comes last: all that runs after it in the same process is
    compiled again.
    """
    for item in items:
        if isinstance(item, pytest.DoctestItem):
            item.add_marker("core")
    yield
    if not config.getoption("every_pair") and not any("[" in argument for argument in config.args):
        left = set(left_out(items))
        config.hook.pytest_deselected(items=[item for item in items if item in left])
        items[:] = [item for item in items if item not in left]
    items.sort(key=lambda item: item.get_closest_marker("empties_caches") is not None)


@pytest.fixture(autouse=True, scope="session")
def cache(tmp_path_factory, request):
    """What the command line compiles is shared by the tests of a session, in all its processes, and kept apart from the
    user's own.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if hasattr(request.config, "workerinput") else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        yield


@pytest.fixture(autouse=True, scope="module")
def precision(request):
    CONTEXT.forget()
    # Doctests run in the same process, so that nothing may be switched for good.
    if request.module.__name__ in AS_IN_USE:
        yield
    else:
        with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
            yield


@pytest.fixture
def as_in_use():
    """Without the tests' own checks of shapes and types, which would speak first."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def in_a_terminal():
    """SIGHUP does what it does in a terminal, even if the tests run under `nohup`, which has it ignored."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def promotion():
    """Promotion of dtypes as users have it: Optax multiplies by Python's numbers and counts in integers."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture
def parts(tmp_path):
    """A recipe's parts, begun."""
    from experiments.parts import Parts  # imported above, the library would escape the checks of its types

    parts = Parts(tmp_path / "run", {"figure": "a test"})
    parts.begin()
    return parts
