"""Dask arrays: a stored variable as one lazy array, whose selections are edits of its order; reads no rows.

====================  ================================================  =============================================
form                  what                                              where
====================  ================================================  =============================================
graph                 ``dask.array.Array`` over a ``HighLevelGraph``     by default
expression            ``dask.array.Array`` over an ``ArrayExpr``         with ``array.query-planning``
expression            ``dask_array.Array``                               once dask-array is xarray's chunk manager
====================  ================================================  =============================================

All are made of the same layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.highlevelgraph import HighLevelGraph

from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArrayExpressionError
from storegate_engine.graphs.array_expressions import RowsExpr, expression_of, with_layers
from storegate_engine.graphs.layers import RowsLayer
from storegate_engine.graphs.row_layers import covering, is_row, picked, rows_layer
from storegate_engine.table import Variable

__all__ = ["RowsArray", "as_rows", "for_xarray", "in_full_pass", "layers_of", "rows_to_dask", "to_array", "variable_of"]


class PickedRows:
    """What a dask array of a variable's rows has beside: picked rows, by numbers or by a short slice, are an order.

    dask would compute whole blocks and pick from these, and needs a task for every pair of blocks. Here only the wanted
    rows are read. Shapes and chunks are those that dask gives; everything else that is done to the array is dask's own.
    """

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        """Return what ``numpy`` returns for the index, lazily."""
        key = index if isinstance(index, tuple) else (index,)
        layer = _own_layer(self)
        if key and layer is not None:
            # dask-array keeps together what lies in one block, and what is selected beside must be in the same chunks
            is_own = isinstance(self, da.Array) or not isinstance(key[0], (list, np.ndarray))
            rows = picked(layer, key[0], None if is_own else super().__getitem__(key[0]).chunks[0])  # type: ignore[misc]
            if rows is not None:
                return self._rest(rows, (0 if is_row(key[0]) else slice(None), *key[1:]))
            part = covering(layer, key[0]) if _is_expression(self) else None
            if part is not None:
                return self._rest(part[0], (part[1], *key[1:]))
        return self._dasks(super().__getitem__, index)  # type: ignore[misc]

    def _rest(self, layer: RowsLayer, index: tuple[Any, ...]) -> Any:
        """Return what is left of an index, of the rows of a layer."""
        rows = _of_form(type(self), layer)
        is_all = all(isinstance(part, slice) and part == slice(None) for part in index)
        return rows if is_all else self._dasks(super(PickedRows, rows).__getitem__, index)  # type: ignore[misc]

    def _dasks(self, select: Callable[[Any], Any], index: Any) -> Any:
        """Return what dask itself selects; still with what its expressions lack, see `__array__`."""
        if not _is_expression(self):
            return select(index)
        try:
            return type(self)(select(index).expr)  # type: ignore[call-arg]
        except (NotImplementedError, AttributeError) as err:
            found = str(err).partition("\n")[0] or type(err).__name__
            raise ArrayExpressionError(
                f"array expressions do not implement this ({found}); set array.query-planning to False before "
                "dask.array is imported, or use the package dask-array"
            ) from err

    def __array__(self, dtype: Any = None, copy: bool | None = None, **options: Any) -> Any:
        """Return the rows in memory, which dask's expressions do not offer, and xarray asks for."""
        return np.asarray(self.compute(), dtype)  # type: ignore[attr-defined]

    def __reduce__(self) -> Any:
        if not _is_expression(self):
            return super().__reduce__()
        return _plain(self), (self.expr,)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _SameAs(type):
    """The class of a class that is equal to the last one of its bases.

    xarray takes arrays together only if the set of their types has one member.
    """

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__bases__[-1]

    def __hash__(cls) -> int:
        return hash(cls.__bases__[-1])


class RowsArray(PickedRows, da.Array, metaclass=_SameAs):
    """A dask array of a variable's rows."""

    __slots__ = ()
    # some tell an array's library by the module and name of its type, and this is dask's
    __module__ = da.Array.__module__
    __qualname__ = da.Array.__qualname__


RowsArray.__name__ = da.Array.__name__


@cache
def _dask_array_rows() -> type:
    """Return the class for xarray where dask-array is its chunk manager, which takes only arrays of that package."""
    import dask_array  # optional, deferred on purpose

    return _SameAs("RowsArray", (PickedRows, dask_array.Array), {"__slots__": (), "__doc__": RowsArray.__doc__})


def _is_expression(data: Any) -> bool:
    """Return whether an array stands for an expression; its graph is made whenever it is asked for."""
    return hasattr(type(data), "expr")


def _plain(data: Any) -> Any:
    """Return the class of an array without what is ours."""
    return next(of for of in type(data).__mro__ if not issubclass(of, PickedRows))


def _of_form(form: Any, layer: RowsLayer) -> Any:
    return to_array(layer) if issubclass(form, da.Array) else form(expression_of(layer, "dask_array"))


def to_array(layer: RowsLayer, stored: Any = None) -> da.Array:
    """Return a layer as what a dask array is in this process: one of a graph, or of an expression.

    Parameters
    ----------
    layer : RowsLayer
        The blocks.
    stored : dask.array.Array, optional
        Has the rows that tasks of the layer are given by the graph.
    """
    of: Any = RowsArray
    array: da.Array
    if hasattr(da.Array, "expr"):
        array = of(expression_of(layer, "dask", None if stored is None else stored.expr))
        return array
    graph = HighLevelGraph.from_collections(layer.name, layer, dependencies=[] if stored is None else [stored])
    chunks = (layer.rows, *((size,) for size in layer.variable.row_shape))
    array = of(graph, layer.name, chunks, dtype=layer.variable.dtype)
    return array


def as_rows(array: Any) -> da.Array:
    """Return a dask array of any rows with what dask's expressions lack; one of a graph as it is."""
    of: Any = RowsArray
    rows: da.Array = of(array.expr) if _is_expression(array) else array
    return rows


def rows_to_dask(variable: Variable, rows: tuple[int, ...], capacity: Capacity) -> da.Array:
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
    return to_array(rows_layer(variable, rows, capacity))


def for_xarray(array: da.Array) -> Any:
    """Return a dask array as what xarray takes: one of dask-array, where that is its chunk manager.

    Blocks that lie on the workers of a cluster go there as a graph, below the expression that puts them in order.
    """
    manager = sys.modules.get("dask_array.xarray")
    if manager is None or not manager.isactive():
        return array
    layer, stored = _given(array)
    if layer is None:
        return _of_graph(array)
    return _dask_array_rows()(expression_of(layer, "dask_array", None if stored is None else _of_graph(stored).expr))


def _of_graph(array: da.Array) -> Any:
    """Return a dask array as one of dask-array, whose graph is there already."""
    from dask_array.core import from_graph  # optional, deferred on purpose

    keys = [(array.name, *block) for block in product(*map(range, array.numblocks))]
    return from_graph(dict(array.__dask_graph__()), array._meta, array.chunks, keys, array.name)


def layers_of(data: Any) -> list[RowsLayer]:
    """Return the layers of ours that any array is made of."""
    if _is_expression(data):
        nodes = data.expr.walk() if hasattr(data.expr, "walk") else ()
        return [node.rows_layer for node in nodes if isinstance(node, RowsExpr)]
    if isinstance(data, da.Array):
        return [layer for layer in data.dask.layers.values() if isinstance(layer, RowsLayer)]
    return []


def _own_layer(data: Any) -> RowsLayer | None:
    """Return the layer whose blocks an array is, as they are, and any process can read; None for any other array."""
    layer, stored = _given(data)
    return layer if stored is None else None


def _given(data: Any) -> tuple[RowsLayer | None, da.Array | None]:
    """Return the layer whose blocks an array is, and the array of the rows that its tasks are given by the graph."""
    of: Any = da.Array
    if _is_expression(data):
        layer, stored = data.expr.operands if isinstance(data.expr, RowsExpr) else (None, None)
        return layer, None if stored is None else _plain(data)(stored)
    layer = data.dask.layers.get(data.name) if isinstance(data, da.Array) else None
    if not isinstance(layer, RowsLayer):
        return None, None
    layers, needed = dict(data.dask.layers), dict(data.dask.dependencies)
    del layers[data.name]
    stored = next(iter(needed.pop(data.name)), None)
    if stored is None:
        return layer, None
    return layer, of(HighLevelGraph(layers, needed), stored, layer.given_chunks, meta=data._meta)


def in_full_pass(data: Any) -> Any:
    """Return data that are read whole, some rows at a time; lazy variables among what they are made of plan for that.

    Parameters
    ----------
    data : any
        A lazy array, or one in xarray; anything else is returned as it is.
    """
    if isinstance(data, (xr.DataArray, xr.Variable)):
        return data.copy(data=in_full_pass(data.data)) if data.chunks is not None else data
    if not layers_of(data):
        return data
    if _is_expression(data):
        return _plain(data)(with_layers(data.expr, RowsLayer.in_full_pass))
    graph = data.dask
    layers = {
        name: layer.in_full_pass() if isinstance(layer, RowsLayer) else layer for name, layer in graph.layers.items()
    }
    return da.Array(HighLevelGraph(layers, graph.dependencies), data.name, data.chunks, meta=data._meta)


def variable_of(data: Any) -> Variable | None:
    """Return the variable that a lazy array of :func:`rows_to_dask` stands for, None for any other data."""
    if isinstance(data, xr.DataArray):
        data = data.variable.data if data.chunks is not None else None  # else this would load what is not of dask
    layer = _own_layer(data)
    return None if layer is None else layer.variable
