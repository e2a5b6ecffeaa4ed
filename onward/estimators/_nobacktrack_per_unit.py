"""NoBackTrack unit by unit. A unit's influence on itself is carried whole, as SnAp-1 does; what its weights do to all
other units is carried as a few outer products, reduced with the least variance.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..cells import AbstractCell
from ..support.freezing import learnable
from ..support.smooth import root
from ..support.trees import row_sums, total
from ..transforms.quasi_diagonal import Block
from ._least_variance import reduction
from ._random_bits import Counter, signs
from ._stages import AbstractStage, Move, Tangents, Weights, stages_of, without_diagonal


class Product(eqx.Module):
    """An outer product for each unit: what is influenced, and the unit's own weights that influence it.

    * `left`: for this stage and each one after it, one array `[units, units of that stage]` for each component of its
      state; `None` for zeros;
    * `right`: one array `[rows, units, features]` for each group of weights.
    """

    left: list[Tangents | None]
    right: Weights


class Influence(eqx.Module):
    """The influence of one stage's weights: those of each unit i influence unit i itself, and everything else by a few
    outer products.

    * `own`: the derivatives of each component of a unit's state with respect to the unit's own weights;
    * `others`: the outer products. They are zero for the unit itself. XLA on CPU takes far longer if they are stacked;
    * `fresh`: the number of outer products that a step adds for each unit. If it is 0, nothing else is influenced.
    """

    own: list[Weights]
    others: list[Product]
    fresh: int = eqx.field(static=True)

    @property
    def units(self) -> tuple[int, Any]:
        """The number of units, and the dtype of their weights."""
        weights = jax.tree.leaves((self.own, [product.right for product in self.others]))[0]
        return weights.shape[1], weights.dtype


class PerUnitState(eqx.Module):
    """The influence of every stage that has trainable weights, and the counter of the random signs."""

    influences: list[Influence]
    counter: Counter


def begin(cell: AbstractCell, hidden: PyTree, terms: int, key: PRNGKeyArray) -> PerUnitState:
    """An influence of zero."""
    stages, states = stages_of(cell, hidden)

    def start(l):
        weights, (state, *_) = stages[l].weights, states[l:]
        later = stages[l].read_by_next(state) if l + 1 < len(stages) else []
        fresh = len(stages[l].read_by_others(state)) + len(later)
        own = [tuple(map(jnp.zeros_like, weights)) for _ in jax.tree.leaves(state)]
        units, dtype = weights[0].shape[1], weights[0].dtype
        left: list[Tangents | None] = [
            [jnp.zeros((units, h.size), dtype) for h in jax.tree.leaves(state)] for state in states[l:]
        ]
        others = [Product(left, tuple(map(jnp.zeros_like, weights))) for _ in range(terms if fresh else 0)]
        return Influence(own, others, fresh)

    return PerUnitState([start(l) for l in _learning(stages)], Counter.start(key))


def sign_template(state: PerUnitState) -> list[Float[Array, "fresh units"]]:
    """One sign for each unit and each outer product that a step adds."""
    return [jnp.zeros((i.fresh, i.units[0]), i.units[1]) for i in state.influences]


def influence_norm(state: PerUnitState) -> Float[Array, ""]:
    """The root of the sum of squares of all that is carried, every outer product by itself."""

    def squares(influence):
        own = total(jnp.sum(row_sums(leaf**2)) for leaf in jax.tree.leaves(influence.own))
        return total([own, *(jnp.sum(_left(p, p) * _right(p, p, None)) for p in influence.others)])

    return root(total(map(squares, state.influences)))


def advance(
    cell: AbstractCell,
    hidden: PyTree,
    state: PerUnitState,
    x: Array,
    noise: Array,
    metric: Callable[[AbstractStage], list[Block] | None],
) -> tuple[PyTree, PerUnitState, Callable[[PyTree], PyTree]]:
    """One step, with the result of `AbstractForwardEstimator.advance`. `metric` gives that of a stage's weights."""
    stages, states = stages_of(cell, hidden)
    learning, moves = _learning(stages), []
    before = dict(zip(learning, state.influences, strict=True))
    for l, (stage, h) in enumerate(zip(stages, states, strict=True)):
        moves.append(stage.move(h, before[l].own if l in before else [], x))
        x = moves[-1].output
    after = jax.tree.unflatten(jax.tree.structure(hidden), jax.tree.leaves([move.after for move in moves]))
    moved = {l: _moved(influence, moves[l:]) for l, influence in before.items()}
    epsilon = signs(noise, sign_template(state))
    reduced = [_reduced(moved[l], before[l], e, metric(stages[l])) for l, e in zip(learning, epsilon, strict=True)]

    def contract(H):
        leaves = iter(jax.tree.leaves(H))
        H = [[next(leaves).reshape(-1) for _ in jax.tree.leaves(move.after)] for move in moves]
        grads = [stages[l].gradient(moved[l].contract(H[l:])) for l in learning]
        return eqx.tree_at(lambda c: [stages[l].where(c) for l in learning], learnable(cell), grads)

    return after, PerUnitState(reduced, state.counter.next()), contract


class Moved(NamedTuple):
    """An influence after a transition, before its reduction."""

    own: list[Weights]
    products: list[Product]

    def contract(self, H: list[Tangents]) -> Weights:
        """The gradient, shaped like the weights, for the derivative `H` of a loss by the state of every stage."""

        def along(left):
            pairs = zip(left, H, strict=True)
            return total(v @ h for vs, hs in pairs if vs is not None for v, h in zip(vs, hs, strict=True))

        # The state of an embedding is empty.
        own = [tuple(h[:, None] * M for M in groups) for groups, h in zip(self.own, H[0], strict=False)]
        others = [tuple(along(p.left)[:, None] * w for w in p.right) for p in self.products]
        return tuple(total(terms) for terms in zip(*own, *others, strict=True))


def _learning(stages: list[AbstractStage]) -> list[int]:
    return [l for l, stage in enumerate(stages) if stage.weights]


def _moved(influence: Influence, moves: list[Move]) -> Moved:
    """An influence, carried along the moves of its stage and of those after it."""
    (first, *later), own, products = moves, moves[0].own, []

    def upwards(below, states):
        """What the tangents of the first stage's output do to the later stages, whose own tangents are `states`."""
        found = []
        for move, state in zip(later, states, strict=True):
            found.append(move.push(state, below))
            below = move.read(found[-1])
        return found

    for product in influence.others:
        carried = first.push(product.left[0], None)
        # What comes back to a unit from the others is known exactly: it joins the unit's influence on itself.
        if carried:
            own = [
                tuple(M + jnp.diagonal(v)[:, None] * w for M, w in zip(groups, product.right, strict=True))
                for groups, v in zip(own, carried, strict=True)
            ]
        carried = [without_diagonal(v) for v in carried]
        above = upwards(first.read(carried) if carried and later else None, product.left[1:])
        products.append(Product([carried, *above], product.right))
    nothing = [None] * len(later)
    for s, tangents in first.others.items():
        above = upwards(first.read(tangents), nothing) if later else []
        products.append(Product([tangents, *above], influence.own[s]))
    for s in first.to_next if later else []:
        above = upwards(first.read(_unit_vectors(influence, s)), nothing)
        products.append(Product([None, *above], own[s]))
    return Moved(own, products)


def _unit_vectors(influence: Influence, component: int) -> Tangents:
    """The tangents of a stage along one component of each of its units."""
    units, dtype = influence.units
    one = jnp.eye(units, dtype=dtype)
    return [one if s == component else jnp.zeros_like(one) for s in range(max(1, len(influence.own)))]


def _reduced(moved: Moved, before: Influence, signs: Array, metric: list[Block] | None) -> Influence:
    """The influence with as many terms as before, and the same mean over the signs."""
    own, products = moved.own[: len(before.own)], moved.products
    if not products:
        return Influence(own, [], before.fresh)
    left = _products(products, _left, before.units[0])
    A, B = reduction(left, _products(products, lambda a, b: _right(a, b, metric), before.units[0]), signs)

    def sum_of(coefficients, arrays):
        pairs = zip(coefficients, arrays, strict=True)
        return total(c[:, None] * array for c, array in pairs if array is not None)

    def pair(k):
        left: list[Tangents | None] = []
        for states in zip(*(product.left for product in products), strict=True):
            components = len(next(state for state in states if state is not None))
            parts = [[None if state is None else state[s] for state in states] for s in range(components)]
            left.append([sum_of(A[:, k], part) for part in parts])
        groups = zip(*(product.right for product in products), strict=True)
        return Product(left, tuple(sum_of(B[:, k], group) for group in groups))

    return Influence(own, [pair(k) for k in range(len(before.others))], before.fresh)


def _products(products: list[Product], inner: Callable, units: int) -> Float[Array, "m m units"]:
    """The inner products of every two factors, for each unit."""
    m = range(len(products))
    upper = {(a, b): jnp.broadcast_to(inner(products[a], products[b]), units) for b in m for a in range(b + 1)}
    return jnp.stack([jnp.stack([upper[min(a, b), max(a, b)] for b in m]) for a in m])


def _left(a: Product, b: Product) -> Float[Array, " units"]:
    pairs = zip(a.left, b.left, strict=True)
    both = [(vs, us) for vs, us in pairs if vs is not None and us is not None]
    return total(jnp.sum(v * u, -1) for vs, us in both for v, u in zip(vs, us, strict=True))


def _right(a: Product, b: Product, metric: list[Block] | None) -> Float[Array, " units"]:
    pairs = zip(a.right, b.right, strict=True)
    if metric is not None:
        pairs = ((m.whiten(w), m.whiten(u)) for m, (w, u) in zip(metric, pairs, strict=True))
    return total(jnp.sum(w * u, (0, 2)) for w, u in pairs)
