"""What training carries from one chunk to the next, and what a run reports."""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
from jax.sharding import NamedSharding
from jaxtyping import Array, Bool, Float, PyTree

from .model import Model
from .observing import Update
from .support.devices import everywhere, placed
from .support.freezing import thaw

Observe = Callable[[Update], PyTree]


class Carry(eqx.Module):
    """Everything that training carries from chunk to chunk: a pytree of arrays, which you can scan, `vmap` over seeds,
    and save.

    * `arrays`: the model's arrays; a frozen array is wrapped in an `onward.support.freezing.Frozen`. `model` is the
      whole model;
    * `hidden`: the hidden state, with the batch of streams as its leading axis if there is one;
    * `estimator`, `optimizer`: their states; the estimator's has the batch as its leading axis. Their random keys are
      stored as numbers;
    * `fresh`: whether a stream has not begun yet; `None` unless the model's initial state is trained.

    NumPy can hold every leaf, unless the model itself holds a typed random key. No two leaves of a carry from
    `Learner.init` share memory with each other or with the model, so a fresh carry can be donated to a compiled
    function. `onward.checkpoints` saves and loads carries.
    """

    arrays: PyTree
    skeleton: PyTree = eqx.field(static=True)
    hidden: PyTree
    estimator: PyTree
    optimizer: PyTree
    fresh: Bool[Array, "*batch"] | None = None

    __getattribute__ = object.__getattribute__  # as in `onward.Learner`

    @property
    def model(self) -> Model:
        """The current model."""
        return thaw(self.learning)

    @property
    def learning(self) -> Model:
        """The model in the form that estimators take, in which frozen arrays are marked."""
        return eqx.combine(self.arrays, self.skeleton)


def spread(carry: Carry, shared: NamedSharding) -> Carry:
    """The carry with each stream's own part on that stream's device, and the rest on every device."""
    of_streams = placed((carry.hidden, carry.estimator, carry.fresh), shared)
    arrays, optimizer = placed((carry.arrays, carry.optimizer), everywhere(shared))
    hidden, estimator, fresh = of_streams
    return Carry(arrays, carry.skeleton, hidden, estimator, optimizer, fresh)


class Metrics(NamedTuple):
    """The results of a run.

    * `losses`: `[steps]` or `[steps, batch]`, the loss of each step times its weight;
    * `predictions`: `[steps, ...]` or `[steps, batch, ...]`, each made before its step was learned; `None` unless you
      ask for them;
    * `auxiliary`: what the loss returned besides its value, with the axes of `losses` first; `None` without `has_aux`;
    * `observed`: what `observe=` returned at each update, `[updates, ...]`; `None` without it.
    """

    losses: Float[Array, "steps *batch"]
    predictions: PyTree = None
    auxiliary: PyTree = None
    observed: PyTree = None
