"""The quasi-diagonal Kalman preconditioner: steps scaled by a running outer product of the gradients.

The outer product, called the metric, the information or `J + Λ`, is stored and divided by in `quasi_diagonal.py`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, PyTree

from ..model import Model
from ..support.arguments import above_zero, number, unless_traced
from .informed import Informed
from .quasi_diagonal import QuasiDiagonal


class KalmanState(NamedTuple):
    """`step`: the number of updates made; `information`: `J + Λ`, the inverse covariance of the parameters."""

    step: Int[Array, ""]
    information: QuasiDiagonal


def inverse_square_root(count: Int[Array, ""]) -> Float[Array, ""]:
    """`1/√t` for the t-th update, t = count + 1."""
    return 1 / jnp.sqrt(count.astype(float) + 1)


def quasi_diagonal_kalman(
    decay: float | Float[Array, ""] | Callable[[Array], Array] = inverse_square_root,
    prior: float | Float[Array, ""] | None = None,
    rate: float | Float[Array, ""] = 1.0,
) -> Informed:
    """Kalman-like steps with a quasi-diagonal outer product (QDOP), with time and memory proportional to the number of
    parameters.

        J ← (1 − γ_t) J + MatrixReduce(g gᵀ),    θ ← θ − η (J + Λ)⁻¹ g

    where g is a gradient from any estimator: equations (24)–(27) of Ollivier, Tallec & Charpiat, *Training recurrent
    networks online without backtracking* (2015), Algorithm 2, with the outer product as the Fisher matrix. (The δθ
    printed after (27) has a minus sign; (12) has the plus sign that is meant.)

    `MatrixReduce` is quasi-diagonal. A block is a row of an affine-gated cell's weights (one gate of one unit), or a
    row of an `eqx.nn.Linear` with its bias. From each block, the diagonal and the bias's row are kept. Every other
    parameter is a block of its own. See `onward.transforms.QuasiDiagonal`.

    J scales with the square of the loss, so Λ depends on the loss's unit. The paper measures losses in bits.

    If this is the learner's optimiser, `onward.NoBackTrack` computes its norms from J. Inside `optax.chain` or another
    combinator, `onward.transforms.Informed` must say where J is; otherwise the norms are Euclidean.

    **Arguments:**

    - `decay`: γ_t in [0, 1], a number or a schedule of the number of updates made; 1/√t by default. It determines the
      step size: a smaller γ_t averages over more gradients, which makes the steps smaller.
    - `prior`: Λ, above 0; by default the size of the model's hidden state, as in the paper.
    - `rate`: η, above 0; 1 in the paper.

    The step may apply to a part of the parameters, under `optax.masked` or `optax.multi_transform`. Raises `ValueError`
    for a number out of range. Raises it at `init` if `prior` is left out and the parameters are not an `onward.Model`,
    or lack a part of the cell.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> optimizer, loss = onward.quasi_diagonal_kalman(), onward.losses.softmax_cross_entropy
        >>> learner = onward.Learner(onward.NoBackTrack(), optimizer, loss=loss)
        >>> carry = learner.init(model, key=jr.key(2))
        >>> carry, metrics = learner.run(carry, jax.numpy.ones((5, 3)), jax.numpy.zeros(5, int))
    """
    check_settings(decay, prior, rate)

    def init(params: PyTree) -> Any:
        return KalmanState(jnp.zeros((), jnp.int32), QuasiDiagonal.start(params, prior_of(prior, params)))

    def update(updates: PyTree, state: Any, params: PyTree = None) -> tuple[Any, Any]:
        information = state.information.decay_and_add(updates, decay_at(decay, state.step))
        step = jnp.asarray(optax.safe_increment(state.step))
        return stepped(information, updates, rate), KalmanState(step, information)

    return Informed(optax.GradientTransformation(init, update), lambda state: state.information)


def check_settings(decay, prior, rate) -> None:
    """Raises `ValueError` for a setting of a Kalman step that is out of range. Traced numbers pass."""
    if not callable(decay):
        wanted = "a number from 0 to 1, or a schedule"
        unless_traced(partial(number, holds=lambda value: 0 <= value <= 1, wanted=wanted), "decay", decay)
    if prior is not None:
        unless_traced(above_zero, "prior", prior)
    unless_traced(above_zero, "rate", rate)


def prior_of(prior, parameters: PyTree) -> Any:
    """Λ; if it is not given, the size of the model's hidden state."""
    return hidden_size(parameters) if prior is None else prior


def decay_at(decay, step: Int[Array, ""]) -> Float[Array, ""]:
    """γ_t after so many updates."""
    return jnp.asarray(decay(step) if callable(decay) else decay, float)


def stepped(information: Any, gradient: PyTree, rate) -> PyTree:
    """`-η (J + Λ)⁻¹ g`."""
    return jax.tree.map(lambda delta: -jnp.asarray(rate, delta.dtype) * delta, information.solve(gradient))


def hidden_size(parameters: PyTree) -> int:
    """The size of the hidden state of a model. Raises `ValueError` for other parameters, or a part of a cell."""
    if not isinstance(parameters, Model):
        raise ValueError(
            f"prior must be a number unless the parameters are an onward.Model, got {type(parameters).__name__}: "
            "the default is the size of the model's hidden state."
        )
    try:
        state = parameters.cell.init_hidden()
    except Exception as error:  # parts of the cell are missing
        raise ValueError(
            "prior must be a number if the step does not train the whole cell: the default is the size of the hidden "
            "state, which only the whole cell gives."
        ) from error
    return sum(leaf.size for leaf in jax.tree.leaves(state))
