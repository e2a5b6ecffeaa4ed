"""The audit tells exact, biased and noisy estimators apart."""

import jax.numpy as jnp
import jax.random as jr
import pytest
from problems import loss, problem

import onward


def audit(estimator, cell="gru", *, steps=12, **arguments):
    p = problem(cell, units=3, steps=steps)
    return onward.audit(estimator, p.model, loss, p.xs, p.ys, key=jr.key(0), **arguments)


def test_exact_estimators_agree_in_every_block():
    found = audit(onward.RTRL())
    assert found.samples == 1
    assert {row.block for row in found.rows} > {"all", "cell.weights[0] row 1", "readout.weight"}
    for row in found.rows:
        assert row.cosine == pytest.approx(1, abs=1e-10)
        assert row.norm_ratio == pytest.approx(1, abs=1e-10)
        assert row.bias < 1e-10
        assert row.variance == 0


def test_truncation_is_a_bias_without_variance():
    whole, truncated = audit(onward.BPTT(), chunk=12), audit(onward.BPTT(), chunk=1)
    assert whole.rows[0].bias < 1e-10
    assert truncated.rows[0].bias > 0.01
    assert truncated.rows[0].variance == 0


def test_an_unbiased_estimator_is_as_far_off_as_its_noise():
    found = audit(onward.NoBackTrack(), samples=400)
    cell = next(row for row in found.rows if row.block == "cell.weights[0] row 0")
    assert 0.5 * cell.noise < cell.bias < 2 * cell.noise
    readout = next(row for row in found.rows if row.block == "readout.weight")
    assert readout.bias < 1e-10


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="samples"):
        audit(onward.UORO(), samples=1)
    with pytest.raises(ValueError, match="chunk"):
        audit(onward.UORO(), chunk=0)
    with pytest.raises(ValueError, match="exact gradient"):
        audit(onward.UORO(), weight=jnp.zeros(12))


def test_it_prints_as_a_table():
    assert str(audit(onward.RTRL())).splitlines()[0].split()[:3] == ["block", "size", "cosine"]
