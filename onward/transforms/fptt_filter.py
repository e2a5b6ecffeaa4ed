"""What FPTT's regulariser does to gradients: a linear filter, with its gain, its noise and its stability limit."""

from dataclasses import dataclass

from ..support.arguments import number


@dataclass(frozen=True)
class FPTTFilter:
    """The running form of `onward.fptt` before SGD, with β = ½, as a filter of the gradients g. With a = α η:

        G_q = g_q − λ_q + (c/2) λ_(q−1),    λ_(q+1) = (1 − a) λ_q − ½ (1 − a c) λ_(q−1) + a g_q,

        H(z) = (1 − z⁻¹ + ½ z⁻²) / (1 − (1 − a) z⁻¹ + ½ (1 − a c) z⁻²)

    SGD takes the steps −η G. No average of the weights is left in this: by the recursions of Kag & Saligrama (2021),
    equations (5) and (6), `W̄_q = W_q − λ_(q−1) / (2 α)`. So whatever the regulariser does with SGD, a filter of the
    gradients does.

    **Arguments:** `strength`: a = α η, above 0 and below 5/(2 + c), where the filter becomes unstable; `proximal`: c,
    from 0 to 2. Raises `ValueError` otherwise.

        >>> from onward.transforms import FPTTFilter
        >>> paper, script = FPTTFilter(0.5), FPTTFilter(0.5, proximal=2.0)
        >>> [round(found, 3) for found in (paper.gain, paper.noise, script.gain, script.noise)]
        [0.667, 1.27, 1.0, 1.333]
    """

    strength: float
    proximal: float = 1.0

    def __post_init__(self):
        number("proximal", self.proximal, lambda c: 0 <= c <= 2, "from 0 to 2")
        limit = 5 / (2 + self.proximal)
        number("strength", self.strength, lambda a: 0 < a < limit, f"above 0 and below {limit:.4g}")

    @property
    def gain(self) -> float:
        """What is left of a gradient that stays the same: `H(1) = 1 / (1 + (2 − c) a)`."""
        return 1 / (1 + (2 - self.proximal) * self.strength)

    @property
    def alternating(self) -> float:
        """What becomes of a gradient whose sign alternates: `H(−1) = 5 / (5 − (2 + c) a)`, more than 1."""
        return 5 / (5 - (2 + self.proximal) * self.strength)

    @property
    def noise(self) -> float:
        """The variance of G if the gradients are independent with variance 1: the sum of the squares of the impulse
        response.
        """
        a1, a2 = self.strength - 1, (1 - self.strength * self.proximal) / 2
        # That of a filter of the second order with the numerator 1 − z⁻¹ + ½ z⁻².
        above = 2.25 * (1 + a2) + 3 * a1 + a1**2 - a2 * (1 + a2)
        return above / ((1 - a2) * (1 + a2 - a1) * (1 + a2 + a1))

    @property
    def momentum(self) -> tuple[float, float]:
        """The momentum μ of a heavy ball, `v' = μ v + g`, and the factor f of its rate, with the same gain and noise:
        `f/(1 − μ) = gain` and `f²/(1 − μ²) = noise`. A noise above gain² makes μ negative.
        """
        ratio = self.noise / self.gain**2
        mu = (1 - ratio) / (1 + ratio)
        return mu, self.gain * (1 - mu)


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
