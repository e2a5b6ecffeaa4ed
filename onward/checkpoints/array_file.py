"""Saves a tree of arrays and a note in one file: exact to the bit, without pickle, and never half written.

The file is a NumPy `.npz`: one member for each array, named by its place in the tree, and a `header` in JSON. You can
inspect it with `numpy.load`.
"""

import errno
import io
import json
from os import PathLike
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PyTree

from ..support.errors import DamagedRun, UserError
from ..support.files import write_atomically
from ..support.held_folder import opened
from ..support.raw_key import RawKey

FORMAT, VERSION = "onward checkpoint", 1


class CheckpointError(DamagedRun, ValueError):
    """A file is not a checkpoint, is damaged, or does not fit. The text says which, and what to do."""


def save(path: str | PathLike[str], tree: PyTree, *, note: Any = None, settings: str = "") -> None:
    """Writes the arrays of `tree` to `path` atomically: after a crash either the old file or the new one is there.

    **Arguments:**

    - `tree`: a carry of `Learner.run`, or any tree of JAX or NumPy arrays and random keys. Other leaves are not
      written: `load` takes them from its `like`.
    - `note`: any JSON value, such as how far the stream was read. `load_note` reads it again.
    - `settings`: a text that `load` must be given too, such as a digest of what the run depends on.

    Raises `ValueError` if JSON cannot hold the note or if `path` is a link or a folder, and `OSError` if the file
    cannot be written.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax, tempfile
        >>> learner = onward.Learner(onward.UORO(), optax.adam(1e-2), loss=onward.losses.squared_error)
        >>> model = onward.Model(onward.GRUCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 1, key=jr.key(1)))
        >>> fresh = learner.init(model, key=jr.key(2))
        >>> carry, _ = learner.run(fresh, jnp.ones((5, 3)), jnp.ones((5, 1)))
        >>> path = tempfile.mkdtemp() + "/carry.npz"
        >>> onward.checkpoints.save(path, carry, note={"steps": 5})
        >>> loaded = onward.checkpoints.load(path, fresh)                  # in another process as well
        >>> bool(eqx.tree_equal(loaded, carry)), onward.checkpoints.load_note(path)
        (True, {'steps': 5})
    """
    write(Path(path), packed(tree, note=note, settings=settings))


def write(path: Path, data: bytes) -> None:
    """Writes the bytes of a checkpoint. Raises what `save` raises."""
    try:
        write_atomically(path, data)
    except UserError as error:
        raise CheckpointError(str(error)) from None


def packed(tree: PyTree, *, note: Any = None, settings: str = "") -> bytes:
    """The bytes that `save` writes."""
    arrays, keys, dtypes = {}, {}, {}
    for name, leaf in _named_arrays(tree):
        if _is_key(leaf):
            keys[name] = str(_key_impl(leaf))
        array = stored(leaf)
        if array.dtype.kind == "V":  # NumPy writes small floating-point types as bytes, which it cannot read back
            dtypes[name] = array.dtype.name
            array = array.view(f"u{array.dtype.itemsize}")
        arrays[name] = array
    header = {"format": FORMAT, "version": VERSION, "settings": settings, "standing": note, "keys": keys}
    header["arrays"] = len(arrays)  # a flipped bit can hide a member of the archive
    try:
        text = json.dumps(header | ({"dtypes": dtypes} if dtypes else {}), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError(f"note must be what JSON can hold: {error}.") from None
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, header=np.frombuffer(text.encode(), np.uint8), **arrays)
    return buffer.getvalue()


def load(path: str | PathLike[str], like: PyTree, *, settings: str = "") -> PyTree:
    """The tree saved in `path`, bit for bit.

    `like` is a tree of the same structure, shapes and dtypes, such as a fresh carry from `Learner.init`. Each array is
    returned as NumPy's or JAX's, as in `like`.

    Raises `ValueError`, naming the file, if it cannot be read, is damaged or is not a checkpoint; if it was saved with
    other `settings`; or if its arrays do not match those of `like` one for one, in name, shape and dtype.
    """
    return load_with_note(path, like, settings=settings)[0]


def load_with_note(path: str | PathLike[str], like: PyTree, *, settings: str = "") -> tuple[PyTree, Any]:
    """Like `load`, and also returns the note."""
    header, arrays = _read(Path(path), settings)
    expected = {name: stored(leaf) for name, leaf in _named_arrays(like)}
    for name in [*expected, *arrays]:
        found, wanted = _describe(arrays.get(name)), _describe(expected.get(name))
        if found != wanted:
            raise CheckpointError(
                f"{path} is of another model, its {name} being {found} where {wanted} is needed; it was saved with "
                "other settings, or by another version of onward; load it with the model, optimiser and estimator that "
                "saved it."
            )
    leaves, structure = jax.tree_util.tree_flatten_with_path(like, is_leaf=_is_key)
    try:
        back = [
            restored(arrays[name], leaf, header["keys"].get(name)) if _is_array(leaf) else leaf
            for name, leaf in ((jax.tree_util.keystr(place), leaf) for place, leaf in leaves)
        ]
    except (TypeError, ValueError):
        raise CheckpointError(
            f"{path} holds a random key of a generator that JAX does not know; delete it to go on without it."
        ) from None
    return jax.tree.unflatten(structure, back), header["standing"]


def load_note(path: str | PathLike[str], *, settings: str = "") -> Any:
    """The note alone. Raises `ValueError` if the file is not a whole checkpoint or was saved with other settings."""
    return _read(Path(path), settings)[0]["standing"]


def _read(path: Path, settings: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    damaged = CheckpointError(f"{path} is damaged, or is not a checkpoint; delete it to go on without it.")
    try:
        # Reading every member whole also verifies its check sum.
        with opened(path) as whole, np.load(whole, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except UserError as error:
        raise CheckpointError(str(error)) from None
    except OSError as error:
        # A damaged file may send the reader to places that no file has, where seeking is an invalid argument.
        if error.errno in (None, errno.EINVAL):
            raise damaged from None
        raise CheckpointError(f"{path} cannot be read ({error.strerror}).") from None
    except Exception:  # NumPy, zipfile and its decompressors raise a dozen kinds of exceptions for damaged files
        raise damaged from None
    header = _header(arrays.pop("header", None))
    if header is None or not header["dtypes"].keys() <= arrays.keys():
        raise damaged
    if header.get("arrays", len(arrays)) != len(arrays):  # earlier versions did not count them
        raise damaged
    if header["version"] != VERSION:
        raise CheckpointError(
            f"{path} has checkpoint format {header['version']}, but this version of onward reads format {VERSION}; "
            "delete it to go on without it."
        )
    if header["settings"] != settings:
        raise CheckpointError(
            f"{path} belongs to a run with other settings; put back this run's own checkpoint, or delete it."
        )
    for name, dtype in header["dtypes"].items():
        arrays[name] = arrays[name].view(jnp.dtype(dtype))
    return header, arrays


def _header(data: np.ndarray | None) -> dict[str, Any] | None:
    """The header of a checkpoint; `None` if the file is not one."""
    try:
        header = {"dtypes": {}} | json.loads(b"" if data is None else data.tobytes())
        whole = header["format"] == FORMAT and {"version", "settings", "standing"} <= header.keys()
        return header if whole and isinstance(header["keys"], dict) and isinstance(header["dtypes"], dict) else None
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _named_arrays(tree: PyTree):
    for place, leaf in jax.tree_util.tree_flatten_with_path(tree, is_leaf=_is_key)[0]:
        if _is_array(leaf):
            yield jax.tree_util.keystr(place), leaf


def _is_array(leaf) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, np.ndarray | RawKey)


def _is_key(leaf) -> bool:
    return isinstance(leaf, RawKey) or (eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def _key_impl(key) -> Any:
    return key.impl if isinstance(key, RawKey) else jr.key_impl(key)


def stored(leaf) -> np.ndarray:
    """The array as a NumPy array; a random key becomes its numbers."""
    if _is_key(leaf):
        leaf = leaf.data if isinstance(leaf, RawKey) else jr.key_data(leaf)
    return np.asarray(leaf)


def restored(array: np.ndarray, leaf, key_impl: str | None = None):
    """The stored array as one of the same kind as `leaf`. A random key gets the generator `key_impl`, by default that
    of `leaf`. Nothing is compiled: `jnp.asarray` would make a program for each shape.
    """
    if _is_key(leaf):
        key = jr.wrap_key_data(jax.device_put(array), impl=key_impl or _key_impl(leaf))
        return RawKey.of(key) if isinstance(leaf, RawKey) else key
    return array if isinstance(leaf, np.ndarray) else jax.device_put(array)


def _describe(array) -> str:
    return "missing" if array is None else f"{array.dtype}{list(array.shape)}"
