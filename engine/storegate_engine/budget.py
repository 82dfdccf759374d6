"""Memory budget: available memory, and the chunk, shard and block sizes that fit in it; reads no data."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path

from storegate_engine.errors import ArgumentError, MemoryBudgetError

__all__ = [
    "BLOCK_NBYTES",
    "CHUNK_NBYTES",
    "SHARD_NBYTES",
    "Layout",
    "available_nbytes",
    "block_rows",
    "cacheable_nbytes",
    "default_budget_nbytes",
    "format_nbytes",
    "ingest_nbytes",
    "parse_nbytes",
    "plan_layout",
    "require",
    "reserved_nbytes",
]

CHUNK_NBYTES = 128 * 2**10
"""Bytes of a chunk: the cost of reading one random row."""
SHARD_NBYTES = 16 * 2**20
"""Bytes of a shard: one file, the unit of writing."""
BLOCK_NBYTES = 16 * 2**20
"""Bytes of a block: one task of a dask graph."""
RESERVED_NBYTES = 24 * 2**20
"""Bytes that long operations take whatever their sizes: threads, buffers of files, opened arrays."""
ROW_OVERHEAD_NBYTES = 28
"""Bytes of index arithmetic per moved row and copy: its destination, its source and their sorting (measured: 70 bytes
besides two and a half copies)."""
WRITES_IN_FLIGHT = 3
"""Number of shards that a writer hands to storage before it waits for the first."""

_UNITS = {"": 1, "b": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12}
_UNITS |= {f"{unit}b": factor for unit, factor in _UNITS.items() if unit not in ("", "b")}
_UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}


def parse_nbytes(value: int | float | str) -> int:
    """Return a number of bytes, from a number or a text with a unit.

    Raises
    ------
    ValueError
        The text is not a positive number with an optional unit.

    Examples
    --------
    >>> parse_nbytes("1.5 GiB"), parse_nbytes("512MB"), parse_nbytes(4096)
    (1610612736, 512000000, 4096)
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        nbytes = float(value)
    else:
        found = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([a-z]*)\s*", str(value).lower())
        if found is None or found[2] not in _UNITS:
            raise ArgumentError(f"{value!r} is not a number of bytes; give an int or a text like '512MiB'")
        try:
            nbytes = float(found[1]) * _UNITS[found[2]]
        except ValueError as err:
            raise ArgumentError(f"{value!r} is not a number of bytes") from err
    if not math.isfinite(nbytes) or nbytes < 1:
        raise ArgumentError(f"{value!r} is not a positive number of bytes")
    return int(nbytes)


def format_nbytes(nbytes: float) -> str:
    """Return a number of bytes as text.

    >>> format_nbytes(16 * 2**20), format_nbytes(999)
    ('16.0 MiB', '999 B')
    """
    if nbytes < 1024:
        return f"{int(nbytes)} B"
    for unit in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        nbytes /= 1024
        if nbytes < 1024 or unit == "PiB":
            break
    return f"{nbytes:.1f} {unit}"


@functools.cache  # asked at every change of a store
def available_nbytes() -> int:
    """Return the memory that this process may use: the machine's, or its control group's limit if lower.

    Looked up once in a process.
    """
    limits = []
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        limits.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limits.append(int(Path(path).read_text()))
        except (OSError, ValueError):  # no such control group, or "max"
            continue
    return min(limits, default=4 * 2**30)


def cacheable_nbytes() -> int:
    """Return the bytes of files that the page cache can hold now, those that it holds included."""
    free = available_nbytes()
    with contextlib.suppress(OSError, ValueError, IndexError):
        free = min(free, 1024 * int(Path("/proc/meminfo").read_text().partition("MemAvailable:")[2].split()[0]))
    with contextlib.suppress(OSError, ValueError, KeyError):  # a control group of its own
        group = Path("/sys/fs/cgroup")
        known = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        files = int(known["inactive_file"]) + int(known["active_file"])
        used = int((group / "memory.current").read_text())
        free = min(free, max(0, int((group / "memory.max").read_text()) - used + files))
    return free


def default_budget_nbytes() -> int:
    """Return the default memory limit: 60 % of what the process may use."""
    return int(0.6 * available_nbytes())


def require(projected_nbytes: int, budget_nbytes: int, *, what: str, remedy: str) -> None:
    """Refuse a plan whose projected memory exceeds the budget.

    Raises
    ------
    MemoryBudgetError
        The plan exceeds the budget; the message has what was asked, both numbers and the remedy.
    """
    if projected_nbytes > budget_nbytes:
        raise MemoryBudgetError(
            f"{what} needs about {format_nbytes(projected_nbytes)} of memory, and the limit is "
            f"{format_nbytes(budget_nbytes)}; {remedy}"
        )


@dataclass(frozen=True, slots=True)
class Layout:
    """Rows of a chunk (decoded as one) and of a shard (one file, a whole number of chunks)."""

    chunk_rows: int
    """Rows that are compressed together."""
    shard_rows: int
    """Rows that are written together."""

    def __post_init__(self) -> None:
        if self.chunk_rows < 1 or self.shard_rows < 1 or self.shard_rows % self.chunk_rows:
            raise ValueError(f"a shard must be a whole number of chunks, found {self}")


def _power_of_two(rows: float) -> int:
    """Return the largest power of two that is not above ``rows``, at least 1."""
    return 1 << max(0, int(rows).bit_length() - 1)


def plan_layout(
    row_nbytes: int, n_rows: int | None, *, chunk_rows: int | None = None, budget_nbytes: int | None = None
) -> Layout:
    """Return chunk and shard rows chosen by bytes, as powers of two, so that variables of a phase line up.

    Parameters
    ----------
    row_nbytes : int
        Bytes of one row.
    n_rows : int or None
        Rows to store, None if unknown; fewer rows than a chunk make one small chunk.
    chunk_rows : int, optional
        Rows of a chunk, if the user chose them.
    budget_nbytes : int, optional
        Memory limit; shards shrink if a writer of full ones would not fit.

    Examples
    --------
    >>> plan_layout(1024, None)
    Layout(chunk_rows=128, shard_rows=16384)
    >>> plan_layout(1024, 12)
    Layout(chunk_rows=12, shard_rows=12)
    """
    row_nbytes = max(1, row_nbytes)
    shard_nbytes = SHARD_NBYTES
    if budget_nbytes is not None:
        free_nbytes = budget_nbytes - reserved_nbytes(budget_nbytes)
        fitting = free_nbytes // _WRITER_COPIES // (row_nbytes + ROW_OVERHEAD_NBYTES)
        shard_nbytes = max(1, min(shard_nbytes, fitting * row_nbytes))
    rows = chunk_rows or _power_of_two(min(CHUNK_NBYTES, shard_nbytes) / row_nbytes)
    if n_rows is not None:
        rows = min(rows, max(1, n_rows))
    chunks = _power_of_two(shard_nbytes / (rows * row_nbytes))
    if n_rows is not None:
        chunks = min(chunks, -(-max(1, n_rows) // rows))
    return Layout(rows, rows * chunks)


_WRITER_COPIES = 10
"""Shards in memory while one variable is written (measured): a block being read, the gathered one, raw and encoded
ones in flight, and memory that malloc keeps of earlier ones."""


def reserved_nbytes(budget_nbytes: int) -> int:
    """Return the bytes reserved for what does not grow with the rows: 24 MiB, less if the limit is hardly larger."""
    return min(RESERVED_NBYTES, budget_nbytes // 4)


def ingest_nbytes(row_nbytes: int, layout: Layout, budget_nbytes: int) -> int:
    """Return the projected memory of writing one variable block by block."""
    return reserved_nbytes(budget_nbytes) + _WRITER_COPIES * layout.shard_rows * max(1, row_nbytes)


def block_rows(row_nbytes: int, n_rows: int, *, align: int = 1, budget_nbytes: int, workers: int = 1) -> int:
    """Return the rows of one block of a dask graph.

    Blocks aim at :data:`BLOCK_NBYTES`, less if ``workers`` of them would not fit in the budget, and are
    whole multiples of ``align`` (rows of a stored chunk) if one chunk fits.

    >>> block_rows(1024, 10**6, align=256, budget_nbytes=2**30)
    16384
    """
    free_nbytes = budget_nbytes - reserved_nbytes(budget_nbytes)
    target = min(BLOCK_NBYTES, free_nbytes // (6 * max(1, workers)))
    rows = max(1, int(target // max(1, row_nbytes)))
    rows = rows // align * align if rows >= align else rows
    return max(1, min(_power_of_two(rows) if align == 1 else rows, max(1, n_rows)))
