"""NoBackTrack: a low-rank, unbiased estimate of the influence of the parameters on the state, carried forward."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractAffineGatedCell, AbstractCell, StackedCell
from ..cells.affine import Rows, linearize
from ..cells.composite import layers_of
from ..cells.initial_state import Starting
from ..model import Model
from ..support.arguments import whole
from ..support.freezing import learnable, thaw
from ..support.smooth import root
from ..support.trees import inner, total
from ..transforms.quasi_diagonal import QuasiDiagonal, to_blocks
from . import _nobacktrack_per_unit
from ._jacobians import balance, cell_gradient, learned, learned_rows, with_parameters
from ._layers import unwrapped
from ._nobacktrack_per_unit import PerUnitState
from ._random_bits import Counter, signs, words_for
from ._reductions import Blocks, Copies, MixedRows, UnitRows, of_each_copy
from ._stages import without_units
from ._window import Window, restarted_by
from .base import AbstractForwardEstimator
from .norms import NOT_COVERED, AbstractNorms, HalfInvariantNorms


class NoBackTrackState(eqx.Module):
    """The influence before its next reduction, `(1/k) Σ_k v_k w_kᵀ + Σ_i e_i w_iᵀ` (for blocks, without the factor
    1/k).

    * `v`: one entry per layer, shaped like the layer's state with k as the leading axis;
    * `w`: one entry per layer, shaped like the layer's trainable arrays, with k as the leading axis unless they are
      split into blocks;
    * `pending`: the rows `w_i` of the newest transition of the top layer, which the next step reduces;
    * `counter`: the counter of the random signs.
    """

    v: tuple[PyTree[Float[Array, "rank ..."]], ...]
    w: tuple[PyTree[Float[Array, "..."]], ...]
    pending: UnitRows | MixedRows
    counter: Counter


class NoBackTrack(AbstractForwardEstimator):
    """NoBackTrack (Ollivier, Tallec & Charpiat, *Training recurrent networks online without backtracking*, Algorithm
    1).

    The influence `G = ∂h/∂θ` is approximated by `v wᵀ` plus the sparse rows of the newest transition,
    `G̃ = v wᵀ + Σ_i e_i w_iᵀ` (9). The mean of G̃ over the random signs is G. A step reduces G̃ with independent signs
    ε (13)–(15), carries it through the transition (16)–(17), and contracts it with `H = ∂loss/∂h` before the next
    reduction (12). The newest transition therefore adds no noise to the gradient:

        v ← ρ̄ v + Σ ε_i ρ_i e_i,    w ← w/ρ̄ + Σ ε_i w_i/ρ_i,    ρ̄ = sqrt(‖w‖/‖v‖),    ρ_i = sqrt(‖w_i‖/‖e_i‖),
        v ← (∂f/∂h) v,    w_i ← ∂f_i/∂θ,    δθ = (H v) w + Σ_i H_i w_i.

    On an affine-gated cell every unit has its own ρ_i, and no Jacobian is formed. On any other cell one vector-Jacobian
    product mixes the rows, and they share one ρ. A `StackedCell` runs layer by layer (43)–(46), with one reduction per
    layer, and the gradient is unbiased for the parameters of every layer. Memory and time are those of the forward pass
    up to a constant factor, whatever the length of the stream.

    **Unit by unit**, with `per_unit=r`, the variance is lower by orders of magnitude. The weights `θ_i` of each unit i
    of an affine-gated cell have an influence of their own,

        ∂h/∂θ_i = e_i m_iᵀ + Σ_k v_ik w_ikᵀ,    k = 1 ... r,

    where `m_i` is their influence on the unit itself, as in `onward.SnAp`, and is carried whole. What they do to other
    units is the sum. A step adds one outer product to it, `(∂f/∂h − own) e_i m_iᵀ`, and then r of the r + 1 remain: the
    r − 1 largest singular vectors of the sum as they are, and one random pair for the rest. This reduction has the
    least variance of all that are unbiased (Benzing, Gauy, Mujika, Martinsson & Steger 2019, *Optimal Kronecker-sum
    approximation of real time recurrent learning*, here for each unit). Memory is `(1 + r) |θ| + r·units·state`, and a
    step takes r forward derivatives of the cell per unit. In a unit-wise cell nothing is left to estimate, and the
    gradient is exact. Layers of a `StackedCell`, the vectors of an `EmbeddedCell` and an affine-gated cell inside an
    `AdaptedCell` have units too; the influence on later layers is part of the sum. The maps of `onward.cells.Block` and
    `EncodedCell` have none: there, wrap it as `Layerwise(NoBackTrack(per_unit=r))`.

    **Arguments:**

    - `rank`: k, at least 1.
    - `blocks`: if false, k independent copies are averaged. If true, the units of an affine-gated cell are split into k
      blocks, each with its own `v` and ρ̄, and the k terms are summed; memory is `|θ| + k·state`, and a step takes k
      forward derivatives of the cell.
    - `norms`: the norms for ρ̄ and ρ_i, by default `onward.estimators.HalfInvariantNorms()`. If the optimiser is
      `onward.quasi_diagonal_kalman`, the learner passes the scales of the parameters to them; this is Algorithm 2, the
      Kalman version. With any other optimiser they are Euclidean, which is Algorithm 1. With `per_unit`, they are the
      metric in which the variance is least.
    - `per_unit`: r, at least 1, or `None` for copies or blocks. All trained parameters must belong to units.

    Raises `ValueError` for a number below 1, for `per_unit` together with `rank` or `blocks`, and at `init` for a cell
    without the units that the form needs.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.NoBackTrack(rank=2), optax.sgd(1e-2), loss=loss)
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(2)), jnp.ones((5, 3)), jnp.zeros(5, int))
    """

    rank: int = eqx.field(static=True)
    blocks: bool = eqx.field(static=True)
    per_unit: int | None = eqx.field(static=True)
    norms: AbstractNorms
    metric: QuasiDiagonal | None

    def __init__(
        self,
        rank: int = 1,
        blocks: bool = False,
        norms: AbstractNorms | None = None,
        *,
        per_unit: int | None = None,
    ):
        if per_unit is not None and (rank != 1 or blocks):
            raise ValueError(f"per_unit is a form of its own; leave out rank={rank} and blocks={blocks}, or per_unit.")
        self.rank = whole("rank", rank)
        self.per_unit = None if per_unit is None else whole("per_unit", per_unit)
        self.blocks, self.metric = blocks, None
        self.norms = HalfInvariantNorms() if norms is None else norms

    def begin(self, cell, hidden, *, key, example):
        self._check(cell)
        if self.per_unit is not None:
            self.norms.of_units([])  # raises if they are for the other forms
            return _nobacktrack_per_unit.begin(cell, hidden, self.per_unit, key)
        states = _by_layer(cell, hidden)
        v = tuple(jax.tree.map(lambda h: jnp.zeros((self.rank, *h.shape), h.dtype), state) for state in states)
        w = tuple(self._form.start(learned(layer)) for layer in _layers(cell))
        quiet = self._form.sign_template(v)[-1]
        pending = _no_rows(_layers(cell)[-1], states[-1], quiet)
        return NoBackTrackState(v, w, pending, Counter.start(key))

    def draw(self, state, steps):
        if isinstance(state, PerUnitState):
            return state.counter.draw(steps, words_for(_nobacktrack_per_unit.sign_template(state)))
        return state.counter.draw(steps, words_for(self._form.sign_template(state.v)))

    def restart(self, state):
        if isinstance(state, PerUnitState):
            return PerUnitState(jax.tree.map(jnp.zeros_like, state.influences), state.counter)
        v, w, pending = jax.tree.map(jnp.zeros_like, (state.v, state.w, state.pending))
        return NoBackTrackState(v, w, pending, state.counter)

    def influence_norm(self, state):
        if isinstance(state, PerUnitState):
            return _nobacktrack_per_unit.influence_norm(state)
        v_norms = root(_squared_norms(state.v))
        w_norms = root(total(self._form.squared_norms(w) for w in state.w if jax.tree.leaves(w)))
        return jnp.sum(v_norms * w_norms) / (1 if self.blocks else self.rank)

    def informed(self, metric):
        if metric is None or not isinstance(metric.diagonal, Model):
            return self
        is_none = lambda leaf: leaf is None  # noqa: E731
        return eqx.tree_at(lambda n: n.metric, self, metric.part(lambda m: m.cell), is_leaf=is_none)

    def advance(self, cell, hidden, state, x, noise):
        if isinstance(state, PerUnitState):
            return _nobacktrack_per_unit.advance(cell, hidden, state, x, noise, self._metric_of_units)
        layers, states = _layers(cell), list(_by_layer(cell, hidden))
        v, w, pending, pullbacks = state.v, state.w, state.pending, []
        epsilon = signs(noise, self._form.sign_template(v))
        norms = self._norms(cell)
        for l in range(len(layers)):
            # The pending rows belong to the layer that moved last: the layer below, or the top layer of the previous
            # step.
            if jax.tree.leaves(w[l - 1]):
                v, w = self._reduce(norms, v, w, pending, l - 1)
            states[l], moved, pending, pullback = _transition(layers, l, states, v, x, epsilon[l])
            v = (*v[:l], moved, *v[l + 1 :])
            pullbacks.append(pullback)

        after = tuple(states) if isinstance(cell, StackedCell) else states[0]
        contract = lambda H: self._contract(cell, v, w, pullbacks[-1], H)  # noqa: E731
        return after, NoBackTrackState(v, w, pending, state.counter.next()), contract

    def begin_windows(self, cell, hidden, *, key, example):
        if self.per_unit is not None:
            raise ValueError(
                "per_unit: a window as a whole has no units; at its edge take NoBackTrack(rank=...), UORO or SnAp."
            )
        return self.begin(Window(cell), hidden, key=key, example=example)

    def over_window(self, cell, hidden, state, passage, noise):
        window, began = Window(cell), restarted_by(passage.reset, self, state)
        (epsilon,) = signs(noise[0], self._form.sign_template(began.v))
        (v,), w = self._reduce(self._norms(window), began.v, began.w, began.pending, 0)
        moved = of_each_copy(passage.push, v)
        pending = MixedRows(of_each_copy(lambda e: Window(passage.pull(e)), epsilon), epsilon)
        after = NoBackTrackState((moved,), w, pending, began.counter.next())
        return after, lambda H: self._contract(window, state.v, state.w, state.pending.combine, H).cell

    def _contract(self, cell, v, w, newest, H):
        """(12): `newest` gives the share of the rows that are not reduced yet."""
        H = _by_layer(cell, H)
        coefficients = total(jax.vmap(lambda v_l, H_l=H_l: inner(H_l, v_l))(v_l) for H_l, v_l in zip(H, v, strict=True))
        grads = [self._form.contract(coefficients, w_l) for w_l in w]
        grads[-1] = jax.tree.map(jnp.add, grads[-1], newest(H[-1]))
        return _join(cell, grads)

    def _check(self, cell):
        """Raises `ValueError` if the form needs units that the cell does not have."""
        if self.per_unit is not None and (other := without_units(cell)):
            raise ValueError(
                f"cell: the parameters of {other} belong to no units, so there are no terms for each unit; "
                f"{_instead(cell)}"
            )
        if self.blocks:
            for layer in _layers(cell):
                if jax.tree.leaves(learned(layer)) and not isinstance(layer, AbstractAffineGatedCell | Window):
                    name = type(layer.cell if isinstance(layer, Starting) else layer).__name__
                    raise ValueError(
                        f"cell: blocks of the parameters of {name} gain nothing over averaged copies and cost more; "
                        f"{_instead(cell)}"
                    )

    @property
    def _form(self) -> Copies | Blocks:
        return Blocks(self.rank) if self.blocks else Copies(self.rank)

    def _norms(self, cell):
        """The norms, with the metric if there is one."""
        return self.norms if self.metric is None else self.norms.informed(_metrics(cell, self.metric))

    def _metric_of_units(self, stage):
        """The metric in which the units of a stage are reduced; `None` for the Euclidean one."""
        if self.metric is None:
            return None
        part = self.metric.part(stage.where)
        if len(to_blocks(part.diagonal)) != len(stage.weights):
            raise ValueError(NOT_COVERED)
        return self.norms.of_units(stage.metric(part))

    def _reduce(self, norms, v, w, pending, layer):
        """Folds the pending rows into `v` and `w`, (13)–(15)."""
        lengths = norms.lengths(self._form, v, w, pending, layer)
        rho, inverse = balance(lengths.w, lengths.v)
        v = list(Copies(self.rank).scale(rho, v))
        w = [self._form.scale(inverse, w_l) for w_l in w]
        v[layer], w[layer] = self._form.add(v[layer], w[layer], pending, lengths.rows, lengths.units)
        return tuple(v), tuple(w)


def _transition(layers, l, states, v, x, epsilon):
    """The transition of layer l, (16)–(17): its new state, its new `v`, its rows for the next reduction, and the rows'
    vector-Jacobian product.
    """
    layer, thawed, hidden = layers[l], thaw(layers[l]), states[l]

    def read(below):
        return x if l == 0 else thaw(layers[l - 1]).output(below)

    below = states[l - 1] if l else None
    tangents = (v[l], v[l - 1] if l else None)

    def push(tangent):
        return jax.jvp(lambda h, b: thawed(h, read(b)), (hidden, below), tangent)[1]

    moved = of_each_copy(push, tangents)
    if isinstance(layer, AbstractAffineGatedCell):
        after, rows = linearize(thawed, hidden, read(below))
        rows = learned_rows(layer, rows)
        return after, moved, UnitRows(rows, epsilon), rows.combine
    after, pullback = jax.vjp(lambda p: with_parameters(layer, p)(hidden, read(below)), learnable(layer))
    mixed = jax.vmap(lambda e: pullback(e)[0])(epsilon)
    return after, moved, MixedRows(mixed, epsilon), lambda H: pullback(H)[0]


def _no_rows(layer, hidden, signs):
    """Rows of zeros, in the form in which the layer's transitions leave them."""
    if isinstance(layer, AbstractAffineGatedCell):
        weights = learned(layer)
        factors = tuple(jax.tree.map(lambda h, W=W: jnp.zeros(W.shape[:2], h.dtype), hidden) for W in weights)
        return UnitRows(Rows(factors, tuple(jnp.zeros(W.shape[2], W.dtype) for W in weights)), signs)
    copies = jax.tree.leaves(signs)[0].shape[0]
    return MixedRows(jax.tree.map(lambda leaf: jnp.zeros((copies, *leaf.shape), leaf.dtype), learnable(layer)), signs)


def _instead(cell: AbstractCell) -> str:
    """What to take for a cell that a form of NoBackTrack refuses."""
    layers = layers_of(unwrapped(cell))
    if without_units(cell) is None:
        return "take NoBackTrack(per_unit=...), or NoBackTrack(rank=...)."
    if all(without_units(layer) is None for layer in layers):
        return "take onward.estimators.Layerwise(onward.NoBackTrack(per_unit=...)), or NoBackTrack(rank=...)."
    return "take NoBackTrack(rank=...), or an affine-gated cell such as onward.GRUCell."


def _layers(cell: AbstractCell) -> tuple[AbstractCell, ...]:
    return cell.layers if isinstance(cell, StackedCell) else (cell,)


def _metrics(cell: AbstractCell, metric: QuasiDiagonal) -> tuple[QuasiDiagonal, ...]:
    """The matrix over a cell's parameters, layer by layer."""
    if isinstance(cell, Starting):
        return (metric.part(lambda inner: Starting(inner, None)),)
    if isinstance(cell, Window):
        return (metric.part(Window),)
    return tuple(metric.part(lambda c, l=l: _layers(c)[l]) for l in range(len(_layers(cell))))


def _by_layer(cell: AbstractCell, hidden: PyTree) -> tuple[PyTree, ...]:
    return hidden if isinstance(cell, StackedCell) else (hidden,)


def _join(cell: AbstractCell, grads: list[PyTree]) -> PyTree:
    """The gradients of the layers, joined into one that is shaped like the cell's trainable parameters."""
    joined = [cell_gradient(layer, g) for layer, g in zip(_layers(cell), grads, strict=True)]
    if not isinstance(cell, StackedCell):
        return joined[0]
    return eqx.tree_at(lambda c: c.layers, learnable(cell), tuple(joined))


def _squared_norms(v: tuple[PyTree, ...]) -> Float[Array, " rank"]:
    return Copies(1).squared_norms(v)
