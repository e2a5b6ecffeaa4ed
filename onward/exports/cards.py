"""The card of an exported model: JSON that describes its numbers and its state."""

from itertools import pairwise
from typing import Annotated, Any, Literal

import equinox as eqx
import jax.random as jr
import msgspec

from .. import __version__
from ..cells import AbstractCell, AntisymmetricCell, GRUCell, LeakyCell, LSTMCell, StackedCell, VanillaCell
from ..model import Model
from .parts import ACTIVATIONS, activation_name, parts_of

Size = Annotated[int, msgspec.Meta(ge=1, le=10**7)]
Activation = Literal["tanh", "relu", "sigmoid"]


class CellCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    """A cell's settings, by the names of its constructor. The `equation` of each kind says what it computes."""

    input_size: Size
    hidden_size: Size


class VanillaCard(CellCard, frozen=True, tag="vanilla"):
    activation: Activation
    preactivation_state: bool

    @property
    def equation(self) -> str:
        σ = self.activation
        if self.preactivation_state:
            return f"h' = W [{σ}(h), x, 1], output {σ}(h'): the state h is the pre-activation."
        return f"h' = {σ}(W [h, x, 1]), output h'."


class LeakyCard(CellCard, frozen=True, tag="leaky"):
    activation: Activation
    preactivation_state: bool
    time_step: float

    @property
    def equation(self) -> str:
        σ, kept = self.activation, f"h' = (a + (1 − {self.time_step:g}) (1 − a)) h + {self.time_step:g}"
        if self.preactivation_state:
            return f"{kept} W [{σ}(h), x, 1], output {σ}(h'), a the leak: the state h is the pre-activation."
        return f"{kept} (1 − a) {σ}(W [h, x, 1]), output h', a the leak."


class LSTMCard(CellCard, frozen=True, tag="lstm"):
    @property
    def equation(self) -> str:
        return (
            "(i, f, g, o) = W [h, x, 1], c' = sigmoid(f) c + sigmoid(i) tanh(g), h' = sigmoid(o) tanh(c'), "
            "output h': the state is h, then c."
        )


class GRUCard(CellCard, frozen=True, tag="gru"):
    @property
    def equation(self) -> str:
        return (
            "(r, z) = W_0 [h, x, 1], n = tanh(W_1 [x, 1] + sigmoid(r) W_2 [h, 1]), "
            "h' = (1 − sigmoid(z)) n + sigmoid(z) h, output h'."
        )


class AntisymmetricCard(CellCard, frozen=True, tag="antisymmetric"):
    step: float
    damping: float

    @property
    def equation(self) -> str:
        return (
            f"h' = h + {self.step:g} tanh((A − Aᵀ − {self.damping:g}) h + B x + b), output h', "
            "with A the recurrent_weight, B the input_weight and b the bias."
        )


class StackedCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="stack"):
    """Layers from bottom to top. Each reads the output of the one below."""

    layers: Annotated[list["AnyCell"], msgspec.Meta(min_length=1, max_length=1000)]


Layer = VanillaCard | LeakyCard | LSTMCard | GRUCard | AntisymmetricCard
AnyCell = Layer | StackedCard

CARDS = {
    VanillaCell: VanillaCard,
    LeakyCell: LeakyCard,
    LSTMCell: LSTMCard,
    GRUCell: GRUCard,
    AntisymmetricCell: AntisymmetricCard,
}


class InputCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An input column of a stream's model. `mean` and `deviation` are the stream's latest; 0 before there are any."""

    name: str
    mean: float
    deviation: float


class StreamCard(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How a stream's columns become the model's numbers, and how its prediction becomes the target's unit.

    * `inputs`: the input columns in the model's order; `clip`: the limit of a scaled input, in deviations;
    * `target`, `horizon`: what is predicted, and how many events of the key ahead; 0 for the event's own;
    * `classes`: the classes of a categorical target, in the order of the outputs;
    * `level`, `spread`: for a numeric target, its running mean, and the size of an output of 1 in its unit;
    * `key`: the key column, each of whose values has its own state; `gap`: the seconds in the column `time` after which
      a state starts anew. `None` if the stream has none of these.
    """

    inputs: list[InputCard]
    clip: float
    target: str
    horizon: int
    classes: list[str] | None = None
    level: float | None = None
    spread: float | None = None
    key: str | None = None
    time: str | None = None
    gap: float | None = None

    @property
    def notes(self) -> list[str]:
        """Sentences on how to use the columns."""
        said = [
            f"x = (value − mean)/deviation of every column of stream.inputs, within ±{self.clip:g}, and 0 where its "
            "deviation is 0."
        ]
        if self.key is not None:
            said.append(f"Every value of {self.key!r} has a state of its own.")
        if self.gap is not None:
            said.append(f"The state begins anew where more than {self.gap:g} s of {self.time!r} have passed.")
        later = f"{self.horizon} event{'s' * (self.horizon > 1)} of the same sequence later"
        when = later if self.horizon else "of the same event"
        if self.classes is not None:
            return [*said, f"The prediction is the logits of stream.classes, of {self.target!r}, {when}."]
        base = "the newest known value of it" if self.horizon else "stream.level"
        return [*said, f"The forecast of {self.target!r}, {when}, is {base} + stream.spread · prediction."]


class Card(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The card beside a model's numbers.

    * `onward`: the version that wrote it; `layout`: the layout of the numbers;
    * `cell`, `outputs`, `bias`, `dtype`: the model; the last three describe its linear readout;
    * `notes`: sentences on how to use the model;
    * `alphabet`: for a model of text, the characters in the order of inputs and outputs;
    * `stream`: for a model of a stream, the scales of its columns and its target;
    * `settings`: the settings of the model's run; `characters` or `events`: how many the model had learned.
    """

    format: Literal["onward model"] = "onward model"
    version: Literal[1] = 1
    onward: str = __version__
    layout: str
    cell: AnyCell
    outputs: Size
    bias: bool
    dtype: str
    notes: list[str]
    alphabet: str | None = None
    stream: StreamCard | None = None
    settings: dict[str, Any] | None = None
    characters: int | None = None
    events: int | None = None


def card_of(model: Model, layout: str, **known: Any) -> Card:
    """The card of a model whose numbers are written in this layout. `known` holds the fields from `alphabet` on.

    Raises `ValueError` for a model that cannot be exported.
    """
    _, readout, dtype = parts_of(model)
    cell = _card_of_cell(model.cell)
    notes = [f"Layer {index}: {layer.equation}" for index, layer in enumerate(_flat(cell))] + NOTES[layout]
    if known.get("alphabet") is not None:
        notes.append(
            "A character is the one-hot vector of its place in the alphabet, all zeros before the first character; "
            "the prediction is the logits of the next one."
        )
    if known.get("stream") is not None:
        notes += known["stream"].notes
    return Card(
        layout=layout,
        cell=cell,
        outputs=readout.weight.shape[0],
        bias=readout.bias is not None,
        dtype=str(dtype),
        notes=notes,
        **known,
    )


NOTES = {
    "onward": [
        "Each step of a stream turns a state and an input x into the next state; states start as zeros.",
        "A layer's weights.K are its W or W_K, [rows, units, features], the features in the order of the equation.",
        "prediction = readout.weight · output + readout.bias, of the top layer's output.",
        "In Python: model = onward.load_model(folder).",
    ],
    "torch": [
        "A state dict of a torch module with an attribute rnn, a torch.nn.RNN, LSTM or GRU with one layer for each "
        "layer here, and an attribute readout, a torch.nn.Linear on the output of the top layer.",
        "The gates stand in torch's order, i f g o and r z n; bias_hh is zero but for the n of a GRU.",
        "States start as zeros. torch's state is that above, except where that is the pre-activation h: then torch's "
        "is activation(h), and a state of onward goes in as that.",
    ],
    "onnx": [
        "One step of a batch of streams: the inputs are x, [batch, inputs], then the states, [batch, units]; the "
        "outputs are the prediction, then the next states in the same order.",
        "The states are those above, from the bottom layer to the top, and start as zeros.",
    ],
}


def _flat(cell: AnyCell) -> list[Layer]:
    return [part for layer in cell.layers for part in _flat(layer)] if isinstance(cell, StackedCard) else [cell]


def _card_of_cell(cell: AbstractCell) -> AnyCell:
    if type(cell) is StackedCell:
        return StackedCard(layers=[_card_of_cell(layer) for layer in cell.layers])
    card = CARDS.get(type(cell))
    if card is None:
        raise ValueError(
            f"cell must be {', '.join(kind.__name__ for kind in CARDS)} or a stack of these to be exported, got "
            f"{type(cell).__name__}."
        )
    settings = {name: getattr(cell, name) for name in card.__struct_fields__}
    if "activation" in settings:
        settings["activation"] = activation_name(settings["activation"])
    return card(**settings)


def blank_model(card: Card) -> Model:
    """A model as the card describes it, with shapes and dtypes in place of its arrays.

    Raises `ValueError` if the layers do not fit together.
    """
    layers = _flat(card.cell)
    for below, above in pairwise(layers):
        if above.input_size != below.hidden_size:
            raise ValueError(f"a layer that reads {above.input_size} numbers stands on one of {below.hidden_size}.")

    def build():
        readout = eqx.nn.Linear(
            layers[-1].hidden_size, card.outputs, use_bias=card.bias, dtype=card.dtype, key=jr.key(0)
        )
        return Model(_cell_of_card(card.cell, card.dtype), readout)

    return eqx.filter_eval_shape(build)


def _cell_of_card(card: AnyCell, dtype: str) -> AbstractCell:
    if isinstance(card, StackedCard):
        return StackedCell([_cell_of_card(layer, dtype) for layer in card.layers])
    settings = msgspec.structs.asdict(card)
    if "activation" in settings:
        settings["activation"] = ACTIVATIONS[settings["activation"]]
    (cell,) = [cell for cell, kind in CARDS.items() if kind is type(card)]
    return cell(**settings, dtype=dtype, key=jr.key(0))
