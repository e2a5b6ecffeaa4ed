"""The latest inputs: newest first, none before they are read, and of one shape."""

import jax
import jax.numpy as jnp
import pytest

from onward.cells import RecentInputs


def test_it_holds_the_latest_inputs(promotion):
    cell, xs = RecentInputs(3, 2), jnp.arange(10.0).reshape(5, 2)
    hidden = jax.lax.scan(lambda h, x: (cell(h, x), cell.output(h)), cell.init_hidden(), xs)
    assert jnp.array_equal(hidden[0], xs[:1:-1])
    assert jnp.array_equal(hidden[1][1], jnp.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]))


def test_its_numbers_have_the_dtype_that_was_asked_for():
    assert RecentInputs(2, 3, dtype=jnp.float32).init_hidden().dtype == jnp.float32


@pytest.mark.parametrize(("length", "size", "name"), [(0, 2, "length"), (2, 0, "size")])
def test_sizes_out_of_range_are_refused(length, size, name):
    with pytest.raises(ValueError, match=name):
        RecentInputs(length, size)


def test_an_input_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"x must be a vector of size 2, got the shape \(3,\)"):
        RecentInputs(2, 2)(jnp.zeros((2, 2)), jnp.zeros(3))
