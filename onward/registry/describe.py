"""Describes a method in words, for tables, and to recognise a sweep when it is resumed."""

from .method_names import Method
from .table import ESTIMATORS, OPTIMIZERS


def describe(method: Method, streams: int = 1) -> str:
    """The estimator with its settings, the network and the optimiser, on one line. A traced setting is written as
    "swept".

    >>> from onward.registry.method_names import COMPARISON
    >>> describe(COMPARISON.method("snap-adam"))
    'snap (order 1), vanilla cell with 20 units, Adam 0.003, norm clipped at 1'
    """
    entry = ESTIMATORS[method.estimator]
    own = [name for name in (entry.size, *entry.others) if name is not None]
    words = ", ".join(f"{name.replace('_', ' ')} {_shown(getattr(method, name))}" for name in own)
    words += " per unit" * (method.per_unit is True)
    network = f"{method.cell} cell with {method.hidden_size} units"
    side_by_side = f", {streams} streams side by side" * (streams > 1)
    return f"{method.estimator}{words and f' ({words})'}, {network}, {_step(method)}{side_by_side}"


def _step(method: Method) -> str:
    rate = _shown(method.rate)
    settings = {name: getattr(method, name) for name in OPTIMIZERS[method.optimizer].settings}
    words = {name: _shown(value) for name, value in settings.items()} | {
        "clip": "" if method.clip is None else f", norm clipped at {method.clip:g}",
        "decay": "1/√t" if method.decay is None else _shown(method.decay),
        "prior": "" if method.prior is None else f", prior {_shown(method.prior)}",
        "times": f", times {rate}" * (rate != "1"),
    }
    return OPTIMIZERS[method.optimizer].described.format_map(words)


def _shown(value) -> str:
    return f"{value:g}" if isinstance(value, float | int) else "swept"
