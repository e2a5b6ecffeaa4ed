"""What is wrong with a model or a stream, said in one sentence before anything is computed."""

import equinox as eqx
import jax
import jax.numpy as jnp

from .model import Model


def check_model(model) -> None:
    """Raise `ValueError` unless `model` is a `Model` with something to learn."""
    if not isinstance(model, Model):
        raise ValueError(f"model must be an onward.Model of a cell and a readout, got {type(model).__name__}.")
    if not jax.tree.leaves(eqx.filter(model, eqx.is_inexact_array)):
        raise ValueError("model holds no floating-point array: there is nothing to learn; cast its integers to float.")


def check_stream(learner, carry, xs, ys, reset, weight) -> None:
    """Raise `ValueError`, naming the argument, unless the stream fits the learner and the model of the carry."""
    lead = () if learner.batch is None else (learner.batch,)
    described = "[steps, ...]" if learner.batch is None else f"[steps, {learner.batch}, ...]"
    steps = None
    for name, tree in (("xs", xs), ("ys", ys), ("reset", reset), ("weight", weight)):
        for leaf in jax.tree.leaves(tree):
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
    x, y, hidden = _one_step(xs, 1 + len(lead)), _one_step(ys, 1 + len(lead)), _one_step(carry.hidden, len(lead))
    _check_step(carry, x, y, hidden, learner.loss)


def _one_step(tree, axes):
    """One step of one stream, as shapes."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf)[axes:], jnp.result_type(leaf)), tree)


def _check_step(carry, x, y, hidden, loss) -> None:
    model: Model = carry.model
    after = _shapes("xs", "the cell cannot read", x, lambda h, x: model.cell(h, x), hidden, x)
    if jax.tree.structure(after) != jax.tree.structure(hidden) or any(
        (a.shape, a.dtype) != (b.shape, b.dtype)
        for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(hidden), strict=True)
    ):
        raise ValueError(
            f"xs of {_describe(x)} a step turn a hidden state of {_describe(hidden)} into one of {_describe(after)}: "
            "its shape and dtype must stay; give xs the dtype of the model."
        )
    prediction = _shapes("model", "the readout cannot read", after, model.predict, after)
    value = _shapes("ys", "the loss cannot compare the prediction with", y, loss, prediction, y)
    leaves = jax.tree.leaves(value)
    if len(leaves) != 1 or leaves[0].shape != () or not jnp.issubdtype(leaves[0].dtype, jnp.floating):
        raise ValueError(f"loss must return one floating-point scalar, got {_describe(value)}.")


def _shapes(name, complaint, thing, function, *arguments):
    try:
        return jax.eval_shape(function, *arguments)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(f"{name}: {complaint} {_describe(thing)}: {reason}") from error


def _describe(tree) -> str:
    return ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in jax.tree.leaves(tree))
