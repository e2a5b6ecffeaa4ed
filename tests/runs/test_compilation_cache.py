"""Compiled programs are kept between runs, and a damaged one is compiled anew."""

import os

import jax
import jax.numpy as jnp
import pytest

from onward.cli.compilation_cache import compilation_cache


@pytest.mark.empties_caches
def test_compiled_programs_are_kept_and_a_damaged_cache_heals(tmp_path, monkeypatch, recwarn):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def compile_again():
        jax.clear_caches()
        with compilation_cache():
            assert jax.jit(lambda x: jnp.sin(x) + 1)(jnp.zeros(())) == 1
        return list(tmp_path.rglob("*-cache"))

    entries = compile_again()
    assert entries
    assert compile_again() == entries
    for entry in entries:
        os.truncate(entry, entry.stat().st_size // 2)
    assert not compile_again()
    assert sorted(compile_again()) == sorted(entries)
    assert not [warning for warning in recwarn if "compilation cache" in str(warning.message)]
