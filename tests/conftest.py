"""Tests run in float64 with strict promotion of dtypes, except those of what users run; doctests as a reader sees."""

import jax
import jaxtyping
import pytest

AS_IN_USE = {
    "test_benchmarks",
    "test_comparison",
    "test_cli",
    "test_cli_compare",
    "test_cli_export",
    "test_cli_reproduce",
    "test_exports",
    "test_readme",
    "test_runs",
    "test_sweep",
    "test_text",
}


@pytest.fixture(autouse=True, scope="module")
def precision(request):
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
