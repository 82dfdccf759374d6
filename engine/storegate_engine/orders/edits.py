"""Edits: new orders from other orders, in the shortest form; pure."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np

from storegate_engine.orders.concats import Concat
from storegate_engine.orders.indexes import NewIndex, RowIndex
from storegate_engine.orders.memory_indexes import in_memory
from storegate_engine.orders.nested import Nested, Permute, Slice, Take
from storegate_engine.orders.order import Range, RowOrder, check_order, check_span
from storegate_engine.orders.permutations import check_seed, kind_for

__all__ = ["concat", "cut", "flatten", "permute", "relocated", "replace_rows", "replace_runs"]


def concat(*orders: RowOrder) -> RowOrder:
    """Return the orders one after the other, in the shortest form.

    Empty orders are dropped, nested `Concat` are flattened, adjacent ranges are merged.

    >>> concat(Range(0, 4), Range(4, 6), Range(9, 9), Range(7, 8))
    Concat(orders=(Range(start=0, stop=6), Range(start=7, stop=8)))
    """
    parts: list[RowOrder] = []
    for order in _open_concats(orders):
        last = parts[-1] if parts else None
        if isinstance(order, Range) and isinstance(last, Range) and last.stop == order.start:
            parts[-1] = Range(last.start, order.stop)
        else:
            parts.append(order)
    if not parts:
        return Range(0, 0)
    return parts[0] if len(parts) == 1 else Concat(tuple(parts))


def _open_concats(orders: Iterable[RowOrder]) -> Iterable[RowOrder]:
    stack = [iter(orders)]
    while stack:
        for order in stack[-1]:
            check_order(order, "concat")
            if isinstance(order, Concat):
                stack.append(iter(order.orders))
                break
            if len(order):
                yield order
        else:
            stack.pop()


def cut(order: RowOrder, start: int, stop: int) -> RowOrder:
    """Return the logical rows ``start .. stop-1`` of an order, in the shortest form.

    Raises
    ------
    IndexError
        0 <= start <= stop <= len(order) does not hold.

    Examples
    --------
    >>> cut(Slice(Range(10, 20), 2, 8), 1, 3)
    Range(start=13, stop=15)
    """
    check_order(order, "cut")
    first, last = check_span(start, stop, len(order))
    while True:
        if first == 0 and last == len(order):
            return order
        if first == last:
            return Range(0, 0)
        if isinstance(order, Slice):
            first, last, order = order.start + first, order.start + last, order.order
        elif isinstance(order, Range):
            return Range(order.start + first, order.start + last)
        elif isinstance(order, Concat):
            return concat(*(cut(child, lo, hi) for child, lo, hi in order.touched(first, last)))
        else:
            return Slice(order, first, last)


def permute(order: RowOrder, seed: int) -> RowOrder:
    """Return an order shuffled by ``seed``: numpy's permutation up to 2**30 rows, ``feistel8-v1`` above.

    Orders of fewer than two rows are returned unchanged.

    Raises
    ------
    TypeError
        The seed is not an integer.
    ValueError
        The seed is negative, or 2**32 or more for numpy's permutation.

    Examples
    --------
    >>> permute(Range(0, 5), 7).rows(0, 5)
    array([0, 3, 2, 1, 4])
    """
    check_order(order, "permute")
    kind = kind_for(len(order))
    number = check_seed(seed, kind)
    return Permute(order, kind, number) if len(order) > 1 else order


def replace_rows(order: RowOrder, lo: int, hi: int, new: RowOrder) -> RowOrder:
    """Return an order whose logical rows ``lo .. hi-1`` are those of ``new``, which may be longer or shorter.

    Raises
    ------
    IndexError
        0 <= lo <= hi <= len(order) does not hold.

    Examples
    --------
    >>> replace_rows(Range(0, 6), 2, 4, Range(100, 102)).rows(0, 6)
    array([  0,   1, 100, 101,   4,   5])
    """
    check_order(order, "replace_rows")
    first, last = check_span(lo, hi, len(order))
    return concat(cut(order, 0, first), new, cut(order, last, len(order)))


def replace_runs(order: RowOrder, runs: Sequence[tuple[int, RowOrder]]) -> RowOrder:
    """Return an order in which each run of rows, given by its first logical row, is replaced by an equal number.

    If runs overlap, the last one counts, as if they were replaced one after the other.

    Raises
    ------
    IndexError
        A run is not within the order.

    Examples
    --------
    >>> replace_runs(Range(0, 6), [(4, Range(100, 101)), (1, Range(200, 202))]).rows(0, 6)
    array([  0, 200, 201,   3, 100,   5])
    """
    check_order(order, "replace_runs")
    spans = [check_span(start, start + len(new), len(order)) for start, new in runs]
    # The rows between two edges come from the order itself or from a run. All parts are cut and joined once; replacing
    # one run after the other would loop over all parts for each.
    edges = np.unique(np.array([(0, len(order)), *spans], dtype=np.int64))
    owners = np.full(len(edges) - 1, -1)
    for number, span in enumerate(spans):
        lo, hi = np.searchsorted(edges, span)
        owners[lo:hi] = number
    first = np.flatnonzero(np.diff(owners, prepend=-2))
    parts = []
    for number, lo, hi in zip(owners[first], edges[first], edges[[*first[1:], -1][: len(first)]], strict=True):
        start, new = (0, order) if number < 0 else (spans[number][0], runs[number][1])
        parts.append(cut(new, lo - start, hi - start))
    return concat(*parts)


def relocated(order: RowOrder, bounds: Sequence[int], shifts: Sequence[int]) -> RowOrder:
    """Return the same rows, stored elsewhere: those of each part of the stored rows were shifted by another number.

    Parameters
    ----------
    order : RowOrder
        The order.
    bounds : sequence of int
        Where each part of the stored rows begins, ascending from 0, and the end of the last one.
    shifts : sequence of int
        By how much the rows of each part were shifted.

    Examples
    --------
    >>> relocated(Range(1, 5), [0, 2, 5], [10, 0])
    Concat(orders=(Range(start=11, stop=12), Range(start=2, stop=5)))
    """
    if len(set(shifts)) <= 1:
        return order.shifted(shifts[0]) if shifts and shifts[0] else order
    if isinstance(order, Range):
        parts = []
        for at in range(max(0, bisect_right(bounds, order.start) - 1), len(shifts)):
            lo, hi = max(order.start, bounds[at]), min(order.stop, bounds[at + 1])
            if lo >= order.stop:
                break
            if lo < hi:
                parts.append(Range(lo + shifts[at], hi + shifts[at]))
        return concat(*parts)
    if isinstance(order, Concat):
        return Concat(tuple(relocated(one, bounds, shifts) for one in order.orders))
    assert isinstance(order, Nested)
    return replace(order, order=relocated(order.order, bounds, shifts))


def flatten(order: RowOrder, store: Callable[[NewIndex], RowIndex] = in_memory) -> Take:
    """Return the same rows as one index: ``Take(Range(first, last), store(rows - first))``.

    For an order nested so deep that reading through its levels costs more than a list of 4 bytes per row (8 bytes if
    the stored rows span more than 2**32).
    """
    check_order(order, "flatten")
    first, last = order.bounds
    return Take(
        Range(first, last), store(NewIndex(len(order), last - first, lambda lo, hi: order.rows(lo, hi) - first))
    )
