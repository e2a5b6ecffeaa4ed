"""XLA's options for small loops: set on request only, obeyed by XLA, and known to a digest."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from problems import AS_FOR_USERS

from onward.support import program_digest, small_loops

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
        ("--xla_cpu_experimental_ynn_fusion_type=", None),
    ],
)
def test_flags_of_the_user_stay(monkeypatch, before, after):
    monkeypatch.setenv("XLA_FLAGS", before)
    small_loops.request()
    assert os.environ["XLA_FLAGS"] == (before if after is None else after)


def test_what_xla_was_told_is_known(monkeypatch):
    assert small_loops.options_in_force() == small_loops.OPTIONS
    known = program_digest.program_digest(jnp.sin, jnp.zeros(2)).digest()
    monkeypatch.setattr(program_digest, "options_in_force", lambda: "")
    assert program_digest.program_digest(jnp.sin, jnp.zeros(2)).digest() != known


def in_fresh_processes(*scripts):
    """What each of some scripts prints, in a process without flags."""
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    running = [
        subprocess.Popen([sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True)
        for script in scripts
    ]
    printed = [process.communicate()[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * len(running)
    return printed


def test_an_import_changes_nothing_that_others_notice():
    in_fresh_processes("""
import logging, os, pkgutil, warnings
from importlib import import_module
import equinox, jax, lineax, matplotlib, msgspec, numpy, onnx, optax, optimistix, redis, rich, river, safetensors, tyro
import matplotlib.pyplot, scipy.sparse, scipy.special
from jax import export, shard_map
from jax.experimental import compilation_cache

def noticeable():
    logs = [logging.root, *(log for log in logging.root.manager.loggerDict.values() if isinstance(log, logging.Logger))]
    return {
        "environment": dict(os.environ),
        "JAX": dict(jax.config.values),
        "logging": {log.name: (log.level, log.disabled, log.propagate, *log.handlers) for log in logs},
        "warnings": dict(enumerate(warnings.filters)),
        "NumPy": {**numpy.geterr(), **numpy.get_printoptions()},
        "matplotlib": dict(matplotlib.rcParams),
    }

before = noticeable()
import onward
dir(onward)
for module in pkgutil.walk_packages(onward.__path__, "onward."):
    if not module.name.endswith("__main__"):
        import_module(module.name)
after = noticeable()
for name in before:
    assert {key: after[name].get(key) for key in before[name]} == before[name], name
jax.config.update("jax_num_cpu_devices", 2)  # an error if anything was computed
""")


LEARN = """
def learned():
    import hashlib, equinox as eqx, jax, jax.numpy as jnp, numpy as np, onward, optax
    model = onward.Model(onward.VanillaCell(41, 32, key=jax.random.key(0)), eqx.nn.Linear(32, 1, key=jax.random.key(1)))
    learner = onward.Learner(onward.BPTT(), optax.sgd(1e-2, 0.9), loss=onward.losses.squared_error)
    xs, ys = jnp.sin(jnp.arange(4100.0)).reshape(100, 41), jnp.zeros((100, 1))
    carry, metrics = learner.run(learner.init(model, key=jax.random.key(2)), xs, ys)
    return hashlib.sha256(np.asarray(metrics.losses).tobytes()).hexdigest()
"""
COMPUTE = "import jax; jax.numpy.ones(2) + 1\n"
IMPORT = "import onward; dir(onward)\n"
TOO_LATE = """
import os
try:
    onward.compile_small_loops_whole()
except RuntimeError as error:
    assert "XLA_FLAGS" not in os.environ
    print(error)
"""


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an option of the CPU's compiler")
def test_the_same_bits_whether_jax_computes_before_the_import_or_after():
    first, second = in_fresh_processes(
        LEARN + COMPUTE + IMPORT + "print(learned())", LEARN + IMPORT + "print(learned())" + TOO_LATE
    )
    bits, refusal = second.splitlines()
    assert first == bits
    assert refusal.startswith("JAX has computed before, and XLA reads its options only once; call")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="an option of the CPU's compiler")
def test_xla_hears_what_is_requested_in_time():
    say = "from onward.support.small_loops import options_in_force; print(options_in_force())"
    assert in_fresh_processes(IMPORT + f"onward.compile_small_loops_whole(); {say}") == [small_loops.OPTIONS]
