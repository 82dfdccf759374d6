"""Buffers: reused memory, rows as bytes, and bytes into files; knows no format."""

from __future__ import annotations

import math
import os
from collections import deque
from itertools import islice
from typing import Any, TypeAlias

import crc32c as crc32c_of
import numpy as np

__all__ = ["Pool", "Workspace", "as_bytes", "crc32c", "write_all"]

Array: TypeAlias = np.ndarray[Any, Any]
MAX_WRITTEN_TOGETHER = 1024
"""The most pieces of memory that one call of the system writes."""


class Workspace:
    """Arrays that the tasks of one thread reuse: memory that was touched before is faster."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def array(self, use: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array with any content, valid until the next one for the same use."""
        if dtype.hasobject:
            return np.empty(shape, dtype)
        nbytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._buffers[use] = np.empty(nbytes, "u1")
        return buffer[:nbytes].view(dtype).reshape(shape)


class Pool:
    """Arrays whose memory is reused once neither they nor views of them exist.

    An operating system hands out new memory page by page, and takes it back: for blocks that live as
    long as one task this costs as much as reading them.

    Parameters
    ----------
    idle_nbytes : int
        Most memory that is kept for reuse.

    Examples
    --------
    >>> pool = Pool(2**20)
    >>> first = pool.array((1000,), np.dtype("f8"))
    >>> address = first.ctypes.data
    >>> view = first[10:20]
    >>> del first
    >>> pool.array((1000,), np.dtype("f8")).ctypes.data == address  # the view is still there
    False
    >>> del view
    >>> pool.array((1000,), np.dtype("f8")).ctypes.data == address
    True
    """

    def __init__(self, idle_nbytes: int) -> None:
        self._idle_nbytes = idle_nbytes
        self._idle: list[Array] = []  # each use is atomic: memory comes back in any thread, at any time

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array with any content."""
        nbytes = math.prod(shape) * dtype.itemsize
        if dtype.hasobject or not 0 < nbytes <= self._idle_nbytes:
            return np.empty(shape, dtype)
        try:
            memory = self._idle.pop()  # the latest, which may still be in a cache
        except IndexError:
            memory = np.empty(nbytes, "u1")
        if not nbytes <= memory.nbytes <= 2 * nbytes:
            memory = np.empty(nbytes, "u1")
        return np.asarray(_Loan(self, memory))[:nbytes].view(dtype).reshape(shape)

    def take_back(self, memory: Array) -> None:
        """Keep memory for the next array, unless enough is kept already."""
        if (len(self._idle) + 1) * memory.nbytes <= self._idle_nbytes:
            self._idle.append(memory)


class _Loan:
    """The owner of the memory of one array, which all its views refer to."""

    def __init__(self, pool: Pool, memory: Array) -> None:
        self._pool = pool
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self) -> None:
        self._pool.take_back(self._memory)


def as_bytes(rows: Array) -> Array:
    """Return the bytes of rows, in C order."""
    return np.ascontiguousarray(rows).reshape(-1).view("u1") if rows.size else np.empty(0, "u1")


def write_all(file: Any, *contents: bytes | Array) -> None:
    """Write all bytes to an unbuffered file, which may take a part of them at a time."""
    views = deque(memoryview(content) if isinstance(content, bytes) else content.data for content in contents)
    while views:
        some = list(islice(views, MAX_WRITTEN_TOGETHER))
        written = os.writev(file.fileno(), some) if len(some) > 1 and hasattr(os, "writev") else file.write(some[0])
        while views and written >= len(views[0]):
            written -= len(views.popleft())
        if written:
            views[0] = views[0][written:]


def crc32c(content: Array | bytes | memoryview, before: int = 0) -> int:
    """Return the crc32c of bytes that follow others with the checksum ``before``.

    >>> crc32c(b"67", crc32c(b"12345")) == crc32c(b"1234567")
    True
    """
    return crc32c_of.crc32c(content.data if isinstance(content, np.ndarray) else content, before)
