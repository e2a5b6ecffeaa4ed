"""Runs side by side: what lanes of one compiled program have in common, and their checkpoint."""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from ..checkpoints.array_file import load, load_note, packed
from ..support.devices import shared_evenly


@dataclass(frozen=True, kw_only=True)
class Fates:
    """The results of some lanes. Symbols are measured in bits per character, other targets by the loss.

    * `whole`, `closing`: the mean over the whole run, and over its last tenth;
    * `diverged`: the step, counted from 1, by which a lane's numbers were no longer finite; 0 if all were. Steps are
      characters or minibatches;
    * `lost`: whether a lane stayed finite but did worse over its last tenth than guessing uniformly.

    The numbers of a diverged lane are NaN.
    """

    whole: Float[np.ndarray, " lanes"]
    closing: Float[np.ndarray, " lanes"]
    diverged: Int[np.ndarray, " lanes"]
    lost: Bool[np.ndarray, " lanes"]

    @property
    def sound(self) -> Bool[np.ndarray, " lanes"]:
        """Which lanes neither diverged nor were lost."""
        return (self.diverged == 0) & ~self.lost

    @property
    def order(self) -> tuple[int, float]:
        """A sort key, best first: fewer unsound lanes, then a lower mean over the last tenth."""
        return int(np.sum(~self.sound)), float(np.mean(self.closing[self.sound])) if self.sound.any() else 0.0

    def part(self, lanes: slice) -> dict[str, np.ndarray]:
        """The results of some of the lanes, by field name."""
        return {field.name: getattr(self, field.name)[lanes] for field in fields(Fates)}


@dataclass(frozen=True, kw_only=True)
class Outcomes(Fates):
    """The results of some lanes, with their learning curves.

    * `ends`: the steps taken at each point of the curve;
    * `curve`: the mean since the previous point; NaN once a lane has diverged.
    """

    ends: Int[np.ndarray, " points"]
    curve: Float[np.ndarray, "lanes points"]

    def of(self, lanes: slice) -> "Outcomes":
        """Those of some of the lanes."""
        return Outcomes(**self.part(lanes), ends=self.ends, curve=self.curve[lanes])


def joined(parts: Sequence[Outcomes]) -> Outcomes:
    """All lanes of several parts, in this order. A part may have ended early because all its lanes diverged."""
    ends = max((part.ends for part in parts), key=len)
    curves = np.full((sum(len(part.curve) for part in parts), len(ends)), np.nan)
    at = 0
    for part in parts:
        there = np.isin(ends, part.ends)
        curves[at : at + len(part.curve), there] = part.curve[:, np.isin(part.ends, ends)]
        at += len(part.curve)
    each = {f.name: np.concatenate([getattr(part, f.name) for part in parts]) for f in fields(Fates)}
    return Outcomes(**each, ends=ends, curve=curves)


class AbstractLog(ABC):
    """What lanes have found so far. `diverged` is as in `Fates`."""

    diverged: Int[np.ndarray, " lanes"]

    @property
    @abstractmethod
    def latest(self) -> float:
        """The mean over the latest block, of the finite lanes."""

    @abstractmethod
    def state(self) -> dict[str, np.ndarray]:
        """Everything, as arrays by name."""

    @abstractmethod
    def restore(self, state: dict[str, np.ndarray]) -> None:
        """Takes over what `state` returned."""


@dataclass
class Saving:
    """The checkpoint of lanes while they run.

    * `path`: its file; `write`: writes a file atomically;
    * `settings`: what the lanes depend on, in a text;
    * `every`: seconds between two checkpoints;
    * `to_the_end`: whether the end is saved too, because other lanes are to run before the results are kept.
    """

    path: Path
    write: Callable[[Path, bytes], None]
    settings: str
    every: float = 60.0
    to_the_end: bool = False

    def __post_init__(self):
        self._saved = time.monotonic()

    def load(self, lanes: PyTree, log: AbstractLog) -> PyTree:
        """The lanes of the checkpoint if there is one; their log goes on from it. Raises `CheckpointError` if it is
        damaged, or of other lanes.
        """
        if not self.path.exists():
            return lanes
        shapes = load_note(self.path, settings=self.settings)
        like = {name: np.empty(shape, dtype) for name, (shape, dtype) in shapes.items()}
        lanes, state = load(self.path, (lanes, like), settings=self.settings)
        log.restore(state)
        return lanes

    def save(self, lanes: PyTree, log: AbstractLog, *, finished: bool) -> None:
        """Writes a checkpoint if it is due."""
        if self.to_the_end if finished else time.monotonic() - self._saved >= self.every:
            state = log.state()
            shapes = {name: [array.shape, array.dtype.str] for name, array in state.items()}
            self.write(self.path, packed((lanes, state), note=shapes, settings=self.settings))
            self._saved = time.monotonic()


class LaneProgram(ABC):
    """Lanes of one method that differ in their keys and in some numbers, as one program that is compiled once."""

    compile_seconds: float
    """The seconds of compilation so far."""

    def run(
        self,
        keys: Key[Array, " lanes"],
        values: PyTree,
        report: Callable[[float, float], None],
        saving: Saving | None = None,
    ) -> Any:
        """Lets every lane learn to the end, or until all have diverged. Returns their log.

        `values` have an axis of lanes. `report` receives the finished fraction, and the mean over the latest block. If
        there is a checkpoint, the lanes go on from it, to the same bits.
        """
        lanes, log = self._begun(keys, values)
        if saving is not None:
            lanes = saving.load(lanes, log)
        lanes = jax.device_put(lanes, shared_evenly(len(keys), "lanes"))
        while (log.diverged == 0).any() and self._done(log) < 1:
            lanes = self._advanced(keys, values, lanes, log)
            report(self._done(log), log.latest)
            if saving is not None:
                saving.save(lanes, log, finished=self._done(log) >= 1 or not (log.diverged == 0).any())
        return log

    def bytes_needed(self, keys: Key[Array, " lanes"], values: PyTree) -> int:
        """The bytes that all devices together hold while this many lanes run."""
        analysis = self.compile(keys, values).memory_analysis()
        # The program takes the lanes' memory and writes them back to the same place.
        mine = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
        return shared_evenly(len(keys), "lanes").mesh.size * (mine + analysis.temp_size_in_bytes)

    @abstractmethod
    def compile(self, keys: Key[Array, " lanes"], values: PyTree) -> Any:
        """The compiled program for this many lanes, spread over as many devices as divide them evenly."""

    @abstractmethod
    def digest(self, keys: Key[Array, " lanes"], values: PyTree) -> str:
        """A fingerprint of what each lane computes, however many there are and wherever they run."""

    @abstractmethod
    def _begun(self, keys: Key[Array, " lanes"], values: PyTree) -> tuple[PyTree, Any]:
        """The lanes at their start, and an empty log."""

    @abstractmethod
    def _done(self, log: Any) -> float:
        """The finished fraction of the run, 0 to 1."""

    @abstractmethod
    def _advanced(self, keys: Key[Array, " lanes"], values: PyTree, lanes: PyTree, log: Any) -> PyTree:
        """The lanes after a block, whose findings are added to the log."""
