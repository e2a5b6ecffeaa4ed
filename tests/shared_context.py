"""One MLIR context for the programs that a test file lowers: making one for each took an eighth of the tests' time.

JAX is patched, and only under the tests. A program that is lowered while another one is, as a constant that is computed
on the way, has a context of its own, and so has all that other threads lower.
"""

import threading

from jax._src.interpreters import mlir


class SharedContext:
    def __init__(self):
        self.make, self.lower = mlir.make_ir_context, mlir.lower_jaxpr_to_module
        self.shared, self.depth = None, 0

    def install(self) -> None:
        mlir.make_ir_context, mlir.lower_jaxpr_to_module = self.make_ir_context, self.lower_jaxpr_to_module

    def forget(self) -> None:
        """The next program begins a new context: one that is kept grows with every program."""
        self.shared = None

    def make_ir_context(self):
        if self.depth != 1 or threading.current_thread() is not threading.main_thread():
            return self.make()
        self.shared = self.shared or self.make()
        return self.shared

    def lower_jaxpr_to_module(self, *args, **kwargs):
        if threading.current_thread() is not threading.main_thread():
            return self.lower(*args, **kwargs)
        self.depth += 1
        try:
            return self.lower(*args, **kwargs)
        finally:
            self.depth -= 1
