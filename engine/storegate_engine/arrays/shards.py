"""Shards: the shards of a sharded zarr array, wherever they are; knows their format, but not the meaning of rows.

Format: zarr v3, codec ``sharding_indexed`` along the first axis, the index at the end of a file, chunks as described in
`frames`; zarr-python reads and writes all other arrays.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

import numpy as np

from storegate_engine.arrays.frames import FrameError, Framing
from storegate_engine.arrays.reading_threads import N_CORES, fetched, run_fetches, run_tasks
from storegate_engine.arrays.shard_files import Flush, OpenShard, ShardFiles, thread_workspace, trim_workspace
from storegate_engine.arrays.shard_index import MISSING, IndexForm, ShardIndex, Span, packed_index
from storegate_engine.dtypes import dtype_from_text
from storegate_engine.errors import CorruptStoreError
from storegate_engine.integers import groups_of

__all__ = ["RowSpan", "Shards", "shards_of"]

T = TypeVar("T")
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
KEPT_NBYTES = 2**20
"""Most memory that a thread which fetches keeps."""
MOST_CHUNKS = 256
"""Most plain chunks of one call, which can fill 1,024 buffers (IOV_MAX): one for each, and one between neighbours."""


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one array, and the layout of chunks in them."""

    files: ShardFiles
    """The place that keeps them."""
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

    def key(self, shard: int) -> str:
        """Return the key of a shard."""
        return shard_key(shard, self.row_shape)

    @property
    def _form(self) -> IndexForm:
        """What must be known to read the index of a shard."""
        return IndexForm(self.n_chunks, self.framing.nbytes, self.framing.plain_nbytes)

    def _open(self, shard: int, chunks: Sequence[int]) -> OpenShard:
        """Open a shard to read some of its chunks."""
        return self.files.open(self.key(shard), self._form, chunks)

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
        self._run(
            lambda chunks: self.read_wanted(chunks, wanted, content),
            sorted(wanted),
            step,
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

        self._run(take, chunks, TASK_NBYTES[0] // (4 * self.framing.nbytes), here=alone)

    def _run(self, read: Callable[[Sequence[int]], None], chunks: Sequence[int], most: int, *, here: bool) -> None:
        """Read chunks, in ascending order, in parts of one shard: here, in threads, or with many requests under way."""
        if self.files.is_remote:
            try:
                run_fetches(
                    (nbytes, partial(self._fetch, part[0] // self.n_chunks, partial(read, part)))
                    for nbytes, part in self._requests(chunks)
                )
            except CancelledError:
                raise
            except BaseException:  # what is known of these shards may be why
                for shard in {chunk // self.n_chunks for chunk in chunks}:
                    self.files.forget_index(self.key(shard))
                raise
        else:
            run_tasks([partial(read, part) for part in self._tasks(chunks, most)], here=here)

    def drop(self, start: int, stop: int) -> None:
        """Drop the shards within rows ``start..stop`` from the page cache: they are not read again soon."""
        shard_rows = self.chunk_rows * self.n_chunks
        for shard in range(-(-start // shard_rows), stop // shard_rows):
            self.files.drop(self.key(shard))

    def will_read(self, spans: Sequence[Span]) -> None:
        """Ask the system to fetch rows, given as firsts and ends, in ascending order: a hint, which never fails."""
        if self.files.is_remote:  # a read has all of its requests under way
            return
        shard_rows = self.chunk_rows * self.n_chunks
        wanted: dict[int, list[Span]] = {}
        for start, stop in spans:
            for shard in range(start // shard_rows, -(-stop // shard_rows)):
                first = max(0, start - shard * shard_rows) // self.chunk_rows
                last = min(stop - shard * shard_rows, shard_rows) - 1
                wanted.setdefault(shard, []).append((first, last // self.chunk_rows))
        for shard, parts in wanted.items():
            with contextlib.suppress(OSError, CorruptStoreError), self._open(shard, ()) as file:  # reading raises it
                index = file.index(self.files.path(self.key(shard)), self._form)
                ends = ((index.begins[first], sum(index.span(last)), first, last) for first, last in parts)
                file.will_read(
                    (begin, end - begin)
                    for begin, end, first, last in ends
                    if index.is_legal(first) and index.is_legal(last) and begin < end
                )

    def write(self, shard: int, rows: Array, *, flush: Flush = "wait") -> None:
        """Write one shard: all of its rows, or the last rows of the array.

        It appears whole, and may be written again with the same rows.
        """
        self.files.write(self.key(shard), self._parts(rows), flush)

    def _parts(self, rows: Array) -> Iterator[Sequence[Array | bytes]]:
        """Yield the bytes of a shard, those of several frames at a time: each write waits for Python's lock."""
        # the length of a frame is known only after encoding, so the index is computed last
        index = np.full((self.n_chunks, 2), MISSING, "<u8")
        n_chunks = -(-len(rows) // self.chunk_rows)
        parts: list[Array | bytes] = []
        end = nbytes = 0
        for at, frame in enumerate(self.framing.frames(n_chunks, partial(self._chunk, rows))):
            parts.extend(frame)
            index[at] = end + nbytes, sum(map(len, frame))
            nbytes += int(index[at, 1])
            if nbytes >= WRITE_NBYTES:
                yield parts
                end, nbytes, parts = end + nbytes, 0, []
        yield [*parts, packed_index(index)]

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

    def _sound(self, shard: int, read: Callable[[], T]) -> T:
        """Read of one shard; from its place again if a local copy is damaged."""
        try:
            return read()
        except CorruptStoreError:
            if not self.files.forget(self.key(shard)):
                raise
            return read()

    def _fetch(self, shard: int, read: Callable[[], None]) -> None:
        """Read what one request fetches; many threads do, and keep little memory for the next time."""
        try:
            self._sound(shard, read)
        finally:
            trim_workspace(KEPT_NBYTES)

    def past_copies(self) -> Shards:
        """Return the shards that are read from their place, whatever copies there are."""
        return replace(self, files=self.files.past_copies())

    def _requests(self, chunks: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the memory that each request takes, with copies of a chunk, and its chunks, which are of one shard."""
        # the indices of the next shards are fetched while chunks of the ones before are
        parts = list(self._tasks(chunks, len(chunks)))
        shards = [part[0] // self.n_chunks for part in parts]
        indices = fetched([partial(self._sound, shard, partial(self._index, shard)) for shard in shards])
        for shard, part, index in zip(shards, parts, indices, strict=True):
            first = shard * self.n_chunks
            within = [chunk - first for chunk in part]
            for nbytes, group in self.files.requests(self.key(shard), index, within):
                yield nbytes + self.framing.n_copies * self.framing.nbytes, [first + at for at in group]

    def _index(self, shard: int) -> ShardIndex:
        """Return the index of one shard."""
        with self._open(shard, ()) as file:
            return file.index(self.files.path(self.key(shard)), self._form)

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
        path = self.files.path(self.key(shard))
        within = [chunk - shard * self.n_chunks for chunk in chunks]
        with self._open(shard, within) as file:
            index = file.index(path, self._form)
            if places is None and len(within) > 1:
                for at, chunk in zip(within, chunks, strict=True):
                    index.require_legal(at, chunk, path)
                file.will_read(map(index.span, within))  # scattered: the disk fetches all at once
            done = 0
            while done < len(within):
                first = within[done]
                index.require_legal(first, chunks[done], path)
                is_plain = 0 < index.lengths[first] == self.framing.plain_nbytes
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

    def _most(self, nbytes: int, *, in_place: bool) -> int:
        """Return the number of chunks of about ``nbytes`` bytes in a file to fetch in one call."""
        decoded = max(1, PLAIN_NBYTES // self.framing.nbytes)
        return min(decoded, MOST_CHUNKS, decoded if in_place else max(1, READ_NBYTES // max(1, nbytes)))

    def _placed(self, places: Places) -> Sequence[Array]:
        """Return memory for chunks: their places, or memory of this thread for those without a place."""
        n_spares = sum(place is None for place in places)
        spares = iter(thread_workspace("chunks", n_spares * self.framing.nbytes).reshape(n_spares, self.framing.nbytes))
        return [next(spares) if place is None else place for place in places]

    def _fetch_plain(self, file: OpenShard, path: str, spans: Sequence[Span], into: Sequence[Array]) -> None:
        """Fetch adjacent plain chunks to their places."""
        # One preadv splits the file. Rows go to their places; the bytes between two chunks, the checksum of one
        # and the header of the next, go to a row of `between`:
        #
        #     file      | head | rows 0 | tail head | rows 1 | tail head | rows 2 | tail |
        #     between     [0]             [1]                  [2]                  [3]
        head, tail = self.framing.head_nbytes, self.framing.tail_nbytes
        nbytes = len(spans) * self.framing.plain_nbytes
        between = np.empty((len(into) + 1, tail + head), "u1")
        if file.can_fill:
            buffers = [between[0, tail:].data]
            for chunk, gap in zip(into, between[1:], strict=True):
                buffers += (chunk.data, gap.data)
            buffers[-1] = between[-1, :tail].data
            if file.fill(buffers, spans[0][0]) != nbytes:
                raise FrameError("the file ends within it", 0)
        else:
            frames = file.view(spans[0][0], nbytes, path).reshape(len(into), -1)
            between[:-1, tail:], between[1:, :tail] = frames[:, :head], frames[:, head + self.framing.nbytes :]
            for chunk, rows in zip(into, frames[:, head : head + self.framing.nbytes], strict=True):
                chunk[...] = rows
        self.framing.settle(between, into)

    def _fetch_encoded(self, file: OpenShard, path: str, spans: Sequence[Span], into: Sequence[Array]) -> None:
        """Fetch adjacent chunks, and decode them one after the other to their places."""
        start, end = spans[0][0], sum(spans[-1])
        encoded = file.view(start, end - start, path)
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


def shards_of(files: ShardFiles, metadata: Mapping[str, Any], chunk_rows: int, shard_rows: int) -> Shards | None:
    """Return the shards of an array that this file can read and write, None for any other.

    Parameters
    ----------
    files : ShardFiles
        The place of its shards.
    metadata : mapping
        The content of its ``zarr.json``.
    chunk_rows, shard_rows : int
        Expected rows of a chunk and of a shard.
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
    if not framing.is_checked:  # a copy that is damaged would not be noticed
        files = files.past_copies()
    return Shards(files, row_shape, row_nbytes, chunk_rows, shard_rows // chunk_rows, framing)
