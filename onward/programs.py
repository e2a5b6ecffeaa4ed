"""Which program it is that JAX would compile: to know again what a checkpoint belongs to."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal


def program_digest(function: Callable, *arguments):
    """A SHA-256 of what `function` computes of such arguments: of its operations, of every number in them, and of the
    shapes and dtypes of the arguments. Not of the arrays in the arguments, nor of what a function that is called back
    outside the program does."""
    digest = hashlib.sha256()
    _tell(eqx.filter_make_jaxpr(function)(*arguments)[0], digest.update)
    return digest


def _tell(thing: Any, tell: Callable[[bytes], None]) -> None:
    if isinstance(thing, ClosedJaxpr):
        for const in thing.consts:
            _tell(np.asarray(const), tell)
        thing = thing.jaxpr
    if isinstance(thing, Jaxpr):
        # By the order of their first use, and each inner program anew, however often one object serves for several.
        numbers = {}

        def name(variable):
            if isinstance(variable, Literal):
                _tell(np.asarray(variable.val), tell)
            else:
                tell(f"{numbers.setdefault(variable, len(numbers))} {variable.aval.str_short()};".encode())

        for variable in (*thing.constvars, *thing.invars):
            name(variable)
        for equation in thing.eqns:
            tell(equation.primitive.name.encode())
            for variable in (*equation.invars, *equation.outvars):
                name(variable)
            for key in sorted(equation.params):
                tell(key.encode())
                _tell(equation.params[key], tell)
        for variable in thing.outvars:
            name(variable)
    elif isinstance(thing, np.ndarray):
        tell(f"{thing.dtype} {thing.shape}".encode() + thing.tobytes())
    elif isinstance(thing, tuple | list):
        for part in thing:
            _tell(part, tell)
    elif isinstance(thing, frozenset):
        _tell(sorted(map(repr, thing)), tell)
    else:
        # A function says where it lies, which differs from process to process.
        tell(re.sub(" at 0x[0-9a-f]+", "", repr(thing)).encode())
