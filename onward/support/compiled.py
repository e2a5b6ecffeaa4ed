"""Compiled functions of an object, shared by all that are equal to it and forgotten with the last of them."""

import weakref
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

_OF: "dict[int, Programs]" = {}  # by the identity of a module that lives
_EQUAL: "weakref.WeakValueDictionary[Any, Programs]" = weakref.WeakValueDictionary()  # by its value


class Programs:
    """`programs(function)` is `function(owner, ...)`, compiled; the same one at every call.

    JAX keeps what it compiles as long as the compiled function lives, and the arguments that are static for ever. So
    the owner is no argument here: each owner's functions are compiled for it alone, and leave memory with it.
    """

    def __init__(self, owner: Any):
        self._owner, self._compiled = owner, {}

    def __call__(self, function: Callable, **options) -> Any:
        """`options` are those of `jax.jit`; only the first call with a function looks at them."""
        if function not in self._compiled:
            owner = self._owner

            def owned(*arguments, **named):
                return function(owner, *arguments, **named)

            owned.__name__ = owned.__qualname__ = function.__name__
            self._compiled[function] = jax.jit(owned, **options)
        return self._compiled[function]


def programs_of(module: eqx.Module) -> Programs:
    """The programs of a module, which all modules equal to it have.

    Modules are equal if their settings are and they hold the same functions: two functions are the same only if they
    are one object. A module that holds arrays has programs of its own.
    """
    programs = _OF.get(id(module))
    if programs is None:
        leaves, structure = jax.tree.flatten(module)
        # Of a copy: the module itself would be kept in memory by its programs.
        programs = Programs(jax.tree.unflatten(structure, leaves))
        try:
            programs = _EQUAL.setdefault((structure, *((type(leaf), leaf) for leaf in leaves)), programs)
        except TypeError:  # arrays cannot be hashed
            pass
        _OF[id(module)] = programs
        weakref.finalize(module, _OF.pop, id(module)).atexit = False
    return programs
