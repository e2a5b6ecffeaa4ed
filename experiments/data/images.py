"""Images to classify, read pixel by pixel or row by row: MNIST, permuted MNIST, and sequential CIFAR-10."""

import gzip
import hashlib
import math
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int32, UInt8

from .datasets import DataSet

MNIST = DataSet(
    "MNIST",
    "mnist",
    {
        "train-images-idx3-ubyte.gz": "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        "train-labels-idx1-ubyte.gz": "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        "t10k-images-idx3-ubyte.gz": "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        "t10k-labels-idx1-ubyte.gz": "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
    },
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
CIFAR10 = DataSet(
    "CIFAR-10",
    "cifar10",
    {
        "data_batch_1.bin": "cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
        "data_batch_2.bin": "a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
        "data_batch_3.bin": "bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
        "data_batch_4.bin": "014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
        "data_batch_5.bin": "755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
        "test_batch.bin": "8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
    },
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
HEADERS = 16, 8  # bytes before MNIST's first image, and before its first label
SIDE = 28
COARSE = 4  # pixels along each side of the square that one coarse pixel is the mean of
RECORD = 1 + 3 * 32 * 32  # bytes of a CIFAR-10 image: the label, then red, green and blue

Pixels = UInt8[np.ndarray, "_images steps channels"]
Labels = Int32[np.ndarray, " _images"]


@dataclass(frozen=True)
class ImageTask:
    """Images as sequences of pixels, row by row, with the class of each.

    * `name`: what to call it;
    * `xs`, `ys`, `test_xs`, `test_ys`: pixels as bytes, classes from 0;
    * `mean`, `deviation`: of the training images, for each channel, on a scale from 0 to 1.
    """

    name: str
    xs: Pixels
    ys: Labels
    test_xs: Pixels
    test_ys: Labels
    mean: tuple[float, ...]
    deviation: tuple[float, ...]

    @property
    def classes(self) -> int:
        """The number of classes."""
        return int(self.ys.max()) + 1

    @property
    def naive_error(self) -> float:
        """The fraction of test images outside the class that is most frequent in training.

        The best possible error is 0, as long as no two images of different classes are the same.
        """
        return float(np.mean(self.test_ys != np.argmax(np.bincount(self.ys))))

    def normalised(self, pixels: UInt8[Array, "..."]) -> Float[Array, "..."]:
        """Bytes as numbers with mean 0 and deviation 1 over the training images. This is what a network reads."""
        mean, deviation = (jnp.asarray(numbers, float) for numbers in (self.mean, self.deviation))
        return (pixels.astype(float) / 255 - mean) / deviation


def mnist_digits(part: str) -> tuple[UInt8[np.ndarray, "_images pixels"], Labels]:
    """The images and labels of MNIST's `train` or `t10k` files, in order. Raises `UserError` as `DataSet` does."""
    names = f"{part}-images-idx3-ubyte.gz", f"{part}-labels-idx1-ubyte.gz"
    images, labels = (
        np.frombuffer(gzip.decompress(MNIST.read(name)), np.uint8)[header:]
        for name, header in zip(names, HEADERS, strict=True)
    )
    return images.reshape(-1, SIDE * SIDE), labels.astype(np.int32)


def pixel_mnist() -> ImageTask:
    """MNIST, one pixel a step: 784 steps of one value. Raises `UserError` if the data are missing or wrong."""
    return _mnist("pixel MNIST", np.arange(SIDE * SIDE)[:, None])


def row_mnist() -> ImageTask:
    """MNIST, one row of 28 pixels a step: 28 steps. Raises `UserError` as `pixel_mnist` does."""
    return _mnist("row MNIST", np.arange(SIDE * SIDE).reshape(SIDE, SIDE))


def permuted_mnist() -> ImageTask:
    """MNIST, one pixel a step, in the order of `permutation(784)`. Raises `UserError` as `pixel_mnist` does."""
    return permuted(pixel_mnist())


def sequential_cifar10() -> ImageTask:
    """CIFAR-10, one pixel a step: 1024 steps of red, green and blue. Raises `UserError` as `pixel_mnist` does."""
    *train, test = [np.frombuffer(CIFAR10.read(name), np.uint8).reshape(-1, RECORD) for name in CIFAR10.files]
    (xs, ys), (test_xs, test_ys) = (
        (np.moveaxis(records[:, 1:].reshape(-1, 3, 1024), 1, 2), records[:, 0].astype(np.int32))
        for records in (np.concatenate(train), test)
    )
    mean, deviation = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    return ImageTask("sequential CIFAR-10", xs, ys, test_xs, test_ys, mean, deviation)


def coarse_mnist() -> ImageTask:
    """MNIST at 7 × 7, one pixel a step: 49 steps. Raises `UserError` as `pixel_mnist` does."""
    return coarse(pixel_mnist())


def coarse_permuted_mnist() -> ImageTask:
    """MNIST at 7 × 7, in the order of `permutation(49)`. Raises `UserError` as `pixel_mnist` does."""
    return permuted(coarse_mnist())


def coarse_cifar10() -> ImageTask:
    """CIFAR-10 at 8 × 8, one pixel a step: 64 steps. Raises `UserError` as `pixel_mnist` does."""
    return coarse(sequential_cifar10())


def coarse(task: ImageTask) -> ImageTask:
    """The images at a quarter of the resolution: a pixel is the mean of 4 × 4. Pixels must be in the order of rows."""
    xs, test_xs = _means_of_squares(task.xs), _means_of_squares(task.test_xs)
    side = math.isqrt(xs.shape[1])
    mean, deviation = (tuple((moment(xs, (0, 1)) / 255).tolist()) for moment in (np.mean, np.std))
    return replace(task, name=f"{task.name}, {side} × {side}", xs=xs, test_xs=test_xs, mean=mean, deviation=deviation)


def permuted(task: ImageTask) -> ImageTask:
    """The images with their n pixels in the order of `permutation(n)`."""
    order = permutation(task.xs.shape[1])
    name = task.name.replace("pixel", "permuted")
    return replace(task, name=name, xs=task.xs[:, order], test_xs=task.test_xs[:, order])


def _means_of_squares(
    pixels: UInt8[np.ndarray, "images steps channels"],
) -> UInt8[np.ndarray, "images squares channels"]:
    images, steps, channels = pixels.shape
    side = math.isqrt(steps) // COARSE
    squares = pixels.reshape(images, side, COARSE, side, COARSE, channels)
    return np.rint(squares.mean((2, 4))).astype(np.uint8).reshape(images, -1, channels)


def permutation(length: int) -> np.ndarray:
    """The numbers below `length` in the order of the SHA-256 of their decimal digits: fixed, whatever the software.

    >>> permutation(5).tolist()
    [4, 3, 0, 1, 2]
    """
    return np.array(sorted(range(length), key=lambda i: hashlib.sha256(str(i).encode()).digest()))


def _mnist(name, order) -> ImageTask:
    (xs, ys), (test_xs, test_ys) = mnist_digits("train"), mnist_digits("t10k")
    return ImageTask(name, xs[:, order], ys, test_xs[:, order], test_ys, (0.1307,), (0.3081,))
