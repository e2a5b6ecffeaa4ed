"""The digest of a program, by which a checkpoint is matched to its computation."""

import hashlib
import re
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jax.extend.core import ClosedJaxpr, Jaxpr, Literal

from .small_loops import options_in_force


def program_digest(function: Callable, *arguments):
    """A SHA-256 of the program of `function` for such arguments, and of how it is compiled.

    It covers the operations, every number in them, and the shapes and dtypes of the arguments. It also covers whether
    XLA compiles small loops whole (`compile_small_loops_whole`), which changes the last bits. It does not cover the
    values of the arguments, the devices that hold them, or callbacks to Python. Another version of JAX may give the
    same program another digest.
    """
    digest = traced_digest(function, *arguments)
    digest.update(options_in_force().encode())
    return digest


def traced_digest(function: Callable, *arguments):
    """Like `program_digest`, but independent of how the program is compiled."""
    arguments = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if eqx.is_array(leaf) else leaf, arguments
    )
    digest = hashlib.sha256()
    _tell(eqx.filter_make_jaxpr(function)(*arguments)[0], digest.update)
    return digest


def _tell(thing: Any, tell: Callable[[bytes], None]) -> None:
    # Brackets, so that (1, 11) and (11, 1) differ.
    tell(b"(")
    if isinstance(thing, ClosedJaxpr):
        for const in thing.consts:
            _tell_array(const, tell)
        thing = thing.jaxpr
    if isinstance(thing, Jaxpr):
        # Variables are numbered by their first use. An inner program is written out again at every call. Two calls may
        # or may not share one object: this depends on what was compiled before, and must not change the digest.
        numbers = {}

        def name(variable):
            if isinstance(variable, Literal):
                _tell_array(variable.val, tell)
            else:
                tell(f"{numbers.setdefault(variable, len(numbers))} {variable.aval.str_short()};".encode())

        for variable in (*thing.constvars, *thing.invars):
            name(variable)
        for equation in thing.eqns:
            tell(f"{equation.primitive.name};".encode())
            for variable in (*equation.invars, *equation.outvars):
                name(variable)
            for key in sorted(equation.params.keys() - {"name"}):
                tell(f"{key};".encode())
                _tell(equation.params[key], tell)
        for variable in thing.outvars:
            name(variable)
    elif eqx.is_array(thing):
        _tell_array(thing, tell)
    elif isinstance(thing, tuple | list):
        for part in thing:
            _tell(part, tell)
    else:
        # A function's repr has its address, which differs between processes.
        tell(re.sub(" at 0x[0-9a-f]+", "", repr(thing)).encode())
    tell(b")")


def _tell_array(array: Any, tell: Callable[[bytes], None]) -> None:
    if jnp.issubdtype(jnp.result_type(array), jax.dtypes.prng_key):
        array = jr.key_data(array)
    array = np.asarray(array)
    tell(f"{array.dtype} {array.shape};".encode() + array.tobytes())
