"""The state that a stream carries on, and the inputs and outputs of its compiled loop.

Numeric targets and times are held as the bits of doubles (`_doubles.py`). Class targets are held as indices.
"""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from ._caution import CautionState


class Row(eqx.Module):
    """The state of one key. The learner lags `horizon` events behind, because it waits for the target.

    * `hidden`, `estimator`: the learner's states;
    * `forecaster`: the hidden state after the newest event; `None` if the horizon is 0;
    * `xs`, `forecasts`: ring buffers of the last inputs and forecasts, `[horizon, ...]`;
    * `known`: ring buffer of the newest known target at each of the last events, `[max(horizon, 1), ...]`; `has` tells
      whether there was one;
    * `last`: the newest inputs that were not missing; `None` if inputs may not be missing;
    * `time`: the time of the newest event;
    * `count`: events since the last restart, which is the position in all ring buffers; it is kept below twice their
      length;
    * `restart`: whether the learner's next step starts a new sequence.
    """

    hidden: PyTree
    estimator: PyTree
    forecaster: PyTree
    xs: Float[Array, "horizon inputs"]
    forecasts: Float[Array, "horizon outputs"]
    known: UInt32[Array, "ring 2"] | Int[Array, " ring"]
    has: Bool[Array, " ring"]
    last: Float[Array, " inputs"] | None
    time: UInt32[Array, "2"]
    count: Int[Array, ""]
    restart: Bool[Array, ""]


class Level(eqx.Module):
    """The running mean of a target, and of the absolute difference between the target and the initial network's
    prediction.
    """

    mean: UInt32[Array, "2"]
    spread: Float[Array, ""]
    count: Float[Array, ""]


class Shared(eqx.Module):
    """What all keys learn together: the model's arrays, the optimiser's state, and the level of the target."""

    arrays: PyTree
    optimizer: CautionState
    level: Level


class StreamCarry(eqx.Module):
    """Everything that a stream carries on. `table` holds the rows of the keys in memory, `[slots, ...]`."""

    shared: Shared
    table: Row


class Events(NamedTuple):
    """One event, or several with time as the leading axis. `xs` is `[events, inputs]`.

    `ys` is the target; `has` tells whether it is known. `times` are in seconds, NaN if there is none.
    """

    xs: Any
    ys: Any
    has: Any
    times: Any


class Told(NamedTuple):
    """The outputs for each event, `[BLOCK, ...]`.

    A prediction or a forecast, `[outputs]`, is the logits of the classes, or a number's distance from its base.

    * `prediction`: the prediction of this event's target, made `horizon` events before (if the horizon is 0, before
      this event was learned); valid if `predicted`;
    * `base`: the number from which the prediction is measured;
    * `forecast`: the forecast of the target `horizon` events later; valid if `forecasted`;
    * `newest`: the newest known target, from which the forecast is measured;
    * `persistence`: the newest target known when the prediction was made; valid if `persisted`;
    * `jump`: seconds since the previous event if these exceed the gap, forward or back; else 0;
    * `refused`: whether learning the event gave numbers that are not finite, so that it was undone;
    * `caution`: the factor on the optimiser's steps from here on.
    """

    prediction: Any
    base: Any
    predicted: Any
    forecast: Any
    newest: Any
    forecasted: Any
    persistence: Any
    persisted: Any
    jump: Any
    refused: Any
    caution: Any
