"""NoBackTrack on ever finer steps of a continuous system, §1.4 of its paper: the noise of the estimate has a limit."""

import jax
import jax.numpy as jnp
import jax.random as jr
import pytest
from problems import assert_same

import onward
from onward.estimators._reductions import UnitRows

UNITS, DURATION = 3, 2.0


def cell_of(dt, **options):
    return onward.LeakyCell(2, UNITS, key=jr.key(0), time_step=dt, **options)


def influence(cell, key, steps):
    """`v` and `w` after `steps` steps of one input, and the estimate of ∂(Σ h)/∂W that they and the rows make."""
    estimator = onward.NoBackTrack()
    model = onward.Model(cell, lambda output: output)
    hidden = cell.init_hidden()
    state = estimator.init(model, hidden, key=key)
    x = jnp.array([1.0, -0.5])

    def step(carry, words):
        hidden, state = carry
        hidden, state, contract = estimator.advance(cell, hidden, state, x, words)
        return (hidden, state), contract(jnp.ones(UNITS)).weights[0]

    (_, state), estimates = jax.lax.scan(step, (hidden, state), estimator.draw(state, steps))
    return state, estimates[-1]


@pytest.mark.parametrize("preactivation_state", [True, False])
def test_a_step_moves_by_dt_times_the_same_velocity(preactivation_state):
    whole = cell_of(1.0, preactivation_state=preactivation_state)
    tenth = cell_of(0.1, preactivation_state=preactivation_state)
    hidden, x = jnp.array([0.3, -1.0, 0.7]), jnp.array([1.0, -0.5])
    assert_same(10 * (tenth(hidden, x) - hidden), whole(hidden, x) - hidden)


def test_the_variance_of_the_estimate_settles_as_steps_become_finer():
    keys = jr.split(jr.key(1, impl="unsafe_rbg"), 4000)

    def variance(dt):
        steps = round(DURATION / dt)
        estimates = jax.jit(jax.vmap(lambda key: influence(cell_of(dt), key, steps)[1]))(keys)
        return estimates.var(0).sum()

    coarse, fine, finest = (variance(dt) for dt in (1 / 8, 1 / 32, 1 / 128))
    # Unscaled noise would grow or shrink by 4 from one to the next; the limit is approached like dt.
    assert abs(finest / fine - 1) < 0.1
    assert abs(fine / coarse - 1) < 0.35


def test_each_reduction_adds_noise_of_the_square_root_of_dt():
    def added(dt):
        state, _ = influence(cell_of(dt), jr.key(2), round(DURATION / dt))
        assert isinstance(state.pending, UnitRows)
        # ‖Σ ε_i ρ_i e_i‖² = Σ ‖w_i‖, the same for w: both are to be of the order of dt.
        return state.pending.rows.norms().sum()

    assert added(1 / 128) / added(1 / 32) == pytest.approx(1 / 4, rel=0.02)


@pytest.mark.parametrize("dt", [0.0, -0.1, 1.5, float("nan")])
def test_a_time_step_out_of_range_is_named(dt):
    with pytest.raises(ValueError, match=f"time_step must be above 0 and at most 1, got {dt}"):
        cell_of(dt)
