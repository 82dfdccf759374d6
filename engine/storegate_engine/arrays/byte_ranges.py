"""Byte ranges: rows at known places of files of other formats, read without the library of the format.

Libraries decode one chunk at a time, under a lock; ranges are read, and inflated, by as many threads as there are.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from typing import Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.arrays.shards import RowSpan

__all__ = ["ChunkRanges", "OpenFile", "RangeFile", "Ranges", "RowRange", "open_file_at", "read_chunks", "unshuffled"]

Array: TypeAlias = np.ndarray[Any, Any]


class RangeFile(Protocol):
    """A file of which ranges can be read."""

    def read_into(self, offset: int, out: memoryview) -> None:
        """Read bytes from an offset on until ``out`` is full."""

    def will_read(self, offset: int, n_bytes: int) -> None:
        """Ask the system to fetch a range: a hint."""


class OpenFile:
    """An open file that any number of threads, and forked processes, may read; closed with its last reference."""

    __slots__ = ("_descriptor",)

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone by then
        if hasattr(self, "_descriptor"):
            close(self._descriptor)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Read bytes from an offset on until ``out`` is full.

        Raises
        ------
        EOFError
            The file ends before.
        """
        done = 0
        while done < len(out):  # one call reads at most 2 GiB
            n_bytes = os.preadv(self._descriptor, [out[done:]], offset + done)
            if not n_bytes:
                raise EOFError(f"the file ends at byte {offset + done}")
            done += n_bytes

    def will_read(self, offset: int, n_bytes: int) -> None:
        """Ask the system to fetch a range: a hint."""
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(self._descriptor, offset, n_bytes, os.POSIX_FADV_WILLNEED)


@lru_cache(maxsize=128)
def open_file_at(path: str, identity: tuple[int, int]) -> OpenFile:
    """Open a file of a device and inode once."""
    return OpenFile(path)


class Ranges(Protocol):
    """The places of the rows of one array in a file."""

    def read_spans(self, file: RangeFile, spans: Sequence[RowSpan], out: Array) -> None:
        """Read ascending spans of rows to their places in ``out``, C-contiguous and of the native dtype."""

    def will_read(self, file: RangeFile, spans: Sequence[tuple[int, int]]) -> None:
        """Ask the system to fetch ascending spans of rows: a hint."""


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows one after the other."""

    offset: int
    """The first byte of the first row."""
    row_nbytes: int
    """Bytes of a row."""
    is_swapped: bool
    """Whether values have the other byte order."""

    def read_spans(self, file: RangeFile, spans: Sequence[RowSpan], out: Array) -> None:
        """Read spans of rows to their places in ``out``."""
        content = out.reshape(-1).view("u1").data
        nbytes = self.row_nbytes
        for start, stop, place in spans:
            rows = content[place * nbytes : (place + stop - start) * nbytes]
            file.read_into(self.offset + start * nbytes, rows)
            if self.is_swapped:
                out[place : place + stop - start].byteswap(inplace=True)

    def will_read(self, file: RangeFile, spans: Sequence[tuple[int, int]]) -> None:
        """Ask the system to fetch spans of rows: a hint."""
        for start, stop in spans:
            file.will_read(self.offset + start * self.row_nbytes, (stop - start) * self.row_nbytes)


def read_chunks(
    shape: tuple[int, ...],
    chunk_shape: tuple[int, ...],
    spans: Sequence[RowSpan],
    out: Array,
    chunk_at: Callable[[tuple[int, ...]], Array],
) -> None:
    """Put rows of chunks to their places in ``out``; each chunk is asked for once, however many spans touch it."""
    rows = chunk_shape[0]
    wanted: dict[int, list[RowSpan]] = {}
    for start, stop, place in spans:
        for chunk in range(start // rows, -(-stop // rows)):
            lo, hi = max(start, chunk * rows), min(stop, (chunk + 1) * rows)
            wanted.setdefault(chunk, []).append((lo - chunk * rows, hi - chunk * rows, place + lo - start))
    grid = [range(-(-size // chunk)) for size, chunk in zip(shape[1:], chunk_shape[1:], strict=True)]
    columns = list(product(*grid))
    for chunk, parts in wanted.items():
        for column in columns:
            values = chunk_at((chunk, *column))
            sizes = zip(column, chunk_shape[1:], shape[1:], strict=True)
            within = tuple(slice(at * size, min((at + 1) * size, most)) for at, size, most in sizes)
            inner = tuple(slice(0, part.stop - part.start) for part in within)
            for lo, hi, place in parts:
                out[(slice(place, place + hi - lo), *within)] = values[(slice(lo, hi), *inner)]


def unshuffled(content: Array, itemsize: int) -> Array:
    """Return bytes of values one after the other, of which the first bytes of all came first, then the second ones."""
    planes = content.reshape(itemsize, -1)
    out = np.empty(planes.shape[::-1], "u1")
    for place, plane in enumerate(planes):  # five times as fast as a copy of `planes.T`
        out[:, place] = plane
    return out.reshape(-1)


@dataclass(frozen=True, slots=True, eq=False)
class ChunkRanges:
    """Rows in chunks, of which each is plain or deflated, perhaps with the bytes of its values sorted by place."""

    shape: tuple[int, ...]
    """The shape of the array."""
    chunk_shape: tuple[int, ...]
    """The shape of a chunk; those at the edges are as large."""
    dtype: np.dtype[Any]
    """The dtype of stored values, with their byte order."""
    begins: Array
    """The first byte of each chunk, a grid; -1 if it was never written."""
    nbytes: Array
    """The bytes of each chunk in the file."""
    is_deflated: bool
    """Whether chunks are streams of zlib."""
    is_shuffled: bool
    """Whether a chunk has the first bytes of all values first, then the second ones."""
    fill: Any
    """The value of chunks that were never written."""

    def read_spans(self, file: RangeFile, spans: Sequence[RowSpan], out: Array) -> None:
        """Read spans of rows to their places in ``out``; a chunk is decoded once, however many spans touch it."""
        read_chunks(self.shape, self.chunk_shape, spans, out, partial(self._chunk, file))

    def _chunk(self, file: RangeFile, at: tuple[int, ...]) -> Array:
        if self.begins[at] < 0:
            return np.broadcast_to(np.asarray(self.fill, self.dtype), self.chunk_shape)
        nbytes = self.dtype.itemsize * int(np.prod(self.chunk_shape))
        content = np.empty(int(self.nbytes[at]), "u1")
        if len(content) > 2 * nbytes + 64:  # deflate makes no bytes longer than this
            raise ValueError(f"chunk {at} claims {len(content)} bytes, for {nbytes} decoded ones")
        file.read_into(int(self.begins[at]), content.data)
        if self.is_deflated:
            content = np.frombuffer(zlib.decompress(content.data, bufsize=nbytes), "u1")
        if len(content) != nbytes:
            raise ValueError(f"chunk {at} decodes to {len(content)} bytes, not {nbytes}")
        if self.is_shuffled:
            content = unshuffled(content, self.dtype.itemsize)
        return content.view(self.dtype).reshape(self.chunk_shape)

    def will_read(self, file: RangeFile, spans: Sequence[tuple[int, int]]) -> None:
        """Ask the system to fetch spans of rows: a hint."""
        for offset, n_bytes in self._together(spans):
            file.will_read(offset, n_bytes)

    def _together(self, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
        """Yield ranges that hold the chunks of each span, if they lie as close together as they were written."""
        rows = self.chunk_shape[0]
        for start, stop in spans:
            begins = self.begins[start // rows : -(-stop // rows)].ravel()
            sizes = self.nbytes[start // rows : -(-stop // rows)].ravel()[begins >= 0]
            begins = begins[begins >= 0]
            if len(begins) and (end := int((begins + sizes).max())) - begins.min() <= 2 * sizes.sum():
                yield int(begins.min()), end - int(begins.min())
