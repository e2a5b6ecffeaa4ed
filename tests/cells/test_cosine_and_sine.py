"""Cosine and sine as series: the same numbers as a library's, for every angle, and their derivatives."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import onward
from onward.cells import cpu_tuning
from onward.cells.cpu_tuning import LARGE_ANGLE, cosine_and_sine

EXACT = {np.float32: np.float64, np.float64: np.longdouble}
EDGES = np.arange(-16, 17) * np.pi / 4


@pytest.mark.parametrize("dtype", EXACT)
@pytest.mark.parametrize("largest", [1, 7, 400, LARGE_ANGLE - 1, 100 * LARGE_ANGLE])
def test_the_numbers_are_rounded_once(dtype, largest):
    angles = np.append(np.random.default_rng(0).uniform(-largest, largest, 5000), EDGES[abs(EDGES) <= largest])
    angles = angles.astype(dtype)
    found = jax.jit(cosine_and_sine)(angles)
    exact = angles.astype(EXACT[dtype])
    for numbers, right in zip(found, (np.cos(exact), np.sin(exact)), strict=True):
        assert numbers.dtype == dtype
        assert np.max(abs(np.asarray(numbers) - right)) < 0.75 * np.finfo(dtype).eps


def test_one_large_angle_leaves_the_others_as_they_are():
    angles = jnp.asarray([0.3, -2.0, 1e12, 5.0])
    assert_allclose(cosine_and_sine(angles), (np.cos(angles), np.sin(angles)), rtol=0, atol=2e-16)


def test_what_is_no_angle_stays_none():
    for numbers in cosine_and_sine(jnp.asarray([jnp.nan, jnp.inf, -jnp.inf])):
        assert jnp.isnan(numbers).all()


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_half_precision_is_the_librarys(dtype):
    angles = jnp.linspace(-3, 3, 9, dtype=dtype)
    for ours, theirs in zip(cosine_and_sine(angles), (jnp.cos(angles), jnp.sin(angles)), strict=True):
        assert ours.dtype == dtype
        assert_array_equal(ours, theirs)


def derivatives(angles):
    def mixed(angle):
        cosine, sine = cosine_and_sine(angle)
        return cosine**2 + 3 * sine + cosine * sine

    kinds = {
        "reverse": jax.grad(mixed),
        "reverse over reverse": jax.grad(jax.grad(mixed)),
        "forward over reverse": jax.jacfwd(jax.grad(mixed)),
        "reverse over forward": jax.grad(jax.jacfwd(mixed)),
        "third": jax.grad(jax.grad(jax.grad(mixed))),
    }
    return {name: jax.vmap(kind)(angles) for name, kind in kinds.items()}


def test_its_derivatives_of_every_order_are_those_of_plain_jax():
    angles = jnp.asarray(EDGES + 0.1)
    ours = derivatives(angles)
    with cpu_tuning.plain(True):
        plain = derivatives(angles)
    for name, numbers in ours.items():
        assert_allclose(numbers, plain[name], rtol=0, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("cell", [onward.cells.LRUCell, onward.cells.RTUCell])
def test_a_compiled_step_computes_the_turn_of_a_cell_in_one_place(cell):
    model = onward.Model(cell(3, 4, key=jr.key(0)), eqx.nn.Linear(8, 2, key=jr.key(1)))
    learner = onward.Learner(onward.RTRL(), optax.sgd(0.1), loss=onward.losses.softmax_cross_entropy)
    carry = learner.init(model, key=jr.key(2))
    run = jax.jit(lambda carry, xs, ys: learner.run(carry, xs, ys))
    text = run.lower(carry, jnp.ones((5, 3)), jnp.zeros(5, int)).compile().as_text()
    assert len(re.findall(r" cosine\(", text)) == len(re.findall(r" conditional\(", text)) == 1
