"""Predict before the target is known, learn when it is: the same as `update`, whatever happens in between."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import pytest
from problems import assert_identical, assert_same, loss, problem

import onward

pytestmark = [pytest.mark.usefixtures("promotion"), pytest.mark.product("name", "batch")]
STEPS, RATE = 4, 0.1
FORWARD = {
    "rtrl": onward.RTRL(),
    "snap": onward.SnAp(),
    "uoro": onward.UORO(),
    "nobacktrack": onward.NoBackTrack(rank=2),
}


def made(estimator, cell="gru", batch=None, optimizer=None):
    p = problem(cell, units=3, steps=STEPS)
    learner = onward.Learner(estimator, optimizer or optax.sgd(RATE), loss=loss, batch=batch)
    xs, ys = (p.xs, p.ys) if batch is None else (jnp.stack([p.xs, p.xs[::-1]], 1), jnp.stack([p.ys, p.ys[::-1]], 1))
    return learner, learner.init(p.model, key=jr.key(1), example=(p.xs[0], p.ys[0])), xs, ys


@pytest.mark.parametrize("batch", [None, 2])
@pytest.mark.parametrize(("name", "cell"), [*((name, "gru") for name in FORWARD), ("nobacktrack", "own")])
def test_predict_and_learn_are_an_update(name, cell, batch):
    learner, carry, xs, ys = made(FORWARD[name], cell, batch, optax.adam(RATE))
    lead = () if batch is None else (batch,)
    reset = jnp.zeros((STEPS, *lead), bool).at[2].set(True)
    weight = jnp.ones((STEPS, *lead)).at[1].set(0.0).at[3].set(2.0)
    after, metrics = learner.run(carry, xs, ys, reset=reset, weight=weight, predictions=True)
    for t in range(STEPS):
        carry, said = learner.predict(carry, xs[t], reset=reset[t])
        carry, here = learner.learn(carry, said, ys[t], weight=weight[t])
        assert_same((said.prediction, here.losses), (metrics.predictions[t], metrics.losses[t]))
    assert_same(carry, after)


def test_the_cell_runs_once_and_nothing_is_traced_again():
    steps = []

    def step(rate, hidden, x):
        steps.append(1)
        return jnp.tanh(rate * hidden + x)

    cell = onward.AdaptedCell(jax.tree_util.Partial(step, jnp.ones(2)), hidden=jnp.zeros(2))
    model = onward.Model(cell, eqx.nn.Linear(2, 2, key=jr.key(0)))
    learner = onward.Learner(onward.UORO(), optax.sgd(RATE), loss=loss)
    carry, x = learner.init(model, key=jr.key(1)), jnp.ones(2)
    for _ in range(2):
        carry, said = learner.predict(carry, x)
        predicted = len(steps)
        carry, _ = learner.learn(carry, said, x)
        checked = len(steps) - predicted  # by shapes alone
    carry, said = learner.predict(carry, x)
    learner.learn(carry, said, x)
    assert (len(steps), checked) == (predicted, 0)


@pytest.mark.parametrize("name", FORWARD)
def test_parameters_that_change_in_between(name):
    """The gradient is of the prediction as it was said; the update is applied to the parameters as they are."""
    learner, carry, xs, ys = made(FORWARD[name])
    carry, said = learner.predict(carry, xs[0])
    plain, metrics = learner.learn(carry, said, ys[0])
    other = eqx.tree_at(lambda c: c.arrays, carry, jax.tree.map(lambda a: a + 1.0, carry.arrays))
    moved, late = learner.learn(other, said, ys[0])
    assert_identical(late.losses, metrics.losses)
    updates = [
        jax.tree.map(jnp.subtract, after.arrays, before.arrays) for after, before in ((plain, carry), (moved, other))
    ]
    assert_same(updates[1], updates[0], relative=1e-9)


def test_targets_that_come_late_and_in_any_order():
    """At fixed parameters their gradients add up to that of backpropagation through the whole stretch."""
    summing = optax.chain(optax.trace(1.0), optax.scale(0.0))
    learner, carry, xs, ys = made(onward.RTRL(), optimizer=summing)
    waiting = []
    for x in xs:
        carry, said = learner.predict(carry, x)
        waiting.append(said)
    for t in (2, 0, 3, 1):
        carry, _ = learner.learn(carry, waiting[t], ys[t])
    whole = onward.Learner(onward.BPTT(), summing, loss=loss, chunk=STEPS)
    sums, _ = whole.run(whole.init(carry.model, key=jr.key(1)), xs, ys)
    assert_same(carry.optimizer[0].trace, sums.optimizer[0].trace)


@pytest.mark.usefixtures("as_in_use")
def test_what_a_closed_loop_cannot_be_made_of_is_refused():
    learner, carry, xs, ys = made(onward.RTRL())
    _, said = learner.predict(carry, xs[0])
    back, start, *_ = made(onward.BPTT())
    larger = learner.init(problem("gru", units=2, steps=STEPS).model, key=jr.key(1))
    readout_alone = eqx.tree_at(lambda m: m.cell, jax.tree.map(lambda leaf: True, carry.model), False)
    frozen = learner.init(carry.model, key=jr.key(1), filter_spec=readout_alone)
    exact, fresh, *_ = made(onward.RTRL(), optimizer=onward.fptt_exact(optax.sgd(RATE), 0.1))
    for match, call in (
        ("must carry its influence forward.*BPTT", lambda: back.predict(start, xs[0])),
        ("gradient at other parameters.*use update", lambda: exact.learn(fresh, said, ys[0])),
        ("said must be what learner.predict returned", lambda: learner.learn(carry, ys[0], ys[0])),
        ("x: the cell cannot read", lambda: learner.predict(carry, xs)),
        ("y: the loss cannot compare", lambda: learner.learn(carry, said, jnp.ones(5))),
        ("weight must be floating of shape", lambda: learner.learn(carry, said, ys[0], weight=jnp.ones(2))),
        ("reset must be bool", lambda: learner.predict(carry, xs[0], reset=jnp.array(1))),
        ("carry must be a carry", lambda: learner.predict(said, xs[0])),
        ("said is a prediction of another model", lambda: learner.learn(larger, said, ys[0])),
        ("or of one in which other arrays", lambda: learner.learn(frozen, said, ys[0])),
    ):
        with pytest.raises(ValueError, match=match):
            call()
