"""Persisted: rows on the workers of a cluster as dask arrays, in any order; layers over their blocks.

The blocks on the workers come first in the graph, and tasks take rows out of them, by row numbers that they compute
themselves::

    gather    block -> picked, block -> picked, ... -> gathered -> block, block, ...
    exchange  block -> scatter, block -> scatter, ... -> after all -> block, block, ...
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask._task_spec import GraphNode, Task, TaskRef
from dask.base import tokenize
from dask.typing import Key

from storegate_engine.arrays import Fileless
from storegate_engine.clusters import Capacity
from storegate_engine.exchange import Plan, plan_rows
from storegate_engine.graphs.dask_arrays import as_rows, rows_to_dask, to_array
from storegate_engine.graphs.layers import RowsLayer, blocks_of
from storegate_engine.orders import Range
from storegate_engine.table import Piece, Variable, apply_all

__all__ = ["BlocksLayer", "is_persisted", "persisted_to_dask"]

Array: TypeAlias = np.ndarray[Any, Any]
Spans: TypeAlias = Sequence[tuple[int, int]]


@dataclass(frozen=True, slots=True)
class GivenRows(Fileless):
    """Stands for rows that the graph passes to tasks: they cannot be read in any other way."""

    dtype: np.dtype[Any]
    """The dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    n_rows: int
    """The number of rows."""
    chunk_rows: int = 1
    """1: blocks may begin anywhere."""

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Raise TypeError."""
        raise TypeError("these rows are passed to tasks by the graph")

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Raise TypeError."""
        self.read_into(0, 0, out)


class BlocksLayer(RowsLayer):
    """Blocks of rows in any order, from blocks of a dask array with the stored rows.

    Parameters
    ----------
    name : str
        Name of the dask array.
    variable : Variable
        The order, dtype and shape of the rows; its piece only stands for the rows.
    rows : tuple of int
        Rows of each block.
    capacity : Capacity
        Memory and threads to plan with.
    stored : dask.array.Array
        The stored rows, in blocks of equal size except the last.
    """

    def __init__(
        self, name: str, variable: Variable, rows: tuple[int, ...], capacity: Capacity, stored: da.Array
    ) -> None:
        super().__init__(name, variable, rows, capacity)
        self.source = stored.name
        self.given_chunks = stored.chunks
        self.n_sources = stored.numblocks[0]
        self.source_rows = int(stored.chunks[0][0])

    def over(self, name: str, source: str) -> BlocksLayer:
        """Return the layer under another name, over blocks that an optimizer has renamed."""
        layer = object.__new__(type(self))
        layer.__dict__.update(self.__dict__, name=name, source=source)
        layer.__dict__.pop("_everything", None)
        return layer

    def plan(self, blocks: Sequence[int]) -> Plan:
        """Return the plan for these blocks: a scatter task takes one stored block."""
        return replace(super().plan(blocks), map_rows=self.source_rows, n_maps=self.n_sources)

    def _source_key(self, number: int) -> Key:
        return (self.source, number, *(0 for _ in self.variable.row_shape))

    def _scattered(self, number: int) -> TaskRef:
        return TaskRef(self._source_key(number))

    def _read(self, blocks: Sequence[int]) -> dict[Key, GraphNode]:
        tasks: dict[Key, GraphNode] = {}
        for block in blocks:
            spans = [(self.starts[block], self.starts[block + 1])]
            tasks |= self._gathered(self._key(block), spans)
        return tasks

    def _gathered(self, key: Key, spans: Spans) -> dict[Key, GraphNode]:
        tasks: dict[Key, GraphNode] = {}
        picked = f"{self.name}-picked-{tokenize(list(spans))}"
        parts = []
        for number in range(self.n_sources):
            part = (picked, number)
            source = TaskRef(self._source_key(number))
            tasks[part] = Task(part, pick, self.variable, spans, number * self.source_rows, source)
            parts.append(TaskRef(part))
        tasks[key] = Task(key, place, self.variable, spans, self.source_rows, *parts)
        return tasks


def _stored_rows(variable: Variable, spans: Spans) -> Array:
    return variable.order.take(np.concatenate([np.arange(lo, hi) for lo, hi in spans]))


def pick(variable: Variable, spans: Spans, first: int, rows: Array) -> Array:
    """Return the stored rows, of those from ``first`` on, that spans of logical rows need, in logical order."""
    wanted = _stored_rows(variable, spans) - first
    picked: Array = rows[wanted[(wanted >= 0) & (wanted < len(rows))]]
    return picked


def place(variable: Variable, spans: Spans, source_rows: int, *parts: Array) -> Array:
    """Return the logical rows of spans from the rows picked from every block."""
    sources = _stored_rows(variable, spans) // source_rows
    out = np.empty((len(sources), *variable.row_shape), variable.dtype)
    for number, part in enumerate(parts):
        out[sources == number] = part
    return out


def is_persisted(variable: Variable) -> bool:
    """Return whether any rows of a variable are on the workers of a cluster."""
    return any(piece.array.on_workers() is not None for piece in variable.pieces)


def persisted_to_dask(variable: Variable, rows: tuple[int, ...], capacity: Capacity) -> da.Array:
    """Return a variable with pieces on the workers of a cluster as a dask array; parameters are those of `to_dask`."""
    stored = da.concatenate([_piece_to_dask(variable.name, piece, capacity) for piece in variable.pieces])
    runs = variable.order.runs(0, len(variable))
    if runs is not None:
        logical: da.Array = da.concatenate([stored[start:stop] for start, stop in runs]) if runs else stored[:0]
        return as_rows(logical.rechunk({0: rows}))
    n_stored = variable.offsets[-1]
    named = replace(variable, pieces=(Piece(GivenRows(variable.dtype, variable.row_shape, n_stored), 0, n_stored),))
    plan = plan_rows(named, len(variable), *astuple(capacity), in_order=False, bucket_rows=rows[0])
    stored = stored.rechunk({0: min(plan.map_rows, rows[0])})
    name = f"{variable.name}-{uuid.uuid4().hex}"
    layer = BlocksLayer(name, named, rows, capacity, stored)
    return to_array(layer, stored)


def _piece_to_dask(name: str, piece: Piece, capacity: Capacity) -> da.Array:
    persisted = piece.array.on_workers()
    if persisted is None:
        whole = Variable(name, piece.dtype, piece.row_shape, (piece,), Range(0, piece.n_rows))
        return rows_to_dask(whole, blocks_of([whole], capacity), capacity)
    rows: da.Array = persisted[piece.start : piece.stop]
    if not piece.transforms:
        return rows
    chunks = (rows.chunks[0], *((size,) for size in piece.row_shape))
    mapped: da.Array = da.map_blocks(
        partial(apply_all, piece.transforms),
        rows,
        chunks=chunks,
        drop_axis=list(range(1, rows.ndim)),
        new_axis=list(range(1, len(chunks))),
        meta=np.empty((0,) * len(chunks), piece.dtype),
    )
    return mapped
