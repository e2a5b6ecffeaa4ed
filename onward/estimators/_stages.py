"""A cell taken apart into stages, layers and embeddings, that move one after another at each step."""

from abc import abstractmethod
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ..cells import AbstractAffineGatedCell, AbstractCell, AdaptedCell, EmbeddedCell, StackedCell
from ..cells.affine import linearize
from ..cells.initial_state import Starting
from ..support.freezing import is_frozen, thaw
from ..support.trees import total
from ..transforms.quasi_diagonal import Block, QuasiDiagonal
from ._jacobians import cell_gradient, learned, learned_rows, own_unit_jacobian, reads_of, unit_derivatives

# Tangents of a stage's state: one array `[..., size]` for each component. Its size is the number of units.
Tangents = list[Float[Array, "..."]]
# Numbers for each weight: one array `[..., rows, units, features]` for each group.
Weights = tuple[Float[Array, "..."], ...]


class Move(NamedTuple):
    """One step of a stage, with its derivatives.

    * `after`, `output`: the next state, and what the next stage reads of it;
    * `own`: for each component, the influence of each unit's weights on the unit itself, as far as it comes from the
      unit's own previous state and from this step. For a stage without a state, the influence on its output;
    * `others`: what each unit does to the others: for each component that the other units read, by its number, the
      tangents of the state after, `[units, units]`, with zeros on the diagonal;
    * `to_next`: the components that the next stage reads, by their numbers;
    * `push`: from tangents of the state before and of the input to tangents of the state after; `None` stands for
      zeros;
    * `read`: from tangents of the state after to tangents of the output.
    """

    after: PyTree
    output: Array
    own: list[Weights]
    others: dict[int, Tangents]
    to_next: list[int]
    push: Callable[[Tangents | None, Array | None], Tangents]
    read: Callable[[Tangents], Array]


class AbstractStage(eqx.Module):
    """A part of a cell. Each of its trainable weights belongs to a unit.

    `where` is a function from the whole cell to what learns here.
    """

    where: eqx.AbstractVar[Callable[[PyTree], PyTree]]

    @property
    @abstractmethod
    def weights(self) -> Weights:
        """The trainable weights, in groups of rows `[rows, units, features]`."""

    @abstractmethod
    def read_by_others(self, hidden: PyTree) -> list[int]:
        """The components of a unit's state that the other units of the stage read."""

    @abstractmethod
    def read_by_next(self, hidden: PyTree) -> list[int]:
        """The components of a unit's state that the next stage reads, if there is one."""

    @abstractmethod
    def move(self, hidden: PyTree, own: list[Weights], x: Array) -> Move:
        """One step. `own` is the influence of each unit's weights on the unit itself before."""

    @abstractmethod
    def gradient(self, grads: Weights) -> PyTree:
        """A gradient shaped like `where(cell)`, from one shaped like `weights`."""

    @abstractmethod
    def metric(self, part: QuasiDiagonal) -> list[Block]:
        """The metric of the weights, group by group, from the metric of `where(cell)`."""


class Layer(AbstractStage):
    """An affine-gated cell."""

    where: Callable[[PyTree], PyTree]
    cell: AbstractAffineGatedCell
    output: Callable[[PyTree], Array]

    @property
    def weights(self):
        return learned(self.cell)

    def read_by_others(self, hidden):
        return [] if self.cell.unit_wise else _read_by(thaw(self.cell).recurrent, hidden)

    def read_by_next(self, hidden):
        return _read_by(self.output, hidden)

    def move(self, hidden, own, x):
        cell = thaw(self.cell)
        after, rows = linearize(cell, hidden, x)
        direct, slopes = unit_derivatives(cell, hidden, x)
        direct, slopes = [jax.tree.leaves(column) for column in direct], jax.tree.leaves(slopes)

        def through(columns):
            """`Σ_r D_r W_r` over some columns of the weights, `[units, columns]` for each component of the state."""
            picked = [columns(group, W) for group, W in zip(cell.groups, cell.weights, strict=True)]

            def product(*factors):
                pairs = zip(factors, picked, strict=True)
                return total(jnp.sum(D[..., None] * W, 0) for D, W in pairs if W is not None)

            return jax.tree.leaves(jax.tree.map(product, *rows.factors))

        def of_state(group, W):
            return W[..., : cell.hidden_size] if group.sees_hidden else None

        def of_input(group, W):
            return W[..., group.sees_hidden * cell.hidden_size : -1] if group.sees_input else None

        by_state = [] if cell.unit_wise else through(of_state)

        def push(tangents, below):
            terms = []
            if tangents is not None:
                columns = zip(*direct, strict=True)
                terms += [[total(D * v for D, v in zip(column, tangents, strict=True)) for column in columns]]
            if tangents is not None and by_state:
                features = total(slope * v for slope, v in zip(slopes, tangents, strict=True))
                terms += [[features @ T.T for T in by_state]]
            if below is not None:
                terms += [[below @ T.T for T in through(of_input)]]
            return [total(term) for term in zip(*terms, strict=True)]

        def others(component):
            return [without_diagonal((T * slopes[component]).T) for T in by_state]

        mixing = {s: others(s) for s in self.read_by_others(hidden)}
        jacobian = [jax.tree.leaves(column) for column in own_unit_jacobian(cell, hidden, x, rows)]
        fresh = learned_rows(self.cell, rows).per_component()

        def carried(s):
            old = [tuple(J[s][:, None] * M for M in groups) for J, groups in zip(jacobian, own, strict=True)]
            new = tuple(jax.tree.leaves(factor)[s] for factor in fresh)
            return tuple(total(terms) for terms in zip(new, *old, strict=True))

        influence = [carried(s) for s in range(len(direct))] if self.weights else []
        return Move(
            after, self.output(after), influence, mixing, self.read_by_next(hidden), push, _tangents(self.output, after)
        )

    def gradient(self, grads):
        return cell_gradient(self.cell, grads)

    def metric(self, part):
        return part.blocks


class Embedding(AbstractStage):
    """The embedding of an `EmbeddedCell`: a unit for each number of a vector, with a weight for each symbol."""

    where: Callable[[PyTree], PyTree]
    cell: EmbeddedCell

    @property
    def weights(self):
        return () if is_frozen(self.cell.embedding) else (self.cell.embedding.T[None],)

    def read_by_others(self, hidden):
        return []

    def read_by_next(self, hidden):
        return [0]

    def move(self, hidden, own, x):
        vectors = thaw(self.cell)
        symbols, size = vectors.embedding.shape
        symbol = (jnp.arange(symbols) == x).astype(vectors.embedding.dtype)
        influence = [(jnp.broadcast_to(symbol, (1, size, symbols)),)]
        return Move((), vectors.embed(x), influence, {}, [0], lambda tangents, below: [], lambda tangents: tangents[0])

    def gradient(self, grads):
        return grads[0][0].T

    def metric(self, part):
        inverse = 1 / (part.diagonal.T[None] + part.prior)  # every number is a block of its own
        return [Block(jnp.zeros_like(inverse), inverse, inverse[..., -1:])]


class OtherCell(AbstractStage):
    """A cell of any other kind. Its weights, if it has any, belong to no unit."""

    where: Callable[[PyTree], PyTree]
    cell: AbstractCell
    output: Callable[[PyTree], Array]

    @property
    def weights(self):
        return ()

    def read_by_others(self, hidden):
        return []

    def read_by_next(self, hidden):
        return []

    def move(self, hidden, own, x):
        cell = thaw(self.cell)
        after = cell(hidden, x)

        def push(tangents, below):
            many = (below if tangents is None else tangents[0]).shape[:-1]
            if tangents is None:
                tangents = [jnp.zeros((*many, h.size), h.dtype) for h in jax.tree.leaves(hidden)]
            below = jnp.zeros((*many, *x.shape), x.dtype) if below is None else below

            def along(tangents, below):
                moved = jax.jvp(cell, (hidden, x), (_shaped(tangents, hidden), below))[1]
                return [leaf.reshape(-1) for leaf in jax.tree.leaves(moved)]

            return _over_many(along, len(many))(tangents, below)

        return Move(after, self.output(after), [], {}, [], push, _tangents(self.output, after))

    def gradient(self, grads):
        raise NotImplementedError("no weight of this cell belongs to a unit.")

    def metric(self, part):
        return []


def stages_of(cell: AbstractCell, hidden: PyTree) -> tuple[list[AbstractStage], list[PyTree]]:
    """The stages of a cell in the order in which they move, and the state of each. An embedding has none."""
    stages, states = zip(*_taken_apart(cell, hidden, thaw(cell).output, lambda whole: whole), strict=True)
    return list(stages), list(states)


def _taken_apart(cell, hidden, output, where):
    if isinstance(cell, StackedCell):
        for l, (layer, state) in enumerate(zip(cell.layers, hidden, strict=True)):
            yield from _taken_apart(layer, state, thaw(layer).output, lambda whole, l=l: where(whole).layers[l])
    elif isinstance(cell, EmbeddedCell):
        yield Embedding(lambda whole: where(whole).embedding, cell), ()
        yield from _taken_apart(cell.cell, hidden, output, lambda whole: where(whole).cell)
    elif isinstance(cell, AdaptedCell) and isinstance(cell.step, AbstractCell):
        yield from _taken_apart(cell.step, hidden, output, lambda whole: where(whole).step)
    elif isinstance(cell, AbstractAffineGatedCell):
        yield Layer(where, cell, output), hidden
    else:
        yield OtherCell(where, cell, output), hidden


def without_units(cell: AbstractCell) -> str | None:
    """The name of a part of the cell whose trainable parameters belong to no units; `None` if there is no such part."""
    cell = cell.cell if isinstance(cell, Starting) else cell
    stages, _ = stages_of(cell, thaw(cell).init_hidden())
    others = (stage.cell for stage in stages if isinstance(stage, OtherCell) and jax.tree.leaves(learned(stage.cell)))
    return next((type(other).__name__ for other in others), None)


def without_diagonal(matrices: Float[Array, "*many units units"]) -> Float[Array, "*many units units"]:
    """The matrices with zeros on the diagonal."""
    return jnp.where(jnp.eye(matrices.shape[-1], dtype=bool), 0, matrices)


def _read_by(function, hidden):
    return [component for component, is_read in enumerate(reads_of(function, hidden)) if is_read]


def _tangents(output, after):
    """The map from tangents of a state to those of its output."""

    def along(tangents):
        return jax.jvp(output, (after,), (_shaped(tangents, after),))[1]

    return lambda tangents: _over_many(along, tangents[0].ndim - 1)(tangents)


def _shaped(tangents: Tangents, hidden: PyTree) -> PyTree:
    leaves, structure = jax.tree.flatten(hidden)
    return structure.unflatten([v.reshape(h.shape) for v, h in zip(tangents, leaves, strict=True)])


def _over_many(function, axes):
    for _ in range(axes):
        function = jax.vmap(function)
    return function
