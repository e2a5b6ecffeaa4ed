"""The options of `onward train`, each with its check."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from .methods import CELLS, DEFAULT_METHOD, METHODS
from .options import one_of, option, positive, whole


@dataclass(frozen=True)
class TrainOptions:
    """Learn a text, character by character, in one pass and in constant memory.

    Each character is predicted before it is learned, so the bits per character are those of a compressor that learns as
    it goes. Ctrl-C saves and stops; --resume goes on to the same numbers as if nothing had happened.
    """

    file: Annotated[str | None, *option("FILE", "the Shakespeare that comes with onward", str, positional=True)] = None
    """A UTF-8 text."""
    method: Annotated[str | None, *option("NAME", DEFAULT_METHOD, one_of("method", tuple(METHODS)))] = None
    """How gradients are computed: tbptt (windows of backpropagation), sliding (backward at every step), artbp (random
    cuts), rtrl (forward, exact), snap (forward, each unit's own weights), uoro or nobacktrack (forward, unbiased)."""
    cell: Annotated[str | None, *option("NAME", "the method's", one_of("cell", CELLS))] = None
    """The recurrent cell: vanilla, leaky, lstm, gru or antisymmetric."""
    hidden_size: Annotated[int | None, *option("N", "the method's", whole("--hidden-size", 1, most=10**6))] = None
    """Units of the cell."""
    rate: Annotated[float | None, *option("R", "the method's", positive("--rate"))] = None
    """Step size of the optimiser."""
    window: Annotated[int | None, *option("N", "the method's", whole("--window", 1, most=10**6))] = None
    """Characters that tbptt, artbp and sliding look back; for the others, characters between two updates."""
    rank: Annotated[int | None, *option("N", "the method's", whole("--rank", 1, most=10**6))] = None
    """Blocks of units of nobacktrack, by default one for each unit; 1 is the rank-one form of its paper."""
    steps: Annotated[int | None, *option("N", "the whole text", whole("--steps", 2))] = None
    """Stop after so many characters."""
    seed: Annotated[int | None, *option("N", "0", whole("--seed", 0, most=2**32 - 1))] = None
    """Decides the initial weights and all else that is random."""
    run: Annotated[Path | None, *option("FOLDER", "a new one under runs/", Path)] = None
    """Where settings, metrics, checkpoints, picture and summary go."""
    resume: Annotated[Path | None, *option("FOLDER", "start afresh", Path)] = None
    """Go on with the run in this folder, with its settings."""
    alphabet: Annotated[Path | None, *option("FILE", "those of the text", Path)] = None
    """A UTF-8 file with all the characters there may be."""
    sample_length: Annotated[int | None, *option("N", "400", whole("--sample-length", 0))] = None
    """Characters for the network to write at the end."""
    prompt: Annotated[str | None, *option("TEXT", "a new line", str)] = None
    """What it writes on from."""
    checkpoint_every: Annotated[float, *option("SECONDS", "30", positive("--checkpoint-every", zero=True))] = 30.0
    """Seconds between two checkpoints."""
