"""The registry's table: one entry for each cell, estimator, optimiser and task. Add yours here, and nowhere else.

An entry has the name, the description for help texts, how the object is made, and the defaults. Every command, its help
and shell completion then know it. The table loads without JAX: the functions in it import what they make when they are
called.
"""

from functools import partial
from typing import Any

import onward

from ..texts.text import Text, text_file
from .entries import CellEntry, EstimatorEntry, OptimizerEntry, TaskEntry

FALLING = 2000  # updates after which the falling rate is 0.71 of what it was


def _descent(method: Any):
    import optax

    from ..comparison.networks import root_decay

    return optax.sgd(root_decay(method.window))


def _kalman(method: Any):
    from ..comparison.networks import root_decay

    decay = root_decay(method.window) if method.decay is None else method.decay
    return onward.quasi_diagonal_kalman(decay, method.prior)


def _adam(method: Any):
    import optax

    return optax.adam(1.0)


def _rmsprop(method: Any):
    import optax

    return optax.rmsprop(1.0, decay=0.999)


def _falling(method: Any):
    import optax

    return optax.adam(lambda count: (1 + count / FALLING) ** -0.5)


def _nobacktrack(method: Any):
    if method.per_unit is True:
        return onward.NoBackTrack(per_unit=method.rank)
    return onward.NoBackTrack(rank=method.rank, blocks=method.blocks)


def _layerwise(method: Any):
    estimators = onward.estimators
    each_layer = estimators.Layerwise(onward.RTRL())
    return each_layer if method.window == 1 else estimators.ContinuedBPTT(each_layer)


def _mingru_block():
    from .blocks import mingru_block

    return mingru_block


CELLS: dict[str, CellEntry] = {
    "vanilla": CellEntry("fully connected units", lambda: onward.VanillaCell, sigmoid=True, units=True),
    "leaky": CellEntry("fully connected units with a fixed leak", lambda: onward.LeakyCell, sigmoid=True, units=True),
    "lstm": CellEntry("long short-term memory", lambda: onward.LSTMCell, units=True),
    "gru": CellEntry("gated recurrent units", lambda: onward.GRUCell, units=True),
    "antisymmetric": CellEntry("a discretised stable differential equation", lambda: onward.AntisymmetricCell),
    "lru": CellEntry("linear, with a complex decay per unit", lambda: onward.cells.LRUCell, units=True),
    "rtu": CellEntry("linear, with a rotation per unit", lambda: onward.cells.RTUCell, units=True),
    "rtu-nonlinear": CellEntry(
        "rtu with the activation inside the recurrence",
        lambda: partial(onward.cells.RTUCell, nonlinear=True),
        units=True,
    ),
    "indrnn": CellEntry("one recurrent weight per unit", lambda: onward.cells.IndRNNCell, units=True),
    "elstm": CellEntry("LSTM whose gates see the input and their own unit", lambda: onward.cells.ELSTMCell, units=True),
    "mingru": CellEntry("GRU whose gate sees only the input", lambda: onward.cells.MinGRUCell, units=True),
    "minlstm": CellEntry("LSTM whose two gates see only the input", lambda: onward.cells.MinLSTMCell, units=True),
    "mingru-block": CellEntry(
        "a mingru between learned maps, with a skip connection, which reads the latest 4 inputs",
        _mingru_block,
        fewest=2,
        readout=lambda: onward.readouts.NormalisedReadout,
    ),
}

ESTIMATORS: dict[str, EstimatorEntry] = {
    "tbptt": EstimatorEntry(
        "backpropagation within windows",
        lambda method: onward.BPTT(),
        size="window",
        text={"cell": "lstm", "hidden_size": 128},
        comparison={"window": 15},
    ),
    "sliding": EstimatorEntry(
        "backpropagation from every step",
        lambda method: onward.SlidingBPTT(horizon=method.horizon),
        size="horizon",
        settings={"horizon": 8},
        text={"hidden_size": 32},
    ),
    "artbp": EstimatorEntry(
        "backpropagation within windows, cut at random",
        lambda method: onward.ARTBP(cut=method.cut),
        size="window",
        others=("cut",),
        settings={"cut": 0.1},
        text={"cell": "lstm", "hidden_size": 64},
        comparison={"window": 15},
    ),
    "continued": EstimatorEntry(
        "backpropagation within windows, continued forward by RTRL",
        lambda method: onward.estimators.ContinuedBPTT(onward.RTRL()),
        size="window",
        text={"cell": "mingru", "hidden_size": 128},
        comparison={"window": 15},
        no_stream="continued is rtrl where learning happens at every event, as in a stream; choose rtrl.",
    ),
    "layerwise": EstimatorEntry(
        "backpropagation within windows, continued forward by RTRL within each layer",
        _layerwise,
        size="window",
        text={"cell": "mingru-block", "hidden_size": 104, "optimizer": "falling", "rate": 2e-3},
        comparison={"window": 15},
    ),
    "rtrl": EstimatorEntry("forward mode, exact", lambda method: onward.RTRL(), text={"hidden_size": 16}),
    "snap": EstimatorEntry(
        "forward mode, influences within a few steps",
        lambda method: onward.SnAp(order=method.order),
        size="order",
        settings={"order": 1},
        text={"hidden_size": 64},
    ),
    "uoro": EstimatorEntry(
        "forward mode, unbiased", lambda method: onward.UORO(), text={"window": 32, "cell_rate_factor": 0.1}
    ),
    "nobacktrack": EstimatorEntry(
        "forward mode, unbiased, a few terms for each unit",
        _nobacktrack,
        size="rank",
        settings={"rank": 2, "per_unit": True},
        text={"hidden_size": 64, "optimizer": "falling"},
    ),
    "lowrank": EstimatorEntry(
        "NoBackTrack's first form, of low rank: unbiased, for any cell",
        lambda method: onward.NoBackTrack(rank=method.rank),
        size="rank",
        settings={"rank": 1},
        text={"window": 32, "cell_rate_factor": 0.1},
    ),
    "fpp": EstimatorEntry(
        "replay of short stretches with trained states",
        lambda method: onward.FPP(method.horizon, method.buffer, method.updates, method.penalty, method.state_rate),
        size="horizon",
        others=("buffer", "updates", "penalty", "state_rate"),
        settings={"horizon": 5, "buffer": 1000, "updates": 1, "penalty": 1.0, "state_rate": 1.0},
        text={"hidden_size": 32, "window": 1, "rate": 1e-3},
        no_stream="fpp replays stretches of one stream and cannot follow events; choose another method.",
        no_audit="fpp replays its past and has no gradient of a stretch; audit another method.",
    ),
}

# For Kalman, a decay of None means 1/√t, and a prior of None means the number of hidden units.
OPTIMIZERS: dict[str, OptimizerEntry] = {
    "sgd": OptimizerEntry(
        "gradient descent at 1/√t",
        _descent,
        {"rate": 1.0, "clip": None},
        "gradient descent {rate}/√t, loss in bits{clip}",
    ),
    "kalman": OptimizerEntry(
        "the quasi-diagonal Kalman step",
        _kalman,
        {"rate": 1.0, "clip": None, "decay": None, "prior": None},
        "quasi-diagonal Kalman, γ = {decay}{prior}{clip}{times}",
    ),
    "adam": OptimizerEntry("Adam", _adam, {"rate": 3e-3, "clip": 1.0}, "Adam {rate}{clip}"),
    "falling": OptimizerEntry(
        f"Adam at a rate that falls, by 1/√(1 + t/{FALLING}) after t updates",
        _falling,
        {"rate": 2e-3, "clip": 1.0},
        f"Adam {{rate}}/√(1 + t/{FALLING}){{clip}}",
    ),
    "rmsprop": OptimizerEntry("RMSProp", _rmsprop, {"rate": 1e-3, "clip": 1.0}, "RMSProp {rate} (decay 0.999){clip}"),
    "fptt": OptimizerEntry(
        "FPTT's regulariser before Adam",
        _adam,
        {"rate": 3e-3, "clip": 1.0, "alpha": 0.1, "beta": 0.5},
        "FPTT (α {alpha}, β {beta}){clip}, Adam {rate}",
        first=lambda method: onward.fptt(method.alpha, method.beta),
    ),
}

TASKS: dict[str, TaskEntry] = {
    "anbn": TaskEntry(
        "aⁿbⁿ with n from K to L", "anbn:K,L", lambda *numbers: onward.tasks.anbn_task(*numbers), 2, "leaky"
    ),
    "brackets": TaskEntry(
        "repeat S letters out of A after K others",
        "brackets:S,K,A",
        lambda *numbers: onward.tasks.brackets_task(*numbers),
        3,
        "leaky",
    ),
    "cue": TaskEntry(
        "which of two letters came before L others", "cue:L", lambda *numbers: onward.tasks.cue_task(*numbers), 1
    ),
    "cycle-world": TaskEntry(
        "a 1 at every P-th step", "cycle-world:P", lambda *numbers: onward.tasks.cycle_world_task(*numbers), 1
    ),
    "memory-chain": TaskEntry(
        "one of C letters that came before L others",
        "memory-chain:L,C",
        lambda *numbers: onward.tasks.memory_chain_task(*numbers),
        2,
    ),
    "music": TaskEntry("synthetic music", "music", lambda: onward.tasks.music_task()),
    "shakespeare": TaskEntry(
        "Shakespeare's works, or the excerpt in the package", "shakespeare", lambda: onward.tasks.shakespeare()
    ),
    "stochastic-world": TaskEntry(
        "a coin that depends on two earlier ones", "stochastic-world", lambda: onward.tasks.stochastic_world_task()
    ),
    "text": TaskEntry(
        "the characters of a file, read once",
        "text:FILE",
        lambda name, path: Text(name, text_file(path).open),
        settings=None,
    ),
}
