"""Checks of a learner's parts, a carry and a key. They report what is wrong in one sentence, before anything is
computed.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ._checks import check_compared, check_read, described, one_step
from .support.errors import reason_of
from .support.freezing import learnable
from .support.raw_key import RawKey, as_numbers
from .support.trees import leading


def check_loss(loss) -> None:
    """Raises `ValueError` unless `loss` can be called."""
    if not callable(loss):
        raise ValueError(f"loss must be a function of a prediction and a target, got {loss!r}.")


def check_optimizer(optimizer) -> None:
    """Raises `ValueError` unless `optimizer` has the two functions of a gradient transformation."""
    if not (callable(getattr(optimizer, "init", None)) and callable(getattr(optimizer, "update", None))):
        raise ValueError(
            f"optimizer must be an Optax gradient transformation such as optax.adam(1e-3), got {optimizer!r}."
        )


def started(optimizer, parameters):
    """The state of an optimiser at the start, with random keys as numbers. Raises `ValueError` if it does not take
    these parameters.
    """
    try:
        return as_numbers(optimizer.init(parameters))
    except Exception as error:  # an optimiser may be any code
        raise ValueError(
            "optimizer cannot be used: its init does not take the model's trainable arrays, with None where nothing is "
            f"trained: {reason_of(error).rstrip('.')}."
        ) from error


def check_update(update, state, parameters) -> None:
    """Raises `ValueError` unless an optimiser's `update` accepts what a learner passes it. Only shapes are computed."""

    def trial(state, parameters):
        number = jnp.zeros(())
        more = {"grad_fn": lambda parameters: parameters, "gradients_of": lambda factors: leading(parameters)}
        return update(parameters, state, parameters, value=number, weight=number, **more)

    try:
        updates, after = jax.eval_shape(trial, state, parameters)
    except Exception as error:  # an optimiser may be any code
        reason = reason_of(error)
        if "value_fn" in reason:
            reason = (
                "it searches along a line for a lower value of one objective, and each chunk of a stream is an "
                "objective of its own; take an optimiser without a line search"
            )
        raise ValueError(
            f"optimizer cannot be used by a learner, which gives its update the gradient, the state, the parameters, "
            f"value=, grad_fn=, weight= and gradients_of=: {reason.rstrip('.')}."
        ) from error
    if any(map(_compares_gradients, jax.tree.leaves(state, is_leaf=_compares_gradients))):
        raise ValueError(
            "optimizer cannot be used by a learner: L-BFGS compares gradients of one objective, and each chunk of a "
            "stream is an objective of its own; take an optimiser such as optax.adam(1e-3)."
        )
    if not _alike(updates, parameters) or not _alike(after, state):
        raise ValueError(
            "optimizer must return updates shaped like the parameters and a state shaped like the one before, got "
            f"{described(updates)} and {described(after)}."
        )


def check_key(key) -> None:
    """Raises `ValueError` unless `key` is one random key of JAX, typed or as its numbers."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", ())
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if typed and shape != ():
        raise ValueError(f"key must be one random key, got {shape} of them; jax.vmap goes over several.")
    if not typed and not (dtype == jnp.uint32 and shape == jax.eval_shape(_words).shape):
        got = repr(key) if dtype is None else f"an array {dtype}{list(shape)}"
        raise ValueError(f"key must be a random key such as jax.random.key(0), got {got}.")


def _words():
    return jax.random.key_data(jax.random.key(0))


def check_predictions(predictions) -> None:
    """Raises `ValueError` unless `predictions` is `True` or `False`."""
    if predictions is not True and predictions is not False:
        raise ValueError(f"predictions must be True or False, whether the metrics hold them; got {predictions!r}.")


def check_observe(observe) -> None:
    """Raises `ValueError` unless `observe` is a function that can be hashed: its program is kept for the next call."""
    try:
        sound = callable(observe) and isinstance(hash(observe), int)
    except TypeError:
        sound = False
    if not sound:
        raise ValueError(
            "observe must be a function of an onward.observing.Update that can be hashed, got "
            f"{type(observe).__name__}."
        )


def check_arguments(carry, kind: type, xs, ys) -> None:
    """Raises `ValueError` if `carry` is not a carry, or if an argument holds text, dates or objects."""
    if not isinstance(carry, kind):
        raise ValueError(f"carry must be a carry from learner.init, got {type(carry).__name__}.")
    for name, tree in (("xs", xs), ("ys", ys)):
        for leaf in jax.tree.leaves(tree):
            dtype = getattr(leaf, "dtype", None) or np.result_type(type(leaf))
            # V: the small floating-point types. `check_stream` reports random keys.
            if getattr(dtype, "kind", "V") not in "biufcV":
                raise ValueError(f"{name} must hold numbers, got {dtype}.")


def check_carry(carry, optimizer, batch) -> None:
    """Raises `ValueError` unless the carry fits this batch, and its optimiser state fits this optimiser."""
    model = carry.model
    lead = () if batch is None else (batch,)
    start = model.cell.init_hidden()
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), start)
    if not _alike(carry.hidden, wanted) or _other_dtype(carry.hidden, wanted):
        raise ValueError(
            f"carry must be from this learner's init: for batch={batch} its hidden state is {described(wanted)}, got "
            f"{described(carry.hidden)}."
        )
    fresh = jax.eval_shape(lambda parameters: as_numbers(optimizer.init(parameters)), learnable(carry.arrays))
    if not _alike(carry.optimizer, fresh):
        raise ValueError("carry holds the state of another optimizer than this learner's; begin with learner.init.")
    if other := _other_dtype(carry.optimizer, fresh):
        raise ValueError(
            f"carry holds the state of an optimizer of another dtype than this learner's, {other}; begin with "
            "learner.init."
        )


def check_estimator_state(carry, estimator, batch, xs, ys) -> None:
    """Raises `ValueError` unless the carry's estimator state has the structure and shapes of this estimator's."""
    lead = () if batch is None else (batch,)
    example = tuple(one_step(tree, 1 + len(lead)) for tree in (xs, ys))

    def start(example):
        key = jax.random.key(0)
        return estimator.init(carry.learning, carry.model.cell.init_hidden(), key=key, example=example)

    def without_keys(tree):
        # Any random generator is accepted; they differ in the number of words of a key.
        return jax.tree.map(lambda node: None if _is_key(node) else node, tree, is_leaf=_is_key)

    fresh = jax.eval_shape(start, example)
    wanted = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((*lead, *leaf.shape), leaf.dtype), fresh)
    if not _alike(without_keys(carry.estimator), without_keys(wanted)):
        name = type(estimator).__name__
        if type(carry.estimator) is type(wanted):
            estimator.check_example(carry.estimator, example)
            raise ValueError(
                f"carry does not fit: it is from a {name} with other settings than this learner's, or from another "
                "version of onward, or xs or ys are not like the example given to learner.init; begin with "
                "learner.init."
            )
        raise ValueError(
            f"carry holds the state of another estimator than this learner's {name}; begin with learner.init."
        )


def _is_key(node) -> bool:
    return isinstance(node, RawKey)


def _compares_gradients(node) -> bool:
    return isinstance(node, optax.ScaleByLBFGSState)


def _alike(tree, other) -> bool:
    """Whether two trees have the same structure, and arrays of the same shapes."""
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(each)] for each in (tree, other)]
    return jax.tree.structure(tree) == jax.tree.structure(other) and shapes[0] == shapes[1]


def _other_dtype(tree, other) -> str:
    """The first difference between the dtypes of two trees of the same structure, in words; empty if there is none. A
    Python number has no dtype.
    """
    for leaf, wanted in zip(jax.tree.leaves(tree), jax.tree.leaves(other), strict=True):
        if getattr(leaf, "dtype", wanted.dtype) != wanted.dtype:
            return f"{leaf.dtype} instead of {wanted.dtype}"
    return ""


def check_gradient(grads, parameters) -> None:
    """Raises `ValueError` unless the gradient of an earlier prediction is shaped like the parameters that learn now."""
    if not _alike(grads, parameters):
        raise ValueError(
            "said is a prediction of another model than the carry's, or of one in which other arrays are trained."
        )


def check_input(model, hidden, batch, x, reset) -> None:
    """Raises `ValueError` unless the model can read one `x`, or one per stream of a batch, from the hidden state."""
    lead = () if batch is None else (batch,)
    _check_leading("x", x, lead)
    _check_flag("reset", reset, lead, jnp.bool_, "bool")
    check_read(model, one_step(hidden, len(lead)), one_step(x, len(lead)), "x")


def check_outcome(loss, batch, prediction, y, weight) -> None:
    """Raises `ValueError` unless the loss can compare the prediction with `y`, for each stream if there is a batch."""
    lead = () if batch is None else (batch,)
    _check_leading("y", y, lead)
    _check_flag("weight", weight, lead, jnp.floating, "floating")
    check_compared(loss, one_step(prediction, len(lead)), one_step(y, len(lead)), "y")


def _check_leading(name, tree, lead) -> None:
    for leaf in jax.tree.leaves(tree):
        if jnp.shape(leaf)[: len(lead)] != lead:
            raise ValueError(f"{name} must have the shape [{lead[0]}, ...], got {jnp.shape(leaf)}.")


def _check_flag(name, flag, shape, kind, described) -> None:
    if flag is not None and (not jnp.issubdtype(jnp.result_type(flag), kind) or jnp.shape(flag) != shape):
        raise ValueError(f"{name} must be {described} of shape {shape}, got {jnp.result_type(flag)} {jnp.shape(flag)}.")
