"""Real-time recurrent learning as one would first write it in plain JAX: what `onward.RTRL` must not be slower than."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from benchmarks.task import RATE, Setting, loss
from benchmarks.timing import Timed


class PlainCarry(NamedTuple):
    """Cell weights, readout, state, and the influence ∂h/∂(cell weights)."""

    cell: Float[Array, "units features"]
    readout: tuple[Float[Array, "symbols units"], Float[Array, " symbols"]]
    h: Float[Array, " units"]
    influence: Float[Array, "units units features"]


def start(setting: Setting) -> PlainCarry:
    """The same numbers as `setting.model()`."""
    model = setting.model()
    W = model.cell.weights[0][0]
    h = jnp.zeros(setting.units, W.dtype)
    return PlainCarry(W, (model.readout.weight, model.readout.bias), h, jnp.zeros((setting.units, *W.shape), W.dtype))


def cell(W: Array, h: Array, x: Array) -> Array:
    return W @ jnp.concatenate([jnp.tanh(h), x, jnp.ones(1, x.dtype)])


def step(carry: PlainCarry, xy: PyTree) -> tuple[PlainCarry, Array]:
    """`G ← (∂f/∂h) G + ∂f/∂W` with both Jacobians from `jacrev`, and one step of gradient descent."""
    x, y = xy
    direct, through = jax.jacrev(cell, argnums=(0, 1))(carry.cell, carry.h, x)
    influence = jnp.tensordot(through, carry.influence, 1) + direct
    h = cell(carry.cell, carry.h, x)

    def step_loss(readout, h):
        V, b = readout
        return loss(V @ jnp.tanh(h) + b, y)

    value, (d_readout, d_h) = jax.value_and_grad(step_loss, argnums=(0, 1))(carry.readout, h)
    W = carry.cell - RATE * jnp.tensordot(d_h, influence, 1)
    readout = jax.tree.map(lambda p, g: p - RATE * g, carry.readout, d_readout)
    return PlainCarry(W, readout, h, influence), value


@jax.jit
def run(carry: PlainCarry, xs: Float[Array, "steps symbols"], ys: Array) -> tuple[PlainCarry, Array]:
    """The losses of a stretch of the stream, in one scan."""
    return jax.lax.scan(step, carry, (xs, ys))


def timed(setting: Setting, steps: int, loop_steps: int) -> tuple[Timed, Timed]:
    """In one scan, and step by step from Python."""
    one, carry = jax.jit(step), start(setting)
    xs, ys = setting.stream(steps)
    pieces = list(zip(xs[:loop_steps], ys[:loop_steps], strict=True))

    def loop():
        state, value = carry, None
        for xy in pieces:
            state, value = one(state, xy)
        return state, value

    return Timed(partial(run, carry, xs, ys), steps), Timed(loop, len(pieces))
