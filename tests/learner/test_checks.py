"""Bad input from Python: one sentence that names the argument."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest

import onward

CELL = {"key": jr.key(0), "dtype": "float32"}
pytestmark = pytest.mark.usefixtures("as_in_use")

CROSS_ENTROPY = onward.losses.softmax_cross_entropy


def model():
    return onward.Model(onward.VanillaCell(3, 4, **CELL), eqx.nn.Linear(4, 2, key=jr.key(1), dtype="float32"))


def run(xs=None, ys=None, *, loss=CROSS_ENTROPY, model=model, batch=None, **flags):
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=loss, batch=batch)
    xs = jnp.ones((5, 3), "float32") if xs is None else xs
    ys = jnp.zeros(5, int) if ys is None else ys
    return learner.run(learner.init(model(), key=jr.key(2)), xs, ys, **flags)


@pytest.mark.parametrize(
    ("match", "arguments"),
    [
        ("xs.*float64", {"xs": np.ones((5, 3))}),
        ("xs.*int", {"xs": jnp.ones((5, 3), int)}),
        ("xs", {"xs": jnp.ones((5, 4), "float32")}),
        ("xs", {"xs": jnp.ones((), "float32")}),
        ("xs.*none", {"xs": jnp.ones((0, 3), "float32"), "ys": jnp.zeros(0, int)}),
        ("ys.*steps", {"ys": jnp.zeros(4, int)}),
        ("reset.*bool", {"reset": jnp.zeros(5, int)}),
        ("reset", {"reset": jnp.zeros(4, bool)}),
        ("weight.*floating", {"weight": jnp.zeros(5, int)}),
        ("weight", {"weight": jnp.zeros((5, 1), "float32")}),
        ("xs.*2", {"batch": 2}),
        ("loss.*scalar", {"loss": lambda prediction, y: prediction}),
        ("ys", {"loss": lambda prediction, y: jnp.sum((prediction - y) ** 2), "ys": jnp.zeros((5, 3), "float32")}),
    ],
)
def test_a_stream_that_does_not_fit(match, arguments):
    with pytest.raises(ValueError, match=match):
        run(**arguments)


def test_a_model_with_nothing_to_learn():
    cell = onward.AdaptedCell(lambda h, x: h + x, hidden=jnp.zeros(2, int))
    with pytest.raises(ValueError, match=r"model.*nothing to learn"):
        run(model=lambda: onward.Model(cell, lambda h: h))
    with pytest.raises(ValueError, match="model"):
        run(model=lambda: onward.VanillaCell(3, 4, **CELL))


@pytest.mark.parametrize(
    ("match", "make"),
    [
        ("hidden_size.*0", lambda: onward.VanillaCell(3, 0, **CELL)),
        ("hidden_size.*-1", lambda: onward.LSTMCell(3, -1, **CELL)),
        ("input_size", lambda: onward.AntisymmetricCell(0, 3, **CELL)),
        ("scale.*nan", lambda: onward.GRUCell(3, 3, scale=float("nan"), **CELL)),
        ("layers", lambda: onward.StackedCell([])),
        ("hidden", lambda: onward.AdaptedCell(lambda h, x: h)),
        ("cell.*AdaptedCell", lambda: onward.Model(eqx.nn.GRUCell(3, 4, key=jr.key(0)), lambda h: h)),
        ("rank.*0", lambda: onward.NoBackTrack(rank=0)),
        ("order.*0", lambda: onward.SnAp(order=0)),
        ("horizon.*0", lambda: onward.SlidingBPTT(horizon=0)),
        ("cut.*1", lambda: onward.ARTBP(cut=1.0)),
        ("cut.*nan", lambda: onward.ARTBP(cut=float("nan"))),
        ("chunk.*0", lambda: onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=CROSS_ENTROPY, chunk=0)),
        ("batch.*0", lambda: onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=CROSS_ENTROPY, batch=0)),
    ],
)
def test_a_setting_out_of_range(match, make):
    with pytest.raises(ValueError, match=match):
        make()


class ComplexCell(onward.AbstractCell):
    """`h' = λ h + x` of one unit, whose λ and whose state may each be complex."""

    decay: jax.Array
    state: str = eqx.field(static=True)

    def __call__(self, hidden, x):
        return (self.decay * hidden + x).astype(self.state)

    def init_hidden(self):
        return jnp.zeros(1, self.state)

    def output(self, hidden):
        return hidden.real


COMPLEX = {
    "parameter": (ComplexCell(jnp.array([0.5 + 0.5j], "complex64"), "float32"), lambda output: output),
    "state": (ComplexCell(jnp.array([0.5], "float32"), "complex64"), lambda output: output),
    "readout": (
        onward.VanillaCell(1, 1, **CELL),
        jax.tree_util.Partial(lambda w, output: (w * output).real, jnp.array([1j], "complex64")),
    ),
    "layer": (
        onward.StackedCell([onward.VanillaCell(1, 1, **CELL), ComplexCell(jnp.ones(1, "complex64"), "float32")]),
        lambda output: output,
    ),
}


@pytest.mark.parametrize("name", COMPLEX)
def test_complex_numbers_are_refused_with_what_to_do_instead(name):
    """With JAX's gradient of a complex number a descent climbs: it wants the conjugate."""
    model, xs, loss = onward.Model(*COMPLEX[name]), jnp.ones((3, 1), "float32"), lambda p, y: jnp.sum((p - y) ** 2)
    saying = pytest.raises(ValueError, match=r"complex64\[1\].*two real arrays.*jax\.lax\.complex")
    for estimator in (onward.BPTT(), onward.NoBackTrack(), onward.FPP(horizon=1, buffer=2)):
        with saying:
            onward.Learner(estimator, optax.sgd(0.1), loss=loss).init(model, key=jr.key(0), example=(xs[0], xs[0]))
    with saying:
        onward.audit(onward.RTRL(), model, loss, xs, xs, key=jr.key(0))
    with saying:
        onward.save_model(model, "nowhere")


@pytest.mark.usefixtures("promotion")
def test_complex_numbers_inside_a_cell_are_learned_as_two_real_arrays():
    """What the refusal says to do works, and is exact: the gradient is that of the same cell written out in reals."""

    def step(parameters, hidden, x):
        re, im = parameters
        h = jax.lax.complex(re, im) * jax.lax.complex(*hidden) + x
        return h.real, h.imag

    decay, xs = (jnp.array([0.5], "float32"), jnp.array([0.3], "float32")), jnp.ones((4, 1), "float32")
    cell = onward.AdaptedCell(jax.tree_util.Partial(step, decay), hidden=decay, output=lambda h: h[0])
    model = onward.Model(cell, lambda output: output)

    def gradient(estimator):
        learner = onward.Learner(estimator, optax.sgd(0.1), loss=lambda p, y: jnp.sum((p - y) ** 2), chunk=4)
        after = learner.run(learner.init(model, key=jr.key(0), example=(xs[0], xs[0])), xs, xs)[0]
        return np.concatenate([np.asarray(leaf) for leaf in jax.tree.leaves(after.arrays)])

    def by_hand(parameters):
        (a, b), (re, im), total = parameters, (0.0, 0.0), 0.0
        for x in xs:
            re, im = a * re - b * im + x, a * im + b * re
            total = total + jnp.sum((re - x) ** 2)
        return total

    expected = np.concatenate(decay) - 0.1 * np.concatenate(jax.grad(by_hand)(decay))
    for estimator in (onward.BPTT(), onward.RTRL(), onward.SnAp()):
        np.testing.assert_allclose(gradient(estimator), expected, rtol=1e-5)


def test_random_keys_in_the_inputs_are_refused_with_what_to_do_instead():
    class Noisy(onward.AbstractCell):
        decay: jax.Array

        def __call__(self, hidden, x):
            return self.decay * hidden + jr.normal(x, (2,), "float32")

        def init_hidden(self):
            return jnp.zeros_like(self.decay)

        def output(self, hidden):
            return hidden

    model = onward.Model(Noisy(jnp.ones(2, "float32")), lambda output: output)
    keys, ys = jr.split(jr.key(0), 3), jnp.ones((3, 2), "float32")
    learner = onward.Learner(onward.FPP(horizon=1, buffer=2), optax.sgd(0.1), loss=lambda p, y: jnp.sum((p - y) ** 2))
    saying = pytest.raises(ValueError, match=r"xs.*random keys.*key_data.*wrap_key_data")
    with saying:
        learner.init(model, key=jr.key(1), example=(keys[0], ys[0]))
    learner = onward.Learner(onward.BPTT(), learner.optimizer, loss=learner.loss)
    with saying:
        learner.run(learner.init(model, key=jr.key(1)), keys, ys)


def adam(**changes):
    settings = {"estimator": onward.RTRL(), "optimizer": optax.adam(0.1), "loss": onward.losses.squared_error}
    return onward.Learner(**settings | changes)


def carry_of(batch=None, **changes):
    return adam(batch=batch, **changes).init(model(), key=jr.key(2))


def told(loss):
    return adam(loss=loss, has_aux=True).run(carry_of(), XS, YS)


def fails(prediction, y):
    raise AssertionError


def shy(parameters):
    raise TypeError("no shape for None")


XS, YS = np.ones((5, 3), "float32"), np.ones((5, 2), "float32")
HALF = optax.adam(0.1, mu_dtype=jnp.bfloat16)
SHY = optax.GradientTransformation(shy, shy)


@pytest.mark.usefixtures("promotion")
@pytest.mark.parametrize(
    ("match", "call"),
    [
        ("loss must be a function.*'mse'", lambda: adam(loss="mse")),
        ("optimizer must be an Optax.*0.1", lambda: adam(optimizer=0.1)),
        ("optimizer must be an Optax.*function adam", lambda: adam(optimizer=optax.adam)),
        ("estimator must be.*RTRL", lambda: adam(estimator=onward.RTRL)),
        ("key must be a random key.*got 0", lambda: adam().init(model(), key=0)),
        ("key must be a random key.*got None", lambda: adam().init(model(), key=None)),
        (r"key must be a random key.*float\d\d\[2\]", lambda: adam().init(model(), key=jnp.ones(2))),
        ("key must be one random key.*3", lambda: adam().init(model(), key=jr.split(jr.key(0), 3))),
        ("another optimizer", lambda: adam(optimizer=optax.sgd(0.1)).run(carry_of(), XS, YS)),
        (
            "optimizer of another dtype.*float32 instead of bfloat16",
            lambda: adam(optimizer=HALF).run(carry_of(), XS, YS),
        ),
        ("another estimator.*UORO", lambda: adam(estimator=onward.UORO()).run(carry_of(), XS, YS)),
        ("another estimator.*BPTT", lambda: adam(estimator=onward.BPTT()).update(carry_of(), XS, YS)),
        (r"carry.*batch=None.*\[4\], got float32\[2, 4\]", lambda: adam().run(carry_of(batch=2), XS, YS)),
        ("carry must be a carry.*Model", lambda: adam().run(model(), XS, YS)),
        ("carry must be a carry.*ndarray", lambda: adam().update(XS, carry_of(), YS)),
        ("xs must hold numbers.*U1", lambda: adam().run(carry_of(), np.array(["a"] * 5), YS)),
        ("ys must hold numbers.*object", lambda: adam().update(carry_of(), XS, np.array([None] * 5))),
        ("ys must hold numbers.*datetime", lambda: adam().update(carry_of(), XS, np.zeros(5, "datetime64[D]"))),
        (r"key must be a random key.*uint32\[3\]", lambda: adam().init(model(), key=jnp.zeros(3, "uint32"))),
        (
            "optimizer cannot be used: its init.*no shape",
            lambda: carry_of(optimizer=SHY),
        ),
        ("predictions must be True or False.*got \\[\\]", lambda: adam().run(carry_of(), XS, YS, predictions=[])),
        ("predictions must be True or False.*got 'yes'", lambda: adam().update(carry_of(), XS, YS, predictions="yes")),
        ("observe must be a function.*got int", lambda: adam().run(carry_of(), XS, YS, observe=3)),
        ("observe must be a function.*got list", lambda: adam().update(carry_of(), XS, YS, observe=[max])),
        ("observe must return.*got str", lambda: adam().run(carry_of(), XS, YS, observe=lambda update: "norms")),
        (r"loss must return a pair.*got float\d\d \(\)", lambda: told(lambda p, y: jnp.sum(p - y))),
        (r"loss must return a pair.*got float\d\d \(2,\)", lambda: told(lambda p, y: p - y)),
        ("loss must return a pair.*got 3 values", lambda: told(lambda p, y: (jnp.sum(p), p, y))),
        ("loss must return auxiliary.*got str", lambda: told(lambda p, y: (jnp.sum(p), {"name": "mse"}))),
        ("ys: the loss cannot compare.*KeyError: 'b'", lambda: told(lambda p, y: {"a": p}["b"])),
        ("ys: the loss cannot compare.*: AssertionError", lambda: told(fails)),
    ],
)
def test_what_is_no_part_of_a_learner(match, call):
    with pytest.raises(ValueError, match=match):
        call()
