"""Ready-made tasks of predicting symbols, to compare methods on. Each has its entropy rate or compression rates."""

import io
import lzma
import os
from pathlib import Path

import jax.random as jr
import numpy as np
from scipy.special import entr

from ..support.errors import UserError
from ..texts.text import Text, blocks, embedded_text, survey
from .anbn import anbn, independent_counts_rate
from .automaton import Automaton
from .brackets import distant_brackets
from .compressors import ctw_rate, gzip_rate
from .cues import MemoryChain
from .music import synthetic_music
from .symbols import Cycle, SymbolTask
from .worlds import LAGS, CycleWorld, StochasticSymbols

COMPRESSED = 100_000  # symbols given to the compressors if the source is endless
CTW_DEPTH = 8
ORDER_0 = "order-0 entropy"
SHAKESPEARE = Path("shakespeare") / "100-0.txt.xz"


def anbn_task(k: int = 1, l: int = 32) -> SymbolTask:
    """aⁿbⁿ with n uniform in [k, l]: count, then remember the count. Raises `ValueError` unless 1 ≤ k ≤ l.

    >>> anbn_task(1, 32).levels["independent counts"]
    0.2857142857142857
    """
    source = anbn(k, l)
    levels = {"entropy rate": source.entropy_rate, "independent counts": independent_counts_rate(k, l)}
    levels |= _compressed(source)
    return SymbolTask(f"aⁿbⁿ, n in [{k}, {l}]", source.alphabet, source, levels)


def brackets_task(s: int = 1, k: int = 5, a: int = 10) -> SymbolTask:
    """Distant brackets: repeat s letters of an alphabet of a letters after k others. Raises `ValueError` as
    `onward.tasks.distant_brackets` does.
    """
    source = distant_brackets(s, k, a)
    levels = {"entropy rate": source.entropy_rate} | _compressed(source)
    return SymbolTask(f"distant brackets, s = {s}, k = {k}, a = {a}", source.alphabet, source, levels)


def music_task(length: int | None = None, *, passes: int = 1) -> SymbolTask:
    """Synthetic music: endless, or a piece of `length` symbols that is repeated, as in the NoBackTrack paper.

    A method that reads the piece `passes` times is compared with context tree weighting over as many passes too.
    """
    source = synthetic_music()
    levels = {"entropy rate of the music": source.entropy_rate}
    if length is None:
        return SymbolTask("synthetic music", source.alphabet, source, levels | _compressed(source))
    piece = _sampled(source, length)
    levels |= _levels(piece, source.alphabet)
    if passes > 1:
        again = ctw_rate(np.tile(piece, passes), len(source.alphabet), CTW_DEPTH)
        levels[f"context tree weighting, depth {CTW_DEPTH}, of {passes} passes"] = again
    return SymbolTask(f"synthetic music, {length:,} characters in a cycle", source.alphabet, Cycle(piece), levels)


def cycle_world_task(period: int = 6) -> SymbolTask:
    """CycleWorld of the FPP thesis: a 1 at every p-th step, else 0. Raises `ValueError` for a period below 2.

    >>> task = cycle_world_task(6)
    >>> task.alphabet, round(task.levels["order-0 entropy"], 3)
    ('01', 0.65)
    """
    world = CycleWorld(period)
    observed = np.asarray(world.sample(world.start(key=jr.key(0)), world.period)[1][0][:, 0], np.int32)
    order_0 = float(entr(np.bincount(observed) / world.period).sum() / np.log(2))
    return SymbolTask(f"{world.period}-CycleWorld", "01", Cycle(observed), {"entropy rate": 0.0, ORDER_0: order_0})


def stochastic_world_task() -> SymbolTask:
    """StochasticWorld of the FPP thesis: predict a coin that depends on the coins read 5 and 12 steps back.

    Its levels are the smallest possible losses, in bits, of a predictor that knows both, one or none of the
    dependencies. The thesis gives them in nats.

        >>> {name: round(bits, 4) for name, bits in stochastic_world_task().levels.items()}
        {'both dependencies (0.4545 nats)': 0.6556, 't−5 alone (0.5192 nats)': 0.749,
         't−12 alone (0.6277 nats)': 0.9056, 'no dependency (0.6616 nats)': 0.9544}
    """
    examples = StochasticSymbols()
    names = {LAGS: "both dependencies", LAGS[:1]: "t−5 alone", LAGS[1:]: "t−12 alone", (): "no dependency"}
    nats = {name: examples.world.cross_entropy(*known) for known, name in names.items()}
    levels = {f"{name} ({least:.4f} nats)": least / float(np.log(2)) for name, least in nats.items()}
    return SymbolTask("StochasticWorld", "01", examples, levels)


def cue_task(wait: int = 64) -> SymbolTask:
    """A delayed cue: one of two letters, `wait` letters of distraction, and a question for the first letter. Raises
    `ValueError` as `MemoryChain` does.

    >>> cue_task(62).levels
    {'cue forgotten': 0.015625, 'best': 0.0}
    """
    return _chain(f"delayed cue, L = {wait}", "cue forgotten", MemoryChain(wait))


def memory_chain_task(wait: int = 64, cues: int = 3) -> SymbolTask:
    """A memory chain: `cues` letters, `wait` letters of distraction, and a question for one of the first letters.
    Raises `ValueError` as `MemoryChain` does.

    >>> memory_chain_task(60, cues=3).levels
    {'cues forgotten': 0.015625, 'best': 0.0}
    """
    return _chain(f"memory chain, L = {wait}, {cues} cues", "cues forgotten", MemoryChain(wait, cues))


def _chain(name: str, forgotten: str, chain: MemoryChain) -> SymbolTask:
    return SymbolTask(name, chain.alphabet, chain, {forgotten: chain.chance, "best": chain.best_loss})


def text_task(text: Text, *, characters: int | None = None) -> SymbolTask:
    """The characters of a text, read once from start to end, as compressors read it.

    `characters`: how many characters a learner will read. The reference levels are then those of the first `characters`
    characters; by default they are those of the whole text. Raises `UserError` as `survey` does.

        >>> import io
        >>> task = text_task(Text("letters", lambda: io.BytesIO(b"abababab")), characters=1000)
        >>> task.length, task.levels["order-0 entropy"]
        (8, 1.0)
    """
    found = survey(text, limit=None if characters is None else max(2, characters))
    symbols = np.concatenate(list(blocks(text, found.alphabet, size=1 << 16)))
    levels = {ORDER_0: found.entropy, "gzip -9": found.gzip}
    read = symbols[: found.characters]
    levels[f"context tree weighting, depth {CTW_DEPTH}"] = ctw_rate(read, len(found.alphabet), CTW_DEPTH)
    if len(read) < len(symbols):
        levels = {f"{name}, of the first {len(read):,}": level for name, level in levels.items()}
    return SymbolTask(text.name, found.alphabet, Cycle(symbols), levels, length=len(symbols))


def shakespeare() -> Text:
    """Shakespeare's complete works from the folder that `ONWARD_DATA` names, or else the excerpt in the package."""
    folder = os.environ.get("ONWARD_DATA")
    if not folder:
        return embedded_text()
    path = Path(folder) / SHAKESPEARE
    try:
        text = lzma.decompress(path.read_bytes())
    except (OSError, lzma.LZMAError) as error:
        reason = getattr(error, "strerror", None) or "it is damaged"
        raise UserError(
            f"{path} cannot be read ({reason}); put the text there, or unset ONWARD_DATA for the package's excerpt."
        ) from None
    return Text("Shakespeare's complete works", lambda: io.BytesIO(text))


def _compressed(source: Automaton) -> dict[str, float]:
    levels = _levels(_sampled(source, COMPRESSED), source.alphabet)
    return {f"{name}, of {COMPRESSED:,}": level for name, level in levels.items()}


def _sampled(source: Automaton, length: int) -> np.ndarray:
    return np.asarray(source.sample(source.start(key=jr.key(0)), length)[1])


def _levels(symbols: np.ndarray, alphabet: str) -> dict[str, float]:
    frequencies = np.bincount(symbols) / len(symbols)
    return {
        ORDER_0: float(entr(frequencies).sum() / np.log(2)),
        "gzip -9": gzip_rate(symbols, alphabet),
        f"context tree weighting, depth {CTW_DEPTH}": ctw_rate(symbols, len(alphabet), CTW_DEPTH),
    }
