"""ARTBP on an endless stream: its mean over all cuts, its bias, and its updates as a plain loop makes them."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import all_cuts, assert_same, loss, naive_gradient, problem

import onward
from onward.estimators import OnlineARTBP
from onward.estimators._random_bits import uniform

STEPS, CUT, MEMORY = 6, 0.3, 3
RESET, WEIGHT = np.arange(STEPS) == 4, np.array([1.0, 0.5, 2.0, 0.0, 1.0, 3.0])
NEVER, ALWAYS = jnp.uint32(2**32 - 1), jnp.uint32(0)  # a uniform number just below 1, or 0


def words(steps):
    """The random words of all patterns of cuts that end with one, and the chance of each of the patterns."""
    cuts = np.roll(all_cuts(steps), -1, axis=1)  # the free ones come first, and then false
    chance = np.where(cuts[:, :-1], CUT, 1 - CUT).prod(1)
    cuts[:, -1] = True
    return jnp.where(cuts, ALWAYS, NEVER)[..., None], jnp.asarray(chance)


def mean_gradient(p, estimator, chunk):
    """The mean over all cuts of the gradients that a stream gives, chunk by chunk, at the same parameters."""
    noise, chance = words(STEPS)

    def one(noise):
        hidden, state, total = p.hidden, p.state(estimator), None
        for at in range(0, STEPS, chunk):
            here = slice(at, at + chunk)
            flags = {"reset": jnp.asarray(RESET[here]), "weight": jnp.asarray(WEIGHT[here]), "noise": noise[here]}
            e = estimator.grad(p.model, loss, hidden, state, p.xs[here], p.ys[here], **flags)
            hidden, state = e.hidden, e.state
            total = e.grads if total is None else jax.tree.map(jnp.add, total, e.grads)
        return total

    return jax.tree.map(lambda g: jnp.tensordot(chance, g, 1), jax.vmap(one)(noise))


def started(p):
    return p._replace(hidden=p.cell.init_hidden())


@pytest.mark.parametrize(("cell", "chunk"), [("gru", 1), ("own", 4)])
def test_with_room_for_every_segment_the_mean_over_all_cuts_is_the_exact_gradient(cell, chunk):
    p = started(problem(cell, units=2, steps=STEPS))
    mean = jax.jit(lambda p: mean_gradient(p, OnlineARTBP(CUT, STEPS + 1), chunk))(p)
    assert_same(mean, jax.jit(naive_gradient)(*p, RESET, WEIGHT))


def learned_shares(steps, memory, cut=CUT):
    """`[s, t]`: the mean weight with which the dependence of the loss of step t on step s is learned."""
    ages = np.zeros((steps, memory))  # the chance that step s is the a-th of its segment, a from 1
    ages[0, 0] = 1
    for s in range(1, steps):
        ages[s, 1:] = (1 - cut) * ages[s - 1, :-1]
        ages[s, 0] = 1 - ages[s, 1:].sum()
    # It is learned if no cut by force comes between: the segment must have room for the steps from s to t.
    room = np.cumsum(ages, 1)
    return np.array(
        [[room[s, memory - t + s - 1] if s <= t < s + memory else 0 for t in range(steps)] for s in range(steps)]
    )


def test_in_a_bounded_memory_the_mean_over_all_cuts_has_the_bias_of_its_size():
    p = started(problem("vanilla", units=2, steps=STEPS))
    parameters, static = eqx.partition(p.model, eqx.is_inexact_array)

    def losses(of_each_step):
        """The loss of each step, from parameters of its own for each step."""
        hidden, found = p.hidden, []
        for t in range(STEPS):
            model = eqx.combine(jax.tree.map(lambda leaf, t=t: leaf[t], of_each_step), static)
            hidden = model.cell(model.cell.init_hidden() if RESET[t] else hidden, p.xs[t])
            found.append(WEIGHT[t] * loss(model.predict(hidden), p.ys[t]))
        return jnp.stack(found)

    @jax.jit
    def both():
        of_each_step = jax.tree.map(lambda leaf: jnp.stack([leaf] * STEPS), parameters)
        by_step = jax.jacrev(losses)(of_each_step)  # [t, s, ...]
        shares = learned_shares(STEPS, MEMORY).T
        expected = jax.tree.map(lambda J: jnp.tensordot(shares, J, 2), by_step)
        return mean_gradient(p, OnlineARTBP(CUT, MEMORY), 1), expected

    mean, expected = both()
    assert_same(mean, expected)
    exact = jax.jit(naive_gradient)(*p, RESET, WEIGHT)
    assert not np.allclose(mean.cell.weights[0], exact.cell.weights[0], rtol=1e-2)


@pytest.mark.parametrize("memory", [1, 3, 20])
def test_the_bias_of_the_documentation_is_that_of_the_long_run(memory):
    steps, k = 1000, np.arange(memory)
    shares = learned_shares(steps, memory)[steps - memory, steps - memory :]
    q = 1 - CUT
    np.testing.assert_allclose(shares, (1 - q ** (memory - k)) / (1 - q**memory), rtol=1e-10)


def plain_run(p, cuts, rate, memory):
    """The same stream as a loop, with an update by descent at each cut. A segment goes backward step by step."""
    parameters, static = eqx.partition(p.model, eqx.is_inexact_array)

    def step(parameters, hidden, t):
        model = eqx.combine(parameters, static)
        hidden = model.cell(hidden, p.xs[t])
        return hidden, loss(model.predict(hidden), p.ys[t])

    hidden, before, losses = p.hidden, [], []
    for t in range(len(p.xs)):
        before.append(hidden)
        hidden, value = step(parameters, hidden, t)
        losses.append(value)
        if cuts[t] or len(before) == memory:
            total = jax.tree.map(jnp.zeros_like, parameters)
            delta = jax.tree.map(jnp.zeros_like, hidden)
            for s in range(t, t - len(before), -1):
                pull = jax.vjp(lambda parameters, h, s=s: step(parameters, h, s), parameters, before.pop())[1]
                grads, delta = pull((delta, jnp.ones(())))
                delta = jax.tree.map(lambda leaf: leaf / (1 - CUT), delta)
                total = jax.tree.map(jnp.add, total, grads)
            parameters = jax.tree.map(lambda w, g: w - rate * g, parameters, total)
    return jnp.stack(losses), parameters


def test_a_learner_updates_at_the_cuts_and_only_there():
    p, estimator = problem("gru", units=2, steps=12), OnlineARTBP(CUT, 4)

    def learner(rate):
        return onward.Learner(estimator, optax.sgd(rate), loss=loss)

    start = learner(0.1).init(p.model, key=jr.key(1), example=(p.xs[0], p.ys[0]))
    start = dataclasses.replace(start, hidden=p.hidden)
    # The stream is under way, and its first segment begins here.
    start = eqx.tree_at(lambda c: c.estimator.segment.begin, start, p.hidden)
    cuts = np.asarray(uniform(estimator.draw(start.estimator, 12)[:, 0])) < CUT
    assert 1 < cuts.sum() < 8

    @jax.jit
    def found(rate):
        carry, metrics = learner(rate).run(start, p.xs, p.ys, observe=onward.observing.update_norms)
        return metrics.losses, eqx.filter(carry.arrays, eqx.is_inexact_array), metrics.observed

    losses, arrays, observed = found(0.1)
    expected = jax.jit(lambda rate: plain_run(p, cuts, rate, 4))(0.1)
    assert_same((losses, arrays), expected)
    moved = np.asarray(jax.tree.leaves(observed)[0]) > 0
    assert not moved.all()


def test_derivatives_of_a_run_are_those_of_a_plain_loop():
    p, estimator = problem("vanilla", units=2, steps=7), OnlineARTBP(CUT, 3)
    start = onward.Learner(estimator, optax.sgd(0.1), loss=loss).init(
        p.model, key=jr.key(2), example=(p.xs[0], p.ys[0])
    )
    cuts, p = np.asarray(uniform(estimator.draw(start.estimator, 7)[:, 0])) < CUT, started(p)

    def last(rate):
        learner = onward.Learner(estimator, optax.sgd(rate), loss=loss)
        return learner.run(start, p.xs, p.ys)[1].losses[-1]

    def plain(rate):
        return plain_run(p, cuts, rate, 3)[0][-1]

    def derivatives(function):
        return jax.jit(lambda rate: (jax.grad(function)(rate), jax.jacfwd(jax.grad(function))(rate)))(0.1)

    first, second = derivatives(last)
    assert abs(first) > 1e-3
    assert_same((first, second), derivatives(plain))


def loops(jaxpr, within=()):
    """The length of each loop over time in a program, and the names of what it stands in."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "scan":
            yield equation.params["length"], within
        for leaf in jax.tree.leaves(equation.params, is_leaf=lambda leaf: hasattr(leaf, "eqns")):
            if hasattr(leaf, "eqns"):
                yield from loops(leaf, (*within, name))


def test_a_chunk_without_a_cut_only_goes_forward():
    p, estimator = problem("vanilla", units=2, steps=1), OnlineARTBP(CUT, 50)
    grad = lambda state: estimator.grad(p.model, loss, p.hidden, state, p.xs, p.ys).grads  # noqa: E731
    found = [*loops(jax.make_jaxpr(grad)(p.state(estimator)).jaxpr)]
    assert {length for length, _ in found} == {50}
    assert all("cond" in within for _, within in found)


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1.0, 5), "cut must be a probability of at least 0 and below 1, got 1.0"),
        ((0.1, 0), "memory must be an integer of at least 1, got 0"),
        ((0.1, 2.5), "memory must be an integer of at least 1, got 2.5"),
    ],
)
def test_what_is_wrong_is_named(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        OnlineARTBP(*arguments)


def test_an_example_is_needed():
    p = problem("vanilla", units=2, steps=1)
    with pytest.raises(ValueError, match=r"example must be given, one \(x, y\) of the stream: OnlineARTBP stores"):
        OnlineARTBP(0.1, 5).init(p.model, p.hidden, key=jr.key(0))
