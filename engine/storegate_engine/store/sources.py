"""Sources: rows of any origin, as blocks in order; never loads more than a block at a time."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.casts import combined, holds
from storegate_engine.dtypes import TEXT
from storegate_engine.encodings import is_text
from storegate_engine.errors import DtypeError, ShapeError
from storegate_engine.ragged import Ragged
from storegate_engine.store.lists import as_rows, empty_lists, kind_in, lists_of_one_length
from storegate_engine.table import Kind

if TYPE_CHECKING:
    import xarray as xr

__all__ = [
    "LISTS_NBYTES",
    "ArraySource",
    "ColumnSource",
    "SlicedSource",
    "Source",
    "StreamSource",
    "as_declared",
    "blocks_of_group",
    "grouped",
]

Array: TypeAlias = np.ndarray[Any, Any]

LISTS_NBYTES = 16 * 2**20
"""Bytes of rows of various lengths that are read together, unless more memory makes reading cheaper."""


class Source(Protocol):
    """Rows to be stored."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows, None if it is known only at the end."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        ...

    def blocks(self, block_rows: int) -> Iterator[Any]:
        """Yield all rows in order, about ``block_rows`` at a time, as ndarrays or `Ragged`."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class ArraySource:
    """Rows of an ndarray in memory or of a memmap; blocks are views."""

    values: Array

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.values)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.values.shape[1:])

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield views; pages of a memmap leave memory after their block."""
        mapped = _mapping_of(self.values)
        for start in range(0, len(self.values), block_rows):
            yield self.values[start : start + block_rows]
            if mapped is not None:
                # Pages still in use are read again from the page cache, which is cheap; without this, a whole memmap
                # would stay in memory.
                mapped.madvise(mmap.MADV_DONTNEED)


def _mapping_of(values: Array) -> mmap.mmap | None:
    """Return the file mapping under a memmap whose pages may be dropped at any time."""
    array: Any = values
    while isinstance(array, np.ndarray):  # a plain view has its memmap as base
        mapped = getattr(array, "_mmap", None)
        if isinstance(mapped, mmap.mmap):
            return mapped if getattr(array, "mode", "c") != "c" and hasattr(mmap, "MADV_DONTNEED") else None
        array = array.base
    return None


@dataclass(frozen=True, slots=True, eq=False)
class SlicedSource:
    """Rows of anything with ``shape``, ``dtype`` and slicing: dask, zarr and h5py arrays, xarray variables."""

    values: Any

    @property
    def kind(self) -> Kind:
        """The kind of rows, which the object may say."""
        return kind_in(self.values)

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return int(self.values.shape[0])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        dtype: np.dtype[Any] = np.dtype(self.values.dtype)
        return TEXT if dtype.kind == "T" else dtype  # a block with a missing text is refused

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(int(size) for size in self.values.shape[1:])

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield blocks along the source's own chunks, so that each is read or computed once."""
        start = 0
        for stop in self._boundaries(block_rows):
            what = f"rows {start} to {stop}"
            yield as_declared(as_rows(self.values[start:stop], what), self, what, "the array's")
            start = stop

    @property
    def least_rows(self) -> int:
        """Rows of the largest chunk, which is read or computed as a whole."""
        rows = _chunk_rows(self.values)
        return max(rows, default=1) if isinstance(rows, tuple) else min(rows, max(1, self.n_rows))

    def _boundaries(self, block_rows: int) -> Iterator[int]:
        rows = _chunk_rows(self.values)
        if isinstance(rows, tuple):
            start, stop = 0, 0
            for size in rows:
                if stop > start and stop + size - start > block_rows:
                    yield stop
                    start = stop
                stop += size
            if stop > start:
                yield stop
            return
        step = max(rows, block_rows // rows * rows)
        yield from (min(start + step, self.n_rows) for start in range(0, self.n_rows, step))


def _chunk_rows(values: Any) -> int | tuple[int, ...]:
    """Return the rows of a chunk, or those of every chunk (dask and xarray list them)."""
    # on the class, since an xarray variable also shows its attrs as attributes
    chunks = values.chunks if hasattr(type(values), "chunks") else None
    if chunks:
        rows: int | tuple[int, ...] = chunks[0]
        return rows
    xarray = sys.modules.get("xarray")  # without the import there are none of its arrays
    is_of_xarray = xarray is not None and isinstance(values, (xarray.DataArray, xarray.Variable))
    return _file_chunk_rows(values) if is_of_xarray else 1


def _file_chunk_rows(values: xr.DataArray | xr.Variable) -> int:
    """Return the rows of a file chunk of an xarray variable: each slice decodes all chunks that it touches."""
    if values._in_memory or not values.shape:
        return 1
    preferred: int | tuple[int, ...] = values.encoding.get("preferred_chunks", {}).get(values.dims[0], 1)
    return max(1, min(int(values.shape[0]), max(preferred) if isinstance(preferred, tuple) else preferred))


@dataclass(slots=True, eq=False)
class StreamSource:
    """Rows of an iterator of ndarrays; the first block gives dtype and row shape."""

    first: Any
    """The first block, an ndarray or `Ragged`."""
    rest: Iterator[Any]
    n_blocks: int = 0
    """Blocks that the iterator has given so far."""

    @property
    def kind(self) -> Kind:
        """The kind of the rows of the first block."""
        return _kind_of_block(self.first)

    @property
    def n_rows(self) -> None:
        """None: the number is known only at the end."""
        return None

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the first block."""
        dtype: np.dtype[Any] = self.first.dtype
        return dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row of the first block; of lists, of one item."""
        return _row_shape_of_block(self.first)

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the blocks as they come, each checked against the first."""
        for number, block in enumerate(chain([self.first], self.rest)):
            what = f"block {number} of the iterator"
            rows = as_declared(as_rows(block, what), self, what, "the first block's")
            self.n_blocks = number + 1
            for start in range(0, len(rows), block_rows):
                yield rows[start : start + block_rows]


def _kind_of_block(rows: Any) -> Kind:
    if not isinstance(rows, Ragged):
        return "dense"
    return "ragged" if rows.columns is None else "sparse"


def _row_shape_of_block(rows: Any) -> tuple[int, ...]:
    return rows.item_shape if isinstance(rows, Ragged) else tuple(rows.shape[1:])


def as_declared(rows: Any, source: Source, what: str, whose: str) -> Any:
    """Return a block in the dtype of its source; text may be wider.

    Raises
    ------
    ShapeError
        Its rows have another shape.
    DtypeError
        A value of it would change.
    """
    dtype = source.dtype
    if kind_in(source) != "dense" and not isinstance(rows, Ragged) and rows.ndim:
        rows = _by_chance(rows, source)
    if (kind := _kind_of_block(rows)) != kind_in(source):
        kinds = {"dense": "rows of one length", "ragged": "lists of various lengths", "sparse": "sparse rows"}
        raise ShapeError(
            f"{what} has {kinds[kind]}, and {whose} are {kinds[kind_in(source)]}; give all blocks as "
            "storegate.Ragged.of(rows), or pad them to one length"
        )
    if isinstance(rows, Ragged):
        if rows.item_shape != source.row_shape:
            raise ShapeError(f"{what} has items of shape {rows.item_shape}, {whose} have {source.row_shape}")
        if rows.dtype == dtype:
            return rows
        return Ragged(rows.offsets, _as_declared(rows.items, dtype, what, whose), rows.columns, rows.n_columns)
    if rows.ndim < 1 or rows.shape[1:] != source.row_shape:
        raise ShapeError(f"{what} has rows of shape {rows.shape[1:]}, {whose} have {source.row_shape}")
    return rows if rows.dtype == dtype else _as_declared(rows, dtype, what, whose)


def _by_chance(rows: Array, source: Source) -> Any:
    """Return rows of a block that does not show that they are lists: there are none, or all have one length."""
    if not len(rows):
        return empty_lists(source)
    is_of_lists = kind_in(source) == "ragged" and rows.ndim > 1 and rows.shape[2:] == source.row_shape
    return lists_of_one_length(rows) if is_of_lists else rows


def _as_declared(rows: Array, dtype: np.dtype[Any], what: str, whose: str) -> Array:
    if not rows.size:  # empty lists have the dtype that numpy gives to nothing
        return rows.astype(dtype)
    refused = DtypeError(f"{what} has dtype {rows.dtype}, which {whose} {dtype} cannot hold; give blocks of one dtype")
    if (rows.dtype.kind == "S") != (dtype.kind == "S"):
        raise refused
    try:
        joined = combined(dtype, rows.dtype)
    except DtypeError as err:
        raise refused from err
    if is_text(dtype):
        return rows
    own = np.array(rows)  # what is checked is what is stored
    if joined != dtype.newbyteorder("=") or not holds(joined, own):
        raise refused
    return own.astype(joined, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class ColumnSource:
    """One variable of a source of shape ``(N, M, *k)``; see :func:`grouped`."""

    whole: Source
    """The source of all the variables."""
    column: int
    """The position of the variable on axis 1."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows."""
        return self.whole.n_rows

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        return self.whole.dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.whole.row_shape[1:]

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the rows of this variable."""
        return (rows[:, self.column] for rows in self.whole.blocks(block_rows))

    @staticmethod
    def together(group: Mapping[str, ColumnSource], block_rows: int) -> Iterator[dict[str, Array]]:
        """Yield blocks of variables of one source, which is read once."""
        whole = next(iter(group.values())).whole
        for rows in whole.blocks(max(1, block_rows // len(group))):
            yield {name: rows[:, source.column] for name, source in group.items()}


def grouped(sources: Mapping[str, Source]) -> list[dict[str, Source]]:
    """Return sources in groups that are read together: the variables of one source, or a single source."""
    groups: dict[int, dict[str, Source]] = {}
    for name, source in sources.items():
        groups.setdefault(id(getattr(source, "whole", source)), {})[name] = source
    return list(groups.values())


def blocks_of_group(group: Mapping[str, Source], block_rows: int) -> Iterator[dict[str, Any]]:
    """Yield blocks of all sources of a group, which are read together."""
    first = next(iter(group.values()))
    for source in group.values():
        if kind_in(source) != "dense":
            block_rows = min(block_rows, _list_rows(source) * len(group))
    together = getattr(first, "together", None)
    if together is not None:
        yield from together(group, block_rows)
        return
    ((name, source),) = group.items()
    yield from ({name: rows} for rows in source.blocks(block_rows))


LIST_ROWS = 2**14
"""Rows of various lengths that are read together, if nothing tells how long they are."""


def _list_rows(source: Source) -> int:
    """Return how many rows of various lengths are read together."""
    known = getattr(getattr(source, "values", None), "row_nbytes", None)
    return LIST_ROWS if known is None else max(1, LISTS_NBYTES // known)
