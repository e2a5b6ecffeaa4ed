"""What the commands build of a run's settings, and what they say where that does not fit into memory."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

import onward

from ..registry.build import text_model
from ..registry.methods import Method
from ..support.errors import UserError
from .settings import Settings


def fresh_carry(settings: Settings, learner: onward.Learner, key: PRNGKeyArray) -> onward.Carry:
    """The carry of a run before its first character."""
    model_key, learner_key = jr.split(key)
    size = len(settings.alphabet)
    model = text_model(settings.method, size, key=model_key)
    return learner.init(model, key=learner_key, example=(jnp.zeros(size), jnp.array(0)))


def start_and_sample_keys(settings: Settings) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The keys of a run's seed: that of its start, and that of the text it writes at the end."""
    start, sample = jr.split(jr.key(settings.seed))
    return start, sample


def count_parameters(model: onward.Model) -> int:
    """How many numbers a model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def in_memory(name: str, method: Method) -> AbstractContextManager[None]:
    """Turns running out of memory inside into a `UserError` that says what of a method to make smaller."""
    return enough_memory(
        f"a {method.cell} of {method.hidden_size:,} units does not fit into memory under {name} with a window of "
        f"{method.window:,}; choose a smaller --hidden-size or --window."
    )


@contextmanager
def enough_memory(otherwise: str) -> Iterator[None]:
    """Turns running out of memory inside into a `UserError` with this sentence."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        said = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and not ("RESOURCE_EXHAUSTED" in said or "memory" in said):
            raise
        raise UserError(otherwise) from None
