"""FPP and truncated backpropagation on the same batch of streams, with several rates and seeds, as a table."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import optax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from onward.estimators import FPP, AbstractEstimator, SlidingBPTT
from onward.learner import Carry, Learner, Metrics
from onward.losses import softmax_cross_entropy
from onward.model import Model
from onward.support.tables import counted, mean_and_error

from ..fptt.arms import below
from ..parts import Parts
from ..plots.scores import draw_scores
from ..recipe import Findings, Verdict

BUFFER = 1000


class Block(NamedTuple):
    """A stretch of all streams, time first, and where sequences start in it, if they do."""

    xs: np.ndarray
    ys: np.ndarray
    reset: np.ndarray | None


class Training(NamedTuple):
    """One run: the score of each block while it was learned, the test scores afterwards, and the seconds it took."""

    online: Float[np.ndarray, " blocks"]
    test: Mapping[str, float]
    seconds: float


@dataclass(frozen=True)
class Contest:
    """FPP(T) against sliding TBPTT(T), with RMSProp at each rate. Every seed has its own model and order.

    * `horizons`, `rates`, `batch`; `make_model`: from a key; `example`: as for a learner;
    * `blocks`: the streams of a key, block by block;
    * `score`: of a block, from its metrics and targets; `test`: further scores of a trained model, by name;
    * `paper`: what the thesis reports, by method; `levels`: scores to compare with;
    * `unit`, `title`, `axis`: for the table and the picture.
    """

    horizons: tuple[int, ...]
    rates: tuple[float, ...]
    batch: int
    make_model: Callable[[PRNGKeyArray], Model]
    example: tuple[PyTree, PyTree]
    blocks: Callable[[PRNGKeyArray], Iterator[Block]]
    score: Callable[[Metrics, Array], Float[Array, ""]]
    larger_is_better: bool
    test: Callable[[Model], Mapping[str, float]]
    paper: Mapping[str, float]
    levels: Mapping[str, float]
    unit: str
    title: str
    axis: str

    def findings(self, seeds: int, seed: int, parts: Parts) -> Findings:
        """Runs all trainings and returns the findings."""
        methods: dict[str, AbstractEstimator] = {f"TBPTT({T})": SlidingBPTT(T) for T in self.horizons}
        methods |= {f"FPP({T})": FPP(T, BUFFER, state_rate=1.0) for T in self.horizons}
        found, numbers = {}, []
        for name, estimator in methods.items():
            runs = self._trainings(name, estimator, seeds, seed, parts)
            seconds = sum(training.seconds for trainings in runs.values() for training in trainings)
            rate = self._best(runs)
            found[name] = (rate, runs[rate])
            numbers.append({"method": name, "rate": rate, "seconds": seconds, "trainings": _numbers(runs)})
            ends = np.array([_closing(t.online) for t in runs[rate]])
            print(f"{name}: {mean_and_error(ends, 2)} at {rate:g}, {seconds:.0f} s", file=sys.stderr)
        sign = -1 if self.larger_is_better else 1
        picture = draw_scores(
            {name: np.stack([t.online for t in runs]) for name, (_, runs) in found.items()},
            every=1,
            levels=self.levels,
            score=f"{self.unit} ({'higher' if self.larger_is_better else 'lower'} is better)",
            title=f"{self.title}; means of {counted(seeds, 'seed')}",
            axis=f"{self.axis} (predicted before they are learned)",
            logarithmic=False,
        )
        pictures = {"curve.png": f"{self.unit} against {self.axis}"}
        table = "\n".join(self._table(found, seeds))
        result = {"thesis": dict(self.paper), "levels": dict(self.levels), "methods": numbers}
        return Findings(self._judge(found, sign), table, pictures, result, {"curve.png": picture})

    def _trainings(self, name: str, estimator: AbstractEstimator, seeds: int, seed: int, parts: Parts):
        optimizer = optax.inject_hyperparams(optax.rmsprop)(learning_rate=self.rates[0])
        learner = Learner(estimator, optimizer, loss=softmax_cross_entropy, batch=self.batch)

        @partial(jax.jit, donate_argnums=0)
        def learn(carry, xs, ys, reset):
            carry, metrics = learner.run(carry, xs, ys, reset=reset, predictions=self.larger_is_better)
            return carry, self.score(metrics, ys)

        def train(rate, key) -> dict[str, Any]:
            began = time.perf_counter()
            model_key, learner_key, stream_key = jr.split(key, 3)
            carry = learner.init(self.make_model(model_key), key=learner_key, example=self.example)
            optimizer = optax.tree.set(carry.optimizer, learning_rate=jnp.asarray(rate, float))
            carry: Carry = jax.tree.map(jnp.array, eqx.tree_at(lambda c: c.optimizer, carry, optimizer))
            scores = []
            for block in self.blocks(stream_key):
                carry, score = learn(carry, *block)
                scores.append(float(score))
            return {"online": scores, "test": self.test(carry.model), "seconds": time.perf_counter() - began}

        def training(rate, i) -> Training:
            key = jr.fold_in(jr.key(seed), i)
            found = parts.part(f"{name} at {rate:g}, seed {i}", lambda: train(rate, key))
            # a number that was not finite was kept as null
            return Training(np.array(found["online"], float), found["test"], found["seconds"])

        return {rate: [training(rate, i) for i in range(seeds)] for rate in self.rates}

    def _best(self, runs: Mapping[float, list[Training]]) -> float:
        """The best rate, by the mean score over the whole run."""
        means = {rate: float(np.mean([t.online.mean() for t in trainings])) for rate, trainings in runs.items()}
        finite = {rate: mean for rate, mean in means.items() if np.isfinite(mean)}
        choose = max if self.larger_is_better else min
        return choose(finite, key=finite.__getitem__) if finite else self.rates[0]

    def _table(self, found, seeds: int) -> list[str]:
        extra = list(next(iter(found.values()))[1][0].test)
        lines = [
            f"{'method':12}{'rate':>8}{'last tenth':>18}" + "".join(f"{e:>18}" for e in extra) + f"{'the thesis':>14}"
        ]
        for name, (rate, runs) in found.items():
            row = f"{name:12}{rate:>8g}{mean_and_error(np.array([_closing(t.online) for t in runs]), 3):>18}"
            row += "".join(f"{mean_and_error(np.array([t.test[e] for t in runs]), 2):>18}" for e in extra)
            lines.append(f"{row}{self.paper[name]:14.3f}")
        levels = "; ".join(f"{name}: {level:.3f}" for name, level in self.levels.items())
        lines += [
            "",
            f"{self.unit[0].upper()}{self.unit[1:]}, mean ± standard error over {counted(seeds, 'seed')}; 'last tenth'",
        ]
        return [*lines, "of what was predicted before it was learned.", f"To compare with: {levels}."]

    def _judge(self, found, sign: int) -> Verdict:
        """Agrees if FPP is ahead of truncation at the same T by two standard errors just where the thesis says so."""
        closing = {name: np.array([_closing(t.online) for t in runs]) for name, (_, runs) in found.items()}
        if lost := [name for name, ends in closing.items() if not np.isfinite(ends).all()]:
            return Verdict("not decided", f"seeds diverged: {', '.join(lost)}.")
        agreed, words = [], []
        for T in self.horizons:
            ours, theirs = f"FPP({T})", f"TBPTT({T})"
            is_ahead = below(sign * closing[ours], sign * closing[theirs])
            is_behind = below(sign * closing[theirs], sign * closing[ours])
            agreed.append(is_ahead if sign * self.paper[ours] < sign * self.paper[theirs] else is_behind)
            shown = f"{mean_and_error(closing[ours], 2)} and {mean_and_error(closing[theirs], 2)}"
            place = "clearly ahead" if is_ahead else "clearly behind" if is_behind else "about as good"
            words.append(f"at T = {T} FPP is {place}, {shown}")
        word = "agrees" if all(agreed) else "agrees in part" if any(agreed) else "disagrees"
        return Verdict(word, f"{self.unit} over the last tenth: {'; '.join(words)}.")


def _closing(scores: np.ndarray) -> float:
    """The mean over the last tenth."""
    return float(scores[-max(1, len(scores) // 10) :].mean())


def _numbers(runs: Mapping[float, list[Training]]) -> list[dict]:
    return [
        {"rate": rate, "online": [float(s) for s in t.online], **t.test} for rate, each in runs.items() for t in each
    ]
