"""The numbers of a running command for other tools: events for TensorBoard, and an endpoint for Prometheus.

Both are asked for by options, and need the extra `onward[metrics]`.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from ..support.errors import UserError
from ..support.extras import needed

HERE = "127.0.0.1"


class Metrics:
    """Receives numbers and hands them on. Without an option it drops them."""

    def __init__(self, command: str, tensorboard: Path | None = None, prometheus: int | None = None):
        self._command, self._events, self._gauges = command, None, {}
        self._server: Any = None
        self._prometheus: Any = None
        if prometheus is not None:
            self._prometheus = needed("prometheus_client", "metrics")
            self._registry = self._prometheus.CollectorRegistry()
            try:
                self._server, _ = self._prometheus.start_http_server(prometheus, addr=HERE, registry=self._registry)
            except OSError as error:
                raise UserError(
                    f"--prometheus {prometheus} cannot be listened on ({error.strerror}); name a free port."
                ) from None
        if tensorboard is not None:
            try:
                self._events = needed("tensorboardX", "metrics").SummaryWriter(str(tensorboard))
            except OSError as error:
                raise UserError(f"{tensorboard} cannot hold events ({error.strerror}); name another folder.") from None

    def tell(self, step: int, numbers: Mapping[str, float], of: str = "") -> None:
        """Takes in some numbers by name, at a step of the run. `of` is the method or the partition that they belong to,
        if there are several.
        """
        for name, number in numbers.items():
            if self._events is not None:
                self._events.add_scalar(f"{of}/{name}" if of else name, number, step)
            if self._prometheus is not None:
                self._gauge(name).labels(of).set(number)
        if self._prometheus is not None and numbers:
            self._gauge("step").labels(of).set(step)

    def _gauge(self, name: str) -> Any:
        if name not in self._gauges:
            metric = re.sub("[^a-z0-9]+", "_", f"onward {self._command} {name}".lower())
            about = f"{name} of onward {self._command}"
            self._gauges[name] = self._prometheus.Gauge(metric, about, ["of"], registry=self._registry)
        return self._gauges[name]

    def close(self) -> None:
        """Writes what is held back, and ends the endpoint."""
        if self._events is not None:
            self._events.close()
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()


_CURRENT: ContextVar[Metrics | None] = ContextVar("metrics", default=None)


@contextmanager
def metrics_of(command: str, options: Any) -> Iterator[None]:
    """A context in which `tell` hands numbers on as the options of the command ask for."""
    metrics = Metrics(command, getattr(options, "tensorboard", None), getattr(options, "prometheus", None))
    before = _CURRENT.set(metrics)
    try:
        yield
    finally:
        _CURRENT.reset(before)
        metrics.close()


def tell(step: int, numbers: Mapping[str, float], of: str = "") -> None:
    """Hands some numbers of the running command on; see `Metrics.tell`."""
    metrics = _CURRENT.get()
    if metrics is not None:
        metrics.tell(step, numbers, of)
