"""Norms that NoBackTrack uses to balance its vectors: Euclidean, or made invariant by the scales of an optimiser."""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..support.smooth import root
from ..support.trees import total
from ..transforms.quasi_diagonal import Block, QuasiDiagonal, to_blocks
from ._reductions import Blocks, Copies, MixedRows, UnitRows

NOT_COVERED = (
    "metric must cover all trained parameters of the cell, got a part of them: let the Kalman step train the whole "
    "cell, or do not pass its metric on."
)
CANCELLED = 1e-6  # a variance below this fraction of the newest row's own share is taken as lost to rounding


class Lengths(eqx.Module):
    """The lengths that a reduction balances, (13)–(15): `‖w‖` and `‖v‖`, and for the newest transition `‖w_i‖` and
    `‖e_i‖`.

    For mixed rows the last two are `‖Σ ε_i w_i‖` and `‖ε‖`, one per copy.
    """

    w: Float[Array, " rank"]
    v: Float[Array, " rank"]
    rows: PyTree[Float[Array, "..."]]
    units: PyTree[Float[Array, "..."]]


class AbstractNorms(eqx.Module):
    """The lengths of the vectors of `onward.NoBackTrack`. It is unbiased for any choice; a good choice lowers the
    variance.
    """

    @abstractmethod
    def informed(self, metric: tuple[QuasiDiagonal, ...]) -> "AbstractNorms":
        """These norms with the inverse covariance `J + Λ` of each layer's parameters."""

    @abstractmethod
    def lengths(
        self,
        form: Copies | Blocks,
        v: tuple[PyTree, ...],
        w: tuple[PyTree, ...],
        pending: UnitRows | MixedRows,
        layer: int,
    ) -> Lengths:
        """The lengths for a reduction of the pending rows of `layer`."""

    @abstractmethod
    def of_units(self, metric: list[Block]) -> list[Block] | None:
        """The metric in which `NoBackTrack(per_unit=...)` reduces the units; `None` means the Euclidean one.

        `metric` is that of the units' parameters, `J + Λ`. Raises `ValueError` if these norms are only for
        `NoBackTrack(rank=...)`.
        """


class EuclideanNorms(AbstractNorms):
    """The root of the sum of squares, for every vector: Algorithm 1."""

    def informed(self, metric):
        return self

    def lengths(self, form, v, w, pending, layer):
        rows, units = _row_lengths(form, pending)
        return Lengths(_norm(form, w), _norm(Copies(1), v), rows, units)

    def of_units(self, metric):
        return None


class HalfInvariantNorms(AbstractNorms):
    """`‖w‖² = wᵀ (J + Λ)⁻¹ w` for `w` and the rows `w_i`, (59), and Euclidean norms for `v` and `e_i`.

    Both are invariant under affine changes of the parameters: such a change does not affect `v` and `e_i`, which are
    vectors of the state space. Without a Kalman optimiser, `J + Λ` is the identity and these are the Euclidean norms.

    `metric` is `J + Λ` of each layer; the learner passes it on.
    """

    metric: tuple[QuasiDiagonal, ...] | None = None

    def informed(self, metric):
        return HalfInvariantNorms(metric)

    def lengths(self, form, v, w, pending, layer):
        return EuclideanNorms().lengths(form, v, *_whitened(form, w, pending, layer, self.metric), layer)

    def of_units(self, metric):
        return metric


class InvariantNorms(AbstractNorms):
    """The norms of the paper's Appendix B as printed: also `‖v‖² = Σ_i v_i²/c_i` and `‖e_i‖² = 1/c_i`, (59)–(64).

    `c_i = (G̃ (J + Λ)⁻¹ G̃ᵀ)_ii` is the variance of component i of the state, for the G̃ of each copy. These norms are
    also invariant under changes of the state's units, **but unstable**. If `v` makes up most of G̃, then
    `c_i ≈ v_i² ‖w‖²`: `‖v‖` does not depend on the length of `v`, and `ρ̄` lets it grow. They are kept to show this.
    They need an affine-gated cell.

    **Arguments:** `regularizer`: a number added to every `c_i`, at least 0. The paper has "small regularization terms"
    and gives no value.
    """

    regularizer: float = 1e-6
    metric: tuple[QuasiDiagonal, ...] | None = None

    def informed(self, metric):
        return InvariantNorms(self.regularizer, metric)

    def lengths(self, form, v, w, pending, layer):
        if isinstance(pending, MixedRows):
            raise ValueError("norms: InvariantNorms needs the rows of an affine-gated cell; use HalfInvariantNorms.")
        w, pending = _whitened(form, w, pending, layer, self.metric)
        rows, _ = _row_lengths(form, pending)
        w_norm = _norm(form, w)
        variances = [jax.tree.map(lambda v: form.variances(v, w_norm), v_l) for v_l in v]
        cross = form.cross(v[layer], w[layer], pending.rows)
        variances[layer] = jax.tree.map(
            lambda c, x, row: jnp.maximum(c + 2 * x + row**2, CANCELLED * row**2), variances[layer], cross, rows
        )
        variances = [jax.tree.map(lambda c: c + self.regularizer, c) for c in variances]

        def in_deviations(v, c):
            return jnp.where(c > 0, v / jnp.sqrt(jnp.where(c > 0, c, 1)), 0)

        scaled = tuple(jax.tree.map(in_deviations, v_l, c) for v_l, c in zip(v, variances, strict=True))
        units = jax.tree.map(lambda c: in_deviations(jnp.ones_like(c), c), variances[layer])
        return Lengths(w_norm, _norm(Copies(1), scaled), rows, units)

    def of_units(self, metric):
        raise ValueError(
            "norms: InvariantNorms balances the vectors of NoBackTrack(rank=...); with per_unit use HalfInvariantNorms."
        )


def _norm(form: Copies | Blocks, layers: tuple[PyTree, ...]) -> Float[Array, " rank"]:
    return root(total(form.squared_norms(layer) for layer in layers if jax.tree.leaves(layer)))


def _row_lengths(form, pending):
    if isinstance(pending, UnitRows):
        rows = pending.rows.norms()
        return rows, jax.tree.map(jnp.ones_like, rows)
    return root(form.mixed_squared_norms(pending.mixed)), pending.sign_norm()


def _whitened(form, w, pending, layer, metric):
    """`w` and the pending rows in coordinates in which `(J + Λ)⁻¹` is the Euclidean product."""
    if metric is None:
        return w, pending
    learned = [len(w_l) if isinstance(w_l, tuple) else len(to_blocks(w_l)) for w_l in w]
    if [len(to_blocks(m.diagonal)) for m in metric] != learned:
        raise ValueError(NOT_COVERED)
    whitened = tuple(form.whiten(m, w_l) for m, w_l in zip(metric, w, strict=True))
    return whitened, pending.whiten(metric[layer])
