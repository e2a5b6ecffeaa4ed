"""The product of a matrix and a vector, or a sequence of them: the same numbers, however it is transformed."""

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

import onward
from onward.cells.cpu_tuning import rows_of_product

pytestmark = pytest.mark.product("how", "check")

ROWS, UNITS, FEATURES, MANY = 3, 4, 5, 7
LONG = 300  # vectors, for which the gradient turns the vectors over, and not their cotangents


def drawn(many=MANY):
    """W, z, and many of both."""
    shapes = (ROWS, UNITS, FEATURES), (FEATURES,), (many, ROWS, UNITS, FEATURES), (many, FEATURES)
    return tuple(map(jr.normal, jr.split(jr.key(0), 4), shapes))


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


def of_sequences(how, product, length):
    """`how` on sequences of so many steps in the place of vectors, as one program."""

    @jax.jit
    def compute(W, z, WS, ZS):
        steps = 2 + jnp.cos(jnp.arange(float(length)))[:, None]
        return SEQUENCES[how](product, W, z * steps, WS, ZS[:, None] * steps)

    return compute(*drawn())


SEQUENCES = {how: TRANSFORMED[how] for how in TRANSFORMED if how not in ("many z, along another axis", "in a loop")} | {
    "many z, along another axis": lambda f, W, Z, WS, ZS: jax.vmap(f, (None, 2), 2)(W, jnp.moveaxis(ZS, 0, 2)),
    "reverse of many of many": lambda f, W, Z, WS, ZS: jax.grad(
        lambda W, ZS: jax.vmap(lambda c: over_streams(f)(W, c * ZS))(jnp.arange(2.0)).sum(), (0, 1)
    )(W, ZS),
}


@pytest.mark.parametrize(("turned", "length"), [("nothing", 1), ("cotangents", 3), ("vectors", LONG)])
@pytest.mark.parametrize("how", SEQUENCES)
def test_of_sequences_too_whatever_the_gradient_turns_over(how, turned, length):
    assert_alike(*(of_sequences(how, product, length) for product in (rows_of_product, plain)))


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


@pytest.mark.parametrize(("many", "products_of"), [(MANY, 1), (LONG, ROWS)])
def test_of_many_sequences_the_gradient_is_one_product_of_all_steps(many, products_of):
    W, _, _, ZS = drawn(many)
    text = str(jax.make_jaxpr(jax.grad(over_streams(rows_of_product)))(W, ZS[:, None] * jnp.ones((3, 1))))
    by_weights = [line for line in text.splitlines() if "dot_general" in line and "([0, 1], [0, 1])" in line]
    assert len(by_weights) == products_of


def test_a_window_of_one_step_turns_nothing_over():
    W, z = jnp.ones((1, 30, 256)), jnp.ones((1, 256))
    back = jax.jit(jax.grad(lambda z: jnp.tanh(rows_of_product(W, z)[0]).sum()))
    text = back.lower(z).compile().as_text()
    assert "[256,30]" not in text


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


@pytest.mark.parametrize("dtypes", [("float32", "bfloat16"), ("float16", "float32"), ("bfloat16", "bfloat16")])
@pytest.mark.parametrize("many", [MANY, LONG])
def test_dtypes_are_those_of_plain_jax(dtypes, many):
    W, _, _, ZS = drawn(many)
    W, ZS = W.astype(dtypes[0]), ZS.astype(dtypes[1])
    with jax.numpy_dtype_promotion("standard"):
        ours, theirs = (
            (jax.vmap(product, (None, 0))(W, ZS), jax.grad(over_streams(product), (0, 1))(W, ZS))
            for product in (rows_of_product, plain)
        )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a.astype(float), b.astype(float), rtol=0.1, atol=0.1)


def a_mesh(kind):
    return jax.make_mesh((1,), ("streams",), axis_types=(kind,))


def test_under_shard_map_its_gradient_is_plain_and_a_wrong_placement_refused():
    W, _, _, ZS = drawn()
    mesh, over = a_mesh(AxisType.Auto), PartitionSpec("streams")

    def total(product):
        def of_device(W, zs):
            return jax.lax.psum(over_streams(product)(W, zs), "streams")

        return jax.shard_map(of_device, mesh=mesh, in_specs=(PartitionSpec(), over), out_specs=PartitionSpec())

    assert_alike(*(jax.jit(jax.grad(total(product), (0, 1)))(W, ZS) for product in (rows_of_product, plain)))

    def of_device(W, zs):
        return jax.vmap(rows_of_product, (None, 0))(W, zs)

    with pytest.raises(ValueError, match="out_specs"):
        jax.shard_map(of_device, mesh=mesh, in_specs=(PartitionSpec(), over), out_specs=PartitionSpec())(W, ZS)


def test_on_a_mesh_with_explicit_axes_it_is_plain():
    W, _, _, ZS = drawn()
    mesh = a_mesh(AxisType.Explicit)
    with jax.set_mesh(mesh):
        W = jax.device_put(W, NamedSharding(mesh, PartitionSpec()))
        ZS = jax.device_put(ZS, NamedSharding(mesh, PartitionSpec("streams")))
        found = [jax.jit(jax.grad(over_streams(product), (0, 1)))(W, ZS) for product in (rows_of_product, plain)]
    assert_alike(*found)


def test_a_precision_that_is_asked_for_inside_is_kept():
    W, z, _, _ = drawn()

    def precise(W, z):
        with jax.default_matmul_precision("highest"):
            return rows_of_product(W, z)

    assert "HIGHEST" in jax.jit(precise).lower(W, z).as_text()


def test_the_gradient_of_many_turns_the_vectors_over_and_nothing_else():
    W, _, _, ZS = drawn(LONG)
    steps = jnp.ones((3, 1))
    text = str(jax.make_jaxpr(jax.grad(over_streams(rows_of_product)))(W, ZS[:, None] * steps))
    assert text.count("optimization_barrier") == ROWS
    few = jax.grad(lambda W, zs: jax.vmap(rows_of_product, (None, 0))(W, zs)[0].sum())
    text = str(jax.make_jaxpr(few)(W[:1, :2], ZS[:, None] * steps))
    assert "optimization_barrier" not in text  # of few units their cotangents
    first = str(jax.make_jaxpr(jax.vmap(rows_of_product, (None, 1), 1))(W, jnp.ones((3, MANY, FEATURES))))
    assert f"[3,{MANY},{UNITS}]" in first  # a step's stay together
    assert "transpose" not in first


def test_predictions_are_made_by_it():
    model = onward.Model(onward.VanillaCell(2, UNITS, key=jr.key(0)), eqx.nn.Linear(UNITS, 3, key=jr.key(1)))
    assert "rows_of_product" in str(jax.make_jaxpr(model.predict)(jnp.ones(UNITS)))
    square = jr.normal(jr.key(2), (UNITS, UNITS))
    np.testing.assert_array_equal(model.read(square[:, 0]), model.readout(square[:, 0]))
    for output in (square, square[:, :2]):  # not a vector: as the readout does it
        linear = eqx.nn.Linear(UNITS, 3, use_bias=False, key=jr.key(1))
        np.testing.assert_array_equal(onward.Model(model.cell, linear).read(output), linear(output))
