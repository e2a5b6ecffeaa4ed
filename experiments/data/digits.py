"""Ten handwritten digits to remember, one of each, and how they are corrupted before they are recalled."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from .images import mnist_digits


def ten_digits() -> Bool[np.ndarray, "10 pixels"]:
    """The first 0 of MNIST's training set, its first 1, and so on to 9. A pixel is true unless it is white paper.

    Raises `UserError` if MNIST is missing or wrong.
    """
    images, labels = mnist_digits("train")
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
