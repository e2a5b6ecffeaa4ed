"""Noise averages out exactly: the mean over every outcome of the signs, not a sample, is the exact gradient. float64, 1e-10."""

import functools
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from problems import (
    AFFINE_CELLS,
    CELLS,
    STACKS,
    IntegratorCell,
    assert_same,
    naive_gradient,
    patterns,
    problem,
    quick_jit,
)

import onward


class Form(NamedTuple):
    """An estimator, how many signs it draws for each number of the state, and the problem's size at which all are counted."""

    estimator: onward.AbstractEstimator
    copies: int
    units: int
    steps: int

    def sized(self, cell):
        """Cells whose state is larger than their number of units are counted over fewer steps."""
        large = cell in STACKS or "lstm" in cell or cell == "own"
        return self._replace(steps=3) if large else self


FORMS = {
    "uoro": Form(onward.UORO(), 1, units=2, steps=4),
    "rank-1": Form(onward.NoBackTrack(), 1, units=2, steps=4),
    "rank-2": Form(onward.NoBackTrack(rank=2), 2, units=2, steps=4),
    "blocks-2": Form(onward.NoBackTrack(rank=2, blocks=True), 1, units=3, steps=3),
    "blocks-per-unit": Form(onward.NoBackTrack(rank=3, blocks=True), 1, units=3, steps=3),
}
MOST_BITS = 16


def all_noise(form, cell, state_sizes):
    """The sign words of every outcome that can differ: `[outcome, steps, 1]`.

    `state_sizes` are the sizes of the layers' states. Each number has a bit a step and copy; NoBackTrack's top layer does not
    use those of the last step, which are the highest bits of its word.
    """
    bits = form.copies * sum(state_sizes)
    unused = 0 if form.estimator == FORMS["uoro"].estimator else form.copies * state_sizes[-1]
    total = bits * form.steps - unused
    assert total <= MOST_BITS, f"{total} bits are too many to count out"
    outcomes = patterns(total)
    words = [outcomes >> jnp.uint32(bits * t) & jnp.uint32(2**bits - 1) for t in range(form.steps)]
    return jnp.stack(words, 1)[..., None]


@functools.cache
def subject(cell, units, steps):
    return problem(cell, units=units, steps=steps)


@functools.cache
def exact(cell, units, steps):
    """The gradient, without and with a new sequence at the second step."""
    p = subject(cell, units, steps)
    compute = quick_jit(lambda p, reset: naive_gradient(*p, reset, jnp.ones(steps)))
    return tuple(compute(p, reset) for reset in resets(steps))


def resets(steps):
    return jnp.zeros(steps, bool), jnp.arange(steps) == 1


def sizes(p):
    layers = p.hidden if isinstance(p.cell, onward.StackedCell) else (p.hidden,)
    return [ravel_pytree(layer)[0].size for layer in layers]


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("name", FORMS)
def test_the_mean_gradient_over_all_signs_is_exact(name, cell):
    form = FORMS[name].sized(cell)
    p = subject(cell, form.units, form.steps)
    noise = all_noise(form, cell, sizes(p))

    @quick_jit
    def mean(p, noise, reset):
        grads = jax.vmap(lambda noise: p.grad(form.estimator, noise=noise, reset=reset))(noise)
        return jax.tree.map(lambda g: g.mean(0), grads)

    for reset, expected in zip(resets(form.steps), exact(cell, form.units, form.steps), strict=True):
        assert_same(mean(p, noise, reset), expected)
