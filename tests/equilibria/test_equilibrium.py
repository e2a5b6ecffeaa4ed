"""Every adjoint of a fixed point against a dense solve, unrolling, differences and the paper's propositions."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optimistix as optx
import pytest
from jax.flatten_util import ravel_pytree
from problems import QUICK, assert_same

import onward
from onward import equilibria
from onward.equilibria.jacobian import products

pytestmark = pytest.mark.product("name", "adjoint")

KEY = jr.key(3, impl=QUICK)
SETTLED = 400  # steps after which each of the maps stands still to the last bits
EXACT = {
    "neumann": lambda: equilibria.NeumannRBP(SETTLED),
    "conjugate-gradient": lambda: equilibria.ConjugateGradientRBP(60, damping=0, tolerance=1e-13),
    "rbp": lambda: equilibria.RBP(SETTLED, key=KEY),
    "truncated": lambda: equilibria.TruncatedBPTT(SETTLED // 2),
    "full": lambda: equilibria.FullBPTT(),
}
STEADY = {name: make for name, make in EXACT.items() if name not in ("truncated", "full")}


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def contraction(seed, units):
    W = normal(seed, units, units)
    return 0.8 * W / np.linalg.norm(W, 2)


def vanilla():
    def function(h, args):
        W, x = args
        return jnp.tanh(W @ h + x)

    return function, jnp.zeros(6), (contraction(0, 6), normal(1, 6))


def gru():
    cell = onward.GRUCell(2, 5, key=KEY)
    return (lambda h, args: args[0](h, args[1])), cell.init_hidden(), (cell, normal(1, 2))


def hopfield():
    def function(h, args):  # equation (18) in unit Euler steps, a = 1, b = 0.5
        W, x = args
        W = jnp.triu(W, 1)
        return (W + W.T) @ jax.nn.sigmoid(0.5 * h) + x

    return function, jnp.zeros(6), (normal(0, 6, 6), normal(1, 6))


def clamped():
    function, h, args = hopfield()
    observed = jnp.arange(6) < 3
    return (lambda h, args: jnp.where(observed, args[1], function(h, (args[0], jnp.zeros(6))))), h, args


def tree():
    def function(h, args):
        mixed = args["W"] @ jnp.concatenate([h["a"], h["b"].reshape(-1)]) + args["x"]
        return {"a": jnp.tanh(mixed[:3]), "b": jnp.sin(mixed[3:]).reshape(2, 2)}

    args = {"W": contraction(0, 7), "x": normal(1, 7)}
    return function, {"a": jnp.zeros(3), "b": jnp.zeros((2, 2))}, args


MAPS = {"vanilla": vanilla, "gru": gru, "hopfield": hopfield, "clamped": clamped, "tree": tree}
every_map = pytest.mark.parametrize("name", MAPS)


@functools.cache
def problem(name):
    """A map, where it rests, its arguments, the loss's gradient there, and the Jacobian as a matrix."""
    function, h, args = MAPS[name]()
    flat, unravel = ravel_pytree(h)

    @jax.jit
    def rest(flat):
        def step(flat):
            return ravel_pytree(function(unravel(flat), args))[0]

        flat = jax.lax.fori_loop(0, 3 * SETTLED, lambda _, flat: step(flat), flat)
        return flat, jax.jacrev(step)(flat)

    flat, J = rest(flat)
    return function, unravel(flat), args, unravel(normal(2, *flat.shape)), np.asarray(J)


def dense(name, damping=0.0):
    """`zᵀ ∂F/∂w` with z from a dense solve."""
    function, h, args, b, J = problem(name)
    away, right = np.eye(len(J)) - J, ravel_pytree(b)[0]
    z = np.linalg.solve(away @ away.T + damping * np.eye(len(J)), away @ right)
    numbers, others = eqx.partition(args, eqx.is_inexact_array)

    @jax.jit
    def weighted(numbers, z):
        return jax.vjp(lambda numbers: function(h, eqx.combine(numbers, others)), numbers)[1](z)[0]

    return weighted(numbers, ravel_pytree(h)[1](jnp.asarray(z)))


def loss(args, function, start, b, adjoint, solver, max_steps=256):
    resting = optx.fixed_point(function, solver, start, args, adjoint=adjoint, max_steps=max_steps).value
    return ravel_pytree(b)[0] @ ravel_pytree(resting)[0]


def gradient(args, *rest):
    numbers, others = eqx.partition(args, eqx.is_inexact_array)
    return jax.jit(jax.grad(lambda numbers: loss(eqx.combine(numbers, others), *rest)))(numbers)


@functools.cache
def settled_gradient(name, adjoint):
    function, h, args, b, _ = problem(name)
    start = jax.tree.map(jnp.zeros_like, h)
    return gradient(args, function, start, b, EXACT[adjoint](), equilibria.FixedSteps(SETTLED), SETTLED)


@every_map
@pytest.mark.parametrize("adjoint", EXACT)
def test_every_adjoint_is_a_dense_solve_where_the_map_rests(name, adjoint):
    """With Neumann and full unrolling among them, this is Proposition 1."""
    assert_same(settled_gradient(name, adjoint), dense(name))


@pytest.mark.parametrize("name", ["vanilla", "tree"])
@pytest.mark.parametrize("adjoint", STEADY)
def test_a_root_finder_sees_the_map_less_its_state(name, adjoint):
    function, h, args, b, _ = problem(name)

    def root(args):
        def equation(h, args):
            return jax.tree.map(jnp.subtract, function(h, args), h)

        solver = optx.Newton(rtol=1e-13, atol=1e-13)
        start = jax.tree.map(jnp.zeros_like, h)
        resting = optx.root_find(equation, solver, start, args, adjoint=EXACT[adjoint]()).value
        return ravel_pytree(b)[0] @ ravel_pytree(resting)[0]

    assert_same(jax.jit(jax.grad(root))(args), dense(name))


@pytest.mark.parametrize("name", ["vanilla", "tree"])
def test_differences(name):
    function, h, args, b, _ = problem(name)
    flat, unravel = ravel_pytree(args)
    direction = normal(5, *flat.shape)
    direction = direction / np.linalg.norm(direction)

    @jax.jit
    def along(t):
        moved = unravel(flat + t * direction)
        resting = jax.lax.fori_loop(0, SETTLED, lambda _, h: function(h, moved), h)
        return ravel_pytree(b)[0] @ ravel_pytree(resting)[0]

    e = 1e-3  # the error of this formula is of the order of e⁶
    difference = (45 * (along(e) - along(-e)) - 9 * (along(2 * e) - along(-2 * e)) + (along(3 * e) - along(-3 * e))) / (
        60 * e
    )
    np.testing.assert_allclose(ravel_pytree(settled_gradient(name, "neumann"))[0] @ direction, difference, rtol=1e-10)


@every_map
def test_conjugate_gradient_solves_the_damped_system(name):
    function, h, args, b, _ = problem(name)
    adjoint = equilibria.ConjugateGradientRBP(60, damping=0.1, tolerance=1e-13)
    found = gradient(args, function, h, b, adjoint, equilibria.FixedSteps(1))
    assert_same(found, dense(name, damping=0.1))
    assert np.abs(ravel_pytree(found)[0] - ravel_pytree(dense(name))[0]).max() > 1e-3


def test_conjugate_gradient_at_any_scale_of_the_loss():
    """In float32, where the squares of 1e20 overflow and those of 1e-20 vanish; and of no number, no number."""
    W, x = (leaf.astype("float32") for leaf in problem("vanilla")[2])
    adjoint = equilibria.ConjugateGradientRBP(40, damping=0)

    @jax.jit
    @jax.vmap
    def solved(b, slope):
        return adjoint.solve(products(lambda h: slope * (W @ h) + x, x), b)[0]

    b = normal(2, 6).astype("float32")
    scales = jnp.array([1, 1e20, 1e-20, 0, jnp.nan, jnp.inf, 1], "float32")
    slopes = jnp.array([1, 1, 1, 1, 1, 1, jnp.nan], "float32")  # a Jacobian of no numbers, in the end
    found = solved(scales[:, None] * b, slopes)
    exact = np.linalg.solve(np.eye(6) - np.asarray(W, float).T, np.asarray(b, float))
    for z, scale in zip(found[:3], scales, strict=False):
        np.testing.assert_allclose(z / scale, exact, rtol=0, atol=1e-4 * np.abs(exact).max())
    np.testing.assert_array_equal(found[3], 0)
    assert np.isnan(found[4:]).all()


@every_map
def test_proposition_2_neumann_is_truncated_unrolling_at_rest(name):
    function, h, args, b, _ = problem(name)
    K, solver = 2, equilibria.FixedSteps(5)
    neumann = gradient(args, function, h, b, equilibria.NeumannRBP(K), solver)
    assert_same(neumann, gradient(args, function, h, b, equilibria.TruncatedBPTT(K + 1), solver))
    assert np.abs(ravel_pytree(neumann)[0] - ravel_pytree(dense(name))[0]).max() > 1e-6


@pytest.mark.parametrize("K", range(1, 31))
def test_proposition_3_bounds_the_error(K):
    Js = jnp.stack([size * contraction(seed, 5) for seed, size in enumerate(np.linspace(0.2, 1.2, 20))])
    adjoint = equilibria.NeumannRBP(K)

    def series(J):
        return jax.vmap(lambda b: adjoint.solve(products(lambda h: J @ h, b), b)[0])(jnp.eye(5))

    for J, found in zip(Js, jax.jit(jax.vmap(series))(Js), strict=True):
        inverse = np.linalg.inv(np.eye(5) - J)
        error = np.linalg.norm(found - inverse, 2)
        assert error <= np.linalg.norm(inverse, 2) * (np.linalg.norm(J, 2) ** (K + 1) + 1e-14)
        np.testing.assert_allclose(found, sum(np.linalg.matrix_power(J, k) for k in range(K + 1)), atol=1e-12)


@every_map
def test_proposition_4_and_the_error_of_the_original(name):
    function, h, args, b, J = problem(name)
    K = 5
    original = equilibria.RBP(K, key=KEY)

    @jax.jit
    def solved(b):
        jacobian = products(lambda h: function(h, args), h)
        from_zero = equilibria.RBP(K + 1, key=KEY, scale=0).solve(jacobian, b)[0]
        neumann, _ = equilibria.NeumannRBP(K).solve(jacobian, b)
        return from_zero, neumann, original.start(b), original.solve(jacobian, b)[0]

    from_zero, neumann, *rest = solved(b)
    assert_same(from_zero, neumann)
    flat, z0, z = (ravel_pytree(tree)[0] for tree in (b, *rest))
    assert z0.min() >= 0
    assert z0.max() <= 1
    solution = np.linalg.solve(np.eye(len(J)) - J.T, flat)
    assert_same(z - solution, jnp.asarray(np.linalg.matrix_power(J.T, K) @ (z0 - solution)))


@pytest.mark.parametrize("adjoint", [*EXACT, "few", "random"])
def test_vmap(adjoint):
    """Over examples that take different numbers of steps."""
    makers = {
        "few": lambda: equilibria.TruncatedBPTT(3),
        "random": lambda: equilibria.RandomlyTruncatedBPTT(equilibria.UniformCut(), key=KEY),
    }
    function, _, (W, _), b, _ = problem("vanilla")
    xs = jnp.array([[0.0], [0.1], [3.0]]) * jnp.ones((3, 6))
    solver, made = optx.FixedPointIteration(rtol=1e-5, atol=1e-5), {**EXACT, **makers}[adjoint]()

    def one(x):
        return jax.grad(loss)((W, x), function, jnp.zeros(6), b, made, solver, 50)

    single = jax.jit(one)
    many = jax.jit(jax.vmap(one))(xs)
    many = [jax.tree.map(lambda leaf: leaf[i], many) for i in range(3)]  # noqa: B023
    for x, found in zip(xs, many, strict=True):
        assert_same(found, single(x))
    if adjoint in ("full", "few"):  # against a plain loop, of which the solver's own count says how many steps
        taken = optx.fixed_point(function, solver, jnp.zeros(6), (W, xs[2])).stats["num_steps"].item()

        def plain(args):
            h = jnp.zeros(6)
            for t in range(taken):
                h = function(jax.lax.stop_gradient(h) if adjoint == "few" and t == taken - 3 else h, args)
                if adjoint == "few" and t < taken - 3:
                    h = jax.lax.stop_gradient(h)
            return b @ h

        assert taken > 3
        assert_same(many[2], jax.jit(jax.grad(plain))((W, xs[2])))


@pytest.mark.parametrize(
    ("cut", "tolerance"),
    [(equilibria.UniformCut(), None), (equilibria.PoissonCut(1.5), None), (equilibria.UniformCut(), 0.02)],
    ids=["uniform", "poisson", "settles-early"],
)
def test_random_truncation_is_unbiased(cut, tolerance):
    """The mean over every cut point is the gradient of full unrolling."""
    function, h, args, b, _ = problem("vanilla")
    T = 6
    solver = equilibria.FixedSteps(T) if tolerance is None else optx.FixedPointIteration(rtol=tolerance, atol=tolerance)
    start = jnp.zeros(6) if tolerance is None else h + 0.1
    keys = jr.split(jr.key(0), 300)  # rbg keys draw otherwise in another batch
    draws = jax.vmap(lambda key: equilibria.RandomlyTruncatedBPTT(cut, key=key).draw(T))(keys)
    first = [int(np.flatnonzero(draws == n)[0]) for n in range(1, T + 1)]  # a key for each of the cut points

    def drawn(key):
        adjoint = equilibria.RandomlyTruncatedBPTT(cut, key=key)
        return jax.grad(loss, argnums=(0, 2))(args, function, start, b, adjoint, solver, T)

    gradients = jax.jit(jax.vmap(drawn))(keys[np.array(first)])
    probabilities = jnp.exp(cut.log_probabilities(T))
    np.testing.assert_allclose(probabilities.sum(), 1, rtol=1e-12)
    mean = jax.tree.map(lambda g: jnp.tensordot(probabilities, g, 1), gradients)
    full = jax.jit(jax.grad(lambda *at: loss(at[0], function, at[1], b, equilibria.FullBPTT(), solver, T), (0, 1)))(
        args, start
    )
    assert_same(mean, full)
    assert np.abs(ravel_pytree(jax.tree.map(lambda g: g[0], gradients))[0] - ravel_pytree(full)[0]).max() > 1e-3


def test_a_long_poisson_tail_stays_finite():
    function, _, (W, x), b, _ = problem("vanilla")
    args = (W.astype("float32"), x.astype("float32"))
    adjoint = equilibria.RandomlyTruncatedBPTT(equilibria.PoissonCut(3.0), key=jr.key(0))
    start, solver = jnp.zeros(6, "float32"), equilibria.FixedSteps(100)
    found = gradient(args, function, start, b.astype("float32"), adjoint, solver, 100)
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("adjoint", ["neumann", "conjugate-gradient", "rbp"])
def test_memory_does_not_grow_with_the_forward_steps(adjoint):
    function, h, args, b, _ = problem("vanilla")

    def memory(steps, adjoint):
        solver = equilibria.FixedSteps(steps)
        compiled = jax.jit(lambda args: jax.grad(loss)(args, function, h, b, adjoint, solver, steps)).lower(args)
        return compiled.compile().memory_analysis().temp_size_in_bytes

    lengths = (10, 100, 1000, 10000) if adjoint == "neumann" else (10, 10000)
    assert len({memory(steps, EXACT[adjoint]()) for steps in lengths}) == 1
    if adjoint == "neumann":
        assert memory(1000, equilibria.FullBPTT(recompute=False)) > 20 * memory(1000, EXACT[adjoint]())


@pytest.mark.parametrize("adjoint", ["neumann", "full", "random"])
def test_what_a_map_closes_over_has_a_gradient(adjoint):
    """The same as where it is given as an argument."""
    function, h, (W, x), b, _ = problem("vanilla")
    random = equilibria.RandomlyTruncatedBPTT(equilibria.UniformCut(), key=KEY)
    made, solver = random if adjoint == "random" else EXACT[adjoint](), equilibria.FixedSteps(5)

    class Map(eqx.Module):
        W: jax.Array

        def __call__(self, h, x):
            return function(h, (self.W, x))

    def closed(weights):
        W, x = weights
        return loss(None, lambda h, _: function(h, (W, x)), h, b, made, solver, 5)

    def module(weights):
        W, x = weights
        return loss(x, Map(W), h, b, made, solver, 5)

    given = jax.jit(jax.grad(lambda args: loss(args, function, h, b, made, solver, 5)))((W, x))
    assert_same(jax.jit(jax.grad(closed))((W, x)), given)
    assert_same(jax.jit(jax.grad(module))((W, x)), given)


def test_random_truncation_computes_no_more_steps_again_than_it_keeps():
    function, h, args, b, _ = problem("vanilla")
    called = []

    def counting(h, args):
        jax.debug.callback(lambda: called.append(1))
        return function(h, args)

    for key in jr.split(jr.key(0), 4):
        adjoint = equilibria.RandomlyTruncatedBPTT(equilibria.UniformCut(), key=key)
        called.clear()
        jax.block_until_ready(gradient(args, counting, h, b, adjoint, equilibria.FixedSteps(20), 20))
        jax.effects_barrier()
        assert len(called) == 20 + int(adjoint.draw(20))


def test_a_steady_state_forgets_where_it_came_from():
    function, h, args, b, _ = problem("vanilla")
    slope = jax.jit(jax.grad(lambda h: loss(args, function, h, b, EXACT["neumann"](), equilibria.FixedSteps(2))))(h)
    np.testing.assert_array_equal(slope, 0)


def test_a_map_with_a_reverse_rule_of_its_own():
    @jax.custom_vjp
    def tanh(x):
        return jnp.tanh(x)

    tanh.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda y, c: ((1 - y * y) * c,))
    _, h, args, b, _ = problem("vanilla")
    for adjoint in ("neumann", "conjugate-gradient"):
        found = gradient(
            args, lambda h, args: tanh(args[0] @ h + args[1]), h, b, EXACT[adjoint](), equilibria.FixedSteps(1)
        )
        assert_same(found, dense("vanilla"))


def test_the_original_stops_where_it_stands_still():
    function, h, args, b, _ = problem("vanilla")
    steps = 10**9  # would not end
    found = gradient(args, function, h, b, equilibria.RBP(steps, 1e-13, key=KEY), equilibria.FixedSteps(1))
    assert_same(found, dense("vanilla"))


@pytest.mark.parametrize("name", ["vanilla", "tree"])
def test_a_probe_reports_the_residual_of_the_backward_pass(name):
    function, h, args, b, J = problem(name)

    def probed(make):
        def of(probe):
            return loss(args, function, h, b, make(probe), equilibria.FixedSteps(1))

        return jax.jit(jax.grad(of))(jnp.zeros(()))

    flat = ravel_pytree(b)[0]
    residual = probed(lambda probe: equilibria.NeumannRBP(3, probe=probe))
    expected = np.linalg.norm(np.linalg.matrix_power(J.T, 4) @ flat) / np.linalg.norm(flat)
    np.testing.assert_allclose(residual, expected, rtol=1e-10)
    neumann = equilibria.NeumannRBP(3)
    measured = jax.jit(lambda b: equilibria.adjoint_residual(function, h, args, cotangent=b, adjoint=neumann))(b)
    np.testing.assert_allclose(residual, measured, rtol=1e-10)
    assert probed(lambda probe: equilibria.ConjugateGradientRBP(60, 0, 1e-13, probe=probe)) < 1e-10
