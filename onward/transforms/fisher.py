"""Fisher matrices of a prediction, for the extended Kalman filter."""

from abc import abstractmethod
from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float


class AbstractFisher(eqx.Module):
    """The Fisher matrix of a prediction ŷ, as a distribution of the target: `I = Σ_k f_k f_kᵀ`."""

    @abstractmethod
    def factors(self, prediction: Float[Array, " outputs"]) -> Float[Array, "_factors outputs"]:
        """The factors f_k, one in each row."""


class SoftmaxFisher(AbstractFisher):
    """The Fisher matrix of logits, for `onward.losses.softmax_cross_entropy`:

        I = diag(p) − p pᵀ = Σ_k p_k (e_k − p) (e_k − p)ᵀ,    p = softmax(ŷ),

    where e_k is the k-th unit vector. There is a factor for each class.

        >>> import jax.numpy as jnp
        >>> from onward.transforms import SoftmaxFisher
        >>> F = SoftmaxFisher().factors(jnp.zeros(2))
        >>> (F.T @ F).round(4).tolist()
        [[0.25, -0.25], [-0.25, 0.25]]
    """

    def factors(self, prediction):
        log_p = jax.nn.log_softmax(prediction)
        return jnp.exp(log_p / 2)[:, None] * (jnp.eye(len(prediction), dtype=prediction.dtype) - jnp.exp(log_p))


class SquaredErrorFisher(AbstractFisher):
    """The Fisher matrix of the mean of a Gaussian with covariance R, `I = R⁻¹`, for the loss
    `½ (ŷ − y)ᵀ R⁻¹ (ŷ − y)`. By default `R = ½ Id`, which is the one of `onward.losses.squared_error`.

    **Arguments:** `covariance`: R, symmetric and positive definite, `[outputs, outputs]`; `None` for ½ Id. Raises
    `ValueError` if it is neither, or if its size is not that of the prediction.

        >>> import jax.numpy as jnp
        >>> from onward.transforms import SquaredErrorFisher
        >>> F = SquaredErrorFisher(jnp.array([[2.0, 1.0], [1.0, 2.0]])).factors(jnp.zeros(2))
        >>> (3 * F.T @ F).round(4).tolist()
        [[2.0, -1.0], [-1.0, 2.0]]
    """

    root: Float[np.ndarray, "outputs outputs"] | None

    def __init__(self, covariance: ArrayLike | Sequence[Sequence[float]] | None = None):
        self.root = None if covariance is None else _inverse_root(np.asarray(covariance))

    def factors(self, prediction):
        if self.root is None:
            return jnp.sqrt(jnp.asarray(2, prediction.dtype)) * jnp.eye(len(prediction), dtype=prediction.dtype)
        if len(self.root) != len(prediction):
            raise ValueError(
                f"covariance must be of the {len(prediction)} outputs of the model, got {self.root.shape}."
            )
        return jnp.asarray(self.root, prediction.dtype)


def _inverse_root(R: np.ndarray) -> np.ndarray:
    """The inverse of the Cholesky factor of R."""
    square = R.ndim == 2 and R.shape[0] == R.shape[1] and np.issubdtype(R.dtype, np.floating)
    try:
        if not (square and np.allclose(R, R.T)):
            raise np.linalg.LinAlgError
        return np.linalg.inv(np.linalg.cholesky(R.astype(np.float64)))
    except np.linalg.LinAlgError:
        raise ValueError(
            f"covariance must be a symmetric and positive definite matrix, got {R.dtype} {R.tolist()}."
        ) from None
