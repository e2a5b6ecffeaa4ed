"""A cache of compiled programs between runs of the command line, in the user's cache folder."""

import platform
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..support.cache_folder import cache_folder


@contextmanager
def compilation_cache() -> Iterator[None]:
    """Inside, JAX keeps what it compiles and takes it from there the next time.

    JAX does not write entries atomically and never replaces one, so an entry that a kill cut short would be read in
    vain for ever: when one cannot be read, all are dropped.
    """
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    # Per machine: compiled programs hold the instructions of one processor, and home folders may be shared.
    folder = cache_folder() / "compiled" / f"{platform.node() or 'machine'}-jax-{jax.__version__}"
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    _set(options)
    reset_cache()  # JAX looks at the options only once
    damaged = False
    show = warnings.showwarning

    def note(message, *rest, **named):
        nonlocal damaged
        if "persistent compilation cache" in str(message):
            damaged = True  # nothing the user need know: it was compiled anew
        else:
            show(message, *rest, **named)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("always", message=".*persistent compilation cache.*")
            warnings.showwarning = note
            yield
    finally:
        _set(before)
        reset_cache()
        if damaged:
            shutil.rmtree(folder, ignore_errors=True)


def _set(options: dict[str, Any]) -> None:
    import jax

    for name, value in options.items():
        jax.config.update(name, value)
