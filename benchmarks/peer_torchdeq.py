"""TorchDEQ on the benchmark's layer: the forward solve, and implicit differentiation by the same iteration."""

import numpy as np
import torch  # type: ignore[reportMissingImports]
import torchdeq  # type: ignore[reportMissingImports]

from benchmarks.timing import Timed

REMARKS = (
    "`get_deq(ift=True)`: its fixed-point iteration forward and backward, relative tolerances as for the others, in "
    "eager mode, one thread, `set_flush_denormal(True)`.",
)


def layer(W: np.ndarray, x: np.ndarray, tolerance: float, calls: int):
    """What to time, the gradient along W, and the most memory that is allocated at once in a call."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    W, x = (torch.from_numpy(np.array(leaf)).requires_grad_() for leaf in (W, x))
    deq = torchdeq.get_deq(
        ift=True,
        f_solver="fixed_point_iter",
        b_solver="fixed_point_iter",
        f_max_iter=200,
        b_max_iter=200,
        f_tol=tolerance,
        b_tol=tolerance,
        f_stop_mode="rel",
        b_stop_mode="rel",
    )

    def once():
        out, _ = deq(lambda z: torch.tanh(z @ W.T + x), torch.zeros(x.shape))
        return torch.autograd.grad((out[-1] ** 2).sum(), (W, x))

    return Timed(lambda: [once() for _ in range(calls)], calls), once()[0].numpy(), _peak(once)


def _peak(call) -> int:
    """The most bytes that a call holds at once, from what the allocator reports."""
    call()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as found:
        call()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = np.cumsum([event.nbytes() for event in sorted(events, key=lambda event: event.start_ns())])
    return int(held.max(initial=0))
