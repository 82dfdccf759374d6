"""Shards: the files of a sharded zarr array on a file system; knows their format, and not what the rows mean.

Format: zarr v3, codec ``sharding_indexed`` along the first axis, the index at the end of a file, chunks as `frames`
describes them; arrays of any other kind are left to zarr-python.
"""

from __future__ import annotations

import contextlib
import functools
import os
import stat
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
from google_crc32c import value as crc32c

from storegate_engine.buffers import Workspace, write_all
from storegate_engine.errors import CorruptStoreError
from storegate_engine.frames import CHECKSUM_NBYTES, Framing
from storegate_engine.inspection import Span, max_frame_nbytes

__all__ = ["Shards", "shards_of"]

Array: TypeAlias = np.ndarray[Any, Any]
Places: TypeAlias = Sequence[Array | None]
"""Where chunks belong, None for those that do not belong there whole."""

TASK_NBYTES = (2 * 2**20, 16 * 2**20)
"""The fewest and the most decoded bytes of one task of a thread: a long read in order is what an operating system reads
ahead of best."""
READ_NBYTES = 256 * 2**10
"""Encoded chunks that lie side by side are fetched together up to so many bytes, which stay in a core's cache."""
PLAIN_NBYTES = 2**20
"""Plain chunks are fetched together up to so many bytes."""
MOST_CHUNKS = 256
"""Plain chunks of one call, which can fill 1,024 buffers (IOV_MAX): one for each, and one between it and the next."""
_MISSING = 2**64 - 1
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe would wait for ever
_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Shards:
    """The files of one array, and how chunks lie in them."""

    directory: str
    """The array's directory."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    row_nbytes: int
    """Bytes of one row."""
    chunk_rows: int
    """Rows of a chunk."""
    n_chunks: int
    """Chunks of a shard."""
    framing: Framing
    """How a chunk is encoded."""

    def path(self, shard: int) -> str:
        """Return the path of one file."""
        return "/".join((self.directory, "c", str(shard), *("0" for _ in self.row_shape)))

    def read_into(self, start: int, stop: int, out: Array) -> None:
        """Read rows ``start..stop`` into ``out``, C-contiguous and of the stored dtype.

        Raises
        ------
        CorruptStoreError
            A chunk is missing or not what was written; its file is named.
        FileNotFoundError
            A file is missing.
        """
        content = out.reshape(-1).view("u1")
        shard_rows = self.chunk_rows * self.n_chunks
        fewest, most = TASK_NBYTES
        nbytes = min(max(len(content) // _CORES, fewest), most)
        step = max(1, round(nbytes / self.framing.nbytes)) * self.chunk_rows
        cuts = {start, stop}
        for lo in range(start // shard_rows * shard_rows, stop, shard_rows):  # a task stays within a shard
            cuts.update(at for at in range(lo, min(lo + shard_rows, stop), step) if at > start)
        tasks = [
            partial(self._read_span, lo, hi, content[(lo - start) * self.row_nbytes : (hi - start) * self.row_nbytes])
            for lo, hi in pairwise(sorted(cuts))
        ]
        _run(tasks, here=len(content) <= fewest)

    def take_into(self, rows: Array, out: Array) -> None:
        """Read ``rows`` in any order, repeats included, into ``out``; every chunk is read once.

        ``out`` is C-contiguous and of the stored dtype. Raises as :meth:`read_into` does.
        """
        places = np.argsort(rows, kind="stable")
        rows = rows[places]
        chunks, firsts = np.unique(rows // self.chunk_rows, return_index=True)
        bounds = [*firsts.tolist(), len(rows)]
        values = out.reshape(-1).view("u1").reshape(len(rows), -1)

        def take(first: int, last: int) -> None:
            for at, chunk in enumerate(self._chunks(chunks[first:last].tolist()), first):
                lo, hi = bounds[at], bounds[at + 1]
                within = rows[lo:hi] - chunks[at] * self.chunk_rows
                values[places[lo:hi]] = chunk.reshape(self.chunk_rows, -1)[within]

        step = max(1, TASK_NBYTES[0] // (4 * self.framing.nbytes))
        shard_cuts = np.flatnonzero(np.diff(chunks // self.n_chunks)) + 1
        cuts = {0, len(chunks), *range(0, len(chunks), step), *shard_cuts.tolist()}
        _run([partial(take, first, last) for first, last in pairwise(sorted(cuts))])

    def drop(self, start: int, stop: int) -> None:
        """Take the files that lie within rows ``start..stop`` out of the page cache: they are not read again soon."""
        shard_rows = self.chunk_rows * self.n_chunks
        if hasattr(os, "posix_fadvise"):
            for shard in range(-(-start // shard_rows), stop // shard_rows):
                with _opened(self.path(shard)) as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)

    def will_read(self, spans: Sequence[Span]) -> None:
        """Let the system fetch rows, as firsts and lasts, in ascending order: a hint, which never fails."""
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
            with contextlib.suppress(OSError, CorruptStoreError), _opened(path) as file:  # reading them will tell
                index = self._index(path, file)
                for first, last in parts:
                    begin, end = index[first][0], sum(index[last])
                    if begin < end < _MISSING:
                        os.posix_fadvise(file.fileno(), begin, end - begin, os.POSIX_FADV_WILLNEED)

    def write(self, shard: int, rows: Array, *, sync: bool = True) -> None:
        """Write one file: all rows of a shard, or the last ones of the array.

        The file appears whole, and may be written again with the same rows. With ``sync`` it is on the disk when this
        returns.
        """
        path = self.path(shard)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        fresh = f"{path}.{uuid.uuid4().hex}.partial"
        index = np.full((self.n_chunks, 2), _MISSING, "<u8")
        end = 0
        try:
            with open(fresh, "wb", buffering=0) as file:
                n_chunks = -(-len(rows) // self.chunk_rows)
                for at, frame in enumerate(self.framing.frames(n_chunks, partial(self._chunk, rows))):
                    for part in frame:
                        write_all(file, part)
                    index[at] = end, sum(map(len, frame))
                    end += int(index[at, 1])
                content = index.tobytes()
                write_all(file, content + crc32c(content).to_bytes(CHECKSUM_NBYTES, "little"))
                if sync:
                    os.fsync(file.fileno())
            os.replace(fresh, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh)
            raise

    def _chunk(self, rows: Array, at: int) -> Array:
        """Return one chunk of the rows of a shard, which is whole also at the array's end."""
        rows = rows[at * self.chunk_rows : (at + 1) * self.chunk_rows]
        if len(rows) == self.chunk_rows:
            return np.ascontiguousarray(rows)
        chunk = np.zeros((self.chunk_rows, *rows.shape[1:]), rows.dtype)
        chunk[: len(rows)] = rows
        return chunk

    def _read_span(self, start: int, stop: int, out: Array) -> None:
        """Read rows of one shard; whole chunks are decoded in place."""
        first, last = start // self.chunk_rows, -(-stop // self.chunk_rows)
        nbytes = self.chunk_rows * self.row_nbytes
        skipped = (start - first * self.chunk_rows) * self.row_nbytes
        offsets = [at * nbytes - skipped for at in range(last - first)]
        places = [out[lo : lo + nbytes] if lo >= 0 and lo + nbytes <= len(out) else None for lo in offsets]
        for lo, place, chunk in zip(offsets, places, self._chunks(range(first, last), places), strict=True):
            if place is None:
                part = chunk[max(0, -lo) : len(out) - lo]
                out[max(0, lo) : max(0, lo) + len(part)] = part

    def _chunks(self, chunks: Sequence[int], places: Places | None = None) -> Iterator[Array]:
        """Yield the decoded bytes of chunks of one shard, in their places, else in memory that the next ones reuse."""
        shard = chunks[0] // self.n_chunks
        path = self.path(shard)
        limit = max_frame_nbytes(self.framing.nbytes)
        with _opened(path) as file:
            index, size = self._index(path, file), os.fstat(file.fileno()).st_size
            spans = [index[chunk - shard * self.n_chunks] for chunk in chunks]
            for chunk, (begin, nbytes) in zip(chunks, spans, strict=True):
                if begin == _MISSING:
                    raise CorruptStoreError(f"chunk {chunk} is missing in {path}")
                if nbytes > limit:
                    raise CorruptStoreError(f"chunk {chunk} of {path} claims {nbytes} bytes, more than it can have")
                if begin + nbytes > size:
                    raise CorruptStoreError(f"{path} is shorter than what was written: chunk {chunk} is not in it")
            if (
                places is None and len(spans) > 1 and hasattr(os, "posix_fadvise")
            ):  # chunks here and there: the disk fetches all at once
                for span in spans:
                    os.posix_fadvise(file.fileno(), *span, os.POSIX_FADV_WILLNEED)
            done = 0
            try:
                while done < len(spans):
                    last = self._together(spans, done, in_place=places is not None)
                    read = self._plain if self._is_plain(spans[done]) else self._encoded
                    for decoded in read(file, path, spans[done:last], places[done:last] if places else None):
                        done += 1
                        yield decoded
            except (ValueError, RuntimeError, IndexError) as err:
                raise CorruptStoreError(f"chunk {chunks[done]} of {path} is not what was written: {err}") from err

    def _index(self, path: str, file: Any) -> list[Span]:
        """Return where the chunks of an open file are."""
        status = os.fstat(file.fileno())
        return _index_of(path, self.n_chunks, status.st_size, status.st_mtime_ns, status.st_ino)

    def _is_plain(self, span: Span) -> bool:
        return span[1] == self.framing.plain_nbytes and hasattr(os, "preadv")

    def _together(self, spans: Sequence[Span], first: int, *, in_place: bool) -> int:
        """Return where the run ends of chunks that lie side by side in a file and are fetched in one call."""
        is_plain = self._is_plain(spans[first])
        most = PLAIN_NBYTES if is_plain and in_place else READ_NBYTES
        last = first + 1
        while (
            last < len(spans)
            and spans[last][0] == sum(spans[last - 1])
            and sum(spans[last]) - spans[first][0] <= most
            and last - first < MOST_CHUNKS
            and self._is_plain(spans[last]) == is_plain
        ):
            last += 1
        return last

    def _plain(self, file: Any, path: str, spans: Sequence[Span], places: Places | None) -> Iterator[Array]:
        """Fetch chunks, as they are, to where they belong."""
        framing = self.framing
        spares = _workspace("chunk", len(spans) * framing.nbytes).reshape(-1, framing.nbytes)
        into = [spare if place is None else place for spare, place in zip(spares, places or spares, strict=True)]
        # between chunks: the checksum of one, and the header of the next
        head, tail = framing.head_nbytes, framing.tail_nbytes
        between = np.empty((len(spans) + 1, tail + head), "u1")
        buffers: list[memoryview] = [between[0, tail:].data]
        for chunk, gap in zip(into, between[1:], strict=True):
            buffers += [chunk.data, gap.data]
        buffers[-1] = between[-1, :tail].data
        if os.preadv(file.fileno(), buffers, spans[0][0]) != sum(map(len, buffers)):
            raise ValueError("the file ends within it")
        yield from framing.settle(between, into)

    def _encoded(self, file: Any, path: str, spans: Sequence[Span], places: Places | None) -> Iterator[Array]:
        """Fetch chunks, and decode them one after the other to where they belong."""
        spare = _workspace("chunk", self.framing.nbytes)
        start, end = spans[0][0], sum(spans[-1])
        encoded = _workspace("encoded", end - start)
        _read_exactly(file, start, encoded.data, path)
        for (begin, nbytes), place in zip(spans, places or [None] * len(spans), strict=True):
            decoded = spare if place is None else place
            self.framing.decode(encoded[begin - start : begin - start + nbytes], decoded)
            yield decoded


def _opened(path: str) -> Any:
    """Open a file to read; anything else that may have its name is found out by :func:`_index_of`."""
    return open(os.open(path, _OPEN_FLAGS), "rb", buffering=0)


@functools.lru_cache(maxsize=8192)
def _index_of(path: str, n_chunks: int, nbytes: int, mtime_ns: int, inode: int) -> list[Span]:
    """Return offset and length of every chunk of the file that has this length, time and inode."""
    content = np.empty(16 * n_chunks + CHECKSUM_NBYTES, "u1")
    array = path.rpartition("/c/")[0]
    if os.path.realpath(path) != os.path.realpath(array) + os.path.normpath(path[len(array) :]):
        raise CorruptStoreError(f"{path} is a link, which is not followed")
    with _opened(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CorruptStoreError(f"{path} is no file")
        _read_exactly(file, nbytes - len(content), content.data, path)
    index = content[:-CHECKSUM_NBYTES]
    if crc32c(index) != int.from_bytes(content[-CHECKSUM_NBYTES:].data, "little"):
        raise CorruptStoreError(f"{path} is not what was written: the checksum of its index does not match")
    return [(begin, length) for begin, length in index.view("<u8").reshape(-1, 2).tolist()]


def _read_exactly(file: Any, start: int, out: memoryview, path: str) -> None:
    if start >= 0:
        file.seek(start)
        while out and (count := file.readinto(out)):
            out = out[count:]
    if out:
        raise CorruptStoreError(f"{path} is shorter than what was written")


def shards_of(directory: str, metadata: Mapping[str, Any], chunk_rows: int, shard_rows: int) -> Shards | None:
    """Return the shards of an array that this module can read and write, None for any other.

    Parameters
    ----------
    directory : str
        The array's directory.
    metadata : mapping
        The content of its ``zarr.json``.
    chunk_rows, shard_rows : int
        Rows of a chunk and of a shard as they should be.
    """
    if sys.byteorder != "little":
        return None
    try:
        dtype = np.dtype(metadata["data_type"])
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
    except (KeyError, TypeError, ValueError, IndexError):
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
    return Shards(directory, row_shape, row_nbytes, chunk_rows, shard_rows // chunk_rows, framing)


# Threads: one pool a process, whose tasks never wait for one another.

_local = threading.local()
_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None


def _run(tasks: Sequence[Callable[[], None]], *, here: bool = False) -> None:
    """Run tasks in threads, or in this one, as also one task alone; the first error is raised when all have ended."""
    if here or len(tasks) == 1:
        for task in tasks:
            task()
        return
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_CORES, thread_name_prefix="storegate-read")
        futures = [_pool.submit(task) for task in tasks]
    wait(futures)
    for future in futures:
        future.result()


def _workspace(use: str, nbytes: int) -> Array:
    """Return memory of this thread, with any content, until the next call for the same use."""
    if not hasattr(_local, "workspace"):
        _local.workspace = Workspace()
    space: Workspace = _local.workspace
    return space.array(use, (nbytes,), np.dtype("u1"))


def _after_fork_in_child() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
