"""What onward tells XLA, and that XLA listens."""

import os

import jax
import jax.numpy as jnp
import pytest
from problems import AS_FOR_USERS

from onward.support.small_loops import compile_small_loops_whole

OURS = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1048576,xla_cpu_disable_loop_unrolling=true"


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an option of the CPU's compiler")
def test_a_small_loop_is_one_function():
    def step(carry, _):
        weights, hidden = carry
        hidden = jnp.tanh(weights @ hidden)
        return (weights + jnp.outer(hidden, hidden), hidden), None

    def loop(size):
        start = jnp.zeros((size, size)), jnp.zeros(size)
        lowered = jax.jit(lambda start: jax.lax.scan(step, start, length=100)[0]).lower(start)
        return lowered.compile(compiler_options=AS_FOR_USERS).as_text()

    assert "xla_cpu_small_call" in loop(20)
    assert "xla_cpu_small_call" not in loop(1000)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", OURS),
        (" --xla_cpu_multi_thread_eigen=false a=1", f"{OURS} --xla_cpu_multi_thread_eigen=false a=1"),
        ("/a/file/of/flags.txt", None),
        ("--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=0", None),
        ("--xla_backend_extra_options=something=1", None),
    ],
)
def test_flags_of_the_user_stay(monkeypatch, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    compile_small_loops_whole()
    assert os.environ["XLA_FLAGS"] == (before if after is None else after)
