"""Operations on trees of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onward.support.trees import LARGE, norm, squared_norm


@pytest.mark.parametrize("rows", [3, LARGE // 4, LARGE])
def test_a_norm_of_arrays_of_any_size_and_its_derivatives(rows):
    leaf = jnp.cos(jnp.arange(4.0 * rows)).reshape(2, rows, 2)
    tree = {"a": leaf, "b": jnp.array(3.0), "c": jnp.arange(5.0), "d": jnp.zeros((0, 7))}
    size = np.sqrt(sum(np.sum(np.asarray(part) ** 2) for part in tree.values()))
    np.testing.assert_allclose(norm(tree), size, rtol=1e-12)
    np.testing.assert_allclose(squared_norm(tree), size**2, rtol=1e-12)
    value, second = jax.jvp(jax.grad(norm), (tree,), ({**tree, "b": jnp.array(0.0)},))
    np.testing.assert_allclose(value["a"], leaf / size, rtol=1e-12)
    # The derivative of x/‖x‖ along y is y/‖x‖ − x (x·y)/‖x‖³.
    along = size**2 - 9
    np.testing.assert_allclose(second["a"], leaf / size - leaf * along / size**3, rtol=1e-11, atol=1e-16)


def test_a_norm_of_nothing_is_zero_and_so_is_its_derivative():
    zeros = [jnp.zeros((3, 2)), jnp.zeros((LARGE, 1))]
    value, slope = jax.value_and_grad(norm)(zeros)
    assert value == 0
    assert not any(np.any(leaf) for leaf in slope)
    assert norm([]) == 0


def test_a_norm_over_several_dtypes_has_the_widest():
    found = norm([jnp.full((2, 2), 2.0, jnp.float32), jnp.full(9, 1.0, jnp.float64)])
    assert found.dtype == jnp.float64
    np.testing.assert_allclose(found, 5.0)
