"""`onward sample`: text written by a trained network."""

import sys

from ..support.errors import UserError
from ..texts.text import encode
from .sample_options import SampleOptions
from .saved_run import SavedRun, saved_run
from .shown import printable


def sample(options: SampleOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.run is None:
        raise UserError("name a run: onward sample RUN.")
    saved = saved_run(options.run)
    prompt = saved.settings.prompt if options.prompt is None else options.prompt
    encode(prompt, saved.settings.alphabet, name="the prompt")
    text = prompt + _written(saved, prompt, options)
    # A file gets the exact text. A terminal gets no control characters, and a line break at the end.
    print(f"{printable(text)}\n" if sys.stdout.isatty() else text, end="")
    return 0


def _written(saved: SavedRun, prompt: str, options: SampleOptions) -> str:
    import jax.random as jr

    from ..texts.sampling import sample_text
    from .build import start_and_sample_keys
    from .compilation_cache import compilation_cache
    from .trained import trained

    settings = saved.settings
    with compilation_cache():
        return sample_text(
            trained(saved).model,
            settings.alphabet,
            prompt=prompt,
            length=settings.sample_length if options.sample_length is None else options.sample_length,
            temperature=settings.sample_temperature if options.temperature is None else options.temperature,
            key=start_and_sample_keys(settings)[1] if options.seed is None else jr.key(options.seed),
        )
