"""Handwritten digits: MNIST's training set, ten of it to remember, and how these are corrupted to be recalled."""

import gzip
import hashlib
import os
from pathlib import Path

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt8

from ..errors import UserError

SIDE = 28
FILES = {  # of MNIST's training set, with the SHA-256 of each
    "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
}
HEADERS = 16, 8  # bytes before the first image, and before the first label


def training_digits() -> tuple[UInt8[np.ndarray, "60000 pixels"], UInt8[np.ndarray, " 60000"]]:
    """MNIST's training set: images of 28 × 28 pixels between 0, white paper, and 255, ink; and their labels.

    The files are looked for in the folder `mnist` of the one that the environment variable `ONWARD_DATA` names. Raises
    `UserError` where that is not set, or a file cannot be read or is another one than the canonical.
    """
    images, labels = (
        np.frombuffer(_verified(name, digest), np.uint8)[header:]
        for (name, digest), header in zip(FILES.items(), HEADERS, strict=True)
    )
    return images.reshape(-1, SIDE * SIDE), labels


def ten_digits() -> Bool[np.ndarray, "10 pixels"]:
    """The first 0 of MNIST's training set, its first 1, ..., its first 9: which pixels are not white paper.

    Raises `UserError` as `training_digits` does.
    """
    images, labels = training_digits()
    return np.stack([images[np.flatnonzero(labels == digit)[0]] > 0 for digit in range(10)])


def corrupt(image: Float[Array, " pixels"], part: float = 0.5, *, key: PRNGKeyArray) -> Float[Array, " pixels"]:
    """The image with a random `part` of its non-zero pixels, rounded down to a number of pixels, set to zero.

    Section 5.1 of Liao et al. 2018, *Reviving and Improving Recurrent Back-Propagation*. Raises `ValueError` for a part
    outside [0, 1].

        >>> import jax, jax.numpy as jnp
        >>> float(corrupt(jnp.array([0.0, 1.0, 1.0, 1.0, 1.0]), 0.5, key=jax.random.key(0)).sum())
        2.0
    """
    if not 0 <= part <= 1:
        raise ValueError(f"part must lie between 0 and 1, got {part!r}.")
    order = jnp.where(image != 0, jr.uniform(key, image.shape), 2.0)
    rank = jnp.argsort(jnp.argsort(order))
    gone = jnp.floor(part * jnp.sum(image != 0, dtype=image.dtype))
    return jnp.where(rank.astype(image.dtype) < gone, 0, image)


def _verified(name: str, digest: str) -> bytes:
    folder = os.environ.get("ONWARD_DATA")
    if not folder:
        raise UserError(f"ONWARD_DATA is not set; it must name the folder that holds mnist/{name}.")
    path = Path(folder) / "mnist" / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); put MNIST's file there, or let ONWARD_DATA name another folder."
        ) from None
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise UserError(
            f"{path} is not MNIST's file, its SHA-256 beginning with {found[:8]} where {digest[:8]} is right; "
            "fetch it anew."
        )
    return gzip.decompress(data)
