"""`onward audit`: a method's gradient against the exact one, as a table."""

import jax
import jax.random as jr
import numpy as np

from ..audits import audit as compare
from ..losses import softmax_cross_entropy
from ..support.errors import UserError
from ..tasks.text import blocks, embedded_text, survey
from .audit_options import AuditOptions
from .build import build_learner, build_model, count_parameters, in_memory
from .methods import DEFAULT_METHOD
from .settings import chosen_method


def audit(options: AuditOptions) -> int:
    """Runs the command and returns its exit code."""
    name = options.method or DEFAULT_METHOD
    method = chosen_method(
        name, cell=options.cell, hidden_size=options.hidden_size, rank=options.rank, window=options.window
    )
    text, stop = embedded_text(), options.steps + 1
    found = survey(text, limit=stop)
    if found.characters < stop:
        raise UserError(f"--steps must be at most {found.characters - 1}, the text's characters, got {options.steps}.")
    alphabet = found.alphabet
    characters = np.concatenate(list(blocks(text, alphabet, size=stop, stop=stop)))
    model_key, key = jr.split(jr.key(options.seed))
    with in_memory(name, method):
        model, learner = build_model(method, len(alphabet), key=model_key), build_learner(method)
        table = compare(
            learner.estimator,
            model,
            softmax_cross_entropy,
            jax.nn.one_hot(characters[:-1], len(alphabet)),
            characters[1:],
            key=key,
            samples=options.samples,
            chunk=learner.chunk,
        )
    keys = f"{table.samples} random keys" if table.samples > 1 else "nothing random"
    print(
        f"{name}, {method.cell} with {method.hidden_size} units, {count_parameters(model):,} parameters, untrained: "
        f"{len(characters) - 1} characters, {keys}\n\n{table}"
    )
    return 0
