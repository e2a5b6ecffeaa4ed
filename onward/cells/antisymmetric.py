"""The antisymmetric recurrent cell: a stable differential equation, discretised."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.arguments import above_zero, at_least_zero, whole
from ._arguments import floating
from .base import AbstractCell


class AntisymmetricCell(AbstractCell):
    """Antisymmetric cell (Chang, Chen, Haber & Chi, *AntisymmetricRNN*, ICLR 2019): `h' = h + ε tanh(M h + B x + b)`
    with `M = A − Aᵀ − γ I`. With their gate:

        h' = h + ε z ⊙ tanh(M h + B x + b),    z = sigmoid(M h + B_z x + b_z)

    The eigenvalues of `A − Aᵀ` are imaginary, so the underlying differential equation neither explodes nor forgets. The
    small damping γ counters the error of Euler steps of size ε. Each entry of `A` acts on two units, so this cell is
    not affine-gated, and every estimator treats it by its general method.

    `A − Aᵀ` has n (n − 1)/2 free numbers; `A`, which is trained, has n².

    **Arguments:** `input_size`, `hidden_size`, `scale`, `dtype` and `key` as for `onward.VanillaCell`; `step` is ε > 0,
    `damping` is γ ≥ 0, `gated` whether there is a gate.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.AntisymmetricCell(3, 2, key=jr.key(0))
        >>> cell(cell.init_hidden(), jnp.ones(3)).shape
        (2,)
    """

    recurrent_weight: Float[Array, "units units"]
    input_weight: Float[Array, "units inputs"]
    bias: Float[Array, " units"]
    gate_input_weight: Float[Array, "units inputs"] | None
    gate_bias: Float[Array, " units"] | None
    step: float = eqx.field(static=True)
    damping: float = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        step: float = 0.1,
        damping: float = 0.01,
        gated: bool = False,
        scale: float = 1.0,
        dtype=None,
    ):
        input_size, hidden_size = whole("input_size", input_size), whole("hidden_size", hidden_size)
        self.step, self.damping = above_zero("step", step), at_least_zero("damping", damping)
        dtype, limit = floating(dtype), at_least_zero("scale", scale) / math.sqrt(hidden_size)
        recurrent_key, input_key = jr.split(key)
        self.recurrent_weight = jr.uniform(recurrent_key, (hidden_size, hidden_size), dtype, -limit, limit)
        self.input_weight = jr.uniform(input_key, (hidden_size, input_size), dtype, -limit, limit)
        self.bias = jnp.zeros(hidden_size, dtype)
        self.gate_input_weight = self.gate_bias = None
        if gated:
            gate_key = jr.fold_in(input_key, 1)
            self.gate_input_weight = jr.uniform(gate_key, (hidden_size, input_size), dtype, -limit, limit)
            self.gate_bias = jnp.zeros(hidden_size, dtype)

    @property
    def input_size(self) -> int:
        """The size of `x`."""
        return self.input_weight.shape[1]

    @property
    def hidden_size(self) -> int:
        """The size of the state."""
        return self.input_weight.shape[0]

    def __call__(self, hidden, x):
        A = self.recurrent_weight
        moved = A @ hidden - A.T @ hidden - self.damping * hidden
        change = self.step * jnp.tanh(moved + self.input_weight @ x + self.bias)
        if self.gate_input_weight is not None:
            change = jax.nn.sigmoid(moved + self.gate_input_weight @ x + self.gate_bias) * change
        return hidden + change

    def init_hidden(self) -> Float[Array, " units"]:
        return jnp.zeros_like(self.bias)

    def output(self, hidden):
        return hidden
