"""Options of XLA that make small steps fast on a CPU. They hold for the whole process and are set only on request.

They cannot be set for a single program: `jax.jit(compiler_options=...)` does not accept them (JAX 0.10.2).
"""

import functools
import os

# A loop is small if one iteration reads and writes at most this many bytes. These fit into a core's cache, so most of
# the time of such a loop goes into calling kernels, 0.1 to 0.15 µs each. For a larger loop there is nothing to gain.
LIMIT = 2**20

FLAG = "xla_backend_extra_options"
YNNPACK = "xla_cpu_experimental_ynn_fusion_type"
WHOLE, NOT_UNROLLED = "xla_cpu_small_while_loop_byte_threshold", "xla_cpu_disable_loop_unrolling"

# LLVM unrolls a short loop, such as one over the features of a row, and then no longer vectorises it: a
# step of an LSTM of 32 units with momentum took 7.7 µs instead of 5.1.
OPTIONS = f"{WHOLE}={LIMIT},{NOT_UNROLLED}=true"
NO_CPU = "not a CPU"


def compile_small_loops_whole() -> None:
    """Lets XLA compile each small loop on a CPU as one function: a step of a small network takes half the time or less.

    It sets options of XLA in the environment variable `XLA_FLAGS`. They hold for every program that JAX compiles in
    this process and in processes that it starts. The last bits of results may differ from those without the options.
    The command `onward` and the estimators of `onward.river` set them themselves.

    Call it once, before JAX computes anything. It makes JAX initialise its devices, so set JAX's own options first,
    such as `jax_num_cpu_devices`. If `XLA_FLAGS` names a file, or sets `xla_backend_extra_options` or
    `xla_cpu_experimental_ynn_fusion_type` already, it stays as it is.

    Raises `RuntimeError` if JAX has computed before, because XLA reads its options only once.

        >>> import onward
        >>> onward.compile_small_loops_whole()  # doctest: +SKIP
    """
    before = os.environ.get("XLA_FLAGS")
    request()
    if OPTIONS in os.environ["XLA_FLAGS"] and options_in_force() not in (OPTIONS, NO_CPU):
        del os.environ["XLA_FLAGS"]
        if before is not None:
            os.environ["XLA_FLAGS"] = before
        raise RuntimeError(
            "JAX has computed before, and XLA reads its options only once; call onward.compile_small_loops_whole() "
            "where the program begins."
        )


def request() -> None:
    """Adds the options to `XLA_FLAGS`. XLA reads it when JAX first computes; later changes have no effect.

    The user's flags stay: other extra options, such as another limit or none (0), and the name of a file of flags,
    which does not begin with a dash. A choice of what YNNPACK computes stays alone: a small loop that is compiled whole
    without it multiplies matrices slowly.
    """
    flags = os.environ.get("XLA_FLAGS", "").strip()
    if not any(own in flags for own in (FLAG, YNNPACK)) and (not flags or flags.startswith("-")):
        # Put in front, because XLA stops reading at the first word that does not start with two dashes.
        os.environ["XLA_FLAGS"] = f"--{FLAG}={OPTIONS} {flags}".rstrip()


@functools.cache
def options_in_force() -> str:
    """Those of `OPTIONS` with which XLA compiles in this process, in the same form; `NO_CPU` on other devices.

    They are read from a compiled program, which records its options.
    """
    import jax

    if jax.default_backend() != "cpu":
        return NO_CPU
    program = jax.jit(lambda: 0).lower().compile().runtime_executable()
    assert program is not None
    found = {name: _value(program.serialize(), name) for name in (WHOLE, NOT_UNROLLED)}
    return ",".join(f"{name}={value}" for name, value in found.items() if value)


def _value(program: bytes, name: str) -> str:
    """The value of an option in a program's protocol buffer: name, a tag, the value's length, the value."""
    _, _, after = program.partition(name.encode())
    return after[2 : 2 + after[1]].decode() if after else ""
