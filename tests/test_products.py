"""The product of a matrix and a vector, laid out for many vectors: the same numbers, however it is transformed."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from onward.cells.products import rows_of_product

ROWS, UNITS, FEATURES, MANY = 3, 4, 5, 7
SHAPES = (ROWS, UNITS, FEATURES), (FEATURES,), (MANY, ROWS, UNITS, FEATURES), (MANY, FEATURES)


def drawn():
    """W, z, and many of both."""
    return tuple(map(jr.normal, jr.split(jr.key(0), 4), SHAPES))


def plain(W, z):
    return tuple(W @ z)


def summed(product):
    """A number that depends on every entry in a way of its own, but not on those of the last row."""
    return lambda W, z: sum(jnp.sum(jnp.sin((i + 1) * u)) for i, u in enumerate(product(W, z)[:-1]))


def over_streams(product):
    def total(W, zs):
        return jax.vmap(summed(product), (None, 0))(W, zs).sum()

    return total


TRANSFORMED = {
    "as it is": lambda f, W, Z, WS, ZS: f(W, Z),
    "jit": lambda f, W, Z, WS, ZS: jax.jit(f)(W, Z),
    "forward": lambda f, W, Z, WS, ZS: jax.jvp(f, (W, Z), (W + 1, 2 * Z)),
    "forward, by one": lambda f, W, Z, WS, ZS: (
        jax.jvp(lambda z: f(W, z), (Z,), (Z,)),
        jax.jvp(lambda W: f(W, Z), (W,), (W,)),
    ),
    "reverse": lambda f, W, Z, WS, ZS: jax.grad(summed(f), (0, 1))(W, Z),
    "twice": lambda f, W, Z, WS, ZS: jax.jit(jax.hessian(summed(f), (0, 1)))(W, Z),
    "many z": lambda f, W, Z, WS, ZS: jax.vmap(f, (None, 0))(W, ZS),
    "many z, along another axis": lambda f, W, Z, WS, ZS: jax.vmap(f, (None, 1), 1)(W, ZS.T),
    "many W": lambda f, W, Z, WS, ZS: jax.vmap(f, (0, None))(WS, Z),
    "many pairs": lambda f, W, Z, WS, ZS: jax.vmap(f)(WS, ZS),
    "many of many": lambda f, W, Z, WS, ZS: jax.vmap(jax.vmap(f, (None, 0)), (0, None))(WS, ZS),
    "reverse of many": lambda f, W, Z, WS, ZS: jax.grad(over_streams(f), (0, 1))(W, ZS),
    "many reverses": lambda f, W, Z, WS, ZS: jax.vmap(jax.grad(summed(f), (0, 1)), (None, 0))(W, ZS),
    "many forwards": lambda f, W, Z, WS, ZS: jax.vmap(lambda z: jax.jvp(f, (W, z), (W + 1, 2 * z)))(ZS),
    "many of a jit": lambda f, W, Z, WS, ZS: jax.vmap(jax.jit(f), (None, 0))(W, ZS),
    "in a loop": lambda f, W, Z, WS, ZS: jax.lax.scan(
        lambda z, _: (jnp.append(f(W, z)[0], z[0]), f(W, z)), Z, length=3
    ),
}


@pytest.mark.parametrize("how", TRANSFORMED)
def test_it_is_the_plain_product_however_transformed(how):
    ours, theirs = (TRANSFORMED[how](product, *drawn()) for product in (rows_of_product, plain))
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_of_many_vectors_no_array_is_turned_over(direction):
    of_many = over_streams(rows_of_product) if direction == "forward" else jax.grad(over_streams(rows_of_product))
    W, _, _, ZS = drawn()
    text = jax.jit(of_many).lower(W, ZS).as_text()
    turned = [line for line in text.splitlines() if "transpose" in line and f"tensor<{MANY}x" in line]
    assert not turned
    assert "dot_general" in text
