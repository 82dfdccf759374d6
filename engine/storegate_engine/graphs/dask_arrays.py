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
from itertools import chain, product
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from dask.core import flatten
from dask.highlevelgraph import HighLevelGraph

from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArrayExpressionError
from storegate_engine.graphs.array_expressions import RowsExpr, expression_of, with_layers
from storegate_engine.graphs.layers import RowsLayer
from storegate_engine.graphs.row_layers import covering, is_row, picked, rows_layer
from storegate_engine.table import Variable

__all__ = [
    "RowsArray",
    "as_rows",
    "blocks_read",
    "for_xarray",
    "in_full_pass",
    "layers_of",
    "rows_to_dask",
    "to_array",
    "variable_of_dask",
]


class PickedRows:
    """Indexing for dask arrays of a variable's rows: rows picked by numbers or by a short slice become an order.

    dask would compute whole blocks and pick from these, with a task for every pair of blocks. Here only the wanted rows
    are read. Shapes and chunks are the same as dask's; everything else is left to dask.
    """

    __slots__ = ()

    def __getitem__(self, index: Any) -> Any:
        """Return the numpy result for the index, lazily."""
        key = index if isinstance(index, tuple) else (index,)
        layer = _own_layer(self)
        if key and layer is not None:
            # dask-array keeps the rows of a block together, and other selections must have the same chunks
            is_own = isinstance(self, da.Array) or not isinstance(key[0], (list, np.ndarray))
            rows = picked(layer, key[0], None if is_own else super().__getitem__(key[0]).chunks[0])  # type: ignore[misc]
            if rows is not None:
                return self._rest(rows, (0 if is_row(key[0]) else slice(None), *key[1:]))
            part = covering(layer, key[0]) if _is_expression(self) else None
            if part is not None:
                return self._rest(part[0], (part[1], *key[1:]))
        return self._dasks(super().__getitem__, index)  # type: ignore[misc]

    def _rest(self, layer: RowsLayer, index: tuple[Any, ...]) -> Any:
        """Return the rest of an index, applied to the rows of a layer."""
        rows = _of_form(type(self), layer)
        is_all = all(isinstance(part, slice) and part == slice(None) for part in index)
        return rows if is_all else self._dasks(super(PickedRows, rows).__getitem__, index)  # type: ignore[misc]

    def _dasks(self, select: Callable[[Any], Any], index: Any) -> Any:
        """Return dask's own selection, with the methods that its expressions lack, see `__array__`."""
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
        """Return the rows in memory; xarray needs this, and dask's expressions lack it."""
        return np.asarray(self.compute(), dtype)  # type: ignore[attr-defined]

    def __reduce__(self) -> Any:
        if not _is_expression(self):
            return super().__reduce__()
        return _plain(self), (self.expr,)  # type: ignore[attr-defined]

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return self


class _SameAs(type):
    """The class of a class that equals the last of its bases.

    xarray combines arrays only if the set of their types has one member.
    """

    def __eq__(cls, other: object) -> bool:
        return other is cls or other is cls.__bases__[-1]

    def __hash__(cls) -> int:
        return hash(cls.__bases__[-1])


class RowsArray(PickedRows, da.Array, metaclass=_SameAs):
    """A dask array of a variable's rows."""

    __slots__ = ()
    # some libraries recognise an array by the module and name of its type; this is dask's
    __module__ = da.Array.__module__
    __qualname__ = da.Array.__qualname__


RowsArray.__name__ = da.Array.__name__


@cache
def _dask_array_rows() -> type:
    """Return the class for xarray if dask-array is its chunk manager, which accepts only arrays of that package."""
    import dask_array  # optional, deferred on purpose

    return _SameAs("RowsArray", (PickedRows, dask_array.Array), {"__slots__": (), "__doc__": RowsArray.__doc__})


def _is_expression(data: Any) -> bool:
    """Return whether an array stands for an expression; its graph is built on each access."""
    return hasattr(type(data), "expr")


def _plain(data: Any) -> Any:
    """Return the class of an array without our additions."""
    return next(of for of in type(data).__mro__ if not issubclass(of, PickedRows))


def _of_form(form: Any, layer: RowsLayer) -> Any:
    return to_array(layer) if issubclass(form, da.Array) else form(expression_of(layer, "dask_array"))


def to_array(layer: RowsLayer, stored: Any = None) -> da.Array:
    """Return a layer as a dask array in the form of this process: a graph or an expression.

    Parameters
    ----------
    layer : RowsLayer
        The blocks.
    stored : dask.array.Array, optional
        The array of the rows that the graph passes to tasks.
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
    """Return a dask array of any rows with the methods that dask's expressions lack; one of a graph is unchanged."""
    of: Any = RowsArray
    rows: da.Array = of(array.expr) if _is_expression(array) else array
    return rows


def rows_to_dask(variable: Variable, rows: tuple[int, ...], capacity: Capacity) -> da.Array:
    """Return a dask array of a variable whose rows any process can read; nothing is read.

    Parameters
    ----------
    variable : Variable
        The variable to read on compute.
    rows : tuple of int
        Rows of each block.
    capacity : Capacity
        Memory and threads to plan with.
    """
    return to_array(rows_layer(variable, rows, capacity))


def for_xarray(array: da.Array) -> Any:
    """Return a dask array in the form that xarray accepts: an array of dask-array if that is its chunk manager.

    Blocks on the workers of a cluster go there as a graph, below the expression that puts them in order.
    """
    manager = sys.modules.get("dask_array.xarray")
    if manager is None or not manager.isactive():
        return array
    layer, stored = _given(array)
    if layer is None:
        return _of_graph(array)
    return _dask_array_rows()(expression_of(layer, "dask_array", None if stored is None else _of_graph(stored).expr))


def _of_graph(array: da.Array) -> Any:
    """Return a dask array as one of dask-array, if its graph is built."""
    from dask_array.core import from_graph  # optional, deferred on purpose

    keys = [(array.name, *block) for block in product(*map(range, array.numblocks))]
    return from_graph(dict(array.__dask_graph__()), array._meta, array.chunks, keys, array.name)


def layers_of(data: Any) -> list[RowsLayer]:
    """Return all our layers in an array."""
    if _is_expression(data):
        nodes = data.expr.walk() if hasattr(data.expr, "walk") else ()
        return [node.rows_layer for node in nodes if isinstance(node, RowsExpr)]
    if isinstance(data, da.Array):
        return [layer for layer in data.dask.layers.values() if isinstance(layer, RowsLayer)]
    return []


def blocks_read(data: Any) -> int:
    """Return the most blocks of one of our variables that are read to compute an array; 0 if that cannot be told."""
    if not isinstance(data, da.Array) or _is_expression(data):
        return 0
    culled = data.dask.cull(set(flatten(data.__dask_keys__())))
    n_blocks = {layer.name: 0 for layer in layers_of(data)}
    for key in chain.from_iterable(culled.layers.values()):
        if isinstance(key, tuple) and key[0] in n_blocks:
            n_blocks[str(key[0])] += 1
    return max(n_blocks.values(), default=0)


def _own_layer(data: Any) -> RowsLayer | None:
    """Return the layer of an unchanged array whose rows any process can read; None for any other array."""
    layer, stored = _given(data)
    return layer if stored is None else None


def _given(data: Any) -> tuple[RowsLayer | None, da.Array | None]:
    """Return the layer of an unchanged array, and the array of the rows that the graph passes to its tasks."""
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
    """Return data that will be read as a whole, in parts; lazy variables in them are then planned for a full pass.

    Parameters
    ----------
    data : any
        A lazy array, or one in xarray; anything else is returned unchanged.
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


def variable_of_dask(data: Any) -> Variable | None:
    """Return the variable of a lazy array of :func:`rows_to_dask`, None for any other data."""
    layer = _own_layer(data)
    return None if layer is None else layer.variable
