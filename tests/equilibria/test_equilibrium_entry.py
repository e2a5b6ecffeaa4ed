"""The entry, its diagnostics and warnings, the penalties, and bad input."""

import math
import warnings

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from jax.flatten_util import ravel_pytree

from onward import equilibria

UNITS = 6


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def weights(size=0.8):
    W = np.random.default_rng(0).normal(size=(UNITS, UNITS))
    return jnp.asarray(size * W / np.linalg.norm(W, 2)), normal(1, UNITS)


def vanilla(h, args):
    W, x = args
    return jnp.tanh(W @ h + x)


def split(h, args):
    """The same map with a state of two parts."""
    after = vanilla(jnp.concatenate([h["a"], h["b"].reshape(-1)]), args)
    return {"a": after[:2], "b": after[2:].reshape(2, 2)}


def grow(h, x):
    return 2 * h + x


def root(h, _):
    """At rest at 0, where its slope is no number."""
    return jnp.sqrt(h)


def solve(function=vanilla, state=None, args=None, **settings):
    state = jnp.zeros(UNITS) if state is None else state
    return equilibria.equilibrium(function, state, weights() if args is None else args, **settings)


def finish(function, *args):
    """Call it and wait for what it has to say."""
    jax.block_until_ready(function(*args))
    jax.effects_barrier()


@pytest.fixture(autouse=True)
def no_other_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
        jax.effects_barrier()


@pytest.mark.parametrize("solver", [None, optx.Newton(rtol=1e-9, atol=1e-9)], ids=["plain", "newton"])
def test_what_is_returned(solver):
    found = solve(solver=solver, tolerance=1e-8, key=jr.key(0))
    h, diagnostics = found.state, found.diagnostics
    np.testing.assert_allclose(h, vanilla(h, weights()), atol=2e-8)
    np.testing.assert_allclose(diagnostics.residual, np.linalg.norm(vanilla(h, weights()) - h), atol=1e-15)
    assert diagnostics.settled
    J = dense(vanilla, h, weights())
    np.testing.assert_allclose(diagnostics.jacobian_norm, np.linalg.norm(J, 2), rtol=1e-3)
    assert diagnostics.jacobian_norm <= np.linalg.norm(J, 2) + 1e-12


def test_the_norm_by_power_iteration_where_eigenvalues_are_complex():
    J = jnp.array([[0.0, -0.9, 0.0], [0.8, 0.0, 0.3], [0.0, 0.0, 0.1]])
    state = {"a": jnp.zeros(2), "b": jnp.zeros((1, 1))}

    def function(h, J):
        after = J @ jnp.concatenate([h["a"], h["b"][0]])
        return {"a": after[:2], "b": after[2:][None]}

    found = jax.jit(lambda J: equilibria.jacobian_norm(function, state, J, steps=1000, key=jr.key(0)))(J)
    np.testing.assert_allclose(found, np.linalg.norm(J, 2), rtol=1e-10)


def test_a_warm_start_saves_steps():
    W, x = weights()
    cold = solve(tolerance=1e-8)
    warm = solve(state=cold.state, args=(W, x + 1e-4), tolerance=1e-8)
    assert warm.diagnostics.steps < cold.diagnostics.steps - 3
    assert solve(state=cold.state, tolerance=1e-6).diagnostics.steps == 1


def test_single_precision_settles_at_any_scale():
    """Where the rounding of a product is that of its largest number, in the small ones as well."""
    W, x = (leaf.astype("float32") for leaf in weights())
    diagnostics = jax.jit(jax.vmap(lambda x: solve(lambda h, args: args[0] @ h + args[1], x, (W, x)).diagnostics))
    found = diagnostics(jnp.array([1, 1e3, 1e6], "float32")[:, None] * x)
    assert found.settled.all()
    assert (found.steps < 100).all()


def test_fixed_steps_are_judged_by_where_they_end():
    few = pytest.warns(
        equilibria.EquilibriumWarning, match="after at most 2 steps, one more would move it by more than"
    )
    with few:
        found = solve(solver=equilibria.FixedSteps(2))
    np.testing.assert_array_equal(found.state, vanilla(vanilla(jnp.zeros(UNITS), weights()), weights()))
    found = solve(solver=equilibria.FixedSteps(1500))
    assert found.diagnostics.settled
    assert found.diagnostics.steps == 1500


def test_it_is_never_silent():
    unsettled = {"match": "did not settle", "expected_warning": equilibria.EquilibriumWarning}
    with pytest.warns(**unsettled):
        solve(max_steps=3)
    with pytest.warns(**unsettled):
        assert not solve(grow, args=1.0).diagnostics.settled
    with pytest.warns(**unsettled):  # a state that becomes NaN on the way
        assert not solve(lambda h, _: jnp.log(h), state=-jnp.ones(3)).diagnostics.settled
    for transform in (jax.jit, jax.grad, lambda f: jax.jit(jax.grad(f))):
        with pytest.warns(**unsettled):
            finish(transform(lambda args: solve(args=args, max_steps=3).state.sum()), weights())
    with pytest.warns(equilibria.EquilibriumWarning, match="spectral radius of ∂F/∂h is 1 or above"):
        solve(grow, state=-jnp.ones(UNITS), args=1.0, key=jr.key(0))
    with pytest.warns(equilibria.EquilibriumWarning, match="or not a number"):
        solve(root, key=jr.key(0))
    with pytest.warns(equilibria.EquilibriumWarning, match="or not a number"):
        finish(jax.jit(lambda state: solve(root, state, key=jr.key(0))), jnp.zeros(UNITS))


def test_in_a_batch_only_what_fails_is_reported():
    W, x = weights()

    @jax.jit
    def batch(sizes):
        return jax.vmap(lambda size: solve(args=(size * W, x), max_steps=60).diagnostics)(sizes)

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        settled = batch(jnp.array([0.1, 3.0, 0.2])).settled
        jax.effects_barrier()
    assert settled.tolist() == [True, False, True]
    assert [(entry.message.failed, entry.message.solves) for entry in said] == [(1, 3)]
    assert jnp.all(batch(jnp.array([0.1, 0.3, 0.2])).settled)  # and says nothing


def test_it_raises_if_asked():
    with pytest.raises(RuntimeError, match="did not settle"):
        solve(max_steps=3, throw=True)
    with pytest.raises(RuntimeError, match="spectral radius of ∂F/∂h is 1 or above"):
        solve(grow, state=-jnp.ones(UNITS), args=1.0, key=jr.key(0), throw=True)
    with pytest.raises(RuntimeError, match="spectral radius of ∂F/∂h is 1 or above"):
        solve(root, key=jr.key(0), throw=True)
    assert solve(throw=True, key=jr.key(0)).diagnostics.settled


@pytest.mark.parametrize(
    "part",
    [
        lambda E, x: E(x).diagnostics.residual,
        lambda E, x: jax.grad(lambda x: E(x).state.sum())(x),
        lambda E, x: jax.jvp(lambda x: E(x).state, (x,), (x,))[1],
    ],
    ids=["diagnostics", "gradient", "tangent"],
)
def test_an_error_comes_wherever_a_warning_would(part):
    """Also if the program returns nothing of the state itself."""

    def of(throw):
        unwatched = equilibria.NeumannRBP(3, warn_above=math.inf)
        return lambda x: equilibria.equilibrium(grow, x, x, max_steps=3, adjoint=unwatched, throw=throw)

    with pytest.warns(equilibria.EquilibriumWarning, match="did not settle"):
        jax.block_until_ready(jax.jit(lambda x: part(of(False), x))(jnp.ones(UNITS)))
    with pytest.raises(RuntimeError, match="did not settle"):
        jax.block_until_ready(jax.jit(lambda x: part(of(True), x))(jnp.ones(UNITS)))


def test_a_batch_outside_jit_is_compiled_once(caplog):
    def compiled():
        caplog.clear()
        with jax.log_compiles():
            jax.block_until_ready(jax.vmap(lambda x: solve(state=x).state)(jnp.ones((2, UNITS))))
        return [line for line in caplog.messages if "XLA compilation" in line]

    assert compiled()
    assert not compiled()


def test_gradients_flow_through_the_state_alone():
    def state(args):
        return jnp.sum(solve(args=args, tolerance=1e-13, adjoint=equilibria.NeumannRBP(200)).state)

    def closed(args):
        found = solve(lambda h, _: vanilla(h, args), tolerance=1e-13, adjoint=optx.ImplicitAdjoint(), key=jr.key(0))
        diagnostics = found.diagnostics
        return jnp.sum(found.state) + diagnostics.residual + diagnostics.jacobian_norm + diagnostics.spectral_radius

    for a, b in zip(*(jax.jit(jax.grad(f))(weights()) for f in (state, closed)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-10)


def test_it_compiles_once():
    traces = 0

    def counted(h, args):
        nonlocal traces
        traces += 1
        return vanilla(h, args)

    @jax.jit
    def step(args):
        return jax.grad(lambda args: equilibria.equilibrium(counted, jnp.zeros(UNITS), args).state.sum())(args)

    W, x = weights()
    step((W, x))
    before = traces
    step((0.5 * W, x))
    assert traces == before


def dense(function, state, args):
    flat, unravel = ravel_pytree(state)
    return np.asarray(jax.jit(jax.jacrev(lambda flat: ravel_pytree(function(unravel(flat), args))[0]))(flat))


STATES = {"vector": (vanilla, jnp.zeros), "tree": (split, lambda n: {"a": jnp.zeros(2), "b": jnp.zeros((2, 2))})}


@pytest.mark.parametrize(("kind", "size"), [("vector", 0.8), ("tree", 0.05)])
def test_penalties_against_dense_ones(kind, size):
    function, make = STATES[kind]
    state, args = make(UNITS), weights(size)
    J = dense(function, state, args)
    A = (np.eye(UNITS) - J).T @ (np.eye(UNITS) - J)
    smallest = np.linalg.eigvalsh(A)[0]

    @jax.jit
    def measures(args):
        def eigenvalue(steps):
            return equilibria.smallest_eigenvalue(function, state, args, steps=steps, key=jr.key(0))

        return (
            equilibria.column_norm_penalty(function, state, args, contraction=0.3),
            equilibria.gershgorin_bound(function, state, args),
            equilibria.gershgorin_penalty(function, state, args),
            (eigenvalue(2), eigenvalue(UNITS), eigenvalue(100)),
            equilibria.eigenvalue_penalty(function, state, args, steps=UNITS, margin=2.0, key=jr.key(0)),
        )

    columns, bound, penalty, eigenvalues, held = measures(args)
    np.testing.assert_allclose(columns, max(0, np.linalg.norm(J, 1) - 0.3), atol=1e-12)

    np.testing.assert_allclose(bound, 1 - np.sqrt(UNITS) * np.linalg.norm(A - np.eye(UNITS)), rtol=1e-12)
    assert bound <= 1 - np.linalg.norm(A - np.eye(UNITS), np.inf) <= smallest
    np.testing.assert_allclose(penalty, max(0, -bound), atol=1e-12)

    np.testing.assert_allclose(eigenvalues[1:], smallest, rtol=1e-10)
    assert eigenvalues[0] > smallest
    np.testing.assert_allclose(held, 2 - smallest, rtol=1e-10)


def test_penalties_against_differences():
    W, x = weights()
    direction = normal(4, UNITS, UNITS)

    def penalised(t):
        args = (W + t * direction, x)
        h = jax.lax.fori_loop(0, 200, lambda _, h: vanilla(h, args), jnp.zeros(UNITS))
        return jnp.stack(
            [
                equilibria.column_norm_penalty(vanilla, h, args, contraction=0.3),
                equilibria.gershgorin_penalty(vanilla, h, args),
                equilibria.smallest_eigenvalue(vanilla, h, args, steps=UNITS, key=jr.key(0)),
            ]
        )

    e, run = 1e-4, jax.jit(penalised)
    differences = (8 * (run(e) - run(-e)) - (run(2 * e) - run(-2 * e))) / (12 * e)
    np.testing.assert_allclose(jax.jit(jax.jacrev(penalised))(0.0), differences, rtol=1e-7)


def test_penalties_where_the_krylov_space_ends_early():
    """With J = 0, Lanczos ends after one step, and Gershgorin's bound has no slope."""

    def of(W):
        def function(h, x):
            return W @ h + x

        return (
            equilibria.smallest_eigenvalue(function, jnp.zeros(4), 0.0, steps=4, key=jr.key(0)),
            equilibria.gershgorin_bound(function, jnp.zeros(4), 0.0),
            equilibria.jacobian_norm(function, jnp.zeros(4), 0.0, key=jr.key(0)),
        )

    run = jax.jit(of)
    np.testing.assert_allclose(run(jnp.zeros((4, 4))), (1, 1, 0), atol=1e-12)
    assert np.all(np.isfinite(jax.jit(jax.jacrev(lambda W: jnp.stack(of(W)[:2])))(jnp.zeros((4, 4)))))
    two = jnp.diag(jnp.array([0.5, 0.5, 0.2, 0.2]))
    np.testing.assert_allclose(run(two)[0], 0.25, rtol=1e-10)


BAD = {
    "shape": (r"the map must return .* float64\[6\].* float64\[12\]", lambda: solve(lambda h, _: jnp.tile(h, 2))),
    "batch": (r"state: the map fails with float64\[9, 6\], but takes one row of it; for a batch", lambda:
        solve(state=jnp.zeros((9, UNITS)))),
    "dtype": (r"the map must .* float32\[6\]", lambda: solve(lambda h, _: h.astype("float32"))),
    "structure": (r"the map must .*\(float64\[6\],\)", lambda: solve(lambda h, _: (h,))),
    "integers": (r"state must be floating-point arrays, got int64\[6\]", lambda: solve(state=jnp.zeros(UNITS, int))),
    "nan": (r"state must be finite, got nan for 1 of 6", lambda: solve(state=jnp.zeros(UNITS).at[2].set(jnp.nan))),
    "max_steps": ("max_steps must be an integer of at least 1, got 0", lambda: solve(max_steps=0)),
    "tolerance": ("tolerance must be a finite number above 0, got 0", lambda: solve(tolerance=0)),
    **{
        f"tolerance-{bad!r}": (f"tolerance must be .* above 0, got {bad!r}", lambda bad=bad: solve(tolerance=bad))
        for bad in ("1e-3", None, True)
    },
    "empty": (r"state must hold at least one number, got \{\}", lambda: equilibria.equilibrium(lambda h, _: h, {})),
    "fewer": ("max_steps must be at least the 100 that the solver takes, got 30", lambda: solve(
        solver=equilibria.FixedSteps(100), max_steps=30)),
    "no-bound": ("max_steps must be given for FullBPTT", lambda: optx.fixed_point(
        vanilla, equilibria.FixedSteps(1), jnp.zeros(UNITS), weights(), adjoint=equilibria.FullBPTT(), max_steps=None)),
    "neumann": ("steps must be an integer of at least 0, got -1", lambda: equilibria.NeumannRBP(-1)),
    "mixing": ("mixing must be a number above 0 and at most 1, got 0", lambda: equilibria.NeumannRBP(3, mixing=0)),
    "warn-above": ("warn_above must be a number above 0, or math.inf, got 0", lambda: equilibria.NeumannRBP(
        3, warn_above=0)),
    "series": ("tolerance must be a finite number of at least 0, got -1", lambda: equilibria.NeumannRBP(3, -1)),
    "cg": ("steps must be an integer of at least 1, got -1", lambda: equilibria.ConjugateGradientRBP(-1)),
    "rbp": ("steps must be an integer of at least 1, got 2.5", lambda: equilibria.RBP(2.5, key=jr.key(0))),
    "truncated": ("steps must be an integer of at least 1, got 0", lambda: equilibria.TruncatedBPTT(0)),
    "fixed": ("steps must be an integer of at least 1, got None", lambda: equilibria.FixedSteps(None)),
    "damping": ("damping must be .* at least 0, got -1", lambda: equilibria.ConjugateGradientRBP(3, -1)),
    "epsilon": ("tolerance must be .* 0, got nan", lambda: equilibria.RBP(3, float("nan"), key=jr.key(0))),
    "mean-word": ("mean must be a finite number above 0, got '2'", lambda: equilibria.PoissonCut("2")),
    "mean": ("mean must be a finite number above 0, got 0", lambda: equilibria.PoissonCut(0)),
    "contraction": ("contraction must be between 0 and 1, got 1", lambda: equilibria.column_norm_penalty(
        vanilla, jnp.zeros(UNITS), weights(), contraction=1)),
    "margin": ("margin must be a finite number above 0, got 0", lambda: equilibria.eigenvalue_penalty(
        vanilla, jnp.zeros(UNITS), weights(), steps=2, margin=0, key=jr.key(0))),
    "margin-word": ("margin must be a finite number above 0, got 'a'", lambda: equilibria.eigenvalue_penalty(
        vanilla, jnp.zeros(UNITS), weights(), steps=2, margin="a", key=jr.key(0))),
    "penalty-shape": (r"the map must return .* float64\[6\]; got float64\[5\]", lambda: equilibria.gershgorin_bound(
        lambda h, _: h[:5], jnp.zeros(UNITS))),
    "penalty-structure": (r"the map must return .*; got float64\[6\]", lambda: equilibria.column_norm_penalty(
        lambda h, _: h[0], (jnp.zeros(UNITS),))),
    "penalty-order": ("the map must return", lambda: equilibria.smallest_eigenvalue(
        lambda h, _: h.T, jnp.zeros((2, 3)), steps=2, key=jr.key(0))),
    "penalty-dtype": ("the map must return .* float32", lambda: equilibria.gershgorin_bound(
        lambda h, _: h.astype("float32"), jnp.zeros(UNITS))),
    "penalty-integers": (r"state must be floating-point arrays, got int64\[6\]", lambda: equilibria.gershgorin_bound(
        lambda h, _: h, jnp.zeros(UNITS, int))),
    "cotangent": (r"cotangent must be like state, float64\[6\], got float64\[5\]", lambda: equilibria.adjoint_residual(
        vanilla, jnp.zeros(UNITS), weights(), cotangent=jnp.zeros(5), adjoint=equilibria.NeumannRBP(3))),
    "norm": ("the map must return", lambda: equilibria.jacobian_norm(
        lambda h, _: h[:2], jnp.zeros(UNITS), key=jr.key(0))),
    "least-squares": ("NeumannRBP differentiates fixed points and roots", lambda: solve(
        solver=optx.LevenbergMarquardt(rtol=1e-6, atol=1e-6))),
    "root": ("the map must return", lambda: jax.grad(lambda x: optx.root_find(
        lambda h, x: h["a"] - x, optx.Newton(1e-6, 1e-6), {"a": jnp.zeros(2)}, x,
        adjoint=equilibria.NeumannRBP(3)).value["a"].sum())(jnp.ones(2))),
}  # fmt: skip


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_one_sentence(case):
    match, attempt = BAD[case]
    with pytest.raises(ValueError, match=match):
        attempt()


def test_single_precision_stays_single():
    args = jax.tree.map(lambda leaf: leaf.astype("float32"), weights())
    exact = jax.jit(jax.grad(lambda args: solve(args=args, adjoint=equilibria.NeumannRBP(300)).state.sum()))(weights())
    for adjoint in (equilibria.NeumannRBP(20), equilibria.ConjugateGradientRBP(20), equilibria.RBP(20, key=jr.key(0))):

        def value(args, adjoint=adjoint):
            return solve(state=jnp.zeros(UNITS, "float32"), args=args, adjoint=adjoint).state.sum()

        for found, expected in zip(jax.jit(jax.grad(value))(args), exact, strict=True):
            assert found.dtype == jnp.float32
            np.testing.assert_allclose(found, expected, atol=2e-3)
