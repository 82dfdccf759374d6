"""Backend arrays: lazy variables in the form that xarray expects of what it opens: rows are read when they are indexed.

`xarray.open_dataset` returns arrays of its own lazy kind, and makes dask arrays of them only for ``chunks=``. Those are
then our own: one exchange for all blocks of shuffled rows, planned within the memory limit.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from storegate_engine.exchange import task_nbytes
from storegate_engine.graphs.dask_arrays import variable_of_dask
from storegate_engine.orders import ArrayIndex
from storegate_engine.table import Variable

__all__ = ["lazy_form", "on_demand", "variable_of"]

Array: TypeAlias = np.ndarray[Any, Any]


class RowsOnDemand(BackendArray):
    """Rows of a variable, read when they are indexed."""

    __slots__ = ("dtype", "lazy", "shape", "spare_nbytes", "variable")

    def __init__(self, variable: Variable, lazy: Any, spare_nbytes: int) -> None:
        self.variable = variable
        self.lazy = lazy
        """The same rows as a dask array."""
        self.spare_nbytes = spare_nbytes
        self.shape = variable.shape
        self.dtype = variable.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read rows."""
        return indexing.explicit_indexing_adapter(key, self.shape, indexing.IndexingSupport.OUTER, self._read)

    def _read(self, key: tuple[Any, ...]) -> Array:
        rows, *rest = key
        values = _selected(self.variable, rows)
        out: Array = values.read(0, len(values), spare_nbytes=self.spare_nbytes)
        for axis, part in enumerate(rest, 1):
            if not isinstance(part, int | np.integer):
                out = out[(slice(None),) * axis + (part,)]
        # numbers last and together, so that a single text stays an array
        numbers = (0 if isinstance(rows, int | np.integer) else slice(None), *rest)
        return out[(*(part if isinstance(part, int | np.integer) else slice(None) for part in numbers), ...)]


def _selected(variable: Variable, rows: Any) -> Variable:
    """Return the rows of an index of xarray, which checks it: a number, a slice or an array."""
    if isinstance(rows, int | np.integer):
        row = range(len(variable))[int(rows)]
        return variable.cut(row, row + 1)
    if isinstance(rows, slice) and rows.step in (None, 1):
        start, stop, _ = rows.indices(len(variable))
        return variable.cut(start, max(start, stop))
    index = np.arange(len(variable))[rows]
    return variable.selected(ArrayIndex.of_own(index))


class VariableOnDemand(xr.Variable):
    """A variable of xarray whose chunks are blocks of our own graph, while it is what was opened."""

    __slots__ = ()

    def chunk(self, *args: Any, **options: Any) -> Any:
        """Return the variable as a dask array."""
        rows = _rows_of(self._data)
        if rows is None:
            return super().chunk(*args, **options)
        return xr.Variable(self.dims, rows.lazy, self._attrs, self._encoding, fastpath=True).chunk(*args, **options)


def on_demand(dataset: xr.Dataset, budget_nbytes: int) -> xr.Dataset:
    """Return a Dataset of :func:`to_dataset` whose rows are read when they are indexed.

    Parameters
    ----------
    dataset : xr.Dataset
        The Dataset.
    budget_nbytes : int
        The memory limit.
    """
    spare_nbytes = task_nbytes(budget_nbytes, 1)
    found = {}
    for name, array in dataset.variables.items():
        variable = variable_of(array)
        if variable is None:
            continue
        rows = indexing.LazilyIndexedArray(RowsOnDemand(variable, array.data, spare_nbytes))
        encoding = {**array.encoding, "preferred_chunks": dict(zip(array.dims, array.data.chunks, strict=True))}
        found[name] = VariableOnDemand(array.dims, rows, array.attrs, encoding, fastpath=True)
    return dataset._replace(variables={**dataset._variables, **found})


def lazy_form(array: xr.Variable) -> Any:
    """Return a variable as a dask array, if it is one or may become one of our own; None for any other."""
    if array.chunks is not None:
        return array.data
    rows = _rows_of(array._data)
    return None if rows is None else rows.lazy


def variable_of(data: Any) -> Variable | None:
    """Return the variable whose rows an array of dask or xarray stands for, unchanged; None for any other data."""
    if isinstance(data, xr.DataArray):
        data = data.variable
    return variable_of_dask(lazy_form(data) if isinstance(data, xr.Variable) else data)


def _rows_of(data: Any) -> RowsOnDemand | None:
    """Return the rows behind an array that xarray opened; None for any other, or only a part of one."""
    while not isinstance(data, RowsOnDemand):
        if isinstance(data, indexing.LazilyIndexedArray):
            if not all(map(_is_whole, data.key.tuple, data.array.shape)):
                return None
        elif not isinstance(data, indexing.CopyOnWriteArray | indexing.MemoryCachedArray):
            return None
        data = data.array
    return data


def _is_whole(part: Any, size: int) -> bool:
    return isinstance(part, slice) and range(*part.indices(size)) == range(size)
