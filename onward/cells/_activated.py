"""What cells with one activation have in common: it lies before the state or after it."""

from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .affine import AbstractAffineGatedCell


class AbstractActivatedCell(AbstractAffineGatedCell):
    """A cell of one number a unit. With `preactivation_state` the state is what the `activation` is applied to, and the
    features and the output are activations; without, the state is an activation itself.
    """

    activation: eqx.AbstractVar[Callable]
    preactivation_state: eqx.AbstractVar[bool]

    def init_hidden(self) -> Float[Array, " units"]:
        return jnp.zeros(self.hidden_size, self.weights[0].dtype)

    def recurrent(self, hidden):
        return self.activation(hidden) if self.preactivation_state else hidden

    def output(self, hidden):
        return self.recurrent(hidden)
