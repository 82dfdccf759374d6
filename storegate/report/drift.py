"""Drift: how far the values of two phases are apart, in one number from their counts; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Self, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["MEANING", "Drift", "Verdict"]

Verdict: TypeAlias = Literal["as by chance", "slight", "clear", "strong"]

MEANING = (
    "The distance is Jensen and Shannon's, to base 2, between the shares of two phases in the same bins or classes; "
    "missing and infinite values are classes of their own. It is 0 if all shares are equal, and 1 if no value of one "
    "phase is in a bin of the other. Two random samples of one distribution are about as far apart as the column by "
    "chance says; what clearly exceeds it is slight below 0.1, clear below 0.3, and strong from there on."
)
"""What the number means, for readers of a report."""
SIGMAS = 3.5
"""How unusual a distance must be, so that of a thousand variables none is called different by chance."""


@dataclass(frozen=True, slots=True)
class Drift:
    """How far a variable is apart in two phases."""

    variable: str
    """The variable."""
    first: str
    """The phase that is compared with."""
    second: str
    """The other phase."""
    distance: float
    """The Jensen-Shannon distance, 0 to 1."""
    by_chance: float
    """The root mean square of the distance of random samples of one distribution."""
    verdict: Verdict
    """The distance in words."""

    @classmethod
    def of(
        cls, variable: str, phases: tuple[str, str], counts: tuple[npt.ArrayLike, npt.ArrayLike], n: tuple[int, int]
    ) -> Self:
        """Compare counts of the same bins.

        Parameters
        ----------
        variable : str
            The variable.
        phases : tuple of str
            The phases.
        counts : tuple of array-like, shape (n_bins,)
            How many values each phase has in each bin; one at least.
        n : tuple of int
            How many independent samples each phase has: its rows.
        """
        p, q = (np.asarray(of, np.float64) for of in counts)
        distance = distance_of(p, q)
        n_bins = int(np.count_nonzero(p + q))
        mean, limit = _by_chance(n_bins, *n)
        return cls(variable, *phases, distance, mean, _verdict(distance, limit))


def distance_of(p: npt.NDArray[np.float64], q: npt.NDArray[np.float64]) -> float:
    """Return the Jensen-Shannon distance to base 2 of counts.

    It is the root of a divergence (Lin, Divergence measures based on the Shannon entropy, 1991), and a metric (Endres
    and Schindelin, A new metric for probability distributions, 2003).

    >>> distance_of(np.array([1, 1]), np.array([10, 10])), distance_of(np.array([3, 0]), np.array([0, 5]))
    (0.0, 1.0)
    """
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    divergence = sum(float(np.sum(of[of > 0] * np.log2(of[of > 0] / middle[of > 0]))) for of in (p, q)) / 2
    return math.sqrt(min(1.0, max(0.0, divergence)))


def _by_chance(n_bins: int, n: int, m: int) -> tuple[float, float]:
    """Return the root mean square distance of random samples, and the distance that they hardly ever exceed.

    The divergence of samples of n and m is (1/n + 1/m) / (8 ln 2) times a number that follows chi-squared with one
    degree of freedom less than there are bins (Menendez and others, The Jensen-Shannon divergence, 1997), whose
    quantile is that of Wilson and Hilferty.
    """
    degrees = n_bins - 1
    if not degrees:
        return 0.0, 0.0
    mean = degrees * (1 / n + 1 / m) / (8 * math.log(2))
    spread = 2 / (9 * degrees)
    limit = mean * (1 - spread + SIGMAS * math.sqrt(spread)) ** 3
    return min(1.0, math.sqrt(mean)), min(1.0, math.sqrt(limit))


def _verdict(distance: float, limit: float) -> Verdict:
    if distance <= limit:
        return "as by chance"
    return "slight" if distance < 0.1 else "clear" if distance < 0.3 else "strong"
