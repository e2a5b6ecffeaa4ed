"""Text that a model of characters writes."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import PRNGKeyArray

from ..model import Model
from .text import NO_CHARACTER, encode


def sample_text(
    model: Model, alphabet: str, *, prompt: str = "", length: int, temperature: float = 1.0, key: PRNGKeyArray
) -> str:
    """`length` characters that the model writes after `prompt`, each drawn from softmax(prediction / temperature).

    A `temperature` below 1 prefers likely characters. Raises `UserError` if the alphabet lacks a character of the
    prompt.

        >>> import equinox as eqx, jax.random as jr, onward
        >>> cell = onward.VanillaCell(2, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> len(sample_text(model, "ab", prompt="ba", length=5, key=jr.key(2)))
        5
    """
    if length == 0:
        return ""
    read = jnp.asarray(np.concatenate([[NO_CHARACTER], encode(prompt, alphabet, name="the prompt")]).astype(np.int32))

    @jax.jit
    def write(read, key):
        def step(hidden, character):
            return model.cell(hidden, jax.nn.one_hot(character, len(alphabet))), None

        def draw(carry, key):
            hidden, character = carry
            hidden, _ = step(hidden, character)
            character = jr.categorical(key, model.predict(hidden) / temperature).astype(jnp.int32)
            return (hidden, character), character

        hidden, _ = jax.lax.scan(step, model.cell.init_hidden(), read[:-1])
        return jax.lax.scan(draw, (hidden, read[-1]), jr.split(key, length))[1]

    return "".join(alphabet[index] for index in np.asarray(write(read, key)))
