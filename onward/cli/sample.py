"""`onward sample`: text written by a trained network."""

import sys

import jax.random as jr

from ..support.errors import UserError
from ..texts.sampling import sample_text
from .build import start_and_sample_keys
from .compilation_cache import compilation_cache
from .sample_options import SampleOptions
from .shown import printable
from .trained import trained


def sample(options: SampleOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is None:
        raise UserError("name a run: onward sample RUN.")
    run = trained(options.run)
    settings = run.settings
    prompt = settings.prompt if options.prompt is None else options.prompt
    with compilation_cache():
        written = sample_text(
            run.model,
            settings.alphabet,
            prompt=prompt,
            length=settings.sample_length if options.sample_length is None else options.sample_length,
            temperature=settings.sample_temperature if options.temperature is None else options.temperature,
            key=start_and_sample_keys(settings)[1] if options.seed is None else jr.key(options.seed),
        )
    text = prompt + written
    # A file gets the exact text. A terminal gets no control characters, and a line break at the end.
    print(f"{printable(text)}\n" if sys.stdout.isatty() else text, end="")
    return 0
