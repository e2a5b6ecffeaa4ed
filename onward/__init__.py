"""onward: recurrent networks trained without unrolling them back through time.

The names that every user types are here; the others are in the namespaces, such as `onward.cells`. Each is imported
when it is first asked for.
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

NAMESPACES = (
    "cells",
    "checkpoints",
    "comparison",
    "equilibria",
    "estimators",
    "exports",
    "live",
    "losses",
    "observing",
    "readouts",
    "river",
    "sequences",
    "streams",
    "tasks",
    "transforms",
)

if TYPE_CHECKING:
    from . import cells as cells
    from . import checkpoints as checkpoints
    from . import comparison as comparison
    from . import equilibria as equilibria
    from . import estimators as estimators
    from . import exports as exports
    from . import live as live
    from . import losses as losses
    from . import observing as observing
    from . import readouts as readouts
    from . import river as river
    from . import sequences as sequences
    from . import streams as streams
    from . import tasks as tasks
    from . import transforms as transforms
    from ._public import *  # noqa: F403


def __getattr__(name: str):
    # `onward --help` must not wait for JAX.
    if name in NAMESPACES:
        return import_module(f"onward.{name}")
    if not name.startswith("_"):
        if name in (public := _top_names()):
            return public[name]
        for namespace in NAMESPACES:
            if namespace != "river" and name in vars(import_module(f"onward.{namespace}")):
                raise AttributeError(f"module 'onward' has no attribute {name!r}; there is onward.{namespace}.{name}.")
    raise AttributeError(f"module 'onward' has no attribute {name!r}")


def __dir__():
    return sorted({*NAMESPACES, *_top_names(), "__version__"})


def _top_names() -> dict[str, object]:
    """The names at the top, with what each stands for."""
    names = vars(import_module("onward._public"))
    return {name: value for name, value in names.items() if not (name.startswith("_") or isinstance(value, ModuleType))}
