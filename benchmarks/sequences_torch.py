"""A process that iterates FPTT in PyTorch: `sequences_torch STEPS WINDOWS UNITS BATCH CORES`."""

import sys
from collections.abc import Callable

from benchmarks.sequences_task import ALPHA, BETA, CLIP, INPUTS, RATE, Sequences, own_cores, serve


def iteration(setting: Sequences, cores: int) -> Callable[[], float]:
    """As in `sequences_onward`: `nn.LSTM` over each window, the fused Adam, the regulariser in place."""
    import torch  # type: ignore[reportMissingImports]

    torch.set_num_threads(cores)
    torch.set_flush_denormal(True)
    n = setting.units
    lstm, readout = torch.nn.LSTM(INPUTS, n), torch.nn.Linear(n, 1)
    cell, out = map(torch.from_numpy, setting.weights())
    with torch.no_grad():
        lstm.weight_hh_l0.copy_(cell[:, :n])
        lstm.weight_ih_l0.copy_(cell[:, n:-1])
        lstm.bias_ih_l0.copy_(cell[:, -1])
        lstm.bias_hh_l0.zero_()
        readout.weight.copy_(out[None, :-1])
        readout.bias.copy_(out[-1:])
    lstm.bias_hh_l0.requires_grad_(False)  # its LSTM has two biases, ours one
    W = [p for p in (*lstm.parameters(), *readout.parameters()) if p.requires_grad]
    optimizer = torch.optim.Adam(W, RATE, fused=True)
    lam, W_bar = [torch.zeros_like(p) for p in W], [p.detach().clone() for p in W]
    xs, sums = map(torch.from_numpy, setting.data())
    windows = xs.split(setting.window)

    def iterate():
        state = (torch.zeros(1, setting.batch, n), torch.zeros(1, setting.batch, n))
        total = 0.0
        for q, window in enumerate(windows, 1):
            states, state = lstm(window, tuple(part.detach() for part in state))
            loss = q / setting.windows * torch.nn.functional.mse_loss(readout(states[-1]), sums)
            grads = torch.autograd.grad(loss, W)
            with torch.no_grad():
                for p, g, multiplier, average in zip(W, grads, lam, W_bar, strict=True):
                    p.grad = g.sub_(multiplier).add_(p - average, alpha=ALPHA)
                torch.nn.utils.clip_grad_norm_(W, CLIP)
                optimizer.step()
                apart = torch._foreach_sub(W, W_bar)
                torch._foreach_add_(lam, apart, alpha=-ALPHA)
                torch._foreach_add_(W_bar, apart, alpha=BETA)
                torch._foreach_add_(W_bar, lam, alpha=-BETA / ALPHA)
            total += float(loss.detach())
        return total

    return iterate


def main() -> None:
    steps, windows, units, batch, cores = map(int, sys.argv[1:])
    own_cores(cores)
    serve(iteration(Sequences(steps, windows, units, batch), cores))


if __name__ == "__main__":
    main()
