"""Trains Hopfield memories on some digits, many of them as one program."""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import optax
import optimistix as optx
from jaxtyping import Array, Float, Key, PRNGKeyArray

from onward.equilibria import RBP, ConjugateGradientRBP, FullBPTT, HopfieldMemory, NeumannRBP, Recall, TruncatedBPTT

from ..data.digits import corrupt

Adjoint = Callable[[PRNGKeyArray], optx.AbstractAdjoint]
Digits = Float[Array, "digits pixels"]


def adjoints(steps: int) -> dict[str, Adjoint]:
    """The paper's methods with this many steps back, by name. Each takes the random key of an update.

    None warns of a system that was not solved: how near each comes in these steps is what the paper compares.
    """
    silent = math.inf
    return {
        "BPTT": lambda key: FullBPTT(recompute=False),
        "TBPTT": lambda key: TruncatedBPTT(steps, recompute=False),
        "RBP": lambda key: RBP(steps, key=key, warn_above=silent),
        "CG-RBP": lambda key: ConjugateGradientRBP(steps, warn_above=silent),
        "Neumann-RBP": lambda key: NeumannRBP(steps, warn_above=silent),
    }


class Setting(NamedTuple):
    """How memories are trained: by Adam, in passes over all digits.

    As in the authors' script, a pass is one update on all digits, with the loss `|h_i − I_i|` of the output neurons'
    states. Otherwise a pass has one update a digit, in an order of its own, with the loss `|x_i − I_i|`. A loss is the
    mean over output neurons and digits.

    * `adjoint`: of each update;
    * `passes`: over the digits, at least 1, and a multiple of `every`;
    * `every`: passes between two checks, at least 1;
    * `scale`: the standard deviation of the initial weights;
    * `hidden_size`, `rate`: hidden neurons, and Adam's step size;
    * `as_script`: which of the two.
    """

    adjoint: Adjoint
    passes: int
    every: int = 1
    scale: float = 1e-3
    hidden_size: int = 1024
    rate: float = 1e-3
    as_script: bool = False

    def answer(self, found: Recall) -> Float[Array, " pixels"]:
        """What the loss compares with a digit."""
        return found.state[-len(found.output) :] if self.as_script else found.output


class Check(eqx.Module):
    """A memory's answers to corrupted digits, those that the loss compares.

    `errors` is the fraction of pixels where the rounded answer differs from the clean digit. `shown` and `recalled` are
    the digits. `residual` is the largest residual of these recalls.
    """

    errors: Float[Array, ""]
    shown: Digits
    recalled: Digits
    residual: Float[Array, ""]


class Trained(eqx.Module):
    """Trainings, a row for each key. `losses` are those before each update; `end` is the mean loss over all digits at
    the end. If asked for, `errors` are those of a check before each `every` passes, and `last` is the check at the end.
    """

    losses: Float[Array, "*trainings updates"]
    end: Float[Array, "*trainings"]
    errors: Float[Array, "*trainings checks"] | None
    last: Check | None


def train(digits: Digits, keys: Key[Array, " trainings"], setting: Setting, *, checked: bool) -> Trained:
    """One training for each key, all in one program. A key decides weights, order, corruption and what an adjoint
    draws.
    """
    optimizer = optax.adam(setting.rate)
    count, pixels = digits.shape

    def loss(memory, digits, keys):
        def one(digit, key):
            return jnp.abs(setting.answer(memory.recall(digit, adjoint=setting.adjoint(key))) - digit)

        return jnp.mean(jax.vmap(one)(digits, keys))

    def update(carry, digits_and_keys):
        memory, state = carry
        value, gradient = jax.value_and_grad(loss)(memory, *digits_and_keys)
        updates, state = optimizer.update(gradient, state)
        return (eqx.apply_updates(memory, updates), state), value

    def check(memory, key) -> Check | None:
        if not checked:
            return None
        shown = jax.vmap(lambda digit, key: corrupt(digit, key=key))(digits, jr.split(key, count))
        found = jax.vmap(memory.recall)(shown)
        recalled = jax.vmap(setting.answer)(found)
        errors = jnp.mean((recalled >= 0.5) != (digits >= 0.5), dtype=digits.dtype)
        return Check(errors, shown, recalled, found.residual.max())

    def one(key):
        memory_key, check_key, key = jr.split(key, 3)

        def one_pass(carry, key):
            order_key, key = jr.split(key)
            order = jnp.arange(count) if setting.as_script else jr.permutation(order_key, count)
            together = (1, count) if setting.as_script else (count, 1)
            return jax.lax.scan(update, carry, (digits[order].reshape(*together, pixels), jr.split(key, together)))

        def passes(carry, keys):
            found = check(carry[0], check_key)
            carry, losses = jax.lax.scan(one_pass, carry, keys)
            return carry, (losses, None if found is None else found.errors)

        memory = HopfieldMemory(pixels, setting.hidden_size, key=memory_key, scale=setting.scale)
        carry = memory, optimizer.init(eqx.filter(memory, eqx.is_array))
        pass_keys = jr.split(key, (setting.passes // setting.every, setting.every))
        carry, (losses, errors) = jax.lax.scan(passes, carry, pass_keys)
        end = jnp.mean(jnp.abs(jax.vmap(lambda digit: setting.answer(carry[0].recall(digit)))(digits) - digits))
        return Trained(losses.reshape(-1), end, errors, check(carry[0], check_key))

    # One after the other. Side by side, a step would read the weights of all of them from memory.
    return jax.jit(lambda keys: jax.lax.map(one, keys))(keys)
