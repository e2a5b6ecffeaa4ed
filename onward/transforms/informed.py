"""Optimisers that say what they know about the parameters, so that an estimator can balance its norms by it."""

from collections.abc import Callable

import jax
import optax
from jaxtyping import PyTree

from .quasi_diagonal import QuasiDiagonal


class Informed(optax.GradientTransformationExtraArgs):
    """An Optax transformation with a third function: `metric(state)`, the matrix `J + Λ` over the whole tree of
    parameters, or `None`. The learner hands it to its estimator before every estimate (`onward.NoBackTrack` takes its
    norms from it).

    `optax.chain` and other combinators return a plain transformation, so say where the matrix is:

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
    node = tuple.__new__(Informed, both)  # in a tree anything may stand in place of the functions
    node.metric = metric
    return node


# As a pytree it has all three functions; of a named tuple JAX would see the two of its fields alone.
jax.tree_util.register_pytree_node(Informed, lambda node: ((node.init, node.update, node.metric), None), _informed)


def metric_of(optimizer: optax.GradientTransformation | optax.MultiSteps, state: PyTree) -> QuasiDiagonal | None:
    """What an optimiser knows about the parameters; `None` unless it is `Informed`."""
    return optimizer.metric(state) if isinstance(optimizer, Informed) else None
