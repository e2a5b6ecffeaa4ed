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
from onward.learner import Learner, Metrics
from onward.losses import softmax_cross_entropy
from onward.model import Model
from onward.support.tables import counted, mean_and_error

from ..fptt.arms import below
from ..parts import Parts
from ..plots.scores import draw_scores
from ..recipe import Findings, Verdict

BUFFER = 1000
DRAWS = 1000  # for the power of the verdict's rule
DRAWN = 40  # points of a line in the picture, at most

Scores = Mapping[str, Float[np.ndarray, "seeds blocks"]]  # by the name of the score


class Block(NamedTuple):
    """A stretch of all streams, time first, and where sequences start in it."""

    xs: np.ndarray
    ys: np.ndarray
    starts: np.ndarray


class Method(NamedTuple):
    """A method: its estimator, whether sequences are reset, and whether the state is the value before the activation.

    Algorithm 1 of the thesis has no resets, and its state is s = tanh(·) (2.2).
    """

    estimator: AbstractEstimator
    resets: bool = False
    preactivations: bool = False


class Found(NamedTuple):
    """A method's best rate, and its online and test scores there. A seed that diverged has NaN."""

    rate: float
    online: Scores
    test: Mapping[str, Float[np.ndarray, " seeds"]]


def both(horizons: tuple[int, ...], ending: str = "", **settings: Any) -> dict[str, Method]:
    """Truncated backpropagation and FPP at each horizon, with the same settings."""
    methods = {f"TBPTT({T}){ending}": Method(SlidingBPTT(T), **settings) for T in horizons}
    return methods | learned(horizons, ending, **settings)


def learned(horizons: tuple[int, ...], ending: str = "", *, prefixes: bool = False, **settings: Any):
    """FPP at each horizon."""
    return {
        f"FPP({T}){ending}": Method(FPP(T, BUFFER, state_rate=1.0, prefixes=prefixes), **settings) for T in horizons
    }


@dataclass(frozen=True)
class Contest:
    """FPP(T) against sliding TBPTT(T), with RMSProp at each rate. Every seed has its own model and order.

    * `horizons`: those that the verdict compares; `methods`: all methods, by name;
    * `rates`, `batch`; `make_model`: from a key, and whether the state is the value before the activation; `example`:
      as for a learner;
    * `blocks`: the streams of a key, block by block;
    * `scores`: those of a block, by name, from its metrics and targets. Each is predicted before it is learned. A rate
      is chosen by the first one, over the whole run;
    * `test`: further scores of a trained model, by name;
    * `paper`: what the thesis reports, by method; `levels`: scores to compare with;
    * `unit`, `title`, `axis`: for the table and the picture.
    """

    horizons: tuple[int, ...]
    methods: Mapping[str, Method]
    rates: tuple[float, ...]
    batch: int
    make_model: Callable[[PRNGKeyArray, bool], Model]
    example: tuple[PyTree, PyTree]
    blocks: Callable[[PRNGKeyArray], Iterator[Block]]
    scores: Callable[[Metrics, Array], Mapping[str, Float[Array, ""]]]
    larger_is_better: bool
    test: Callable[[Model], Mapping[str, float]]
    paper: Mapping[str, float]
    levels: Mapping[str, float]
    unit: str
    title: str
    axis: str

    def findings(self, seeds: int, seed: int, parts: Parts) -> Findings:
        """Runs all trainings and returns the findings."""
        rates = " ".join(f"{rate:g}" for rate in self.rates)
        names = {f"{name}, rates {rates}, {seeds} seeds": name for name in self.methods}

        def told(part: str, runs) -> None:
            best = self._best(runs)
            ends = mean_and_error(_closing(next(iter(best.online.values()))), 2)
            print(f"{names[part]}: {ends} at {best.rate:g}, {runs['seconds']:.0f} s", file=sys.stderr)

        makers = {part: lambda m=self.methods[name]: self._trained(m, seeds, seed) for part, name in names.items()}
        trained = {names[part]: runs for part, runs in parts.all(makers, told).items()}
        found = {name: self._best(runs) for name, runs in trained.items()}
        numbers = [{"method": name, "rate": found[name].rate, **runs} for name, runs in trained.items()]
        first = next(iter(found[next(iter(found))].online))
        every, smooth = _in_stretches({name: of.online[first] for name, of in found.items()})
        picture = partial(
            draw_scores,
            smooth,
            every=every,
            levels=self.levels,
            score=f"{first}: {self.unit} ({'higher' if self.larger_is_better else 'lower'} is better)",
            title=f"{self.title}; means of {counted(seeds, 'seed')}" + f", stretches of {every}" * (every > 1),
            bold=[name for T in self.horizons for name in (f"FPP({T})", f"TBPTT({T})")],
            axis=f"{self.axis} (predicted before they are learned)",
            logarithmic=False,
        )
        pictures = {"curve.png": f"{self.unit} against {self.axis}"}
        result = {"thesis": dict(self.paper), "levels": dict(self.levels), "methods": numbers}
        table = "\n".join(self._table(found, seeds))
        return Findings(self.verdict(found), table, pictures, result, {"curve.png": picture})

    def _trained(self, method: Method, seeds: int, seed: int) -> dict[str, Any]:
        """All rates and seeds of a method, side by side in one program."""
        optimizer = optax.inject_hyperparams(optax.rmsprop)(learning_rate=self.rates[0])
        learner = Learner(method.estimator, optimizer, loss=softmax_cross_entropy, batch=self.batch)
        keys = jax.vmap(lambda i: jr.split(jr.fold_in(jr.key(seed), i), 3))(jnp.arange(seeds))

        def start(rate, keys):
            model = self.make_model(keys[0], method.preactivations)
            carry = learner.init(model, key=keys[1], example=self.example)
            return eqx.tree_at(lambda c: c.optimizer, carry, optax.tree.set(carry.optimizer, learning_rate=rate))

        def learn(carry, block: Block):
            xs, ys, starts = (jnp.asarray(leaf) for leaf in block)
            resets = starts if method.resets else None
            carry, metrics = learner.run(carry, xs, ys, reset=resets, predictions=self.larger_is_better)
            return carry, self.scores(metrics, ys)

        def lanes(function, *axes: tuple[int | None, int | None]):
            """Over the rates and, within, over the seeds: for each argument, its axes of both."""
            rates, within = zip(*axes, strict=True)
            return jax.vmap(jax.vmap(function, in_axes=within), in_axes=rates)

        began = time.perf_counter()
        rates = jnp.asarray(self.rates, float)
        carry = jax.jit(lanes(start, (0, None), (None, 0)))(rates, keys)
        carry = jax.tree.map(lambda leaf: jnp.array(leaf) if eqx.is_array(leaf) else leaf, carry)
        step = partial(jax.jit, donate_argnums=0)(lanes(learn, (0, 0), (None, 0)))
        online = []
        for each in zip(*(self.blocks(key[2]) for key in keys), strict=True):
            carry, scores = step(carry, Block(*(np.stack(arrays) for arrays in zip(*each, strict=True))))
            online.append(scores)
        online = {name: np.stack([np.asarray(scores[name]) for scores in online], -1) for name in online[0]}
        return {
            "seconds": time.perf_counter() - began,
            "online": {name: values.round(4).tolist() for name, values in online.items()},
            "test": self._tested(carry, seeds),
        }

    def _tested(self, carry, seeds: int) -> dict[str, list[list[float]]]:
        """The test scores by name, a row for each rate and a column for each seed."""

        def one(i: int, j: int) -> Mapping[str, float]:
            part = jax.tree.map(lambda leaf: leaf[i, j] if eqx.is_array(leaf) else leaf, carry)
            return self.test(part.model)

        rows = [[one(i, j) for j in range(seeds)] for i in range(len(self.rates))]
        return {name: [[each[name] for each in row] for row in rows] for name in rows[0][0]}

    def _best(self, runs: Mapping[str, Any]) -> Found:
        """The method at its best rate, by the mean of the first score over the whole run. A rate at which a seed
        diverged is none.
        """
        online = {name: np.array(values, float) for name, values in runs["online"].items()}
        means = next(iter(online.values())).mean((1, 2))
        signed = np.where(np.isfinite(means), means if self.larger_is_better else -means, -np.inf)
        at = int(np.argmax(signed))
        test = {name: np.array(values, float)[at] for name, values in runs["test"].items()}
        return Found(self.rates[at], {name: values[at] for name, values in online.items()}, test)

    def _table(self, found: Mapping[str, Found], seeds: int) -> list[str]:
        some = next(iter(found.values()))
        wide = max(len(name) for name in found) + 2
        heads = [f"{score}, {part}" for score in some.online for part in ("whole run", "last tenth")] + list(some.test)
        lines = [f"{'method':{wide}}{'rate':>8}" + "".join(f"{head:>26}" for head in heads) + f"{'the thesis':>14}"]
        for name, of in found.items():
            values = [values for scores in of.online.values() for values in (scores.mean(1), _closing(scores))]
            row = "".join(f"{mean_and_error(value, 3):>26}" for value in [*values, *of.test.values()])
            paper = f"{self.paper[name]:14.3f}" if name in self.paper else f"{'–':>14}"
            lines.append(f"{name:{wide}}{of.rate:>8g}{row}{paper}")
        levels = "; ".join(f"{name}: {level:.3f}" for name, level in self.levels.items())
        unit = self.unit[0].upper() + self.unit[1:]
        lines += ["", f"{unit}, mean ± standard error over {counted(seeds, 'seed')}. What is not a test was predicted"]
        lines += ["before it was learned."]
        return [*lines, f"To compare with: {levels}."]

    def verdict(self, found: Mapping[str, Found]) -> Verdict:
        """Whether FPP is ahead of truncation at the same T just where the thesis says so, by two standard errors.

        It is not decided if a rate that counts is the least or the greatest.
        """
        names = [name for T in self.horizons for name in (f"FPP({T})", f"TBPTT({T})")]
        closing = {
            score: {name: _closing(found[name].online[score]) for name in names} for score in found[names[0]].online
        }
        if lost := [name for name in names if not np.isfinite(closing[next(iter(closing))][name]).all()]:
            return Verdict("not decided", f"seeds diverged at every rate: {', '.join(lost)}.")
        words, all_words = [], []
        for score, ends in closing.items():
            word, places = self._judged(ends)
            all_words.append(word)
            words.append(f"{score}, over the last tenth: {'; '.join(places)}")
        word = all_words[0] if len(set(all_words)) == 1 else "agrees in part"
        extremes = {min(self.rates), max(self.rates)} if len(self.rates) > 1 else set()
        edges = [f"{name} at {found[name].rate:g}" for name in names if found[name].rate in extremes]
        if edges:
            word = "not decided"
            words.insert(0, f"the best rate is at an edge of the search for {', '.join(edges)}")
        return Verdict(word, f"{'. '.join(words)}. {self._power(closing)}")

    def _judged(self, ends: Mapping[str, np.ndarray]) -> tuple[str, list[str]]:
        sign, agreed, words = -1 if self.larger_is_better else 1, [], []
        for T in self.horizons:
            ours, theirs = f"FPP({T})", f"TBPTT({T})"
            is_ahead = below(sign * ends[ours], sign * ends[theirs])
            is_behind = below(sign * ends[theirs], sign * ends[ours])
            agreed.append(is_ahead if sign * self.paper[ours] < sign * self.paper[theirs] else is_behind)
            shown = f"{mean_and_error(ends[ours], 2)} and {mean_and_error(ends[theirs], 2)}"
            place = "clearly ahead" if is_ahead else "clearly behind" if is_behind else "about as good"
            words.append(f"at T = {T} FPP is {place}, {shown}")
        return "agrees" if all(agreed) else "agrees in part" if any(agreed) else "disagrees", words

    def _power(self, closing: Mapping[str, Mapping[str, np.ndarray]]) -> str:
        """What the rule says of the thesis' numbers, with the spread of these seeds."""
        rng, found = np.random.default_rng(0), []
        for score, ends in closing.items():
            drawn = [
                {n: rng.normal(self.paper[n], v.std(ddof=1) if v.size > 1 else 0.0, v.size) for n, v in ends.items()}
                for _ in range(DRAWS)
            ]
            share = np.mean([self._judged(each)[0] == "agrees" for each in drawn])
            found.append(f"with the spread of {score} agrees in {100 * share:.0f} %")
        return f"Power of this rule: of the thesis' own numbers it says, {', '.join(found)} of {DRAWS} draws."


def _in_stretches(scores: Mapping[str, np.ndarray]) -> tuple[int, Mapping[str, np.ndarray]]:
    """How many blocks a stretch has, so that there are at most `DRAWN` whole ones, and the mean score of each."""
    blocks = next(iter(scores.values())).shape[1]
    every = -(-blocks // DRAWN)
    whole = blocks // every * every
    return every, {name: rows[:, :whole].reshape(len(rows), -1, every).mean(2) for name, rows in scores.items()}


def _closing(scores: np.ndarray) -> np.ndarray:
    """The mean of each seed over the last tenth."""
    return scores[:, -max(1, scores.shape[1] // 10) :].mean(1)
