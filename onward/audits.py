"""The audit: an estimator's gradient on a stretch of a stream, against the exact gradient."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from ._checks import check_model, check_stream
from .cells import AbstractAffineGatedCell
from .cells.composite import is_layer
from .cells.initial_state import learns_initial_state
from .estimators import BPTT, AbstractEstimator
from .model import Model
from .support.arguments import whole
from .support.freezing import freeze, learnable, thaw


class AuditRow(NamedTuple):
    """One block of parameters; every number is relative to the exact gradient g of that block.

    * `block`: its name, `size`: how many numbers it holds;
    * `cosine`: the mean cosine between an estimate and g;
    * `norm_ratio`: the mean of ‖estimate‖/‖g‖;
    * `bias`: ‖mean estimate − g‖/‖g‖;
    * `noise`: what `bias` would be, on average, if the estimator were unbiased: sqrt(variance / samples);
    * `variance`: the mean of ‖estimate − mean estimate‖²/‖g‖², without bias.
    """

    block: str
    size: int
    cosine: float
    norm_ratio: float
    bias: float
    noise: float
    variance: float


class Audit(NamedTuple):
    """The rows of an audit, the whole model and its layers first, and the number of random keys averaged (1 if nothing
    is random). It prints as a table.
    """

    rows: tuple[AuditRow, ...]
    samples: int

    def __str__(self) -> str:
        width = max(len(row.block) for row in self.rows)
        lines = [f"{'block':<{width}}     size   cosine  norm ratio      bias (noise)  variance"]
        lines += [
            f"{r.block:<{width}}  {r.size:>7}  {r.cosine:>7.4f}  {r.norm_ratio:>10.4g}  "
            f"{r.bias:>8.2g} ({r.noise:.2g})  {r.variance:>8.3g}"
            for r in self.rows
        ]
        return "\n".join(lines)


def audit(
    estimator: AbstractEstimator,
    model: Model,
    loss: Callable,
    xs: PyTree,
    ys: PyTree,
    *,
    key: PRNGKeyArray,
    samples: int = 64,
    chunk: int = 1,
    reset: Bool[Array, " steps"] | None = None,
    weight: Float[Array, " steps"] | None = None,
    filter_spec: PyTree = eqx.is_inexact_array,
) -> Audit:
    """Compare an estimator's gradient over a stretch of one stream with the exact one, at fixed parameters.

    The exact gradient is that of the stretch's summed loss, by backpropagation through all of it, from the cell's
    initial state. The estimator goes through it chunk by chunk and its gradients are summed; a random one does so under
    `samples` keys. The first row is the whole model; then come the layers of a deep cell, and then every block of
    parameters. Blocks whose exact gradient is zero have no row of their own. The measured bias of an unbiased estimator
    is about as large as `noise`; that of a biased one is larger. A smaller variance is better.

    **Arguments:** `xs`, `ys`, `reset`, `weight` as in `onward.Learner.run`, for one stream; `samples`, at least 2;
    `chunk`, the number of steps in one call of the estimator, like a learner's chunk (for truncated backpropagation it
    is the window); `filter_spec`, which arrays are trained, as in `onward.Learner.init`: the others have no block.

    Raises `ValueError` if `samples` or `chunk` is too small, or the exact gradient is zero or not finite.

        >>> import equinox as eqx, jax.numpy as jnp, jax.random as jr, onward
        >>> cell = onward.VanillaCell(3, 4, key=jr.key(0))
        >>> model = onward.Model(cell, eqx.nn.Linear(4, 2, key=jr.key(1)))
        >>> xs, ys = jr.normal(jr.key(2), (20, 3)), jr.randint(jr.key(3), (20,), 0, 2)
        >>> loss = onward.losses.softmax_cross_entropy
        >>> exact = onward.audit(onward.RTRL(), model, loss, xs, ys, key=jr.key(4))
        >>> round(exact.rows[0].cosine, 3)
        1.0
        >>> truncated = onward.audit(onward.BPTT(), model, loss, xs, ys, key=jr.key(4))
        >>> truncated.rows[0].bias > 0.01 > truncated.rows[0].variance
        True
    """
    model = freeze(model, filter_spec)
    check_model(model)
    samples, chunk = whole("samples", samples, 2), whole("chunk", chunk)
    hidden = thaw(model).cell.init_hidden()
    check_stream(thaw(model), hidden, loss, None, xs, ys, reset, weight)
    if learns_initial_state(model.cell):
        steps = jax.tree.leaves(xs)[0].shape[0]
        reset = (jnp.zeros(steps, bool) if reset is None else jnp.asarray(reset)).at[0].set(True)
    stream = (xs, ys, reset, weight)
    first = jax.tree.map(lambda leaf: leaf[0], (xs, ys))

    @eqx.filter_jit
    def exact(model):
        estimate = BPTT().grad(model, loss, hidden, None, xs, ys, reset=reset, weight=weight)
        return estimate.grads

    @eqx.filter_jit
    def estimates(model, keys):
        return jax.vmap(lambda key: _summed(estimator, model, loss, hidden, stream, first, chunk, key))(keys)

    if estimator.draw(estimator.init(model, hidden, key=key, example=first), 1) is None:
        samples = 1  # nothing is random: every sample would be the same
    truth = _blocks(model, exact(model))
    guesses = _blocks(model, estimates(model, jr.split(key, samples)), lead=1)
    if not all(np.isfinite(block).all() for block in truth.values()) or not any(b.any() for b in truth.values()):
        raise ValueError("the exact gradient of this stretch is zero or not finite: there is nothing to compare with.")
    groups = {"all": list(truth)} | _layers(model, truth) | {name: [name] for name in truth}
    rows = []
    for name, parts in groups.items():
        block = np.concatenate([truth[part] for part in parts])
        if block.any():
            rows.append(_row(name, block, np.concatenate([guesses[part] for part in parts], axis=1)))
    return Audit(tuple(rows), samples)


def _summed(estimator, model, loss, hidden, stream, first, chunk, key):
    """The sum of an estimator's gradients over the stream, chunk after chunk. The last chunk may be shorter."""
    state = estimator.init(model, hidden, key=key, example=first)
    steps = jax.tree.leaves(stream[0])[0].shape[0]

    def step(carry, piece):
        hidden, state, total = carry
        xs, ys, reset, weight = piece
        estimate = estimator.grad(model, loss, hidden, state, xs, ys, reset=reset, weight=weight)
        return (estimate.hidden, estimate.state, jax.tree.map(jnp.add, total, estimate.grads)), None

    carry = (hidden, state, jax.tree.map(jnp.zeros_like, learnable(model)))
    whole = steps - steps % chunk
    if whole:
        pieces = jax.tree.map(lambda leaf: leaf[:whole].reshape(whole // chunk, chunk, *leaf.shape[1:]), stream)
        carry, _ = jax.lax.scan(step, carry, pieces)
    if whole < steps:
        carry, _ = step(carry, jax.tree.map(lambda leaf: leaf[whole:], stream))
    return carry[2]


def _blocks(model: Model, grads: PyTree, lead: int = 0) -> dict[str, np.ndarray]:
    """A gradient cut into named flat blocks: every array, and an affine-gated cell's weights row by row."""
    per_row = {id(W) for cell in _affine_cells(model) for W in cell.weights}
    named = jax.tree_util.tree_leaves_with_path(learnable(model))
    blocks = {}
    for (path, parameter), gradient in zip(named, jax.tree.leaves(grads), strict=True):
        name, gradient = jax.tree_util.keystr(path).lstrip("."), np.asarray(gradient, np.float64)
        if id(parameter) in per_row and parameter.shape[0] > 1:
            for row in range(parameter.shape[0]):
                blocks[f"{name} row {row}"] = gradient.take(row, lead).reshape(*gradient.shape[:lead], -1)
        else:
            blocks[name] = gradient.reshape(*gradient.shape[:lead], -1)
    return blocks


def _layers(model: Model, blocks: Iterable[str]) -> dict[str, list[str]]:
    """The blocks of each layer of a deep cell, by the layer's name; nothing if there is one layer."""
    nodes = jax.tree_util.tree_leaves_with_path(model, is_leaf=is_layer)
    names = [jax.tree_util.keystr(path).lstrip(".") for path, node in nodes if is_layer(node)]
    found = {name: [block for block in blocks if block.startswith(f"{name}.")] for name in names}
    return {name: parts for name, parts in found.items() if len(parts) > 1} if len(names) > 1 else {}


def _affine_cells(model: Model) -> list[AbstractAffineGatedCell]:
    is_affine = lambda node: isinstance(node, AbstractAffineGatedCell)  # noqa: E731
    return [node for node in jax.tree.leaves(model, is_leaf=is_affine) if is_affine(node)]


def _row(name: str, truth: np.ndarray, guesses: np.ndarray) -> AuditRow:
    size = np.linalg.norm(truth)
    norms = np.linalg.norm(guesses, axis=1)
    cosine = (guesses @ truth) / np.maximum(norms * size, np.finfo(float).tiny)
    mean = guesses.mean(0)
    variance = ((guesses - mean) ** 2).sum() / max(len(guesses) - 1, 1) / size**2
    return AuditRow(
        block=name,
        size=truth.size,
        cosine=float(cosine.mean()),
        norm_ratio=float((norms / size).mean()),
        bias=float(np.linalg.norm(mean - truth) / size),
        noise=float(np.sqrt(variance / len(guesses))),
        variance=float(variance),
    )
