"""The extended Kalman filter against dense matrices and the textbook's form."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import assert_same, problem

import onward
from onward.transforms import (
    DiagonalMatrix,
    FullMatrix,
    Informed,
    QuasiDiagonal,
    SoftmaxFisher,
    SquaredErrorFisher,
    extended_kalman,
)
from onward.transforms.fisher import AbstractFisher
from onward.transforms.quasi_diagonal import Rows, to_blocks
from tests.transforms.test_kalman import dense_quasi_diagonal

pytestmark = pytest.mark.product("name", "matrix")

STEPS, PRIOR, DECAY = 4, 0.5, 0.25
R = np.array([[0.7, 0.2], [0.2, 0.3]])


def gaussian(prediction, y):
    return (prediction - y) @ jnp.linalg.inv(jnp.asarray(R)) @ (prediction - y) / 2


def of_softmax(prediction):
    p = jax.nn.softmax(prediction)
    return jnp.diag(p) - jnp.outer(p, p)


# The loss, its Fisher matrix as the library factors it, and as it is written down.
LOSSES = {
    "softmax": (onward.losses.softmax_cross_entropy, SoftmaxFisher(), of_softmax),
    "squared": (onward.losses.squared_error, SquaredErrorFisher(), lambda prediction: 2 * jnp.eye(2)),
    "gaussian": (gaussian, SquaredErrorFisher(R), lambda prediction: jnp.linalg.inv(jnp.asarray(R))),
}


def stream(name):
    p = problem("vanilla", units=3, steps=STEPS)
    return p, (jnp.array([0, 1, 1, 0]) if name == "softmax" else p.ys)


def of_blocks(J, parameters):
    """Â of a dense matrix, block by block."""
    _, unravel = ravel_pytree(parameters)
    places = unravel(jnp.arange(len(J), dtype=float))
    whole = np.zeros_like(J)
    for block in to_blocks(places):
        rows = np.concatenate([block.weight, block.bias[:, None]], -1) if isinstance(block, Rows) else block
        for row in np.asarray(rows).reshape(-1, np.shape(rows)[-1]).astype(int):
            whole[np.ix_(row, row)] = dense_quasi_diagonal(J[np.ix_(row, row)][None])[0]
    return whole


REDUCED = {
    FullMatrix: lambda J, parameters: J,
    DiagonalMatrix: lambda J, parameters: np.diag(np.diag(J)),
    QuasiDiagonal: of_blocks,
}


def derivatives(p, loss):
    """One step with its derivatives, as functions of the flat parameters: the influence of all of them is carried."""
    parameters, static = eqx.partition(p.model, eqx.is_inexact_array)
    theta, unravel = ravel_pytree(parameters)

    def model(theta):
        return eqx.combine(unravel(theta), static)

    @jax.jit
    def step(theta, hidden, G, x, y):
        move = lambda theta, hidden: model(theta).cell(hidden, x)  # noqa: E731
        predict = lambda theta, hidden: model(theta).predict(hidden)  # noqa: E731
        F, J = jax.jacfwd(move, (0, 1))(theta, hidden)
        hidden, G = move(theta, hidden), J @ G + F
        by_theta, by_hidden = jax.jacfwd(predict, (0, 1))(theta, hidden)
        prediction, A = predict(theta, hidden), by_theta + by_hidden @ G
        return hidden, G, prediction, A, A.T @ jax.grad(loss)(prediction, y)

    return theta, unravel, step


@pytest.mark.parametrize("matrix", REDUCED, ids=lambda matrix: matrix.__name__)
@pytest.mark.parametrize("name", LOSSES)
def test_the_filter_is_its_equations_written_out(name, matrix):
    loss, fisher, dense = LOSSES[name]
    p, ys = stream(name)
    optimizer = extended_kalman(fisher, matrix, decay=DECAY, prior=PRIOR, rate=0.8)
    learner = onward.Learner(onward.RTRL(), optimizer, loss=loss)
    carry, _ = learner.run(learner.init(p.model, key=jr.key(0)), p.xs, ys)

    theta, unravel, step = derivatives(p, loss)
    hidden, G, J = p.cell.init_hidden(), jnp.zeros((3, len(theta))), np.zeros((len(theta), len(theta)))
    for x, y in zip(p.xs, ys, strict=True):
        hidden, G, prediction, A, g = step(theta, hidden, G, x, y)
        J = (1 - DECAY) * J + np.asarray(A.T @ dense(prediction) @ A)
        kept = REDUCED[matrix](J + PRIOR * np.eye(len(theta)), unravel(theta))
        theta = theta - 0.8 * np.linalg.solve(kept, g)
    assert_same(eqx.filter(carry.model, eqx.is_inexact_array), unravel(theta))


def test_with_a_full_matrix_and_no_decay_it_is_the_textbooks_filter():
    """`K = P Hᵀ (H P Hᵀ + R)⁻¹`, `θ ← θ + K (y − ŷ)`, `P ← P − K H P`."""
    p, ys = stream("gaussian")
    learner = onward.Learner(onward.RTRL(), extended_kalman(SquaredErrorFisher(R), prior=PRIOR), loss=gaussian)
    carry, _ = learner.run(learner.init(p.model, key=jr.key(0)), p.xs, ys)

    theta, unravel, step = derivatives(p, gaussian)
    hidden, G, P = p.cell.init_hidden(), jnp.zeros((3, len(theta))), np.eye(len(theta)) / PRIOR
    for x, y in zip(p.xs, ys, strict=True):
        hidden, G, prediction, H, _ = step(theta, hidden, G, x, y)
        K = np.asarray(P @ H.T @ np.linalg.inv(H @ P @ H.T + R))
        theta, P = theta + K @ (y - prediction), np.asarray(P - K @ H @ P)
    assert_same(eqx.filter(carry.model, eqx.is_inexact_array), unravel(theta), relative=1e-9)


class Constant(AbstractFisher):
    """The outer product of this derivative."""

    derivative: np.ndarray

    def factors(self, prediction):
        return jnp.asarray(self.derivative, prediction.dtype)[None]


SLOPE = np.array([0.3, -1.2])
FORWARD = {
    "rtrl": onward.RTRL(),
    "nobacktrack": onward.NoBackTrack(),
    "nobacktrack-per-unit": onward.NoBackTrack(per_unit=1),
    "uoro": onward.UORO(),
    "snap": onward.SnAp(order=1),
    "layerwise": onward.estimators.Layerwise(onward.RTRL()),
}


@pytest.mark.parametrize("name", FORWARD)
def test_the_gradients_are_those_of_the_estimator(name):
    """Of a loss with a constant slope the outer product is a Fisher matrix, and the quasi-diagonal step the one that
    there was: with weights and a reset, and norms drawn from the matrix.
    """
    p = problem("gru", units=2, steps=6)
    weight, reset = jnp.array([1.0, 0.5, 0.0, 1.0, 2.0, 1.0]), jnp.arange(6) == 3

    @jax.jit
    def learned():
        def arrays(optimizer):
            learner = onward.Learner(FORWARD[name], optimizer, loss=lambda prediction, y: SLOPE @ prediction)
            carry = learner.init(p.model, key=jr.key(0))
            return learner.run(carry, p.xs, p.ys, weight=weight, reset=reset)[0].arrays

        optimizers = (
            onward.quasi_diagonal_kalman(DECAY, PRIOR),
            extended_kalman(Constant(SLOPE), QuasiDiagonal, decay=DECAY, prior=PRIOR),
            extended_kalman(None, QuasiDiagonal, decay=DECAY, prior=PRIOR),
        )
        return [arrays(optimizer) for optimizer in optimizers]

    quasi_diagonal, by_fisher, by_outer_product = learned()
    assert_same(by_fisher, quasi_diagonal)
    assert_same(by_outer_product, quasi_diagonal)


def test_a_prediction_before_its_target_is_learned_alike():
    p, ys = stream("softmax")
    loss, fisher, _ = LOSSES["softmax"]
    learner = onward.Learner(onward.RTRL(), extended_kalman(fisher, DiagonalMatrix), loss=loss)
    carry = after = learner.init(p.model, key=jr.key(0))
    for t in range(2):
        carry, said = learner.predict(carry, p.xs[t])
        carry, _ = learner.learn(carry, said, ys[t], weight=jnp.array(0.5))
        after, _ = learner.update(after, p.xs[t : t + 1], ys[t : t + 1], weight=jnp.array([0.5]))
    assert_same(carry.arrays, after.arrays)


def test_only_the_outer_product_vanishes_with_a_squared_error():
    p, _ = stream("squared")
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.0), loss=onward.losses.squared_error)
    _, metrics = learner.run(learner.init(p.model, key=jr.key(0)), p.xs, p.ys, predictions=True)

    def largest(fisher):
        learner = onward.Learner(
            onward.RTRL(), extended_kalman(fisher, DiagonalMatrix), loss=onward.losses.squared_error
        )
        carry, _ = learner.run(learner.init(p.model, key=jr.key(0)), p.xs, metrics.predictions)
        return max(float(leaf.max()) for leaf in jax.tree.leaves(carry.optimizer.information.diagonal))

    assert largest(None) < 1e-20
    assert largest(SquaredErrorFisher()) > 1


def test_numbers_keep_the_precision_of_their_parameters():
    with jax.enable_x64(False):
        p = jax.tree.map(lambda leaf: leaf.astype("float32"), problem("vanilla", units=3, steps=STEPS))
        params = eqx.filter(p.model, eqx.is_inexact_array)
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        for matrix in REDUCED:
            optimizer = extended_kalman(None, matrix)
            steps, state = jax.eval_shape(lambda g, o=optimizer: o.update(g, o.init(g)), half)
            assert {leaf.dtype for leaf in jax.tree.leaves(steps)} == {np.dtype(jnp.bfloat16)}
            assert {leaf.dtype for leaf in jax.tree.leaves(state.information)} == {np.dtype(np.float32)}


def run_with(estimator, optimizer, **settings):
    p, ys = stream("softmax")
    learner = onward.Learner(estimator, optimizer, loss=onward.losses.softmax_cross_entropy, **settings)
    carry = learner.init(p.model, key=jr.key(0))
    if "batch" in settings:
        return learner.run(carry, p.xs[:, None], ys[:, None])
    return learner.run(carry, p.xs, ys)


SOFTMAX = extended_kalman(SoftmaxFisher())


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("run", "sentence"),
    [
        (lambda: extended_kalman("softmax"), "fisher must be one such as .*SoftmaxFisher.*, got 'softmax'"),
        (lambda: extended_kalman(None, "full"), "matrix must be FullMatrix, DiagonalMatrix or QuasiDiagonal .* 'full'"),
        (lambda: extended_kalman(None, decay=1.5), "decay must be a number from 0 to 1, or a schedule, got 1.5"),
        (lambda: extended_kalman(None, prior=0.0), "prior must be a finite number above 0, got 0.0"),
        (lambda: extended_kalman(None, rate=-1.0), "rate must be a finite number above 0, got -1.0"),
        (lambda: SquaredErrorFisher([[1.0, 2.0], [2.0, 1.0]]), "covariance must be a symmetric and positive definite"),
        (lambda: SquaredErrorFisher([1.0, 2.0]), "covariance must be a symmetric and positive definite"),
        (
            lambda: run_with(onward.RTRL(), extended_kalman(SquaredErrorFisher(np.eye(3)))),
            "covariance must be of the 2",
        ),
        (lambda: run_with(onward.RTRL(), SOFTMAX, chunk=2), "chunk=1 and no batch, got a chunk of 2 and batch=None"),
        (lambda: run_with(onward.RTRL(), SOFTMAX, batch=1), "chunk=1 and no batch, got a chunk of 1 and batch=1"),
        (lambda: run_with(onward.BPTT(), SOFTMAX), "estimator must carry an influence forward, .* BPTT carries none"),
        (
            lambda: run_with(
                onward.RTRL(), optax.masked(SOFTMAX, lambda tree: jax.tree.map(lambda l: l.ndim > 1, tree))
            ),
            "extended_kalman must step all trained parameters: optax.masked cannot go around it",
        ),
        (
            lambda: optax.masked(extended_kalman(None, prior=1.0), {"a": True, "b": False}).init(
                {"a": jnp.ones(2), "b": jnp.ones(2)}
            ),
            "extended_kalman must step all trained parameters: optax.masked cannot go around it",
        ),
        (lambda: run_with(onward.RTRL(), optax.MultiSteps(SOFTMAX, 2)), "extended_kalman cannot be inside optax.Multi"),
        (lambda: run_with(onward.RTRL(), onward.fptt_exact(SOFTMAX, 0.5)), "extended_kalman cannot be inside fptt_exa"),
        (
            lambda: SOFTMAX.update(jnp.ones(2), extended_kalman(None, prior=1.0).init(jnp.ones(2))),
            "extended_kalman needs update.*, got no gradients_of",
        ),
    ],
)
def test_what_does_not_fit_is_refused_in_a_sentence(run, sentence):
    with pytest.raises(ValueError, match=sentence):
        run()


def test_the_metric_is_that_of_a_quasi_diagonal_matrix_alone():
    params = {"w": jnp.ones(2)}
    for matrix in REDUCED:
        optimizer = extended_kalman(None, matrix, prior=1.0)
        assert isinstance(optimizer, Informed)
        state = optimizer.init(params)
        assert optimizer.metric(state) is (state.information if matrix is QuasiDiagonal else None)
