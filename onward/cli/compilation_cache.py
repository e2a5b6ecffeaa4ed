"""A cache of compiled programs, in the user's cache folder, that later commands use."""

import platform
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..support.cache_folder import cache_folder


@contextmanager
def compilation_cache() -> Iterator[None]:
    """A context in which JAX stores compiled programs and reads them again the next time.

    JAX does not write entries atomically and never replaces one. If a kill cut an entry short, it would stay unreadable
    for ever. So if an entry cannot be read, all entries are deleted.
    """
    import jax
    from jax.experimental.compilation_cache.compilation_cache import reset_cache

    # One cache per machine: compiled programs are for one processor, and home folders may be shared.
    folder = cache_folder() / "compiled" / f"{platform.node() or 'machine'}-jax-{jax.__version__}"
    options = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}
    _set(options)
    reset_cache()  # JAX reads the options only once
    damaged = False
    show = warnings.showwarning

    def note(message, *rest, **named):
        nonlocal damaged
        if "persistent compilation cache" in str(message):
            damaged = True  # the user need not know; the program was compiled anew
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
