"""The regularisers of the AWD-LSTM: against a plain loop with the same masks, and against BPTT at rates of 0."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same, problem

import onward
from onward.estimators import Chunk, RegularisedBPTT
from onward.losses import softmax_cross_entropy, squared_error
from onward.readouts import MixtureOfSoftmaxes, TiedReadout
from onward.support.freezing import learnable

STEPS, STREAMS, SYMBOLS, SIZE, UNITS = 3, 2, 5, 3, 2
RATES = {"recurrent": 0.3, "embedding": 0.2, "inputs": 0.25, "layers": 0.4, "outputs": 0.5, "latent": 0.35}
ALL = RegularisedBPTT(**RATES, activation=0.7, temporal=0.9)


@functools.cache
def words():
    """Two layers behind an embedding, under a mixture of two softmaxes that is tied to it."""
    keys = jr.split(jr.key(0), 4)
    layers = onward.LSTMCell(SIZE, UNITS, key=keys[0]), onward.GRUCell(UNITS, UNITS, key=keys[1])
    cell = onward.EmbeddedCell(SYMBOLS, onward.StackedCell(layers), size=SIZE, key=keys[2], scale=1.0)
    readout = MixtureOfSoftmaxes(UNITS, 2, size=SIZE, decoder=TiedReadout(SYMBOLS), key=keys[3])
    return onward.Model(cell, readout)


@functools.cache
def stream():
    """Two streams of three words, the second of which begins anew at its third step; a step without a loss."""
    keys = jr.split(jr.key(1), 4)
    xs, ys = (jr.randint(k, (STEPS, STREAMS), 0, SYMBOLS) for k in keys[:2])
    reset = jnp.zeros((STEPS, STREAMS), bool).at[2, 1].set(True)
    weight = jr.uniform(keys[2], (STEPS, STREAMS)).at[1, 0].set(0.0)
    state = jax.vmap(lambda key: ALL.start(words(), None, key=key, example=None))(jr.split(keys[3], STREAMS))
    noise = jax.vmap(lambda state: ALL.draw(state, STEPS), out_axes=1)(state)
    hidden = words().cell.init_hidden()
    hidden = jax.tree.map(lambda h: 0.3 * jnp.ones((STREAMS, *h.shape)), hidden)
    return hidden, state, Chunk(xs, ys, reset, weight, noise)


def factors(key, rate, shape):
    return jr.bernoulli(key, 1 - rate, shape).astype(float) / (1 - rate)


def own_factors(noise, place, leaf, rate, shape):
    """Those of one stream, read from the noise of its first step."""
    key = jr.fold_in(jr.wrap_key_data(noise[0, :2], impl="threefry2x32"), place)
    return factors(key if leaf is None else jr.fold_in(key, leaf), rate, shape)


def naive_objective(parameters):
    """The objective by Python loops over streams, steps and layers."""
    model = eqx.combine(parameters, words())
    hiddens, _, chunk = stream()
    shared = jr.wrap_key_data(chunk.noise[0, 0, 2:], impl="threefry2x32")
    symbols = factors(jr.fold_in(shared, 2), RATES["embedding"], (SYMBOLS,))
    layers = []
    for i, layer in enumerate(model.cell.cell.layers):
        weights = []
        for g, (W, group) in enumerate(zip(layer.weights, layer.groups, strict=True)):
            if group.sees_hidden:
                kept = factors(jr.fold_in(jr.fold_in(shared, i), g), RATES["recurrent"], (*W.shape[:2], UNITS))
                W = W.at[..., :UNITS].multiply(kept)
            weights.append(W)
        layers.append(eqx.tree_at(lambda cell: cell.weights, layer, tuple(weights)))
    total = 0.0
    for stream_ in range(STREAMS):
        noise, hidden = chunk.noise[:, stream_], jax.tree.map(lambda h, s=stream_: h[s], hiddens)
        read = own_factors(noise, 0, 0, RATES["inputs"], (SIZE,))
        between = own_factors(noise, 1, 0, RATES["layers"], (UNITS,))
        said = own_factors(noise, 2, 0, RATES["outputs"], (UNITS,))
        latent = own_factors(noise, 3, None, RATES["latent"], (2 * SIZE,)).reshape(2, SIZE)
        before = None
        for t in range(STEPS):
            x, y, w = (leaf[t, stream_] for leaf in (chunk.xs, chunk.ys, chunk.weight))
            if np.asarray(chunk.reset)[t, stream_]:
                hidden, before = model.cell.init_hidden(), None
            lower = layers[0](hidden[0], model.cell.embedding[x] * symbols[x] * read)
            upper = layers[1](hidden[1], layers[0].output(lower) * between)
            hidden, output = (lower, upper), layers[1].output(upper)
            o, readout = output * said, model.readout
            each = [
                jax.nn.softmax(model.cell.embedding @ l + readout.decoder.bias)
                for l in jnp.tanh(readout.latent.weight @ o + readout.latent.bias).reshape(2, SIZE) * latent
            ]
            p = jax.nn.softmax(readout.prior.weight @ o) @ jnp.stack(each)
            moved = 0.0 if before is None else jnp.mean((output - before) ** 2)
            total += w * (-jnp.log(p[y]) + 0.7 * jnp.mean(o**2) + 0.9 * moved)
            before = output
    return total / STREAMS


def test_it_is_the_gradient_of_a_loop_with_these_masks_and_so_is_its_derivative():
    hidden, state, chunk = stream()
    parameters = learnable(words())
    direction = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape), parameters)

    def found(parameters):
        estimate = ALL.mean_estimate(eqx.combine(parameters, words()), softmax_cross_entropy, hidden, state, chunk)
        return estimate.value, estimate.grads

    both = [
        jax.jit(lambda p, f=f: jax.jvp(f, (p,), (direction,))) for f in (found, jax.value_and_grad(naive_objective))
    ]
    assert_same(*(f(parameters) for f in both))


def test_without_any_it_is_bptt_and_one_stream_is_a_batch_of_one():
    p = problem("gru", units=2, steps=STEPS)
    found, expected = jax.jit(lambda p: [p.estimate(e) for e in (RegularisedBPTT(), onward.BPTT())])(p)
    assert_same((found.grads, found.hidden, found.losses), (expected.grads, expected.hidden, expected.losses))
    assert found.objective is None

    hidden, state, chunk = stream()
    one = jax.tree.map(lambda leaf: leaf[:1], (hidden, state))
    chunk = jax.tree.map(lambda leaf: leaf[:, :1], chunk)
    alone = jax.tree.map(lambda leaf: leaf[0], one), jax.tree.map(lambda leaf: leaf[:, 0], chunk)
    batch = jax.jit(lambda: ALL.mean_estimate(words(), softmax_cross_entropy, *one, chunk).grads)()
    assert_same(jax.jit(lambda: ALL.estimate(words(), softmax_cross_entropy, *alone[0], alone[1]).grads)(), batch)


def test_masks_are_drawn_anew_for_each_chunk_and_about_the_rate_is_dropped():
    estimator = RegularisedBPTT(recurrent=0.3, embedding=0.2, outputs=0.5)
    cell = onward.EmbeddedCell(2000, onward.LSTMCell(3, 40, key=jr.key(0)), size=3, key=jr.key(1))
    model = onward.Model(cell, eqx.nn.Linear(40, 2, key=jr.key(2)))
    state = estimator.start(model, None, key=jr.key(3), example=None)
    noise = estimator.draw(state, 2 * STEPS)
    drawn = [estimator.drawn(model, part).shared for part in (noise[:STEPS], noise[STEPS:])]
    ((recurrent,),) = drawn[0].recurrent
    assert recurrent.shape == (4, 40, 40)
    for masks, rate in ((recurrent, 0.3), (drawn[0].symbols, 0.2)):
        dropped = float((masks == 0).mean())
        assert abs(dropped - rate) < 4 * np.sqrt(rate * (1 - rate) / masks.size)
        np.testing.assert_allclose(np.unique(masks), [0, 1 / (1 - rate)])
    assert (drawn[0].symbols != drawn[1].symbols).any()
    assert (recurrent != drawn[1].recurrent[0][0]).any()


def test_the_reported_losses_hold_no_penalty_and_the_value_does():
    hidden, state, chunk = stream()
    free = RegularisedBPTT(**RATES)
    found, without = (
        jax.jit(lambda e=e: e.mean_estimate(words(), softmax_cross_entropy, hidden, state, chunk))()
        for e in (ALL, free)
    )
    assert_same(found.losses, without.losses)
    assert float(found.value) > float(without.value)


def test_the_regulariser_of_fptt_and_a_fit_go_with_it():
    with jax.numpy_dtype_promotion("standard"):
        data = onward.sequences.Tracks(np.arange(90) % SYMBOLS, batch=STREAMS, steps=6)
        optimizer = optax.chain(onward.fptt(0.1, proximal=2.0), optax.adam(0.05))
        gentle = RegularisedBPTT(recurrent=0.05, activation=0.01)
        learner = onward.Learner(gentle, optimizer, loss=softmax_cross_entropy, chunk=3, batch=STREAMS)
        carry = learner.init(words(), key=jr.key(2))
        fitted = onward.fit(learner, carry, data, onward.EveryStep(3), epochs=12, key=jr.key(3), progress=False)
        assert fitted.history[-1].loss < 0.5 * fitted.history[0].loss


@pytest.mark.usefixtures("as_in_use")
@pytest.mark.parametrize("rate", [-0.1, 1.0, float("nan"), "0.1"])
@pytest.mark.parametrize("name", [*RATES])
def test_a_rate_that_cannot_be(name, rate):
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and below 1, got"):
        RegularisedBPTT(**{name: rate})


def test_what_is_not_there_cannot_be_dropped():
    p = problem("antisymmetric", units=2, steps=STEPS)
    for rate, sentence in (
        ("embedding", "embedding dropout is for an onward.EmbeddedCell, got AntisymmetricCell"),
        ("latent", "latent dropout is for an onward.readouts.MixtureOfSoftmaxes, got a readout of type Linear"),
        ("recurrent", "a matrix of recurrent weights, such as onward.LSTMCell, got AntisymmetricCell"),
    ):
        with pytest.raises(ValueError, match=sentence):
            p.state(RegularisedBPTT(**{rate: 0.1}))
    with pytest.raises(ValueError, match="activation must be a finite number of at least 0, got -1"):
        RegularisedBPTT(activation=-1.0)


def test_layers_behind_a_map_of_the_inputs_are_dropped_too():
    keys = jr.split(jr.key(0), 4)
    stack = onward.StackedCell([onward.LSTMCell(3, 2, key=keys[0]), onward.GRUCell(2, 2, key=keys[1])])
    cell = onward.cells.EncodedCell(eqx.nn.Linear(3, 3, key=keys[2]), stack)
    model = onward.Model(cell, eqx.nn.Linear(2, 1, key=keys[3]))
    xs, ys = jnp.ones((STEPS, 3)), jnp.ones((STEPS, 1))

    @jax.jit
    def losses():
        def of(estimator, cell, xs):
            m, hidden = onward.Model(cell, model.readout), stack.init_hidden()
            state = estimator.init(m, hidden, key=keys[0])
            return estimator.grad(m, squared_error, hidden, state, xs, ys).losses

        behind, alone = (RegularisedBPTT(recurrent=0.3, inputs=0.25, layers=0.4), onward.BPTT())
        encoded = jax.vmap(cell.encode)(xs)
        return of(behind, cell, xs), of(behind, stack, encoded), of(alone, cell, xs)

    behind, given, plain = losses()
    assert_same(behind, given)
    assert np.all(behind != plain)


def test_without_two_layers_none_is_dropped_between_them():
    lstm = onward.LSTMCell(3, 4, key=jr.key(0))
    for cell, got in (
        (lstm, "LSTMCell"),
        (onward.StackedCell([lstm]), "StackedCell of LSTMCell"),
        (onward.EmbeddedCell(5, lstm, size=3, key=jr.key(1)), "EmbeddedCell of LSTMCell"),
        (onward.cells.EncodedCell(jnp.tanh, lstm), "EncodedCell of LSTMCell"),
    ):
        model = onward.Model(cell, eqx.nn.Linear(4, 1, key=jr.key(2)))
        with pytest.raises(ValueError, match=f"layers dropout is for .* two or more layers, got {got}\\."):
            RegularisedBPTT(layers=0.5).start(model, cell.init_hidden(), key=jr.key(3), example=None)


def test_the_weights_have_one_mask_and_one_gradient_for_all_streams():
    """No weight, mask or gradient of a weight exists once a stream."""
    hidden, state, chunk = stream()
    hidden, state = jax.tree.map(lambda leaf: jnp.repeat(leaf, 7, axis=0)[:7], (hidden, state))
    chunk = jax.tree.map(lambda leaf: jnp.repeat(leaf, 7, axis=1)[:, :7], chunk)
    grads = lambda p: ALL.mean_estimate(p, softmax_cross_entropy, hidden, state, chunk).grads  # noqa: E731
    program = str(jax.make_jaxpr(grads)(words()))
    assert f"f64[4,{UNITS},{UNITS + SIZE + 1}]" in program
    assert f"f64[7,4,{UNITS},{UNITS + SIZE + 1}]" not in program
    assert f"f64[7,4,{UNITS},{UNITS}]" not in program
