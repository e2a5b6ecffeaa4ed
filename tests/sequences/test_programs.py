"""What a checkpoint knows its training by: the program, whatever surrounds it."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

from onward.support.program_digest import program_digest


def digest(function, *arguments):
    return program_digest(function, *arguments).hexdigest()


@pytest.mark.empties_caches
def test_what_is_computed_counts_and_not_what_of():
    def function(factor, table=(1.0, 2.0), seed=0, turns=3):
        noise = jr.key(seed)

        @jax.jit
        def inner(x):
            return factor * x + jnp.asarray(np.array(table), x.dtype) + jr.normal(noise, (2,), x.dtype)

        return lambda x: jax.lax.fori_loop(0, turns, lambda i, x: inner(x), x)

    x = jnp.zeros(2)
    expected = digest(function(2.0), x)
    assert digest(function(2.0), x + 1) == expected
    inner = jax.jit(function(2.0))
    inner(x)
    jax.clear_caches()
    assert digest(function(2.0), np.zeros(2)) == expected
    others = [
        digest(function(3.0), x),
        digest(function(2.0, table=(1.0, 3.0)), x),
        digest(function(2.0, seed=1), x),
        digest(function(2.0, turns=4), x),
        digest(function(2.0), x.astype(jnp.float32)),
        digest(lambda x: function(2.0)(x[0]), x[None]),
    ]
    assert len({expected, *others}) == 1 + len(others)


def test_no_number_runs_into_the_next():
    x = jnp.zeros(2)
    assert digest(lambda x: jax.lax.pad(x, 0.0, ((1, 11, 0),)), x) != digest(
        lambda x: jax.lax.pad(x, 0.0, ((11, 1, 0),)), x
    )


def test_where_the_arrays_lie_does_not_count():
    x = jnp.zeros((2, 2))
    spread = jax.device_put(x, jax.NamedSharding(jax.make_mesh((1,), ("batch",)), jax.P("batch")))
    assert digest(jnp.sin, spread) == digest(jnp.sin, x)


def test_an_object_shared_by_two_calls_is_as_two_objects():
    def twice(first, second):
        return lambda x: first(second(x))

    def tripled():
        return jax.jit(lambda x: 3 * x)

    shared = tripled()
    assert digest(twice(shared, shared), jnp.zeros(2)) == digest(twice(tripled(), tripled()), jnp.zeros(2))
