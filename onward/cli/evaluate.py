"""`onward evaluate`: bits per character of another text under a trained network."""

import math
import sys

from ..support.errors import UserError
from ..support.tables import labelled
from ..texts.text import Survey, Text, blocks, survey, text_file
from .evaluate_options import EvaluateOptions
from .saved_run import SavedRun, saved_run
from .settings import check_alphabet, text_of_run
from .shown import say

STATISTICS = 100_000  # characters of the run's text that dynamic evaluation takes its statistics from


def evaluate(options: EvaluateOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is None or options.file is None:
        raise UserError("name a run and a text: onward evaluate RUN FILE.")
    if options.learn and options.dynamic:
        raise UserError("--learn goes on as in training and --dynamic by dynamic evaluation; give one of them.")
    text = text_file(options.file)
    found = survey(text, limit=options.characters)
    saved = saved_run(options.run)
    check_alphabet(text, saved.settings.alphabet, found.characters)
    return _evaluate(options, saved, text, found)


def _evaluate(options: EvaluateOptions, saved: SavedRun, text: Text, found: Survey) -> int:
    import jax.random as jr

    from ..texts.evaluate import BLOCK, WINDOW, evaluate_adapting, evaluate_learning, evaluate_text
    from ..texts.standing import closing_start
    from .build import in_memory
    from .compilation_cache import compilation_cache
    from .progress import ProgressLine
    from .trained import trained

    run, settings, total = trained(saved), saved.settings, found.characters
    size = len(settings.alphabet)
    with (
        compilation_cache(),
        in_memory(settings.method_name, settings.method),
        ProgressLine(start=0, total=total) as progress,
    ):
        if options.learn:
            stream = blocks(text, settings.alphabet, size=settings.block, stop=total)
            key = jr.key(options.seed)
            read = evaluate_learning(run.learner, run.carry, size, stream, total=total, key=key, report=progress.update)
        elif options.dynamic:
            windows = BLOCK - BLOCK % WINDOW
            own, known = text_of_run(settings, options.run or saved.path)
            stop = min(known.characters, STATISTICS)
            read = evaluate_adapting(
                run.model,
                size,
                blocks(text, settings.alphabet, size=windows, stop=total),
                trained_on=blocks(own, settings.alphabet, size=windows, stop=stop),
                total=total,
                key=jr.key(options.seed),
                report=progress.update,
            )
        else:
            stream = blocks(text, settings.alphabet, size=BLOCK, stop=total)
            read = evaluate_text(run.model, size, stream, total=total, report=progress.update)
    if not math.isfinite(read.bits):
        say("onward: the network's predictions are no longer finite; the text cannot be evaluated.", to=sys.stderr)
        return 1
    how = "each learned once it was predicted" if options.learn else "the network fixed"
    how = "adapting by dynamic evaluation" if options.dynamic else how
    rows = [
        ("bits per character", f"{read.bits / total:.3f}   {how}"),
        ("", f"{read.closing_bits / (total - closing_start(total)):.3f}   over the last tenth"),
        ("to compare", f"{found.gzip:.3f}   gzip -9 of the same characters"),
        ("", f"{found.entropy:.3f}   order-0 entropy: knowing only how frequent each is"),
        ("network", settings.describe()),
        ("", f"of {options.run}, after {run.characters:,} characters"),
    ]
    say(f"Read {total:,} characters of {text.name}.\n")
    say("\n".join(labelled(rows)))
    return 0
