"""The registry: what the names of methods, cells and tasks mean, in every command and in the experiments.

`methods` and `tasks` hold the names, their syntax and the defaults. They load without JAX, so that help and error
messages come at once. `build` makes the objects. To add a method, a cell, an optimiser or a task, add it to a table in
`methods` or `tasks` and to the table of constructors in `build`. Every command, its help and shell completion then know
it.
"""
