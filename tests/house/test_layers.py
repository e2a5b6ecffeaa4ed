"""The layers of the library: imports go down, never up or in a circle, and what is private stays in its package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.core

ROOT = Path(__file__).parents[2]

# Bottom to top, as CONTRIBUTING tells them. A layer imports from itself and from those before it.
LAYERS = (
    "onward.support",
    "onward.cells",
    "onward.targets",
    "onward.losses",
    "onward.readouts",
    "onward.model",
    "onward._checks",
    "onward._learner_checks",
    "onward.observing",
    "onward.transforms",
    "onward.estimators",
    "onward._carry",
    "onward._updates",
    "onward._chunks",
    "onward._learner_programs",
    "onward.learner",
    "onward.checkpoints",
    "onward.texts",
    "onward.tasks",
    "onward.sequences",
    "onward.equilibria",
    "onward.comparison",
    "onward.audits",
    "onward.exports",
    "onward.live",
    "onward.river",
    "onward.streams",
    "onward._public",
    "onward.registry",
    "onward.cli",
    "onward.__main__",
    "experiments",
    "benchmarks",
)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path for top in ("onward", "experiments", "benchmarks") for path in (ROOT / top).rglob("*.py")
}


def imports(name: str, *, late: bool = True) -> Iterator[tuple[str, str]]:
    """The modules of this project that a module imports, each with the imported name; `late`: inside functions too."""
    path, tree = FILES[name], ast.parse(FILES[name].read_text())
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree) if late else tree.body:
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names if alias.name in FILES)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                if f"{base}.{alias.name}" in FILES:
                    yield f"{base}.{alias.name}", ""
                elif base in FILES:
                    yield base, alias.name


def layer(name: str) -> int:
    """The place of a module's layer; the root itself stands below all, for its version."""
    fits = [i for i, each in enumerate(LAYERS) if name == each or name.startswith(each + ".")]
    assert fits or name == "onward", f"{name} is in no layer: add it to LAYERS and to CONTRIBUTING."
    return fits[0] if fits else -1


@pytest.mark.parametrize("name", [name for name in FILES if name != "onward"])
def test_imports_go_down(name):
    for imported, _ in imports(name):
        if imported != "onward":  # its public names, by whoever stands above all of them
            assert layer(imported) <= layer(name), f"{name} imports {imported}, which is in a layer above."


def test_no_circle():
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, "a circle of imports: " + " → ".join([*path[path.index(name) :], name])
        if name not in done:
            for imported, _ in imports(name):
                if imported != "onward" and imported != name:
                    visit(imported, (*path, name))
            done.add(name)

    for name in FILES:
        if name != "onward":
            visit(name, ())


@pytest.mark.parametrize("name", FILES)
def test_what_is_private_stays_in_its_package(name):
    """A module or name that begins with `_` belongs to the package that holds it, and to what lies in that package."""
    for imported, what in imports(name):
        parts = imported.split(".")
        for i, part in enumerate(parts):
            if part.startswith("_") and part != "__main__":
                owner = ".".join(parts[:i])
                assert name == owner or name.startswith(owner + "."), f"{name} imports {imported}, private to {owner}."
        if what.startswith("_") and not what.startswith("__"):
            assert imported == name, f"{name} imports {what} of {imported}, which is private there."


def test_the_library_does_not_know_the_experiments():
    for name in FILES:
        if name.split(".")[0] == "onward":
            assert not any(i.split(".")[0] in ("experiments", "benchmarks") for i, _ in imports(name)), name


def test_contributing_names_every_layer():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    for each in LAYERS:
        if not each.rpartition(".")[2].startswith("_"):
            assert f"| `{each}`" in text, f"CONTRIBUTING's table of layers lacks {each}."
