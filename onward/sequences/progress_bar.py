"""The progress bar of `fit`: one line that is redrawn in a terminal, or one line an epoch elsewhere."""

import math
import sys
import time

from .callbacks import Callback, Epoch, Progress

WIDTH, EVERY = 24, 0.2  # characters of the bar; seconds between two drawings


def progress_bar() -> Callback:
    """A callback that shows on standard error how far training is, its loss, and the scores of its epochs."""
    screen, began, drawn = sys.stderr, time.perf_counter(), -math.inf
    epochs = 0

    def report(progress: Progress) -> None:
        nonlocal drawn, epochs
        epochs = progress.epochs
        now = time.perf_counter()
        if not screen.isatty() or (now - drawn < EVERY and progress.minibatch < progress.minibatches):
            return
        drawn = now
        filled = WIDTH * progress.minibatch // progress.minibatches
        bar = "#" * filled + "." * (WIDTH - filled)
        done = f"{progress.minibatch}/{progress.minibatches}"
        _draw(f"\r\x1b[Kepoch {progress.epoch + 1}/{epochs} [{bar}] {done}, loss {progress.loss:.4g}")

    def at_epoch_end(carry, history: tuple[Epoch, ...]) -> None:
        clear = "\r\x1b[K" if screen.isatty() else ""
        seconds = time.perf_counter() - began
        _draw(f"{clear}epoch {len(history)}/{epochs}: {told(history[-1])}, {seconds:.1f} s\n")

    def _draw(line: str) -> None:
        screen.write(line)
        screen.flush()

    return Callback(report=report, at_epoch_end=at_epoch_end)


def told(epoch: Epoch) -> str:
    """The numbers of an epoch as text."""
    scores = epoch.metrics or ({} if epoch.score is None else {"score": epoch.score})
    return ", ".join(f"{name} {value:.4g}" for name, value in {"loss": epoch.loss, **scores}.items())
