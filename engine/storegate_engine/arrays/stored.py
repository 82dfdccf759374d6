"""Stored: arrays of rows in segments of zarr v3, opened once per process; trusts no stored bytes, writes nothing.

`shards` reads numbers in files and object stores; zarr-python reads text, unusual codecs and other stores.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate_engine.arrays import inspection
from storegate_engine.arrays.shard_objects import files_of
from storegate_engine.arrays.shards import RowSpan, Shards, shards_of
from storegate_engine.arrays.statistics import Statistics
from storegate_engine.budget import Layout
from storegate_engine.contents import MARKER
from storegate_engine.dtypes import dtype_from_text, dtype_to_text
from storegate_engine.encodings import (
    Encoding,
    encoding_of,
    is_calendar,
    is_text,
    row_nbytes,
)
from storegate_engine.errors import (
    ArgumentError,
    CorruptStoreError,
    RowsMemoryError,
    SnapshotExpired,
    StoreError,
    StoreNotFoundError,
)
from storegate_engine.identifiers import is_hex
from storegate_engine.integers import groups_of
from storegate_engine.locations import Location
from storegate_engine.names import validate_name
from storegate_engine.orders import ArrayIndex, as_int64
from storegate_engine.texts import TextSize

if TYPE_CHECKING:
    import zarr

    from storegate_engine.arrays.rows import Held

__all__ = ["StoredArray", "StoredIndex"]

Array: TypeAlias = np.ndarray[Any, Any]

INDEX_ROWS = 2**18
"""An index up to this size is kept in memory."""

FEW_ROWS = 2**14
"""Most rows of several spans that are copied to their places after zarr-python has read them in one call."""

FEW_NBYTES = 2**20
"""Most bytes of rows, with their texts, that zarr-python reads in one call: they are then in memory twice."""

DECODED_NBYTES = 2 * 2**20
"""Most bytes of the chunks that it decodes in one call: it may hold all of them, encoded and decoded."""

SHARDS_AT_ONCE = 32
"""Shards that zarr-python is asked for in one call: it goes on with all of them when the first is missing."""


@dataclass(frozen=True, slots=True)
class StoredArray:
    """Rows of one array of a stored segment; pickled as a location and a name."""

    def __hash__(self) -> int:
        """Hash only what identifies an array; a commit looks up all arrays several times."""
        return hash((self.location.prefix, self.name))

    location: Location
    """The location of the segment."""
    name: str
    """The array's name in the segment."""
    dtype: np.dtype[Any]
    """The logical dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    n_rows: int
    """The number of rows."""
    layout: Layout
    """Rows of a chunk and of a shard."""
    checksum: int = 0
    """The checksum of its rows, see `checksums`; 0 while it is written."""
    text: TextSize | None = None
    """The size of variable-length text; None for other dtypes, and in stores of earlier versions."""
    statistics: Statistics | None = field(default=None, compare=False, repr=False)
    """What is known of its values; None while it is written, and in stores of earlier versions."""

    # Answers to the protocol, see `rows`; without annotations, which would make them fields.
    is_stored = True
    is_random_access = False
    constant = None
    sources = None
    held_row_nbytes = None
    windows = None
    parts = ()

    def held(self, rows: Array, /) -> Held:
        """Raise TypeError: rows share no bytes."""
        raise TypeError("rows of a stored array share no bytes")

    def problems(self) -> Iterator[str]:
        """Yield nothing: the files are the store's own."""
        return iter(())

    def on_workers(self) -> None:
        """Return None: workers read the rows from storage."""

    @property
    def is_remote(self) -> bool:
        """Whether the rows are in an object store."""
        return self.location.is_object_store

    @property
    def n_shards(self) -> int:
        """The number of shards; 0 if there are no bytes."""
        return -(-self.n_rows // self.layout.shard_rows) if 0 not in self.row_shape else 0

    @property
    def chunk_rows(self) -> int:
        """Number of rows that are decoded together."""
        return self.layout.chunk_rows

    @property
    def shard_rows(self) -> int:
        """Number of rows of one file."""
        return self.layout.shard_rows

    @property
    def segment(self) -> str:
        """The segment's identifier."""
        return self.location.prefix.rpartition("/")[2]

    def to_json(self) -> dict[str, Any]:
        """Return the array as JSON for a manifest, which knows the location."""
        text = {} if self.text is None else {"text_nbytes": [self.text.nbytes, self.text.largest_nbytes]}
        known = {} if self.statistics is None else {"statistics": self.statistics.to_json()}
        return {
            "segment": self.segment,
            "name": self.name,
            "dtype": dtype_to_text(self.dtype),
            "row_shape": list(self.row_shape),
            "n_rows": self.n_rows,
            "chunk_rows": self.layout.chunk_rows,
            "shard_rows": self.layout.shard_rows,
            "checksum": self.checksum,
            **text,
            **known,
        }

    @classmethod
    def from_json(cls, document: Any, segments: Location) -> StoredArray:
        """Return the array from its JSON in a manifest, below the directory of segments.

        Raises
        ------
        CorruptStoreError
            The JSON was not made by :meth:`to_json`.
        """
        try:
            segment, name = document["segment"], document["name"]
            counts = [
                document["n_rows"],
                document["chunk_rows"],
                document["shard_rows"],
                document["checksum"],
                *document["row_shape"],
            ]
            if not is_hex(segment) or any(type(n) is not int or n < 0 for n in counts):
                raise ValueError("an invalid segment or size")
            dtype, row_shape = dtype_from_text(document["dtype"]), tuple(document["row_shape"])
            layout = Layout(document["chunk_rows"], document["shard_rows"])
            inspection.require_within_limits(dtype, row_shape, document["n_rows"], layout)
            text = None
            if "text_nbytes" in document:
                nbytes, largest = document["text_nbytes"]
                if not all(type(n) is int and 0 <= n < 2**62 for n in (nbytes, largest)):
                    raise ValueError("invalid sizes of its texts")
                text = TextSize(nbytes, largest)
            statistics = None
            if "statistics" in document:
                n_values = document["n_rows"] * math.prod(row_shape)
                statistics = Statistics.from_json(document["statistics"], dtype, n_values)
            return cls(
                segments / segment,
                validate_name(name),
                dtype,
                row_shape,
                document["n_rows"],
                layout,
                document["checksum"],
                text,
                statistics,
            )
        except (KeyError, TypeError, ValueError) as err:
            raise CorruptStoreError(f"the manifest refers to an array in a way that is not ours: {err}") from err

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Read rows ``start..stop`` into ``out``."""
        if start < stop and out.size:
            self._fetch(slice(start, stop), out, alone=alone)

    def read_spans(self, spans: Sequence[RowSpan], out: Array, /, *, alone: bool = False) -> None:
        """Read spans of rows to their places in ``out``; every chunk that they touch is read once, if possible."""
        opened = open_array(self)
        if isinstance(opened, Shards) and self._is_direct(out):
            if out.size:
                with _reading(self):
                    opened.read_spans(spans, out, alone=alone)
            return
        for part in _of_few_rows(spans, min(FEW_ROWS, self._few_rows)):
            if len(part) == 1:
                start, stop, place = part[0]
                self.read_into(start, stop, out[place : place + stop - start], alone=alone)
                continue
            rows = np.concatenate([np.arange(start, stop) for start, stop, _ in part])
            found = np.empty((len(rows), *self.row_shape), out.dtype)
            self.take_into(rows, found, alone=alone)
            out[np.concatenate([np.arange(at, at + stop - start) for start, stop, at in part])] = found

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Read ``rows`` into ``out``; every chunk that they touch is read once."""
        if len(rows) == 1:
            self._fetch(slice(int(rows[0]), int(rows[0]) + 1), out, alone=alone)
        elif len(rows) and out.size:
            self._fetch(rows, out, alone=alone)

    def read_original(self, start: int, stop: int, out: Array, /) -> None:
        """Read rows ``start..stop`` into ``out`` from the store itself, whatever copies of it there are."""
        if start < stop and out.size:
            self._fetch(slice(start, stop), out, alone=False, is_original=True)

    def inspect(self) -> None:
        """Raise CorruptStoreError if its metadata do not match the manifest; reads no rows."""
        open_array(self)

    def require_segment(self) -> None:
        """Raise SnapshotExpired if the segment of the array was vacuumed."""
        if self.location.read("zarr.json", max_nbytes=inspection.MAX_METADATA_NBYTES) is None:
            raise _vacuumed(self)

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Ask the system to fetch rows, given as firsts and ends, in ascending order: a hint."""
        opened = open_array(self)
        if isinstance(opened, Shards):
            opened.will_read(spans)

    def drop(self, start: int, stop: int) -> None:
        """Drop rows ``start..stop``, which are not read again soon, from the page cache."""
        opened = open_array(self)
        if isinstance(opened, Shards):
            opened.drop(start, stop)

    def _fetch(self, rows: slice | Array, out: Array, *, alone: bool, is_original: bool = False) -> None:
        opened = open_array(self)
        if is_original and isinstance(opened, Shards):
            opened = opened.past_copies()
        encoding = _encoding_in(self)
        with _reading(self):
            if not isinstance(opened, Shards):
                most_chunks = max(1, DECODED_NBYTES // (self.layout.chunk_rows * self._mean_row_nbytes))
                for part, places in _parts(rows, self.layout, self._few_rows, most_chunks):
                    stored = opened[part] if isinstance(part, slice) else opened.oindex[(part,)]
                    out[places] = encoding.decode(np.asarray(stored))
                return
            is_direct = self._is_direct(out)
            target = out if is_direct else np.empty(out.shape, encoding.stored)
            if isinstance(rows, slice):
                opened.read_into(rows.start, rows.stop, target, alone=alone)
            else:
                opened.take_into(rows, target, alone=alone)
            if not is_direct:
                out[...] = encoding.decode(target)

    @property
    def _mean_row_nbytes(self) -> int:
        """Bytes of a row in memory, with the average of its texts."""
        text_nbytes = 0 if self.text is None else self.text.nbytes // max(1, self.n_rows)
        return max(1, self.dtype.itemsize * math.prod(self.row_shape) + text_nbytes)

    @property
    def _few_rows(self) -> int:
        """Rows that may be in memory twice: as zarr-python returns them, and in their places."""
        return max(1, FEW_NBYTES // self._mean_row_nbytes)

    def _is_direct(self, out: Array) -> bool:
        """Return whether stored bytes can be read into ``out`` unchanged."""
        encoding = encoding_of(self.dtype)
        return encoding.is_identity and out.dtype == encoding.stored and bool(out.flags.c_contiguous)


def _of_few_rows(spans: Sequence[RowSpan], most_rows: int) -> Iterator[list[RowSpan]]:
    """Yield spans to read in one call: zarr-python hands each to another thread, and reads its chunks anew."""
    part: list[RowSpan] = []
    n_rows = 0
    for span in spans:
        size = span[1] - span[0]
        if part and n_rows + size > most_rows:
            yield part
            part, n_rows = [], 0
        part.append(span)
        n_rows += size
    if part:
        yield part


def _parts(
    rows: slice | Array, layout: Layout, most_rows: int, most_chunks: int
) -> Iterator[tuple[slice | Array, slice | Array]]:
    """Yield what to read in one call, and its places among ``rows``.

    A part has at most ``most_rows`` rows, or those of one chunk, of at most ``most_chunks`` chunks, in at most
    `SHARDS_AT_ONCE` shards; every chunk is in one part.
    """
    chunk_rows, shard_rows = layout.chunk_rows, layout.shard_rows
    if isinstance(rows, slice):
        step = min(SHARDS_AT_ONCE * shard_rows, max(1, min(most_chunks, most_rows // chunk_rows)) * chunk_rows)
        start = rows.start
        while start < rows.stop:
            stop = min((start // step + 1) * step, rows.stop)
            yield slice(start, stop), slice(start - rows.start, stop - rows.start)
            start = stop
        return
    order, cuts, chunks = groups_of(rows // chunk_rows)
    shards = [chunk * chunk_rows // shard_rows for chunk in chunks]
    first = 0
    for at in range(1, len(chunks) + 1):
        if (
            at == len(chunks)
            or at - first >= most_chunks
            or cuts[at + 1] - cuts[first] > most_rows
            or shards[at] - shards[first] >= SHARDS_AT_ONCE
        ):
            places = order[cuts[first] : cuts[at]]
            yield rows[places], places  # a copy, whose negative indices zarr may normalise in place
            first = at


@contextlib.contextmanager
def _reading(array: StoredArray) -> Iterator[None]:
    """Turn any error of reading into one that names the array.

    Each codec raises its own errors for damaged bytes, and so do the libraries of each store.
    """
    try:
        yield
    except (ArgumentError, CancelledError):  # of a setting; nobody waits
        raise
    except Exception as err:
        raise _unreadable(array, "read", err) from err


def _unreadable(array: StoredArray, done: str, err: Exception) -> StoreError:
    """Return the error for missing or damaged bytes: the segment was vacuumed, or is damaged."""
    # Distinguish missing from damaged: the store as a whole, the segment, whose metadata vacuum removes first, or only
    # the bytes.
    while isinstance(err, ExceptionGroup):  # of parallel reads
        err = err.exceptions[0]
    if replace(array.location, prefix="").read(MARKER) is None:
        return StoreNotFoundError(
            f"the store at {array.location.url} is gone: its directory was removed, or was the temporary one of a gate "
            "that has been closed; close a gate last, or give backend_args['output_dir']"
        )
    if array.location.read("zarr.json", max_nbytes=inspection.MAX_METADATA_NBYTES) is None:  # vacuum removes it first
        return _vacuumed(array)
    where = f"array {array.name!r} of segment {array.location} cannot be {done}"
    if isinstance(err, MemoryError):
        return RowsMemoryError(
            f"{where}: its chunks take more memory than there is ({err}); free some, or verify() the store, which may "
            "claim more than was written"
        )
    is_damage = isinstance(err, (StoreError, FileNotFoundError)) or not isinstance(err, OSError)
    if array.location.is_object_store and not is_damage:
        return StoreError(f"{where}, because the object store failed: {err}; try again")
    return CorruptStoreError(f"{where}: {str(err) or repr(err)}")


def _vacuumed(array: StoredArray) -> SnapshotExpired:
    return SnapshotExpired(
        f"segment {array.location} is gone: the version that refers to it was vacuumed; open the store again"
    )


@functools.lru_cache(maxsize=2048)
def open_array(array: StoredArray) -> Shards | zarr.Array[Any]:
    """Open an array once per process; refuse one that does not match its manifest."""
    location, layout = array.location, array.layout
    try:
        metadata, compressor = inspect_array(array)
        opened: Shards | zarr.Array[Any] | None = None
        files = None if is_text(array.dtype) else files_of(location, array.name)
        if files is not None:
            opened = shards_of(files, metadata, layout.chunk_rows, layout.shard_rows)
        if opened is None:  # text and other stores: zarr-python reads, through a guard that knows what is legal
            import zarr  # deferred on purpose: numbers in local files do without it
            from zarr.storage import StorePath

            from storegate_engine.arrays.guards import GuardedStore

            row = row_nbytes(encoding_of(array.dtype).stored, array.row_shape)
            limit = inspection.MAX_CHUNK_NBYTES if is_text(array.dtype) else layout.chunk_rows * row
            n_texts = layout.chunk_rows * math.prod(array.row_shape) if is_text(array.dtype) else None
            n_chunks = layout.shard_rows // layout.chunk_rows
            store = GuardedStore(location.store, n_chunks, limit, compressor, json.dumps(metadata).encode(), n_texts)
            opened = zarr.open_array(StorePath(store, location.key(array.name)), mode="r")
    except Exception as err:  # as in `_reading`
        raise _unreadable(array, "opened", err) from err
    return opened


@functools.lru_cache(maxsize=2048)
def inspect_array(array: StoredArray) -> tuple[dict[str, Any], str | None]:
    """Refuse an array whose metadata this library would not write; return them, and the compression of its chunks."""
    shape = (array.n_rows, *array.row_shape)
    return inspection.require_legal_metadata(
        array.location, array.name, encoding_of(array.dtype).stored, shape, array.layout
    )


def _encoding_in(array: StoredArray) -> Encoding:
    encoding = encoding_of(array.dtype)
    if is_calendar(array.dtype) and inspect_array(array)[0].get("attributes", {}).get("units") == "days":
        return encoding.in_days()
    return encoding


@dataclass(frozen=True, slots=True)
class StoredIndex:
    """An index array of an order, in a segment: a short one is read once, of a long one only the wanted parts."""

    array: StoredArray
    is_distinct = False

    def __str__(self) -> str:
        """Return its location."""
        return f"{self.array.location}/{self.array.name}"

    def __len__(self) -> int:
        """Return the number of logical rows."""
        return self.array.n_rows

    def take(self, rows: Array, /) -> Array:
        """Return the index at ``rows``."""
        if len(self) <= INDEX_ROWS:
            return load_index(self.array).take(rows)
        values = np.empty(len(rows), self.array.dtype)
        self.array.take_into(rows, values)
        return self._checked(values)

    def slice(self, lo: int, hi: int, /) -> Array:
        """Return the index of rows ``lo..hi``."""
        if len(self) <= INDEX_ROWS:
            return load_index(self.array).slice(lo, hi)
        values = np.empty(hi - lo, self.array.dtype)
        self.array.read_into(lo, hi, values)
        return self._checked(values)

    def find(self, values: Array, /) -> Array:
        """Return the positions of ``values`` in the index, -1 if absent; reads all of it."""
        return load_index(self.array).find(values)

    def _checked(self, values: Array) -> Array:
        """Return entries as int64; a Take checks their range."""
        return as_int64(values, "an index")

    def to_json(self) -> object:
        """Return the JSON of the array."""
        return self.array.to_json()

    def token(self) -> object:
        """Return the array's segment, whose identifier is the same wherever the store is."""
        return self.array.to_json()


@functools.lru_cache(maxsize=8)
def load_index(array: StoredArray) -> ArrayIndex:
    with _reading(array):
        values = np.empty((array.n_rows,), array.dtype)
    array.read_into(0, array.n_rows, values)
    return ArrayIndex(values)
