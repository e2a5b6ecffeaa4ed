"""From the names and numbers of a `Method` to a model and a learner: the only place where strings choose."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
from jaxtyping import PRNGKeyArray

import onward

from ..support.errors import UserError
from .methods import Method
from .settings import Settings

CELLS = {
    "vanilla": onward.VanillaCell,
    "leaky": onward.LeakyCell,
    "lstm": onward.LSTMCell,
    "gru": onward.GRUCell,
    "antisymmetric": onward.AntisymmetricCell,
}

ESTIMATORS = {
    "tbptt": lambda method: onward.BPTT(),
    "sliding": lambda method: onward.SlidingBPTT(horizon=method.horizon),
    "artbp": lambda method: onward.ARTBP(cut=method.cut),
    "rtrl": lambda method: onward.RTRL(),
    "snap": lambda method: onward.SnAp(order=method.order),
    "uoro": lambda method: onward.UORO(),
    "nobacktrack": lambda method: onward.NoBackTrack(rank=method.rank, blocks=method.blocks),
}


def build_model(method: Method, alphabet_size: int, *, key: PRNGKeyArray) -> onward.Model:
    """The cell of a method between one-hot characters and logits of characters."""
    cell_key, readout_key = jr.split(key)
    cell = CELLS[method.cell](alphabet_size, method.hidden_size, key=cell_key)
    return onward.Model(cell, eqx.nn.Linear(method.hidden_size, alphabet_size, key=readout_key))


def fresh_carry(settings: Settings, learner: onward.Learner, key: PRNGKeyArray) -> onward.Carry:
    """The carry of a run before its first character."""
    model_key, learner_key = jr.split(key)
    size = len(settings.alphabet)
    model = build_model(settings.method, size, key=model_key)
    return learner.init(model, key=learner_key, example=(jnp.zeros(size), jnp.array(0)))


def build_learner(method: Method) -> onward.Learner:
    """The learner of a method, with the loss of predicting the next character."""
    return onward.Learner(
        ESTIMATORS[method.estimator](method),
        build_optimizer(method),
        loss=onward.losses.softmax_cross_entropy,
        chunk=method.window,
    )


def build_optimizer(method: Method) -> optax.GradientTransformation:
    """Clip, then step, then make the cell's steps smaller than the readout's."""
    rate = (lambda count: method.rate / jnp.sqrt(count + 1.0)) if method.decay else method.rate
    steps = [{"adam": optax.adam, "sgd": optax.sgd}[method.optimizer](rate)]
    if method.clip is not None:
        steps.insert(0, optax.clip_by_global_norm(method.clip))
    if method.cell_rate_factor != 1:
        # After the optimiser: Adam would undo any scaling of the gradient before it.
        steps.append(scale_cell(method.cell_rate_factor))
    return optax.chain(*steps)


def scale_cell(factor: float) -> optax.GradientTransformation:
    """Multiplies the cell's updates by `factor` and leaves the readout's as they are."""

    def scale(updates: Any, parameters: Any) -> Any:
        smaller = jax.tree.map(lambda leaf: factor * leaf, updates.cell)
        return eqx.tree_at(lambda model: model.cell, updates, smaller)

    return optax.stateless(scale)


def count_parameters(model: onward.Model) -> int:
    """How many numbers a model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def in_memory(name: str, method: Method) -> AbstractContextManager[None]:
    """Turns running out of memory inside into a `UserError` that says what of a method to make smaller."""
    return enough_memory(
        f"a {method.cell} of {method.hidden_size:,} units does not fit into memory under {name} with a window of "
        f"{method.window:,}; choose a smaller --hidden-size or --window."
    )


@contextmanager
def enough_memory(otherwise: str) -> Iterator[None]:
    """Turns running out of memory inside into a `UserError` with this sentence."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        said = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and not ("RESOURCE_EXHAUSTED" in said or "memory" in said):
            raise
        raise UserError(otherwise) from None
