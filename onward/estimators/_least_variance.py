"""The reduction of least variance: m outer products become fewer, and their mean over random signs does not change.

The sum is `M = Σ_a l_a r_aᵀ = L Rᵀ`. For every invertible A, `M = (L A)(R A⁻ᵀ)ᵀ` is a sum of m other outer products.
One of these is the singular value decomposition `M = Σ_k σ_k p_k q_kᵀ`. The reduction keeps the terms with the largest
σ as they are. It mixes all others into one pair with independent signs ε,

    v = Σ_k ε_k √σ_k p_k,    w = Σ_k ε_k √σ_k q_k,    E[v wᵀ] = Σ_k σ_k p_k q_kᵀ,

whose variance is `(Σ_k σ_k)² − Σ_k σ_k²` over the mixed k. No unbiased pair has less, because the first sum is the
nuclear norm. This is the scheme of Benzing, Gauy, Mujika, Martinsson & Steger 2019, *Optimal Kronecker-sum
approximation of real time recurrent learning*.

Only the inner products of the l and of the r are needed. Every operation here acts on arrays over the units of a layer:
each unit has its own sum.
"""

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ..support.smooth import root

SWEEPS = 3  # of Jacobi's rotations, which converge quadratically; what is left costs variance to second order


def reduction(
    left: Float[Array, "m m units"], right: Float[Array, "m m units"], signs: Float[Array, "fewer units"]
) -> tuple[Float[Array, "m terms units"], Float[Array, "m terms units"]]:
    """Coefficients `(A, B)` of the reduced pairs: `v_k = Σ_a A_ak l_a` and `w_k = Σ_a B_ak r_a`.

    `left` and `right` are the inner products of the l and of the r. `signs` are independent signs, one for each pair
    that is to go; of the mixed terms one needs no sign, because only products of two signs matter.
    """
    m, fewer = len(left), len(signs)
    eye = jnp.eye(m, dtype=left.dtype)[..., None]
    both = _materialized(jnp.stack([left, right]))
    lengths = root(jnp.maximum(jnp.sum(both * eye, 1), 0))
    # A product with a factor of zero is zero. Its other factor must not count either.
    alive = jnp.all(lengths > 0, 0)
    lengths = jnp.where(alive, lengths, 0)
    inverse = jnp.where(alive, 1 / jnp.where(alive, lengths, 1), 0)
    correlations = both * inverse[:, :, None] * inverse[:, None, :]
    S, S_right = _factor(jnp.where(eye > 0, 1, correlations))
    size = lengths[0] * lengths[1]
    top = jnp.max(size, 0)  # taken out, so that no square overflows
    size = jnp.where(top > 0, size / jnp.where(top > 0, top, 1), 0)

    # C = S diag(size) S_rightᵀ. Rotations X make the columns of Cᵀ orthogonal: Cᵀ X = Y diag(σ).
    C = jnp.sum(S[:, None] * size * S_right[None], 2)
    C, X = _orthogonal(C, jnp.broadcast_to(eye, C.shape))
    sigma = root(jnp.sum(C * C, 1))

    # A term below rounding is dropped with both factors, so that it adds no noise to the others.
    counts = sigma > 4 * m * jnp.finfo(sigma.dtype).eps * jnp.max(sigma, 0)
    scale = root(jnp.where(counts, sigma * top, 0))
    unscale = jnp.where(counts, 1 / jnp.where(counts, scale, 1), 0)
    mix = _mixed(sigma, signs)
    P = _solve(S, jnp.swapaxes(X, 0, 1))
    Q = jnp.sum(S[:, :, None] * jnp.swapaxes(X, 0, 1)[:, None], 0)
    A = inverse[0][:, None] * jnp.sum((P * scale)[:, :, None] * mix, 1)
    B = lengths[0][:, None] * jnp.sum((Q * unscale)[:, :, None] * mix, 1)
    assert A.shape[1] == m - fewer
    return _materialized(A), _materialized(B)


def _factor(correlations: Float[Array, "sides m m units"]) -> Float[Array, "sides m m units"]:
    """The upper triangular S with `SᵀS` equal to the correlations, its diagonal kept away from 0.

    The bound makes S invertible if vectors are parallel, at a variance a little above the least one. It adds no bias:
    the reduction is unbiased for every invertible S.
    """
    m = correlations.shape[1]
    least = jnp.finfo(correlations.dtype).eps ** (2 / 3)
    rows = []
    for i in range(m):
        pivot = jnp.sqrt(jnp.maximum(correlations[:, i, i], least))[:, None]
        later = jnp.arange(m)[:, None] > i
        row = jnp.where(later, correlations[:, i] / pivot, 0)
        correlations = correlations - row[:, :, None] * row[:, None, :]
        rows.append(jnp.where(jnp.arange(m)[:, None] == i, pivot, row))
    return jnp.stack(rows, 1)


def _solve(S: Float[Array, "m m units"], X: Float[Array, "m columns units"]) -> Float[Array, "m columns units"]:
    """`S⁻¹ X` for an upper triangular S."""
    found = []
    for i in reversed(range(len(S))):
        below = sum((S[i, j] * P for j, P in zip(range(len(S) - 1, i, -1), found, strict=True)), jnp.zeros_like(X[i]))
        found.append((X[i] - below) / S[i, i])
    return jnp.stack(found[::-1])


def _orthogonal(C, X):
    """Rotates the rows of C until they are orthogonal, pair by pair, and the rows of X with them."""
    joined = jnp.concatenate([C, X], 1)
    pairs = jnp.array(list(itertools.combinations(range(len(C)), 2)) * SWEEPS)
    if len(C) == 2:
        joined = _rotated(joined, 0, 1, 2)
    else:  # in a loop: unrolled, XLA on CPU would compute each rotation anew for every one that needs it
        joined = jax.lax.scan(lambda Z, pq: (_rotated(Z, pq[0], pq[1], len(C)), None), joined, pairs)[0]
    return jnp.split(joined, 2, 1)


def _rotated(Z, p, q, m):
    """Rows p and q of Z, rotated so that they are orthogonal in their first m entries."""
    Zp, Zq = Z[p], Z[q]
    a, b = Zp[:m], Zq[:m]
    difference, twice = jnp.sum((b - a) * (b + a), 0), 2 * jnp.sum(a * b, 0)
    # Two rows below rounding stay as they are: derivatives of their angle would overflow.
    counts = jnp.abs(difference) + jnp.abs(twice) > jnp.finfo(Z.dtype).eps ** 2
    below = jnp.abs(difference) + root(jnp.where(counts, difference**2 + twice**2, 1))
    tangent = jnp.where(counts, jnp.where(difference < 0, -twice, twice) / below, 0)
    cosine = 1 / jnp.sqrt(1 + tangent**2)
    sine, row = tangent * cosine, jnp.arange(m)[:, None, None]
    return jnp.where(row == p, cosine * Zp - sine * Zq, jnp.where(row == q, sine * Zp + cosine * Zq, Z))


def _mixed(sigma: Float[Array, "m units"], signs: Float[Array, "fewer units"]) -> Float[Array, "m terms units"]:
    """How much of each term goes into each pair: one term into each of the first pairs, and the smallest ones, with
    their signs, into the last pair.
    """
    m, kept = len(sigma), len(sigma) - len(signs) - 1
    index = jnp.arange(m)
    before = (sigma[:, None] < sigma) | ((sigma[:, None] == sigma) & (index[:, None] > index)[..., None])
    place = jnp.sum(before, 1)
    chosen = (place[:, None] == index[:, None]).astype(sigma.dtype)
    last = chosen[:, kept] + jnp.sum(chosen[:, kept + 1 :] * signs, 1)
    return jnp.concatenate([chosen[:, :kept], last[:, None]], 1)


def _materialized(numbers: Float[Array, "*shape units"]) -> Float[Array, "*shape units"]:
    """The same numbers, as the result of a product with the identity.

    XLA on CPU fuses no products. Otherwise it would compute each number anew wherever it is used: an inner product, or
    a coefficient for every number that it multiplies.
    """
    flat = numbers.reshape(-1, numbers.shape[-1])
    return (jnp.eye(len(flat), dtype=flat.dtype) @ flat).reshape(numbers.shape)
