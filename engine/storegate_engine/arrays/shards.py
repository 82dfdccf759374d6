"""Shards: the files of a sharded zarr array on a file system; knows their format, but not the meaning of rows.

Format: zarr v3, codec ``sharding_indexed`` along the first axis, the index at the end of a file, chunks as described in
`frames`; zarr-python reads and writes all other arrays.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np

from storegate_engine.arrays.frames import FrameError, Framing
from storegate_engine.arrays.reading_threads import N_CORES, run_tasks
from storegate_engine.arrays.shard_index import MISSING, ShardIndex, Span, index_of, packed_index, read_exactly
from storegate_engine.buffers import Workspace, write_all
from storegate_engine.directories import cached_directory, open_directory, open_file
from storegate_engine.dtypes import dtype_from_text
from storegate_engine.errors import CorruptStoreError
from storegate_engine.integers import groups_of

__all__ = ["Flush", "RowSpan", "Shards", "shards_of"]

Flush: TypeAlias = Literal["later", "begin", "wait"]
"""When a file gets to the disk: whenever the system writes it, from now on, or before anything else is done."""
Array: TypeAlias = np.ndarray[Any, Any]
Places: TypeAlias = Sequence[Array | None]
"""Memory for whole chunks; None for chunks that are not wanted as a whole."""
RowSpan: TypeAlias = tuple[int, int, int]
"""The first row, the end, and the place of the first row in memory, in rows."""
Part: TypeAlias = tuple[int, int, int]
"""A part of the bytes of a chunk: its offset, its length, and its place in memory."""

TASK_NBYTES = (2 * 2**20, 16 * 2**20)
"""The fewest and the most decoded bytes of one task of a thread: operating systems read ahead best for long sequential
reads."""
WRITE_NBYTES = 2**20
"""Bytes of frames that are written together."""
READ_NBYTES = 256 * 2**10
"""Adjacent encoded chunks are fetched together up to this many bytes, which fit in a core's cache."""
PLAIN_NBYTES = 2**20
"""Plain chunks are fetched together up to this many bytes."""
MOST_CHUNKS = 256
"""Most plain chunks of one call, which can fill 1,024 buffers (IOV_MAX): one for each, and one between neighbours."""


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one array, and the layout of chunks in them."""

    directory: str
    """The array's directory."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    row_nbytes: int
    """Bytes of one row."""
    chunk_rows: int
    """Rows of a chunk."""
    n_chunks: int
    """Number of chunks of a shard."""
    framing: Framing
    """The encoding of a chunk."""
    root: str
    """The directory above it; links that leave it are refused."""

    def path(self, shard: int) -> str:
        """Return the path of one file."""
        return f"{self.directory}/{shard_key(shard, self.row_shape)}"

    def _place(self, shard: int) -> tuple[str, str]:
        """Return the key of the directory of one file, below the root, and the file's name."""
        key, _, name = self.path(shard)[len(self.root) :].strip("/").rpartition("/")
        return key, name

    def _open(self, shard: int) -> Any:
        """Open one file to read, in a directory that was opened step by step and stays open."""
        key, name = self._place(shard)
        try:
            descriptor = cached_directory(self.root, key).open_to_read(name)
        except FileNotFoundError:  # the directory may have been removed and created again
            descriptor = open_file(self.root, f"{key}/{name}")
        return open(descriptor, "rb", buffering=0)

    def read_into(self, start: int, stop: int, out: Array, *, alone: bool = False) -> None:
        """Read rows ``start..stop`` into ``out``; see :meth:`read_spans`."""
        self.read_spans([(start, stop, 0)], out, alone=alone)

    def read_spans(self, spans: Iterable[RowSpan], out: Array, *, alone: bool = False) -> None:
        """Read spans of rows to their places in ``out``, C-contiguous and of the stored dtype.

        A chunk is read once, however many spans touch it. ``alone`` reads in this thread: if other threads read, too,
        handing over costs more than it gains.

        Raises
        ------
        CorruptStoreError
            A chunk is missing or damaged; the message names its file.
        FileNotFoundError
            A file is missing.
        """
        wanted = self._wanted(spans)
        fewest, most = TASK_NBYTES
        nbytes = len(wanted) * self.framing.nbytes
        # one task per core, but none so short that handing it over costs more than it saves
        step = round(min(max(nbytes // N_CORES, fewest), most) / self.framing.nbytes)
        content = out.reshape(-1).view("u1")
        run_tasks(
            [partial(self.read_wanted, chunks, wanted, content) for chunks in self._tasks(sorted(wanted), step)],
            here=alone or nbytes <= fewest,
        )

    def take_into(self, rows: Array, out: Array, *, alone: bool = False) -> None:
        """Read ``rows`` in any order, repeats included, into ``out``; every chunk is read once.

        ``out`` is C-contiguous and of the stored dtype; for ``alone`` and errors see :meth:`read_spans`.
        """
        places, cuts, chunks = groups_of(rows // self.chunk_rows)
        # numpy moves whole rows fastest as single items, above all rows of few bytes
        values = _items_of(out.reshape(-1).view("u1").reshape(len(rows), -1))
        within = {chunk: (lo, hi) for chunk, lo, hi in zip(chunks, cuts, cuts[1:], strict=False)}

        def take(part: Sequence[int]) -> None:
            for done, decoded in self.read_chunks(part):
                for number, chunk in zip(part[done:], decoded, strict=False):
                    lo, hi = within[number]
                    where = places[lo:hi]
                    found = rows[where] - number * self.chunk_rows
                    values[where] = _items_of(chunk.reshape(self.chunk_rows, -1))[found]

        step = TASK_NBYTES[0] // (4 * self.framing.nbytes)
        run_tasks([partial(take, part) for part in self._tasks(chunks, step)], here=alone)

    def drop(self, start: int, stop: int) -> None:
        """Drop the files within rows ``start..stop`` from the page cache: they are not read again soon."""
        shard_rows = self.chunk_rows * self.n_chunks
        if hasattr(os, "posix_fadvise"):
            for shard in range(-(-start // shard_rows), stop // shard_rows):
                with self._open(shard) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def will_read(self, spans: Sequence[Span]) -> None:
        """Ask the system to fetch rows, given as firsts and ends, in ascending order: a hint, which never fails."""
        if not hasattr(os, "posix_fadvise"):
            return
        shard_rows = self.chunk_rows * self.n_chunks
        wanted: dict[int, list[Span]] = {}
        for start, stop in spans:
            for shard in range(start // shard_rows, -(-stop // shard_rows)):
                first = max(0, start - shard * shard_rows) // self.chunk_rows
                last = min(stop - shard * shard_rows, shard_rows) - 1
                wanted.setdefault(shard, []).append((first, last // self.chunk_rows))
        for shard, parts in wanted.items():
            path = self.path(shard)
            with contextlib.suppress(OSError, CorruptStoreError), self._open(shard) as file:  # reading raises it later
                index = self._index(path, file)
                for first, last in parts:
                    begin, end = index.begins[first], sum(index.span(last))
                    if index.is_legal(first) and index.is_legal(last) and begin < end:
                        os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)

    def write(self, shard: int, rows: Array, *, flush: Flush = "wait") -> None:
        """Write one file: all rows of a shard, or the last rows of the array.

        The file appears whole, and may be written again with the same rows. With ``"wait"`` it is on the disk when this
        returns; with ``"begin"`` the system is asked to begin with that.
        """
        key, name = self._place(shard)
        parent = open_directory(self.root, key, create=True)
        fresh = f"{name}.{uuid.uuid4().hex}.partial"
        index = np.full((self.n_chunks, 2), MISSING, "<u8")
        end = 0
        try:
            with open(parent.open_new(fresh), "wb", buffering=0) as file:
                # the length of a frame is known only after encoding, so the index is computed last
                n_chunks = -(-len(rows) // self.chunk_rows)
                parts: list[Array | bytes] = []  # of several frames, since each call waits for Python's lock
                nbytes = 0
                for at, frame in enumerate(self.framing.frames(n_chunks, partial(self._chunk, rows))):
                    parts.extend(frame)
                    index[at] = end + nbytes, sum(map(len, frame))
                    nbytes += int(index[at, 1])
                    if nbytes >= WRITE_NBYTES:
                        write_all(file, *parts)
                        end, nbytes, parts = end + nbytes, 0, []
                write_all(file, *parts, packed_index(index))
                if flush == "wait":
                    os.fsync(file.fileno())
                elif flush == "begin" and hasattr(os, "posix_fadvise"):  # Linux writes what is new before it drops it
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            parent.replace(fresh, name)
        except BaseException:
            with contextlib.suppress(OSError):
                parent.unlink(fresh)
            raise

    def _chunk(self, rows: Array, at: int) -> Array:
        """Return one chunk of the rows of a shard, padded to a whole chunk at the array's end."""
        rows = rows[at * self.chunk_rows : (at + 1) * self.chunk_rows]
        if len(rows) == self.chunk_rows:
            return np.ascontiguousarray(rows)
        chunk = np.zeros((self.chunk_rows, *rows.shape[1:]), rows.dtype)
        chunk[: len(rows)] = rows
        return chunk

    def _wanted(self, spans: Iterable[RowSpan]) -> dict[int, list[Part]]:
        """Return, for every chunk that spans touch, its wanted parts and their places."""
        # in bytes, as chunks are decoded; a chunk that several spans touch has a part for each of them
        wanted: dict[int, list[Part]] = {}
        rows, nbytes = self.chunk_rows, self.row_nbytes
        for start, stop, place in spans:
            for chunk in range(start // rows, -(-stop // rows)):
                first = chunk * rows
                lo, hi = max(start, first), min(stop, first + rows)
                part = (lo - first) * nbytes, (hi - lo) * nbytes, (place + lo - start) * nbytes
                wanted.setdefault(chunk, []).append(part)
        return wanted

    def _tasks(self, chunks: Sequence[int], most: int) -> Iterator[Sequence[int]]:
        """Yield the ascending chunks in parts, each within one file."""
        first = 0
        for at in range(1, len(chunks) + 1):
            if (
                at == len(chunks)
                or at - first >= most
                or chunks[at] // self.n_chunks != chunks[at - 1] // self.n_chunks
            ):
                yield chunks[first:at]
                first = at

    def read_wanted(self, chunks: Sequence[int], wanted: Mapping[int, Sequence[Part]], out: Array) -> None:
        """Read chunks of one shard; those wanted as a whole are decoded in place."""
        nbytes = self.framing.nbytes
        parts = [wanted[chunk] for chunk in chunks]
        places = [out[of[0][2] : of[0][2] + nbytes] if of[0][1] == nbytes else None for of in parts]
        for done, decoded in self.read_chunks(chunks, places):
            for at, chunk in enumerate(decoded, done):
                # the first part of a chunk decoded in place is already there
                for lo, size, place in parts[at][places[at] is not None :]:
                    out[place : place + size] = chunk[lo : lo + size]

    def read_chunks(self, chunks: Sequence[int], places: Places | None = None) -> Iterator[tuple[int, Sequence[Array]]]:
        """Yield decoded chunks of one shard, several at a time, with the index of the first among those wanted.

        They are in their places, or in memory that is reused for the next ones.
        """
        # Wanted chunks, by their number in the file, which holds them in any order and with gaps:
        #
        #     wanted    3  4  5  6 | 9 | 10 ...       one read for each group between the bars
        #
        # A read continues while the next wanted chunk is the next of the file and follows this one, see
        # `ShardIndex.ends`, up to the limit of `_most`. Plain chunks are read to their places directly; encoded
        # ones are decoded from a buffer that fits in a core's cache.
        shard = chunks[0] // self.n_chunks
        path = self.path(shard)
        within = [chunk - shard * self.n_chunks for chunk in chunks]
        with self._open(shard) as file:
            index = self._index(path, file)
            if places is None and len(within) > 1 and hasattr(os, "posix_fadvise"):
                for at, chunk in zip(within, chunks, strict=True):  # scattered: the disk fetches all at once
                    index.require_legal(at, chunk, path)
                    os.posix_fadvise(file.fileno(), *index.span(at), os.POSIX_FADV_WILLNEED)
            done = 0
            while done < len(within):
                first = within[done]
                index.require_legal(first, chunks[done], path)
                is_plain = 0 < index.lengths[first] == self.framing.plain_nbytes and hasattr(os, "preadv")
                most = self._most(index.lengths[first], in_place=is_plain and places is not None)
                last = min(len(within), done + min(most, index.ends[first] - first))
                # up to the first chunk that is not wanted
                last = next((at for at in range(done + 1, last) if within[at] != first + at - done), last)
                into = self._placed(places[done:last] if places else [None] * (last - done))
                fetch = self._fetch_plain if is_plain else self._fetch_encoded
                try:
                    fetch(file, path, [index.span(at) for at in range(first, first + last - done)], into)
                except FrameError as err:
                    raise CorruptStoreError(
                        f"chunk {chunks[done + err.at]} of {path} is not what was written: {err}"
                    ) from err
                yield done, into
                done = last

    def _index(self, path: str, file: Any) -> ShardIndex:
        """Return the index of an open file."""
        return index_of(path, file, self.n_chunks, self.framing.nbytes, self.framing.plain_nbytes)

    def _most(self, nbytes: int, *, in_place: bool) -> int:
        """Return the number of chunks of about ``nbytes`` bytes in a file to fetch in one call."""
        decoded = max(1, PLAIN_NBYTES // self.framing.nbytes)
        return min(decoded, MOST_CHUNKS, decoded if in_place else max(1, READ_NBYTES // max(1, nbytes)))

    def _placed(self, places: Places) -> Sequence[Array]:
        """Return memory for chunks: their places, or memory of this thread for those without a place."""
        n_spares = sum(place is None for place in places)
        spares = iter(_workspace("chunks", n_spares * self.framing.nbytes).reshape(n_spares, self.framing.nbytes))
        return [next(spares) if place is None else place for place in places]

    def _fetch_plain(self, file: Any, path: str, spans: Sequence[Span], into: Sequence[Array]) -> None:
        """Fetch adjacent plain chunks to their places."""
        # One preadv splits the file. Rows go to their places; the bytes between two chunks, the checksum of one
        # and the header of the next, go to a row of `between`:
        #
        #     file      | head | rows 0 | tail head | rows 1 | tail head | rows 2 | tail |
        #     between     [0]             [1]                  [2]                  [3]
        head, tail = self.framing.head_nbytes, self.framing.tail_nbytes
        between = np.empty((len(into) + 1, tail + head), "u1")
        buffers = [between[0, tail:].data]
        for chunk, gap in zip(into, between[1:], strict=True):
            buffers += (chunk.data, gap.data)
        buffers[-1] = between[-1, :tail].data
        if os.preadv(file.fileno(), buffers, spans[0][0]) != len(spans) * self.framing.plain_nbytes:
            raise FrameError("the file ends within it")
        self.framing.settle(between, into)

    def _fetch_encoded(self, file: Any, path: str, spans: Sequence[Span], into: Sequence[Array]) -> None:
        """Fetch adjacent chunks, and decode them one after the other to their places."""
        start, end = spans[0][0], sum(spans[-1])
        encoded = _workspace("encoded", end - start)
        read_exactly(file, start, encoded.data, path)
        for at, ((begin, nbytes), place) in enumerate(zip(spans, into, strict=True)):
            try:
                self.framing.decode(encoded[begin - start : begin - start + nbytes], place)
            except (ValueError, RuntimeError, IndexError) as err:
                raise FrameError(str(err), at) from err


def shard_key(shard: int, row_shape: tuple[int, ...]) -> str:
    """Return the key of a shard's file below its array, as defined by zarr v3."""
    return "/".join(["c", str(shard), *("0" for _ in row_shape)])


def _items_of(rows: Array) -> Array:
    """Return rows of bytes as one-dimensional items of the same bytes."""
    nbytes = rows.shape[1]
    return rows.view(f"u{nbytes}" if nbytes in (1, 2, 4, 8) else f"V{nbytes}")[:, 0] if nbytes else rows[:, 0]


def shards_of(
    directory: str, metadata: Mapping[str, Any], chunk_rows: int, shard_rows: int, *, root: str | None = None
) -> Shards | None:
    """Return the shards of an array that this file can read and write, None for any other.

    Parameters
    ----------
    directory : str
        The array's directory.
    metadata : mapping
        The content of its ``zarr.json``.
    chunk_rows, shard_rows : int
        Expected rows of a chunk and of a shard.
    root : str, optional
        The directory above it, which links must not leave; default: the array's directory.
    """
    if sys.byteorder != "little":
        return None
    try:
        dtype = dtype_from_text(metadata["data_type"], "zarr")
        row_shape = tuple(metadata["shape"][1:])
        row_nbytes = dtype.itemsize * int(np.prod(row_shape, dtype=np.int64))
        (sharding,) = metadata["codecs"]
        config = sharding["configuration"]
        framing = Framing.of(chunk_rows * row_nbytes, config["codecs"])
        found = {
            "index": [item["name"] for item in config["index_codecs"]],
            "location": config.get("index_location", "end"),
            "sharding": sharding["name"],
            "chunk": tuple(config["chunk_shape"]),
            "shard": tuple(metadata["chunk_grid"]["configuration"]["chunk_shape"]),
            "keys": metadata["chunk_key_encoding"],
        }
    except (KeyError, TypeError, ValueError, IndexError, CorruptStoreError):
        return None
    expected = {
        "index": ["bytes", "crc32c"],
        "location": "end",
        "sharding": "sharding_indexed",
        "chunk": (chunk_rows, *row_shape),
        "shard": (shard_rows, *row_shape),
        "keys": {"name": "default", "configuration": {"separator": "/"}},
    }
    if framing is None or found != expected or dtype.kind not in "biufc":
        return None
    return Shards(directory, row_shape, row_nbytes, chunk_rows, shard_rows // chunk_rows, framing, root or directory)


_local = threading.local()


def _workspace(use: str, nbytes: int) -> Array:
    """Return memory of this thread, with any content, valid until the next call for the same use."""
    if not hasattr(_local, "workspace"):
        _local.workspace = Workspace()
    space: Workspace = _local.workspace
    return space.array(use, (nbytes,), np.dtype("u1"))
