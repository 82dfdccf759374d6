"""Nested: rows of another order: cut, shuffled, or picked by a list, which may be on disk; never reads data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from storegate_engine.errors import CorruptIndexError
from storegate_engine.orders.indexes import RowIndex, Span
from storegate_engine.orders.order import Int64Array, RowOrder, check_order, check_span
from storegate_engine.orders.permutation_tables import TABLE_NBYTES
from storegate_engine.orders.permutations import check_kind, check_seed, forward_rows, forward_span, inverse_rows

__all__ = ["Nested", "Permute", "Slice", "Take"]


@dataclass(frozen=True, slots=True)
class Nested(RowOrder):
    """The base of orders that name rows of one other order."""

    order: RowOrder
    """The other order."""
    _levels = 0
    """Its levels in the depth: 1 or 0."""

    @property
    def children(self) -> tuple[RowOrder, ...]:
        """The other order."""
        return (self.order,)

    @property
    def words(self) -> tuple[str, ...]:
        """The history of the other order, and of this one, in words."""
        return (*self.order.words, *self._own_words())

    def _own_words(self) -> tuple[str, ...]:
        return ()

    @property
    def is_injective(self) -> bool:
        """Whether the other order is."""
        return self.order.is_injective

    def shifted(self, by: int) -> Self:
        """Shift the other order."""
        return replace(self, order=self.order.shifted(by))

    def within(self, table_nbytes: int) -> Self:
        """Limit the other order."""
        limited = self.order.within(table_nbytes)
        return self if limited is self.order else replace(self, order=limited)

    def _describe(self) -> tuple[int, Span]:
        depth, bounds = self.order._describe()
        return depth + self._levels, bounds


@dataclass(frozen=True, slots=True)
class Slice(Nested):
    """Logical rows ``start .. stop-1`` of another order."""

    start: int
    """The first logical row of the other order."""
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
    def shuffled_by(self) -> int | None:
        """The seed of the other order: any part of it is as random as the whole."""
        return self.order.shuffled_by

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
class Permute(Nested):
    """Another order, shuffled: row i is its row ``p[i]``, see the kinds of `permutations`."""

    kind: str
    """The name of the algorithm, one of `permutations.KINDS`."""
    seed: int
    """Not negative; below 2**32 for ``numpy``."""
    table_nbytes: int = field(default=TABLE_NBYTES, compare=False, repr=False)
    """Memory for the tables of a permutation and its inverse; longer ones are on disk. Does not affect the rows."""
    _levels = 1

    def __post_init__(self) -> None:
        check_order(self.order, "Permute")
        kind = check_kind(self.kind, len(self.order))
        object.__setattr__(self, "kind", str(kind))
        object.__setattr__(self, "seed", check_seed(self.seed, kind))

    def _own_words(self) -> tuple[str, ...]:
        return (f"shuffled, seed {self.seed}",)

    @property
    def shuffled_by(self) -> int | None:
        """The seed."""
        return self.seed

    def __len__(self) -> int:
        return len(self.order)

    def within(self, table_nbytes: int) -> Permute:
        """Limit this permutation, and the other order."""
        limited = self.order.within(table_nbytes)
        if limited is self.order and table_nbytes == self.table_nbytes:
            return self
        return replace(self, order=limited, table_nbytes=table_nbytes)

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
class Take(Nested):
    """Another order, read through a list of rows: row i is its row ``index[i]``.

    The list may repeat and omit rows. A list in memory is checked against the order at once, one on disk
    when it is read.
    """

    index: RowIndex
    """The rows of the other order, in logical order."""
    _levels = 1

    def __post_init__(self) -> None:
        check_order(self.order, "Take")
        if not isinstance(self.index, RowIndex):
            raise TypeError(f"Take takes a RowIndex, like ArrayIndex, not {type(self.index).__name__}")
        stop = getattr(self.index, "stop", 0)
        if stop > len(self.order):
            raise IndexError(f"index {stop - 1} asked of {len(self.order)} rows")

    def __len__(self) -> int:
        return len(self.index)

    def _own_words(self) -> tuple[str, ...]:
        return ("rows picked from a list",)

    def indices(self) -> Iterator[RowIndex]:
        """Yield its own list of rows, then those of the other order."""
        yield self.index
        yield from self.order.indices()

    @property
    def is_injective(self) -> bool:
        """Whether the index is known to name no row twice, and the other order is injective."""
        return self.index.is_distinct and self.order.is_injective

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self._of_index(self.index.slice(lo, hi))

    def _take(self, indices: Int64Array) -> Int64Array:
        return self._of_index(self.index.take(indices))

    def _of_index(self, entries: Int64Array) -> Int64Array:
        try:
            return self.order.take(entries)
        except IndexError as err:  # one in memory was checked before
            raise CorruptIndexError(f"index {self.index} is not what was written: {err}") from err

    def _find(self, stored: Int64Array) -> Int64Array:
        found = self.order._find(stored)
        hit = found >= 0
        found[hit] = self.index.find(found[hit])
        return found

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return None
