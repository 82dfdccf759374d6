"""Order: the interface of row orders, and the simplest one; pure index arithmetic, never reads data.

An order gives the stored row of each logical row of a variable. Orders are small immutable values
that nest; an edit of a table (append, replace, shuffle, split) is a new order around the old one::

    Range(start, stop)            stored rows start .. stop-1, in stored order
    Concat((o1, o2, ...))         o1, then o2, ...
    Slice(order, start, stop)     logical rows start .. stop-1 of order
    Permute(order, kind, seed)    row i is row p[i] of order, p the permutation of (kind, len, seed)
    Take(order, index)            row i is row index[i] of order

Every order works in both directions, for any range, in time proportional to the range: `RowOrder.rows` maps
logical rows to stored rows, `RowOrder.positions` maps stored rows back. Build orders with `edits`, which keeps them
short; the classes themselves do not simplify. `Concat` is in `concats`, orders of another order in `nested`, kinds of
permutation in `permutations`, lists of rows in `indexes`, the stored form of an order in `json`.
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
        """A span that contains the stored rows of all rows of this order; may be wider than needed."""
        return self._describe()[1]

    @property
    @abstractmethod
    def is_injective(self) -> bool:
        """Whether no stored row is named twice, as far as the form shows; then `positions` needs no search."""

    @abstractmethod
    def shifted(self, by: int) -> RowOrder:
        """Return the same order over stored rows shifted by ``by``."""

    @property
    def children(self) -> tuple[RowOrder, ...]:
        """The orders inside this one."""
        return ()

    @property
    def parts(self) -> tuple[RowOrder, ...]:
        """The orders that are concatenated in this one; itself if it is not a concatenation."""
        return (self,)

    @property
    def form(self) -> str:
        """The name of its outermost form: ``range``, ``concat``, ``slice``, ``permute`` or ``take``."""
        return type(self).__name__.lower()

    @property
    def words(self) -> tuple[str, ...]:
        """The edits that lead to this order, in words, the first one first; empty for rows in stored order."""
        return ()

    @property
    def shuffled_by(self) -> int | None:
        """The seed, if these rows are in the order of a uniform shuffle; None if they are in another one."""
        return None

    def indices(self) -> Iterator[RowIndex]:
        """Yield the lists of rows in this order and those inside it."""
        for child in self.children:
            yield from child.indices()

    def within(self, table_nbytes: int) -> RowOrder:
        """Return the same order with permutations of at most this memory: longer ones are on disk."""
        return self

    def rows(self, lo: int, hi: int) -> Int64Array:
        """Return the stored rows of the logical rows lo .. hi-1, a new int64 array of shape (hi - lo,).

        Raises
        ------
        IndexError
            0 <= lo <= hi <= len does not hold.
        """
        return self._rows(*check_span(lo, hi, len(self)))

    def take(self, indices: npt.ArrayLike) -> Int64Array:
        """Return the stored rows of logical rows: integers of any shape, 0 <= index < len.

        Raises
        ------
        IndexError
            An index is negative, or not below the length.
        """
        array = as_int64(indices, "indices")
        check_rows(array, len(self), "index")
        return self._take(array.reshape(-1)).reshape(array.shape)

    def positions(self, lo: int, hi: int) -> Int64Array:
        """Return the logical rows that hold the stored rows lo .. hi-1, or -1 if there is none.

        Raises
        ------
        IndexError
            0 <= lo <= hi does not hold.
        NotInvertibleError
            An index of this order repeats rows.
        """
        return self._find(np.arange(*check_span(lo, hi, MAX_ROW), dtype=np.int64))

    def find(self, stored: npt.ArrayLike) -> Int64Array:
        """Return the logical rows that hold any ``stored`` rows, or -1 if there is none.

        Raises
        ------
        NotInvertibleError
            An index of this order repeats rows.
        """
        array = as_int64(stored, "stored rows")
        return self._find(array.reshape(-1)).reshape(array.shape)

    def runs(self, lo: int, hi: int) -> list[Span] | None:
        """Return the stored rows of lo .. hi-1 as ascending runs, in logical order.

        None if a `Permute` or `Take` scatters the rows, see `rows`. The cost does not depend on the number of
        rows.

        Raises
        ------
        IndexError
            0 <= lo <= hi <= len does not hold.
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
    """Raise TypeError unless the object is an order."""
    if not isinstance(order, RowOrder):
        raise TypeError(f"{what} takes a RowOrder, not {type(order).__name__}")


@dataclass(frozen=True, slots=True)
class Range(RowOrder):
    """Stored rows ``start .. stop-1``, in stored order."""

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
        """Always True."""
        return True

    def shifted(self, by: int) -> Range:
        """Return the shifted range."""
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
