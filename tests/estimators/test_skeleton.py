"""The contract suite on an estimator of one's own, as the guide "Your own estimator" shows it."""

import functools
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from problems import assert_same
from test_contract import *  # noqa: F403  every test of the contract, with the estimator below

import onward

sys.path.insert(0, str(Path(__file__).parents[2] / "docs" / "skeletons"))

from diagonal_rtrl import DiagonalRTRL

ESTIMATORS = {"diagonal-rtrl": DiagonalRTRL()}
CELLS = ["own"]  # one kind of cell; leave this line out to have them all


@pytest.mark.parametrize("around", [lambda estimator: estimator, onward.estimators.ContinuedBPTT])
def test_it_is_exact_where_units_stand_alone(around):
    """What only this estimator promises: in a unit-wise cell of one state component it is RTRL, in windows too."""
    cell = onward.cells.IndRNNCell(2, 3, key=jr.key(0), activation=jnp.tanh)
    model = onward.Model(cell, eqx.nn.Linear(3, 2, key=jr.key(1)))
    xs, ys, hidden = jr.normal(jr.key(2), (4, 2)), jr.normal(jr.key(3), (4, 2)), cell.init_hidden()

    @functools.partial(jax.jit, static_argnums=0)
    def later_grads(estimator):
        state = estimator.init(model, hidden, key=jr.key(4))
        first = estimator.grad(model, onward.losses.squared_error, hidden, state, xs[:2], ys[:2])
        return estimator.grad(model, onward.losses.squared_error, first.hidden, first.state, xs[2:], ys[2:]).grads

    assert_same(later_grads(around(DiagonalRTRL())), later_grads(around(onward.RTRL())))
