"""The rule by which rollouts are differentiated, against plain JAX; and batches of streams."""

import math

import equinox as eqx
import jax
import jax.export
import jax.extend
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree
from problems import AFFINE_CELLS, CELLS, INPUTS, IntegratorCell, assert_same, problem

import onward
from onward.cells import cpu_tuning
from onward.cells.rollout import restarted
from onward.support.freezing import learnable

pytestmark = pytest.mark.product("name", "check")

STEPS, UNITS, STREAMS = 5, 3, 3
CELLS_HERE = AFFINE_CELLS | {
    "integrator": lambda n, key: IntegratorCell(n, key=key),
    # The cells above have few inputs, and each step multiplies its own.
    "lstm-many-inputs": lambda n, key: onward.LSTMCell(cpu_tuning.FEW + 1, n, key=key, scale=2.0),
    "gru-many-inputs": lambda n, key: onward.GRUCell(cpu_tuning.FEW + 1, n, key=key, scale=2.0),
    "lru": lambda n, key: onward.cells.LRUCell(INPUTS, n, key=key),
    "lru-many-inputs": lambda n, key: onward.cells.LRUCell(cpu_tuning.FEW + 1, n, key=key),
}


def scanned(cell, hidden, xs, reset=None):
    """The same states, differentiated by JAX alone."""

    def step(hidden, inputs):
        x, restart = inputs
        hidden = cell(restarted(cell, hidden, restart), x)
        return hidden, hidden

    return jax.lax.scan(step, hidden, (xs, reset))[1]


def close(ours, plain):
    def equal(a, b):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)

    jax.tree.map(equal, ours, plain)


@pytest.mark.parametrize(("name", "resets"), [("vanilla", False), *((name, True) for name in CELLS_HERE)])
def test_rollout_has_the_derivatives_of_a_plain_scan_of_every_order_in_both_modes(name, resets):
    """By the weights, the first state and the inputs at once."""
    p = problem(CELLS_HERE[name], units=UNITS, steps=STEPS)
    cell, hidden, xs = p.cell, p.hidden, p.xs
    reset = jnp.array([False, False, True, False, False]) if resets else None
    point, unravel = ravel_pytree((learnable(cell), hidden, xs))
    v = np.random.default_rng(0).normal(size=point.shape)

    def along(function, x):
        return jax.jvp(function, (x,), (v,))[1]

    def derivatives(run):
        def summed(point):
            parameters, hidden, xs = unravel(point)
            states = jax.tree.leaves(run(eqx.combine(parameters, cell), hidden, xs, reset=reset))
            return sum(jnp.sum(jnp.sin(h) * jnp.arange(1.0, 1 + STEPS)[:, None]) for h in states), states

        f = lambda x: summed(x)[0]  # noqa: E731
        backward, twice = jax.grad(f), jax.grad(lambda x: jax.grad(f)(x) @ v)
        found = {
            "value": summed(point),
            "reverse": backward(point),
            "forward": along(f, point),
            "reverse over reverse": twice(point),
            "forward over reverse": along(backward, point),
        }
        if name == "leaky":  # the rule is the same for all
            found["reverse over forward"] = jax.grad(lambda x: along(f, x))(point)
            found["forward over forward"] = along(lambda x: along(f, x), point)
            found["third"] = along(twice, point)
        return found

    ours, plain = jax.jit(lambda: (derivatives(onward.rollout), derivatives(scanned)))()
    assert jnp.abs(plain["reverse over reverse"]).max() > 1e-2
    assert_same(ours, plain)


def test_a_users_activation_with_a_rule_of_its_own_is_differentiated_by_that():
    @jax.custom_vjp
    def squash(u):
        return jnp.tanh(u)

    squash.defvjp(lambda u: (jnp.tanh(u), u), lambda u, c: (2 * c * jnp.cos(u),))  # a rule that is seen to be used
    cell = onward.VanillaCell(INPUTS, UNITS, key=jr.key(0), activation=squash)
    xs = jr.normal(jr.key(1), (STEPS, INPUTS))

    def gradient(run):
        return jax.jit(jax.grad(lambda cell: jnp.sum(run(cell, cell.init_hidden(), xs) ** 2)))(cell).weights

    assert_same(gradient(onward.rollout), gradient(scanned))


def test_a_learned_initial_state_has_its_gradient_at_every_reset():
    class Started(onward.VanillaCell):
        def init_hidden(self):
            return self.weights[0][0, :, 0]

    cell, xs = Started(INPUTS, UNITS, key=jr.key(0)), jr.normal(jr.key(1), (STEPS, INPUTS))
    reset = jnp.array([True, False, False, True, False])

    def gradient(run):
        return jax.jit(jax.grad(lambda cell: jnp.sum(run(cell, jnp.zeros(UNITS), xs, reset=reset) ** 2)))(cell).weights

    assert_same(gradient(onward.rollout), gradient(scanned))


def test_the_switch_runs_plain_jax_and_compiles_anew():
    cell, xs = CELLS["gru"](UNITS, jr.key(0)), jnp.ones((STEPS, INPUTS))
    run = jax.jit(lambda: onward.rollout(cell, cell.init_hidden(), xs))
    model = onward.Model(cell, eqx.nn.Linear(UNITS, 2, key=jr.key(1)))

    def programs():
        return str(jax.make_jaxpr(run)()) + str(jax.make_jaxpr(model.predict)(xs[0, :1].repeat(UNITS)))

    tuned = programs(), run()
    with cpu_tuning.plain(True):
        plain = programs(), run()
    assert "custom_jvp" in tuned[0]
    assert "rows_of_product" in tuned[0]
    assert "custom_jvp_call[name=_states" not in plain[0]
    assert "rows_of_product" not in plain[0]
    assert_same(tuned[1], plain[1])


@pytest.mark.parametrize("name", ["lstm", "lstm-many-inputs"])
def test_a_window_is_exported_for_any_number_of_steps(name):
    cell = CELLS_HERE[name](UNITS, jr.key(0))
    run = jax.jit(lambda xs: onward.rollout(cell, cell.init_hidden(), xs))
    (steps,) = jax.export.symbolic_shape("t", constraints=["t >= 2"])
    exported = jax.export.export(run)(jax.ShapeDtypeStruct((steps, cell.input_size), float))
    for xs in (jr.normal(jr.key(1), (n, cell.input_size)) for n in (2, STEPS)):
        assert_same(exported.call(xs), run(xs))


@pytest.mark.parametrize(
    ("name", "estimator"),
    [
        ("gru", onward.ARTBP(cut=0.4)),
        *((name, onward.BPTT()) for name in ("leaky", "lstm", "lstm-many-inputs", "gru", "own", "stack")),
    ],
)
def test_a_batch_differentiated_as_one_is_the_mean_of_its_streams(name, estimator):
    p, rng = problem(CELLS_HERE.get(name, name), units=UNITS, steps=STEPS), np.random.default_rng(1)
    model = p.model
    loss = onward.losses.squared_error
    learner = onward.Learner(estimator, optax.sgd(1.0), loss=loss, chunk=STEPS, batch=STREAMS)
    xs, ys = rng.normal(size=(STEPS, STREAMS, p.xs.shape[-1])), rng.normal(size=(STEPS, STREAMS, 2))
    reset = rng.random((STEPS, STREAMS)) < 0.3
    weight = np.where(reset, 0, rng.random((STEPS, STREAMS)))
    reset[0] = True  # an initial state that learns does so from where a sequence starts
    reset, weight = jnp.asarray(reset), jnp.asarray(weight)
    carry = learner.init(model, key=jr.key(2))
    after, metrics = learner.update(carry, xs, ys, reset=reset, weight=weight, predictions=True)

    def alone(hidden, state, xs, ys, reset, weight):
        return estimator.grad(model, loss, hidden, state, xs, ys, reset=reset, weight=weight)

    each = jax.jit(jax.vmap(alone, (0, 0, 1, 1, 1, 1)))(carry.hidden, carry.estimator, xs, ys, reset, weight)
    step = jax.tree.map(np.subtract, learnable(carry.arrays), learnable(after.arrays))
    learned = [np.asarray(leaf) for leaf in jax.tree.leaves(each.grads)]
    assert any(np.abs(leaf).max() > 1e-3 for leaf in learned)
    close(jax.tree.leaves(step), [leaf.mean(0) for leaf in learned])
    close((np.asarray(metrics.losses).T, after.hidden), (each.losses, each.hidden))
    close(np.asarray(metrics.predictions).swapaxes(0, 1), each.predictions)


@pytest.mark.parametrize("name", ["lstm", "lstm-many-inputs", "gru", "antisymmetric"])
def test_no_weight_has_a_gradient_stream_by_stream(name):
    """Every array that a step of learning makes is smaller than one of a matrix of weights for each stream."""
    units, streams = 24, 64
    cell = (CELLS | CELLS_HERE)[name](units, jr.key(0))
    model = onward.Model(cell, eqx.nn.Linear(units, 1, key=jr.key(1)))
    learner = onward.Learner(onward.BPTT(), optax.sgd(0.1), loss=onward.losses.squared_error, chunk=2, batch=streams)
    carry = learner.init(model, key=jr.key(2))
    stream = jnp.ones((2, streams, cell.input_size)), jnp.ones((2, streams, 1))
    made = list(sizes(jax.make_jaxpr(learner.update)(carry, *stream).jaxpr))
    assert 2 * streams * units in made  # the states
    assert max(made) < streams * units**2


def sizes(jaxpr):
    """The sizes of all arrays that a program makes, those of its inner programs too."""
    for equation in jaxpr.eqns:
        yield from (math.prod(out.aval.shape) for out in equation.outvars)
        for inner in jax.extend.core.jaxprs_in_params(equation.params):
            yield from sizes(inner)
