"""Compiled functions of a module, shared by all equal modules and forgotten with the last of them."""

import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

_OF: "dict[int, Programs]" = {}  # by the id of a living module
_EQUAL: "weakref.WeakValueDictionary[Any, Programs]" = weakref.WeakValueDictionary()  # by the module's value


class Programs(dict):
    """`programs[function, *settings]` is `function(owner, *settings, ...)`, compiled, and the same object every time.

    Each combination of settings, which can be hashed, is compiled for itself: as static arguments of one function they
    would cost time at every call. The programs are a dictionary's entries, because a call of Python would, too.

    JAX keeps compiled code as long as the compiled function lives, and keeps static arguments for ever. So the owner is
    not an argument here: each owner's functions are compiled for it alone, and leave memory with it.
    """

    def __init__(self, owner: Any):
        super().__init__()
        self.owner = owner

    def __missing__(self, place: tuple) -> Callable:
        function, *settings = place
        owner = self.owner

        def owned(*arrays):
            return function(owner, *settings, *arrays)

        owned.__name__ = owned.__qualname__ = getattr(function, "__name__", type(function).__name__)
        compiled = self[place] = jax.jit(owned)
        return compiled


def programs_of(module: eqx.Module) -> Programs:
    """The programs of a module, shared with all modules that equal it.

    Modules are equal if they have equal settings and hold the same functions. Two functions are the same only if they
    are one object. A module that holds arrays has programs of its own.
    """
    programs = _OF.get(id(module))
    if programs is None:
        leaves, structure = jax.tree.flatten(module)
        # Made of a copy, because the programs would keep the module itself in memory.
        programs = Programs(jax.tree.unflatten(structure, leaves))
        try:
            programs = _EQUAL.setdefault((structure, *((type(leaf), leaf) for leaf in leaves)), programs)
        except TypeError:  # arrays cannot be hashed
            pass
        if module is programs.owner:
            return programs  # registering it would keep both in memory for ever
        _OF[id(module)] = programs
        weakref.finalize(module, _OF.pop, id(module)).atexit = False
    return programs
