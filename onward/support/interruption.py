"""Ctrl-C, SIGTERM, SIGHUP and time limits: they are noted when they come, and obeyed where the work can stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class TimeIsUp(KeyboardInterrupt):
    """The time limit is over."""


@contextmanager
def time_limit(seconds: float | None, *, again: float = 5.0) -> Iterator[None]:
    """A context with a time limit in seconds; `None` for no limit.

    The end is a signal. It raises `TimeIsUp`, or is noted by an `Interruption` inside. It is repeated every `again`
    seconds.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        raise TimeIsUp("stopped: the time that --total-time allows is over.")

    before = signal.signal(signal.SIGALRM, end)
    # Repeated, because an exception raised within a destructor or a library's callback is lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, again)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interruption:
    """A context in which SIGINT, SIGTERM, SIGHUP and a time limit only set `signal`.

    A second SIGINT or SIGTERM interrupts at once. SIGHUP means that the terminal was closed; if it is ignored, as under
    `nohup`, it stays ignored.

    * `signal`: the number of the signal that came, or `None`.

        >>> with Interruption() as interruption:
        ...     signal.raise_signal(signal.SIGTERM)
        >>> interruption.signal == signal.SIGTERM
        True
    """

    def __init__(self):
        self.signal: int | None = None
        self._before = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread set handlers
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
                if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *exception):
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def came(self) -> bool:
        """Whether a signal has come."""
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """The process's exit code for this signal, as shells expect it; 0 if the time limit ended the work."""
        return 0 if self.signal == signal.SIGALRM else 128 + (self.signal or 0)

    def _note(self, number, frame):
        if number in (signal.SIGALRM, signal.SIGHUP) and self.came():
            return  # it is stopping already; both may come several times
        if self.came():
            raise KeyboardInterrupt
        self.signal = number
