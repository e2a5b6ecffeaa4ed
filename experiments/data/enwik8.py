"""enwik8: the first 10⁸ bytes of the English Wikipedia of 2006, of which the experiments read the first 10⁷."""

import numpy as np
from jaxtyping import UInt8

from .datasets import DataSet

ENWIK8 = DataSet(
    "enwik8",
    "enwik8",
    {"enwik8": "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"},
    "http://mattmahoney.net/dc/enwik8.zip",
)
READ = 10**7


def first_bytes(count: int = READ) -> UInt8[np.ndarray, " count"]:
    """The first bytes. Raises `UserError` if the data are missing or wrong."""
    return np.frombuffer(ENWIK8.read("enwik8"), np.uint8)[:count]
