"""Histograms: counts of numbers in bins whose width is a power of two; one pass, joined in any order; pure.

The bins of all histograms lie on common grids, each of which halves the next coarser one::

    exponent e      |---|---|---|---|---|---|---|---|       bin number i begins at i * 2**e
    exponent e + 1  |-------|-------|-------|-------|       two bins make one, and no value is counted anew

Only bins that have values are kept, so that a few far values take a few bins, and not the room of the others. The
grid is the finest one on which `FINE` bins suffice: nothing has to be known of the values before they are read, what
comes out does not depend on the blocks in which they came, and phases that were counted apart have common bins.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["FINE", "Histogram"]

Array: TypeAlias = np.ndarray[Any, Any]
Int64Array: TypeAlias = npt.NDArray[np.int64]
UInt64Array: TypeAlias = npt.NDArray[np.uint64]
Number: TypeAlias = int | float

FINE = 4096
"""Most bins that have values."""
FINER = 4
"""Bins of a block are first counted on a grid ``2**FINER`` times as fine as one on which all would fit."""
WINDOW = 2**17
"""Values counted together, which stay in a core's cache."""
_LEAST_EXPONENT = -1074  # of the smallest float
_EXACT_BITS = 52  # bin numbers up to 2**52 are exact as floats, with their edges
_SAFE = 2**62


@dataclass(frozen=True, slots=True, eq=False)
class Histogram:
    """Counts of finite numbers.

    Examples
    --------
    >>> found = Histogram.of(np.array([0, 1, 1, 7])).joined(Histogram.of(np.array([1, 1000])))
    >>> found.counts.tolist(), [found.edge(number) for number in found.numbers]
    ([1, 3, 1, 1], [0, 1, 7, 1000])
    >>> found.coarser(3).counts.tolist()
    [5, 1]
    """

    exponent: int
    """Bins are ``2**exponent`` wide; 0 at least for integers."""
    first: int
    """The number of the first bin, which begins at ``first * 2**exponent``."""
    places: UInt64Array
    """How many bins after the first one each bin is that has values, ascending, from 0 on."""
    counts: Int64Array
    """How many values it has, those at its beginning included."""
    is_integer: bool
    """Whether the values are integers, and so the edges."""

    @classmethod
    def of(cls, values: Array) -> Self:
        """Count finite integers, bools or floats, one at least."""
        is_integer = values.dtype.kind in "biu"
        if values.dtype.kind == "b":
            values = values.view(np.uint8)
        least, most = values.min().item(), values.max().item()
        finest = 0 if is_integer else _finest(least, most)
        exponent = max(finest, _fitting(least, most, finest) - FINER)
        first = _number(least, exponent)
        counts = np.zeros(_number(most, exponent) - first + 1, np.int64)
        for lo in range(0, len(values), WINDOW):
            places = _places(values[lo : lo + WINDOW], exponent, first)
            counts += np.bincount(places.astype(np.int64, copy=False), minlength=len(counts))
        held = np.flatnonzero(counts)
        found = cls(exponent, first, held.astype(np.uint64), counts[held], is_integer)
        if len(held) > FINE or exponent == finest:
            return found.fitting()
        return cls._of_few(values, finest, exponent, is_integer)

    @classmethod
    def _of_few(cls, values: Array, finest: int, coarsest: int, is_integer: bool) -> Self:
        """Count values that lie in few places, or far apart, on the finest grid that has few enough bins for them."""
        distinct, counts = np.unique(values, return_counts=True)
        least = distinct[0].item()
        while finest < coarsest:  # fewer bins have values on each coarser grid
            middle = (finest + coarsest) // 2
            places = _places(distinct, middle, _number(least, middle))
            if np.count_nonzero(np.diff(places)) < FINE:
                coarsest = middle
            else:
                finest = middle + 1
        first = _number(least, finest)
        places = _places(distinct, finest, first)
        return cls(finest, first, *_united(places.astype(np.uint64), counts), is_integer)

    @property
    def total(self) -> int:
        """The number of values."""
        return int(self.counts.sum())

    @property
    def numbers(self) -> list[int]:
        """The numbers of the bins that have values, ascending."""
        return [self.first + place for place in self.places.tolist()]

    def edge(self, number: int) -> Number:
        """Return where a bin begins, exactly; the largest float if no float is so large."""
        if self.is_integer:
            return number << self.exponent
        try:
            return math.ldexp(number, self.exponent)
        except OverflowError:
            return math.copysign(sys.float_info.max, number)

    def coarser(self, exponent: int) -> Self:
        """Return the same counts in bins ``2**exponent`` wide, which are no narrower."""
        by = exponent - self.exponent
        if not by:
            return self
        first = self.first >> by
        rest = self.first - (first << by)
        if by < 62 and self.places[-1] < _SAFE:
            places = (self.places + np.uint64(rest)) >> np.uint64(by)
        else:
            places = np.array([(place + rest) >> by for place in self.places.tolist()], np.uint64)
        return type(self)(exponent, first, *_united(places, self.counts), self.is_integer)

    def fitting(self) -> Self:
        """Return the same counts in `FINE` bins or fewer."""
        found = self
        while len(found.counts) > FINE:
            found = found.coarser(found.exponent + 1)
        return found

    def joined(self, other: Self) -> Self:
        """Return the counts of both."""
        exponent = max(self.exponent, other.exponent)
        mine, theirs = self.coarser(exponent), other.coarser(exponent)
        first = min(mine.first, theirs.first)
        places = np.concatenate([of.places + np.uint64(of.first - first) for of in (mine, theirs)])
        order = np.argsort(places, kind="stable")
        counts = np.concatenate([mine.counts, theirs.counts])
        return type(self)(exponent, first, *_united(places[order], counts[order]), self.is_integer).fitting()

    def between(self, start: int, step: int, n_bins: int) -> tuple[list[int], int, int]:
        """Return counts in bins of ``step`` bins each, from number ``start`` on, and how many lie below and above."""
        found = [0] * n_bins
        below = above = 0
        for number, count in zip(self.numbers, self.counts.tolist(), strict=True):
            at = (number - start) // step
            if at < 0:
                below += count
            elif at >= n_bins:
                above += count
            else:
                found[at] += count
        return found, below, above


def _united(places: UInt64Array, counts: Int64Array) -> tuple[UInt64Array, Int64Array]:
    """Return ascending places once each, with the sums of their counts."""
    begins = np.flatnonzero(np.concatenate([[True], places[1:] != places[:-1]]))
    return places[begins], np.add.reduceat(counts, begins)


def _places(values: Array, exponent: int, first: int) -> Array:
    """Return how many bins after the first one each value is."""
    if values.dtype.kind == "f":
        numbers = np.floor(np.ldexp(values.astype(np.float64), -exponent))
        if first < 0:  # a tiny negative one became -0.0
            np.minimum(numbers, -1, out=numbers, where=values < 0)
        numbers -= first
        return numbers
    if exponent >= 64:
        return np.where(values < 0, -1, 0) - first
    # the difference of 64-bit integers may not fit in theirs, but it does in unsigned ones, where it wraps around
    numbers = (values >> exponent).astype(np.int64 if values.dtype.kind == "i" else np.uint64, copy=False)
    return numbers.view(np.uint64) - np.uint64(first % 2**64)


def _number(value: Number, exponent: int) -> int:
    """Return the number of the bin that has a value."""
    if isinstance(value, int):
        return value >> exponent
    number = math.floor(math.ldexp(value, -exponent))
    return min(number, -1) if value < 0 else number  # as in `_places`


def _finest(least: float, most: float) -> int:
    """Return the exponent of the finest grid on which the numbers of floats are exact."""
    largest = max(abs(least), abs(most))
    return max(_LEAST_EXPONENT, math.frexp(largest)[1] - _EXACT_BITS) if largest else _LEAST_EXPONENT


def _fitting(least: Number, most: Number, finest: int) -> int:
    """Return the smallest exponent with which `FINE` adjacent bins hold all values between two."""
    exponent = finest
    if isinstance(least, int) and isinstance(most, int):
        exponent = max(finest, (most - least).bit_length() - FINE.bit_length())
    elif most > least:
        exponent = max(finest, math.frexp(most / 2 - least / 2)[1] - FINE.bit_length())
    while _number(most, exponent) - _number(least, exponent) >= FINE:
        exponent += 1
    return exponent
