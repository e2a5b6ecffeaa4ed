"""What we promised of speed, against what this run measured."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks import deq_layer, online_cells, sequences
from benchmarks.report import Table
from benchmarks.timing import Samples


class Target(NamedTuple):
    """A ratio whose median may be at most `limit` (or at least it), and the better one we aim at."""

    promise: str
    ratio: Samples
    limit: float
    aim: float | None = None
    at_least: bool = False

    @property
    def kept(self) -> bool:
        return self.ratio.median >= self.limit if self.at_least else self.ratio.median <= self.limit

    @property
    def wanted(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}" + (f" (aim {self.aim:g})" if self.aim else "")


def table(tables: list[Table]) -> Table:
    """The targets that this run measured, kept or not."""
    found = list(targets(tables))
    rows = [(t.promise, str(t.ratio), t.wanted, "kept" if t.kept else "MISSED") for t in found]
    figures = [{"promise": t.promise, "wanted": t.wanted, "ratio": t.ratio.values, "kept": t.kept} for t in found]
    return Table("Promises", ("", "measured", "promised", ""), rows, (), figures)


def targets(tables: list[Table]) -> Iterator[Target]:
    for units, limit, aim in ((20, 5, 2.5), (128, 8, 5)):
        ours = _find(tables, "Learning steps", "NoBackTrack, rank 1", units)
        if ours:
            yield Target(f"NoBackTrack, rank 1: ÷ forward at n = {units}", Samples(tuple(ours["ratio"])), limit, aim)
    ours, plain = (_find(tables, "Learning steps", n, 20) for n in ("RTRL", "RTRL in plain JAX (jacrev)"))
    if ours and plain:
        yield Target("RTRL: ÷ plain jacrev at n = 20", _slower(ours, plain), 1)
    kalman, euclidean = (_find(tables, "Learning steps", f"{n}NoBackTrack, rank 1", 20) for n in ("Kalman ", ""))
    if kalman and euclidean:
        yield Target("Kalman NoBackTrack, rank 1: ÷ NoBackTrack, rank 1, at n = 20", _slower(kalman, euclidean), 3)
    for units in (20, 128):
        ours = _find(tables, "Peers", "NoBackTrack, rank 1", units)
        # The faster of those that update about as often; windows of 16 are shown, but are another task.
        theirs = [_find(tables, "Peers", f"BrainTrace UORO, window {window}", units) for window in (1, 2)]
        if ours and any(theirs):
            promise = f"BrainTrace's UORO (window 1 or 2, the faster) ÷ NoBackTrack, rank 1, at n = {units}"
            ratios = [_slower(t, ours) for t in theirs if t]
            yield Target(promise, min(ratios, key=lambda ratio: ratio.median), 4, at_least=True)
    for t in tables:
        for row in t.figures if t.title.startswith(online_cells.TITLE) else ():
            if row["method"].startswith("BrainTrace"):
                promise = f"{row['method']} ÷ ours at n = {row['units']}"
                yield Target(promise, Samples(tuple(row["ratio"])), 3, at_least=True)
    for units in (20, 128):
        layer = _row(tables, "A layer at rest", method="NeumannRBP(20)", units=units)
        if layer:
            yield Target(
                f"A layer at rest: ÷ ImplicitAdjoint with normal CG at n = {units}", Samples(layer["ratio"]), 1
            )
    peers = [_row(tables, deq_layer.TITLE, method=name) for name in (deq_layer.OPTIMISTIX, deq_layer.TORCHDEQ)]
    if all(peers):
        # Each peer's ratio is to our layer, timed just before it.
        faster = min((Samples(tuple(peer["ratio"])) for peer in peers if peer), key=lambda ratio: ratio.median)
        promise = "A DEQ layer, batch 64, n = 128: the faster of Optimistix and TorchDEQ ÷ ours"
        yield Target(promise, faster, 1, at_least=True)
    meta = _row(tables, "A meta-gradient", method="Neumann-RBP, K = 50", steps=1000)
    if meta:
        promise = "Full BPTT ÷ Neumann-RBP (K = 50), 1000 training steps"
        yield Target(f"{promise}: time", Samples(tuple(meta["bptt_time_ratio"])), 3, 6, at_least=True)
        yield Target(f"{promise}: memory", Samples((meta["bptt_memory_ratio"],)), 20, 50, at_least=True)
    for t in tables:
        peaks = {(r["method"], r["steps"]): [run["peak"] for run in r["runs"]] for r in t.figures if "runs" in r}
        if t.title == sequences.MEMORY:
            lengths = sorted({steps for _, steps in peaks})
            least, most = (peaks[sequences.FPTT, steps] for steps in (lengths[0], lengths[-1]))
            growth = Samples(tuple(b / a for a, b in zip(least, most, strict=True)))
            yield Target(f"{sequences.FPTT}: peak memory at T = {lengths[-1]} ÷ at {lengths[0]}", growth, 1.02)
        for figures in t.figures if t.title == sequences.TIMES else ():
            promise = f"FPTT, add T = 200, LSTM-128, batch 128, {figures['cores']} cores: {figures['method']}"
            if figures["method"] in (sequences.ON_CORES, sequences.ON_DEVICES):
                yield Target(f"{promise}, ms", Samples(tuple(figures["ms"])), 110, 60)
            limit = {sequences.BY_EIGEN: 0.9, sequences.ON_DEVICES: 0.8}.get(figures["method"])
            peers = [r for r in t.figures if r["method"].startswith("torch") and r["cores"] == figures["cores"]]
            for peer in peers if limit else ():
                ratios = Samples(tuple(a / b for a, b in zip(figures["ms"], peer["ms"], strict=True)))
                yield Target(f"{promise} ÷ {peer['method']}", ratios, limit)


def _slower(one: dict, other: dict) -> Samples:
    """How many times as long one takes as the other, in each of the rounds that both ran in."""
    return Samples(tuple(a / b for a, b in zip(one["us"], other["us"], strict=True)))


def _find(tables: list[Table], title: str, method: str, units: int) -> dict | None:
    """The scan's figures of a method on one stream of the vanilla cell."""
    row = _row(tables, title, method=method, units=units, batch=1, cell="vanilla")
    return row and row.get("scan")


def _row(tables: list[Table], title: str, **wanted) -> dict | None:
    """The figures of the first row, in a table whose title begins so, that has these."""
    for t in tables:
        for figures in t.figures if t.title.startswith(title) else ():
            if all(figures.get(k) == v for k, v in wanted.items()):
                return figures
    return None
