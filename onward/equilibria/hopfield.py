"""A continuous Hopfield network as a memory of patterns: shown a corrupted one, it settles in the one it has stored."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix as optx
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.arguments import above_zero, at_least_zero, whole
from ..support.trees import norm
from .adjoints import NeumannRBP
from .solvers import FixedSteps


class Recall(eqx.Module):
    """What a memory answers: its `output` in [0, 1], and the `residual` `‖F(h) − h‖₂` of the state it was read from."""

    output: Float[Array, " pixels"]
    residual: Float[Array, ""]


class HopfieldMemory(eqx.Module):
    """A continuous Hopfield network of observed, hidden and output neurons, each connected with every other:

        dh_i/dt = −h_i/a + Σ_j w_ij φ(b h_j) + I_i,        w_ij = w_ji,  w_ii = 0,        x_i = φ(b h_i),

    in Euler steps. Equation (18) of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*. The input I
    is the pattern for the observed neurons and 0 for the others; the memory's answer is x of the output neurons, of
    which there are as many. Where observed neurons are clamped, as in the paper, they stay at `h_i = I_i`: what is left
    to settle are the free neurons, the hidden and the output ones.

    **Arguments:**

    - `pixels`: the size of a pattern, at least 1: so many observed and so many output neurons.
    - `hidden_size`: hidden neurons, at least 0.
    - `key`: the random key of the weights, drawn from a normal distribution.
    - `clamped`: whether observed neurons stay at the pattern, or are only driven by it.
    - `scale`: the standard deviation of the weights at first, at least 0.
    - `leak`: a, in units of time, above 0.
    - `gain`: b, above 0.
    - `step_size`: of Euler's method, in units of time, above 0. At `step_size = leak` a step forgets the old state:
      `h ← a (W φ(b h) + I)`.
    - `activation`: φ, onto [0, 1].

    `weights` holds a row for each free neuron and a column for each neuron, the clamped ones first. (What a clamped
    neuron would hear has no effect.) Of its square part only the symmetric half `(A + Aᵀ)/2` off the diagonal counts.

    Raises `ValueError` for a value outside its range.

        >>> import jax, jax.numpy as jnp, onward, optax
        >>> pattern = jnp.array([1.0, 0.0, 1.0])
        >>> memory = onward.equilibria.HopfieldMemory(3, 4, key=jax.random.key(0))
        >>> slope = jax.grad(lambda memory: jnp.abs(memory.recall(pattern).output - pattern).sum())
        >>> for _ in range(30):
        ...     memory = jax.tree.map(lambda w, g: w - 0.3 * jnp.sign(g), memory, slope(memory))
        >>> memory.recall(jnp.array([0.0, 0.0, 1.0])).output.round()
        Array([1., 0., 1.], dtype=float32)
    """

    weights: Float[Array, "free neurons"]
    pixels: int = eqx.field(static=True)
    leak: float = eqx.field(static=True)
    gain: float = eqx.field(static=True)
    step_size: float = eqx.field(static=True)
    activation: Callable = eqx.field(static=True)

    def __init__(
        self,
        pixels: int,
        hidden_size: int,
        *,
        key: PRNGKeyArray,
        clamped: bool = True,
        scale: float = 1e-3,
        leak: float = 1.0,
        gain: float = 0.5,
        step_size: float = 1.0,
        activation: Callable = jax.nn.sigmoid,
    ):
        self.pixels = whole("pixels", pixels)
        neurons = 2 * self.pixels + whole("hidden_size", hidden_size, least=0)
        clamps = self.pixels if clamped else 0
        W = at_least_zero("scale", scale) * jr.normal(key, (neurons - clamps, neurons))
        free = jnp.tril(W[:, clamps:], -1)
        self.weights = W.at[:, clamps:].set(free + free.T)
        self.leak, self.gain, self.step_size = (
            above_zero(name, value) for name, value in (("leak", leak), ("gain", gain), ("step_size", step_size))
        )
        self.activation = activation

    @property
    def clamps(self) -> int:
        """How many neurons are clamped: none, or the observed ones."""
        return self.weights.shape[1] - self.weights.shape[0]

    def recall(
        self,
        pattern: Float[Array, " pixels"],
        *,
        steps: int = 50,
        adjoint: optx.AbstractAdjoint | None = None,
    ) -> Recall:
        """What the memory answers to a pattern, from a state of zeros.

        **Arguments:**

        - `pattern`: I of the observed neurons, in [0, 1]. One pattern; `jax.vmap` for more.
        - `steps`: of Euler's method, at least 1. The paper takes 50. They need not suffice: see the residual.
        - `adjoint`: how the answer is differentiated with respect to weights and pattern, any adjoint of a fixed point;
          `onward.NeumannRBP(steps=20)` if left out.

        Raises `ValueError` for a pattern of another size, or steps below 1.
        """
        if pattern.shape != (self.pixels,):
            raise ValueError(f"pattern must have shape ({self.pixels},), got {pattern.shape}.")
        solver, adjoint = FixedSteps(steps), NeumannRBP(steps=20) if adjoint is None else adjoint
        args = self._drives(pattern)
        h = jnp.zeros_like(args[1])
        h = optx.fixed_point(self._step, solver, h, args, max_steps=solver.steps, adjoint=adjoint).value
        still, (W, drive) = jax.lax.stop_gradient((h, args))
        return Recall(self.activation(self.gain * h[-self.pixels :]), norm(self._step(still, (W, drive)) - still))

    def _drives(self, pattern):
        """What the free neurons hear: of each other, by W, and of the outside, which stays as it is."""
        free = self.weights[:, self.clamps :]
        W = jnp.where(jnp.eye(len(free), dtype=bool), 0, (free + free.T) / 2)
        if self.clamps:
            return W, self.weights[:, : self.clamps] @ self.activation(self.gain * pattern)
        return W, jnp.zeros(len(free), pattern.dtype).at[: self.pixels].set(pattern)

    def _step(self, h, args):
        W, drive = args
        return h + self.step_size * (W @ self.activation(self.gain * h) + drive - h / self.leak)
