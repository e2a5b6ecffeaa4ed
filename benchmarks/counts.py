"""What one step must move and compute, counted from the sizes: the ground that no implementation gets under.

The count is of a best case that XLA does not reach: every array that a step changes is read once and written once (its
update can be applied in the pass that the next step makes over the weights), one that it only reads is read once, and
what is as small as the state, the input or the prediction stays in registers. That the inputs are one-hot is known to
nobody: a product with a vector reads the whole matrix. A multiplication and an addition are two operations.
"""

from dataclasses import dataclass

from benchmarks.task import SYMBOLS, Setting


@dataclass(frozen=True)
class Count:
    """`shared` by all streams of a batch, and for each `stream`: numbers moved, and operations on them, a step."""

    shared_numbers: float
    stream_numbers: float
    shared_operations: float
    stream_operations: float

    def numbers(self, batch: int) -> float:
        return self.shared_numbers + batch * self.stream_numbers

    def bytes(self, batch: int) -> float:
        """In float32."""
        return 4 * self.numbers(batch)

    def operations(self, batch: int) -> float:
        return self.shared_operations + batch * self.stream_operations


@dataclass(frozen=True)
class Sizes:
    """Of a model: units n, components m of the state, weights P of the cell (Q of them recurrent), R of the readout."""

    units: int
    components: int
    weights: int
    recurrent: int
    readout: int

    @classmethod
    def of(cls, setting: Setting) -> "Sizes":
        n = setting.units
        rows, components = {"vanilla": (1, 1), "LSTM": (4, 2)}[setting.cell]
        return cls(n, components, rows * n * (n + SYMBOLS + 1), rows * n * n, SYMBOLS * (n + 1))


def forward(s: Sizes) -> Count:
    """All weights are read; `2 P + 2 R` operations."""
    return Count(s.weights + s.readout, 0, 0, 2 * (s.weights + s.readout))


def _online(s: Sizes, numbers: float, operations: float) -> Count:
    """With an update at every step: weights read and written, forward pass, readout backward; then the method's own."""
    weights = s.weights + s.readout
    return Count(2 * weights, numbers, 2 * weights, 2 * weights + 3 * s.readout + operations)


def backward(chunk: int):
    """BPTT, ARTBP: the weights read forward and, the recurrent ones, backward; the update shared by the chunk."""

    def count(s: Sizes) -> Count:
        P, R, back = s.weights, s.readout, s.recurrent * (chunk - 1) / chunk
        outer = P if chunk == 1 else 2 * P  # adding outer products up over the chunk costs a sum more
        return Count(P + back + P / chunk + 2 * R / chunk, 0, 2 * (P + R) / chunk, 2 * P + 2 * back + outer + 6 * R)

    return count


def sliding(horizon: int):
    """SlidingBPTT: the window forward, the online step in the same pass as its first, and the window backward."""

    def count(s: Sizes) -> Count:
        P, R, back = s.weights, s.readout, s.recurrent * (horizon - 1)
        numbers = horizon * P + back + P + 2 * R
        return Count(numbers, 0, 2 * (P + R), 2 * (horizon + 1) * P + 2 * back + 2 * horizon * P + 5 * R)

    return count


def rtrl(s: Sizes) -> Count:
    """The influence, state × P, read and written; multiplied by the state's Jacobian, and contracted."""
    state = s.units * s.components
    return _online(s, 2 * state * s.weights, 2 * state**2 * s.weights + 2 * state * s.weights)


def uoro(s: Sizes) -> Count:
    """w̃ read and written: norm 2, update 3, contraction 1 operation a number; one Jacobian-vector product."""
    return _online(s, 2 * s.weights, 6 * s.weights + 2 * s.recurrent)


def nobacktrack(rank: int):
    """For each copy, w̄ read and written: norm 2, reduction 3, contraction 2, and a product; then the newest rows."""

    def count(s: Sizes) -> Count:
        return _online(s, 2 * rank * s.weights, rank * (7 * s.weights + 2 * s.recurrent) + 2 * s.weights)

    return count


def kalman_nobacktrack(s: Sizes) -> Count:
    """As rank one, and two numbers of J for each parameter read and written: outer product 5, inverse 7, step 6,
    norms of w̄ and of the features 5 each."""
    learned = s.weights + s.readout
    return _online(s, 2 * s.weights + 4 * learned, 9 * s.weights + 2 * s.recurrent + 18 * learned + 10 * s.weights)


def nobacktrack_blocks(s: Sizes) -> Count:
    """w̄ once, and a v and a product for every unit."""
    v = s.units * s.components * s.units
    return _online(s, 2 * (s.weights + v), 9 * s.weights + s.units * 2 * s.recurrent)


def snap(s: Sizes) -> Count:
    """The influence of each unit's rows on that unit's m components, read and written."""
    m = s.components
    return _online(s, 2 * m * s.weights, m * (2 * m + 1) * s.weights + 2 * m * s.weights)
