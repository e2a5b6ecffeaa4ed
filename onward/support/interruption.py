"""Ctrl-C and a polite kill, noted now and answered when the work is at a good place to stop."""

import signal
import threading


class Interruption:
    """While it is entered, SIGINT and SIGTERM set `signal` and nothing else; a second one interrupts at once.

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
            for number in (signal.SIGINT, signal.SIGTERM):
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
        """What a shell expects of a process that ends because of the signal."""
        return 128 + (self.signal or 0)

    def _note(self, number, frame):
        if self.came():
            raise KeyboardInterrupt
        self.signal = number
