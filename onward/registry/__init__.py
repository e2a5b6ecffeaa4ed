"""The registry: what the names of methods, cells and tasks stand for, in every command and in the experiments.

`methods` and `tasks` hold the names, their syntax and the defaults, and load without JAX, so that help and mistakes are
answered at once. `build` makes the objects. To add a method, a cell, an optimiser or a task, add it to a table in the
first two and to the table of its constructor in `build`; every command, its help and the shell's completion then know
it.
"""
