"""Row layers: named layers of blocks, for a variable and for rows that an index picks from it; reads no rows."""

from __future__ import annotations

import os
import uuid
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.clusters import Capacity
from storegate_engine.graphs.layers import RowsLayer, fitting_rows, plan_blocks
from storegate_engine.orders import ArrayIndex, MaskIndex, RowIndex
from storegate_engine.table import Variable, is_stored, token_of

__all__ = ["covering", "is_row", "picked", "rows_layer"]

Array: TypeAlias = np.ndarray[Any, Any]


def rows_layer(variable: Variable, rows: tuple[int, ...], capacity: Capacity) -> RowsLayer:
    """Return the blocks of a variable whose rows any process can read; parameters are those of `RowsLayer`.

    Raises
    ------
    MemoryBudgetError
        The blocks could not be computed within the memory.
    """
    starts = (0, *np.cumsum(rows).tolist())
    plan = plan_blocks(variable, starts, range(len(rows)), capacity)
    name = f"{variable.name}-{_token(variable, rows, is_spilled=plan.kind == 'exchange')}"
    return RowsLayer(name, variable, rows, capacity)


def is_row(item: Any) -> bool:
    """Return whether an index is a single row number."""
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def picked(layer: RowsLayer, item: Any, rows: tuple[int, ...] | None = None) -> RowsLayer | None:
    """Return the layer of the rows that an index picks, None if dask itself does as well or raises the error.

    Shapes and chunks are the same as dask's, or ``rows`` if dask cuts rows picked by number in another way. Picked rows
    are an order, so that only these are read.
    """
    n_rows, blocks = layer.starts[-1], len(layer.starts) - 1
    if is_row(item):
        row = int(item) + n_rows if item < 0 else int(item)
        return _cut(layer, row, row + 1) if 0 <= row < n_rows else None
    if isinstance(item, slice):
        try:
            start, stop, step = item.indices(n_rows)
        except TypeError:
            return None
        # a longer slice consists of whole blocks, except at its ends
        return _cut(layer, start, stop) if step == 1 and 0 < stop - start < layer.starts[1] else None
    if isinstance(item, (list, np.ndarray)):
        index = _index(np.asarray(item), n_rows)
        if index is not None:
            selected = layer.variable.selected(index)
            if rows is not None:
                return _in_blocks(selected, rows, layer)
            step = max(1, n_rows // blocks)  # rows of the blocks that dask makes
            step = fitting_rows([selected], len(index), step, layer.capacity)
            full, rest = divmod(len(index), step)
            rows = (step,) * full + ((rest,) if rest else ())
            return rows_layer(selected, rows, layer.capacity)
    return None


def _cut(layer: RowsLayer, start: int, stop: int) -> RowsLayer | None:
    """Return a slice shorter than a block, cut at the ends of blocks."""
    cuts = [start, *(at for at in layer.starts if start < at < stop), stop]
    return _in_blocks(layer.variable.cut(start, stop), tuple(np.diff(cuts).tolist()), layer)


def _in_blocks(variable: Variable, rows: tuple[int, ...], layer: RowsLayer) -> RowsLayer | None:
    """Return rows of a layer in blocks of any sizes."""
    if plan_blocks(variable, (0, *np.cumsum(rows).tolist()), range(len(rows)), layer.capacity).kind == "exchange":
        return None  # its buckets must be blocks of one size
    return rows_layer(variable, rows, layer.capacity)


def covering(layer: RowsLayer, item: Any) -> tuple[RowsLayer, Any] | None:
    """Return the fewest blocks that hold the rows of an index, and the index into these; None if it takes all.

    A graph whose blocks are planned before they are culled needs this: it would read all of them. Rows picked by their
    numbers are handled by `picked`, unless there are none.
    """
    n_rows, starts = layer.starts[-1], layer.starts
    if layer.is_full_pass:
        return None
    wanted = _as_range(item, n_rows)
    if wanted is None:
        return None
    if not wanted:
        return (rows_layer(layer.variable.cut(0, 0), (0,), layer.capacity), slice(None)) if n_rows else None
    small = picked(layer, item)
    if small is not None and small.starts[-1] < n_rows:
        return small, 0 if is_row(item) else slice(None)
    low, high = sorted((wanted.start, wanted.stop - 1 if wanted.step > 0 else wanted.stop + 1))
    first, last = bisect_right(starts, low) - 1, bisect_left(starts, high + 1)
    start, stop = starts[first], starts[last]
    if stop - start == n_rows:
        return None
    part = rows_layer(layer.variable.cut(start, stop), layer.rows[first:last], layer.capacity)
    if is_row(item):
        return part, low - start
    end = wanted.stop - start
    return part, slice(wanted.start - start, None if end < 0 else end, wanted.step)


def _as_range(item: Any, n_rows: int) -> range | None:
    """Return the rows of a number, a slice, or an empty index as a range; None for any other."""
    if is_row(item):
        row = int(item) + n_rows if item < 0 else int(item)
        return range(row, row + 1) if 0 <= row < n_rows else None
    if isinstance(item, slice):
        try:
            return range(*item.indices(n_rows))
        except TypeError:
            return None
    if isinstance(item, (list, np.ndarray)):
        index = np.asarray(item)
        is_mask = index.dtype.kind == "b"
        is_empty = index.shape == (n_rows,) and not index.any() if is_mask else index.shape == (0,)
        return range(0) if is_empty else None
    return None


def _index(item: Array, n_rows: int) -> RowIndex | None:
    if item.ndim != 1 or not item.size:
        return None
    if item.dtype.kind == "b":
        return MaskIndex(item) if len(item) == n_rows and item.any() else None
    if item.dtype.kind not in "iu":
        return None
    low, high = int(item.min()), int(item.max())
    if low < -n_rows or high >= n_rows:
        return None
    if len(item) == n_rows and item[0] == 0 and bool((np.diff(item) == 1).all()):
        return None  # everything
    return ArrayIndex(np.where(item < 0, item + n_rows, item) if low < 0 else item)


_process = uuid.uuid4().hex


def _rename_process() -> None:
    global _process
    _process = uuid.uuid4().hex


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rename_process)


def _token(variable: Variable, rows: Sequence[int], *, is_spilled: bool) -> str:
    """Return a name for equal content: the same in a process for the same variable of a store.

    Blocks that are read in order or gathered have the same name in all processes. Those from a spill do not: the spill
    ends with its process, and another client of the same cluster must not wait for it.
    """
    if not is_stored(variable):
        return uuid.uuid4().hex
    return token_of(variable, rows, *([_process] if is_spilled else []))
