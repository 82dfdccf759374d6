"""Indexes: the interface of lists of row numbers, read in parts; never reads data.

`memory_indexes` has those in memory, `arrays` those on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

__all__ = ["NewIndex", "RowIndex", "Span", "find_last", "runs_of", "spans"]

Int64Array: TypeAlias = npt.NDArray[np.int64]

STEP_ROWS = 2**20
"""Number of entries processed at a time."""


class Span(NamedTuple):
    """Rows ``start .. stop - 1``."""

    start: int
    """The first row."""
    stop: int
    """The row after the last."""


def spans(n_rows: int, step: int | None = None) -> Iterator[Span]:
    """Yield 0 .. n_rows in spans of at most ``step`` rows, by default :data:`STEP_ROWS`.

    >>> [tuple(span) for span in spans(5, 2)]
    [(0, 2), (2, 4), (4, 5)]
    """
    most = STEP_ROWS if step is None else step
    return (Span(lo, min(lo + most, n_rows)) for lo in range(0, n_rows, most))


@runtime_checkable
class RowIndex(Protocol):
    """A list of row numbers, read in parts."""

    @property
    def is_distinct(self) -> bool:
        """Whether no row is named twice, as far as known without a search."""
        ...

    def __len__(self) -> int:
        """Return the number of entries."""
        ...

    def take(self, rows: Int64Array, /) -> Int64Array:
        """Return the entries at ``rows`` (one-dimensional, each within 0 .. len-1)."""
        ...

    def slice(self, lo: int, hi: int, /) -> Int64Array:
        """Return the entries lo .. hi-1."""
        ...

    def find(self, values: Int64Array, /) -> Int64Array:
        """Return the position of each value, or -1; NotInvertibleError if the index repeats values."""
        ...

    def to_json(self) -> object:
        """Return the name of this index in a manifest."""
        ...

    def token(self) -> object:
        """Return JSON that identifies the content."""
        ...


@dataclass(frozen=True, slots=True)
class NewIndex:
    """An index that is computed in parts while it is written."""

    n_rows: int
    """The number of entries."""
    stop: int
    """An upper bound of the entries: the largest entry plus one, or more."""
    slice: Callable[[int, int], Int64Array]
    """Returns the entries lo .. hi-1."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest dtype that holds all entries: unsigned 32-bit, else 64-bit."""
        return np.dtype(np.uint32 if self.stop <= 2**32 else np.int64)


# ------------------------------------------------------------------------------
# Whole indexes, in parts
# ------------------------------------------------------------------------------


def runs_of(index: RowIndex, most: int) -> list[Span] | None:
    """Return the entries as runs that ascend by one, None if there are more than ``most`` runs.

    >>> from storegate_engine.orders import ArrayIndex
    >>> [tuple(run) for run in runs_of(ArrayIndex([3, 4, 5, 9, 5]), 8)]
    [(3, 6), (9, 10), (5, 6)]
    """
    runs: list[Span] = []
    for lo, hi in spans(len(index)):
        rows = index.slice(lo, hi)
        breaks = np.flatnonzero(np.diff(rows) != 1) + 1
        if len(runs) + len(breaks) > most:
            return None
        firsts, lasts = rows[[0, *breaks]].tolist(), rows[[*(breaks - 1), -1]].tolist()
        for first, last in zip(firsts, lasts, strict=True):
            if runs and runs[-1].stop == first:
                runs[-1] = Span(runs[-1].start, last + 1)
            else:
                runs.append(Span(first, last + 1))
    return runs if len(runs) <= most else None


def find_last(index: RowIndex, lo: int, hi: int) -> Int64Array:
    """Return the last position of each of the rows lo .. hi-1, or -1: the entry that counts if rows are replaced.

    >>> from storegate_engine.orders import ArrayIndex
    >>> find_last(ArrayIndex([3, 4, 3]), 2, 5)
    array([-1,  2,  1])
    """
    if index.is_distinct:
        return index.find(np.arange(lo, hi, dtype=np.int64))
    out = np.full(hi - lo, -1, np.int64)
    for first, last in spans(len(index)):
        rows = index.slice(first, last) - lo
        here = np.flatnonzero((rows >= 0) & (rows < hi - lo))
        out[rows[here]] = here + first  # numpy keeps the last of several values for one place
    return out
