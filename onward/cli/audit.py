"""`onward audit`: compares a method's gradient with the exact one, in a table."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..registry.method_names import AUDIT, Method
from ..support.errors import UserError
from ..texts.text import Text, blocks, embedded_text, survey, text_file
from .audit_options import AuditOptions
from .saved_run import SavedRun, saved_run
from .settings import chosen_method, text_of_run
from .shown import say


class Audited(NamedTuple):
    """The object of an audit: a method and its name, the run that has the network (`None` for an untrained one), and
    the text with its alphabet.
    """

    name: str
    method: Method
    run: SavedRun | None
    text: Text
    alphabet: str


def audit(options: AuditOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.of is not None and options.of.is_dir():
        return _audit(options, _of_run(options, options.of))
    return _audit(options, _untrained(options))


def _audit(options: AuditOptions, audited: Audited) -> int:
    import jax
    import jax.numpy as jnp
    import jax.random as jr

    from ..audits import audit as compare
    from ..losses import softmax_cross_entropy
    from ..registry.build import build_learner, text_model
    from .build import count_parameters, in_memory
    from .trained import trained

    name, method, run, text, alphabet = audited
    model_key, key = jr.split(jr.key(options.seed))
    stop = options.characters + 1
    characters = np.concatenate(list(blocks(text, alphabet, size=stop, stop=stop)))
    with in_memory(name, method):
        if run is None:
            model, learned = text_model(method, len(alphabet), key=model_key), "untrained"
        else:
            found = trained(run)
            model, learned = found.model, f"after {found.characters:,} characters"
        learner = build_learner(method)
        table = compare(
            learner.estimator,
            model,
            softmax_cross_entropy,
            jax.nn.one_hot(characters[:-1], len(alphabet)),
            jnp.asarray(characters[1:]),
            key=key,
            samples=options.samples,
            chunk=learner.chunk,
        )
    keys = f"{table.samples} random keys" if table.samples > 1 else "nothing random"
    say(
        f"{name}, {method.cell} with {method.hidden_size} units, {count_parameters(model):,} parameters, {learned}: "
        f"{len(characters) - 1} characters, {keys}\n\n{table}"
    )
    return 0


def _chosen(options: AuditOptions, name: str, **run: Any) -> Method:
    given = {"cell": options.cell, "hidden_size": options.hidden_size}
    return chosen_method(AUDIT, name, rank=options.rank, window=options.window, **(given | run))


def _untrained(options: AuditOptions) -> Audited:
    name = options.method or AUDIT.default
    method = _chosen(options, name)
    text = embedded_text() if options.of is None else text_file(options.of)
    return Audited(name, method, None, text, _alphabet(text, options.characters))


def _of_run(options: AuditOptions, path: Path) -> Audited:
    for option, given in (("--cell", options.cell), ("--hidden-size", options.hidden_size)):
        if given is not None:
            raise UserError(f"{option} is the network's, which the run in {path} has; leave it out.")
    run = saved_run(path)
    text, _ = text_of_run(run.settings, path)
    _alphabet(text, options.characters)
    stored = run.settings.method
    name = options.method or run.settings.method_name
    if options.method is None and options.rank is None and options.window is None:
        AUDIT.parse(name)
        method = stored
    else:
        method = _chosen(options, name, cell=stored.cell, hidden_size=stored.hidden_size)
    return Audited(name, method, run, text, run.settings.alphabet)


def _alphabet(text: Text, characters: int) -> str:
    """The alphabet of the text. Raises `UserError` if the text is not longer than `characters`."""
    found = survey(text, limit=characters + 1)
    if found.characters < characters + 1:
        raise UserError(
            f"--characters must be at most {found.characters - 1}, one less than {text.name} has, got {characters}."
        )
    return found.alphabet
