"""Units of work on a Ray cluster: as many at a time as it has room for, and those of a lost worker again elsewhere."""

import math
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import msgspec

from ..support.errors import UserError
from ..support.extras import needed
from .part_options import LOCAL, check_address
from .ray_worker import Answer, Job, Telling, compute

MEMORY = 100 * 2**20  # bytes of the object store of a cluster of our own; what is sent is small
LOOK = 0.5  # seconds between two looks at the progress


def on_ray(
    ray: Any,
    command: str,
    settings: bytes,
    units: Mapping[str, bytes],
    keep: Callable[[str, Answer], None],
    report: Callable[[float, float], None],
) -> None:
    """Computes units of work on a cluster.

    * `ray`: Ray, connected to it by `cluster`;
    * `command`, `settings`: what the workers do, as data; see `onward.cli.ray_worker`;
    * `units`: what each unit is, as data, by name;
    * `keep`: called with the answer of each unit as soon as it is there;
    * `report`: receives the finished fraction of all units, and a mean number to show, such as bits; NaN if none is
      known.

    If a worker dies, Ray runs its unit again. On Ctrl-C what is finished has been kept.
    """
    telling = ray.remote(num_cpus=0)(Telling).remote()
    job = ray.put(msgspec.json.encode(Job.here(command, settings.decode(), jax.local_device_count())))
    run = ray.remote(num_cpus=1, max_retries=-1)(compute)
    waiting = {run.options(name=name).remote(job, name, unit, telling): name for name, unit in units.items()}
    try:
        while waiting:
            ready, _ = ray.wait(list(waiting), timeout=LOOK)
            for each in ready:
                name = waiting.pop(each)
                keep(name, msgspec.json.decode(ray.get(each), type=Answer))
            told = ray.get(telling.told.remote())
            done = len(units) - len(waiting) + sum(told[name][0] for name in waiting.values() if name in told)
            if done:
                numbers = [number for _, number in told.values() if math.isfinite(number)]
                report(done / len(units), statistics.mean(numbers) if numbers else math.nan)
    except KeyboardInterrupt:
        for each in waiting:
            ray.cancel(each, force=True)
        raise


@contextmanager
def cluster(address: str) -> Iterator[Any]:
    """A context with Ray, connected to a cluster. One that was started here ends with the context.

    Enter it before JAX computes: Ray starts its processes by forks. A cluster of its own listens on this machine's
    loopback alone, and takes only those who have its token, which lies in a file that nobody else can read. Raises
    `UserError` if nothing answers at the address, and `MissingExtra` without Ray.
    """
    check_address(address)
    before = dict(os.environ)
    with tempfile.TemporaryDirectory(prefix="onward-ray-") as private:  # its mode is 0700
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        if address == LOCAL:
            token = Path(private) / "token"
            descriptor = os.open(token, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            os.write(descriptor, os.urandom(32).hex().encode())
            os.close(descriptor)
            os.environ |= {
                "RAY_AUTH_MODE": "token",
                "RAY_AUTH_TOKEN_PATH": str(token),
                "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # otherwise it would listen on every interface
            }
        ray = needed("ray", "ray")
        try:
            _connect(ray, address)
            yield ray
        finally:
            ray.shutdown()
            for name in os.environ.keys() - before.keys():
                if name.startswith("RAY_"):
                    del os.environ[name]


def _connect(ray: Any, address: str) -> None:
    quiet = {"log_to_driver": False, "logging_level": "error"}
    here = {"include_dashboard": False, "object_store_memory": MEMORY, "_node_ip_address": "127.0.0.1"}
    try:
        if address == LOCAL:
            ray.init(address="local", **here, **quiet)
        else:
            ray.init(address=address, **quiet)
    except Exception as error:  # Ray has no type of its own for a cluster that does not start or answer
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"--ray {address}: {reason}") from None
