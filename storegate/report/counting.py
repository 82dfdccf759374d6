"""Counting: what the rows of a variable in a phase are, block by block; knows no tables, and reads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import reduce
from typing import Any, Self, TypeAlias

import numpy as np

from storegate.report.histograms import Histogram
from storegate_engine.arrays import Statistics, Tally, joined
from storegate_engine.table import Moments

__all__ = ["MOST_TEXTS", "Counted", "joined_histograms"]

Array: TypeAlias = np.ndarray[Any, Any]

MOST_TEXTS = 1000
"""Most different texts that are counted one by one."""


HUGE = 2.0**50
"""From here on floats are counted apart: 1e20, which often stands for no value, would widen the bins of all others."""
NOTHING = Statistics()
"""The statistics of no values."""


@dataclass(frozen=True, slots=True, eq=False)
class Counted:
    """Counts of the values of some rows."""

    n_values: int = 0
    """All values, missing ones included."""
    statistics: Statistics = NOTHING
    """The smallest and the largest value, and how many are missing or infinite."""
    moments: Moments | None = None
    """The mean and the variance of finite numbers; None for other values, or no rows."""
    histogram: Histogram | None = None
    """The finite numbers, or the ticks of times; None for other values, or if there is none."""
    huge: Histogram | None = None
    """Finite floats from `HUGE` on, in a histogram of their own, whose bins may be far wider; None if there is none."""
    texts: Mapping[str, int] | None = None
    """How many there are of each text; None for other values, or more than `MOST_TEXTS` different ones."""

    @classmethod
    def of(cls, rows: Array) -> Self:
        """Count the values of rows, which are contiguous."""
        kind = rows.dtype.kind
        values = rows.reshape(-1)
        if not values.size:
            return cls()
        if kind in "UST":
            texts = Counter(_readable(text) for text in values.tolist())
            return cls(values.size, texts=texts if len(texts) <= MOST_TEXTS else None)
        tally = Tally(rows.dtype)
        tally.add(values)
        found = tally.found()
        if kind == "c":
            return cls(values.size, found)
        if kind in "mM":
            ticks = values.view(np.int64)
            ticks = ticks[~np.isnat(values)] if found.n_missing else ticks
            return cls(values.size, found, histogram=Histogram.of(ticks) if ticks.size else None)
        finite = values[np.isfinite(values)] if found.n_missing or found.n_infinite else values
        near, huge = finite, finite[:0]
        if kind == "f" and any(abs(end) >= HUGE for end in (found.least, found.most) if end is not None):
            is_huge = np.abs(finite) >= HUGE
            near, huge = finite[~is_huge], finite[is_huge]
        histogram, apart = (Histogram.of(of) if of.size else None for of in (near, huge))
        return cls(values.size, found, Moments.of(finite, (0,)), histogram, apart)

    def joined(self, other: Self) -> Self:
        """Return the counts of both."""
        if not self.n_values or not other.n_values:
            return self if self.n_values else other
        statistics = joined([self.statistics, other.statistics])
        assert statistics is not None
        moments = None
        if self.moments is not None and other.moments is not None:
            moments = self.moments.joined(other.moments)
        return type(self)(
            self.n_values + other.n_values,
            statistics,
            moments,
            joined_histograms([self.histogram, other.histogram]),
            joined_histograms([self.huge, other.huge]),
            _joined_texts(self.texts, other.texts),
        )


def joined_histograms(histograms: Iterable[Histogram | None]) -> Histogram | None:
    """Return the counts of all; None if there are none."""
    found = [of for of in histograms if of is not None]
    return reduce(Histogram.joined, found) if found else None


def _joined_texts(mine: Mapping[str, int] | None, theirs: Mapping[str, int] | None) -> Mapping[str, int] | None:
    if mine is None or theirs is None:
        return None
    both = Counter(mine)
    both.update(theirs)
    return both if len(both) <= MOST_TEXTS else None


def _readable(text: str | bytes) -> str:
    return text.decode("utf-8", "backslashreplace") if isinstance(text, bytes) else text
