"""Learning minibatches of sequences: one, and blocks of them in one compiled program."""

from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int, PyTree

from .._carry import spread
from ..learner import Carry, Learner, Observe
from ..support.compiled import programs_of
from ..support.devices import held_whole, on_all
from ..support.streams_axis import spread_over
from ..support.trees import all_finite, time_first
from .data import AbstractData, AbstractSequences, Block, Minibatch, shared_minibatch
from .objectives import AbstractObjective


class TrainingState(eqx.Module):
    """The state of a training: the learner's carry, the objective's memory, and the arrays of the best model."""

    carry: Carry
    memory: PyTree
    best: PyTree


class OnDevices:
    """Blocks of minibatches on the devices that share them. Data in memory are put there once."""

    def __init__(self, data: AbstractData, shared: NamedSharding):
        self._data, self._shared = data, shared
        self._there = data.placed(shared) if isinstance(data, AbstractSequences) else None

    def of(self, block: Block) -> Block:
        there = self._there if block.data is self._data else block.data.placed(self._shared)
        return block._replace(data=there, order=on_all(block.order, self._shared))


def learn_block(learner, objective, state: TrainingState, part: Block, block: int, shared: NamedSharding, observe):
    """Learns a block of minibatches. Returns the state, the findings, and whether the carry is finite.

    The findings are the sum of losses and the number of steps of each minibatch, and the diagnostics of each update.
    """
    data, order = part.data, part.order
    begin, count = on_all((jnp.asarray(part.begin, jnp.int32), jnp.asarray(part.size, jnp.int32)), shared)
    leaves, structure = jax.tree.flatten((on_all(objective, shared), data))
    arrays = [leaf if eqx.is_array(leaf) else None for leaf in leaves]
    fixed = tuple(None if eqx.is_array(leaf) else (type(leaf), leaf) for leaf in leaves)
    learn = _LearnBlock(structure, fixed, block, shared, observe)
    after, (totals, steps, observed), finite = programs_of(learner)[learn,](
        arrays, _spread(state, shared), order, begin, count
    )
    observed = jax.tree.map(lambda leaf: np.asarray(leaf)[: part.size].reshape(-1, *leaf.shape[2:]), observed)
    return after, (np.asarray(totals, np.float64)[: part.size], np.asarray(steps)[: part.size], observed), finite


@dataclass(frozen=True)
class _LearnBlock:
    """Learns `count` of at most `block` minibatches, from `begin` on. Returns what `learn_block` does:
    the state, the findings, and whether the carry is finite.

    `fixed` and `structure` are an objective and data without their arrays. Equal ones share one program, which leaves
    memory with the learner. The arrays come as a list: JAX keeps the structure of arguments in memory, and with it any
    function of the user's inside the structure.

    The state is not donated, because the old one is kept if a number is not finite. `begin` and `count` are arrays,
    unknown to the compiler. So one program serves all blocks, and gives the same bits however the minibatches are cut
    into blocks.
    """

    structure: Any
    fixed: tuple[tuple[type, Any] | None, ...]
    block: int
    shared: NamedSharding
    observe: Observe | None

    def __call__(self, learner: Learner, arrays, state: TrainingState, order, begin, count):
        leaves = [array if each is None else each[1] for array, each in zip(arrays, self.fixed, strict=True)]
        objective, data = jax.tree.unflatten(self.structure, leaves)

        def learned(i, carry, memory):
            entry = jax.tree.map(lambda leaf: leaf[begin + i], order)
            minibatch = shared_minibatch(data.minibatch(entry), self.shared)
            return learn_minibatch(learner, objective, carry, memory, minibatch, data.steps, self.observe, self.shared)

        def one(i, loop):
            carry, memory, found = loop
            carry, memory, *here = learned(i, carry, memory)
            return carry, memory, jax.tree.map(lambda every, one: every.at[i].set(one), found, tuple(here))

        found = jnp.zeros(self.block), jnp.zeros(self.block, jnp.int32), None
        if self.observe is not None:
            shapes = jax.eval_shape(learned, 0, state.carry, state.memory)[-1]
            observed = jax.tree.map(lambda s: jnp.zeros((self.block, *s.shape), s.dtype), shapes)
            found = *found[:2], observed
        carry, memory, found = jax.lax.fori_loop(0, count, one, (state.carry, state.memory, found))
        memory, found, finite = held_whole((memory, found, carry_is_finite(carry)), self.shared)
        return TrainingState(carry, memory, state.best), found, finite


def _spread(state: TrainingState, shared: NamedSharding) -> TrainingState:
    """The state on all devices, with each stream's own part on that stream's device."""
    if shared.mesh.size == 1:
        return state
    return TrainingState(spread(state.carry, shared), *on_all((state.memory, state.best), shared))


carry_is_finite = eqx.filter_jit(all_finite)  # called between epochs too


def learn_minibatch(
    learner: Learner,
    objective: AbstractObjective,
    carry,
    memory,
    minibatch: Minibatch,
    steps: int,
    observe: Observe | None = None,
    shared: NamedSharding | None = None,
):
    """Learns a minibatch in the learner's chunks, spread over the devices of `shared`.

    Returns the carry, the objective's memory, the sum of the losses before learning, the number of steps in that sum,
    and the diagnostics of each update.
    """
    ys, weight = objective.assign(memory, minibatch.ys, minibatch.lengths, steps)
    xs = _without_padding(time_first(minibatch.xs), minibatch.lengths)
    _, counts = objective.score(minibatch.ys, minibatch.lengths, steps)
    reset = jnp.zeros(counts.shape, bool).at[0].set(minibatch.fresh)
    # Predictions are kept only if the objective remembers something about them.
    kept = bool(jax.tree.leaves(memory))
    several = shared if shared is not None and shared.mesh.size > 1 else None
    with spread_over(several):
        carry, metrics = learner.run(carry, xs, ys, reset=reset, weight=weight, predictions=kept, observe=observe)
    if several is not None:
        # Sums over the minibatch have the same bits whichever processes hold the devices.
        minibatch, metrics, weight, counts = held_whole((minibatch, metrics, weight, counts), several)
    memory = objective.remember(memory, minibatch.ys, minibatch.lengths, metrics.predictions)
    weight = weight.astype(metrics.losses.dtype)
    total = jnp.sum(jnp.where(counts, metrics.losses / weight, 0), dtype=float)
    return carry, memory, total, jnp.sum(counts, dtype=jnp.int32), metrics.observed


def _without_padding(xs: PyTree, lengths: Int[Array, " batch"]) -> PyTree:
    """`xs` with zeros beyond each sequence's end.

    The gradient there is zero times a step's derivative, so that NaN in the padding would make it NaN.
    """

    def cut(leaf):
        there = jnp.arange(len(leaf), dtype=jnp.int32)[:, None] < lengths
        return jnp.where(there.reshape(*there.shape, *[1] * (leaf.ndim - 2)), leaf, jnp.zeros_like(leaf))

    return jax.tree.map(cut, xs)
