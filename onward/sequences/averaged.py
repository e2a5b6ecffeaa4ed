"""The model with the average of the weights that an optimiser keeps."""

import equinox as eqx

from ..learner import Carry
from ..model import Model
from ..support.freezing import thaw
from ..transforms.weight_average import averaged_weights


def averaged(carry: Carry) -> Model:
    """The model whose weights are the average kept by `onward.transforms.weight_average` in the learner's optimiser.

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
