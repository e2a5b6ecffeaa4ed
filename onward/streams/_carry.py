"""What a stream of events carries on, and what goes into and comes out of its compiled loop.

Targets that are numbers, and times, are the bits of doubles (`doubles.py`); targets that are classes are their indices.
"""

from typing import Any, NamedTuple

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from ._caution import CautionState


class Row(eqx.Module):
    """What a key has of its own. The learner is `horizon` events behind: it waits for the target.

    * `hidden`, `estimator`: the learner's;
    * `forecaster`: the hidden state at the newest event; `None` for a horizon of 0;
    * `xs`, `forecasts`: inputs and forecasts of the last events, `[horizon, ...]`; `known`: the newest target known at
      each, if it `has` one at all, `[max(horizon, 1), ...]`; all rings in the order of `count`, the events since the
      last restart, which is kept below twice the ring's length;
    * `last`: the newest inputs that were not missing; `None` where none may be;
    * `time`: of the newest event;
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
    """The running mean of a target and the running mean of the distance from what the network starts from."""

    mean: UInt32[Array, "2"]
    spread: Float[Array, ""]
    count: Float[Array, ""]


class Shared(eqx.Module):
    """What all keys learn together: the model's arrays, the optimiser's state, the level of the target."""

    arrays: PyTree
    optimizer: CautionState
    level: Level


class StreamCarry(eqx.Module):
    """All that a stream carries on; `table` holds the rows of the keys in memory, `[slots, ...]`."""

    shared: Shared
    table: Row


class Events(NamedTuple):
    """Some events, time first, or one: `xs`, `[events, inputs]`, and the rest.

    `ys` is the target, where `has` says that it is known; `times` are in seconds, NaN where there is none.
    """

    xs: Any
    ys: Any
    has: Any
    times: Any


class Told(NamedTuple):
    """What is said of each event, `[BLOCK, ...]`.

    A prediction or a forecast, `[outputs]`, is the logits of the classes, or how far a number is from its base.

    * `prediction`: of this event's target, made `horizon` events before (for 0: before this event was learned), where
      there is one (`predicted`); `base`: what a number's is measured from;
    * `forecast`: of the target `horizon` events from here, where there is one (`forecasted`); `newest`: its base, the
      newest target known;
    * `persistence`: the newest target known when the prediction was made, where there was one (`persisted`);
    * `jump`: seconds since the event before, where they are more than the gap in either direction, else 0;
    * `refused`: whether learning the event gave numbers that are not finite, and was undone;
    * `caution`: what the steps are multiplied with from here on.
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
