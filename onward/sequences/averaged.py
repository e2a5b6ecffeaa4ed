"""The model with the average of the weights that an optimiser keeps, and the trigger that begins such an average."""

import equinox as eqx

from ..learner import Carry
from ..model import Model
from ..support.arguments import whole
from ..support.freezing import thaw
from ..transforms.weight_average import averaged_weights, start_average
from .callbacks import Callback


def averaged(carry: Carry) -> Model:
    """The model whose weights are the average that the learner's optimiser keeps, by
    `onward.transforms.weight_average` or `triggered_average`.

    Pass it as `scored` to `onward.fit`: the averaged model is then scored and kept as the best, while training goes on
    from the weights themselves. Raises `ValueError` unless the optimiser holds exactly one average.

        >>> import equinox as eqx, jax.random as jr, onward, optax
        >>> from onward.sequences import averaged
        >>> data = onward.Sequences(jr.normal(jr.key(0), (8, 5, 2)), jr.normal(jr.key(1), (8, 5, 1)), batch=4)
        >>> optimizer = optax.chain(optax.adam(1e-2), onward.transforms.weight_average(0.9))
        >>> learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.squared_error, chunk=5, batch=4)
        >>> model = onward.Model(onward.GRUCell(2, 4, key=jr.key(2)), eqx.nn.Linear(4, 1, key=jr.key(3)))
        >>> carry, every = learner.init(model, key=jr.key(4)), onward.EveryStep(5)
        >>> fitted = onward.fit(learner, carry, data, every, epochs=1, key=jr.key(5), scored=averaged, progress=False)
        >>> bool(eqx.tree_equal(fitted.best, averaged(fitted.carry)))
        True
    """
    return thaw(eqx.combine(averaged_weights(carry.arrays, carry.optimizer), carry.skeleton))


def non_monotone_trigger(patience: int = 5) -> Callback:
    """A callback that begins the average of `onward.transforms.triggered_average` when the score stops improving.

    The average begins after the first epoch e > n whose score is higher than the lowest of the epochs 1, …, e − n − 1:
    Algorithm 1 (NT-ASGD) of Merity, Keskar & Socher, *Regularizing and optimizing LSTM language models*, ICLR 2018,
    checked once an epoch. Pass `averaged` as `scored` to `onward.fit`, so that the average is scored from then on.

    **Arguments:** `patience`: n, the non-monotone interval, at least 1; 5 in the paper. Raises `ValueError` if it is
    lower; and from `onward.fit` if there is no score, or the optimiser does not hold exactly one `triggered_average`.

        >>> import equinox as eqx, jax.random as jr, onward, optax
        >>> from onward.sequences import averaged, non_monotone_trigger
        >>> data = onward.Sequences(jr.normal(jr.key(0), (8, 5, 2)), jr.normal(jr.key(1), (8, 5, 1)), batch=4)
        >>> optimizer = optax.chain(optax.sgd(0.1), onward.transforms.triggered_average())
        >>> learner = onward.Learner(onward.BPTT(), optimizer, loss=onward.losses.squared_error, chunk=5, batch=4)
        >>> model = onward.Model(onward.GRUCell(2, 4, key=jr.key(2)), eqx.nn.Linear(4, 1, key=jr.key(3)))
        >>> carry, scores = learner.init(model, key=jr.key(4)), iter([2.0, 2.5, 2.6, 2.7, 2.4])
        >>> fitted = onward.fit(
        ...     learner, carry, data, onward.EveryStep(5), epochs=5, key=jr.key(5), scored=averaged, progress=False,
        ...     validate=lambda model: next(scores), callbacks=[non_monotone_trigger(2)],
        ... )
        >>> bool(fitted.carry.optimizer[1].triggered), int(fitted.carry.optimizer[1].seen)
        (True, 2)
    """
    patience = whole("patience", patience)

    def at_epoch_end(carry: Carry, history) -> Carry | None:
        *before, last = [epoch.score for epoch in history]
        if last is None:
            raise ValueError("non_monotone_trigger needs a score: give fit a validate.")
        if len(before) <= patience or not last > min(before[:-patience]):
            return None
        return eqx.tree_at(lambda c: c.optimizer, carry, start_average(carry.optimizer))

    return Callback(at_epoch_end=at_epoch_end)
