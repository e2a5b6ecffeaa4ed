"""Bad input from Python: one sentence that names the argument."""

import equinox as eqx
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
