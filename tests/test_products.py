"""The product of a matrix and a vector, or a sequence of them: the same numbers, however it is transformed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import onward
from onward.cells import products
from onward.cells.products import rows_of_product

ROWS, UNITS, FEATURES, MANY = 3, 4, 5, 7
SHAPES = (ROWS, UNITS, FEATURES), (FEATURES,), (MANY, ROWS, UNITS, FEATURES), (MANY, FEATURES)


def drawn():
    """W, z, and many of both."""
    return tuple(map(jr.normal, jr.split(jr.key(0), 4), SHAPES))


def plain(W, z):
    return tuple(jnp.moveaxis(W @ z.T, -1, 1) if z.ndim == 2 else W @ z)


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
    assert_alike(*(TRANSFORMED[how](product, *drawn()) for product in (rows_of_product, plain)))


def of_sequences(how, product):
    """`how` on sequences of three steps in the place of vectors."""
    W, z, WS, ZS = drawn()
    steps = jnp.arange(1.0, 4.0)[:, None]
    return SEQUENCES[how](product, W, z * steps, WS, ZS[:, None] * steps)


SEQUENCES = {how: TRANSFORMED[how] for how in TRANSFORMED if how not in ("many z, along another axis", "in a loop")} | {
    "many z, along another axis": lambda f, W, Z, WS, ZS: jax.vmap(f, (None, 2), 2)(W, jnp.moveaxis(ZS, 0, 2)),
    "reverse of many of many": lambda f, W, Z, WS, ZS: jax.grad(
        lambda W, ZS: jax.vmap(lambda c: over_streams(f)(W, c * ZS))(jnp.arange(2.0)).sum(), (0, 1)
    )(W, ZS),
}


@pytest.mark.parametrize("turned", ["cotangents", "vectors"])
@pytest.mark.parametrize("how", SEQUENCES)
def test_of_sequences_too_whatever_the_gradient_turns_over(how, turned, monkeypatch):
    monkeypatch.setattr(products, "MANY", 1 if turned == "vectors" else 1000)
    assert_alike(*(of_sequences(how, product) for product in (rows_of_product, plain)))


def assert_alike(ours, theirs):
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


@pytest.mark.parametrize(("many", "products_of"), [(1000, 1), (1, ROWS)])
def test_of_many_sequences_the_gradient_is_one_product_of_all_steps(many, products_of, monkeypatch):
    monkeypatch.setattr(products, "MANY", many)
    W, _, _, ZS = drawn()
    text = str(jax.make_jaxpr(jax.grad(over_streams(rows_of_product)))(W, ZS[:, None] * jnp.ones((3, 1))))
    by_weights = [line for line in text.splitlines() if "dot_general" in line and "([0, 1], [0, 1])" in line]
    assert len(by_weights) == products_of


@pytest.mark.parametrize("readout", [{}, {"use_bias": False}, {"out_features": "scalar"}])
def test_a_model_reads_as_its_linear_readout_does(readout):
    cell = onward.VanillaCell(2, UNITS, key=jr.key(0))
    linear = eqx.nn.Linear(**{"in_features": UNITS, "out_features": 3, "key": jr.key(1)} | readout)
    outputs = jr.normal(jr.key(2), (MANY, UNITS))

    def read(how):
        def total(linear, outputs):
            return jnp.sin(jax.vmap(how(linear))(outputs)).sum()

        return jax.vmap(how(linear))(outputs), how(linear)(outputs[0]), jax.grad(total, (0, 1))(linear, outputs)

    def of_model(linear):
        return onward.Model(cell, linear).read

    for ours, theirs in zip(jax.tree.leaves(read(of_model)), jax.tree.leaves(read(lambda linear: linear)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-12)


def test_a_readout_of_another_kind_reads_by_itself():
    class Doubling(eqx.nn.Linear):
        def __call__(self, x, *, key=None):
            return 2 * super().__call__(x)

    cell = onward.VanillaCell(2, UNITS, key=jr.key(0))
    linear = Doubling(UNITS, 3, key=jr.key(1))
    np.testing.assert_array_equal(onward.Model(cell, linear).read(jnp.ones(UNITS)), linear(jnp.ones(UNITS)))
