"""Lists: rows of various lengths, and of sparse matrices, as dask arrays of objects and of dense rows.

dask and numpy have no arrays of such rows. Each block is read by itself, in logical order: an order moves bounds alone,
and there is nothing to exchange.
"""

from __future__ import annotations

import uuid
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask._task_spec import DataNode, Task, TaskRef
from dask.base import is_dask_collection

from storegate_engine.graphs.dask_arrays import as_rows
from storegate_engine.table import Variable, is_stored, token_of

__all__ = ["is_of_lists", "lists_to_dask"]

Array: TypeAlias = np.ndarray[Any, Any]


PREFIX = "lists-"
"""How the keys of their variables begin."""


def lists_to_dask(variable: Variable, rows: tuple[int, ...]) -> da.Array:
    """Return a variable as a dask array; nothing is read.

    Parameters
    ----------
    variable : Variable
        The variable, whose rows are lists or sparse.
    rows : tuple of int
        Rows of each block.
    """
    token = token_of(variable, rows) if is_stored(variable) else uuid.uuid4().hex
    dtype = np.dtype(object) if variable.kind == "ragged" else variable.dtype
    whole, name, row_shape = f"{PREFIX}{variable.name}-{token}", f"read-{variable.name}-{token}", variable.shape[1:]
    keys = [(name, block, *(0 for _ in row_shape)) for block in range(len(rows))]
    graph: dict[Any, Any] = {whole: DataNode(whole, variable)}
    for key, (lo, hi) in zip(keys, pairwise((0, *accumulate(rows))), strict=True):
        graph[key] = Task(key, _read, TaskRef(whole), lo, hi)
    chunks = (rows, *((size,) for size in row_shape))
    array: da.Array
    if hasattr(da.Array, "expr"):  # dask's expressions take graphs of those that were persisted
        from_graph, _ = da.empty(0).__dask_postpersist__()
        array = as_rows(from_graph(graph, np.empty((0,) * len(variable.shape), dtype), chunks, keys, name))
    else:
        array = da.Array(graph, name, chunks, dtype=dtype)
    return array


def is_of_lists(array: Any) -> bool:
    """Return whether lazy rows are those of :func:`lists_to_dask`, or made of them."""
    graph = array.__dask_graph__() if is_dask_collection(array) else None
    return graph is not None and any(str(key).startswith(PREFIX) for key in graph)


def _read(variable: Variable, lo: int, hi: int) -> Array:
    """Return logical rows as objects, or with the zeros of sparse rows."""
    return np.asarray(variable.read(lo, hi))
