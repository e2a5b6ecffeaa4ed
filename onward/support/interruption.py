"""Ctrl-C, a polite kill and the end of a time limit: noted now, answered where the work can stop."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

AGAIN = 5.0  # seconds until an end that was not heard is told again


class TimeIsUp(KeyboardInterrupt):
    """The time that the user allowed is over."""


@contextmanager
def time_limit(seconds: float | None) -> Iterator[None]:
    """Inside, `TimeIsUp` is raised after so many seconds, or an `Interruption` notes it; `None` for no limit."""
    if seconds is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number, frame):
        raise TimeIsUp("stopped: the time that --total-time allows is over.")

    before = signal.signal(signal.SIGALRM, end)
    # Again and again: what is raised while a destructor runs, or a callback of a library, is lost.
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Interruption:
    """While it is entered, SIGINT, SIGTERM and a time limit set `signal` and nothing else; a second one interrupts at
    once.

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
        if threading.current_thread() is threading.main_thread():  # Python lets no other thread choose
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
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
        """What a shell expects of a process that ends because of the signal: 0 if the time limit has done its work."""
        return 0 if self.signal == signal.SIGALRM else 128 + (self.signal or 0)

    def _note(self, number, frame):
        if number == signal.SIGALRM and self.came():
            return  # it is stopping already
        if self.came():
            raise KeyboardInterrupt
        self.signal = number
