"""BrainTrace on the benchmark's task, in its `multi-step` mode and as its documentation says to use it."""

import brainstate
import braintrace
import jax
import jax.numpy as jnp

from benchmarks.contest import Candidate, Effort
from benchmarks.counts import Sizes, uoro
from benchmarks.methods import steps_for
from benchmarks.task import RATE, SYMBOLS, Setting, loss
from benchmarks.timing import Timed

REMARKS = (
    "`vjp_method='multi-step'`, its `ValinaRNNCell` with tanh and a linear readout, a batch of one; its `jit` around a "
    "step for the Python loop, around its `for_loop` for the scan; plain gradient descent written out.",
    "its D-RTRL keeps the diagonal of the recurrent Jacobian, as SnAp(1) does. Its documentation drives UORO in "
    "windows of two steps or more; fed single steps it runs too. Windows of 16 update 16 times less often.",
)


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
    scan = _Training(algorithm, window, setting, steps)
    loop = _Training(algorithm, window, setting, effort.loop_calls // window * window)
    return Candidate(name, scan.in_one_scan(), loop.from_python(), every=window)


class _Training:
    """A compiled learner with its own states, which every repeat starts from anew."""

    def __init__(self, algorithm, window: int, setting: Setting, steps: int):
        xs, ys = setting.stream(steps)
        xs = xs[:, None]  # BrainTrace's batch of one
        brainstate.random.seed(0)
        net = Net(setting.units)
        self.learner = braintrace.compile(net, algorithm, xs[0], batch_size=1, vjp_method="multi-step")
        self.parameters = self.learner.param_states
        self.states = list(self.learner.states().values())
        self.start = [state.value for state in self.states]
        self.steps, self.window = steps, window
        if window > 1:
            xs, ys = (leaf.reshape(steps // window, window, *leaf.shape[1:]) for leaf in (xs, ys))
        self.xs, self.ys = xs, ys

    def in_one_scan(self) -> Timed:
        run = brainstate.transform.jit(lambda xs, ys: brainstate.transform.for_loop(self._step, xs, ys))
        return Timed(lambda: run(self.xs, self.ys), self.steps, self._restart)

    def from_python(self) -> Timed:
        one = brainstate.transform.jit(self._step)
        pieces = jax.block_until_ready(list(zip(self.xs, self.ys, strict=True)))

        def loop():
            value = None
            for x, y in pieces:
                value = one(x, y)
            return value, [state.value for state in self.states]

        return Timed(loop, self.steps, self._restart)

    def _restart(self):
        for state, value in zip(self.states, self.start, strict=True):
            state.value = value

    def _step(self, x, y):
        """One gradient, one update."""

        def objective():
            if self.window == 1:
                return loss(self.learner(x)[0], y)
            predictions = self.learner(braintrace.MultiStepData(x))
            return jnp.sum(jax.vmap(loss)(predictions[:, 0], y))

        grads, value = brainstate.transform.grad(objective, self.parameters, return_value=True)()
        for path, state in self.parameters.items():
            state.value = jax.tree.map(lambda p, g: p - RATE * g, state.value, grads[path])
        return value
