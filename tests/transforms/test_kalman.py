"""The quasi-diagonal Kalman preconditioner against dense matrices, and NoBackTrack with norms drawn from it."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import INPUTS, assert_identical, assert_same, loss, naive_gradient, problem

import onward
from onward.transforms.quasi_diagonal import Block, QuasiDiagonal, Rows, from_blocks, to_blocks
from tests.estimators.test_unbiased import FORMS, all_noise, sizes

pytestmark = pytest.mark.product("norms", "form", "cell")

NORMS = {
    "euclidean": onward.estimators.EuclideanNorms(),
    "half-invariant": onward.estimators.HalfInvariantNorms(),
    "invariant": onward.estimators.InvariantNorms(),
}


def outer_products(samples, units=3, features=5, seed=0):
    """`Σ g gᵀ` of each unit's block, dense and as the library keeps it, the bias last."""
    g = jr.normal(jr.key(seed), (samples, units, features))
    dense = jnp.einsum("suf,sug->ufg", g, g)
    bias_row = dense[:, -1].at[:, -1].set(0)
    return g, dense, jnp.diagonal(dense, axis1=1, axis2=2), bias_row


def dense_quasi_diagonal(A):
    """Â of a dense `A` by its definition, entry by entry, the bias last."""
    A_hat = np.zeros_like(A)
    for u, block in enumerate(np.asarray(A)):
        pivot, row = block[-1, -1], block[-1, :-1]
        A_hat[u, -1, -1] = pivot
        A_hat[u, -1, :-1] = A_hat[u, :-1, -1] = row
        A_hat[u, :-1, :-1] = np.outer(row, row) / pivot + np.diag(np.diagonal(block)[:-1] - row**2 / pivot)
    return A_hat


def block_of(diagonal, bias_row, prior):
    """The library's matrix, for weights of a cell that are replaced by these numbers."""
    cell = onward.VanillaCell(INPUTS, 2, key=jr.key(0), dtype=diagonal.dtype)

    def fill(values):
        return eqx.tree_at(lambda c: c.weights, cell, (values[None],))

    (block,) = QuasiDiagonal(fill(diagonal), fill(bias_row), jnp.array(prior, diagonal.dtype)).blocks
    return Block(block.ratio[0], block.inverse[0], block.pivot[0])


@pytest.mark.parametrize("samples", [1, 2, 20])
def test_the_solve_is_the_inverse_of_the_dense_matrix(samples):
    _, dense, diagonal, bias_row = outer_products(samples)
    block = block_of(diagonal, bias_row, 0.7)
    A_hat = dense_quasi_diagonal(dense + 0.7 * jnp.eye(dense.shape[-1]))
    assert np.linalg.eigvalsh(A_hat).min() > 0
    g = jr.normal(jr.key(1), diagonal.shape)
    assert_same(block.solve(g), np.linalg.solve(A_hat, np.asarray(g)[..., None])[..., 0])
    assert_same(jnp.sum(block.whiten(g) ** 2, -1), jnp.einsum("uf,uf->u", g, block.solve(g)))


def test_one_sample_attains_the_bound_that_rounding_is_held_to():
    prior = 0.7
    for samples in (1, 20):
        _, _, diagonal, bias_row = outer_products(samples)
        kept = 1 / block_of(diagonal, bias_row, prior).inverse[:, :-1]
        bound = (prior * (1 + diagonal / (diagonal[:, -1:] + prior)))[:, :-1]
        if samples == 1:
            assert_same(kept, bound)
        else:
            assert (kept > bound).all()


def test_large_gradients_keep_to_the_bound_in_float32():
    g = 1e6 * jr.normal(jr.key(3), (4, 7), jnp.float32)
    diagonal, bias_row = g**2, (g * g[:, -1:]).at[:, -1].set(0)
    block = block_of(diagonal, bias_row, 1.0)
    bound = 1 + diagonal / (diagonal[:, -1:] + 1)
    assert (1 / block.inverse >= jnp.float32(0.999) * bound).all()
    assert jnp.isfinite(block.solve(g)).all()


def test_steps_do_not_depend_on_the_units_and_origins_of_the_inputs():
    # Inputs x' = αx + β, seen by weights w/α and a bias less Σ wβ/α, are the same model: g' = αg + βg_0.
    g, _, diagonal, bias_row = outer_products(20)
    alpha, beta = jr.uniform(jr.key(4), (2, g.shape[-1] - 1), minval=0.5, maxval=2)

    def other_inputs(g):
        return jnp.concatenate([alpha * g[..., :-1] + beta * g[..., -1:], g[..., -1:]], -1)

    there = other_inputs(g)
    rows = jnp.einsum("suf,su->uf", there, there[..., -1]).at[:, -1].set(0)
    prior, fresh = 1e-14, jr.normal(jr.key(5), diagonal.shape)  # a prior has units of its own
    here, moved = block_of(diagonal, bias_row, prior), block_of(jnp.sum(there**2, 0), rows, prior)
    step = here.solve(fresh)
    weights = step[:, :-1] / alpha
    expected = jnp.concatenate([weights, step[:, -1:] - jnp.sum(beta * weights, -1, keepdims=True)], -1)
    assert_same(moved.solve(other_inputs(fresh)), expected)
    assert_same(jnp.sum(moved.whiten(other_inputs(fresh)) ** 2, -1), jnp.sum(here.whiten(fresh) ** 2, -1))


@pytest.mark.parametrize("cell", ["lstm", "gru", "equinox-lstm", "own", "stack"])
def test_blocks_hold_every_learned_number_once(cell):
    model = eqx.filter(problem(cell, units=3, steps=2).model, eqx.is_inexact_array)
    blocks = to_blocks(model)
    again = from_blocks(model, blocks)
    assert jax.tree.structure(again) == jax.tree.structure(model)
    assert_identical(to_blocks(again), blocks)
    assert sum(leaf.size for leaf in jax.tree.leaves(blocks)) == sum(leaf.size for leaf in jax.tree.leaves(model))
    assert blocks[-1].weight is model.readout.weight
    assert blocks[-1].bias is model.readout.bias


def test_the_optimiser_is_algorithm_2_written_out():
    p = problem("vanilla", units=3, steps=4)
    parameters = eqx.filter(p.model, eqx.is_inexact_array)
    optimizer = onward.quasi_diagonal_kalman(prior=0.5)
    state, J = optimizer.init(parameters), [0.0 for _ in to_blocks(parameters)]
    for t in range(1, 5):
        grads = naive_gradient(eqx.combine(parameters, p.model), *p[1:], jnp.zeros(4, bool), jnp.ones(4))
        updates, state = optimizer.update(grads, state, parameters)
        steps = []
        for i, g in enumerate(to_blocks(grads)):
            apart = isinstance(g, Rows)
            g = np.concatenate([g.weight, g.bias[:, None]], -1) if apart else np.asarray(g)[0]
            J[i] = (1 - t**-0.5) * J[i] + np.einsum("uf,ug->ufg", g, g)
            A_hat = dense_quasi_diagonal(J[i] + 0.5 * np.eye(g.shape[-1]))
            step = jnp.asarray(-np.linalg.solve(A_hat, g[..., None])[..., 0])
            steps.append(Rows(step[:, :-1], step[:, -1]) if apart else step[None])
        assert_same(updates, from_blocks(parameters, steps))
        parameters = optax.apply_updates(parameters, updates)


def test_the_prior_is_the_size_of_the_state_by_default():
    p = problem("lstm", units=3, steps=2)
    state = onward.quasi_diagonal_kalman().init(eqx.filter(p.model, eqx.is_inexact_array))
    assert state.information.prior == 6
    with pytest.raises(ValueError, match=r"prior must be a number unless the parameters are an onward\.Model"):
        onward.quasi_diagonal_kalman().init({"w": jnp.ones(2)})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"decay": 1.5}, "decay must be a number from 0 to 1, or a schedule, got 1.5"),
        ({"decay": float("nan")}, "decay must be .* got nan"),
        ({"prior": 0.0}, "prior must be a finite number above 0, got 0.0"),
        ({"prior": float("inf")}, "prior must be .* got inf"),
        ({"rate": -1.0}, "rate must be a finite number above 0, got -1.0"),
    ],
)
def test_numbers_out_of_range_are_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        onward.quasi_diagonal_kalman(**arguments)


@functools.cache
def case(cell, units, steps):
    """A problem, a frozen `J + Λ` that is far from the identity, and the exact gradient."""
    p = problem(cell, units=units, steps=steps)
    parameters = eqx.filter(p.model, eqx.is_inexact_array)
    leaves, structure = jax.tree.flatten(parameters)
    metric = QuasiDiagonal.start(parameters, 0.3)
    for seed in range(3):
        keys = jr.split(jr.key(seed), len(leaves))
        g = [2 * jr.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        metric = metric.decay_and_add(structure.unflatten(g), jnp.array(0.2))
    exact = jax.jit(lambda p: naive_gradient(*p, jnp.zeros(steps, bool), jnp.ones(steps)))(p)
    return p, metric, exact


CASES = [
    ("euclidean", "rank-1", "vanilla"),
    *(("half-invariant", "rank-1", cell) for cell in ("vanilla", "lstm", "gru", "equinox-gru")),
    ("half-invariant", "rank-2", "gru"),
    ("half-invariant", "blocks-2", "stack"),
    *(("invariant", "rank-1", cell) for cell in ("vanilla", "lstm", "stack")),
    *(("invariant", form, "gru") for form in ("rank-2", "blocks-2")),
]


@pytest.mark.parametrize(("norms", "form", "cell"), CASES)
def test_the_mean_over_all_signs_stays_exact_with_norms_of_a_frozen_matrix(norms, form, cell):
    form = FORMS[form].sized(cell)
    p, metric, exact = case(cell, form.units, form.steps)
    estimator = onward.NoBackTrack(rank=form.estimator.rank, blocks=form.estimator.blocks, norms=NORMS[norms])
    noise = all_noise(form, cell, sizes(p))

    @jax.jit
    def mean(p, metric, noise):
        grads = jax.vmap(lambda noise: p.grad(estimator.informed(metric), noise=noise))(noise)
        return jax.tree.map(lambda g: g.mean(0), grads)

    assert_same(mean(p, metric, noise), exact)


def test_norms_of_the_printed_form_say_which_cells_they_need():
    p, metric, _ = case("equinox-gru", 2, 4)
    with pytest.raises(ValueError, match="InvariantNorms needs the rows of an affine-gated cell"):
        p.grad(onward.NoBackTrack(norms=onward.estimators.InvariantNorms()).informed(metric))


@pytest.mark.parametrize("norms", ["half-invariant", "invariant"])
def test_each_layer_is_balanced_by_its_own_part_of_the_metric(norms):
    """The influence of a layer is the one of the layer alone, with that part of the metric and the same signs."""
    p, metric, _ = case("stack", 3, 4)
    inner = onward.NoBackTrack(norms=NORMS[norms])
    whole = onward.estimators.Layerwise(inner)
    noise = whole.draw(p.state(whole), p.steps)

    @jax.jit
    def state(p, metric, noise):
        return p.estimate(whole.informed(metric), noise=noise).state.layers

    @functools.partial(jax.jit, static_argnums=0)
    def alone(number, p, metric, noise):
        def part(model):
            return eqx.tree_at(lambda m: m.cell, model, model.cell.layers[number])

        size = p.cell.layers[number].output(p.hidden[number]).size
        model = onward.Model(p.cell.layers[number], lambda output: output[:2] if size > 1 else output)
        layer = p._replace(model=model, hidden=p.hidden[number])
        return layer.estimate(inner.informed(metric.part(part)), noise=noise).state

    xs, start = p.xs, 0
    found, plain = state(p, metric, noise), jax.jit(lambda p: p.estimate(whole, noise=noise).state.layers)(p)
    for number, layer in enumerate(p.cell.layers):
        words = inner.draw(found[number], 1).shape[-1]
        expected = alone(number, p._replace(xs=xs), metric, noise[:, start : start + words])
        assert_same((found[number].v, found[number].w), (expected.v, expected.w))
        assert not np.allclose(found[number].w[0][0], plain[number].w[0][0], rtol=1e-3)
        hidden, outputs, start = p.hidden[number], [], start + words
        for x in xs:
            hidden = layer(hidden, x)
            outputs.append(layer.output(hidden))
        xs = jnp.stack(outputs)
    missing = eqx.tree_at(lambda m: m.diagonal.cell, metric, metric.diagonal.cell.layers[0])
    with pytest.raises(ValueError, match="metric must cover all trained parameters of the cell"):
        p.grad(whole.informed(missing))


def test_a_learner_hands_the_metric_on_from_a_chain_where_it_is_told_where():
    p, kalman = problem("vanilla", units=3, steps=6), onward.quasi_diagonal_kalman()
    chained = optax.chain(optax.clip(1e3), kalman)

    def learned(norms, optimizer):
        learner = onward.Learner(onward.NoBackTrack(norms=norms), optimizer, loss=loss)
        return learner.run(learner.init(p.model, key=jr.key(0)), p.xs, p.ys)[1].losses

    euclidean = learned(onward.estimators.EuclideanNorms(), kalman)
    half_invariant = learned(onward.estimators.HalfInvariantNorms(), kalman)
    assert not jnp.allclose(euclidean, half_invariant, rtol=1e-3)
    assert_same(learned(onward.estimators.HalfInvariantNorms(), chained), euclidean)
    told = onward.transforms.Informed(chained, lambda state: kalman.metric(state[1]))
    assert_same(learned(onward.estimators.HalfInvariantNorms(), told), half_invariant)


def masks(model):
    """What the readout is, and what the cell is."""
    everything = jax.tree.map(lambda _: True, eqx.filter(model, eqx.is_inexact_array))
    readout = eqx.tree_at(lambda m: m.cell, everything, replace_fn=lambda c: jax.tree.map(lambda _: False, c))
    return readout, jax.tree.map(lambda of_readout: not of_readout, readout)


@pytest.mark.parametrize("cell", ["lstm", "equinox-gru", "stack"])
def test_a_step_for_the_readout_alone_is_that_of_the_readout(cell):
    p, kalman = problem(cell, units=3, steps=4), onward.quasi_diagonal_kalman(prior=0.5)
    readout, rest = masks(p.model)
    labels = jax.tree.map(lambda of_readout: "readout" if of_readout else "cell", readout)
    masked = optax.chain(optax.masked(kalman, readout), optax.masked(optax.sgd(0.1), rest))
    apart = optax.multi_transform({"readout": kalman, "cell": optax.sgd(0.1)}, labels)
    estimator = onward.NoBackTrack()

    def learned(optimizer):
        learner = onward.Learner(estimator, optimizer, loss=loss)
        return learner.run(learner.init(p.model, key=jr.key(0)), p.xs, p.ys)[0].arrays

    @jax.jit
    def by_hand(p):
        hidden, state, model = p.cell.init_hidden(), p.state(estimator), p.model
        of_readout = kalman.init(eqx.filter(model.readout, eqx.is_inexact_array))
        for t in range(4):
            e = estimator.grad(model, loss, hidden, state, p.xs[t : t + 1], p.ys[t : t + 1])
            hidden, state = e.hidden, e.state
            step, of_readout = kalman.update(e.grads.readout, of_readout)
            cell = jax.tree.map(lambda g: -0.1 * g, e.grads.cell)
            model = eqx.apply_updates(model, eqx.tree_at(lambda m: (m.cell, m.readout), e.grads, (cell, step)))
        return eqx.filter(model, eqx.is_array)

    expected = by_hand(p)
    for optimizer in (masked, apart):
        assert_same(learned(optimizer), expected)


def test_a_step_for_the_cell_alone_gives_its_norms():
    p, kalman = problem("stack", units=3, steps=4), onward.quasi_diagonal_kalman(prior=0.5)
    _, rest = masks(p.model)
    chained = optax.chain(optax.masked(kalman, rest), optax.scale(0.1))
    told = onward.transforms.Informed(chained, lambda state: kalman.metric(state[0].inner_state))

    def losses(optimizer):
        learner = onward.Learner(onward.NoBackTrack(), optimizer, loss=loss)
        return learner.run(learner.init(p.model, key=jr.key(0)), p.xs, p.ys)[1].losses

    assert not jnp.allclose(losses(chained), losses(told), rtol=1e-6)


def test_a_part_of_the_cell_does_not_tell_the_prior():
    p, kalman = problem("lstm", units=3, steps=4), onward.quasi_diagonal_kalman()
    readout, _ = masks(p.model)
    with pytest.raises(ValueError, match="prior must be a number if the step does not train the whole cell"):
        optax.masked(kalman, readout).init(eqx.filter(p.model, eqx.is_inexact_array))
    told = onward.transforms.Informed(optax.masked(onward.quasi_diagonal_kalman(prior=1.0), readout), lambda s: s[0][1])
    learner = onward.Learner(onward.NoBackTrack(), told, loss=loss)
    with pytest.raises(ValueError, match="metric must cover all trained parameters of the cell"):
        learner.run(learner.init(p.model, key=jr.key(0)), p.xs, p.ys)


@pytest.mark.parametrize("cell", ["gru", "equinox-gru"])
def test_weights_of_half_precision_are_stepped_with_a_matrix_in_float32(cell):
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        p = problem(cell, units=3, steps=4)
        parameters = eqx.filter(p.model, eqx.is_inexact_array)
        half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), parameters)
        mixed = eqx.tree_at(lambda m: m.readout, half, parameters.readout)
        kalman = onward.quasi_diagonal_kalman(prior=0.5, rate=jnp.array(0.3))
        for params in (half, mixed):
            grads = jax.tree.map(lambda leaf: jnp.sin(jnp.arange(leaf.size, dtype=float)).reshape(leaf.shape), params)
            grads = jax.tree.map(lambda g, leaf: g.astype(leaf.dtype), grads, params)
            steps, state = kalman.update(grads, kalman.init(params))
            assert {leaf.dtype for leaf in jax.tree.leaves(state.information)} == {np.dtype(np.float32)}
            wide = jax.tree.map(lambda g: g.astype(jnp.float32), grads)
            expected, _ = kalman.update(wide, kalman.init(parameters))
            for step, leaf, exact in zip(*map(jax.tree.leaves, (steps, params, expected)), strict=True):
                assert step.dtype == leaf.dtype
                np.testing.assert_allclose(np.asarray(step, np.float32), exact, rtol=2**-6, atol=1e-6)


@pytest.mark.parametrize("cell", ["narrow-weights", "narrow-state"])
def test_a_learner_with_the_kalman_step_takes_two_precisions(cell):
    p = problem(cell, units=3, steps=4)
    learner = onward.Learner(onward.NoBackTrack(), onward.quasi_diagonal_kalman(), loss=loss)
    carry = learner.init(p.model, key=jr.key(0))
    after, metrics = learner.run(carry, p.xs, p.ys)
    assert jnp.all(jnp.isfinite(metrics.losses))
    assert jax.tree.map(lambda leaf: leaf.dtype, after.arrays) == jax.tree.map(lambda leaf: leaf.dtype, carry.arrays)
    assert jnp.any(after.model.cell.weights != p.cell.weights)
