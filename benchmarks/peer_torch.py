"""PyTorch on the benchmark's task: truncated backpropagation with a window of one, from a Python loop."""

import numpy as np
import torch

from benchmarks.contest import Candidate, Effort
from benchmarks.task import RATE, SYMBOLS, Setting
from benchmarks.timing import Timed

REMARKS = (
    "TBPTT(1) in eager mode, one thread, `set_flush_denormal(True)`; `nn.RNNCell`, `autograd.grad`, and all parameters "
    "updated in one call (`_foreach_add_`).",
)


def candidates(setting: Setting, effort: Effort) -> list[Candidate]:
    """One candidate, which has no compiled loop."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    torch.manual_seed(0)
    cell, readout = torch.nn.RNNCell(SYMBOLS, setting.units), torch.nn.Linear(setting.units, SYMBOLS)
    parameters = [*cell.parameters(), *readout.parameters()]
    xs, ys = setting.stream(effort.loop_calls)
    xs = torch.from_numpy(np.array(xs))[:, None].unbind()
    ys = torch.from_numpy(np.array(ys, np.int64))[:, None].unbind()

    def loop():
        h = torch.zeros(1, setting.units)
        for x, y in zip(xs, ys, strict=True):
            h = cell(x, h.detach())
            value = torch.nn.functional.cross_entropy(readout(h), y)
            grads = torch.autograd.grad(value, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, grads, alpha=-RATE)
        return None

    return [Candidate("torch TBPTT(1)", loop=Timed(loop, len(xs)), every=1)]
