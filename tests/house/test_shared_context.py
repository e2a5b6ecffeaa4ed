"""The tests' own patch of JAX: programs share a context of MLIR, unless one is lowered while another is."""

import threading

import jax
import jax.numpy as jnp
import numpy as np
from conftest import CONTEXT
from jax.extend.core import Primitive
from jax.interpreters import mlir

answered = Primitive("answered")
answered.def_abstract_eval(lambda x: x)


def lowering(context, x):
    """Compiles another program, and runs it, while its own is lowered."""
    found = np.asarray(jax.jit(lambda: jnp.sin(jnp.arange(3.0)).sum())())
    return mlir.lower_fun(lambda x: (x + found,), multiple_results=True)(context, x)


mlir.register_lowering(answered, lowering)


def context_of(function):
    return jax.jit(function).lower(jnp.ones(3)).compiler_ir().context


def test_programs_share_a_context_until_it_is_forgotten():
    first, second = context_of(lambda x: x + 1), context_of(lambda x: x * 2)
    assert first is second
    CONTEXT.forget()
    assert context_of(lambda x: x - 3) is not first


def test_a_program_that_is_lowered_within_another_has_a_context_of_its_own():
    @jax.jit
    def both(x):
        return jnp.cos(answered.bind(jnp.cos(x))) + jnp.cos(x)

    x = np.linspace(0, 1, 3)
    expected = np.cos(np.cos(x) + np.sin(np.arange(3.0)).sum()) + np.cos(x)
    np.testing.assert_allclose(both(x), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(x))))(x), np.cos(x), rtol=1e-6)


def test_other_threads_have_contexts_of_their_own():
    found = [context_of(lambda x: x + 5)]
    thread = threading.Thread(target=lambda: found.append(context_of(lambda x: x + 6)))
    thread.start()
    thread.join()
    assert found[0] is not found[1]
