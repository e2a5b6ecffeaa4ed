"""A gradient of a recurrent cell that learns online, against the exact one."""

from typing import NamedTuple

import jax
import numpy as np

from benchmarks.contest import Effort
from benchmarks.task import Setting

STRETCH = 20  # steps from rest, over which a gradient is summed


class Gradient(NamedTuple):
    """A gradient of the recurrent cell over some steps, against the exact one, by backpropagation of the same network.

    * `cosine`, `error`: of a stretch from rest; the error is relative to the norm of the exact gradient;
    * `update`, `reset`: the relative error for the weights of each gate of a GRU, of a single step that begins in
      another state and remembers nothing. `None` for another cell.
    """

    cosine: float
    error: float
    update: float | None
    reset: float | None

    @classmethod
    def of(cls, found: np.ndarray, exact: np.ndarray, **gates: tuple[np.ndarray, np.ndarray]) -> "Gradient":
        """From each gradient and the exact one, of the stretch and of the gates."""
        cosine = float(found @ exact / (np.linalg.norm(found) * np.linalg.norm(exact)))
        errors = {name: relative(*pair) for name, pair in gates.items()}
        return cls(cosine, relative(found, exact), errors.get("update"), errors.get("reset"))

    def cells(self) -> tuple[str, ...]:
        """As text."""
        gates = ("" if gate is None else f"{gate:.1e}" for gate in (self.update, self.reset))
        return f"{self.cosine:.4f}", f"{self.error:.1e}", *gates


def relative(found: np.ndarray, exact: np.ndarray) -> float:
    """The norm of the difference, relative to that of the exact gradient."""
    return float(np.linalg.norm(found - exact) / np.linalg.norm(exact))


def flat(tree) -> np.ndarray:
    """The numbers of a gradient."""
    return np.concatenate([np.asarray(leaf, np.float64).reshape(-1) for leaf in jax.tree.leaves(tree)])


def steps_of(setting: Setting, effort: Effort) -> int:
    """How many steps to time at once."""
    return max(64, int(effort.milliseconds * (40 if setting.units < 64 else 8)) // 16 * 16)
