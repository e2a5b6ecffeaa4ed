"""Arguments that several cells take: what they cannot be is refused in a sentence when a cell is built."""

import inspect

import jax.numpy as jnp
import jax.random as jr
import pytest

import onward
from onward.cells import Block, GatedMap, LRUCell, PerceptronMap

pytestmark = pytest.mark.usefixtures("as_in_use")
BUILT_OF_SIZES = {
    name: cell
    for name, cell in vars(onward.cells).items()
    if inspect.isclass(cell) and {"input_size", "key"} <= set(inspect.signature(cell).parameters)
}


def taking(argument):
    return [name for name, cell in BUILT_OF_SIZES.items() if argument in inspect.signature(cell).parameters]


def test_there_are_such_cells():
    assert {"LRUCell", "VanillaCell", "AntisymmetricCell"} <= set(taking("dtype"))
    assert {"RTUCell", "IndRNNCell", "MinGRUCell", "MinLSTMCell", "LeakyCell"} <= set(taking("activation"))


@pytest.mark.parametrize("name", taking("dtype"))
@pytest.mark.parametrize("dtype", [jnp.complex64, int, "tall"])
def test_a_dtype_that_is_not_floating_is_refused(name, dtype):
    with pytest.raises(ValueError, match=r"dtype must be a real floating-point dtype, .* got "):
        BUILT_OF_SIZES[name](3, 2, dtype=dtype, key=jr.key(0))


def test_recent_inputs_have_a_floating_dtype_too():
    with pytest.raises(ValueError, match="dtype must be a real floating-point dtype"):
        onward.cells.RecentInputs(2, 3, dtype=jnp.complex64)


@pytest.mark.parametrize("name", taking("activation"))
@pytest.mark.parametrize("activation", ["tanh", None])
def test_an_activation_that_cannot_be_called_is_refused(name, activation):
    with pytest.raises(ValueError, match=f"activation must be a function of one number, .* got {activation!r}"):
        BUILT_OF_SIZES[name](3, 2, activation=activation, key=jr.key(0))


@pytest.mark.parametrize("name", taking("scale"))
@pytest.mark.parametrize("scale", [-1.0, float("nan"), float("inf"), None, "a"])
def test_a_scale_is_finite_and_at_least_0(name, scale):
    with pytest.raises(ValueError, match=f"scale must be a finite number of at least 0, got {scale!r}"):
        BUILT_OF_SIZES[name](3, 2, scale=scale, key=jr.key(0))


@pytest.mark.parametrize(
    ("name", "argument", "wrong"),
    [
        ("LeakyCell", {"time_step": None}, "time_step must be above 0 and at most 1, got None"),
        ("AntisymmetricCell", {"step": "a"}, "step must be a finite number above 0, got 'a'"),
        ("AntisymmetricCell", {"damping": float("nan")}, "damping must be a finite number of at least 0, got nan"),
    ],
)
def test_steps_and_damping_in_range(name, argument, wrong):
    with pytest.raises(ValueError, match=wrong):
        BUILT_OF_SIZES[name](3, 2, key=jr.key(0), **argument)


@pytest.mark.parametrize(
    ("read", "mix", "wrong"),
    [
        (
            3,
            lambda: GatedMap(4, 4, key=jr.key(1)),
            r"mix cannot read the cell's output .* \(4,\) and its input .* \(3,\): ",
        ),
        (3, lambda: PerceptronMap(5, 3, key=jr.key(1)), r"mix cannot read the cell's output .* \(4,\) and its input"),
        (3, lambda: PerceptronMap(4, 2, key=jr.key(1)), r"into 3 numbers, the size of the block, got float\d+ \(2,\)"),
        (3, lambda: lambda output, x: (x, x), "into 3 numbers, the size of the block, got "),
        (
            4,
            lambda: GatedMap(4, 3, key=jr.key(1)),
            r"cell must read 3 numbers, the size of the block: x: LRUCell reads ",
        ),
    ],
)
def test_the_parts_of_a_block_fit(read, mix, wrong):
    with pytest.raises(ValueError, match=wrong):
        Block(3, LRUCell(read, 2, key=jr.key(0)), mix())
