"""Foreign formats: one array in a file that another program wrote, read by the library of its format.

A format is a function that opens an array and returns a `ForeignFile`. Where the library tells at which bytes the rows
lie, they are read without it. The libraries are imported when a file is opened.
"""

from __future__ import annotations

import atexit
import functools
import math
import os
import threading
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.arrays.byte_ranges import ChunkRanges, Ranges, RowRange
from storegate_engine.arrays.file_states import FileState, is_url, open_to_read, state_of
from storegate_engine.arrays.kerchunk import ReferencedChunks, referenced_arrays, referenced_chunks
from storegate_engine.arrow import arrow_type, arrow_values, columns_of_schema
from storegate_engine.dtypes import TEXT, dtype_to_text
from storegate_engine.errors import DtypeError, SourceError, shown

__all__ = ["FORMATS", "ForeignFile", "arrays_in", "close_hdf5_files", "open_foreign", "targets_of"]

Array: TypeAlias = np.ndarray[Any, Any]

CHUNK_NBYTES = {True: 16 * 2**10, False: 64 * 2**10}
"""Chunks of fewer bytes, deflated or not, are left to the library, which handles each faster (measured)."""


class ForeignFile(Protocol):
    """An array in an open file."""

    shape: tuple[int, ...]
    """Its shape, samples first."""
    dtype: np.dtype[Any]
    """The dtype of what ``read`` returns."""
    chunk_rows: int
    """Rows that are decoded together."""

    def read_into(self, start: int, stop: int, out: Array) -> None:
        """Read rows ``start..stop`` into ``out``."""

    def ranges(self) -> Ranges | ReferencedChunks | None:
        """Return the places of the rows in the file, or in others; None if only the library can read them."""


def open_foreign(form: str, path: str, inside: str) -> ForeignFile:
    """Open an array of a file.

    Parameters
    ----------
    form : str
        A key of ``FORMATS``.
    path : str
        The file, or its URL, or the directory of a zarr store.
    inside : str
        Which array in it, in words of the format.

    Raises
    ------
    SourceError
        The file cannot be opened, or has no such array.
    """
    try:
        return FORMATS[form](path, inside)
    except ImportError as err:
        package, extra = _LIBRARIES[form]
        raise type(err)(
            f"attached files of {form} need {package}, which cannot be imported ({err}); python -m pip install "
            f'"storegate[{extra}]"',
            name=package,
        ) from err
    except (DtypeError, SourceError):
        raise
    except Exception as err:  # each library has errors of its own for damaged files
        what = f"array {inside!r} of " if inside else ""
        raise SourceError(f"{what}{path} cannot be opened as {form}: {str(err) or repr(err)}") from err


def _native(dtype: Any, what: str) -> np.dtype[Any]:
    """Return the dtype of rows in memory."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found.kind == "T":
        return TEXT
    found = _without_alphabet(found)
    if found.kind not in "biufcmMSU" or found.metadata:
        raise DtypeError(
            f"{what} has dtype {found}, which is not read in place; copy it into the store, as in gate.add_data or "
            "gate.read"
        )
    try:
        dtype_to_text(found)
    except DtypeError as err:
        raise DtypeError(f"{what}: {err}") from err
    return found.newbyteorder("=")


def _without_alphabet(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Return the dtype of bytes without what h5py says about them; any other as it is."""
    return np.dtype((np.bytes_, dtype.itemsize)) if dtype.kind == "S" else dtype


class _Hdf5:
    """A dataset of an HDF5 or NetCDF4 file."""

    def __init__(self, path: str, inside: str) -> None:
        h5py = import_module("h5py")
        file = _hdf5_file(os.getpid(), path, state_of(path))
        data = file[inside]
        others = {source.file_name for source in data.virtual_sources()} if data.is_virtual else set()
        if data.file != file or data.external or others - {"."}:  # of which nobody knows whether they are allowed
            raise ValueError("its values are in another file; attach that")
        self._data = data
        self.shape = tuple(int(size) for size in data.shape)
        self._is_text = data.dtype.kind == "O" and h5py.check_string_dtype(data.dtype) is not None
        self.dtype = TEXT if self._is_text else _native(data.dtype, f"dataset {inside!r} of {path}")
        self.chunk_rows = int(data.chunks[0]) if data.chunks else 1

    def read_into(self, start: int, stop: int, out: Array) -> None:
        if self._is_text:
            out[...] = self._data.asstr()[start:stop]
        elif self.dtype.kind == "S":  # which HDF5 does not convert from one alphabet to another
            out[...] = self._data[start:stop]
        elif out.size:
            self._data.read_direct(out, np.s_[start:stop])

    def ranges(self) -> Ranges | None:
        """Return the places of rows that are contiguous, or in chunks that are plain, shuffled or deflated."""
        h5py = import_module("h5py")
        data = self._data
        converted = self._is_text or not data.id.get_type().equal(h5py.h5t.py_create(data.dtype, logical=True))
        dtype = _without_alphabet(data.dtype)
        if converted or data.file.userblock_size:  # before which versions of HDF5 begin to count, or after it
            return None
        if not data.chunks:
            offset = None if data.is_virtual else data.id.get_offset()
            return None if offset is None else _row_range(offset, self.shape, dtype)
        filters = _filters(data.id.get_create_plist())
        chunk_nbytes = dtype.itemsize * int(np.prod(data.chunks))
        if filters is None or chunk_nbytes < CHUNK_NBYTES[filters[0]] or not hasattr(data.id, "chunk_iter"):
            return None
        grid = tuple(-(-size // chunk) for size, chunk in zip(self.shape, data.chunks, strict=True))
        begins, nbytes, masks = np.full(grid, -1, np.int64), np.zeros(grid, np.int64), set()

        def found(chunk: Any) -> None:
            at = tuple(first // size for first, size in zip(chunk.chunk_offset, data.chunks, strict=True))
            begins[at], nbytes[at] = chunk.byte_offset, chunk.size
            masks.add(chunk.filter_mask)

        data.id.chunk_iter(found)
        if masks - {0}:  # some chunks were written without their filters
            return None
        return ChunkRanges(self.shape, data.chunks, dtype, begins, nbytes, *filters, data.fillvalue)


def _filters(made: Any) -> tuple[bool, bool] | None:
    """Return whether chunks are deflated, and shuffled; None if they have other filters."""
    h5z = import_module("h5py").h5z
    codes = [made.get_filter(at)[0] for at in range(made.get_nfilters())]
    shuffled, deflated = [h5z.FILTER_SHUFFLE], [h5z.FILTER_DEFLATE]
    if codes not in ([], shuffled, deflated, shuffled + deflated):
        return None
    return h5z.FILTER_DEFLATE in codes, h5z.FILTER_SHUFFLE in codes


def _row_range(offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Ranges:
    return RowRange(offset, dtype.itemsize * int(np.prod(shape[1:])), not dtype.isnative)


class _Npy:
    """The array of an ``.npy`` file."""

    def __init__(self, path: str, inside: str) -> None:
        with open(path, "rb") if not is_url(path) else open_to_read(path) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            self.shape, self._by_column, stored = read(file)
            offset = file.tell()
        if stored.hasobject:
            raise ValueError("it holds pickled objects")
        self._stored, self._offset, self._path = stored, offset, path
        self.dtype = _native(stored, path)
        self.chunk_rows = 1
        nbytes = offset + stored.itemsize * math.prod(self.shape)
        if state_of(path).nbytes < nbytes:
            raise ValueError(f"it has less than the {nbytes} bytes that its header tells")

    def read_into(self, start: int, stop: int, out: Array) -> None:
        """Read rows of an array that lies column after column."""
        if is_url(self._path):
            raise ValueError("its values lie column after column (order F); copy it, or save np.ascontiguousarray(x)")
        out[...] = np.memmap(self._path, self._stored, "r", self._offset, self.shape, "F")[start:stop]

    def ranges(self) -> Ranges | None:
        by_column = self._by_column and sum(size != 1 for size in self.shape) > 1
        return None if by_column else _row_range(self._offset, self.shape, self._stored)


class _Raw:
    """Rows of one dtype and shape, and nothing else; ``inside`` is ``dtype:sizes:offset``."""

    def __init__(self, path: str, inside: str) -> None:
        dtype, sizes, offset = inside.split(":")
        row_shape = tuple(int(size) for size in sizes.split(",") if size)
        stored = np.dtype(dtype)
        n_bytes, row_nbytes = state_of(path).nbytes - int(offset), stored.itemsize * math.prod(row_shape)
        if not row_nbytes or n_bytes % row_nbytes:
            raise ValueError(f"{n_bytes} bytes are not whole rows of shape {row_shape}")
        self.shape = (n_bytes // row_nbytes, *row_shape)
        self.dtype = _native(stored, path)
        self.chunk_rows = 1
        self._path, self._stored, self._offset = path, stored, int(offset)

    def read_into(self, start: int, stop: int, out: Array) -> None:
        """Read rows where the system has no ranges."""
        out[...] = np.memmap(self._path, self._stored, "r", self._offset, self.shape)[start:stop]

    def ranges(self) -> Ranges:
        return _row_range(self._offset, self.shape, self._stored)


def _require_local(path: str) -> None:
    if is_url(path):
        raise ValueError("zarr stores behind URLs are not read in place; copy them with gate.read")


class _Zarr:
    """An array of a zarr store, of format 2 or 3."""

    def __init__(self, path: str, inside: str) -> None:
        zarr = import_module("zarr")
        _require_local(path)
        data = zarr.open_array(path, path=inside, mode="r") if inside else zarr.open_array(path, mode="r")
        self._data = data
        self.shape = tuple(data.shape)
        self.dtype = _native(data.dtype, f"array {inside!r} of {path}")
        self.chunk_rows = int((getattr(data, "shards", None) or data.chunks)[0])

    def read_into(self, start: int, stop: int, out: Array) -> None:
        out[...] = self._data[start:stop]

    def ranges(self) -> None:
        """Return None: chunks are files."""


class _Parquet:
    """A column of a Parquet file, read by row groups."""

    def __init__(self, path: str, inside: str) -> None:
        parquet = import_module("pyarrow.parquet")
        self._file = parquet.ParquetFile(open_to_read(path))
        field = self._file.schema_arrow.field(inside)
        self._name = inside
        self._lock = threading.Lock()  # a reader is of one thread
        sizes = [self._file.metadata.row_group(at).num_rows for at in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *sizes])
        what = f"column {inside!r} of {path}"
        self._type = arrow_type(field.type, what)
        is_of_any_length = self._type.dtype.kind == "S" and "fixed_size_binary" not in str(field.type)
        if is_of_any_length or hasattr(field.type, "index_type"):
            raise DtypeError(
                f"{what} is of {field.type}, which is not read in place; copy it into the store with gate.read"
            )
        self.shape: tuple[int, ...] = (int(self._starts[-1]), *self._type.row_shape)
        self.dtype = self._type.dtype
        self.chunk_rows = max(sizes, default=1) or 1

    def read_into(self, start: int, stop: int, out: Array) -> None:
        first = int(np.searchsorted(self._starts, start, side="right")) - 1
        last = int(np.searchsorted(self._starts, stop, side="left"))
        with self._lock:
            column = self._file.read_row_groups(range(first, last), [self._name]).column(0)
        wanted = column.slice(start - int(self._starts[first]), stop - start)
        out[...] = arrow_values(wanted, self._type, f"column {self._name!r}")

    def ranges(self) -> None:
        """Return None: the pages of Parquet have encodings of their own."""


class _Kerchunk:
    """An array whose chunks are ranges of other files."""

    def __init__(self, path: str, inside: str) -> None:
        self._chunks = referenced_chunks(path, inside)
        self.shape = self._chunks.shape
        self.dtype = _native(self._chunks.dtype, f"array {inside!r} of {path}")
        self.chunk_rows = self._chunks.chunk_shape[0] if self.shape else 1

    def read_into(self, start: int, stop: int, out: Array) -> None:
        """Refuse rows where the system has no ranges."""
        raise ValueError("references are not read on Windows; copy the files")

    def ranges(self) -> ReferencedChunks:
        return self._chunks


FORMATS: Mapping[str, Callable[[str, str], ForeignFile]] = {
    "hdf5": _Hdf5,
    "kerchunk": _Kerchunk,
    "npy": _Npy,
    "parquet": _Parquet,
    "raw": _Raw,
    "zarr": _Zarr,
}
"""How to open an array of each format."""

_LIBRARIES = {
    "hdf5": ("h5py", "hdf5"),
    "parquet": ("pyarrow", "arrow"),
    "zarr": ("zarr", "zarr"),
    "kerchunk": ("numcodecs", "zarr"),
}


@functools.lru_cache(maxsize=64)
def _hdf5_file(process: int, path: str, state: FileState) -> Any:
    """Open a file once for all its datasets; a forked child, and a file that was replaced, are opened anew."""
    return import_module("h5py").File(open_to_read(path), "r")


def close_hdf5_files() -> None:
    """Close files of HDF5 that no open dataset is of."""
    _hdf5_file.cache_clear()


atexit.register(close_hdf5_files)  # HDF5 itself would close files behind URLs when Python is gone


def targets_of(file: ForeignFile) -> tuple[str, ...]:
    """Return the other files that hold rows of an open one."""
    return file.ranges().targets if isinstance(file, _Kerchunk) else ()


def arrays_in(form: str, path: str, group: str = "") -> dict[str, str]:
    """Return the arrays of a group of a file: their names, and where they are, in words of the format.

    A file of one array without a name has an empty name.

    Raises
    ------
    SourceError
        The file cannot be opened, or has no such group.
    """
    try:
        if form == "hdf5":
            found = _arrays_of(_hdf5_file(os.getpid(), path, state_of(path)), group)
            return {name_in_netcdf(name): inside for name, inside in found.items()}
        if form == "zarr":
            _require_local(path)
            opened = import_module("zarr").open(path, mode="r")
            return _arrays_of(opened, group) if hasattr(opened, "arrays") else {"": ""}
        if form == "kerchunk":
            return referenced_arrays(path, group)
        if form == "parquet":
            schema = import_module("pyarrow.parquet").ParquetFile(open_to_read(path)).schema_arrow
            return {shown: name for name, shown in columns_of_schema(schema).items()}
    except ImportError:
        open_foreign(form, path, "")  # says what to install
        raise
    except Exception as err:  # each library has errors of its own for damaged files
        where = f"group {group!r} of {path}" if group else path
        raise SourceError(f"{where} cannot be opened as {form}: {str(err) or repr(err)}") from err
    return {"": ""}


def name_in_netcdf(name: str) -> str:
    """Return the name of a dataset of HDF5; NetCDF4 marks those that have the name of a dimension of other arrays.

    >>> name_in_netcdf("_nc4_non_coord_level")
    'level'
    """
    return name.removeprefix("_nc4_non_coord_")


def _arrays_of(file: Any, group: str) -> dict[str, str]:
    """Return the arrays of a group of HDF5 or zarr, or the one that is meant."""
    place = group.strip("/")
    found = file[place] if place else file
    if hasattr(found, "shape"):
        return {place.rpartition("/")[2]: place}
    items = found.items() if hasattr(found, "items") else sorted(found.arrays())
    return {name: f"{place}/{name}".strip("/") for name, item in items if getattr(item, "shape", None)}


def known_format(name: object) -> str:
    """Return the name of a format in a manifest.

    Raises
    ------
    ValueError
        There is no such format.
    """
    if not isinstance(name, str) or name not in FORMATS:
        raise ValueError(f"no format {shown(name)}")
    return name
