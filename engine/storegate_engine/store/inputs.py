"""Inputs: callers' data as sources of rows; refuses data without rows, or that cannot be stored."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.dtypes import TEXT, dtype_to_text
from storegate_engine.errors import DtypeError, ShapeError, StoreGateError, shown
from storegate_engine.natives import as_native, is_foreign
from storegate_engine.ragged import Ragged
from storegate_engine.store.lists import DenseLists, RaggedSource, as_rows, kind_in, lists_in
from storegate_engine.store.sources import ArraySource, SlicedSource, Source, StreamSource
from storegate_engine.table import Kind

__all__ = ["as_lists", "as_source"]

Array: TypeAlias = np.ndarray[Any, Any]


def as_source(data: Any, name: str) -> Source:
    """Return data of any supported kind as a source of rows.

    Parameters
    ----------
    data : array-like, dask array, zarr array, h5py dataset, np.memmap, xr.DataArray or iterator of ndarrays
        The data; the first axis is the sample axis.
    name : str
        The variable's name, for messages.

    Raises
    ------
    DtypeError
        The data are a scalar or objects, or have a dtype that cannot be stored.
    """
    source = _as_source(data, name)
    try:
        dtype_to_text(source.dtype)
    except DtypeError as err:
        raise DtypeError(f"variable {name!r}: {err}") from err
    return source


def _as_source(data: Any, name: str) -> Source:
    what = f"variable {name!r}"
    lists = lists_in(data, what)
    if lists is not None:
        return RaggedSource(lists)
    if type(data).__name__ == "Empty" or getattr(data, "shape", ()) is None:  # of h5py
        raise DtypeError(f"{what}: an empty dataset of HDF5 has a dtype and no rows; name the others")
    if hasattr(data, "asstr") and "vlen" in (data.dtype.metadata or {}):
        items = data.dtype.metadata["vlen"]
        if isinstance(items, np.dtype) and not items.isnative:
            raise DtypeError(f"{what}: its lists hold {items}, of which h5py swaps the bytes wrongly; write them anew")
        data = _FileTexts(data) if items in (str, bytes) else _FileLists(data, what)
    if isinstance(data, np.ndarray) or is_foreign(data):
        return ArraySource(_with_rows(as_native(data, what), name))
    if isinstance(data, Iterator):
        try:
            first = next(data)
        except StopIteration as err:
            raise ShapeError(f"{what}: the iterator yielded no block; an empty array tells dtype and shape") from err
        # a copy: iterators of other variables may reuse the same memory before this one is read again
        block = as_rows(first, f"{what}, block 0 of the iterator")
        if isinstance(block, Ragged):
            return _stream_of_lists(block.copy(), data, what)
        block = np.array(block)
        if block.ndim < 1:
            raise DtypeError(
                f"{what}: an iterator gives blocks of rows, found the scalar {shown(first)}; for single samples pass "
                "storegate.samples(iterator)"
            )
        return StreamSource(block, data)
    if hasattr(data, "to_dask_array"):
        raise DtypeError(f"{what}: a dask dataframe has no known rows; pass data.to_dask_array(lengths=True)")
    is_of_objects = getattr(getattr(data, "dtype", None), "kind", "") == "O" and hasattr(data, "shape")
    if is_of_objects and (found := _lists_of_objects(data, what)) is not None:
        return found
    if hasattr(data, "to_index") and data.dtype == object:  # texts of netCDF files, and of pandas
        data = _Texts(data, what)
    if isinstance(getattr(data, "dtype", None), np.dtype) and hasattr(data, "shape") and hasattr(data, "__getitem__"):
        if len(data.shape) < 1:
            raise _no_rows(name, data)
        if any(size != size for size in data.shape):  # dask writes an unknown size as NaN
            raise ShapeError(
                f"{what}: the number of rows of the dask array is not known; call compute_chunk_sizes() on it first"
            )
        return SlicedSource(data)
    if isinstance(data, (str, bytes)) or not (isinstance(data, Iterable) or hasattr(data, "__array__")):
        raise _no_rows(name, data)
    try:
        return ArraySource(_with_rows(as_native(data, what), name))
    except StoreGateError:
        raise
    except ValueError as err:
        raise ShapeError(f"{what}: the rows do not form an array: {err}") from err


def _lists_of_objects(data: Any, what: str) -> StreamSource | None:
    """Return an array of objects of dask or xarray, if its first rows are lists, as views of gates show them."""
    if isinstance(data, np.ndarray) or len(data.shape) != 1:
        return None
    chunks = data.chunks[0] if getattr(data, "chunks", None) else (int(data.shape[0]),)
    ends = np.cumsum(chunks).tolist()
    blocks = (np.asarray(data[end - size : end]) for size, end in zip(chunks, ends, strict=True) if size)
    first = next(blocks, None)
    rows = None if first is None else lists_in(first, what, by_chance=True) if _holds_lists(first) else None
    return None if rows is None else _stream_of_lists(rows, blocks, what)


def _stream_of_lists(first: Ragged, rest: Iterator[Any], what: str) -> StreamSource:
    """Return blocks of lists as a source; those before the first items take their dtype."""
    before: list[Any] = []
    for block in rest if _is_empty(first) else ():
        # copies, as of first blocks
        rows = as_rows(block, f"{what}, block {len(before) + 1} of the iterator")
        before.append(rows.copy() if isinstance(rows, Ragged) else np.array(rows))
        is_list = isinstance(rows, Ragged)
        if not (_is_empty(rows) if is_list else 0 in rows.shape[:2]):
            shape = rows.item_shape if is_list else tuple(rows.shape[2:])
            first = _empty_like(first, rows.dtype, shape)
            break
    return StreamSource(first, chain(before, rest))


def as_lists(source: Source, dtype: np.dtype[Any], item_shape: tuple[int, ...]) -> Source:
    """Return a source for a variable of lists: rows of one length become lists, and without items they fit any.

    Parameters
    ----------
    source : Source
        New rows.
    dtype, item_shape : np.dtype, tuple of int
        Those of the items of the variable.
    """
    if isinstance(source, RaggedSource):
        return RaggedSource(_empty_like(source.values, dtype, item_shape)) if _is_empty(source.values) else source
    if isinstance(source, StreamSource) and isinstance(first := source.first, Ragged):
        return replace(source, first=_empty_like(first, dtype, item_shape)) if _is_empty(first) else source
    if kind_in(source) != "dense" or not source.row_shape:
        return source
    if source.row_shape[0] == 0 and source.n_rows is not None:
        none = Ragged(np.zeros(source.n_rows + 1, np.int64), np.empty((0, *source.row_shape[1:])))
        return RaggedSource(_empty_like(none, dtype, item_shape))
    return DenseLists(source)


def _is_empty(rows: Ragged) -> bool:
    return rows.columns is None and rows.offsets[0] == rows.offsets[-1]


def _empty_like(rows: Ragged, dtype: np.dtype[Any], item_shape: tuple[int, ...]) -> Ragged:
    """Return rows without items as those of another variable, unless their items would have a shape of their own."""
    shape = item_shape if rows.item_shape == () else rows.item_shape
    return Ragged(np.zeros(len(rows) + 1, np.int64), np.empty((0, *shape), dtype))


def _holds_lists(rows: Array) -> bool:
    # tuples are values of an index of several levels
    return isinstance(rows[0], list) or (isinstance(rows[0], np.ndarray) and rows[0].ndim > 0)


@dataclass(frozen=True, slots=True, eq=False)
class _FileTexts:
    """Variable-length text of an HDF5 file, which h5py reads as objects."""

    data: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dataset."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Variable-length text."""
        return TEXT

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """The chunks of the dataset."""
        chunks: tuple[int, ...] | None = self.data.chunks
        return chunks

    def __getitem__(self, rows: slice) -> Array:
        """Read a slice of rows."""
        return np.asarray(self.data.asstr()[rows], dtype=TEXT)


@dataclass(frozen=True, slots=True, eq=False)
class _FileLists:
    """Rows of various lengths of an HDF5 file, which h5py reads as objects."""

    data: Any
    what: str
    kind: Kind = "ragged"

    @property
    def shape(self) -> tuple[int, ...]:
        """The number of rows."""
        return tuple(self.data.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the items."""
        dtype: np.dtype[Any] = np.dtype(self.data.dtype.metadata["vlen"]).newbyteorder("=")
        return TEXT if "vlen" in (dtype.metadata or {}) else dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """The chunks of the dataset."""
        chunks: tuple[int, ...] | None = self.data.chunks
        return chunks

    def __getitem__(self, rows: slice) -> Ragged:
        """Read a slice of rows."""
        read = list(self.data[rows])
        if self.dtype == TEXT:
            read = [np.array([text.decode() for text in row], TEXT) for row in read]
        return Ragged.of(read, self.dtype)


@dataclass(frozen=True, eq=False)
class _Texts:
    """An array of xarray whose values are objects: texts, or bytes, as the first one; others are refused."""

    data: Any
    what: str

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.data.shape)

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Variable-length text, or bytes."""
        first = np.asarray(self.data[:1]).reshape(-1)
        return np.dtype("S1") if first.size and isinstance(first[0], bytes) else TEXT

    def __getitem__(self, rows: slice) -> Array:
        """Read a slice of rows."""
        values = as_native(np.asarray(self.data[rows]), self.what)
        if not values.size:
            return values.astype(self.dtype)
        if values.dtype.kind not in ("S" if self.dtype.kind == "S" else "UT"):
            raise DtypeError(
                f"{self.what}: it has objects, the first of them {'bytes' if self.dtype.kind == 'S' else 'no bytes'}, "
                f"and others that are {values.dtype}; convert it first"
            )
        return values if values.dtype.kind == "S" else values.astype(TEXT)


def _with_rows(values: Array, name: str) -> Array:
    if values.ndim < 1:
        raise _no_rows(name, values)
    return values


def _no_rows(name: str, data: object) -> DtypeError:
    hint = "; a file is opened first, as in gate.add_data(pandas.read_csv(path))" if data is None else ""
    return DtypeError(f"variable {name!r}: data must have a sample axis, found the scalar {data!r}{hint}")
