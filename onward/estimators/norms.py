"""Norms that NoBackTrack balances its vectors with: Euclidean, or invariant through an optimiser's own scales."""

from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..support.trees import root, total
from ..transforms.quasi_diagonal import QuasiDiagonal, to_blocks
from ._reductions import Blocks, Copies, MixedRows, UnitRows

CANCELLED = 1e-6  # below this part of the newest row's own share a variance is taken to be lost to rounding


class Lengths(eqx.Module):
    """What a reduction balances, (13)–(15): `‖w‖`, `‖v‖`, and of the newest transition `‖w_i‖` and `‖e_i‖`.

    For mixed rows the last two are `‖Σ ε_i w_i‖` and `‖ε‖`, one a copy.
    """

    w: Float[Array, " rank"]
    v: Float[Array, " rank"]
    rows: PyTree[Float[Array, "..."]]
    units: PyTree[Float[Array, "..."]]


class AbstractNorms(eqx.Module):
    """How long the vectors of `onward.NoBackTrack` are. Any choice keeps it unbiased; a good one keeps it quiet."""

    @abstractmethod
    def informed(self, metric: tuple[QuasiDiagonal, ...]) -> "AbstractNorms":
        """These norms, told the inverse covariance `J + Λ` of each layer's parameters."""

    @abstractmethod
    def lengths(
        self,
        form: Copies | Blocks,
        v: tuple[PyTree, ...],
        w: tuple[PyTree, ...],
        pending: UnitRows | MixedRows,
        layer: int,
    ) -> Lengths:
        """The lengths for a reduction of the rows that wait in `layer`."""


class EuclideanNorms(AbstractNorms):
    """The square root of the sum of squares, of everything: Algorithm 1."""

    def informed(self, metric):
        return self

    def lengths(self, form, v, w, pending, layer):
        rows, units = _row_lengths(form, pending)
        return Lengths(_norm(form, w), _norm(Copies(1), v), rows, units)


class HalfInvariantNorms(AbstractNorms):
    """`‖w‖² = wᵀ (J + Λ)⁻¹ w` for `w` and the rows `w_i`, (59), and Euclidean norms for `v` and `e_i`.

    Both are invariant under affine changes of the parameters, for which `v` and `e_i`, living in the state's space, do
    not change at all. Without a Kalman optimiser `J + Λ` is the identity, and these are the Euclidean norms.

    `metric` is `J + Λ` of each layer; the learner hands it over.
    """

    metric: tuple[QuasiDiagonal, ...] | None = None

    def informed(self, metric):
        return HalfInvariantNorms(metric)

    def lengths(self, form, v, w, pending, layer):
        return EuclideanNorms().lengths(form, v, *_whitened(form, w, pending, layer, self.metric), layer)


class InvariantNorms(AbstractNorms):
    """The norms of the paper's Appendix B as printed: also `‖v‖² = Σ_i v_i²/c_i` and `‖e_i‖² = 1/c_i`, (59)–(64).

    `c_i = (G̃ (J + Λ)⁻¹ G̃ᵀ)_ii` is the variance of the state's component i, of each copy's own G̃. Invariant under
    changes of the state's units too, **and unstable**: where `v` makes up most of G̃, `c_i ≈ v_i² ‖w‖²`, so that `‖v‖`
    does not see how long `v` is, and `ρ̄` lets it grow. Kept to show that; needs an affine-gated cell.

    **Arguments:** `regularizer`: added to every `c_i`, at least 0; the paper has "small regularization terms" and does
    not say which.
    """

    regularizer: float = 1e-6
    metric: tuple[QuasiDiagonal, ...] | None = None

    def informed(self, metric):
        return InvariantNorms(self.regularizer, metric)

    def lengths(self, form, v, w, pending, layer):
        if isinstance(pending, MixedRows):
            raise ValueError("norms: InvariantNorms needs the rows of an affine-gated cell; take HalfInvariantNorms.")
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


def _norm(form: Copies | Blocks, layers: tuple[PyTree, ...]) -> Float[Array, " rank"]:
    return root(total(form.squared_norms(layer) for layer in layers if jax.tree.leaves(layer)))


def _row_lengths(form, pending):
    if isinstance(pending, UnitRows):
        rows = pending.rows.norms()
        return rows, jax.tree.map(jnp.ones_like, rows)
    return root(form.mixed_squared_norms(pending.mixed)), pending.sign_norm()


def _whitened(form, w, pending, layer, metric):
    """`w` and the rows that wait as they look where `(J + Λ)⁻¹` is the Euclidean product."""
    if metric is None:
        return w, pending
    learned = [len(w_l) if isinstance(w_l, tuple) else len(to_blocks(w_l)) for w_l in w]
    if [len(to_blocks(m.diagonal)) for m in metric] != learned:
        raise ValueError(
            "metric must be over all that learns of the cell, got one of a part: let the Kalman step learn all of the "
            "cell, or do not hand its metric over."
        )
    whitened = tuple(form.whiten(m, w_l) for m, w_l in zip(metric, w, strict=True))
    return whitened, pending.whiten(metric[layer])
