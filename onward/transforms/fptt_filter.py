"""What FPTT's regulariser does to gradients: a linear filter, with its gain, its noise and its stability limit."""

from dataclasses import dataclass
from typing import Any

from ..support.arguments import number


@dataclass(frozen=True)
class FPTTFilter:
    """The running form of `onward.fptt` before SGD, with β = ½, as a filter of the gradients g. SGD takes the steps
    −η v, with a momentum m. With a = α η:

        G_q = g_q − λ_q + (c/2) λ_(q−1),    v_q = m v_(q−1) + G_q,    λ_(q+1) = λ_q − ½ λ_(q−1) + a v_q,

        H(z) = (1 − z⁻¹ + ½ z⁻²) / (1 − (1 + m − a) z⁻¹ + (½ + m − ½ a c) z⁻² − ½ m z⁻³)

    from g to v. No average of the weights is left in this: by the recursions of Kag & Saligrama (2021), equations (5)
    and (6), `W̄_q = W_q − λ_(q−1) / (2 α)`. So whatever the regulariser does with SGD, a filter of the gradients does.

    **Arguments:** `strength`: a = α η, above 0 and below the number at which the filter becomes unstable, which without
    momentum is 5/(2 + c); `proximal`: c, from 0 to 2; `momentum`: m, at least 0 and below 1. Raises `ValueError`
    otherwise.

        >>> from onward.transforms import FPTTFilter
        >>> paper, script = FPTTFilter(0.5), FPTTFilter(0.5, proximal=2.0)
        >>> [round(found, 3) for found in (paper.gain, paper.noise, script.gain, script.noise)]
        [0.667, 1.27, 1.0, 1.333]
    """

    strength: float
    proximal: float = 1.0
    momentum: float = 0.0

    def __post_init__(self):
        number("proximal", self.proximal, lambda c: 0 <= c <= 2, "from 0 to 2")
        number("momentum", self.momentum, lambda m: 0 <= m < 1, "at least 0 and below 1")
        limit = largest_strength(self.proximal, self.momentum)
        number("strength", self.strength, lambda a: 0 < a < limit, f"above 0 and below {limit:.4g}")

    @property
    def gain(self) -> float:
        """What a gradient that stays the same becomes: `H(1) = 1 / (1 − m + (2 − c) a)`."""
        return 1 / (1 - self.momentum + (2 - self.proximal) * self.strength)

    @property
    def alternating(self) -> float:
        """What a gradient whose sign alternates becomes: `H(−1) = 5 / (5 (1 + m) − (2 + c) a)`."""
        return 5 / (5 * (1 + self.momentum) - (2 + self.proximal) * self.strength)

    @property
    def noise(self) -> float:
        """The variance of v if the gradients are independent with variance 1: the sum of the squares of the impulse
        response. Without momentum it is `(5 + 7a + 6a²) / ((1 + a)² (5 − 3a))` for c = 1, and
        `(5 + 6a) / ((1 + 2a) (5 − 4a))` for c = 2.
        """
        return _noise(self.strength, self.proximal, self.momentum)

    @property
    def matched(self) -> tuple[float, float]:
        """The momentum μ of a heavy ball, `v' = μ v + f g`, and the factor f, with the same gain and noise; see
        `matched_momentum`.
        """
        return matched_momentum(self.strength, self.proximal, self.momentum)


def largest_strength(proximal: float, momentum: float = 0.0) -> float:
    """The number below which a = α η must stay: then all poles of an `FPTTFilter` are within the unit circle.

    It is the least of `5 (1 + m)/(2 + c)`, where the gradient's alternation is no longer damped, and the number at
    which two complex poles leave the circle, `(6 + 2m − 3m²) / (2 (c − m))` for c > m and
    `(2 − 2m + m²) / (2 (m − c))` for c < m.

        >>> largest_strength(1.0), largest_strength(0.0, 0.9)
        (1.6666666666666667, 0.5611111111111111)
    """
    c, m = proximal, momentum
    limits = [5 * (1 + m) / (2 + c)]
    if c > m:
        limits.append((6 + 2 * m - 3 * m**2) / (2 * (c - m)))
    elif c < m:
        limits.append((2 - 2 * m + m**2) / (2 * (m - c)))
    return min(limits)


def matched_momentum(strength: Any, proximal: Any, momentum: Any = 0.0) -> tuple[Any, Any]:
    """The momentum μ of a heavy ball, `v' = μ v + f g`, and the factor f that give it the gain and the noise of an
    `FPTTFilter`: `f/(1 − μ) = gain` and `f²/(1 − μ²) = noise`.

    A noise above gain² makes μ negative. The arguments are those of `FPTTFilter`; arrays are taken number by number,
    and nothing is checked.

        >>> mu, factor = matched_momentum(0.5, 2.0, 0.9)
        >>> found = FPTTFilter(0.5, 2.0, 0.9)
        >>> round(factor / (1 - mu) / found.gain, 9), round(factor**2 / (1 - mu**2) / found.noise, 9)
        (1.0, 1.0)
    """
    gain = 1 / (1 - momentum + (2 - proximal) * strength)
    ratio = _noise(strength, proximal, momentum) / gain**2
    mu = (1 - ratio) / (1 + ratio)
    return mu, gain * (1 - mu)


def _noise(a: Any, c: Any, m: Any) -> Any:
    """The mean square of the filter's output for white noise of variance 1.

    The recursion is that of Åström, Jury & Agniel (1970) for the integral of a rational spectrum: in each round the
    denominator and the numerator lose a term.
    """
    below, above = [1.0, a - 1 - m, 0.5 + m - a * c / 2, -m / 2], [1.0, -1.0, 0.5, 0.0]
    first, total = below[0], 0.0
    while below:
        total = total + above[-1] ** 2 / below[0]
        by, of = below[-1] / below[0], above[-1] / below[0]
        mirrored = below[::-1]
        above = [b - of * r for b, r in zip(above, mirrored, strict=True)][:-1]
        below = [b - by * r for b, r in zip(below, mirrored, strict=True)][:-1]
    return total / first


def largest_fptt_rate(alpha: float, proximal: float = 1.0) -> float:
    """The rate η up to which the running form with one step of SGD per window is stable on a quadratic of curvature 1:

        η = 10 / (5 + 2 (2 + c) α)

    for β = ½ and c from 0 to 2; plain descent is stable up to 2. Beyond it W alternates with a growing amplitude. For a
    curvature h, divide both α and the result by h.

        >>> from onward.transforms import largest_fptt_rate
        >>> largest_fptt_rate(0.5), round(largest_fptt_rate(0.5, proximal=2.0), 4)
        (1.25, 1.1111)
    """
    return 10 / (5 + 2 * (2 + proximal) * alpha)
