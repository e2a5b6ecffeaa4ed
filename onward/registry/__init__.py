"""The registry: what the names of methods, cells and tasks mean, in every command and in the experiments.

`table` has an entry for every name: add a cell, an estimator, an optimiser or a task there. `methods` and `tasks` hold
the syntax and the jobs; like the table, they load without JAX, so that help and error messages come at once. `build`
makes the objects.
"""
