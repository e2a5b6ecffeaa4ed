"""Sparse n-step approximation: RTRL restricted to the units that a parameter reaches within a few steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, PyTree

from ..cells import AbstractAffineGatedCell
from ..cells.affine import without_constants
from ..cells.composite import AbstractCompositeCell
from ..cells.initial_state import Starting
from ..support.arguments import above_zero, unless_traced, whole
from ..support.dependence import dependence
from ..support.freezing import learnable, thaw
from ..support.trees import norm
from . import _colours, _layers, _own_unit_influence
from ._jacobians import parameter_jacobian, state_jacobian, with_parameters
from .base import AbstractForwardEstimator


class MaskedState(eqx.Module):
    """The influence, with the flattened state as the leading axis, and the pattern of the entries that are kept."""

    influence: PyTree[Float[Array, "state ..."]]
    kept: PyTree[Bool[Array, "state ..."]]


class SnAp(AbstractForwardEstimator):
    """SnAp-n (Menick et al. 2021): RTRL in which a parameter influences only the units that it reaches within n =
    `order` steps:

        G' = pattern_n ⊙ ((∂f/∂h) G + ∂f/∂θ).

    The gradient is biased and has no noise. What a step costs depends on the structure of the cell:

    - On an affine-gated cell, SnAp-1 keeps the influence of each unit's rows on all of that unit's state. This is as
      cheap as the forward pass. It keeps slightly more than the definition if a row needs two steps to reach a
      component.
    - On a cell made of others, such as a stack or an embedding, SnAp-1 keeps the influence of each layer's parameters
      on that layer. The error of the current step comes down through all layers: this is
      `onward.estimators.Layerwise(SnAp())`.
    - On any other cell the pattern is read from the program of its step. Each parameter has as many numbers as it
      reaches components, and a step takes one vector-Jacobian product for each of them. It takes as many
      Jacobian-vector products if units act only on themselves; otherwise it takes one for each component of the state.
      If the pattern is not sparse, the influence is that of RTRL under a mask, at the cost of RTRL.

    In a densely connected cell every parameter reaches every unit in two steps, so SnAp-2 is RTRL.

    Nothing keeps the influence small. If the derivative of a unit with respect to its own previous state stays above 1,
    the influence grows without limit. With RTRL it may not, because there the units also act on one another. Watch the
    influence with `onward.observing.update_norms`, and limit it by `bound`:

        G' = pattern_n ⊙ ((∂f/∂h) min(max(G, −bound), bound) + ∂f/∂θ)

    If no entry of G exceeds the bound, nothing changes. If one does, the gradient has a further bias: the contribution
    of earlier steps through that entry is cut down to the bound, and keeps its sign.

    **Arguments:**

    - `order`: n, at least 1.
    - `bound`: the greatest magnitude of an entry of G, above 0; `None` for no limit.

    Raises `ValueError` otherwise, and at `init` if the pattern is needed and no `example` is given.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward, optax
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> loss = onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.SnAp(order=1), optax.sgd(1e-2), loss=loss)
        >>> carry, metrics = learner.run(learner.init(model, key=jr.key(2)), jnp.ones((5, 3)), jnp.zeros(5, int))
    """

    order: int = eqx.field(static=True)
    bound: float | Float[Array, ""] | None

    def __init__(self, order: int = 1, *, bound: float | Float[Array, ""] | None = None):
        if bound is not None:
            unless_traced(above_zero, "bound", bound)
        self.order, self.bound = whole("order", order), bound

    def begin(self, cell, hidden, *, key, example):
        if self.order == 1 and isinstance(cell, AbstractAffineGatedCell):
            return _own_unit_influence.start(cell, hidden)
        if self.order == 1 and isinstance(_layers.unwrapped(cell), AbstractCompositeCell):
            return _layers.start(self.begin_windows, cell, hidden, key=key, example=example)
        if example is None:
            raise ValueError(
                "example must be given, one (x, y) of the stream: SnAp finds its pattern of influence with it."
            )
        coloured = _colours.start(cell, hidden, example[0], self.order)
        if coloured is not None:
            _check_kept(coloured.kept())
            return coloured
        kept = _pattern(cell, hidden, example[0], self.order)
        _check_kept(kept)
        return MaskedState(jax.tree.map(lambda k, p: jnp.zeros(k.shape, p.dtype), kept, learnable(cell)), kept)

    def draw(self, state, steps):
        return None

    def restart(self, state):
        return jax.tree.map(lambda leaf: jnp.zeros_like(leaf) if eqx.is_inexact_array(leaf) else leaf, state)

    def influence_norm(self, state):
        if isinstance(state, _layers.LayersState):
            return _layers.influence_norm(self, state)
        if isinstance(state, _own_unit_influence.OwnUnitState):
            return state.norm()
        return norm(eqx.filter(state, eqx.is_inexact_array))

    def advance(self, cell, hidden, state, x, noise):
        if isinstance(state, _layers.LayersState):
            return _layers.advance(lambda number: self, cell, hidden, state, x, noise)
        if self.bound is not None:
            state = eqx.tree_at(lambda s: s.influence, state, jax.tree.map(self._limited, state.influence))
        if isinstance(state, _colours.ColouredState):
            return _colours.advance(cell, hidden, state, x)
        if isinstance(cell, AbstractAffineGatedCell) and isinstance(state, _own_unit_influence.OwnUnitState):
            return _own_unit_influence.advance(cell, hidden, state, x)
        return _advance_masked(cell, hidden, state, x)

    def over_window(self, cell, hidden, state, passage, noise):
        if isinstance(state, _layers.LayersState):
            return _layers.over_window(lambda number: self, cell, hidden, state, passage, noise)
        if isinstance(cell, AbstractAffineGatedCell) and isinstance(state, _own_unit_influence.OwnUnitState):
            if self.bound is None:
                return _own_unit_influence.over_window(cell, hidden, state, passage)
            after = self.step_by_step(cell, hidden, state, passage, noise)
            return after, lambda H: _own_unit_influence.contracted(cell, state, H)
        after = self.step_by_step(cell, hidden, state, passage, noise)
        if isinstance(state, _colours.ColouredState):
            return after, lambda H: _colours.contracted(state, H)
        return after, lambda H: _contracted(state.influence, H)

    def _limited(self, influence):
        bound = jnp.asarray(self.bound, influence.dtype)
        return jnp.clip(influence, -bound, bound)


def _advance_masked(cell, hidden, state, x):
    thawed = thaw(cell)
    J = state_jacobian(thawed, hidden, x)
    fresh = parameter_jacobian(cell, hidden, x)
    influence = jax.tree.map(
        lambda kept, G, new: jnp.where(kept, (J @ G.reshape(len(G), -1)).reshape(G.shape) + new, 0),
        state.kept,
        state.influence,
        fresh,
    )

    return thawed(hidden, x), MaskedState(influence, state.kept), lambda H: _contracted(influence, H)


def _contracted(influence, H):
    flat, _ = ravel_pytree(H)
    return jax.tree.map(lambda G: jnp.tensordot(flat, G, 1), influence)


@eqx.filter_jit
def _pattern(cell, hidden, x, order):
    """The components that each parameter reaches in `order` steps, read from the program of the cell's step."""

    def step(point, x, reset):
        parameters, hidden = point
        moving = with_parameters(cell, parameters)
        if isinstance(moving, Starting):
            moving = Starting(moving.cell, reset)
        return ravel_pytree(moving(hidden, x))[0]

    direct, connected = dependence(step, (learnable(cell), hidden), x, jnp.array(False))
    connected = _flat_columns(connected)
    kept = direct
    for _ in range(order - 1):
        kept = jax.tree.map(
            lambda k, d: (connected @ k.reshape(len(k), -1).astype(float) > 0).reshape(k.shape) | d, kept, direct
        )
    return kept


def _flat_columns(tree: PyTree[Bool[Array, "state ..."]]) -> Float[Array, "state columns"]:
    """The dependence on the state as a matrix whose columns are the flattened state."""
    return jnp.concatenate([leaf.reshape(len(leaf), -1) for leaf in jax.tree.leaves(tree)], axis=1).astype(float)


def _check_kept(kept) -> None:
    """Raises `ValueError` if no state depends on a trainable array of the cell."""
    kept = _layers.unwrapped(kept)
    for path, leaf in jax.tree_util.tree_leaves_with_path(without_constants(kept)):
        if not isinstance(leaf, Tracer) and not np.any(leaf):
            name = "cell" + jax.tree_util.keystr(path)
            raise ValueError(f"SnAp: no step of the cell reads {name}, so it would never be trained: remove it.")
