"""The forms of dask arrays that the tests of lazy rows are run in: graphs, dask's expressions, those of dask-array.

By default it is graphs. ``DASK_ARRAY__QUERY_PLANNING=true`` chooses dask's expressions. ``STOREGATE_DASK_ARRAY=1``
makes dask-array the chunk manager of xarray; with ``-p tests.array_forms``, before any test is imported.
"""

from __future__ import annotations

import os
from typing import Any

import dask.array as da
import pytest

from storegate_engine.graphs.dask_arrays import layers_of
from storegate_engine.graphs.layers import RowsLayer

IS_DASK_ARRAY = bool(os.environ.get("STOREGATE_DASK_ARRAY"))
IS_EXPRESSION = hasattr(da.Array, "expr")

if IS_DASK_ARRAY:
    import dask_array.xarray

    dask_array.xarray.register()


def lacking(what: str, *, dask_array: bool = False) -> Any:
    """Mark a test that needs what dask's own expressions do not implement, or the package dask-array does not."""
    is_lacking, whose = (IS_DASK_ARRAY, "dask-array has") if dask_array else (IS_EXPRESSION, "dask's expressions have")
    return pytest.mark.xfail(is_lacking, reason=f"{whose} no {what}", strict=True)


def from_array(rows: Any, chunks: Any) -> Any:
    """Return rows as a dask array of the form that xarray takes."""
    if IS_DASK_ARRAY:
        return dask_array.from_array(rows, chunks=chunks)
    return da.from_array(rows, chunks=chunks)


def layer_of(array: Any) -> RowsLayer:
    """Return the one layer of rows that an array is made of."""
    (layer,) = layers_of(array)
    return layer
