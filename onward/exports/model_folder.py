"""A folder that holds a model: its numbers in one file, and a card that describes them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from ..model import Model
from ..support.extras import needed
from .parts import check_dtype
from .tensors import encode_tensors, read_tensors

if TYPE_CHECKING:
    from .cards import Card

CARD, TENSORS = "card.json", "model.safetensors"


def save_model(model: Model, folder: str | os.PathLike, *, alphabet: str | None = None) -> None:
    """Writes the model's numbers (safetensors) and a card (JSON) into a folder that is new or empty.

    `alphabet` is stored on the card: the characters in the order of the model's inputs and outputs. A model can be
    saved if its cell is a vanilla, leaky, LSTM, GRU or antisymmetric cell or a stack of these, its activations are
    tanh, relu or sigmoid, and its readout is an `eqx.nn.Linear` from a vector to a vector. Raises `ValueError` for any
    other model, and if the folder is not empty. Needs the extra `onward[export]`.

        >>> import equinox as eqx, jax.random as jr, onward, tempfile
        >>> model = onward.Model(onward.LSTMCell(3, 4, key=jr.key(0)), eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> folder = tempfile.mkdtemp()
        >>> onward.save_model(model, folder)  # doctest: +SKIP
        >>> bool(eqx.tree_equal(onward.load_model(folder), model))  # doctest: +SKIP
        True
    """
    needed("msgspec", "export")
    from .cards import card_of

    check_new(folder)
    write_folder(folder, card_of(model, "onward", alphabet=alphabet), {TENSORS: own_layout(model)})


def load_model(folder: str | os.PathLike) -> Model:
    """The model in a folder that `save_model`, `onward export` or `onward import` wrote, to the same bits.

    Raises `ValueError` if the folder holds no model, a damaged one or one in another layout, or if the model is float64
    and JAX has float64 switched off. Needs the extra `onward[export]`.
    """
    needed("msgspec", "export")
    from .cards import blank_model

    card, path = read_card(folder), Path(folder) / TENSORS
    if card.layout != "onward":
        raise ValueError(
            f"{folder} holds a model in the layout of {card.layout}; export it once more with --layout onward."
        )
    check_dtype(str(folder), card.dtype)
    arrays, _ = read_tensors(path)
    try:
        blank = blank_model(card)
    except ValueError as error:
        raise ValueError(f"{Path(folder) / CARD} describes no model: {error}") from None
    wanted = dict(_named(blank))
    for name in [*wanted, *arrays]:
        there, right = _described(arrays.get(name)), _described(wanted.get(name))
        if there != right:
            raise ValueError(f"{path} does not fit its card: {name} is {there} where {right} is needed.")
    return jax.tree.unflatten(jax.tree.structure(blank), [jnp.asarray(arrays[name]) for name in wanted])


def own_layout(model: Model) -> bytes:
    """The content of a file with the model's numbers. Each is named by its place, such as `cell.weights.0`."""
    return encode_tensors({name: np.asarray(leaf) for name, leaf in _named(model)}, {})


def check_new(folder: str | os.PathLike) -> None:
    """Raises `ValueError` unless the folder does not exist or is empty."""
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ValueError(
            f"{folder} is {'not empty' if path.is_dir() else 'a file'}; name a folder that is new or empty."
        )


def write_folder(folder: str | os.PathLike, card: "Card", files: dict[str, bytes]) -> None:
    """Writes the files atomically, the card last. If one cannot be written, those already written are removed."""
    import msgspec

    from ..support.files import write_atomically
    from ..support.held_folder import Folder

    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    files = files | {CARD: msgspec.json.format(msgspec.json.encode(card), indent=2) + b"\n"}
    try:
        for name, data in files.items():
            write_atomically(path / name, data)
    except OSError:
        for name in files:
            Folder(path).remove(path / name)
        raise


def read_card(folder: str | os.PathLike) -> "Card":
    """The card in a folder. Raises `ValueError` if it does not exist or is of another version."""
    import msgspec

    from .cards import Card

    path = Path(folder) / CARD
    if not path.is_file():
        raise ValueError(f"{folder} holds no {CARD}; name a folder that onward export or onward.save_model wrote.")
    try:
        return msgspec.json.decode(path.read_bytes(), type=Card)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path} is not the card of a model of this version of onward ({error}).") from None


def _named(model: Model):
    for place, leaf in jax.tree_util.tree_leaves_with_path(model):
        yield jax.tree_util.keystr(place, simple=True, separator="."), leaf


def _described(array) -> str:
    return "missing" if array is None else f"{array.dtype}{list(array.shape)}"
