"""Bars: what was counted of a variable as bins or classes that all phases have in common, few enough to be drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np

from storegate.report.counting import Counted, joined_histograms
from storegate.report.facts import Bars, Value
from storegate.report.histograms import Histogram
from storegate_engine.table import Variable, longest

__all__ = ["MOST_CLASSES", "bars_of", "shown"]

DType: TypeAlias = np.dtype[Any]

MOST_BINS = 40
"""Most bins of a histogram that is drawn; at least half as many, if the values allow."""
MOST_CLASSES = 50
"""Most classes of a variable that has classes, by its dtype, its transforms or its categories, or is text."""
MOST_VALUES = 20
"""Most different integers that are taken for classes."""
FAR_SHARE = 0.001
"""Share of values at each end that are not drawn if they are far from the others."""
MOST_HUGE = 0.1
"""Share of values that are not drawn because they are huge, beside others."""
FAR_FACTOR = 4
"""How much wider they would make the histogram."""


def bars_of(variables: Mapping[str, Variable], counted: Mapping[str, Counted]) -> Bars | None:
    """Return how often values occur in all phases; None for what cannot be counted so.

    Parameters
    ----------
    variables : mapping of str to Variable
        A variable, by phase; of one-hot rows, their labels.
    counted : mapping of str to Counted
        What was counted.
    """
    texts = {at: of.texts for at, of in counted.items()}
    if any(of.texts is not None for of in counted.values()):
        are_all = all(of.texts is not None or not len(variables[at]) for at, of in counted.items())
        return _of_texts(texts) if are_all else None  # some phase has more than are counted
    whole, huge = (joined_histograms(getattr(of, name) for of in counted.values()) for name in ("histogram", "huge"))
    if whole is None or (huge is not None and huge.total > MOST_HUGE * (whole.total + huge.total)):
        counted = {
            at: replace(of, histogram=joined_histograms([of.histogram, of.huge]), huge=None)
            for at, of in counted.items()
        }
        whole = joined_histograms([whole, huge])
    if whole is None:
        return None
    if (classes := _classes(variables, whole)) is not None:
        return _of_classes(classes, variables, counted)
    bins = _Bins.of(whole)
    counts, below, above = {}, {}, {}
    for at, of in counted.items():
        counts[at], below[at], above[at] = bins.count(of.histogram, whole.exponent)
        if of.huge is not None:
            n_below = sum(n for number, n in zip(of.huge.numbers, of.huge.counts.tolist(), strict=True) if number < 0)
            below[at] += n_below
            above[at] += of.huge.total - n_below
    dtype = next(iter(variables.values())).dtype
    return Bars([shown(dtype, edge) for edge in bins.edges(whole)], counts, False, below, above)


@dataclass(frozen=True, slots=True)
class _Bins:
    """Bins that are drawn, each of as many bins of a histogram."""

    start: int
    """The number of the first bin of the histogram that is drawn."""
    step: int
    """How many of its bins make one."""
    n_bins: int
    """How many are drawn."""

    @classmethod
    def of(cls, whole: Histogram) -> Self:
        """Choose bins from the smallest to the largest value, each of which as many different values may fall into."""
        lo, hi = _without_far(whole)
        places = whole.places[lo:hi] - whole.places[lo]
        # numbers like 0.0, 0.5, 1.0 lie in every n-th bin: others than multiples of n would have more or fewer of them
        lattice = int(np.gcd.reduce(places)) or 1
        n_points = int(places[-1]) // lattice + 1
        per_bin = -(-n_points // MOST_BINS)
        if n_points < MOST_BINS**2:  # where one value more or less in the last bin would be seen
            per_bin = min(range(per_bin, 2 * per_bin + 1), key=lambda per: -n_points % per)
        return cls(whole.first + int(whole.places[lo]), lattice * per_bin, -(-n_points // per_bin))

    def edges(self, whole: Histogram) -> list[int | float]:
        """Return where bins begin, and where the last one ends."""
        return [whole.edge(self.start + at * self.step) for at in range(self.n_bins + 1)]

    def count(self, histogram: Histogram | None, exponent: int) -> tuple[list[int], int, int]:
        """Return how many values of a phase are in each bin, below and above."""
        if histogram is None:
            return [0] * self.n_bins, 0, 0
        return histogram.coarser(exponent).between(self.start, self.step, self.n_bins)


def _without_far(whole: Histogram) -> tuple[int, int]:
    """Return which bins are drawn: not the ends, if they have hardly any values and would take most of the room."""
    far = FAR_SHARE * whole.total
    ends = np.cumsum(whole.counts)
    lo = int(np.searchsorted(ends, far, side="right"))
    hi = int(np.searchsorted(ends, whole.total - far, side="left")) + 1
    drawn = int(whole.places[hi - 1] - whole.places[lo]) + 1
    is_wide = int(whole.places[-1]) + 1 > FAR_FACTOR * max(drawn, MOST_BINS if whole.is_integer else 1)
    return (lo, hi) if is_wide and hi - lo > 1 else (0, len(whole.places))


def _classes(variables: Mapping[str, Variable], whole: Histogram) -> dict[int, str] | None:
    """Return what each number stands for, if numbers are classes."""
    categories = longest(variable.about.categories for variable in variables.values())
    if not all(variable.is_scalar for variable in variables.values()) or not whole.is_integer or whole.exponent:
        return None
    values = whole.numbers
    if categories:
        known = dict(enumerate(map(str, categories)))
        names = {**known, **{value: f"code {value}" for value in values if value not in known}}
        return names if len(names) <= MOST_CLASSES else None
    kinds = {variable.dtype.kind for variable in variables.values()}
    if kinds == {"b"}:
        return {0: "False", 1: "True"}
    if kinds <= set("iu") and 2 <= len(values) <= MOST_VALUES:
        return {value: str(value) for value in values}
    return None


def _of_classes(classes: Mapping[int, str], variables: Mapping[str, Variable], counted: Mapping[str, Counted]) -> Bars:
    counts = {}
    for at, of in counted.items():
        histogram = of.histogram
        inside = {} if histogram is None else dict(zip(histogram.numbers, histogram.counts.tolist(), strict=True))
        counts[at] = [inside.get(value, 0) for value in classes]
    none = dict.fromkeys(counted, 0)
    return Bars(list(classes.values()), counts, True, none, none)


def _of_texts(texts: Mapping[str, Mapping[str, int] | None]) -> Bars | None:
    names = sorted({name for of in texts.values() for name in of or ()})
    if len(names) > MOST_CLASSES:
        return None
    none = dict.fromkeys(texts, 0)
    counts = {at: [(of or {}).get(name, 0) for name in names] for at, of in texts.items()}
    return Bars(names, counts, True, none, none)


def shown(dtype: DType, value: int | float | None) -> Value:
    """Return a value as JSON has it: numbers as they are, ticks of times as texts.

    >>> shown(np.dtype("M8[D]"), 365), shown(np.dtype("f4"), 0.5)
    ('1971-01-01', 0.5)
    """
    if value is None or dtype.kind not in "mM":
        return value
    limits = np.iinfo(np.int64)
    ticks = min(max(int(value), limits.min + 1), limits.max)
    return str(np.array([ticks], np.int64).view(dtype)[0])
