"""Networks that read a text once: windows of backpropagation, alone and continued forward, on two networks."""

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Float, Int

from onward.support.freezing import learnable
from onward.support.tables import columns, counted, mean_and_error
from onward.texts.block_program import BlockProgram
from onward.texts.text import blocks, embedded_text, survey

from ..data.enwik8 import first_bytes
from ..parts import Parts
from ..plots.texts import draw_readings
from ..recipe import Experiment, Findings, Verdict, verdict_of
from .text_arms import ARMS, LSTM_UNITS, RECENT, TRUNCATION, UNITS, WINDOW, Arm

BLOCK = 1000 * WINDOW  # characters of an arm's turn
POINTS = 50  # of a curve

NOTES = Path(__file__).with_suffix(".md").read_text().rstrip()
NOTES = NOTES.format(window=WINDOW, block=BLOCK, lstm=LSTM_UNITS, units=UNITS, last=RECENT)


class Source(NamedTuple):
    """A text as numbers from 0, each below `size`."""

    name: str
    symbols: Int[np.ndarray, " characters"]
    size: int


class Reading(NamedTuple):
    """One arm's passes over a text.

    * `bits`: bits a character of each turn; `seconds`: of each turn;
    * `block`: the characters of a turn; `parameters`: the number of what is trained.
    """

    bits: Float[np.ndarray, "seeds turns"]
    seconds: Float[np.ndarray, "seeds turns"]
    block: int
    parameters: int

    @property
    def whole(self) -> Float[np.ndarray, " seeds"]:
        """Bits a character over the whole pass."""
        return self.bits.mean(1)

    @property
    def closing(self) -> Float[np.ndarray, " seeds"]:
        """Bits a character over the last tenth."""
        return self.bits[:, -max(1, self.bits.shape[1] // 10) :].mean(1)

    @property
    def speed(self) -> float:
        """Characters a second, by the median turn."""
        return self.block / float(np.median(self.seconds))

    def first(self, turns: int) -> Float[np.ndarray, " seeds"]:
        """Bits a character over the first turns."""
        return self.bits[:, :turns].mean(1)


def embedded() -> Source:
    """The text in the package."""
    text = embedded_text()
    alphabet = survey(text).alphabet
    return Source("the embedded Shakespeare", np.concatenate(list(blocks(text, alphabet, size=1 << 16))), len(alphabet))


def enwik8() -> Source:
    """The first bytes of enwik8, each a symbol of its own."""
    alphabet, symbols = np.unique(first_bytes(), return_inverse=True)
    return Source("enwik8", symbols.astype(np.int32), len(alphabet))


@dataclass(frozen=True)
class Readings:
    """Every arm reads the same text, a block each in turn, so that what else the machine does is shared."""

    arms: Mapping[str, Arm]
    block: int = BLOCK

    def run(self, source: Source, characters: int, seeds: int, seed: int, parts: Parts) -> Findings:
        arms = parts.chosen(self.arms)
        turns = min(characters, len(source.symbols)) // self.block

        def told(name: str, bits) -> None:
            said = "; ".join(f"{arm} {np.mean(of['bits']):.3f}" for arm, of in bits.items())
            print(f"{name.partition(':')[0]}: {said}", file=sys.stderr)

        makers = {
            f"seed {number}: {', '.join(arms)}": partial(read, arms, source, self.block, turns, number)
            for number in range(seed, seed + seeds)
        }
        found = list(parts.all(makers, told).values())
        readings = {
            name: Reading(
                np.array([one[name]["bits"] for one in found], float),
                np.array([one[name]["seconds"] for one in found], float),
                self.block,
                found[0][name]["parameters"],
            )
            for name in arms
        }
        picture = partial(
            draw_readings,
            {name: (r.bits, r.speed) for name, r in readings.items()},
            block=self.block,
            points=POINTS,
            dashed=[name for name in arms if not arms[name].constant],
            title=f"{source.name}, read once: {turns * self.block:,} characters, {counted(seeds, 'seed')}",
        )
        return Findings(
            verdict_of(lambda: judge(readings, self.arms), readings, list(self.arms)),
            "\n".join(_table(readings, arms)),
            {"bits.png": "bits a character against characters read, and against seconds"},
            {
                "text": source.name,
                "block": self.block,
                "arms": {
                    name: {
                        "settings": arms[name].words,
                        "parameters": r.parameters,
                        "whole": r.whole.tolist(),
                        "closing": r.closing.tolist(),
                        "characters_a_second": r.speed,
                        "bits": r.bits.round(4).tolist(),
                        "seconds": r.seconds.round(4).tolist(),
                    }
                    for name, r in readings.items()
                },
            },
            {"bits.png": picture},
        )


def read(arms: Mapping[str, Arm], source: Source, size: int, turns: int, seed: int) -> dict[str, Any]:
    """One pass of every arm, in turns of `size` characters: the bits a character and the seconds of each turn."""
    runs = {name: _Run(arm, source.size, seed) for name, arm in arms.items()}
    last = -1  # nothing is read before the first character
    for turn in range(turns):
        block = source.symbols[turn * size : (turn + 1) * size]
        for run in runs.values():
            run.turn(last, block)
        last = int(block[-1])
    return {
        name: {"bits": run.bits, "seconds": run.seconds, "parameters": run.parameters} for name, run in runs.items()
    }


class _Run:
    """An arm on its way through a text."""

    def __init__(self, arm: Arm, symbols: int, seed: int):
        model_key, key = jr.split(jr.key(seed))
        learner, model = arm.learner(), arm.model(symbols, key=model_key)
        example = jnp.zeros(symbols), jnp.zeros((), jnp.int32)
        self._carry, self._program = learner.init(model, key=key, example=example), BlockProgram(learner, symbols)
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(learnable(model)))
        self.bits: list[float] = []
        self.seconds: list[float] = []

    def turn(self, last: int, block: np.ndarray) -> None:
        """Learns a block, which follows the symbol `last`."""
        compiling, began = self._program.compile_seconds, time.perf_counter()
        result = self._program(self._carry, last, block)
        self.seconds.append(time.perf_counter() - began - (self._program.compile_seconds - compiling))
        self.bits.append(float(result.bits.mean()) if result.finite else math.nan)
        self._carry = result.carry


def judge(readings: Mapping[str, Reading], arms: Mapping[str, Arm]) -> Verdict:
    """The hope: a forward method in constant memory needs fewer bits than truncation, at its speed or faster."""
    usual = readings[TRUNCATION]
    below, fast, said = [], [], []
    for name, reading in readings.items():
        if name == TRUNCATION or not arms[name].constant:
            continue
        gap = usual.whole.mean() - reading.whole.mean()
        error = math.hypot(_error(usual.whole), _error(reading.whole))
        below += [name] * bool(gap > 2 * error)
        fast += [name] * bool(reading.speed >= usual.speed)
        said.append(f"{name} {gap:+.3f} ± {error:.3f} bits, at {reading.speed / usual.speed:.2f} times the speed")
    why = f"{TRUNCATION} needs {mean_and_error(usual.whole, 3)} bits a character. Fewer than that: {'; '.join(said)}."
    if set(below) & set(fast):
        return Verdict("agrees", why)
    return Verdict("agrees in part" if below else "disagrees", why)


def _error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(values.size)) if values.size > 1 else 0.0


def _table(readings: Mapping[str, Reading], arms: Mapping[str, Arm]) -> list[str]:
    quickest = min(float(np.median(r.seconds)) for r in readings.values())
    rows: list[tuple[str, ...]] = [("", "whole pass", "last tenth", "in the same time", "characters/s", "parameters")]
    for name, r in readings.items():
        turns = max(1, int(r.bits.shape[1] * quickest / np.median(r.seconds)))
        same = f"{r.first(turns).mean():.3f} ({turns * r.block:,})"
        numbers = mean_and_error(r.whole, 3), mean_and_error(r.closing, 3), same, f"{r.speed:,.0f}", f"{r.parameters:,}"
        rows.append((name, *numbers))
    return [
        "Bits a character, each predicted before it is learned; mean ± standard error of the seeds. In the same time:",
        "over what a method had read, in brackets, when the fastest had read all. Speeds are of the median turn.",
        "",
        *columns(rows),
        "",
        *(f"  {name}: {arm.words}" for name, arm in arms.items()),
    ]


def _recipe(name: str, title: str, data: Callable[[], Source], characters: int, seeds: int) -> Experiment:
    return Experiment(
        name=name,
        title=title,
        claim="A network whose gradients reach back without a limit, in constant memory, needs fewer bits a character "
        f"than an LSTM and backpropagation through {WINDOW} characters, at its speed or faster.",
        claimant="The hope",
        notes=NOTES,
        length=characters,
        unit="characters",
        seeds=seeds,
        data=data,
        run=Readings(ARMS).run,
        methods=tuple(ARMS),
    )


RECIPES = {
    recipe.name: recipe
    for recipe in (
        _recipe("forward/text", "Gradients beyond the window on a text", embedded, 1_080_000, 3),
        _recipe("forward/enwik8", "Gradients beyond the window on enwik8", enwik8, 10_000_000, 3),
    )
}
