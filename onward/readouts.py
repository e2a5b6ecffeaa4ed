"""Readouts: of normalised features, one tied to the embedding, and a mixture of softmaxes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray

from .cells import AbstractCell, EmbeddedCell
from .cells.cpu_tuning import rows_of_product
from .support.arguments import whole
from .support.trees import described


class NormalisedReadout(eqx.Module):
    """A linear map of the normalised output: `W (o − mean(o)) / sqrt(var(o) + 1e-5) + b`.

    Use it above a stack of `onward.cells.Block`, whose skip connections add up.

    **Arguments:** `input_size`, the size of the cell's output o, at least 2; `output_size`, the size of the prediction,
    at least 1; `key`; `dtype`. Raises `ValueError` for a size out of range.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> onward.readouts.NormalisedReadout(4, 2, key=jr.key(0))(jnp.arange(4.0)).shape
        (2,)
    """

    norm: eqx.nn.LayerNorm
    linear: eqx.nn.Linear

    def __init__(self, input_size: int, output_size: int, *, key: PRNGKeyArray, dtype=None):
        size = whole("input_size", input_size, 2)
        self.norm = eqx.nn.LayerNorm(size, use_weight=False, use_bias=False)
        self.linear = eqx.nn.Linear(size, whole("output_size", output_size), dtype=dtype, key=key)

    def __call__(self, output: Float[Array, " size"]) -> Float[Array, " predictions"]:
        return affine(self.linear, self.norm(output))


class TiedReadout(eqx.Module):
    """A readout that shares its weights with the embedding: `logits = E o + b`.

    `o` is the cell's output, `E` the `embedding` of the model's `onward.EmbeddedCell`, `[symbols, size]`, and b the
    bias. The gradient of `E` is the sum of both uses. Inan, Khosravi & Socher, *Tying word vectors and word
    classifiers*, 2017; Press & Wolf, *Using the output embedding to improve language models*, 2017.

    **Arguments:** `symbols`: the number of symbols, at least 1. Raises `ValueError` if it is lower. `onward.Model`
    raises it if the cell has no embedding, or one of another size.

        >>> import jax.numpy as jnp, jax.random as jr, onward
        >>> lstm = onward.LSTMCell(3, 3, key=jr.key(0))
        >>> cell = onward.EmbeddedCell(10, lstm, size=3, key=jr.key(1))
        >>> model = onward.Model(cell, onward.readouts.TiedReadout(10))
        >>> model.predict(cell(cell.init_hidden(), jnp.array(7))).shape
        (10,)
    """

    bias: Float[Array, " symbols"]

    def __init__(self, symbols: int, *, dtype=None):
        self.bias = jnp.zeros(whole("symbols", symbols), dtype or float)

    def __call__(self, output: Float[Array, "*many size"], embedding: Any) -> Float[Array, "*many symbols"]:
        (product,) = rows_of_product(embedding[None], output)
        return product + self.bias


class MixtureOfSoftmaxes(eqx.Module):
    """A mixture of softmaxes, whose log-probabilities may have a higher rank than the output has numbers:

        p(y | o) = Σ_k π_k softmax(D l_k)_y,    π = softmax(P o),    l_k = tanh(L_k o + c_k)

    The prediction is `log p`, for `onward.losses.softmax_cross_entropy`, to which log-probabilities are logits. Yang,
    Dai, Salakhutdinov & Cohen, *Breaking the softmax bottleneck: a high-rank RNN language model*, ICLR 2018, section
    2.4.

    **Arguments:**

    - `input_size`: the size of the cell's output o.
    - `components`: K, the number of softmaxes, at least 1.
    - `size`: the size of each latent vector `l_k`.
    - `decoder`: D, from a latent vector to logits: an `eqx.nn.Linear(size, symbols)`, or a `TiedReadout(symbols)`.
    - `key`: the random key of P, L and c.

    Raises `ValueError` for sizes below 1, and for a decoder that is neither, or reads vectors of another size.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> decoder = eqx.nn.Linear(4, 10, key=jr.key(0))
        >>> readout = onward.readouts.MixtureOfSoftmaxes(3, 2, size=4, decoder=decoder, key=jr.key(1))
        >>> jnp.exp(readout(jnp.ones(3))).sum().round(4)
        Array(1., dtype=float32)
    """

    prior: eqx.nn.Linear
    latent: eqx.nn.Linear
    decoder: eqx.nn.Linear | TiedReadout
    components: int = eqx.field(static=True)
    size: int = eqx.field(static=True)

    def __init__(
        self,
        input_size: int,
        components: int,
        *,
        size: int,
        decoder: eqx.nn.Linear | TiedReadout,
        key: PRNGKeyArray,
        dtype=None,
    ):
        self.components, self.size = whole("components", components), whole("size", size)
        input_size, (prior, latent) = whole("input_size", input_size), jr.split(key)
        if not isinstance(decoder, eqx.nn.Linear | TiedReadout):
            raise ValueError(
                "decoder must be an eqx.nn.Linear or an onward.readouts.TiedReadout, got "
                f"{getattr(decoder, '__name__', type(decoder).__name__)}."
            )
        if isinstance(decoder, eqx.nn.Linear) and decoder.in_features != size:
            raise ValueError(f"decoder must read latent vectors of size {size}, it reads {decoder.in_features}.")
        self.prior = eqx.nn.Linear(input_size, self.components, use_bias=False, dtype=dtype, key=prior)
        self.latent = eqx.nn.Linear(input_size, self.components * self.size, dtype=dtype, key=latent)
        self.decoder = decoder

    def __call__(
        self,
        output: Float[Array, " inputs"],
        embedding: Float[Array, "symbols size"] | None = None,
        factors: Float[Array, " latents"] | None = None,
    ) -> Float[Array, " symbols"]:
        """`log p` for one output. `embedding` is for a tied decoder. The latent vectors, one after another, are
        multiplied by `factors`, such as a dropout mask.
        """
        latent = jnp.tanh(affine(self.latent, output))
        latent = latent if factors is None else latent * factors
        latent, decoder = latent.reshape(self.components, self.size), self.decoder
        logits = affine(decoder, latent) if isinstance(decoder, eqx.nn.Linear) else decoder(latent, embedding)
        of_each = jax.nn.log_softmax(logits) + jax.nn.log_softmax(affine(self.prior, output))[:, None]
        return jax.nn.logsumexp(of_each, axis=0)


def affine(linear: Any, x: Float[Array, "*many inputs"]) -> Float[Array, "*many outputs"]:
    """`W x + b` of an `eqx.nn.Linear`, for one vector or many.

    For many vectors this is one matrix product that XLA need not transpose: see `benchmarks/results/xla-on-cpu.md`,
    "Products and sums".
    """
    (product,) = rows_of_product(linear.weight[None], x)
    return product if linear.bias is None else product + linear.bias


def tied_part(readout: Any) -> TiedReadout | None:
    """The part of a readout that uses the embedding of the cell; `None` if there is none."""
    part = readout.decoder if isinstance(readout, MixtureOfSoftmaxes) else readout
    return part if isinstance(part, TiedReadout) else None


def check_fits(cell: AbstractCell, readout: Any) -> None:
    """Raises `ValueError` unless a readout of this module reads the output of the cell, and a tied one fits the
    embedding.
    """
    reads = None
    if isinstance(readout, NormalisedReadout):
        reads = readout.linear.in_features
    elif isinstance(readout, MixtureOfSoftmaxes):
        reads = readout.latent.in_features
    if reads is not None:
        output = jax.eval_shape(lambda: cell.output(cell.init_hidden()))
        if [leaf.shape for leaf in jax.tree.leaves(output)] != [(reads,)]:
            raise ValueError(
                f"the readout must read the output of the cell, {described(output)}; this {type(readout).__name__} has "
                f"the input_size {reads}."
            )
    tied = tied_part(readout)
    if tied is None:
        return
    if not isinstance(cell, EmbeddedCell):
        raise ValueError(f"a tied readout uses the embedding of an onward.EmbeddedCell, got {type(cell).__name__}.")
    symbols, size = cell.embedding.shape
    if isinstance(readout, MixtureOfSoftmaxes):
        reads = readout.size
    else:
        reads = jax.eval_shape(lambda: cell.output(cell.init_hidden())).shape[-1]
    if reads != size:
        raise ValueError(
            f"a tied readout needs vectors of the embedding's size {size}, it reads {reads}: make the last layer, or "
            "the mixture's size, as wide as the embedding."
        )
    if len(tied.bias) != symbols:
        raise ValueError(f"a tied readout needs as many symbols as the embedding, {symbols}, got {len(tied.bias)}.")
