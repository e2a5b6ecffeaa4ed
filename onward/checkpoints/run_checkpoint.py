"""Checkpoints: the arrays of a carry in one file with where the run stands, never a pickle, and never half written.

A checkpoint is a NumPy `.npz` file: one member per array, named by its place in the carry, and a `header` in JSON.
Anyone can look into it with `numpy.load`.
"""

import io
from pathlib import Path
from typing import Annotated, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import msgspec
import numpy as np
from jaxtyping import PyTree

from ..support.errors import UserError
from ..support.files import write_atomically

FORMAT, VERSION = "onward checkpoint", 1

S = TypeVar("S", bound=msgspec.Struct)
Count = Annotated[int, msgspec.Meta(ge=0)]


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a checkpoint says about itself.

    `settings` is the digest of the run's settings; `standing` where the run stood, in its own form; `keys` gives the
    generator of each random key among the arrays.
    """

    format: str
    version: int
    settings: str
    standing: msgspec.Raw
    keys: dict[str, str]


def save_checkpoint(path: Path, carry: PyTree, standing: msgspec.Struct, *, settings: str) -> None:
    """Writes the arrays of `carry`, of JAX or NumPy, and the standing to `path`, atomically."""
    arrays, keys = {}, {}
    for name, leaf in _named_arrays(carry):
        if _is_key(leaf):
            keys[name] = str(jr.key_impl(leaf))
        arrays[name] = stored(leaf)
    header = msgspec.json.encode(Header(FORMAT, VERSION, settings, msgspec.Raw(msgspec.json.encode(standing)), keys))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.frombuffer(header, np.uint8), **arrays)
    write_atomically(path, buffer.getvalue())


def load_checkpoint(path: Path, template: PyTree, *, settings: str, standing: type[S]) -> tuple[PyTree, S]:
    """The carry and the standing saved in `path`; `template` is a carry of the same run, fresh from `Learner.init`.

    An array comes back as it is in the template, NumPy's or JAX's.

    Raises `UserError` if the file is damaged, is no checkpoint, or belongs to another run.
    """
    header, arrays = _read(path, settings)
    expected = {name: stored(leaf) for name, leaf in _named_arrays(template)}
    for name in [*expected, *arrays]:
        found, wanted = _describe(arrays.get(name)), _describe(expected.get(name))
        if found != wanted:
            raise UserError(
                f"{path} is of another model, its {name} being {found} where {wanted} is needed; it was saved with "
                "other settings, or by another version of onward; delete it to go on without it."
            )
    leaves, structure = jax.tree_util.tree_flatten_with_path(template)
    try:
        back = [
            restored(arrays[name], leaf, header.keys.get(name)) if _is_array(leaf) else leaf
            for name, leaf in ((jax.tree_util.keystr(place), leaf) for place, leaf in leaves)
        ]
    except (TypeError, ValueError):
        raise UserError(
            f"{path} holds a random key of a generator that JAX does not know; delete it to go on without it."
        ) from None
    return jax.tree.unflatten(structure, back), _stood(path, header, standing)


def load_standing(path: Path, *, settings: str, standing: type[S]) -> S:
    """The standing alone, where it says what carry belongs to it. Raises `UserError` as `load_checkpoint` does."""
    return _stood(path, _read(path, settings)[0], standing)


def _stood(path: Path, header: Header, standing: type[S]) -> S:
    try:
        return msgspec.json.decode(header.standing, type=standing)
    except msgspec.DecodeError as error:
        raise UserError(f"{path} does not say where its run stood ({error}); delete it to go on without it.") from None


def _read(path: Path, settings: str) -> tuple[Header, dict[str, np.ndarray]]:
    try:
        # Reading every member whole also verifies its check sum.
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except Exception as error:  # of a damaged file NumPy, zipfile and its decompressors complain in a dozen ways
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{path} cannot be read ({error.strerror}).") from None
        raise UserError(f"{path} is damaged or no checkpoint at all; delete it to go on without it.") from None
    try:
        header = msgspec.json.decode(arrays.pop("header").tobytes(), type=Header)
    except (KeyError, msgspec.DecodeError):
        header = None
    if header is None or header.format != FORMAT:
        raise UserError(f"{path} is no checkpoint of onward; delete it to go on without it.")
    if header.version != VERSION:
        raise UserError(
            f"{path} has checkpoint format {header.version}, but this version of onward reads format {VERSION}; "
            "delete it to go on without it."
        )
    if header.settings != settings:
        raise UserError(
            f"{path} belongs to a run with other settings; put back this run's own checkpoint, or delete it."
        )
    return header, arrays


def _named_arrays(tree: PyTree):
    for place, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        if _is_array(leaf):
            yield jax.tree_util.keystr(place), leaf


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray)


def _is_key(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def stored(leaf) -> np.ndarray:
    """An array as NumPy holds it; a random key as its data."""
    return np.asarray(jr.key_data(leaf) if _is_key(leaf) else leaf)


def restored(array: np.ndarray, leaf, key_impl: str | None = None):
    """What was stored, as an array of the kind of `leaf`; a random key of the generator `key_impl`, by default its."""
    if _is_key(leaf):
        return jr.wrap_key_data(jnp.asarray(array), impl=key_impl or jr.key_impl(leaf))
    return array if isinstance(leaf, np.ndarray) else jnp.asarray(array)


def _describe(array) -> str:
    return "missing" if array is None else f"{array.dtype}{list(array.shape)}"
