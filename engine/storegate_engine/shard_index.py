"""Shard index: where the chunks of one shard lie in its file, checked before any of them is read; knows no codec."""

from __future__ import annotations

import functools
import os
import stat
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google_crc32c import value as crc32c

from storegate_engine.errors import CorruptStoreError
from storegate_engine.inspection import CHECKSUM_NBYTES, Span, max_frame_nbytes

__all__ = ["MISSING", "ShardIndex", "index_of", "open_to_read", "read_exactly"]

MISSING = 2**64 - 1
"""Offset and length of a chunk that is not there."""
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe would wait for ever


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
        Its path, for errors, and to see that it is no link.
    file : file
        Opened by :func:`open_to_read`.
    n_chunks, chunk_nbytes, plain_nbytes : int
        Chunks of the shard, their bytes when decoded, and the bytes of one that is stored as it is.

    Raises
    ------
    CorruptStoreError
        It is no regular file, or its index is not what was written.
    """
    status = os.fstat(file.fileno())
    return _index_of(
        path, n_chunks, chunk_nbytes, plain_nbytes, status.st_size, status.st_mtime_ns, status.st_ino
    )  # a file that was written anew has another inode


@functools.lru_cache(maxsize=8192)
def _index_of(
    path: str, n_chunks: int, chunk_nbytes: int, plain_nbytes: int, nbytes: int, mtime_ns: int, inode: int
) -> ShardIndex:
    content = np.empty(16 * n_chunks + CHECKSUM_NBYTES, "u1")
    directory = path.rpartition("/c/")[0]
    if os.path.realpath(path) != os.path.realpath(directory) + os.path.normpath(path[len(directory) :]):
        raise CorruptStoreError(f"{path} is a link, which is not followed")
    with open_to_read(path) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise CorruptStoreError(f"{path} is no file")
        read_exactly(file, nbytes - len(content), content.data, path)
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


def open_to_read(path: str) -> Any:
    """Open a file; anything else that may have its name is found out by :func:`index_of`."""
    return open(os.open(path, _OPEN_FLAGS), "rb", buffering=0)


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
