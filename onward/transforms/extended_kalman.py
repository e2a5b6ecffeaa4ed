"""The extended Kalman filter over a model's parameters, with the Fisher matrix of the prediction."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..support.trees import leading
from .fisher import AbstractFisher
from .information import DiagonalMatrix, FullMatrix
from .informed import Informed
from .kalman import check_settings, decay_at, prior_of, stepped
from .quasi_diagonal import QuasiDiagonal


class ExtendedKalmanState(NamedTuple):
    """`step`: the number of updates made; `information`: `J + Λ`, the inverse covariance of the parameters."""

    step: Int[Array, ""]
    information: FullMatrix | DiagonalMatrix | QuasiDiagonal


def extended_kalman(
    fisher: AbstractFisher | None,
    matrix: type[FullMatrix] | type[DiagonalMatrix] | type[QuasiDiagonal] = FullMatrix,
    *,
    decay: float | Float[Array, ""] | Callable[[Array], Array] = 0.0,
    prior: float | Float[Array, ""] | None = None,
    rate: float | Float[Array, ""] = 1.0,
) -> Informed:
    """The extended Kalman filter over the parameters θ, in its information form:

        J ← (1 − γ_t) J + MatrixReduce((∂ŷ/∂θ)ᵀ I (∂ŷ/∂θ)),    θ ← θ − η (J + Λ)⁻¹ ∂loss/∂θ,

    where ŷ is the prediction and I its Fisher matrix: equations (20)–(22) of Ollivier, Tallec & Charpiat, *Training
    recurrent networks online without backtracking* (2015), and (24)–(27) of its Algorithm 2 with a decay. Both
    derivatives are those of the estimator. With a full matrix, γ = 0, η = 1 and a squared error of covariance R this is
    the usual filter, `θ ← θ + K (y − ŷ)` with `K = P Hᵀ (H P Hᵀ + R)⁻¹` and `P = (J + Λ)⁻¹`.

    `onward.quasi_diagonal_kalman` takes the outer product of the loss's gradient instead of the Fisher matrix. With a
    squared error, the outer product vanishes as the error does; the Fisher matrix does not.

    The learner's estimator must carry an influence forward, as `onward.RTRL` and `onward.NoBackTrack` do. The learner
    must have a chunk of 1 and no batch. All trained parameters take this step, along the gradient of each prediction:
    `optax.masked`, `optax.MultiSteps` and `onward.fptt_exact` around it are refused. The loss is in nats, as in
    `onward.losses`. A step's weight w multiplies I by w².

    **Arguments:**

    - `fisher`: `onward.transforms.SoftmaxFisher()`, `SquaredErrorFisher(covariance)`, a class of your own, or `None`
      for the outer product.
    - `matrix`: how much of the matrix is kept: `onward.transforms.FullMatrix` (time P³ a step, for small networks of P
      parameters), `DiagonalMatrix`, or `QuasiDiagonal`, which keeps the diagonal and the bias's row of each block.
    - `decay`: γ_t in [0, 1], a number or a schedule of the number of updates made. At 0, steps shrink like 1/t. The
      paper has 1/√t in its experiments.
    - `prior`: Λ, above 0; by default the size of the model's hidden state, as in the paper.
    - `rate`: η, above 0; 1 in the paper.

    Raises `ValueError` for arguments out of range or of the wrong kind, at `init` if `prior` is left out and the
    parameters are not an `onward.Model`, and at the first update for a learner that does not fit.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> from onward.transforms import SoftmaxFisher, extended_kalman
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> optimizer, loss = extended_kalman(SoftmaxFisher()), onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.RTRL(), optimizer, loss=loss)
        >>> carry = learner.init(model, key=jr.key(2))
        >>> carry, metrics = learner.run(carry, jax.numpy.ones((50, 3)), jax.numpy.zeros(50, int))
        >>> bool(metrics.losses[-1] < 0.1 * metrics.losses[0])
        True
    """
    if not (fisher is None or isinstance(fisher, AbstractFisher)):
        raise ValueError(
            "fisher must be one such as onward.transforms.SoftmaxFisher(), or None for the outer product, got "
            f"{fisher!r}."
        )
    if matrix not in (FullMatrix, DiagonalMatrix, QuasiDiagonal):
        raise ValueError(
            f"matrix must be FullMatrix, DiagonalMatrix or QuasiDiagonal of onward.transforms, got {matrix!r}."
        )
    check_settings(decay, prior, rate)

    def init(params: PyTree) -> Any:
        if any(map(_is_left_out, jax.tree.leaves(params, is_leaf=_is_left_out))):
            raise ValueError("extended_kalman must step all trained parameters: optax.masked cannot go around it.")
        return ExtendedKalmanState(jnp.zeros((), jnp.int32), matrix.start(params, prior_of(prior, params)))

    def update(
        updates: PyTree, state: Any, params: PyTree = None, *, gradients_of: Callable | None = None, **_: Any
    ) -> tuple[Any, Any]:
        if fisher is None:
            rows = leading(updates)
        elif gradients_of is None:
            raise ValueError(
                "extended_kalman needs update(grads, state, params, gradients_of=...), got no gradients_of."
            )
        else:
            rows = gradients_of(fisher.factors)
        information = state.information.decay_and_add_all(rows, decay_at(decay, state.step))
        return stepped(information, updates, rate), ExtendedKalmanState(
            jnp.asarray(optax.safe_increment(state.step)), information
        )

    # Norms of NoBackTrack are computed from a quasi-diagonal matrix alone.
    metric = (lambda state: state.information) if matrix is QuasiDiagonal else (lambda state: None)
    return Informed(optax.GradientTransformationExtraArgs(init, update), metric)


def _is_left_out(leaf: Any) -> bool:
    return isinstance(leaf, optax.MaskedNode)
