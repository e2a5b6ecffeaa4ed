"""The public names: held as a list, few at the top, each documented, each reached after `import onward`."""

import inspect
import subprocess
import sys

import pytest

import onward

pytestmark = pytest.mark.core

TOP = """
AdaptedCell AntisymmetricCell ARTBP AbstractCell BPTT Carry ConjugateGradientRBP DropoutBPTT EmbeddedCell EveryStep FPP
GRUCell LSTMCell LeakyCell Learner Masked Metrics Model NeumannRBP NoBackTrack RBP RTRL Sequences SlidingBPTT SnAp
StackedCell Terminal TerminalClasses UORO VanillaCell __version__ audit cells checkpoints compare comparison
compile_small_loops_whole equilibria
equilibrium estimators evaluate exports fit fptt fptt_exact from_torch live load_model losses observing
quasi_diagonal_kalman readouts river rollout save_model sequences streams sweep tasks transforms window_length
""".split()

NAMESPACES = [name for name in onward.NAMESPACES if name != "river"]  # that needs its extra; see tests/river


def public(module) -> dict[str, object]:
    """What a namespace offers: names that do not begin with `_`, modules of other packages left out."""
    found = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    return {
        name: value
        for name, value in found.items()
        if not inspect.ismodule(value) and getattr(value, "__module__", "").startswith("onward")
    }


def test_the_top_is_this_list_and_short():
    assert sorted(dir(onward)) == sorted(TOP)
    assert len([name for name in TOP if name != "__version__"]) <= 60


@pytest.mark.parametrize("name", [name for name in TOP if name not in ("river", "__version__")])
def test_every_name_works_after_import_onward_alone(name):
    assert getattr(onward, name) is not None


def test_the_names_work_in_a_fresh_process():
    names = ", ".join(f"onward.{name}" for name in TOP if name != "river")
    subprocess.run([sys.executable, "-c", f"import onward; {names}"], check=True)


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_every_public_name_is_documented(namespace):
    module = getattr(onward, namespace)
    assert module.__doc__
    for name, value in public(module).items():
        if callable(value):
            assert inspect.getdoc(value), f"onward.{namespace}.{name} has no docstring."
            own = value.__doc__ or ""
            assert not own.startswith(f"{name}("), f"onward.{namespace}.{name} has only the docstring of a tuple."


def test_an_old_name_is_answered_with_its_new_place():
    with pytest.raises(AttributeError, match=r"no attribute 'grid'; there is onward\.comparison\.grid\.$"):
        onward.grid  # noqa: B018
    with pytest.raises(AttributeError, match=r"no attribute 'nothing'$"):
        onward.nothing  # noqa: B018
