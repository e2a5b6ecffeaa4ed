"""The deep unit-wise network of the command line."""

import equinox as eqx
import jax.random as jr
from jaxtyping import PRNGKeyArray

from ..cells import AbstractCell, Block, EncodedCell, GatedMap, MinGRUCell, RecentInputs, StackedCell

RECENT = 4  # the block reads so many latest inputs
DECAYS = (0.3, 0.99)  # how much of its state a unit keeps at the start, for a zero input


def mingru_block(inputs: int, units: int, *, key: PRNGKeyArray) -> AbstractCell:
    """The latest inputs, a linear map of them, and one block of a minGRU with a gated map. `units` is the number of
    units and of the block's features, at least 2.

    Each unit of the minGRU feeds back only to itself. The experiment `forward/text` chose the numbers.
    """
    map_key, cell_key, mix_key = jr.split(key, 3)
    encode = eqx.nn.Linear(RECENT * inputs, units, key=map_key)
    # For one-hot inputs, one number in each of the `RECENT` parts is 1: these weights give features of variance 1.
    weight = jr.normal(map_key, (units, RECENT * inputs)) / RECENT**0.5
    encode = eqx.tree_at(lambda linear: linear.weight, encode, weight)
    cell = MinGRUCell(units, units, decays=DECAYS, key=cell_key)
    block = Block(units, cell, GatedMap(units, units, key=mix_key))
    return StackedCell([RecentInputs(RECENT, inputs), EncodedCell(encode, block)])
