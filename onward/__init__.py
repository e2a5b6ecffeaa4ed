"""onward: recurrent networks trained without unrolling them back through time."""

import importlib
from typing import TYPE_CHECKING

from .small_loops import compile_small_loops_whole

__version__ = "0.1.0"

if TYPE_CHECKING:
    from .api import *  # noqa: F403


compile_small_loops_whole()


def __getattr__(name: str):
    # The public names are imported when the first of them is asked for: `onward --help` must not wait for JAX.
    if not name.startswith("_"):
        public = vars(importlib.import_module("onward.api"))
        if name in public:
            return public[name]
    raise AttributeError(f"module 'onward' has no attribute {name!r}")


def __dir__():
    public = vars(importlib.import_module("onward.api"))
    return sorted({*globals(), *(name for name in public if not name.startswith("_"))})
