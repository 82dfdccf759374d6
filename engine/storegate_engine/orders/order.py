"""Row orders: pure index arithmetic; never reads data.

An order says which stored row stands behind each logical row of a variable. Orders are small immutable values
that nest; an edit of a table (append, replace, shuffle, split) is a new order around the old one::

    Range(start, stop)            stored rows start .. stop-1, as they lie
    Concat((o1, o2, ...))         o1, then o2, ...
    Slice(order, start, stop)     logical rows start .. stop-1 of order
    Permute(order, kind, seed)    row i is row p[i] of order, p the permutation of (kind, len, seed)
    Take(order, index)            row i is row index[i] of order

Every order answers in both directions, for any range, in time proportional to the range: `RowOrder.rows` maps
logical rows to stored rows, `RowOrder.positions` maps stored rows back. Build orders with those of `edits`,
which keep them short; the classes themselves build exactly what they are told.
The kinds of permutation are described in `permutations`, lists of rows in `indexes`, the stored form of an order in
`json`.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import CorruptIndexError
from storegate_engine.integers import groups_of
from storegate_engine.orders.indexes import RowIndex, Span
from storegate_engine.orders.permutations import (
    MAX_ROW,
    TABLE_NBYTES,
    as_int,
    as_int64,
    check_kind,
    check_rows,
    check_seed,
    forward_rows,
    forward_span,
    inverse_rows,
)

__all__ = [
    "Concat",
    "Permute",
    "Range",
    "RowOrder",
    "Slice",
    "Take",
    "check_order",
    "check_span",
    "join_runs",
]

Int64Array: TypeAlias = npt.NDArray[np.int64]


def check_span(lo: object, hi: object, n_rows: int) -> Span:
    """Return two row numbers as ints; IndexError unless 0 <= lo <= hi <= n_rows."""
    first, last = as_int(lo, "lo"), as_int(hi, "hi")
    if not 0 <= first <= last <= n_rows:
        raise IndexError(f"rows {first}..{last} asked of {n_rows} rows; it takes 0 <= lo <= hi <= {n_rows}")
    return Span(first, last)


# ------------------------------------------------------------------------------
# Orders
# ------------------------------------------------------------------------------


class RowOrder(ABC):
    """A map from logical rows 0 .. len-1 to stored rows: an immutable value, compared by its parts.

    Examples
    --------
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


@dataclass(frozen=True, slots=True)
class Concat(RowOrder):
    """The rows of one order after the other.

    `RowOrder.find` takes the orders to have no stored row in common; where they have, the first one counts.
    """

    orders: tuple[RowOrder, ...]
    """The orders, in logical order."""
    _offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _starts: Int64Array = field(init=False, repr=False, compare=False)
    _shifts: Int64Array | None = field(init=False, repr=False, compare=False)
    _depth: int = field(init=False, repr=False, compare=False)
    _bounds: Span = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        orders = tuple(self.orders)
        for order in orders:
            check_order(order, "Concat")
        offsets = tuple(accumulate((len(order) for order in orders), initial=0))
        if offsets[-1] > MAX_ROW:
            raise ValueError(f"orders have less than 2**63 rows, but these have {offsets[-1]}")
        filled = [order.bounds for order in orders if len(order)]
        starts = np.array(offsets, dtype=np.int64)
        shifts = None  # where every child is a Range, row = index + shift of the child
        if all(isinstance(order, Range) for order in orders):
            shifts = np.array([order.bounds[0] for order in orders], dtype=np.int64) - starts[:-1]
        object.__setattr__(self, "orders", orders)
        object.__setattr__(self, "_offsets", offsets)
        object.__setattr__(self, "_starts", starts)
        object.__setattr__(self, "_shifts", shifts)
        object.__setattr__(self, "_depth", max((order.depth for order in orders), default=0))
        object.__setattr__(
            self, "_bounds", Span(min(b.start for b in filled), max(b.stop for b in filled)) if filled else Span(0, 0)
        )

    def __reduce__(self) -> tuple[type[Concat], tuple[tuple[RowOrder, ...]]]:
        return Concat, (self.orders,)

    def __len__(self) -> int:
        return self._offsets[-1]

    @property
    def children(self) -> tuple[RowOrder, ...]:
        """Its parts."""
        return self.orders

    @property
    def parts(self) -> tuple[RowOrder, ...]:
        """Its parts."""
        return self.orders

    @property
    def is_injective(self) -> bool:
        """Where all of its orders are; they have no stored row in common."""
        return all(order.is_injective for order in self.orders)

    def shifted(self, by: int) -> Concat:
        """Shift every order."""
        return Concat(tuple(order.shifted(by) for order in self.orders))

    def within(self, table_nbytes: int) -> Concat:
        """Limit every order."""
        limited = tuple(order.within(table_nbytes) for order in self.orders)
        return self if all(map(operator.is_, limited, self.orders)) else Concat(limited)

    def _describe(self) -> tuple[int, Span]:
        return self._depth, self._bounds

    def touched(self, lo: int, hi: int) -> list[tuple[RowOrder, int, int]]:
        """Return ``(order, start, stop)``, start < stop, of every child that holds some rows of lo .. hi-1."""
        first, last = check_span(lo, hi, len(self))
        if first == last:
            return []
        offsets = self._offsets
        children = range(bisect_right(offsets, first) - 1, bisect_left(offsets, last))
        return [
            (self.orders[k], max(first - offsets[k], 0), min(last, offsets[k + 1]) - offsets[k])
            for k in children
            if offsets[k] < offsets[k + 1]
        ]

    def _rows(self, lo: int, hi: int) -> Int64Array:
        parts = [order._rows(start, stop) for order, start, stop in self.touched(lo, hi)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def _take(self, indices: Int64Array) -> Int64Array:
        if not indices.size:
            return np.empty(0, np.int64)
        first = bisect_right(self._offsets, int(indices.min())) - 1
        last = bisect_right(self._offsets, int(indices.max())) - 1
        if first == last:
            return self.orders[first]._take(indices - self._offsets[first])
        child = np.searchsorted(self._starts, indices, side="right") - 1
        if self._shifts is not None:
            return indices + self._shifts[child]
        out = np.empty(indices.size, np.int64)
        places, cuts, children = groups_of(child)
        for k, lo, hi in zip(children, cuts, cuts[1:], strict=False):
            here = places[lo:hi]
            out[here] = self.orders[k]._take(indices[here] - self._offsets[k])
        return out

    def _find(self, stored: Int64Array) -> Int64Array:
        out = np.full(stored.size, -1, np.int64)
        if not stored.size:
            return out
        low, high = int(stored.min()), int(stored.max())
        for order, offset in zip(self.orders, self._offsets, strict=False):
            start, stop = order.bounds
            if not len(order) or high < start or low >= stop:
                continue
            open_ = np.flatnonzero((stored >= start) & (stored < stop) & (out < 0))
            if open_.size:
                found = order._find(stored[open_])
                hit = found >= 0
                out[open_[hit]] = found[hit] + offset
        return out

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return join_runs(order._runs(start, stop) for order, start, stop in self.touched(lo, hi))


def join_runs(parts: Iterable[list[Span] | None]) -> list[Span] | None:
    """Return runs of stored rows end to end, those that meet as one; None where any part has none."""
    merged: list[Span] = []
    for runs in parts:
        if runs is None:
            return None
        for run in runs:
            if merged and merged[-1].stop == run.start:
                merged[-1] = Span(merged[-1].start, run.stop)
            else:
                merged.append(run)
    return merged


@dataclass(frozen=True, slots=True)
class Slice(RowOrder):
    """Logical rows ``start .. stop-1`` of another order."""

    order: RowOrder
    """The order that is cut."""
    start: int
    """The first logical row of it."""
    stop: int
    """The row after the last."""

    def __post_init__(self) -> None:
        check_order(self.order, "Slice")
        start, stop = check_span(self.start, self.stop, len(self.order))
        object.__setattr__(self, "start", start)
        object.__setattr__(self, "stop", stop)

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def children(self) -> tuple[RowOrder, ...]:
        """The order whose rows it names."""
        return (self.order,)

    @property
    def is_injective(self) -> bool:
        """Where the whole order is."""
        return self.order.is_injective

    def shifted(self, by: int) -> Slice:
        """Shift the whole order."""
        return replace(self, order=self.order.shifted(by))

    def within(self, table_nbytes: int) -> Slice:
        """Limit the whole order."""
        return replace(self, order=self.order.within(table_nbytes))

    def _describe(self) -> tuple[int, Span]:
        return self.order._describe()

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self.order._rows(self.start + lo, self.start + hi)

    def _take(self, indices: Int64Array) -> Int64Array:
        return self.order._take(indices + self.start)

    def _find(self, stored: Int64Array) -> Int64Array:
        found = self.order._find(stored)
        return np.where((found >= self.start) & (found < self.stop), found - self.start, -1)

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return self.order._runs(self.start + lo, self.start + hi)


@dataclass(frozen=True, slots=True)
class Permute(RowOrder):
    """Another order, shuffled: row i is its row ``p[i]``, see the kinds of `permutations`."""

    order: RowOrder
    """The order that is shuffled."""
    kind: str
    """The name of the algorithm, one of `permutations.KINDS`."""
    seed: int
    """Not negative; below 2**32 for ``numpy``."""
    table_nbytes: int = field(default=TABLE_NBYTES, compare=False, repr=False)
    """Memory for the tables of a permutation and its inverse: longer ones are on disk. Where, not which rows."""

    def __post_init__(self) -> None:
        check_order(self.order, "Permute")
        kind = check_kind(self.kind, len(self.order))
        object.__setattr__(self, "kind", str(kind))
        object.__setattr__(self, "seed", check_seed(self.seed, kind))

    def __len__(self) -> int:
        return len(self.order)

    @property
    def children(self) -> tuple[RowOrder, ...]:
        """The order whose rows it names."""
        return (self.order,)

    @property
    def is_injective(self) -> bool:
        """Where the order is."""
        return self.order.is_injective

    def shifted(self, by: int) -> Permute:
        """Shift the order that is shuffled."""
        return replace(self, order=self.order.shifted(by))

    def within(self, table_nbytes: int) -> Permute:
        """Limit this permutation, and the order that is shuffled."""
        return replace(self, order=self.order.within(table_nbytes), table_nbytes=table_nbytes)

    def _describe(self) -> tuple[int, Span]:
        depth, bounds = self.order._describe()
        return depth + 1, bounds

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self.order._take(forward_span(self.kind, len(self), self.seed, lo, hi, self.table_nbytes))

    def _take(self, indices: Int64Array) -> Int64Array:
        return self.order._take(forward_rows(self.kind, len(self), self.seed, indices, self.table_nbytes))

    def _find(self, stored: Int64Array) -> Int64Array:
        found = self.order._find(stored)
        hit = found >= 0
        found[hit] = inverse_rows(self.kind, len(self), self.seed, found[hit], self.table_nbytes)
        return found

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return None


@dataclass(frozen=True, slots=True)
class Take(RowOrder):
    """Another order, read through a list of rows: row i is its row ``index[i]``.

    The list may repeat and leave out rows. A list in memory is checked against the order at once, one on disk
    when it is read.
    """

    order: RowOrder
    """The order that is indexed."""
    index: RowIndex
    """The rows of it, in logical order."""

    def __post_init__(self) -> None:
        check_order(self.order, "Take")
        if not isinstance(self.index, RowIndex):
            raise TypeError(f"Take takes a RowIndex, such as ArrayIndex, not {type(self.index).__name__}")
        stop = getattr(self.index, "stop", 0)
        if stop > len(self.order):
            raise IndexError(f"index {stop - 1} asked of {len(self.order)} rows")

    def __len__(self) -> int:
        return len(self.index)

    @property
    def children(self) -> tuple[RowOrder, ...]:
        """The order whose rows it names."""
        return (self.order,)

    def indices(self) -> Iterator[RowIndex]:
        """Yield its own list of rows, then those inside."""
        yield self.index
        yield from self.order.indices()

    @property
    def is_injective(self) -> bool:
        """Where the index is known to name no row twice, and the order is injective."""
        return self.index.is_distinct and self.order.is_injective

    def shifted(self, by: int) -> Take:
        """Shift the order that is indexed."""
        return replace(self, order=self.order.shifted(by))

    def within(self, table_nbytes: int) -> Take:
        """Limit the order that is indexed."""
        return replace(self, order=self.order.within(table_nbytes))

    def _describe(self) -> tuple[int, Span]:
        depth, bounds = self.order._describe()
        return depth + 1, bounds

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self._of_index(self.index.slice(lo, hi))

    def _take(self, indices: Int64Array) -> Int64Array:
        return self._of_index(self.index.take(indices))

    def _of_index(self, entries: Int64Array) -> Int64Array:
        try:
            return self.order.take(entries)
        except IndexError as err:  # in memory it was looked at before
            raise CorruptIndexError(f"index {self.index} is not what was written: {err}") from err

    def _find(self, stored: Int64Array) -> Int64Array:
        found = self.order._find(stored)
        hit = found >= 0
        found[hit] = self.index.find(found[hit])
        return found

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return None


# ------------------------------------------------------------------------------
# Edits
