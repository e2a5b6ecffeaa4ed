"""NoBackTrack unit by unit: unbiased by every outcome of the signs, and with the least variance. float64, 1e-10."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import INPUTS, assert_identical, assert_same, loss, naive_gradient, patterns, problem
from test_unbiased import influences, relu_cell

import onward
from onward.cells import Block, EncodedCell, GatedMap, LRUCell, MinGRUCell
from onward.estimators import Layerwise, _nobacktrack_per_unit
from onward.estimators._least_variance import reduction
from onward.transforms import QuasiDiagonal

pytestmark = pytest.mark.product("cell", "check")


def adapted(n, key):
    """An affine-gated cell in the wrapper that any cell may be put into."""
    return onward.AdaptedCell(onward.GRUCell(INPUTS, n, key=key, scale=2.0), hidden=jnp.zeros(n))


def embedded_stack(n, key):
    """Two layers behind an embedding."""
    bottom, top, embedding = jr.split(key, 3)
    layers = [onward.GRUCell(INPUTS, 1, key=bottom, scale=2.0), onward.LeakyCell(1, 2, key=top, scale=2.0)]
    return onward.EmbeddedCell(5, onward.StackedCell(layers), size=INPUTS, key=embedding, scale=1.0)


CASES = [
    "vanilla",
    "leaky",
    "lstm",
    "gru",
    "embedded",
    "stack",
    "stack-on-a-reservoir",
    "stack-with-a-frozen-bottom",
    "gru-with-a-frozen-group",
    adapted,
    embedded_stack,
]
STEPS, SHORT = 5, 4


def case(cell, terms=1):
    """A problem in which the signs of two steps count. The influence on later stages begins a step earlier."""
    later = cell in ("embedded", "stack", embedded_stack)
    return problem(cell, units=2, steps=SHORT if later else STEPS + terms - 1)


def all_noise(estimator, p):
    """Every outcome of the signs that can differ.

    The first reductions have no more products than terms and need no sign; those of the last step do not enter the
    gradient. All other steps have one sign for each product that a step adds.
    """
    first = 1 if p.steps == SHORT else 1 + estimator.per_unit
    signs = jax.eval_shape(lambda p: _nobacktrack_per_unit.sign_template(p.state(estimator)), p)
    bits = sum(leaf.size for leaf in signs)
    assert 0 < bits * (p.steps - 1 - first) <= 12, "signs that cannot be counted out"
    outcomes = patterns(bits * (p.steps - 1 - first))
    words = [outcomes >> jnp.uint32(bits * t) & jnp.uint32(2**bits - 1) for t in range(p.steps - 1 - first)]
    none = jnp.zeros_like(outcomes)
    return jnp.stack([*[none] * first, *words, none], 1)[..., None]


@pytest.mark.parametrize(("cell", "terms"), [*itertools.product(CASES, [1]), ("gru", 2), ("lstm", 3), ("stack", 2)])
def test_the_mean_gradient_over_all_signs_is_exact(cell, terms):
    estimator, p = onward.NoBackTrack(per_unit=terms), case(cell, terms)

    @jax.jit
    def mean(p, noise, reset):
        grads = jax.vmap(lambda noise: p.grad(estimator, noise=noise, reset=reset))(noise)
        exact = naive_gradient(*p, reset, jnp.ones(p.steps))
        return jax.tree.map(lambda g: g.mean(0), grads), exact

    noise = all_noise(estimator, p)
    for reset in (np.zeros(p.steps, bool), np.arange(p.steps) == 1):
        assert_same(*mean(p, noise, reset))


@pytest.mark.parametrize("cell", ["lstm", "stack"])
def test_the_mean_influence_over_all_signs_is_that_of_the_parameters_on_the_state(cell):
    estimator, p = onward.NoBackTrack(per_unit=1), case(cell)

    @jax.jit
    def both(p, noise):
        every = jax.vmap(lambda noise: influences(estimator, p, noise)[-1])(noise)
        parameters, static = eqx.partition(p.cell, eqx.is_inexact_array)

        def last(parameters):
            hidden = p.hidden
            for x in p.xs:
                hidden = eqx.combine(parameters, static)(hidden, x)
            return ravel_pytree(hidden)[0]

        return jax.tree.map(lambda leaf: leaf.mean(0), every), jax.jacobian(last)(parameters)

    assert_same(*both(p, all_noise(estimator, p)))


def random_sum(m, *, units=3, seed=0):
    """Factors of a sum of m outer products for each unit, and the matrices of their inner products."""
    keys = jr.split(jr.key(seed), 2)
    left, right = jr.normal(keys[0], (m, units, 5)), 3 * jr.normal(keys[1], (m, units, 7))
    return left, right


def products(vectors):
    return jnp.einsum("aui,bui->abu", vectors, vectors)


def outcomes(left, right, terms):
    """`Σ_k v_k w_kᵀ` of each unit for every outcome of the signs."""
    signs = jnp.array(list(itertools.product([-1.0, 1.0], repeat=len(left) - terms)))

    @jax.jit
    @jax.vmap
    def one(signs):
        signs = jnp.broadcast_to(signs[:, None], (len(signs), left.shape[1]))
        A, B = reduction(products(left), products(right), signs)
        return jnp.einsum("aku,aui,bku,buj->uij", A, left, B, right)

    return one(signs)


@pytest.mark.parametrize(("m", "terms"), [(2, 1), (3, 1), (3, 2), (4, 2), (4, 3)])
def test_the_variance_of_one_reduction_is_that_of_its_singular_values(m, terms):
    """`(Σσ)² − Σσ²` over the mixed terms, which are all but the `terms − 1` largest ones."""
    left, right = random_sum(m)
    every = outcomes(left, right, terms)
    M = jnp.einsum("aui,auj->uij", left, right)
    np.testing.assert_allclose(every.mean(0), M, rtol=0, atol=1e-10 * jnp.abs(M).max())
    mixed = jnp.linalg.svd(M, compute_uv=False)[:, terms - 1 : m]
    expected = mixed.sum(1) ** 2 - (mixed**2).sum(1)
    np.testing.assert_allclose(jnp.var(every, axis=0).sum((1, 2)), expected, rtol=1e-10)


def test_parallel_and_vanishing_vectors_add_no_bias():
    left, right = random_sum(3, units=6)
    left = left.at[1, 0].set(2 * left[0, 0]).at[0, 1].set(0).at[:, 2].set(0).at[2, 5].set(1e-9 * left[1, 5])
    right = right.at[2, 0].set(-right[0, 0]).at[0, 3].set(0).at[1, 3].set(0).at[1, 4].set(right[0, 4] * (1 + 1e-9))
    M = jnp.einsum("aui,auj->uij", left, right)
    for terms in (1, 2):
        every = outcomes(left, right, terms)
        np.testing.assert_allclose(every.mean(0), M, rtol=0, atol=1e-10 * jnp.abs(M).max())
        np.testing.assert_array_equal(every[:, 2], 0)


@pytest.mark.parametrize("cell", ["unit-wise", "leaky"])
def test_an_influence_on_itself_alone_is_exact(cell):
    """Of a unit-wise cell, and of a cell whose units have stopped to listen to one another."""
    p = problem(cell, units=2, steps=STEPS)
    if cell == "leaky":
        (W,) = p.model.cell.weights
        alone = W.at[:, :, :2].multiply(jnp.eye(2))
        p = p._replace(model=eqx.tree_at(lambda m: m.cell.weights, p.model, (alone,)))
    exact = naive_gradient(*p, jnp.zeros(STEPS, bool), jnp.ones(STEPS))
    grads = p.grad(onward.NoBackTrack(per_unit=1))
    if cell == "leaky":
        # The weights between units do influence: the exact gradient's part that returns is zero, and none is carried.
        assert_same(grads.cell.weights, exact.cell.weights)
    else:
        assert_same(grads, exact)


def variance(estimator, p):
    """The summed variance of the cell's gradient over many keys."""

    @jax.jit
    def total(p, keys):
        def one(key):
            state = estimator.init(p.model, p.hidden, key=key)
            return ravel_pytree(estimator.grad(p.model, loss, p.hidden, state, p.xs, p.ys).grads.cell)[0]

        return jnp.sum(jnp.var(jax.vmap(one)(keys), axis=0))

    return float(total(p, jr.split(jr.key(0), 500)))


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_units_have_less_variance_than_blocks_and_more_terms_less_still(cell):
    p = problem(cell, units=3, steps=8)
    blocks = variance(onward.NoBackTrack(rank=3, blocks=True), p)
    one, two = (variance(onward.NoBackTrack(per_unit=terms), p) for terms in (1, 2))
    assert two < 0.3 * one < 0.3 * blocks


@pytest.mark.parametrize("terms", [1, 2])
def test_units_that_do_not_act_are_no_obstacle(terms):
    estimator, p = onward.NoBackTrack(per_unit=terms), problem(relu_cell, units=3, steps=STEPS + terms - 1)
    p = p._replace(xs=jnp.abs(p.xs))

    @jax.jit
    def both(p, noise):
        grads = jax.vmap(lambda noise: p.grad(estimator, noise=noise))(noise)
        exact = naive_gradient(*p, jnp.zeros(p.steps, bool), jnp.ones(p.steps))
        return jax.tree.map(lambda g: g.mean(0), grads), exact

    assert_same(*both(p, all_noise(estimator, p)))


def test_where_nothing_passes_the_past_is_dropped_as_by_a_reset():
    steps, estimator = 5, onward.NoBackTrack(per_unit=2)
    p = problem(relu_cell, units=3, steps=steps)
    p = p._replace(xs=jnp.abs(p.xs).at[2].set(-100.0))
    noise = jnp.array([[5], [3], [6], [1], [4]], jnp.uint32)
    weight = jnp.where(jnp.arange(steps) < 3, 0.0, 1.0)

    @jax.jit
    def gradient(p, reset):
        return p.grad(estimator, noise=noise, weight=weight, reset=reset)

    assert_identical(gradient(p, jnp.zeros(steps, bool)), gradient(p, jnp.arange(steps) == 3))


@pytest.mark.parametrize(("cell", "terms"), [("gru", 1), ("lstm", 2), ("embedded", 1), ("stack", 1)])
def test_the_metric_of_a_kalman_step_adds_no_bias(cell, terms):
    p, estimator = case(cell, terms), onward.NoBackTrack(per_unit=terms)
    metric = metric_of(p)

    @jax.jit
    def mean(p, metric, noise):
        grads = jax.vmap(lambda noise: p.grad(estimator.informed(metric), noise=noise))(noise)
        exact = naive_gradient(*p, jnp.zeros(p.steps, bool), jnp.ones(p.steps))
        return jax.tree.map(lambda g: g.mean(0), grads), exact

    assert_same(*mean(p, metric, all_noise(estimator, p)))


def metric_of(p):
    """A frozen `J + Λ` that is far from the identity."""
    parameters = eqx.filter(p.model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(parameters)
    metric = QuasiDiagonal.start(parameters, 0.3)
    for seed in range(3):
        keys = jr.split(jr.key(seed), len(leaves))
        g = [2 * jr.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        metric = metric.decay_and_add(structure.unflatten(g), jnp.array(0.2))
    return metric


def test_the_metric_of_a_kalman_step_is_that_of_the_least_variance():
    """In whitened weights the influence has less variance if the reduction knows the metric."""
    p, estimator = problem("gru", units=3, steps=6), onward.NoBackTrack(per_unit=1)
    metric = metric_of(p)

    @functools.partial(jax.jit, static_argnames="known")
    def whitened(metric, keys, *, known):
        def one(key):
            informed = estimator.informed(metric) if known else estimator
            state = informed.init(p.model, p.hidden, key=key)
            state = informed.grad(p.model, loss, p.hidden, state, p.xs, p.ys).state
            (product,) = state.influences[0].others
            blocks = metric.part(lambda m: m.cell).blocks
            w = [block.whiten(w_g) for block, w_g in zip(blocks, product.right, strict=True)]
            return jnp.concatenate([jnp.einsum("is,rif->isrf", product.left[0][0], w_g).reshape(-1) for w_g in w])

        return jnp.sum(jnp.var(jax.vmap(one)(keys), axis=0))

    keys = jr.split(jr.key(0), 500)
    known, unknown = (float(whitened(metric, keys, known=known)) for known in (True, False))
    assert known < 0.9 * unknown


def test_a_cell_whose_parameters_belong_to_no_units_is_refused():
    for estimator in (onward.NoBackTrack(per_unit=1), onward.NoBackTrack(rank=2, blocks=True)):
        for cell, name in (("antisymmetric", "AntisymmetricCell"), ("equinox-gru", "AdaptedCell"), ("own", "OwnCell")):
            p = problem(cell, units=2, steps=4)
            with pytest.raises(ValueError, match=rf"parameters of {name} .* NoBackTrack\(rank"):
                p.state(estimator)


LAYERED = {
    "blocks": "blocks",
    "encoded": lambda n, key: EncodedCell(eqx.nn.Linear(INPUTS, 3, key=key), onward.GRUCell(3, n, key=key, scale=2.0)),
    "block": lambda n, key: Block(INPUTS, LRUCell(INPUTS, n, key=key), GatedMap(2 * n, INPUTS, key=key)),
    "stack-of-blocks": lambda n, key: onward.StackedCell(
        [Block(INPUTS, MinGRUCell(INPUTS, n, key=key), GatedMap(n, INPUTS, key=key))]
    ),
}


@pytest.mark.parametrize("name", LAYERED)
def test_what_is_said_for_maps_between_layers_works(name):
    """Their parameters belong to no units; within each layer the form is that of the layer alone."""
    p, estimator = problem(LAYERED[name], units=2, steps=3), onward.NoBackTrack(per_unit=1)
    for refused in (estimator, onward.NoBackTrack(rank=2, blocks=True)):
        with pytest.raises(
            ValueError, match=r"take onward\.estimators\.Layerwise\(onward\.NoBackTrack\(per_unit=\.\.\.\)\)"
        ):
            p.state(refused)
    found = jax.jit(lambda p: p.grad(Layerwise(estimator)))(p)
    if name == "encoded":
        assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(found))
    else:  # unit-wise cells, in which nothing is left to estimate
        assert_same(found, jax.jit(lambda p: p.grad(Layerwise(onward.RTRL())))(p))


def test_what_is_said_for_blocks_of_a_wrapped_cell_works():
    p = problem(adapted, units=2, steps=3)
    with pytest.raises(ValueError, match=r"take NoBackTrack\(per_unit=\.\.\.\), or NoBackTrack\(rank=\.\.\.\)"):
        p.state(onward.NoBackTrack(rank=2, blocks=True))
    p.state(onward.NoBackTrack(per_unit=1))


def test_a_window_is_refused():
    p = case("gru")
    with pytest.raises(ValueError, match="a window as a whole has no units"):
        onward.NoBackTrack(per_unit=1).begin_windows(p.cell, p.hidden, key=jr.key(0), example=None)


def test_norms_that_no_unit_can_use_are_refused():
    estimator = onward.NoBackTrack(per_unit=1, norms=onward.estimators.InvariantNorms())
    with pytest.raises(ValueError, match=r"InvariantNorms .* use HalfInvariantNorms"):
        case("gru").state(estimator)


@pytest.mark.parametrize("arguments", [{"per_unit": 0}, {"per_unit": 1, "rank": 2}, {"per_unit": 1, "blocks": True}])
def test_settings_that_do_not_go_together_are_refused(arguments):
    with pytest.raises(ValueError, match="per_unit"):
        onward.NoBackTrack(**arguments)


def test_the_gradient_has_first_and_second_derivatives():
    """Those of finite differences, for fixed signs."""
    p, estimator = problem("vanilla", units=2, steps=STEPS), onward.NoBackTrack(per_unit=1)
    point, as_parameters = ravel_pytree(eqx.filter(p.model, eqx.is_inexact_array))
    along = jnp.cos(jnp.arange(point.size, dtype=float))

    def f(x):
        model = eqx.combine(as_parameters(point + x * along), p.model)
        return jnp.sum(jnp.sin(ravel_pytree(p._replace(model=model).grad(estimator))[0]))

    h = 1e-3
    (backward, second), forward, values = jax.jit(
        lambda: (
            jax.jvp(jax.grad(f), (0.0,), (1.0,)),
            jax.jvp(f, (0.0,), (1.0,))[1],
            [f(jnp.array(x)) for x in (2 * h, h, 0.0, -h, -2 * h)],
        )
    )()
    a, b, c, d, e = values
    np.testing.assert_allclose(forward, backward, rtol=1e-10)
    np.testing.assert_allclose(backward, (8 * (b - d) - a + e) / (12 * h), rtol=1e-7)
    np.testing.assert_allclose(second, (-a + 16 * b - 30 * c + 16 * d - e) / (12 * h**2), rtol=1e-7)
