"""A continuous Hopfield network as a memory of patterns: given a corrupted pattern, it settles in the stored one."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optimistix as optx
from jaxtyping import Array, Float, PRNGKeyArray

from ..support.arguments import above_zero, at_least_zero, whole
from ..support.trees import norm
from ._arguments import check_finite
from .adjoints import NeumannRBP
from .solvers import FixedSteps


class Recall(eqx.Module):
    """The answer of a memory: its `output` in [0, 1], the final `state` h of the free neurons, output neurons last, and
    the `residual` `‖F(h) − h‖₂` of that state.
    """

    output: Float[Array, " pixels"]
    state: Float[Array, " free"]
    residual: Float[Array, ""]


class HopfieldMemory(eqx.Module):
    """A continuous Hopfield network of observed, hidden and output neurons. Each neuron is connected to every other:

        dh_i/dt = −h_i/a + Σ_j w_ij φ(b h_j) + I_i,        w_ij = w_ji,  w_ii = 0,        x_i = φ(b h_i),

    in Euler steps. This is equation (18) of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*. The
    input I is the pattern at the observed neurons, and 0 at the others. There are as many output neurons as observed
    neurons, and their x is the memory's answer. If observed neurons are clamped, as in the paper, they stay at
    `h_i = I_i`, and only the free neurons settle: the hidden and the output neurons.

    **Arguments:**

    - `pixels`: the size of a pattern, which is the number of observed and of output neurons, at least 1.
    - `hidden_size`: the number of hidden neurons, at least 0.
    - `key`: the random key of the weights, drawn from a normal distribution.
    - `clamped`: if true, observed neurons stay at the pattern; if false, the pattern only drives them.
    - `scale`: the standard deviation of the initial weights, at least 0.
    - `leak`: a, in units of time, above 0.
    - `gain`: b, above 0.
    - `step_size`: the step size of Euler's method, in units of time, above 0. At `step_size = leak` a step forgets the
      old state: `h ← a (W φ(b h) + I)`.
    - `activation`: φ, with values in [0, 1].

    `weights` has one row per free neuron and one column per neuron, the clamped neurons first. (Clamped neurons need no
    rows, because their input has no effect.) Only the symmetric part `(A + Aᵀ)/2` of its square block A is used,
    without the diagonal.

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
        """The number of clamped neurons: 0, or the number of observed neurons."""
        return self.weights.shape[1] - self.weights.shape[0]

    def recall(
        self,
        pattern: Float[Array, " pixels"],
        *,
        steps: int = 50,
        adjoint: optx.AbstractAdjoint | None = None,
    ) -> Recall:
        """The memory's answer to a pattern, starting from a state of zeros.

        **Arguments:**

        - `pattern`: I at the observed neurons, in [0, 1]. One pattern; use `jax.vmap` for more.
        - `steps`: the number of Euler steps, at least 1; 50 in the paper. They may not be enough to settle: see the
          residual.
        - `adjoint`: how to differentiate the answer with respect to weights and pattern: any adjoint of a fixed point,
          by default `onward.NeumannRBP(steps=20)`.

        Raises `ValueError` for a pattern of another size or that is not finite, or for steps below 1.
        """
        solver, adjoint = FixedSteps(steps), NeumannRBP(steps=20) if adjoint is None else adjoint
        args = self._drives(pattern)
        h = jnp.zeros_like(args[1])
        h = optx.fixed_point(self._step, solver, h, args, max_steps=solver.steps, adjoint=adjoint).value
        still, (W, drive) = jax.lax.stop_gradient((h, args))
        return Recall(self.activation(self.gain * h[-self.pixels :]), h, norm(self._step(still, (W, drive)) - still))

    def energy(
        self,
        pattern: Float[Array, " pixels"],
        state: Float[Array, " free"],
        *,
        antiderivative: Callable | None = None,
    ) -> Float[Array, ""]:
        """The energy of a state of the free neurons, which falls along the motion until it rests:

            E = −½ Σ_ij w_ij x_i x_j − Σ_i I_i x_i + Σ_i (h_i x_i − Φ(b h_i)/b) / a,    Φ' = φ,
            dE/dt = −b Σ_i φ'(b h_i) (dh_i/dt)²

        after Hopfield 1984, *Neurons with graded response have collective computational properties like those of
        two-state neurons*. I includes what the clamped neurons send. In Euler steps it falls if `step_size` is small
        enough.

        **Arguments:** `pattern` as for `recall`; `state` as `recall` returns it; `antiderivative`: Φ, by default
        `jax.nn.softplus`, that of the sigmoid.

        Raises `ValueError` for another activation without its antiderivative, for a pattern as in `recall`, and
        for a state of another size.

            >>> import jax, jax.numpy as jnp, onward
            >>> memory = onward.equilibria.HopfieldMemory(3, 4, key=jax.random.key(0), scale=1.0, step_size=0.1)
            >>> pattern = jnp.array([1.0, 0.0, 1.0])
            >>> states = [memory.recall(pattern, steps=steps).state for steps in (1, 10, 100)]
            >>> first, later, last = (memory.energy(pattern, state) for state in states)
            >>> bool(first > later > last)
            True
        """
        if antiderivative is None:
            if self.activation is not jax.nn.sigmoid:
                name = getattr(self.activation, "__name__", repr(self.activation))
                raise ValueError(f"antiderivative must be given for {name}: a function whose slope is that activation.")
            antiderivative = jax.nn.softplus
        W, drive = self._drives(pattern)
        if jnp.shape(state) != drive.shape:
            raise ValueError(f"state must have the shape {drive.shape} of the free neurons, got {jnp.shape(state)}.")
        x = self.activation(self.gain * state)
        kept = jnp.sum(state * x - antiderivative(self.gain * state) / self.gain) / self.leak
        return kept - x @ (W @ x) / 2 - drive @ x

    def _drives(self, pattern):
        """The inputs of the free neurons: W, which acts among them, and the constant input from outside."""
        if jnp.shape(pattern) != (self.pixels,):
            raise ValueError(f"pattern must have shape ({self.pixels},), got {jnp.shape(pattern)}.")
        check_finite("pattern", pattern)
        free = self.weights[:, self.clamps :]
        W = jnp.where(jnp.eye(len(free), dtype=bool), 0, (free + free.T) / 2)
        if self.clamps:
            return W, self.weights[:, : self.clamps] @ self.activation(self.gain * pattern)
        return W, jnp.zeros(len(free), pattern.dtype).at[: self.pixels].set(pattern)

    def _step(self, h, args):
        W, drive = args
        return h + self.step_size * (W @ self.activation(self.gain * h) + drive - h / self.leak)
