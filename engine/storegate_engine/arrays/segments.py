"""Segments: new arrays of rows in storage, written once.

A segment is an ordinary zarr v3 group with one sharded array per variable, at a path that was never used before. It
is never changed once a manifest refers to it.
"""

from __future__ import annotations

import functools
import json
import math
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate_engine.arrays import checksums
from storegate_engine.arrays.inspection import (
    MAX_CHUNK_NBYTES,
    MAX_ROW_NBYTES,
    require_legal_document,
    require_within_limits,
)
from storegate_engine.arrays.shard_files import Flush
from storegate_engine.arrays.shard_writes import MAX_TEXT_NBYTES, encoded, new_shards, open_with_zarr, too_much_text
from storegate_engine.arrays.shards import Shards
from storegate_engine.arrays.statistics import Statistics, Tally
from storegate_engine.arrays.stored import StoredArray
from storegate_engine.budget import WRITES_IN_FLIGHT, Layout, plan_layout
from storegate_engine.encodings import Encoding, encoding_of, is_text, row_nbytes
from storegate_engine.errors import CorruptStoreError, TransactionError, UnreadableStateError
from storegate_engine.locations import Location, writing
from storegate_engine.texts import TextSize, row_text_nbytes
from storegate_engine.threads import Pending, ThreadPool

if TYPE_CHECKING:
    import zarr
    from zarr.abc.codec import BytesBytesCodec

__all__ = ["ArraySpec", "Compressor", "Segment", "SegmentWriter"]

Array: TypeAlias = np.ndarray[Any, Any]
Compressor: TypeAlias = "tuple[BytesBytesCodec, ...]"


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """The dtype, shape and layout of one array of a new segment."""

    dtype: np.dtype[Any]
    """The logical dtype."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    layout: Layout
    """Rows of a chunk and of a shard."""
    n_rows: int | None
    """The number of rows; None if it is known only at the end."""
    is_fixed: bool = False
    """Whether the rows of a chunk were requested, and do not depend on the bytes of text."""
    text: TextSize | None = None
    """The most that variable-length text takes, if that is known in advance."""

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row in memory."""
        return row_nbytes(self.dtype, self.row_shape)


TEXT_CHUNK_NBYTES = 2 * 2**20
"""Chunks of text with more bytes get fewer rows."""
SMALL_NBYTES = 2**18
"""Shards of fewer bytes are written faster than a thread starts."""
_UNKNOWN_ROWS = 2**53
_GROUP = b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'


def new_identifier() -> str:
    """Return a new segment identifier: milliseconds since 1970, then random digits."""
    return f"{time.time_ns() // 10**6:012x}{uuid.uuid4().hex[12:]}"


def made_at(identifier: str) -> float:
    """Return when a segment was begun, in seconds since 1970-01-01 UTC.

    >>> 0 <= time.time() - made_at(new_identifier()) < 60
    True
    """
    return int(identifier[:12], 16) / 1000


@dataclass(slots=True)
class Segment:
    """A new segment at a path that was never used before: arrays are written one after the other, then sealed.

    Parameters
    ----------
    parent : Location
        The directory of segments.
    compressor : tuple of zarr codecs, optional
        How chunks are compressed; lz4 if None. A crc32c checksum is always added.
    identifier : str
        Its directory's name.
    durable : bool
        Whether all is synced before it is committed: then the disk begins at once.
    renew : callable, optional
        Makes another segment of the same change, for text that turns out larger than its chunks allow.
    """

    parent: Location
    compressor: Compressor | None = None
    identifier: str = field(default_factory=new_identifier)
    durable: bool = False
    renew: Callable[[], Segment] | None = None
    _arrays: dict[str, StoredArray] = field(default_factory=dict)
    _metadata: dict[str, bytes] = field(default_factory=dict)
    """The ``zarr.json`` of each array."""
    idle: Array | None = None
    """Memory of a closed writer, for the next one."""

    @property
    def location(self) -> Location:
        """The location of the segment."""
        return self.parent / self.identifier

    def memory(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array with any content: memory of a closed writer if it fits, which is faster than new memory."""
        idle, self.idle = self.idle, None
        nbytes = math.prod(shape) * dtype.itemsize
        if idle is None or idle.nbytes != nbytes or not nbytes or "T" in (idle.dtype.kind, dtype.kind):
            return np.empty(shape, dtype)
        return idle.reshape(-1).view("u1").view(dtype).reshape(shape)

    def create(self, name: str, spec: ArraySpec) -> SegmentWriter:
        """Create one array and return its writer.

        Raises
        ------
        WriteError
            The array cannot be written.
        """
        with writing(self.location / name):
            return self._create(name, spec)

    def _create(self, name: str, spec: ArraySpec) -> SegmentWriter:
        require_within_limits(spec.dtype, spec.row_shape, spec.n_rows or 0, spec.layout)
        if not self._arrays:
            self.location.write("zarr.json", _GROUP)
        encoding = encoding_of(spec.dtype)
        shape = (_UNKNOWN_ROWS if spec.n_rows is None else spec.n_rows, *spec.row_shape)
        compressor = _default_compressor() if self.compressor is None else self.compressor
        codecs = _Codecs(compressor, json.dumps([codec.to_dict() for codec in compressor]))
        metadata = _metadata(name, shape, encoding, spec.layout, codecs)
        self.location.write(f"{name}/zarr.json", metadata)
        self._metadata[name] = metadata
        n_rows = 0 if spec.n_rows is None else spec.n_rows
        text = spec.text if encoding.logical.kind == "T" else None
        self._arrays[name] = StoredArray(
            self.location, name, encoding.logical, spec.row_shape, n_rows, spec.layout, text=text
        )
        return SegmentWriter(self, name, spec, encoding, json.loads(metadata))

    def reserve(self, name: str, spec: ArraySpec) -> StoredArray:
        """Create one array of known size, which :func:`write_rows` fills, from any process and in any order."""
        assert spec.n_rows is not None
        self.create(name, spec)
        return self._arrays[name]

    def discard(self, name: str) -> None:
        """Remove one array."""
        del self._arrays[name]
        (self.location / name).delete()

    def seal(
        self,
        name: str,
        n_rows: int,
        encoding: Encoding,
        shards: Sequence[int],
        statistics: Statistics | None,
        text: TextSize | None = None,
    ) -> StoredArray:
        """Record the final number of rows (and width of text) of an array, and the checksums of its shards.

        ``statistics`` are those of its stored values.
        """
        with writing(self.location / name):
            sealed = self._seal(name, n_rows, encoding, shards, text)
        self._arrays[name] = sealed = replace(sealed, statistics=Tally.decoded(statistics, sealed.dtype))
        return sealed

    def _seal(
        self, name: str, n_rows: int, encoding: Encoding, shards: Sequence[int], text: TextSize | None
    ) -> StoredArray:
        old = self._arrays[name]
        if old.n_rows != n_rows or not n_rows:  # zarr's own resize would look for every chunk of the old shape
            metadata = json.loads(self._metadata[name])
            metadata["shape"][0] = n_rows
            self.location.write(f"{name}/zarr.json", json.dumps(metadata).encode())
        if len(shards) > 1:
            self.location.write(f"{name}/{checksums.SHARDS_KEY}", checksums.pack(shards))
        sealed = replace(old, dtype=encoding.logical, n_rows=n_rows, checksum=checksums.of_array(shards))
        if text is not None:
            sealed = replace(sealed, text=text)
        assert sealed.n_shards == len(shards)
        return sealed

    def remove(self) -> None:
        """Remove what was written; for a transaction that failed."""
        self.location.delete()


class SegmentWriter:
    """Appends rows to one new array, whole shards at a time."""

    def __init__(
        self, segment: Segment, name: str, spec: ArraySpec, encoding: Encoding, metadata: dict[str, Any]
    ) -> None:
        self._segment = segment
        self._name = name
        self._spec = spec
        self._encoding = encoding
        self._target: Shards | zarr.Array[Any] = new_shards(
            segment.location, name, spec.dtype, spec.layout, metadata
        ) or open_with_zarr(segment.location, name)
        self._shard = spec.layout.shard_rows
        self._buffer: Array | None = None
        self._buffered = 0
        self._written = 0
        self._idle: Array | None = None
        self._writing: deque[tuple[Pending[None], Array]] = deque()
        self._pool: ThreadPool | None = None
        self._shards: list[int] = []
        self._tally = Tally(encoding.logical)
        self._chunk_nbytes = 0
        self._text = TextSize(0, 0)

    @property
    def n_rows(self) -> int:
        """Number of rows appended so far."""
        return self._written + self._buffered

    def append(self, rows: Array) -> None:
        """Append rows of shape ``(n, *row_shape)``; the caller may change them as soon as this returns.

        They are copied: an iterator may reuse its buffer, and another thread may write to it, but a shard and its
        checksum must be made of the same bytes.
        """
        if is_text(rows.dtype):  # later rows may be wider
            self._encoding = encoding_of(np.result_type(self._encoding.logical, rows.dtype))
            width = row_nbytes(self._encoding.logical, self._spec.row_shape)
            if width * self._spec.layout.chunk_rows > MAX_CHUNK_NBYTES and width <= MAX_ROW_NBYTES:
                self._relay(width)
        self._append(encoded(self._name, self._encoding, rows))

    def _append(self, rows: Array) -> None:
        """Append rows in their stored form."""
        # Numbers fill the buffer of one shard, which `_put` hands on. Text is also counted chunk by chunk, so that no
        # chunk exceeds what a reader accepts: if one would, the array starts again with fewer rows per chunk.
        nbytes = row_text_nbytes(rows) if self._encoding.logical.kind == "T" else None
        start = 0
        while start < len(rows):
            stop = min(start + self._shard - self._buffered, len(rows))
            if nbytes is not None:
                chunk_rows = self._spec.layout.chunk_rows
                stop = min(stop, start + chunk_rows - self._buffered % chunk_rows)
                added = TextSize.of(nbytes[start:stop])
                if self._chunk_nbytes + added.nbytes > (MAX_TEXT_NBYTES if self._is_final else TEXT_CHUNK_NBYTES):
                    self._relay(max(1, added.nbytes // (stop - start)))
                    continue
                self._text = self._text.with_rows(added)
                is_end = (self._buffered + stop - start) % chunk_rows == 0
                self._chunk_nbytes = 0 if is_end else self._chunk_nbytes + added.nbytes
            self._fill(rows[start:stop])
            start = stop

    @property
    def _is_final(self) -> bool:
        """Whether the rows per chunk cannot be lowered."""
        return self._spec.is_fixed or self._spec.layout.chunk_rows == 1 or self._segment.renew is None

    def _relay(self, row_nbytes: int) -> None:
        """Start again with fewer rows per chunk: rows take more bytes than earlier rows suggested."""
        layout = self._spec.layout
        if self._is_final or self._segment.renew is None:
            raise too_much_text(self._name, layout.chunk_rows, layout.chunk_rows * row_nbytes)
        chunk_rows = plan_layout(row_nbytes, None).chunk_rows
        chunk_rows = max(1, min(chunk_rows, layout.chunk_rows // 4))
        shard_rows = max(chunk_rows, plan_layout(row_nbytes, None, chunk_rows=chunk_rows).shard_rows)
        fresh = self._segment.renew().create(
            self._name, replace(self._spec, layout=Layout(chunk_rows, min(shard_rows, layout.shard_rows)))
        )
        fresh._encoding = self._encoding
        assert not isinstance(self._target, Shards), "text is written by zarr-python"
        for lo in range(0, self._written, layout.chunk_rows):
            fresh._append(np.asarray(self._target[lo : min(lo + layout.chunk_rows, self._written)]))
        if self._buffer is not None:
            fresh._append(self._buffer[: self._buffered])
        self._segment.discard(self._name)
        self.__dict__.update(fresh.__dict__)  # holders of this writer continue with the new array

    def flush(self) -> None:
        """Wait until every whole shard that was appended is in storage.

        Raises
        ------
        WriteError
            A shard cannot be written.
        """
        with writing(self._segment.location / self._name):
            while self._writing:
                self._settle()

    def abandon(self) -> None:
        """Wait until nothing is being written, ignoring errors; for a transaction that failed."""
        if self._pool is not None:
            self._pool.close()

    def put_rest(self) -> None:
        """Hand the remaining rows to storage; no more may be appended. Large ones are written in another thread."""
        if self._buffered:
            self._put("begin" if self._segment.durable else "later")

    def close(self) -> StoredArray:
        """Write the remaining rows, check their number, and return the finished array."""
        self.put_rest()
        self.flush()
        if (
            self._pool is not None
        ):  # its threads have nothing left to do: waiting for their end costs as much as a write
            self._pool.close(wait=False)
        self._segment.idle, self._idle = self._idle, None
        if self._spec.n_rows is not None and self._written != self._spec.n_rows:
            raise TransactionError(
                f"array {self._name!r} should have {self._spec.n_rows} rows, but {self._written} were written"
            )
        text = self._text if self._encoding.logical.kind == "T" else None
        found = self._tally.found()
        return self._segment.seal(self._name, self._written, self._encoding, self._shards, found, text)

    def _fill(self, rows: Array) -> None:
        if self._buffer is None:
            shape = (self._shard, *self._spec.row_shape)
            self._buffer, self._idle = self._idle, None
            if self._buffer is None:
                self._buffer = self._segment.memory(shape, self._encoding.stored)
        self._buffer[self._buffered : self._buffered + len(rows)] = rows
        self._buffered += len(rows)
        if self._buffered == self._shard:
            self._put()

    def _put(self, flush: Flush = "wait") -> None:
        """Hand one shard to storage, which writes it while others are encoded; a last few rows are written at once."""
        assert self._buffer is not None
        buffer, rows = self._buffer, self._buffer[: self._buffered]
        start, stop = self._written, self._written + len(rows)
        self._buffer, self._buffered, self._written = None, 0, stop
        if not rows.size:
            return
        with writing(self._segment.location / self._name):
            if not isinstance(self._target, Shards):
                self._target[start:stop] = rows
            elif self._pool is None and rows.nbytes <= SMALL_NBYTES:  # a small append would wait for a thread to start
                self._target.write(start // self._shard, rows, flush="later")
            else:
                if self._pool is None:
                    self._pool = ThreadPool(WRITES_IN_FLIGHT, "storegate-write")
                write = partial(self._target.write, start // self._shard, rows, flush=flush)
                self._writing.append((self._pool.submit(write), buffer))
            self._shards.append(checksums.of_rows(rows, self._tally))  # while storage writes it
            if len(self._writing) > WRITES_IN_FLIGHT:
                self._settle()

    def _settle(self) -> None:
        """Wait for the first shard that is being written, and keep its memory for the next one."""
        pending, buffer = self._writing.popleft()
        pending.result()
        self._idle = buffer


@functools.cache
def _default_compressor() -> Compressor:
    """Return the codec with the best ratio of time to space.

    Shuffling bits takes twice as long as shuffling bytes, for hardly smaller files.
    """
    from zarr.codecs import BloscCodec  # deferred on purpose, as all of zarr: what does not write is quick to start

    return (BloscCodec(cname="lz4", shuffle="shuffle", clevel=5),)


@dataclass(frozen=True, slots=True)
class _Codecs:
    """Codecs that can be hashed and compared, unlike zarr's own."""

    codecs: Compressor = field(compare=False)
    text: str


@functools.lru_cache(maxsize=256)
def _metadata(name: str, shape: tuple[int, ...], encoding: Encoding, layout: Layout, compressor: _Codecs) -> bytes:
    """Return the ``zarr.json`` of an array; cached, since small appends often repeat it."""
    import zarr  # deferred on purpose, as above
    from zarr.codecs import Crc32cCodec
    from zarr.core.buffer import default_buffer_prototype

    tail = tuple(max(1, size) for size in shape[1:])
    array = zarr.create_array(
        zarr.storage.MemoryStore(),
        shape=shape,
        dtype=encoding.stored,
        chunks=(layout.chunk_rows, *tail),
        shards=(layout.shard_rows, *tail),
        compressors=(*compressor.codecs, Crc32cCodec()),
        fill_value="" if is_text(encoding.stored) else encoding.stored.type(0),
        attributes=dict(encoding.attributes),
        dimension_names=("sample", *(f"{name}_{axis}" for axis in range(1, len(shape)))),
    )
    content = bytes(array.metadata.to_buffer_dict(default_buffer_prototype())["zarr.json"].to_bytes())
    try:
        require_legal_document(content, f"{name}/zarr.json", encoding.stored, shape, layout)  # as readers will
    except CorruptStoreError as err:
        raise UnreadableStateError(f"nothing was changed, since it could not be read afterwards: {err}") from err
    return content
