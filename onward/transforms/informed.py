"""Optimisers that report what they know about the parameters, so that an estimator can use it to balance its norms."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree

from .quasi_diagonal import QuasiDiagonal


class Informed(optax.GradientTransformationExtraArgs):
    """An Optax transformation with a third function, `metric(state)`: the matrix `J + Λ` over the whole tree of
    parameters, or `None`. The learner passes it to its estimator before every estimate. `onward.NoBackTrack` computes
    its norms with it.

    `optax.chain` and other combinators return a plain transformation. Tell this class where the matrix is:

        >>> import onward, optax
        >>> kalman = onward.quasi_diagonal_kalman()
        >>> chained = optax.chain(optax.clip_by_global_norm(1.0), kalman)
        >>> optimizer = onward.transforms.Informed(chained, lambda state: kalman.metric(state[1]))
    """

    metric: Callable[[PyTree], QuasiDiagonal | None]

    def __new__(cls, optimizer: optax.GradientTransformation, metric: Callable[[PyTree], QuasiDiagonal | None]):
        self = super().__new__(cls, *optax.with_extra_args_support(optimizer))
        self.metric = metric
        return self


def _informed(_, functions) -> Informed:
    *both, metric = functions
    node = tuple.__new__(Informed, both)  # in a pytree, any object may stand in place of the functions
    node.metric = metric
    return node


# Registered as a pytree with all three functions; JAX would flatten a named tuple into its two fields.
jax.tree_util.register_pytree_node(Informed, lambda node: ((node.init, node.update, node.metric), None), _informed)


def metric_of(optimizer: optax.GradientTransformation | optax.MultiSteps, state: PyTree) -> QuasiDiagonal | None:
    """The `metric` of an optimiser; `None` unless it is `Informed`."""
    return optimizer.metric(state) if isinstance(optimizer, Informed) else None
