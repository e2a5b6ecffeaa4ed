"""Checks of a model and a stream. They report what is wrong in one sentence, before anything is computed."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .cells.initial_state import learns_initial_state
from .losses import WITH_RANGE, Masked, Range, TerminalTarget, range_of
from .model import Model
from .support.errors import reason_of
from .support.freezing import learnable, thaw

AS_TWO_REAL_ARRAYS = (
    "hold it as two real arrays, its real and its imaginary part, and join them inside the cell, "
    "by jax.lax.complex(re, im)."
)


def check_model(model) -> None:
    """Raises `ValueError` unless `model` is a `Model` with something to train, its parameters and state are real, and
    its initial state is trained only where that is possible.
    """
    if not isinstance(model, Model):
        raise ValueError(f"model must be an onward.Model of a cell and a readout, got {type(model).__name__}.")
    learned = learnable(model)
    if not jax.tree.leaves(learned):
        frozen = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
        why = "filter_spec freezes all of it." if frozen else "it holds no floating-point array; cast its integers."
        raise ValueError(f"model: there is nothing to learn; {why}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(learned):
        if jnp.iscomplexobj(leaf):
            raise ValueError(f"model{jax.tree_util.keystr(path)} is {described([leaf])}: {AS_TWO_REAL_ARRAYS}")
    learns_initial_state(model.cell)  # raises if it cannot be trained
    for leaf in jax.tree.leaves(thaw(model).cell.init_hidden()):
        if jnp.iscomplexobj(leaf):
            raise ValueError(f"model: the cell's hidden state is {described([leaf])}: {AS_TWO_REAL_ARRAYS}")
        if not eqx.is_inexact_array(leaf):
            raise ValueError(f"model: the cell's hidden state must be floating-point arrays, got {described([leaf])}.")


def check_stream(model, hidden, loss, batch, xs, ys, reset, weight) -> None:
    """Raises `ValueError` with the argument's name unless the stream fits the model, its hidden state, the loss and the
    batch.
    """
    lead = () if batch is None else (batch,)
    described = "[steps, ...]" if batch is None else f"[steps, {batch}, ...]"
    steps = None
    for name, tree in (("xs", xs), ("ys", ys), ("reset", reset), ("weight", weight)):
        for leaf in jax.tree.leaves(tree):
            check_numbers(name, leaf)
            shape = jnp.shape(leaf)
            if len(shape) < 1 + len(lead) or shape[1 : 1 + len(lead)] != lead:
                raise ValueError(f"{name} must have the shape {described}, got {shape}.")
            steps = shape[0] if steps is None else steps
            if shape[0] != steps:
                raise ValueError(f"{name} must have as many steps as xs, {steps} in its leading axis, got {shape[0]}.")
    if not steps:
        raise ValueError("xs must hold at least one step, got none.")
    if reset is not None and (
        not jnp.issubdtype(jnp.result_type(reset), jnp.bool_) or jnp.shape(reset) != (steps, *lead)
    ):
        raise ValueError(
            f"reset must be bool of shape {(steps, *lead)}, got {jnp.result_type(reset)} {jnp.shape(reset)}."
        )
    if weight is not None and (
        not jnp.issubdtype(jnp.result_type(weight), jnp.floating) or jnp.shape(weight) != (steps, *lead)
    ):
        raise ValueError(
            f"weight must be floating of shape {(steps, *lead)}, got {jnp.result_type(weight)} {jnp.shape(weight)}."
        )
    check_step(model, one_step(hidden, len(lead)), loss, one_step(xs, 1 + len(lead)), one_step(ys, 1 + len(lead)))


def check_numbers(name: str, leaf) -> None:
    """Raises `ValueError` for random keys, which no estimator can store, and for anything else that is not a number."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        raise ValueError(
            f"{name} must be arrays of numbers, got random keys ({leaf.dtype}): pass jax.random.key_data(keys), and "
            "turn it back into keys in the cell, with jax.random.wrap_key_data."
        )


def one_step(tree, axes):
    """The shapes of one step of one stream."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[axes:], jnp.result_type(leaf)), tree)


def check_step(model, hidden, loss, x, y) -> None:
    """Raises `ValueError` unless the model can read `x` from `hidden`, and the loss can compare its prediction with
    `y`.
    """
    after = check_read(model, hidden, x, "xs")
    check_compared(loss, predicted(model, after), y, "ys")


def check_read(model, hidden, x, name: str):
    """The shapes of the hidden state after `x`. Raises `ValueError` unless the cell can read `x` and the shapes
    stay.
    """
    for leaf in jax.tree.leaves(x):
        check_numbers(name, leaf)
    after = _shapes(name, "the cell cannot read", x, lambda h, x: model.cell(h, x), hidden, x)
    if jax.tree.structure(after) != jax.tree.structure(hidden) or any(
        (a.shape, a.dtype) != (b.shape, b.dtype)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(hidden), strict=True)
    ):
        raise ValueError(
            f"{name} of {described(x)} a step turn a hidden state of {described(hidden)} into one of "
            f"{described(after)}: its shape and dtype must stay the same; give {name} the dtype of the model, and "
            "an onward.AdaptedCell a hidden=... like the state that its step returns."
        )
    return after


def check_compared(loss, prediction, y, name: str) -> None:
    """Raises `ValueError` unless the loss can compare a prediction with `y` and returns one number."""
    for leaf in jax.tree.leaves(y):
        check_numbers(name, leaf)
    value = _shapes(name, "the loss cannot compare the prediction with", y, loss, prediction, y)
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise ValueError(
            f"loss must return one floating-point scalar, got {described(value)}; for auxiliary values besides it "
            "there is onward.Learner(has_aux=True)."
        )


def check_targets(loss, carry, ys, weight) -> None:
    """Raises `ValueError` for a target out of the range of `loss`. Steps of weight 0 are not checked; nor are targets
    whose values are not known here, because they are traced or held by several processes.
    """
    ys = ys.y if isinstance(ys, TerminalTarget) else ys
    ys, mask = ys if isinstance(ys, Masked) else (ys, None)
    if loss not in WITH_RANGE or not all(_known(array) for array in (ys, mask, weight) if array is not None):
        return
    arrays, structure = jax.tree.flatten(carry.arrays)
    range = _range(loss, _Same(carry.skeleton), structure, tuple((a.shape, a.dtype) for a in arrays))
    if range is None:
        return
    wrong = range.lacks(np.asarray(ys)) & (True if mask is None else np.asarray(mask))
    if wrong.any() and weight is not None:
        there = np.asarray(weight) != 0
        wrong = wrong & there.reshape(*there.shape, *[1] * (wrong.ndim - there.ndim))
    if wrong.any():
        at = tuple(np.argwhere(wrong)[0].tolist())
        raise ValueError(
            f"ys must lie between {range.least} and {range.most}, got {ys[at]} at step {at[0]}, counting from 0; only "
            "a step of weight 0 may hold others."
        )


def _known(array) -> bool:
    if isinstance(array, Tracer):
        return False
    # No process sees all of an array that several hold together.
    return isinstance(array, np.ndarray) or (isinstance(array, jax.Array) and array.is_fully_addressable)


class _Same:
    """An object that is compared by identity: comparing two skeletons by value takes as long as the rest of a check."""

    __slots__ = ("it",)

    def __init__(self, it):
        self.it = it

    def __hash__(self):
        return id(self.it)

    def __eq__(self, other):
        return self.it is other.it


@functools.lru_cache(maxsize=64)  # tracing the readout again takes longer than a short run
def _range(loss, skeleton: _Same, structure, shapes) -> Range | None:
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    model = thaw(eqx.combine(jax.tree.unflatten(structure, arrays), skeleton.it))
    return range_of(loss, eqx.filter_eval_shape(lambda model: model.predict(model.cell.init_hidden()), model))


def predicted(model: Model, hidden):
    """The shapes of the model's prediction from such a hidden state. Raises `ValueError` if it cannot predict."""
    return _shapes("model", "the readout cannot read", hidden, lambda h: model.predict(h), hidden)


def _shapes(name, complaint, thing, function, *arguments):
    try:
        return jax.eval_shape(function, *arguments)
    except OutcomeError:
        raise
    except Exception as error:  # a cell, a readout and a loss may be any code
        raise ValueError(f"{name}: {complaint} {described(thing)}: {reason_of(error)}") from error


class OutcomeError(ValueError):
    """A function of the user's returned what it must not return."""


def check_arrays(sentence: str, tree) -> None:
    """Raises `ValueError` with this sentence unless all leaves of a tree are arrays or numbers."""
    for leaf in jax.tree.leaves(tree):
        if not eqx.is_array_like(leaf):
            raise OutcomeError(f"{sentence}, got {type(leaf).__name__}.")


def described(tree) -> str:
    return ", ".join(f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(tree)) or "nothing"
