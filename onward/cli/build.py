"""Builds the objects of a run from its settings, and reports if they do not fit into memory."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import PRNGKeyArray

import onward

from ..registry.build import text_model
from ..registry.method_names import Method
from ..support.errors import UserError
from .settings import Settings


def fresh_carry(settings: Settings, learner: onward.Learner, key: PRNGKeyArray) -> onward.Carry:
    """The carry of a run before its first character."""
    model_key, learner_key = jr.split(key)
    size = len(settings.alphabet)
    model = text_model(settings.method, size, key=model_key)
    return learner.init(model, key=learner_key, example=(jnp.zeros(size), jnp.array(0)))


def start_and_sample_keys(settings: Settings) -> tuple[PRNGKeyArray, PRNGKeyArray]:
    """The two random keys of a run's seed: for its start, and for the text that it writes at the end."""
    start, sample = jr.split(jr.key(settings.seed))
    return start, sample


def count_parameters(model: onward.Model) -> int:
    """The number of parameters that learn."""
    return sum(leaf.size for leaf in jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)))


def in_memory(name: str, method: Method) -> AbstractContextManager[None]:
    """A context that turns running out of memory into a `UserError`, which says what to make smaller in this method."""
    return enough_memory(
        f"a {method.cell} of {method.hidden_size:,} units does not fit into memory under {name} with a window of "
        f"{method.window:,}; choose a smaller --hidden-size or --window."
    )


@contextmanager
def enough_memory(otherwise: str) -> Iterator[None]:
    """A context that turns running out of memory into a `UserError` with this sentence."""
    try:
        yield
    except (MemoryError, jax.errors.JaxRuntimeError) as error:
        said = str(error)
        if isinstance(error, jax.errors.JaxRuntimeError) and not ("RESOURCE_EXHAUSTED" in said or "memory" in said):
            raise
        raise UserError(otherwise) from None
