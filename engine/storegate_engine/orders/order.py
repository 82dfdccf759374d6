"""Order: what every row order answers, and the plainest one; pure index arithmetic, never reads data.

An order says which stored row stands behind each logical row of a variable. Orders are small immutable values
that nest; an edit of a table (append, replace, shuffle, split) is a new order around the old one::

    Range(start, stop)            stored rows start .. stop-1, as they lie
    Concat((o1, o2, ...))         o1, then o2, ...
    Slice(order, start, stop)     logical rows start .. stop-1 of order
    Permute(order, kind, seed)    row i is row p[i] of order, p the permutation of (kind, len, seed)
    Take(order, index)            row i is row index[i] of order

Every order answers in both directions, for any range, in time proportional to the range: `RowOrder.rows` maps
logical rows to stored rows, `RowOrder.positions` maps stored rows back. Build orders with those of `edits`,
which keep them short; the classes themselves build exactly what they are told. `Concat` is in `concats`, those of one
other order in `nested`. The kinds of permutation are described in `permutations`, lists of rows in `indexes`, the
stored form of an order in `json`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.orders.indexes import RowIndex, Span
from storegate_engine.orders.permutations import MAX_ROW, as_int, as_int64, check_rows

__all__ = [
    "Range",
    "RowOrder",
    "check_order",
    "check_span",
]

Int64Array: TypeAlias = npt.NDArray[np.int64]


def check_span(lo: object, hi: object, n_rows: int) -> Span:
    """Return two row numbers as ints; IndexError unless 0 <= lo <= hi <= n_rows."""
    first, last = as_int(lo, "lo"), as_int(hi, "hi")
    if not 0 <= first <= last <= n_rows:
        raise IndexError(f"rows {first}..{last} asked of {n_rows} rows; it takes 0 <= lo <= hi <= {n_rows}")
    return Span(first, last)


class RowOrder(ABC):
    """A map from logical rows 0 .. len-1 to stored rows: an immutable value, compared by its parts.

    Examples
    --------
    >>> from storegate_engine.orders import Concat
    >>> order = Concat((Range(0, 2), Range(100, 102), Range(4, 6)))
    >>> order.rows(1, 5)
    array([  1, 100, 101,   4])
    >>> [tuple(run) for run in order.runs(0, 6)]
    [(0, 2), (100, 102), (4, 6)]
    >>> order.positions(100, 103)
    array([ 2,  3, -1])
    """

    __slots__ = ()

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of logical rows."""

    @property
    def depth(self) -> int:
        """The number of `Permute` and `Take` levels on the longest path."""
        return self._describe()[0]

    @property
    def bounds(self) -> Span:
        """Stored rows that hold all rows of this order; perhaps wider than needed."""
        return self._describe()[1]

    @property
    @abstractmethod
    def is_injective(self) -> bool:
        """Whether no stored row is named twice, as far as the form tells; then `positions` needs no search."""

    @abstractmethod
    def shifted(self, by: int) -> RowOrder:
        """Return the same order over stored rows that lie ``by`` rows further on."""

    @property
    def children(self) -> tuple[RowOrder, ...]:
        """The orders inside of this one."""
        return ()

    @property
    def parts(self) -> tuple[RowOrder, ...]:
        """The orders that lie end to end in this one; itself where there is one."""
        return (self,)

    @property
    def form(self) -> str:
        """Its outermost form, in a word: ``range``, ``concat``, ``slice``, ``permute`` or ``take``."""
        return type(self).__name__.lower()

    @property
    def words(self) -> tuple[str, ...]:
        """What was done to the stored rows, in words, first things first; empty if they are read as stored."""
        return ()

    def indices(self) -> Iterator[RowIndex]:
        """Yield the lists of rows in this order and those inside of it."""
        for child in self.children:
            yield from child.indices()

    def within(self, table_nbytes: int) -> RowOrder:
        """Return the same order, whose permutations take no more memory than this: longer ones are on disk."""
        return self

    def rows(self, lo: int, hi: int) -> Int64Array:
        """Return the stored rows of the logical rows lo .. hi-1, int64 of shape (hi - lo,), the caller's own.

        Raises
        ------
        IndexError
            Unless 0 <= lo <= hi <= len.
        """
        return self._rows(*check_span(lo, hi, len(self)))

    def take(self, indices: npt.ArrayLike) -> Int64Array:
        """Return the stored rows of logical rows: integers of any shape, 0 <= index < len.

        Raises
        ------
        IndexError
            An index is negative, or the length or larger.
        """
        array = as_int64(indices, "indices")
        check_rows(array, len(self), "index")
        return self._take(array.reshape(-1)).reshape(array.shape)

    def positions(self, lo: int, hi: int) -> Int64Array:
        """Return the logical rows that hold the stored rows lo .. hi-1, or -1 where there is none.

        Raises
        ------
        IndexError
            Unless 0 <= lo <= hi.
        NotInvertibleError
            An index of this order repeats rows.
        """
        return self._find(np.arange(*check_span(lo, hi, MAX_ROW), dtype=np.int64))

    def find(self, stored: npt.ArrayLike) -> Int64Array:
        """Return the logical rows that hold any ``stored`` rows, or -1 where there is none.

        Raises
        ------
        NotInvertibleError
            An index of this order repeats rows.
        """
        array = as_int64(stored, "stored rows")
        return self._find(array.reshape(-1)).reshape(array.shape)

    def runs(self, lo: int, hi: int) -> list[Span] | None:
        """Return the stored rows of lo .. hi-1 as ascending runs, in logical order.

        None where a `Permute` or `Take` stands in the way: then the rows are scattered, see `rows`. The cost
        does not depend on the number of rows.

        Raises
        ------
        IndexError
            Unless 0 <= lo <= hi <= len.
        """
        first, last = check_span(lo, hi, len(self))
        return self._runs(first, last) if first < last else []

    # The same without checks; arrays are one-dimensional int64. Results are fresh arrays.

    @abstractmethod
    def _describe(self) -> tuple[int, Span]:
        """Return `depth` and `bounds`."""

    @abstractmethod
    def _rows(self, lo: int, hi: int) -> Int64Array: ...

    @abstractmethod
    def _take(self, indices: Int64Array) -> Int64Array: ...

    @abstractmethod
    def _find(self, stored: Int64Array) -> Int64Array: ...

    @abstractmethod
    def _runs(self, lo: int, hi: int) -> list[Span] | None: ...


def check_order(order: object, what: str) -> None:
    """Raise TypeError unless something is an order."""
    if not isinstance(order, RowOrder):
        raise TypeError(f"{what} takes a RowOrder, not {type(order).__name__}")


@dataclass(frozen=True, slots=True)
class Range(RowOrder):
    """Stored rows ``start .. stop-1``, as they lie."""

    start: int
    """The first stored row."""
    stop: int
    """The row after the last."""

    def __post_init__(self) -> None:
        start, stop = as_int(self.start, "start"), as_int(self.stop, "stop")
        if not 0 <= start <= stop <= MAX_ROW:
            raise ValueError(f"a range takes 0 <= start <= stop < 2**63, but {start} and {stop} were given")
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", stop)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def is_injective(self) -> bool:
        """Always."""
        return True

    def shifted(self, by: int) -> Range:
        """Return the same range further on."""
        return Range(self.start + by, self.stop + by)

    def _describe(self) -> tuple[int, Span]:
        return 0, Span(self.start, self.stop)

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return np.arange(self.start + lo, self.start + hi, dtype=np.int64)

    def _take(self, indices: Int64Array) -> Int64Array:
        return indices + self.start

    def _find(self, stored: Int64Array) -> Int64Array:
        return np.where((stored >= self.start) & (stored < self.stop), stored - self.start, -1)

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return [Span(self.start + lo, self.start + hi)]
