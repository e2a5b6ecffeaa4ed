"""The result of a finished run, for people and for programs."""

import resource
import sys

import msgspec

from ..support.tables import labelled


class Summary(msgspec.Struct, frozen=True):
    """The result of a pass over a text. Bits are per character, seconds exclude compilation, memory is in bytes.

    * `closing_bits`: bits per character over the last tenth of the pass;
    * `entropy`, `gzip`: the order-0 entropy of the characters read, and their size after `gzip -9`;
    * `peak_memory`: the most memory that the process that ended the run has held, including Python, JAX and the
      compiler.
    """

    text: str
    characters: int
    alphabet: int
    bits: float
    closing_bits: float
    entropy: float
    gzip: float
    method: str
    parameters: int
    seed: int
    seconds: float
    compile_seconds: float
    peak_memory: int
    versions: dict[str, str]

    @property
    def speed(self) -> float:
        """Characters learned per second, without compilation."""
        return self.characters / self.seconds if self.seconds else 0.0

    def table(self, folder: str) -> str:
        """The summary as a screen of text."""
        rows = [
            ("bits per character", f"{self.bits:.3f}   over the pass, each character predicted before it was learned"),
            ("", f"{self.closing_bits:.3f}   over the last tenth of the pass"),
            ("to compare", f"{self.gzip:.3f}   gzip -9 of the same characters"),
            ("", f"{self.entropy:.3f}   order-0 entropy: knowing only how frequent each character is"),
            (
                "speed",
                f"{self.speed:,.0f} characters/s: {self.seconds:.1f} s, and {self.compile_seconds:.1f} s compiling",
            ),
            ("peak memory", f"{self.peak_memory / 1e6:,.0f} MB, Python and the compiler included"),
            ("method", self.method),
            ("model", f"{self.parameters:,} parameters, an alphabet of {self.alphabet:,} characters, seed {self.seed}"),
            ("run folder", f"{folder} (settings, metrics, checkpoints, curve.png, curve.svg, sample.txt)"),
        ]
        lines = [f"Read {self.characters:,} characters of {self.text}, once.", ""]
        return "\n".join([*lines, *labelled(rows)]) + "\n"


def peak_memory() -> int:
    """The most memory that this process has held, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
