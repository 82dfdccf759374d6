"""Permutation tables: numpy permutations that this process has built, in memory or in files, within limits."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from storegate_engine.orders.permutation_files import PermutationFile

__all__ = ["TABLE_NBYTES", "UInt32Array", "file_tables", "fits_in_memory", "memory_tables"]

UInt32Array: TypeAlias = npt.NDArray[np.uint32]

_Key: TypeAlias = tuple[str, int, int]


TABLE_NBYTES: Final = 2**29
"""Default bytes of permutation tables in memory, besides the one in use."""

_FILES_NBYTES: Final = 2**34
"""Bytes of permutation tables in files, besides the one in use."""


class _Table(Protocol):
    @property
    def nbytes(self) -> int: ...


_T = TypeVar("_T", bound=_Table)


class _Pending(Generic[_T]):
    """A table that one thread builds while others wait for it."""

    __slots__ = ("done", "table")

    def __init__(self) -> None:
        self.done = threading.Event()
        self.table: _T | None = None


class _Cache(Generic[_T]):
    """Tables of numpy permutations and of their inverses; the least recently used are dropped first.

    Concurrent callers with one key build it once. The newest table is kept whatever its size.
    """

    def __init__(self, limit_nbytes: int) -> None:
        self.limit_nbytes = limit_nbytes
        self._tables: OrderedDict[_Key, _T] = OrderedDict()
        self._pending: dict[_Key, _Pending[_T]] = {}
        self._nbytes = 0
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """The bytes of all cached tables."""
        return self._nbytes

    def clear(self) -> None:
        """Drop every table."""
        with self._lock:
            self._tables.clear()
            self._nbytes = 0

    def after_fork(self) -> None:
        """Renew the locks in a forked child; finished tables stay, unfinished ones are dropped."""
        self._lock = threading.Lock()
        self._pending = {}
        self._nbytes = sum(table.nbytes for table in self._tables.values())

    def trim(self, limit_nbytes: int) -> None:
        """Drop the least recently used tables, until the rest fits in a limit or one is left."""
        with self._lock:
            while self._nbytes > limit_nbytes and len(self._tables) > 1:
                _, dropped = self._tables.popitem(last=False)
                self._nbytes -= dropped.nbytes

    def _get(self, key: _Key, build: Callable[[], _T]) -> _T:
        while True:
            with self._lock:
                table = self._tables.get(key)
                if table is not None:
                    self._tables.move_to_end(key)
                    return table
                pending = self._pending.get(key)
                mine = pending is None
                if pending is None:
                    pending = self._pending[key] = _Pending()
            if mine:
                return self._build(key, pending, build)
            pending.done.wait()
            if pending.table is not None:
                return pending.table
            # the other thread failed (no memory, an interrupt): try here

    def _build(self, key: _Key, pending: _Pending[_T], build: Callable[[], _T]) -> _T:
        try:
            table = build()
            with self._lock:
                self._tables[key] = table
                self._nbytes += table.nbytes
            self.trim(self.limit_nbytes)
            pending.table = table
            return table
        finally:
            with self._lock:
                self._pending.pop(key, None)
            pending.done.set()


class PermutationCache(_Cache[UInt32Array]):
    """Tables in memory."""

    def forward(self, n: int, seed: int) -> UInt32Array:
        """Return ``RandomState(seed).permutation(n)``, read-only."""
        return self._get(("forward", n, seed), lambda: build_forward(n, seed))

    def inverse(self, n: int, seed: int) -> UInt32Array:
        """Return the inverse of `forward`, read-only."""
        return self._get(("inverse", n, seed), lambda: build_inverse(self.forward(n, seed)))


class FileCache(_Cache[PermutationFile]):
    """Tables in files."""

    def forward(self, n: int, seed: int) -> PermutationFile:
        """Return ``RandomState(seed).permutation(n)``."""
        return self._get(("forward", n, seed), lambda: PermutationFile.forward(n, seed))

    def inverse(self, n: int, seed: int) -> PermutationFile:
        """Return the inverse of `forward`."""
        return self._get(("inverse", n, seed), lambda: self.forward(n, seed).inverse())


def build_forward(n: int, seed: int) -> UInt32Array:
    # shuffling 32-bit numbers gives the same result as 64-bit ones, in half the memory
    table = np.arange(n, dtype=np.uint32)
    np.random.RandomState(seed).shuffle(table)
    table.setflags(write=False)
    return table


def build_inverse(table: UInt32Array) -> UInt32Array:
    n = table.size
    inverted = np.empty(n, np.uint32)
    for lo in range(0, n, 2**20):
        hi = min(lo + 2**20, n)
        inverted[table[lo:hi]] = np.arange(lo, hi, dtype=np.uint32)
    inverted.setflags(write=False)
    return inverted


memory_tables = PermutationCache(TABLE_NBYTES)

file_tables = FileCache(_FILES_NBYTES)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=memory_tables.after_fork)
    os.register_at_fork(after_in_child=file_tables.after_fork)


def fits_in_memory(n: int, limit_nbytes: int) -> bool:
    """Return whether a permutation and its inverse may be in memory; make room for them."""
    if 8 * n > limit_nbytes:
        return False
    memory_tables.trim(limit_nbytes - 8 * n)
    return True
