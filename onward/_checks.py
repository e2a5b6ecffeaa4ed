"""What is wrong with a model or a stream, said in one sentence before anything is computed."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from .cells.initial_state import learns_initial_state
from .losses import WITH_RANGE, Masked, Range, TerminalTarget, range_of
from .model import Model
from .support.freezing import learnable, thaw
from .support.raw_key import RawKey

AS_TWO_REAL_ARRAYS = (
    "hold it as two real arrays, its real and its imaginary part, and join them inside the cell, "
    "by jax.lax.complex(re, im)."
)


def check_model(model) -> None:
    """Raise `ValueError` unless `model` is a `Model` with something to learn, none of it complex, nor its state,
    and an initial state that learns only where it can."""
    if not isinstance(model, Model):
        raise ValueError(f"model must be an onward.Model of a cell and a readout, got {type(model).__name__}.")
    learned = learnable(model)
    if not jax.tree.leaves(learned):
        frozen = jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array))
        why = "filter_spec freezes all of it." if frozen else "it holds no floating-point array; cast its integers."
        raise ValueError(f"model: there is nothing to learn; {why}")
    for path, leaf in jax.tree_util.tree_leaves_with_path(learned):
        if jnp.iscomplexobj(leaf):
            raise ValueError(f"model{jax.tree_util.keystr(path)} is {_describe([leaf])}: {AS_TWO_REAL_ARRAYS}")
    learns_initial_state(model.cell)  # raises for one that cannot
    for leaf in jax.tree.leaves(thaw(model).cell.init_hidden()):
        if jnp.iscomplexobj(leaf):
            raise ValueError(f"model: the cell's hidden state is {_describe([leaf])}: {AS_TWO_REAL_ARRAYS}")
        if not eqx.is_inexact_array(leaf):
            raise ValueError(f"model: the cell's hidden state must be floating-point arrays, got {_describe([leaf])}.")


def check_loss(loss) -> None:
    """Raise `ValueError` unless `loss` can be called."""
    if not callable(loss):
        raise ValueError(f"loss must be a function of a prediction and a target, got {loss!r}.")


def check_optimizer(optimizer) -> None:
    """Raise `ValueError` unless `optimizer` has the two functions of a gradient transformation."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(
            f"optimizer must be an Optax gradient transformation such as optax.adam(1e-3), got {optimizer!r}."
        )


def check_key(key) -> None:
    """Raise `ValueError` unless `key` is one random key of JAX, typed or as its numbers."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", ())
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and shape != ():
        raise ValueError(f"key must be one random key, got {shape} of them; jax.vmap goes over several.")
    if not typed and not (dtype == jnp.uint32 and len(shape) == 1):
        got = repr(key) if dtype is None else f"an array {dtype}{list(shape)}"
        raise ValueError(f"key must be a random key such as jax.random.key(0), got {got}.")


def check_arguments(carry, kind: type, xs, ys) -> None:
    """Raise `ValueError` for what cannot be compiled for: a carry that is none, text, dates, objects."""
    if not isinstance(carry, kind):
        raise ValueError(f"carry must be a carry from learner.init, got {type(carry).__name__}.")
    for name, tree in (("xs", xs), ("ys", ys)):
        for leaf in jax.tree.leaves(tree):
            dtype = getattr(leaf, "dtype", None) or np.result_type(type(leaf))
            # V: the small floating-point types; of random keys `check_stream` speaks.
            if getattr(dtype, "kind", "V") not in "biufcV":
                raise ValueError(f"{name} must hold numbers, got {dtype}.")


def check_carry(carry, optimizer, batch) -> None:
    """Raise `ValueError` unless the carry is of a learner with this batch, and its optimiser's state of this one."""
    model = carry.model
    lead = () if batch is None else (batch,)
    start = model.cell.init_hidden()
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), start)
    if not _alike(carry.hidden, wanted):
        raise ValueError(
            f"carry must be from this learner's init: for batch={batch} its hidden state is {_describe(wanted)}, got "
            f"{_describe(carry.hidden)}."
        )
    parameters = learnable(carry.arrays)
    if not _alike(carry.optimizer, jax.eval_shape(optimizer.init, parameters)):
        raise ValueError("carry holds the state of another optimizer than this learner's; begin with learner.init.")


def check_estimator_state(carry, estimator, batch, xs, ys) -> None:
    """Raise `ValueError` unless the carry's estimator state is one of this estimator, by structure and shapes."""
    lead = () if batch is None else (batch,)
    example = tuple(_one_step(tree, 1 + len(lead)) for tree in (xs, ys))

    def start(example):
        key = jax.random.key(0)
        return estimator.init(carry.learning, carry.model.cell.init_hidden(), key=key, example=example)

    def without_keys(tree):
        # Any random generator will do, and they differ in how many numbers a key has.
        return jax.tree.map(lambda node: None if _is_key(node) else node, tree, is_leaf=_is_key)

    fresh = jax.eval_shape(start, example)
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), fresh)
    if not _alike(without_keys(carry.estimator), without_keys(wanted)):
        name = type(estimator).__name__
        raise ValueError(
            f"carry holds the state of another estimator than this learner's {name}; begin with learner.init."
        )


def _is_key(node) -> bool:
    return isinstance(node, RawKey)


def _alike(tree, other) -> bool:
    """Whether two trees have one structure, and arrays of the same shapes."""
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(each)] for each in (tree, other)]
    return jax.tree.structure(tree) == jax.tree.structure(other) and shapes[0] == shapes[1]


def check_stream(model, hidden, loss, batch, xs, ys, reset, weight) -> None:
    """Raise `ValueError`, naming the argument, unless the stream fits the model, its hidden state, loss and batch."""
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
    check_step(model, _one_step(hidden, len(lead)), loss, _one_step(xs, 1 + len(lead)), _one_step(ys, 1 + len(lead)))


def check_numbers(name: str, leaf) -> None:
    """Raise `ValueError` for an array of random keys, which no estimator can store, or anything else but numbers."""
    if jnp.issubdtype(jnp.result_type(leaf), jax.dtypes.prng_key):
        raise ValueError(
            f"{name} must be arrays of numbers, got random keys ({leaf.dtype}); give jax.random.key_data(keys), and "
            "make keys of that in the cell, by jax.random.wrap_key_data."
        )


def _one_step(tree, axes):
    """One step of one stream, as shapes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[axes:], jnp.result_type(leaf)), tree)


def check_step(model, hidden, loss, x, y) -> None:
    """Raise `ValueError` unless the model reads `x` from `hidden`, and the loss compares its prediction with `y`."""
    for name, tree in (("xs", x), ("ys", y)):
        for leaf in jax.tree.leaves(tree):
            check_numbers(name, leaf)
    after = _shapes("xs", "the cell cannot read", x, lambda h, x: model.cell(h, x), hidden, x)
    if jax.tree.structure(after) != jax.tree.structure(hidden) or any(
        (a.shape, a.dtype) != (b.shape, b.dtype)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(hidden), strict=True)
    ):
        raise ValueError(
            f"xs of {_describe(x)} a step turn a hidden state of {_describe(hidden)} into one of {_describe(after)}: "
            "its shape and dtype must stay; give xs the dtype of the model, and an onward.AdaptedCell of your own the "
            "hidden=... that its step returns."
        )
    prediction = predicted(model, after)
    value = _shapes("ys", "the loss cannot compare the prediction with", y, loss, prediction, y)
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise ValueError(f"loss must return one floating-point scalar, got {_describe(value)}.")


def check_targets(loss, carry, ys, weight) -> None:
    """Raise `ValueError` for a target outside the range of `loss`. A step of weight 0 passes, and so does what is
    traced, whose numbers are not known."""
    ys = ys.y if isinstance(ys, TerminalTarget) else ys
    ys, mask = ys if isinstance(ys, Masked) else (ys, None)
    if loss not in WITH_RANGE or not all(_known(array) for array in (ys, mask, weight) if array is not None):
        return
    arrays, structure = jax.tree.flatten(carry.arrays)
    range = _range(loss, carry.skeleton, structure, tuple((a.shape, a.dtype) for a in arrays))
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
    return isinstance(array, np.ndarray | jax.Array) and not isinstance(array, Tracer)


@functools.lru_cache(maxsize=64)  # to trace the readout anew takes longer than a short run
def _range(loss, skeleton, structure, shapes) -> Range | None:
    arrays = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    model = thaw(eqx.combine(jax.tree.unflatten(structure, arrays), skeleton))
    return range_of(loss, eqx.filter_eval_shape(lambda model: model.predict(model.cell.init_hidden()), model))


def predicted(model: Model, hidden):
    """The shapes of what the model predicts from such a hidden state. Raises `ValueError` where it cannot."""
    return _shapes("model", "the readout cannot read", hidden, lambda h: model.predict(h), hidden)


def _shapes(name, complaint, thing, function, *arguments):
    try:
        return jax.eval_shape(function, *arguments)
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name}: {complaint} {_describe(thing)}: {reason}") from error


def _describe(tree) -> str:
    return ", ".join(f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for leaf in jax.tree.leaves(tree)) or "nothing"
