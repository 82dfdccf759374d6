"""Shard index: where the chunks of one shard lie in its file, checked before any of them is read; knows no codec."""

from __future__ import annotations

import contextlib
import os
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storegate_engine.arrays.inspection import CHECKSUM_NBYTES, Span, max_frame_nbytes
from storegate_engine.buffers import crc32c
from storegate_engine.errors import CorruptStoreError

__all__ = ["MISSING", "ShardIndex", "index_of", "read_exactly"]

MISSING = 2**64 - 1
"""Offset and length of a chunk that is not there."""


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Places of the chunks of one file, all of them as the file says."""

    begins: Sequence[int]
    lengths: Sequence[int]
    ends: Sequence[int]
    """For each chunk, up to which one those behind it lie side by side, all plain or all encoded, and legal."""
    limit: int
    """The most bytes that a chunk can have."""
    file_nbytes: int

    def span(self, at: int) -> Span:
        """Return offset and length of a chunk."""
        return self.begins[at], self.lengths[at]

    def require_legal(self, at: int, chunk: int, path: str) -> None:
        """Raise CorruptStoreError where a chunk is not there, too long, or beyond the file's end."""
        begin, nbytes = self.span(at)
        if begin == MISSING:
            raise CorruptStoreError(f"chunk {chunk} is missing in {path}")
        if nbytes > self.limit:
            raise CorruptStoreError(f"chunk {chunk} of {path} claims {nbytes} bytes, more than it can have")
        if begin + nbytes > self.file_nbytes:
            raise CorruptStoreError(f"{path} is shorter than what was written: chunk {chunk} is not in it")


def index_of(path: str, file: Any, n_chunks: int, chunk_nbytes: int, plain_nbytes: int) -> ShardIndex:
    """Return the index of an open file, which is read once for as long as the file stays the same.

    Parameters
    ----------
    path : str
        Its path, for errors.
    file : file
        Open to read.
    n_chunks, chunk_nbytes, plain_nbytes : int
        Chunks of the shard, their bytes when decoded, and the bytes of one that is stored as it is.

    Raises
    ------
    CorruptStoreError
        Its index is not what was written.
    """
    status = os.fstat(file.fileno())  # a file that was written anew has another inode
    key = path, n_chunks, chunk_nbytes, plain_nbytes, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev
    found = _indices.get(key)
    if found is None:
        found = _indices[key] = _index_of(path, file, n_chunks, chunk_nbytes, plain_nbytes, status.st_size)
        while len(_indices) > _KEPT:
            with contextlib.suppress(KeyError, RuntimeError):  # other threads do the same
                del _indices[next(iter(_indices))]
    return found


_KEPT = 8192
"""Files whose indices are kept."""
_indices: dict[tuple[object, ...], ShardIndex] = {}


def _index_of(path: str, file: Any, n_chunks: int, chunk_nbytes: int, plain_nbytes: int, nbytes: int) -> ShardIndex:
    index_nbytes = 16 * n_chunks + CHECKSUM_NBYTES
    if index_nbytes > nbytes:  # before memory is taken for it
        raise CorruptStoreError(f"{path} is shorter than what was written")
    content = np.empty(index_nbytes, "u1")
    read_exactly(file, nbytes - index_nbytes, content.data, path)
    index = content[:-CHECKSUM_NBYTES]
    if crc32c(index) != int.from_bytes(content[-CHECKSUM_NBYTES:].data, "little"):
        raise CorruptStoreError(f"{path} is not what was written: the checksum of its index does not match")
    begins, lengths = index.view("<u8").reshape(-1, 2).T
    limit = max_frame_nbytes(chunk_nbytes)
    wrong = (lengths > limit) | (begins > nbytes) | (lengths > nbytes - np.minimum(begins, nbytes))
    is_plain = lengths == plain_nbytes
    apart = (begins[1:] != begins[:-1] + lengths[:-1]) | (is_plain[1:] != is_plain[:-1]) | wrong[1:] | wrong[:-1]
    cuts = np.concatenate([np.flatnonzero(apart) + 1, [n_chunks]])
    ends = np.repeat(cuts, np.diff(cuts, prepend=0))
    begin, length, end = (array("Q", of.astype("<u8").tobytes()) for of in (begins, lengths, ends))
    return ShardIndex(begin, length, end, limit, nbytes)


def read_exactly(file: Any, start: int, out: memoryview, path: str) -> None:
    """Read bytes from a place of an open file on.

    Raises
    ------
    CorruptStoreError
        It ends before.
    """
    if start >= 0:
        file.seek(start)
        while out and (count := file.readinto(out)):
            out = out[count:]
    if out:
        raise CorruptStoreError(f"{path} is shorter than what was written")
