"""Any Optax transformation gets what it asks for, or is refused; FPTT's regulariser only where it means something."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from problems import assert_same, loss

import onward

pytestmark = pytest.mark.usefixtures("promotion")
XS, YS = np.ones((4, 3), "float32"), np.zeros((4, 2), "float32")
contrib = optax.contrib


def model():
    cell = onward.VanillaCell(3, 2, key=jr.key(0), dtype="float32")
    return onward.Model(cell, eqx.nn.Linear(2, 2, key=jr.key(1), dtype="float32"))


def start(optimizer, estimator=None):
    learner = onward.Learner(estimator or onward.SnAp(), optimizer, loss=loss)
    return learner, learner.init(model(), key=jr.key(2))


def record():
    """A transformation that keeps the `value` it is given."""

    def update(updates, state, params=None, *, value, **extra):
        return jax.tree.map(lambda g: -0.1 * g, updates), jnp.asarray(value)

    return optax.GradientTransformationExtraArgs(lambda params: jnp.zeros((), jnp.float32), update)


def test_the_value_is_the_chunks_loss():
    learner, carry = start(record())
    carry, metrics = learner.run(carry, XS, YS)
    assert_same(carry.optimizer, metrics.losses[-1], relative=1e-6)
    twice = onward.Learner(onward.BPTT(), learner.optimizer, loss=loss, chunk=4, batch=2)
    carry = twice.init(model(), key=jr.key(2))
    carry, metrics = twice.run(carry, np.stack([XS, XS], 1), np.stack([YS, YS + 1], 1))
    assert_same(carry.optimizer, metrics.losses.sum(0).mean(), relative=1e-6)


ASK = {
    "plateau": optax.chain(optax.adam(1e-2), contrib.reduce_on_plateau(patience=5)),
    "polyak": optax.polyak_sgd(),
    "several steps": optax.MultiSteps(optax.polyak_sgd(), 2),
    "masked": optax.masked(optax.polyak_sgd(), lambda tree: jax.tree.map(lambda leaf: True, tree)),
    "injected": optax.inject_hyperparams(optax.polyak_sgd)(max_learning_rate=1.0),
    "sharpness": contrib.sam(optax.sgd(0.1), optax.sgd(0.1)),
}


@pytest.mark.parametrize("name", ASK)
def test_a_transformation_gets_what_it_asks_for(name):
    learner, carry = start(ASK[name])
    _, metrics = learner.run(carry, XS, YS)
    assert metrics.losses[-1] < metrics.losses[0]


@pytest.mark.parametrize(
    ("match", "optimizer"),
    [
        ("searches along a line.*without a line search", optax.lbfgs()),
        ("L-BFGS compares gradients of one objective", optax.lbfgs(0.1, linesearch=None)),
        ("searches along a line", optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5))),
        ("optimizer cannot be used.*grad_fn", contrib.sam(optax.sgd(0.1), optax.sgd(0.1), opaque_mode=True)),
        ("optimizer must return updates", optax.GradientTransformation(lambda p: (), lambda g, s, p=None: (0.0, s))),
    ],
    ids=["lbfgs", "lbfgs without a search", "backtracking", "opaque", "a number"],
)
def test_what_a_learner_cannot_serve_is_refused_in_a_sentence(match, optimizer):
    with pytest.raises(ValueError, match=match):
        start(optimizer)


def matrices(tree):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, tree)


FPTT, EXACT = onward.fptt(0.1), onward.fptt_exact(optax.adam(0.1), 0.1)
MEANT = {
    "clip after": optax.chain(FPTT, optax.clip_by_global_norm(1.0), optax.adam(0.1)),
    "decay": optax.chain(optax.add_decayed_weights(1e-3), FPTT, optax.sgd(0.1)),
    "masked": optax.chain(optax.masked(FPTT, matrices), optax.adam(0.1)),
    "several steps": optax.MultiSteps(optax.chain(FPTT, optax.sgd(0.1)), 2),
    "two groups": optax.multi_transform({True: optax.chain(FPTT, optax.sgd(0.1)), False: FPTT}, matrices),
    "schedule": optax.chain(onward.fptt(lambda n: 1 / (n + 1.0)), optax.sgd(0.1, momentum=0.9)),
    "exact": EXACT,
}
MEANINGLESS = {
    "after adam": optax.chain(optax.adam(0.1), FPTT),
    "after a rate": optax.chain(optax.sgd(0.1), FPTT),
    "after momentum": optax.chain(optax.trace(0.9), FPTT),
    "after a clip": optax.chain(optax.clip_by_global_norm(1.0), FPTT, optax.sgd(0.1)),
    "twice": optax.chain(FPTT, FPTT, optax.sgd(0.1)),
    "exact after a clip": optax.chain(optax.clip(0.1), EXACT),
    "exact, then scaled": optax.chain(EXACT, optax.scale(0.5)),
}


@pytest.mark.parametrize("name", MEANT)
def test_a_regulariser_in_its_place_is_taken(name):
    start(MEANT[name], onward.BPTT())


@pytest.mark.parametrize("name", MEANINGLESS)
def test_a_regulariser_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match=r"fptt must come first|fptt_exact must be given the whole"):
        start(MEANINGLESS[name], onward.BPTT())


def test_a_traced_rate_cannot_be_looked_at_and_passes():
    def optimizer(rate):
        return start(optax.chain(onward.fptt(rate), optax.sgd(rate)), onward.BPTT())[1].optimizer

    assert jax.tree.leaves(jax.jit(optimizer)(0.1))
    assert jax.tree.leaves(jax.vmap(optimizer)(jnp.array([0.1, 0.2])))
