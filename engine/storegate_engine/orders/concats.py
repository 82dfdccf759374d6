"""Concats: orders one after the other, and their concatenated runs of stored rows."""

from __future__ import annotations

import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate, pairwise

import numpy as np

from storegate_engine.integers import groups_of
from storegate_engine.orders.indexes import Span
from storegate_engine.orders.nested import Slice
from storegate_engine.orders.order import Int64Array, Range, RowOrder, check_order, check_span
from storegate_engine.orders.permutations import MAX_ROW

__all__ = ["Concat", "join_runs"]


@dataclass(frozen=True, slots=True)
class Concat(RowOrder):
    """The rows of one order after the other; of a stored row that several have, `RowOrder.find` gives the first."""

    orders: tuple[RowOrder, ...]
    """The orders, in logical order."""
    _offsets: tuple[int, ...] = field(init=False, repr=False, compare=False)
    _starts: Int64Array = field(init=False, repr=False, compare=False)
    _shifts: Int64Array | None = field(init=False, repr=False, compare=False)
    _depth: int = field(init=False, repr=False, compare=False)
    _bounds: Span = field(init=False, repr=False, compare=False)
    _known: bool | None = field(init=False, repr=False, compare=False, default=None)
    """Whether it is injective, once somebody has asked: tasks of an exchange ask again and again."""

    def __post_init__(self) -> None:
        orders = tuple(self.orders)
        for order in orders:
            check_order(order, "Concat")
        offsets = tuple(accumulate((len(order) for order in orders), initial=0))
        if offsets[-1] > MAX_ROW:
            raise ValueError(f"orders have less than 2**63 rows, but these have {offsets[-1]}")
        filled = [order.bounds for order in orders if len(order)]
        starts = np.array(offsets, dtype=np.int64)
        shifts = None  # if every child is a Range, row = index + shift of the child
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
        """The concatenated orders."""
        return self.orders

    @property
    def parts(self) -> tuple[RowOrder, ...]:
        """The concatenated orders."""
        return self.orders

    @property
    def words(self) -> tuple[str, ...]:
        """The history of its parts, in words, or that they differ."""
        kinds = dict.fromkeys(", then ".join(order.words) or "as stored" for order in self.orders if len(order))
        if len(kinds) < 2:
            return tuple(word for order in self.orders[:1] for word in order.words)
        shown = " | ".join(list(kinds)[:3]) + (" | ..." if len(kinds) > 3 else "")
        return (f"in parts: {shown}",)

    @property
    def is_injective(self) -> bool:
        """Whether all of its orders are, and no two of them have a stored row in common, as far as the form shows."""
        known = self._known
        if known is None:
            known = all(order.is_injective for order in self.orders) and _are_apart(self.orders)
            object.__setattr__(self, "_known", known)
        return known

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
        """Return ``(order, start, stop)``, start < stop, of every child with rows among lo .. hi-1."""
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
        # rows of a single order are the usual case; otherwise each order is asked once for all of its rows
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
        # bounds rule out most orders
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


def _are_apart(orders: Iterable[RowOrder]) -> bool:
    """Return whether injective orders are known to have no stored row in common.

    Those within bounds of their own have none, nor have different parts of one order::

        bounds    | 0 .. 10 |   | 20 .. 50    |    | 60 .. 90 |      clusters of orders whose bounds overlap
        orders    | Range   |   | P[:3] P[5:] |    | Take     |      within one: parts of the same order P
    """
    by_bounds = sorted((order for order in orders if len(order)), key=lambda order: order.bounds)
    cluster: list[RowOrder] = []
    end = 0
    for order in by_bounds:
        if cluster and order.bounds.start >= end:
            if not _are_parts(cluster):
                return False
            cluster = []
        end = max(end, order.bounds.stop) if cluster else order.bounds.stop
        cluster.append(order)
    return _are_parts(cluster)


def _are_parts(orders: list[RowOrder]) -> bool:
    """Return whether there is one order at most, or all are different parts of the same one."""
    if len(orders) < 2:
        return True
    slices = sorted((order for order in orders if isinstance(order, Slice)), key=lambda part: part.start)
    if len(slices) < len(orders):
        return False
    whole = slices[0].order
    return all(part.order is whole or part.order == whole for part in slices) and all(
        one.stop <= other.start for one, other in pairwise(slices)
    )


def join_runs(parts: Iterable[list[Span] | None]) -> list[Span] | None:
    """Return concatenated runs of stored rows, adjacent ones merged; None if any part has none."""
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
