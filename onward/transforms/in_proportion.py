"""Steps in proportion to how much a chunk weighs."""

import jax
import jax.numpy as jnp
import optax


def in_proportion(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """One step of `optimizer`, with a rate in proportion to the weight w of the chunk:

        step = w · optimizer(g / w)

    where g is the gradient of the chunk's weighted losses, and w the sum of their weights, in the mean over the
    streams. So `optimizer`, with its clip or its Adam, sees the gradient of a weighted mean of the losses, as if the
    chunk were a full one. Put it around the whole optimiser. `onward.Learner` passes `weight`; if a chunk has no
    weights, w is its number of steps. `onward.EveryStep(window, per=steps)` makes w the length of a window divided by
    `steps`, as Merity, Keskar & Socher, *Regularizing and optimizing LSTM language models*, ICLR 2018, section 4.1,
    have it.

    Raises `ValueError` for an update without `weight`.

        >>> import jax.numpy as jnp, optax
        >>> from onward.transforms import in_proportion
        >>> optimizer, W = in_proportion(optax.chain(optax.clip(1.0), optax.sgd(1.0))), jnp.zeros(())
        >>> updates, _ = optimizer.update(jnp.array(2.0), optimizer.init(W), W, weight=jnp.array(0.5))
        >>> float(updates)                                                 # of a gradient of 4, clipped to 1
        -0.5
    """
    inner = optax.with_extra_args_support(optimizer)

    def update(updates, state, params=None, *, weight=None, **extra_args):
        if weight is None:
            raise ValueError("in_proportion needs update(grads, state, params, weight=...), got no weight.")
        # A chunk without any weight is not learned; its step must not be NaN all the same.
        factor = jnp.where(weight != 0, weight, jnp.ones_like(weight))
        full = jax.tree.map(lambda g: g / factor.astype(g.dtype), updates)
        steps, state = inner.update(full, state, params, weight=weight, **extra_args)
        return jax.tree.map(lambda u: factor.astype(u.dtype) * u, steps), state

    return optax.GradientTransformationExtraArgs(inner.init, update)
