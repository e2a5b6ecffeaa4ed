"""BrainTrace on the benchmark's task, as its documentation says to use it: in `multi-step` mode, and online."""

import time
from dataclasses import replace

import brainstate
import braintrace
import jax
import jax.numpy as jnp

from benchmarks.contest import Candidate, Effort
from benchmarks.counts import Sizes, uoro
from benchmarks.methods import steps_for
from benchmarks.online_gradients import STRETCH, Gradient, flat, steps_of
from benchmarks.task import RATE, SYMBOLS, Setting, loss
from benchmarks.timing import Timed

REMARKS = (
    "`vjp_method='multi-step'`, its `ValinaRNNCell` with tanh and a linear readout, a batch of one; its `jit` around a "
    "step for the Python loop, around its `for_loop` for the scan; plain gradient descent written out.",
    "its D-RTRL keeps the diagonal of the recurrent Jacobian, as SnAp(1) does. Its documentation drives UORO in "
    "windows of two steps or more; fed single steps it runs too. Windows of 16 update 16 times less often.",
)

ONLINE_REMARKS = (
    "its `LRUCell` and `GRUCell` as they come, a batch of one, with `D_RTRL` in its default mode (`single-step`), a "
    "gradient and an update of plain gradient descent at every step, its `jit` around its `for_loop`.",
    "the output map of its LRU takes the place of our linear readout; its GRU applies the reset gate before the "
    "product, ours after it, as cuDNN does.",
)
RECURRENT = {"nu_log", "theta_log", "gamma_log", "B_re", "B_im", "Wz", "Wr", "Wh"}  # what its gradient is compared for


class LRUNet(brainstate.nn.Module):
    """Its LRU, whose output map gives the logits."""

    def __init__(self, units: int):
        super().__init__()
        self.cell = braintrace.nn.LRUCell(SYMBOLS, units)

    def update(self, x):
        return self.cell(x)


class GRUNet(brainstate.nn.Module):
    """Its GRU and a linear readout."""

    def __init__(self, units: int):
        super().__init__()
        self.cell = braintrace.nn.GRUCell(SYMBOLS, units)
        self.readout = braintrace.nn.Linear(units, SYMBOLS)

    def update(self, x):
        return self.readout(self.cell(x))


ONLINE = {"LRU": LRUNet, "GRU": GRUNet}


class Net(brainstate.nn.Module):
    """Recurrent cell and linear readout."""

    def __init__(self, units: int):
        super().__init__()
        self.cell = braintrace.nn.ValinaRNNCell(SYMBOLS, units, activation="tanh")
        self.readout = braintrace.nn.Linear(units, SYMBOLS)

    def update(self, x):
        return self.readout(self.cell(x))


def candidates(setting: Setting, effort: Effort) -> list[Candidate]:
    """D-RTRL, and UORO with an update every step, every second and every sixteenth."""
    made = [_candidate("BrainTrace D-RTRL", braintrace.D_RTRL, 1, setting, effort)]
    for window in (1, 2, 16):
        made.append(_candidate(f"BrainTrace UORO, window {window}", braintrace.UORO, window, setting, effort))
    return made


def _candidate(name: str, algorithm, window: int, setting: Setting, effort: Effort) -> Candidate:
    # Guessed to be as slow as our UORO times four, to choose a number of steps only.
    steps = max(32, steps_for(uoro(Sizes.of(setting)), 1, effort.milliseconds) // 4 // 16 * 16)

    def training(steps: int) -> _Training:
        return _Training(Net(setting.units), algorithm, window, setting, steps, vjp_method="multi-step")

    brainstate.random.seed(0)
    scan, loop = training(steps), training(effort.loop_calls // window * window)
    return Candidate(name, scan.in_one_scan(), loop.from_python(), every=window)


class _Training:
    """A compiled learner with its own states, which every repeat starts from anew."""

    def __init__(self, net, algorithm, window: int, setting: Setting, steps: int, **options):
        xs, ys = setting.stream(steps)
        xs = xs[:, None]  # BrainTrace's batch of one
        self.learner = braintrace.compile(net, algorithm, xs[0], batch_size=1, **options)
        self.parameters = self.learner.param_states
        self.states = list(self.learner.states().values())
        self.hidden = net.states(brainstate.HiddenState)
        self.start = [state.value for state in self.states]
        self.steps, self.window = steps, window
        if window > 1:
            xs, ys = (leaf.reshape(steps // window, window, *leaf.shape[1:]) for leaf in (xs, ys))
        self.xs, self.ys = xs, ys

    def in_one_scan(self) -> Timed:
        run = brainstate.transform.jit(lambda xs, ys: brainstate.transform.for_loop(self._step, xs, ys))
        return Timed(lambda: run(self.xs, self.ys), self.steps, self.restart)

    def from_python(self) -> Timed:
        one = brainstate.transform.jit(self._step)
        pieces = jax.block_until_ready(list(zip(self.xs, self.ys, strict=True)))

        def loop():
            value = None
            for x, y in pieces:
                value = one(x, y)
            return value, [state.value for state in self.states]

        return Timed(loop, self.steps, self.restart)

    def restart(self, hidden=None):
        """Puts back all states, then those of the network in `hidden`, by their paths."""
        for state, value in zip(self.states, self.start, strict=True):
            state.value = value
        for path, value in (hidden or {}).items():
            self.hidden[path].value = value

    def gradient(self, xs, ys):
        """The sum of the gradients of these steps, without an update."""
        grads = brainstate.transform.for_loop(lambda x, y: self._gradient(x, y)[0], xs, ys)
        return jax.tree.map(lambda leaf: leaf.sum(0), grads)

    def _step(self, x, y):
        """One gradient, one update."""
        grads, value = self._gradient(x, y)
        for path, state in self.parameters.items():
            state.value = jax.tree.map(lambda p, g: p - RATE * g, state.value, grads[path])
        return value

    def _gradient(self, x, y):
        def objective():
            if self.window == 1:
                return loss(self.learner(x)[0], y)
            predictions = self.learner(braintrace.MultiStepData(x))
            return jnp.sum(jax.vmap(loss)(predictions[:, 0], y))

        return brainstate.transform.grad(objective, self.parameters, return_value=True)()


def online(setting: Setting, effort: Effort) -> dict[str, Timed]:
    """Its own cell, with an update at every step."""
    brainstate.random.seed(0)
    steps = steps_of(setting, effort)
    training = _Training(ONLINE[setting.cell](setting.units), braintrace.D_RTRL, 1, setting, steps)
    one_scan = replace(training.in_one_scan(), clock=time.process_time_ns)
    return {f"BrainTrace D-RTRL, its {setting.cell}": one_scan}


def online_gradient(setting: Setting) -> Gradient:
    """Its gradient against backpropagation through the same network."""
    brainstate.random.seed(0)
    net = ONLINE[setting.cell](setting.units)
    training = _Training(net, braintrace.D_RTRL, 1, setting, STRETCH + 1)
    rest = {path: state.value for path, state in training.hidden.items()}

    def both(steps: slice, names: set[str], start):
        """The two gradients of the weights with these names, and the state in which the stretch ends."""
        xs, ys = training.xs[steps], training.ys[steps]

        def summed():
            predictions = brainstate.transform.for_loop(net.update, xs)
            return jnp.sum(jax.vmap(loss)(predictions[:, 0], ys))

        training.restart(start)
        found = training.gradient(xs, ys)
        training.restart(start)
        exact = brainstate.transform.grad(summed, training.parameters)()
        end = {path: state.value for path, state in training.hidden.items()}
        chosen = [path for path in exact if names & set(path)]
        return [flat([grads[path] for path in chosen]) for grads in (found, exact)], end

    stretch, end = both(slice(STRETCH), RECURRENT, rest)
    last = slice(STRETCH, None)
    gates = {"update": "Wz", "reset": "Wr"} if setting.cell == "GRU" else {}
    return Gradient.of(*stretch, **{gate: both(last, {name}, end)[0] for gate, name in gates.items()})
