"""Appending: rows to a new spill file, through the page cache or past it, whichever is faster here; knows no parts.

A spill is written once and read once. In the page cache it is read back from memory, if there is room for all of it;
but pages that a virtual machine has not used before cost it seconds of a core for every gigabyte, and where room is
short, the pages of other files go. Past the cache (``O_DIRECT``) writing takes no processor and no memory, and a disk
has to read everything back. So a spill that finds no room goes past it, one whose pages are used again and again goes
through it, and for any other both are timed, now and then, and the better one is taken.
"""

from __future__ import annotations

import errno
import math
import os
import time
from functools import partial
from typing import Any, Self, TypeAlias

import numpy as np

from storegate_engine.buffers import Workspace, write_all
from storegate_engine.settings import direct_spill
from storegate_engine.threads import Pending, ThreadPool

__all__ = ["PACES", "Appender", "forget_pages"]

Array: TypeAlias = np.ndarray[Any, Any]

BLOCK_NBYTES = 4096
"""Memory, places in the file and lengths are multiples of this past the page cache."""
TIMED_NBYTES = 4 * 2**20
"""A shorter file says nothing of how fast others are."""
READ_COST = 2.5
"""What is written past the cache is written and read from the disk, in this many times the time of the write."""
TURNS = 32
"""One file of so many is written the other way, in case that has become faster."""


class _Pace:
    """The seconds that a byte takes on one device, through the page cache and past it."""

    def __init__(self) -> None:
        self.can_be_direct = hasattr(os, "O_DIRECT")
        """Whether the file system writes past the page cache."""
        self._seconds: dict[bool, float] = {}
        self._n_files = 0

    def is_direct(self, past_cache: bool | None) -> bool:
        """Return whether files are written past the page cache, if that is not said."""
        setting = direct_spill()
        wanted = past_cache if setting is None else setting
        if not self.can_be_direct or wanted is not None:
            return self.can_be_direct and bool(wanted)
        return len(self._seconds) == 2 and READ_COST * self._seconds[True] < self._seconds[False]

    def choose(self, past_cache: bool | None) -> bool:
        """Return how to write the next file."""
        is_direct = self.is_direct(past_cache)
        if not self.can_be_direct or direct_spill() is not None or past_cache is not None:
            return is_direct
        self._n_files += 1
        if len(self._seconds) < 2:
            return False in self._seconds
        return is_direct is bool(self._n_files % TURNS)

    def count(self, is_direct: bool, nbytes: int, seconds: float) -> None:
        """Remember how long a file took; the last ones count most."""
        if nbytes >= TIMED_NBYTES:
            before = self._seconds.get(is_direct, seconds / nbytes)
            self._seconds[is_direct] = (before + seconds / nbytes) / 2


PACES: dict[int, _Pace] = {}
"""How fast each device was, by its number."""


class Appender:
    """Appends rows to a file, from its present end on.

    Parameters
    ----------
    file : file
        A file that was opened to be written, unbuffered; `finish` leaves it in the page cache.
    space : Workspace
        Memory for rows.
    past_cache : bool, optional
        Whether the file is written past the page cache; default: what was faster.
    """

    def __init__(self, file: Any, space: Workspace, past_cache: bool | None = None) -> None:
        self._file = file
        self._space = space
        self._writing: Pending[None] | None = None
        self._pool = ThreadPool(1, "storegate-spill")
        self._pace = _pace_of(file)
        self._is_direct = self._pace.choose(past_cache)
        if self._is_direct and not _set_direct(file, True):
            self._pace.can_be_direct = self._is_direct = False
        self._nbytes = 0
        self._seconds = 0.0
        begin = file.tell()
        # past the cache whole blocks are written: the first one has some bytes of what is before, and is written again
        self._kept = begin % BLOCK_NBYTES if self._is_direct else 0
        file.seek(begin - self._kept)
        self._turn = 0
        self._memory = self._aligned(BLOCK_NBYTES)
        self._memory[: self._kept] = 0

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the thread that writes."""
        self._pool.close()

    def _aligned(self, nbytes: int) -> Array:
        memory = self._space.array(f"written {self._turn}", (nbytes + BLOCK_NBYTES,), np.dtype("u1"))
        begin = -memory.ctypes.data % BLOCK_NBYTES
        return memory[begin : begin + nbytes]

    def rows(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return memory for the next rows, to be filled before `add`."""
        nbytes = math.prod(shape) * dtype.itemsize
        if self._kept + nbytes > len(self._memory):
            kept = self._memory[: self._kept].copy()
            self._memory = self._aligned(self._kept + nbytes + BLOCK_NBYTES)
            self._memory[: self._kept] = kept
        return self._memory[self._kept : self._kept + nbytes].view(dtype).reshape(shape)

    def add(self, nbytes: int) -> None:
        """Append the bytes of the memory that `rows` returned, but for a part of a block."""
        self._nbytes += nbytes
        if not self._is_direct:
            self._write(self._memory[:nbytes])
            return
        # past the cache a write waits for the disk: meanwhile other memory is filled
        self._wait()
        end = self._kept + nbytes
        whole = end // BLOCK_NBYTES * BLOCK_NBYTES
        full, self._kept, self._turn = self._memory, end - whole, 1 - self._turn
        self._memory = self._aligned(max(BLOCK_NBYTES, len(full)))
        self._memory[: self._kept] = full[whole:end]
        self._writing = self._pool.submit(partial(self._write, full[:whole]))

    def finish(self) -> None:
        """Append what is left; from now on the file is written through the page cache."""
        if self._is_direct:
            self._wait()
            end = self._file.tell() + self._kept
            self._memory[self._kept : BLOCK_NBYTES] = 0
            self._write(self._memory[: BLOCK_NBYTES if self._kept else 0])
            _set_direct(self._file, False)
            self._file.seek(end)
        self._pace.count(self._is_direct, self._nbytes, self._seconds)

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()
            self._writing = None

    def _write(self, content: Array) -> None:
        start = time.perf_counter()
        try:
            write_all(self._file, content)
        except OSError as err:
            if not self._is_direct or err.errno != errno.EINVAL:
                raise
            # opened like that, but not written: some file systems say so late
            self._pace.can_be_direct = False
            _set_direct(self._file, False)
            write_all(self._file, content)
        self._seconds += time.perf_counter() - start


def forget_pages(file: Any, start: int, nbytes: int, past_cache: bool | None) -> None:
    """Drop what was read from the page cache, if such files are written past it."""
    if _pace_of(file).is_direct(past_cache) and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), start, nbytes, os.POSIX_FADV_DONTNEED)


def _pace_of(file: Any) -> _Pace:
    device = os.fstat(file.fileno()).st_dev
    return PACES.get(device) or PACES.setdefault(device, _Pace())


def _set_direct(file: Any, is_direct: bool) -> bool:
    """Write an open file past the page cache, or through it; return whether the file system does that."""
    import fcntl  # not on Windows

    flags = fcntl.fcntl(file, fcntl.F_GETFL)
    try:
        fcntl.fcntl(file, fcntl.F_SETFL, flags | os.O_DIRECT if is_direct else flags & ~os.O_DIRECT)
    except OSError:
        return False
    return True
