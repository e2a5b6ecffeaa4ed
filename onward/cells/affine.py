"""Affine-gated cells: the structure that makes forward gradients of the common cells cheap, and exact unit by unit.

A cell is affine-gated if it has two parts. First, groups of rows compute `u = W z` from the features
`z = [recurrent(hidden), x, 1]`; a group may leave out the first or the second part. Then a gate acts on each unit
alone: `hidden'_i = gate(hidden_i, u_i)`.

The derivative of unit i with respect to `W` is therefore nonzero only for unit i's own rows, and it is an outer
product, `∂hidden'_i/∂W = D_i ⊗ z`. This product is never formed: `Rows` stores `D` and `z`.
"""

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..support.arguments import at_least_zero, whole
from ..support.smooth import root
from ..support.trees import row_sums, total, without_gradient, zeros_like
from .base import AbstractCell
from .cpu_tuning import recurrent_columns, rows_of_product


class RowGroup(NamedTuple):
    """Rows that share one vector of features: `rows` rows per unit, which see the hidden state, the input, or both."""

    rows: int
    sees_hidden: bool = True
    sees_input: bool = True

    def size(self, input_size: int, hidden_size: int) -> int:
        """The number of features of the group, including the bias."""
        return self.sees_hidden * hidden_size + self.sees_input * input_size + 1


class Rows(eqx.Module):
    """The sparse rows `w_(s,i) = ∂hidden'_(s,i)/∂W = D_(s,i) ⊗ z` of every state component s and unit i, stored as
    factors.

    * `factors`: D of each group, a hidden-shaped tree with leaves `[rows, units]`;
    * `features`: z of each group, `[features]`, or `[rows, units, features]` if each row has its own features.
    """

    factors: tuple[PyTree[Float[Array, "_rows units"]], ...]
    features: tuple[Float[Array, "*#rows_units _features"], ...]

    def norms(self) -> PyTree[Float[Array, " units"]]:
        """`‖w_(s,i)‖` of every component and unit: the root of the sum of `‖D_(s,i)‖² ‖z‖²` over the groups."""

        def norm(*factors):
            return root(
                total(
                    jnp.sum(D**2, 0) * (z @ z) if z.ndim == 1 else jnp.sum(D**2 * row_sums(z**2), 0)
                    for D, z in zip(factors, self.features, strict=True)
                )
            )

        return jax.tree.map(norm, *self.factors)

    def inner(self, w: tuple[Float[Array, "_rows units _features"], ...]) -> PyTree[Float[Array, " units"]]:
        """`wᵀ w_(s,i)` of every component and unit."""
        products = [jnp.sum(w_g * z, -1) for w_g, z in zip(w, self.features, strict=True)]
        return jax.tree.map(
            lambda *factors: total(jnp.sum(D * p, 0) for D, p in zip(factors, products, strict=True)), *self.factors
        )

    def combine(
        self, coefficients: PyTree[Float[Array, " units"]]
    ) -> tuple[Float[Array, "_rows units _features"], ...]:
        """`Σ_(s,i) c_(s,i) w_(s,i)`, one array per group."""
        return tuple(
            outer[..., None] * z for outer, z in zip(self.contract_factors(coefficients), self.features, strict=True)
        )

    def contract_factors(self, coefficients: PyTree[Float[Array, " units"]]) -> tuple[Float[Array, "_rows units"], ...]:
        """`Σ_s c_(s,i) D_(s,i)` for each group."""

        def contract(factor):
            terms = jax.tree.map(lambda c, D: c * D, coefficients, factor)
            return total(jax.tree.leaves(terms))

        return tuple(contract(factor) for factor in self.factors)

    def per_component(self) -> tuple[PyTree[Float[Array, "_rows units _features"]], ...]:
        """The rows as full arrays over their own unit's parameters, `D_(s,i) ⊗ z`: what SnAp-1 stores."""
        return tuple(
            jax.tree.map(lambda D, z=z: D[..., None] * z, factor)
            for factor, z in zip(self.factors, self.features, strict=True)
        )


class AbstractAffineGatedCell(AbstractCell):
    """A cell whose rows are affine in features of its state and input, followed by a gate that acts unit by unit.

    Subclasses declare `groups` and define `recurrent` and `gate`, which act on each unit alone. All parameters are in
    `weights`: one array `[rows, units, features]` per group, with the features in the order
    `[recurrent(hidden), x, 1]`. Any other array of the cell is a constant, and its gradient is zero. The initial state
    must not depend on an array that learns. All leaves of the hidden state have the shape `[units]`.
    """

    weights: tuple[Float[Array, "_rows units _features"], ...]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    groups: ClassVar[tuple[RowGroup, ...]]

    @property
    def unit_wise(self) -> bool:
        """Whether no group of rows sees the hidden state, so that each unit feeds back only on itself, through the
        gate.
        """
        return not any(group.sees_hidden for group in self.groups)

    @abstractmethod
    def recurrent(self, hidden: PyTree[Float[Array, " units"]]) -> Float[Array, " units"]:
        """The part of the features that comes from the state. Its unit i may depend only on unit i of the state."""

    @property
    def complex_rows(self) -> tuple[bool, ...]:
        """For each group, whether its two rows are the real and the imaginary part of one complex row. Then the
        influence of one of them gives that of the other, and `RTRL` and `SnAp` take half the memory and less time.

        This needs a unit-wise cell whose state is a complex number h, and a gate that is complex-differentiable in h
        and in the complex row u, such as `h' = λ h + c u` with complex λ and c. The two rows are in the order of the
        state's leaves. A cell that says so of another gate is refused. A subclass of `LRUCell` with another gate sets
        `complex_rows = (False, False)`.
        """
        return (False,) * len(self.groups)

    @abstractmethod
    def gate(
        self, hidden: PyTree[Float[Array, " units"]], preactivations: tuple[tuple[Float[Array, " units"], ...], ...]
    ) -> PyTree[Float[Array, " units"]]:
        """The next hidden state, computed unit by unit from the hidden state and the rows of `W z` of each group."""

    def features(self, hidden: PyTree, x: Float[Array, " inputs"]) -> tuple[Float[Array, " _features"], ...]:
        """`z` of each group."""
        a = self.recurrent(hidden)
        one = jnp.ones(1, a.dtype)

        def assemble(group):
            return jnp.concatenate([a] * group.sees_hidden + [x] * group.sees_input + [one])

        return tuple(assemble(group) for group in self.groups)

    def __call__(self, hidden: PyTree, x: Float[Array, " inputs"]) -> PyTree:
        check_input(self, x)
        return self.gate(hidden, preactivations(self, self.features(hidden, x)))


def check_input(cell: AbstractAffineGatedCell, x) -> None:
    """Raises `ValueError` if `x` has the wrong shape or dtype, before JAX reports shapes from deep inside."""
    dtype = cell.weights[0].dtype
    if jnp.shape(x) != (cell.input_size,) or jnp.result_type(x) != dtype:
        raise ValueError(
            f"x: {type(cell).__name__} reads {dtype} arrays of shape ({cell.input_size},), "
            f"got {jnp.result_type(x)} of shape {jnp.shape(x)}."
        )


def preactivations(
    cell: AbstractAffineGatedCell, z: tuple[Array, ...]
) -> tuple[tuple[Float[Array, " units"], ...], ...]:
    """The rows of `W z` of each group, from its features."""
    return tuple(rows_of_product(W, z_g) for W, z_g in zip(cell.weights, z, strict=True))


class SideBySide(eqx.Module):
    """A cell laid out for one step of many examples, each with its own state and input: the same as `jax.vmap(cell)`.

    For an affine-gated cell, the products with the states of all groups are one matrix product, and so are the products
    with the inputs. No example's features are concatenated. Build this object once, outside the loop: the loop then
    reads the weights and sums their gradient without copying them. Taking the biases out of the weights inside the loop
    is slow, see `benchmarks/results/xla-on-cpu.md`, "Products and sums".

    * `by_state`, `by_input`: the weights of all groups that see the state or the input,
      `[its size, rows of all groups × units]`;
    * `biases`: one array `[rows, units]` per group.
    """

    cell: AbstractCell
    by_state: Float[Array, "units _rows"] | None = None
    by_input: Float[Array, "inputs _rows"] | None = None
    biases: tuple[Float[Array, "_rows_g units"], ...] = ()

    def __init__(self, cell: AbstractCell):
        self.cell = cell
        if isinstance(cell, AbstractAffineGatedCell):
            n = cell.hidden_size
            groups = list(zip(cell.weights, cell.groups, strict=True))
            self.by_state = _side_by_side([W[..., :n] for W, group in groups if group.sees_hidden])
            self.by_input = _side_by_side(
                [W[..., group.sees_hidden * n : -1] for W, group in groups if group.sees_input]
            )
            self.biases = tuple(W[..., -1] for W in cell.weights)
            self.cell = without_gradient(cell)

    def __call__(self, hidden: PyTree, x: Array) -> PyTree:
        cell = self.cell
        if not isinstance(cell, AbstractAffineGatedCell):
            return jax.vmap(cell)(hidden, x)
        check_input(cell, jax.ShapeDtypeStruct(x.shape[1:], x.dtype))
        by_state = iter(_split(jax.vmap(cell.recurrent)(hidden), self.by_state, cell.hidden_size))
        by_input = iter(_split(x, self.by_input, cell.hidden_size))

        def preactivation(group, bias):
            u = jnp.broadcast_to(bias, (len(x), cell.hidden_size))
            if group.sees_hidden:
                u = u + next(by_state)
            return u + next(by_input) if group.sees_input else u

        u = tuple(
            tuple(preactivation(group, bias) for bias in biases)
            for group, biases in zip(cell.groups, self.biases, strict=True)
        )
        return jax.vmap(cell.gate)(hidden, u)


def _split(seen: Array, weights: Array | None, units: int) -> list[Array]:
    """The products of `seen` with the rows of all groups that see it, in order."""
    return [] if weights is None else jnp.split(seen @ weights, weights.shape[1] // units, axis=1)


def _side_by_side(weights: list[Array]) -> Array | None:
    """The weights `[rows, units, features]` of several groups as one array `[features, rows of all groups × units]`."""
    # Not its transpose: XLA on CPU computes the gradient of this layout faster.
    return jnp.concatenate([W.reshape(-1, W.shape[-1]).T for W in weights], axis=1) if weights else None


def linearize(cell: AbstractAffineGatedCell, hidden: PyTree, x: Array) -> tuple[PyTree, Rows]:
    """One step and its sparse rows: `(hidden', Rows)`."""
    z = cell.features(hidden, x)
    u = preactivations(cell, z)
    return cell.gate(hidden, u), Rows(gate_factors(cell, hidden, u), z)


def gate_factors(cell: AbstractAffineGatedCell, hidden: PyTree, u: tuple[tuple[Array, ...], ...]) -> tuple[PyTree, ...]:
    """`D`: the derivative of each state component of a unit with respect to each of the unit's own pre-activations."""

    # The gate acts unit by unit, so one forward derivative along a vector of ones gives the whole diagonal.
    def along(group, row):
        def gate(u_r):
            rows = [list(u_g) for u_g in u]
            rows[group][row] = u_r
            return cell.gate(hidden, tuple(map(tuple, rows)))

        return jax.jvp(gate, (u[group][row],), (jnp.ones_like(u[group][row]),))[1]

    def factor(group):
        rows = [along(group, row) for row in range(len(u[group]))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    return tuple(factor(group) for group in range(len(u)))


def gate_by_state(
    cell: AbstractAffineGatedCell, hidden: PyTree, u: tuple[tuple[Array, ...], ...]
) -> tuple[PyTree, ...]:
    """The gate's derivative with respect to the state of the same unit: `∂hidden'/∂hidden_s'` for each component s',
    hidden-shaped.
    """
    leaves, structure = jax.tree.flatten(hidden)

    def column(component):
        tangent = [jnp.ones_like(h) if s == component else jnp.zeros_like(h) for s, h in enumerate(leaves)]
        return jax.jvp(lambda h: cell.gate(h, u), (hidden,), (structure.unflatten(tangent),))[1]

    return tuple(column(component) for component in range(len(leaves)))


def recurrent_by_state(cell: AbstractAffineGatedCell, hidden: PyTree) -> tuple[Array, PyTree]:
    """The recurrent features, and their hidden-shaped derivative with respect to each state component of their unit."""
    a, pullback = jax.vjp(cell.recurrent, hidden)
    return a, pullback(jnp.ones_like(a))[0]


def recurrent_weights(cell: AbstractAffineGatedCell) -> tuple[Float[Array, "_rows units units"] | None, ...]:
    """The columns of each group's weights that multiply the recurrent features; `None` for a group that sees none."""
    return recurrent_columns(cell, cell.weights)


def constants_at_zero(updates: PyTree) -> PyTree:
    """The updates of a model, set to zero for the constants of affine-gated cells, so that weight decay does not move
    them.
    """
    return _with_constants(zeros_like, updates)


def without_constants(tree: PyTree) -> PyTree:
    """The tree with the constants of affine-gated cells replaced by `None`."""
    return _with_constants(lambda cell: jax.tree.map(lambda _: None, cell), tree)


def _with_constants(replaced, tree):
    def only_weights(node):
        if isinstance(node, AbstractAffineGatedCell):
            is_none = lambda leaf: leaf is None  # noqa: E731
            return eqx.tree_at(lambda cell: cell.weights, replaced(node), node.weights, is_leaf=is_none)
        return node

    return jax.tree.map(only_weights, tree, is_leaf=lambda node: isinstance(node, AbstractAffineGatedCell))


def draw_weights(
    groups: tuple[RowGroup, ...], input_size: int, hidden_size: int, *, scale: float, dtype, key: PRNGKeyArray
) -> tuple[Float[Array, "_rows units _features"], ...]:
    """Weights and biases drawn uniformly in ±scale/√units, one array per group."""
    input_size, hidden_size = whole("input_size", input_size), whole("hidden_size", hidden_size)
    limit = at_least_zero("scale", scale) / math.sqrt(hidden_size)
    return tuple(
        jr.uniform(k, (group.rows, hidden_size, group.size(input_size, hidden_size)), dtype, -limit, limit)
        for group, k in zip(groups, jr.split(key, len(groups)), strict=True)
    )
