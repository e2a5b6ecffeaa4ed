"""The machine a benchmark runs on: holding it to one thread, and saying what it is."""

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from onward.support.small_loops import request

XLA_FLAGS = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


def hold_to_one_thread(cpu: int | None = None) -> None:
    """Pin this process and its children to one core, and every library to one thread.

    To be called before JAX, NumPy or torch is imported: each sizes its thread pool once. `cpu` is the core to use, the
    last allowed one if left out. Where the system cannot pin (macOS), the flags alone must do.

    Raises `ValueError` for a core that this process may not use.
    """
    os.environ["XLA_FLAGS"] = XLA_FLAGS
    request()
    os.environ["JAX_PLATFORMS"] = "cpu"
    for library in ("OMP", "OPENBLAS", "MKL", "VECLIB_MAXIMUM"):
        os.environ[f"{library}_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        if cpu is not None and cpu not in allowed:
            raise ValueError(f"cpu must be one of {sorted(allowed)}, got {cpu}.")
        os.sched_setaffinity(0, {max(allowed) if cpu is None else cpu})


def describe() -> dict[str, str]:
    """What the figures depend on, in the order it should be read."""
    packages = ("jax", "jaxlib", "equinox", "optax", "numpy", "braintrace", "torch", "torchdeq", "river", "deep-river")
    return {
        "CPU": f"{_cpu_model()}, {os.cpu_count()} cores, L2 cache {_cache_size()}",
        "threads": f"{_affinity()}; XLA_FLAGS={os.environ.get('XLA_FLAGS', '(not set)')}",
        "load": f"{_load()} (1 minute average before the start; above 0.5, run again when the machine is quiet)",
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "packages": ", ".join(f"{name} {found}" for name in packages if (found := installed(name))),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "command": "python -m benchmarks " + " ".join(sys.argv[1:]),
    }


def installed(package: str) -> str | None:
    """The version of a package, `None` if it is not there."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"


def _cache_size() -> str:
    size = Path("/sys/devices/system/cpu/cpu0/cache/index2/size")
    return size.read_text().strip() if size.exists() else "unknown"


def _affinity() -> str:
    if not hasattr(os, "sched_getaffinity"):
        return "not pinned"
    cores = sorted(os.sched_getaffinity(0))
    return f"pinned to core {cores[0]}" if len(cores) == 1 else f"not pinned, may use cores {cores}"


def _load() -> str:
    return f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"


def _commit() -> str:
    def git(*arguments):
        return subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        ).stdout.strip()

    try:
        # Only what is measured counts as a change, not a result that the last run wrote.
        changed = git("status", "--porcelain", "--", ":/onward", ":/benchmarks", ":!/benchmarks/results")
        return git("rev-parse", "--short", "HEAD") + (" with uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
