"""Functions whose derivatives of every order are right everywhere, also in a scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from onward.support.smooth import log_sigmoid, root, softplus


def in_a_scan(function):
    """The sum of the function over points, by a loop in which JAX forgets custom rules after the first derivative."""

    def of(xs, scale):
        return jax.lax.scan(lambda total, x: (total + function(scale * x), None), 0.0, xs)[0]

    return of


@pytest.mark.parametrize("order", ["forward over reverse", "reverse over reverse"])
def test_derivatives_of_every_order_in_a_scan(order):
    points = jnp.array([-800.0, -30.0, -1.0, -0.0, 0.0, 1.0, 30.0, 800.0])
    again = jax.jacfwd if order == "forward over reverse" else jax.jacrev

    def derivatives(function):
        first = jax.grad(lambda x: in_a_scan(function)(x[None], 1.0))
        return jax.jit(lambda xs: (jax.vmap(first)(xs), jax.vmap(again(first))(xs)))(points)

    with np.errstate(over="ignore"):
        s, rest = 1 / (1 + np.exp(-np.asarray(points))), 1 / (1 + np.exp(np.asarray(points)))
    for function, by_x, by_xx in ((softplus, s, s * rest), (log_sigmoid, rest, -s * rest)):
        first, second = derivatives(function)
        np.testing.assert_allclose(first, by_x, rtol=1e-12, atol=1e-300)
        np.testing.assert_allclose(second, by_xx, rtol=1e-12, atol=1e-13)
    first, second = derivatives(lambda x: root(x**2) * x)  # |x| x
    np.testing.assert_allclose(first, 2 * np.abs(points))
    np.testing.assert_allclose(second, 2 * np.sign(points))


def test_values():
    points = jnp.array([-800.0, -30.0, -1.0, 0.0, 1.0, 30.0, 800.0])
    np.testing.assert_allclose(log_sigmoid(points), jax.nn.log_sigmoid(points), rtol=1e-15)
    np.testing.assert_allclose(softplus(points), jax.nn.softplus(points), rtol=1e-15)
    np.testing.assert_array_equal(root(jnp.array([0.0, 4.0, jnp.inf])), [0, 2, np.inf])
    assert jnp.isnan(root(jnp.array(jnp.nan)))
