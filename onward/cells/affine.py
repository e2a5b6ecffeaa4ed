"""The affine-gated structure, which makes forward gradients of the common cells both cheap and exact per unit.

A cell is affine-gated when its rows fall into groups `u = W z`, the features `z` are `[recurrent(hidden), x, 1]` (or
without the first or the second part), and a gate acts on each unit alone: `hidden'_i = gate(hidden_i, u_i)`. Then the
derivative of unit i with respect to `W` lives on unit i's own rows and is a product, `∂hidden'_i/∂W = D_i ⊗ z`. It is
never formed: `Rows` keeps `D` and `z`.
"""

import math
from abc import abstractmethod
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..support.arguments import whole
from ..support.trees import root, row_sums, total, without_gradient, zeros_like
from .base import AbstractCell
from .cpu_tuning import recurrent_columns, rows_of_product


class RowGroup(NamedTuple):
    """Which rows share one vector of features: `rows` rows a unit, that see the hidden state, the input, or both."""

    rows: int
    sees_hidden: bool = True
    sees_input: bool = True

    def size(self, input_size: int, hidden_size: int) -> int:
        """The number of features of the group, bias included."""
        return self.sees_hidden * hidden_size + self.sees_input * input_size + 1


class Rows(eqx.Module):
    """The sparse rows `w_(s,i) = ∂hidden'_(s,i)/∂W = D_(s,i) ⊗ z`, for every state component s and unit i, never
    formed.

    * `factors`: for each group, a hidden-shaped tree whose leaves are D, `[rows, units]`;
    * `features`: for each group, z, `[features]`; `[rows, units, features]` where each row sees its own.
    """

    factors: tuple[PyTree[Float[Array, "_rows units"]], ...]
    features: tuple[Float[Array, "*#rows_units _features"], ...]

    def norms(self) -> PyTree[Float[Array, " units"]]:
        """`‖w_(s,i)‖` for every component and unit: `‖D_(s,i)‖ ‖z‖`, summed over the groups in quadrature."""

        def norm(*factors):
            return root(
                total(
                    jnp.sum(D**2, 0) * (z @ z) if z.ndim == 1 else jnp.sum(D**2 * row_sums(z**2), 0)
                    for D, z in zip(factors, self.features, strict=True)
                )
            )

        return jax.tree.map(norm, *self.factors)

    def inner(self, w: tuple[Float[Array, "_rows units _features"], ...]) -> PyTree[Float[Array, " units"]]:
        """`wᵀ w_(s,i)` for every component and unit."""
        products = [jnp.sum(w_g * z, -1) for w_g, z in zip(w, self.features, strict=True)]
        return jax.tree.map(
            lambda *factors: total(jnp.sum(D * p, 0) for D, p in zip(factors, products, strict=True)), *self.factors
        )

    def combine(
        self, coefficients: PyTree[Float[Array, " units"]]
    ) -> tuple[Float[Array, "_rows units _features"], ...]:
        """`Σ_(s,i) c_(s,i) w_(s,i)`: one array for each group."""
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
        """The rows written out on their own unit's parameters, `D_(s,i) ⊗ z`: what SnAp-1 keeps."""
        return tuple(
            jax.tree.map(lambda D, z=z: D[..., None] * z, factor)
            for factor, z in zip(self.factors, self.features, strict=True)
        )


class AbstractAffineGatedCell(AbstractCell):
    """A cell whose rows are affine in features of its state and input, followed by a gate that acts unit by unit.

    Subclasses declare `groups`, and define `recurrent` and `gate`, both acting on each unit alone. Every learnable
    number stands in `weights`, one array `[rows, units, features]` a group with the features in the order
    `[recurrent(hidden), x, 1]`; any other array of the cell is a constant and gets a gradient of zero. All leaves of
    the hidden state have the shape `[units]`.
    """

    weights: tuple[Float[Array, "_rows units _features"], ...]
    input_size: int = eqx.field(static=True)
    hidden_size: int = eqx.field(static=True)
    groups: ClassVar[tuple[RowGroup, ...]]

    @property
    def unit_wise(self) -> bool:
        """Whether no group of rows sees the hidden state: the gate alone feeds back, unit by unit."""
        return not any(group.sees_hidden for group in self.groups)

    @abstractmethod
    def recurrent(self, hidden: PyTree[Float[Array, " units"]]) -> Float[Array, " units"]:
        """The part of the features that comes from the state; its unit i depends on unit i of the state alone."""

    @abstractmethod
    def gate(
        self, hidden: PyTree[Float[Array, " units"]], preactivations: tuple[tuple[Float[Array, " units"], ...], ...]
    ) -> PyTree[Float[Array, " units"]]:
        """The next hidden state, unit by unit, from the hidden state and the rows of `W z` of each group."""

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
    """Raise a `ValueError` that says what is wrong with `x`, before JAX raises one about shapes deep inside."""
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
    """A cell laid out for one step of many examples, each from its own state by its own input: as `jax.vmap(cell)`.

    Of an affine-gated cell, what all groups see of the states is one product, and what they see of the inputs another:
    no features are put together example by example. Laid out once outside a loop, the loop reads the weights, and adds
    up their gradient, as they lie; where it must take the biases out of them, 2,708 GRUs of 64 units wait 1.0 ms for
    their gates instead of 0.3.

    * `by_state`, `by_input`: the weights of all groups that see it, `[its size, rows of all groups × units]`;
    * `biases`: for each group, `[rows, units]`.
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
    """The products of what is seen with the rows of all groups that see it, one after another."""
    return [] if weights is None else jnp.split(seen @ weights, weights.shape[1] // units, axis=1)


def _side_by_side(weights: list[Array]) -> Array | None:
    """Weights `[rows, units, features]` of several groups as one array `[features, rows of all groups × units]`."""
    # This way round, not its transpose: XLA on CPU takes half as long for the gradient.
    return jnp.concatenate([W.reshape(-1, W.shape[-1]).T for W in weights], axis=1) if weights else None


def linearize(cell: AbstractAffineGatedCell, hidden: PyTree, x: Array) -> tuple[PyTree, Rows]:
    """One step and its sparse rows: `(hidden', Rows)`."""
    z = cell.features(hidden, x)
    u = preactivations(cell, z)
    return cell.gate(hidden, u), Rows(gate_factors(cell, hidden, u), z)


def gate_factors(cell: AbstractAffineGatedCell, hidden: PyTree, u: tuple[tuple[Array, ...], ...]) -> tuple[PyTree, ...]:
    """`D`: the derivative of each state component of a unit by each of its own pre-activations."""

    # The gate acts unit by unit, so one forward derivative along a row of ones holds the whole diagonal.
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
    """The gate's derivative by its own unit's state: for each component s', a hidden-shaped `∂hidden'/∂hidden_s'`."""
    leaves, structure = jax.tree.flatten(hidden)

    def column(component):
        tangent = [jnp.ones_like(h) if s == component else jnp.zeros_like(h) for s, h in enumerate(leaves)]
        return jax.jvp(lambda h: cell.gate(h, u), (hidden,), (structure.unflatten(tangent),))[1]

    return tuple(column(component) for component in range(len(leaves)))


def recurrent_by_state(cell: AbstractAffineGatedCell, hidden: PyTree) -> tuple[Array, PyTree]:
    """The recurrent features, and their derivative by each state component of the same unit, hidden-shaped."""
    a, pullback = jax.vjp(cell.recurrent, hidden)
    return a, pullback(jnp.ones_like(a))[0]


def recurrent_weights(cell: AbstractAffineGatedCell) -> tuple[Float[Array, "_rows units units"] | None, ...]:
    """The columns of each group's weights that act on the recurrent features, `None` where it does not see them."""
    return recurrent_columns(cell, cell.weights)


def constants_at_zero(updates: PyTree) -> PyTree:
    """Updates of a model, zero for the constants of affine-gated cells: a weight decay must not move them either."""
    return _with_constants(zeros_like, updates)


def without_constants(tree: PyTree) -> PyTree:
    """The tree with `None` for the constants of affine-gated cells."""
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
    """Weights and biases uniform in ±scale/√units, one array a group."""
    input_size, hidden_size = whole("input_size", input_size), whole("hidden_size", hidden_size)
    if not (scale >= 0 and math.isfinite(scale)):
        raise ValueError(f"scale must be finite and not negative, got {scale!r}.")
    limit = scale / math.sqrt(hidden_size)
    return tuple(
        jr.uniform(k, (group.rows, hidden_size, group.size(input_size, hidden_size)), dtype, -limit, limit)
        for group, k in zip(groups, jr.split(key, len(groups)), strict=True)
    )
