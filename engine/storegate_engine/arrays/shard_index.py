"""Shard index: the places of the chunks of one shard in its file, checked before any chunk is read; knows no codec."""

from __future__ import annotations

import contextlib
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from storegate_engine.arrays.inspection import CHECKSUM_NBYTES, max_frame_nbytes
from storegate_engine.buffers import crc32c
from storegate_engine.errors import CorruptStoreError

__all__ = [
    "MISSING",
    "IndexForm",
    "ShardIndex",
    "Span",
    "forget_index",
    "index_nbytes",
    "kept_index",
    "packed_index",
    "parsed_index",
]

Array: TypeAlias = np.ndarray[Any, Any]

MISSING = 2**64 - 1
"""Offset and length of a missing chunk."""


Span: TypeAlias = tuple[int, int]
"""The offset of a chunk in its shard, and its bytes there."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The places of the chunks of one file, as its index says, and which of them are legal."""

    begins: Sequence[int]
    lengths: Sequence[int]
    ends: Sequence[int]
    """For each chunk, the end of the run that it can be read with, see `parse`; 0 for an illegal chunk."""
    limit: int
    """Most bytes that a chunk can have."""
    file_nbytes: int

    @classmethod
    def parse(cls, content: Array, file_nbytes: int, chunk_nbytes: int, plain_nbytes: int = 0) -> ShardIndex:
        """Return the index from its bytes, ``(offset, length)`` of each chunk, without their checksum.

        Parameters
        ----------
        content : ndarray of uint8
            The bytes of the index.
        file_nbytes : int
            Bytes of the file; a larger number if that is not known.
        chunk_nbytes, plain_nbytes : int
            Bytes of a decoded chunk, and of one that is stored uncompressed.
        """
        begins, lengths = content.view("<u8").reshape(-1, 2).T
        limit = max_frame_nbytes(chunk_nbytes)
        # numbers of the file are not added: a sum may wrap around
        wrong = (lengths > limit) | (begins > file_nbytes) | (lengths > file_nbytes - np.minimum(begins, file_nbytes))
        # Chunks that can be fetched with one read are runs: a run is cut if a chunk does not begin where the one
        # before it ends, between plain and encoded ones, and on both sides of an illegal one.
        #
        #   chunks     | plain | plain | encoded | encoded | gap | encoded | illegal | encoded |
        #   ends           2       2        4         4               5         0         7
        is_plain = lengths == plain_nbytes
        apart = (begins[1:] != begins[:-1] + lengths[:-1]) | (is_plain[1:] != is_plain[:-1]) | wrong[1:] | wrong[:-1]
        cuts = np.concatenate([np.flatnonzero(apart) + 1, [len(begins)]])
        ends = np.repeat(cuts, np.diff(cuts, prepend=0))
        ends[wrong] = 0
        # reading single ints from these takes half the time of numpy
        begin, length, end = (array("Q", of.astype("<u8").tobytes()) for of in (begins, lengths, ends))
        return cls(begin, length, end, limit, file_nbytes)

    def span(self, at: int) -> Span:
        """Return the offset and length of a chunk."""
        return self.begins[at], self.lengths[at]

    def is_legal(self, at: int) -> bool:
        """Return whether a chunk exists, is not too long, and is within the file."""
        return self.ends[at] > at

    def require_legal(self, at: int, chunk: int, path: str) -> None:
        """Raise CorruptStoreError if a chunk is missing, too long, or beyond the end of the file."""
        if self.ends[at] > at:
            return
        begin, nbytes = self.span(at)
        if begin == MISSING:
            raise CorruptStoreError(f"chunk {chunk} is missing in {path}")
        if nbytes > self.limit:
            raise CorruptStoreError(f"chunk {chunk} of {path} claims {nbytes} bytes, more than {self.limit}")
        raise CorruptStoreError(f"{path} is shorter than what was written: chunk {chunk} is not in it")

    def merged(self, chunks: Sequence[int], gap_nbytes: int, most_nbytes: int) -> Iterator[tuple[int, list[int]]]:
        """Yield chunks that are fetched together, in the order of the file, with the bytes from the first to the last.

        Gaps up to ``gap_nbytes`` are fetched, too; a group of several chunks has at most ``most_nbytes``. Chunks that
        are not legal are groups of their own.
        """
        group: list[int] = []
        start = end = 0
        for begin, stop, at in sorted((self.begins[at], sum(self.span(at)), at) for at in chunks):
            if not self.is_legal(at):
                yield 0, [at]
                continue
            if group and (begin > end + gap_nbytes or stop - start > most_nbytes):
                yield end - start, group
                group = []
            if not group:
                start = end = begin
            group.append(at)
            end = max(end, stop)
        if group:
            yield end - start, group

    def spans(self, path: str) -> list[Span]:
        """Return the spans of all chunks that the index does not mark as missing; each must be legal."""
        there = [at for at in range(len(self.ends)) if self.span(at) != (MISSING, MISSING)]
        for at in there:
            self.require_legal(at, at, path)
        return [self.span(at) for at in there]


def index_nbytes(n_chunks: int) -> int:
    """Return the bytes of the index at the end of a file."""
    return 16 * n_chunks + CHECKSUM_NBYTES


def packed_index(spans: Array) -> bytes:
    """Return an index in its stored form; spans, of shape (n_chunks, 2), are `MISSING` for missing chunks."""
    content = spans.astype("<u8").tobytes()
    return content + crc32c(content).to_bytes(CHECKSUM_NBYTES, "little")


class IndexForm(NamedTuple):
    """What must be known of a shard to read its index."""

    n_chunks: int
    """Number of chunks of the shard."""
    chunk_nbytes: int
    """Bytes of a decoded chunk."""
    plain_nbytes: int
    """Bytes of a chunk that is stored uncompressed."""

    @property
    def nbytes(self) -> int:
        """Bytes of the index at the end of a shard."""
        return index_nbytes(self.n_chunks)


def parsed_index(content: Array, file_nbytes: int, form: IndexForm, path: str) -> ShardIndex:
    """Return the index of a shard from its bytes, with their checksum.

    Raises
    ------
    CorruptStoreError
        The index is damaged.
    """
    index = content[:-CHECKSUM_NBYTES]
    if crc32c(index) != int.from_bytes(content[-CHECKSUM_NBYTES:].data, "little"):
        raise CorruptStoreError(f"{path} is not what was written: the checksum of its index does not match")
    return ShardIndex.parse(index, file_nbytes, form.chunk_nbytes, form.plain_nbytes)


KEPT = 8192
"""Number of shards whose indices are kept."""
_indices: dict[object, ShardIndex] = {}


def kept_index(key: object, read: Callable[[], ShardIndex]) -> ShardIndex:
    """Return the index of a shard, which is read once; the key must change with the shard."""
    found = _indices.get(key)
    if found is None:
        found = _indices[key] = read()
        while len(_indices) > KEPT:
            with contextlib.suppress(KeyError, RuntimeError):  # other threads do the same
                del _indices[next(iter(_indices))]
    return found


def forget_index(key: object) -> None:
    """Read an index again when it is needed."""
    _indices.pop(key, None)
