"""The public names of the library: each object once, under its shortest name, on the page of its namespace."""

import importlib
import inspect
from typing import NamedTuple

import onward

# Public names that no namespace repeats.
FURTHER_NAMES = (
    "onward.cells.cpu_tuning.plain",
    "onward.estimators.fpp_schedules.Decay",
    "onward.estimators.fpp_schedules.Random",
    "onward.support.freezing.freeze",
    "onward.tasks.adding.Adding",
    "onward.tasks.cues.MemoryChain",
    "onward.tasks.worlds.CycleWorld",
)
LEARNER = "learner"


class PublicName(NamedTuple):
    """A public object.

    * `module`, `name`: where users find it, such as `onward` and `RTRL`;
    * `aliases`: its other public names, such as `onward.estimators.RTRL`;
    * `page`: the page of the reference that describes it, such as `estimators`.
    """

    module: str
    name: str
    value: object
    aliases: tuple[str, ...]
    page: str

    @property
    def full(self) -> str:
        """The name with its module."""
        return f"{self.module}.{self.name}"


def public_names() -> list[PublicName]:
    """All public names, those of the top first."""
    found: dict[int, list[tuple[str, str, object]]] = {}
    for module, name, value in _spelled():
        found.setdefault(id(value), []).append((module, name, value))
    names = []
    for (module, name, value), *others in found.values():
        names.append(PublicName(module, name, value, tuple(".".join(other[:2]) for other in others), _page(value)))
    return names


def _spelled():
    for name in dir(onward):
        if name not in onward.NAMESPACES and not name.startswith("_"):
            yield "onward", name, getattr(onward, name)
    for namespace in onward.NAMESPACES:
        module = importlib.import_module(f"onward.{namespace}")
        for name in dict.fromkeys([*vars(module), *dir(module)]):  # some are imported when they are asked for
            value = getattr(module, name)
            # What a namespace only borrows from the helpers below it is not its own.
            defined = getattr(value, "__module__", None) or ""
            own = defined.startswith("onward.") and not defined.startswith("onward.support")
            if own and not name.startswith("_") and not inspect.ismodule(value):
                yield f"onward.{namespace}", name, value
    for path in FURTHER_NAMES:
        module, _, name = path.rpartition(".")
        yield module, name, getattr(importlib.import_module(module), name)


def _page(value: object) -> str:
    namespace = value.__module__.split(".")[1]
    return namespace if namespace in onward.NAMESPACES else LEARNER
