"""Dask arrays: a stored variable as one lazy array, whose selections are edits of its order; reads no rows."""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from storegate_engine.indexes import ArrayIndex, MaskIndex, RowIndex
from storegate_engine.layers import RowsLayer, fitting_rows, plan_blocks
from storegate_engine.states import is_stored, token_of
from storegate_engine.table import Variable
from storegate_engine.tiers import Capacity

__all__ = ["RowsArray", "in_full_pass", "rows_to_dask", "variable_of"]

Array: TypeAlias = np.ndarray[Any, Any]


class _SameAs(type):
    """The class of a class that is equal to the last one of its bases.

    xarray takes arrays together only if the set of their types has one member.
    """

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__bases__[-1]

    def __hash__(cls) -> int:
        return hash(cls.__bases__[-1])


class RowsArray(da.Array, metaclass=_SameAs):
    """A dask array of a variable's rows: rows that are picked by numbers, or by a short slice, are an order of rows.

    dask would compute whole blocks and pick from these, and needs a task for every pair of blocks. Here only the wanted
    rows are read. Shapes and chunks are those that dask gives; everything else that is done to the array is dask's own.
    """

    __slots__ = ()
    __module__ = da.Array.__module__  # some tell an array's library by the module of its type, and this is dask's

    def __getitem__(self, index: Any) -> da.Array:
        """Return what ``numpy`` returns for the index, lazily."""
        key = index if isinstance(index, tuple) else (index,)
        layer = self.dask.layers.get(self.name)
        if key and isinstance(layer, RowsLayer):
            picked = _picked(layer, key[0])
            if picked is not None:
                rest = (0 if _is_int(key[0]) else slice(None), *key[1:])
                is_all = all(isinstance(part, slice) and part == slice(None) for part in rest)
                return picked if is_all else da.Array.__getitem__(picked, rest)
        rows: da.Array = super().__getitem__(index)  # type: ignore[no-untyped-call]
        return rows


def _is_int(item: Any) -> bool:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def _picked(layer: RowsLayer, item: Any) -> RowsArray | None:
    """Return the rows that an index picks, None where dask itself does this as well or says what is wrong."""
    n_rows, blocks = layer.starts[-1], len(layer.starts) - 1
    if _is_int(item):
        row = int(item) + n_rows if item < 0 else int(item)
        return _cut(layer, row, row + 1) if 0 <= row < n_rows else None
    if isinstance(item, slice):
        try:
            start, stop, step = item.indices(n_rows)
        except TypeError:
            return None
        # a longer slice is whole blocks, but for its ends
        return _cut(layer, start, stop) if step == 1 and 0 < stop - start < layer.starts[1] else None
    if isinstance(item, (list, np.ndarray)):
        picked = _index(np.asarray(item), n_rows)
        if picked is not None:
            selected = layer.variable.selected(picked)
            step = max(1, n_rows // blocks)  # of blocks that dask makes
            step = fitting_rows([selected], len(picked), step, layer.capacity)
            full, rest = divmod(len(picked), step)
            rows = (step,) * full + ((rest,) if rest else ())
            return rows_to_dask(selected, rows, layer.capacity)
    return None


def _cut(layer: RowsLayer, start: int, stop: int) -> RowsArray | None:
    """Return a slice that is shorter than a block, in the parts that blocks have of it."""
    cuts = [start, *(at for at in layer.starts if start < at < stop), stop]
    rows = tuple(np.diff(cuts).tolist())
    variable = layer.variable.cut(start, stop)
    if plan_blocks(variable, (0, *np.cumsum(rows).tolist()), range(len(rows)), layer.capacity).kind == "exchange":
        return None  # its buckets are blocks of one size
    return rows_to_dask(variable, rows, layer.capacity)


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


def rows_to_dask(variable: Variable, rows: tuple[int, ...], capacity: Capacity) -> RowsArray:
    """Return a variable whose rows any process can read as a dask array; nothing is read.

    Parameters
    ----------
    variable : Variable
        What is read on compute.
    rows : tuple of int
        Rows of every block.
    capacity : Capacity
        Memory and threads to plan with.
    """
    starts = (0, *np.cumsum(rows).tolist())
    plan = plan_blocks(variable, starts, range(len(rows)), capacity)  # which refuses what could not be computed
    name = f"{variable.name}-{_token(variable, rows, is_spilled=plan.kind == 'exchange')}"
    graph = HighLevelGraph({name: RowsLayer(name, variable, rows, capacity)}, {name: set()})
    chunks = (rows, *((size,) for size in variable.row_shape))
    return RowsArray(graph, name, chunks, dtype=variable.dtype)  # type: ignore[no-untyped-call]


_process = uuid.uuid4().hex


def _rename_process() -> None:
    global _process
    _process = uuid.uuid4().hex


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_rename_process)


def _token(variable: Variable, rows: Sequence[int], *, is_spilled: bool) -> str:
    """Return a name for equal content: the same variable of a store always gets the same in a process.

    Blocks that are read in order or gathered have it in all processes. Those that come out of a spill do not: it goes
    with its process, and another client of the same cluster must not wait for it.
    """
    if not is_stored(variable):
        return uuid.uuid4().hex
    return token_of(variable, rows, *([_process] if is_spilled else []))


def in_full_pass(data: Any) -> Any:
    """Return data that are read whole, some rows at a time; lazy variables among what they are made of plan for that.

    Parameters
    ----------
    data : any
        A dask array, or one in xarray; anything else is returned as it is.
    """
    if isinstance(data, (xr.DataArray, xr.Variable)):
        return data.copy(data=in_full_pass(data.data)) if data.chunks is not None else data
    if not isinstance(data, da.Array):
        return data
    graph = data.dask
    if not any(isinstance(layer, RowsLayer) for layer in graph.layers.values()):
        return data
    layers = {
        name: layer.in_full_pass() if isinstance(layer, RowsLayer) else layer for name, layer in graph.layers.items()
    }
    return da.Array(HighLevelGraph(layers, graph.dependencies), data.name, data.chunks, meta=data._meta)


def variable_of(data: Any) -> Variable | None:
    """Return the variable that a dask array of :func:`rows_to_dask` stands for, None for any other data."""
    if isinstance(data, xr.DataArray):
        data = data.variable.data if data.chunks is not None else None  # else this would load what is not of dask
    layer = data.dask.layers.get(data.name) if isinstance(data, da.Array) else None
    return layer.variable if isinstance(layer, RowsLayer) else None
