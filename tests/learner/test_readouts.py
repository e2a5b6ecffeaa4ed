"""Readouts: as written down, with both derivatives, and tied under every kind of estimator."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same

import onward
from onward.losses import softmax_cross_entropy
from onward.readouts import MixtureOfSoftmaxes, NormalisedReadout, TiedReadout

pytestmark = pytest.mark.product("kind", "estimator")

SYMBOLS, SIZE, UNITS, STEPS = 5, 3, 2, 4


def embedded(units=SIZE):
    cell_key, embedding_key = jr.split(jr.key(0))
    cell = onward.GRUCell(SIZE, units, key=cell_key)
    return onward.EmbeddedCell(SYMBOLS, cell, size=SIZE, key=embedding_key, scale=1.0)


def mixture(decoder, inputs=UNITS, components=3):
    return MixtureOfSoftmaxes(inputs, components, size=SIZE, decoder=decoder, key=jr.key(1))


def linear(size=SIZE):
    return eqx.nn.Linear(size, SYMBOLS, key=jr.key(2))


def probabilities(readout, o):
    """The mixture as the paper writes it: a sum of products of probabilities."""
    latent = jnp.tanh(readout.latent.weight @ o + readout.latent.bias).reshape(3, SIZE)
    each = jnp.stack([jax.nn.softmax(readout.decoder.weight @ l + readout.decoder.bias) for l in latent])
    return jax.nn.softmax(readout.prior.weight @ o) @ each


def test_a_normalised_readout_reads_features_of_variance_one():
    readout, o = NormalisedReadout(4, 2, key=jr.key(0)), jnp.array([1.0, -2.0, 0.5, 3.0])
    features = (o - o.mean()) / jnp.sqrt(o.var() + 1e-5)
    assert_same(readout(o), readout.linear.weight @ features + readout.linear.bias)
    assert [leaf.shape for leaf in jax.tree.leaves(eqx.filter(readout, eqx.is_array))] == [(2, 4), (2,)]
    for sizes, name in (((1, 2), "input_size"), ((4, 0), "output_size")):
        with pytest.raises(ValueError, match=name):
            NormalisedReadout(*sizes, key=jr.key(0))


def test_a_mixture_of_softmaxes_is_the_sum_of_products_with_both_derivatives():
    parameters, rest = eqx.partition(mixture(linear()), eqx.is_inexact_array)
    o, y = jr.normal(jr.key(3), (UNITS,)), jnp.array(2)
    direction = jax.tree.map(lambda leaf: jnp.sin(jnp.arange(leaf.size)).reshape(leaf.shape), (parameters, o))

    def second(loss):
        gradient = jax.value_and_grad(lambda both: loss(eqx.combine(both[0], rest), both[1]))
        return jax.jit(lambda both: jax.jvp(gradient, (both,), (direction,)))

    found = second(lambda readout, o: softmax_cross_entropy(readout(o), y))((parameters, o))
    assert_same(found, second(lambda readout, o: -jnp.log(probabilities(readout, o)[y]))((parameters, o)))
    np.testing.assert_allclose(jnp.exp(mixture(linear())(o)), probabilities(mixture(linear()), o), rtol=1e-12)


def test_a_mixture_has_a_higher_rank_than_one_softmax():
    """Log-probabilities of many outputs: with one softmax their rank is at most the size of an output plus one."""
    outputs = jr.normal(jr.key(4), (40, 1))

    def rank(components):
        readout = MixtureOfSoftmaxes(1, components, size=1, decoder=linear(1), key=jr.key(1))
        log_p = np.array(jax.vmap(readout)(outputs))
        return np.linalg.matrix_rank(log_p - log_p.mean(1, keepdims=True), tol=1e-6)

    assert rank(1) <= 2 < rank(4)


TIED = {
    "linear": lambda: onward.Model(embedded(), TiedReadout(SYMBOLS)),
    "mixture": lambda: onward.Model(embedded(UNITS), mixture(TiedReadout(SYMBOLS))),
}


def untied_gradient(model, xs, ys):
    """The gradients of both uses of the embedding, each for itself, by a loop."""
    readout = model.readout

    def loss(read, said, rest):
        m = eqx.combine(rest, model)
        hidden, total = m.cell.init_hidden(), 0.0
        for x, y in zip(xs, ys, strict=True):
            hidden = m.cell.cell(hidden, read[x])
            total += softmax_cross_entropy(m.readout(m.cell.output(hidden), said), y)
        return total

    rest = eqx.tree_at(lambda m: m.cell.embedding, eqx.filter(model, eqx.is_inexact_array), None)
    assert readout is model.readout
    read, said, others = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*[model.cell.embedding] * 2, rest)
    return eqx.tree_at(lambda m: m.cell.embedding, others, read + said, is_leaf=lambda node: node is None)


@pytest.mark.parametrize("kind", [*TIED])
@pytest.mark.parametrize(
    "estimator", [onward.BPTT(), onward.RTRL(), onward.SlidingBPTT(STEPS)], ids=lambda e: type(e).__name__
)
def test_the_gradient_of_a_tied_embedding_is_the_sum_of_both_uses(kind, estimator):
    model, xs, ys = TIED[kind](), jnp.array([0, 3, 1, 3]), jnp.array([3, 1, 3, 4])
    hidden = model.cell.init_hidden()
    state = estimator.init(model, hidden, key=jr.key(5), example=(xs[0], ys[0]))
    found = eqx.filter_jit(estimator.grad)(model, softmax_cross_entropy, hidden, state, xs, ys)
    assert_same(found.grads, untied_gradient(model, xs, ys))


def test_predicting_before_learning_has_the_same_tied_gradient():
    with jax.numpy_dtype_promotion("standard"):
        model, x, y = TIED["linear"](), jnp.array(3), jnp.array(1)
        learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=softmax_cross_entropy)
        carry = learner.init(model, key=jr.key(0))
        learned, _ = learner.learn(*learner.predict(carry, x), y)
        assert_same(learned.arrays, learner.update(carry, x[None], y[None])[0].arrays)


@pytest.mark.usefixtures("as_in_use")
def test_what_does_not_fit_is_refused_in_a_sentence():
    for build, sentence in (
        (lambda: mixture(linear(), components=0), "components must be an integer of at least 1, got 0"),
        (lambda: mixture(linear(2)), "decoder must read latent vectors of size 3, it reads 2"),
        (lambda: mixture(jnp.tanh), "decoder must be an eqx.nn.Linear or an onward.readouts.TiedReadout, got"),
        (lambda: TiedReadout(0), "symbols must be an integer of at least 1, got 0"),
        (
            lambda: onward.Model(onward.GRUCell(2, 3, key=jr.key(0)), TiedReadout(4)),
            "a tied readout uses the embedding of an onward.EmbeddedCell, got GRUCell",
        ),
        (
            lambda: onward.Model(embedded(UNITS), TiedReadout(SYMBOLS)),
            "a tied readout needs vectors of the embedding's size 3, it reads 2",
        ),
        (
            lambda: onward.Model(embedded(), mixture(linear(), inputs=7)),
            r"must read the output of the cell, float64 \(3,\); this MixtureOfSoftmaxes has the input_size 7",
        ),
        (
            lambda: onward.Model(embedded(), NormalisedReadout(7, 2, key=jr.key(0))),
            r"the output of the cell, float64 \(3,\); this NormalisedReadout has the input_size 7",
        ),
        (
            lambda: onward.Model(embedded(), TiedReadout(4)),
            "a tied readout needs as many symbols as the embedding, 5, got 4",
        ),
    ):
        with pytest.raises(ValueError, match=sentence):
            build()
