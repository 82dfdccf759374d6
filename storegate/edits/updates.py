"""Updates: variables with some rows replaced; pure except for the index of scattered rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np

from storegate.parsing import OneRow, RowRange, Rows, Selection, n_selected
from storegate_engine import orders
from storegate_engine.errors import ShapeError
from storegate_engine.orders import NewIndex, RowIndex, Span, find_last, n_nodes, runs_of
from storegate_engine.table import Variable, updated_dtype

__all__ = ["MAX_ALL_RUNS", "MAX_RUNS", "require_selected", "updated"]

Array: TypeAlias = np.ndarray[Any, Any]
MAX_RUNS = 256
"""Scattered rows replaced in more runs than this get an index array."""
MAX_ALL_RUNS = 16 * MAX_RUNS
"""Most runs of all variables that one call updates: a manifest lists each of them."""


def require_selected(name: str, selection: Selection, n_rows: int) -> None:
    """Raise ShapeError unless the numbers of new and selected rows are equal."""
    selected = n_selected(selection)
    if n_rows != selected:
        raise ShapeError(f"variable {name!r}: {selected} rows are selected, and the data have {n_rows}")


def updated(
    old: Variable,
    selection: Selection,
    new: Variable,
    store_index: Callable[[NewIndex], RowIndex],
    *,
    first: int = 0,
    max_runs: int = MAX_RUNS,
) -> Variable:
    """Return a variable with the selected rows replaced by those of ``new``, in the order of the selection.

    Parameters
    ----------
    old : Variable
        The variable to change.
    selection : Selection
        Rows of all phases concatenated, in which ``old`` begins at ``first``.
    new : Variable
        One row per selected row; if a row is selected twice the last one counts, as in numpy.
    store_index : callable
        Writes an index for scattered rows, which depends only on the numbers of old and new rows.
    max_runs : int
        Rows in more runs get an index; also in fewer runs if the order of each would be long.

    Raises
    ------
    ShapeError
        The number of rows or their shape differs.
    """
    old.require_row_shape(new.row_shape, new.kind)
    require_selected(old.name, selection, len(new))
    match selection:
        case OneRow(row):
            return _in_runs(old, [Span(row, row + 1)], new, first)
        case RowRange(start, stop):
            return _in_runs(old, [Span(start, stop)], new, first)
        case Rows(index):
            runs = runs_of(index, max_runs // _longest_part(old.order))
            if runs is None:
                return _scattered(old, index, new, store_index, first)
            return _in_runs(old, runs, new, first)


def _longest_part(order: orders.RowOrder) -> int:
    """Return the most parts that the order of a run has when it is cut out of an order."""
    return max(map(n_nodes, order.parts), default=1)


def _joined(
    old: Variable, new: Variable, arrange: Callable[[orders.RowOrder, orders.RowOrder], orders.RowOrder]
) -> Variable:
    """Return a variable with old and new rows, in a dtype that holds the values of both unchanged."""
    return old.updated(new.cast(updated_dtype(old, new)), arrange)


def _in_runs(old: Variable, runs: Sequence[Span], new: Variable, first: int) -> Variable:
    """Replace runs of rows by those of ``new``, which has the rows of all runs one after the other."""

    def arrange(order: orders.RowOrder, extra: orders.RowOrder) -> orders.RowOrder:
        done, own = 0, []
        for start, stop in runs:
            lo, hi = max(start, first), min(stop, first + len(old))
            if lo < hi:
                own.append((lo - first, orders.cut(extra, done + lo - start, done + hi - start)))
            done += stop - start
        return orders.replace_runs(order, own)

    is_touched = any(max(start, first) < min(stop, first + len(old)) for start, stop in runs)
    return _joined(old, new, arrange) if is_touched else old


def _scattered(
    old: Variable, index: RowIndex, new: Variable, store_index: Callable[[NewIndex], RowIndex], first: int
) -> Variable:
    """Replace rows anywhere, through an index that is computed and written part by part."""

    def chosen(lo: int, hi: int) -> Array:
        rows = np.arange(lo, hi, dtype=np.int64)
        found = find_last(index, first + lo, first + hi)
        rows[found >= 0] = found[found >= 0] + len(old)
        return rows

    stored = store_index(NewIndex(len(old), len(old) + len(new), chosen))
    return _joined(old, new, lambda order, extra: orders.Take(orders.concat(order, extra), stored))
