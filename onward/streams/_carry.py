"""What a stream of events carries on, and what goes into and comes out of its compiled loop."""

from typing import Any, NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from ._caution import CautionState


class Row(eqx.Module):
    """What a key has of its own. The learner is `horizon` events behind: it waits for the target.

    * `hidden`, `estimator`: the learner's;
    * `forecaster`: the hidden state at the newest event; `None` for a horizon of 0;
    * `xs`, `forecasts`: of the last events, `[horizon, ...]`; `known`: the newest target known at each, if it `has` one
      at all, `[max(horizon, 1)]`; all rings in the order of `count`, the events since the last restart, which is kept
      below twice the ring's length;
    * `time`: of the newest event, in two parts that add up to it;
    * `restart`: whether the learner's next step starts a new sequence.
    """

    hidden: PyTree
    estimator: PyTree
    forecaster: PyTree
    xs: Float[Array, "horizon inputs"]
    forecasts: Float[Array, "horizon outputs"]
    known: Float[Array, " ring"]
    has: Bool[Array, " ring"]
    time: Float[Array, "2"]
    count: Int[Array, ""]
    restart: Bool[Array, ""]


class Level(eqx.Module):
    """The running mean of a target and the running mean of the distance from what the network starts from."""

    mean: Float[Array, ""]
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

    `ys` is the target, a number or a class, where `has` says that it is known; `times` as `split_time` gives them, NaN
    where there is none.
    """

    xs: Any
    ys: Any
    has: Any
    times: Any


class Told(NamedTuple):
    """What is said of each event, `[BLOCK, ...]`.

    * `prediction`, `[outputs]`: a number, or the logits of the classes, made `horizon` events before (for 0: before
      this event was learned), where there is one (`predicted`);
    * `forecast`, `[outputs]`: of the target `horizon` events from here, where there is one (`forecasted`);
    * `persistence`: the newest target known when the prediction was made, where there was one (`persisted`);
    * `refused`: whether learning the event gave numbers that are not finite, and was undone;
    * `caution`: what the steps are multiplied with from here on.
    """

    prediction: Any
    predicted: Any
    forecast: Any
    forecasted: Any
    persistence: Any
    persisted: Any
    refused: Any
    caution: Any


def split_time(times: np.ndarray) -> np.ndarray:
    """Times in float64 as two float32 each, whose differences can be told apart to a few millionths of a second.

    >>> split_time(np.array([1.7e9 + 0.25])).astype(np.float64).sum() - 1.7e9
    np.float64(0.25)
    """
    high = times.astype(np.float32)
    return np.stack([high, (times - high).astype(np.float32)], -1)
