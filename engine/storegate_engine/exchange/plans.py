"""Plans: how permuted rows are read, with sizes, traffic and memory; pure, reads nothing.

==========  ============================================  =====================================
plan        when                                          traffic
==========  ============================================  =====================================
``read``    rows are wanted in stored order               1 read
``gather``  the wanted rows fit in three tasks' memory    1 read of the touched chunks per task
``exchange``  more than that                              2 reads + 2 writes, or 3 + 3
==========  ============================================  =====================================
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, TypeAlias

from storegate_engine.budget import BLOCK_NBYTES, ROW_OVERHEAD_NBYTES, format_nbytes, require, reserved_nbytes
from storegate_engine.errors import ArgumentError

__all__ = ["Kind", "Plan", "Wanted", "choose", "permuted_rows", "task_nbytes"]

Kind: TypeAlias = Literal["read", "gather", "exchange"]

GATHER_READS = 3
"""A gather reads the source once per task: with more tasks than this an exchange moves fewer bytes."""
WIDE_ROW_NBYTES = 2**20
"""Rows of this many bytes are read one by one as fast as in order: a gather alone moves them once."""
COPIES = 2.5
"""Copies of a task's rows in memory at its peak (measured)."""
SHARE = 0.6
"""Share of the memory limit that tasks may plan with; the rest is for the process itself."""
MAGIC_NBYTES = 8
"""Bytes of the magic of a spill file, which is never read alone: the checksums of entries include it."""
ENTRY_NBYTES = 24
"""Bytes of the entry of one part of a spill file, which is read with the part."""
REQUEST_NBYTES = 8
"""Bytes spilled per row of an order with repeats before the first pass: the stored row it needs."""
TASK_NBYTES = 64 * 2**20
"""Bytes of rows of one task of an exchange, if no more are needed: small tasks stay in warm memory."""
GOOD_PART_NBYTES = 2**20
"""Bytes of a part of a spill file that is read at the disk's full rate."""
MIN_PART_NBYTES = 256 * 2**10
"""A shorter part of a spill file is read at the disk's seek rate: a third pass makes longer ones."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """The rows to read, of one variable."""

    n_rows: int
    """Number of logical rows to read."""
    n_stored: int
    """Number of stored rows among which they lie."""
    row_nbytes: int
    """Bytes of one logical row."""
    in_order: bool
    """Whether the rows are wanted in stored order."""
    random_access: bool = False
    """Whether any row can be read without its neighbours: rows in memory."""
    spill_row_nbytes: int | None = None
    """Bytes of one row as it is spilled, if different from a logical row."""
    stored_nbytes: int | None = None
    """Bytes of the stored rows, if different from as many spilled ones."""
    has_repeats: bool = False
    """Whether rows may be wanted twice, so that requests are spilled before the rows."""
    chunk_rows: int = 1
    """Most rows that are decoded together."""
    chunk_nbytes: int = 0
    """Bytes of these rows as stored."""

    @property
    def nbytes(self) -> int:
        """Bytes of the wanted rows."""
        return self.n_rows * self.row_nbytes

    @property
    def spilled_nbytes(self) -> int:
        """Bytes of one row as it is spilled."""
        return self.row_nbytes if self.spill_row_nbytes is None else self.spill_row_nbytes

    @property
    def source_nbytes(self) -> int:
        """Bytes of the stored rows in the form in which they are spilled."""
        return self.n_stored * self.spilled_nbytes

    @property
    def first_pass_nbytes(self) -> int:
        """Bytes read to spill every row once."""
        return self.source_nbytes if self.stored_nbytes is None else self.stored_nbytes

    @property
    def decoding_nbytes(self) -> int:
        """Bytes that a task holds besides its rows: a chunk, encoded and decoded."""
        return 2 * self.chunk_nbytes


@dataclass(frozen=True, slots=True)
class Plan:
    """One way to read rows."""

    kind: Kind
    """The kind of plan."""
    map_rows: int
    """Stored rows of one scatter task; all of them if nothing is scattered."""
    bucket_rows: int
    """Logical rows of one collect or gather task."""
    n_maps: int
    """Number of scatter tasks."""
    n_buckets: int
    """Number of collect or gather tasks."""
    read_nbytes: int
    """Bytes read in all passes, with the entries of spill files."""
    write_nbytes: int
    """Bytes written to spill, with their entries."""
    projected_nbytes: int
    """Peak memory of all workers of one machine."""
    workers: int
    """Number of tasks that run at the same time on a machine."""
    part_nbytes: int = 0
    """Bytes that one task writes for one bucket."""
    coarse: int = 1
    """Buckets that the first pass keeps together for another pass to sort: one with two passes."""

    @property
    def passes(self) -> int:
        """How many times rows are read."""
        return 1 if self.kind != "exchange" else 2 if self.coarse == 1 else 3

    @property
    def at_once(self) -> int:
        """Number of tasks in memory at the same time: may be fewer than run at the same time."""
        return min(self.workers, max(self.n_maps, self.n_buckets))

    @property
    def n_tasks(self) -> int:
        """Number of tasks of all passes."""
        return self.n_maps + self.n_buckets + (-(-self.n_buckets // self.coarse) if self.coarse > 1 else 0)

    def describe(self) -> str:
        """Return the plan as a line of text."""
        spill = f", spill {format_nbytes(self.write_nbytes)}" if self.write_nbytes else ""
        return (
            f"{self.kind}: {self.n_tasks} tasks, reads {format_nbytes(self.read_nbytes)}{spill}, "
            f"projected memory {format_nbytes(self.projected_nbytes)}"
        )


def task_nbytes(budget_nbytes: int, workers: int, copies: float = COPIES) -> int:
    """Return the bytes of rows that one of ``workers`` concurrent tasks may hold, in ``copies`` copies.

    >>> task_nbytes(10**9, 2)
    116980101
    """
    return max(1, int(SHARE * (budget_nbytes - reserved_nbytes(budget_nbytes)) / (max(1, workers) * copies)))


def permuted_rows(
    row_nbytes: int, n_stored: int, budget_nbytes: int, workers: int, copies: float = COPIES
) -> tuple[int, int]:
    """Return the least number of permuted rows per task for long enough parts, and the most that fit."""
    limit = task_nbytes(budget_nbytes, workers, copies)
    most = max(1, limit // (row_nbytes + ROW_OVERHEAD_NBYTES))
    least = int(MIN_PART_NBYTES * n_stored / limit)
    return min(least, most), most


def choose(
    wanted: Wanted,
    *,
    budget_nbytes: int,
    workers: int,
    align: int = 1,
    bucket_rows: int | None = None,
    force: str = "auto",
    copies: float = COPIES,
    passes: int = 2,
) -> Plan:
    """Return the cheapest plan that fits in memory.

    Parameters
    ----------
    wanted : Wanted
        The rows to read.
    budget_nbytes : int
        The memory limit.
    workers : int
        Number of tasks that run at the same time.
    align : int
        Rows of a shard to write: tasks are whole multiples of it.
    bucket_rows : int, optional
        Rows of a bucket, if they are given: a block of a dask graph.
    force : {"auto", "gather", "exchange"}
        A plan to use for rows out of order, whatever its cost.
    copies : float
        Copies of its rows that a task holds.
    passes : {2, 3}
        The most passes of an exchange: a third one if parts are short with two.

    Raises
    ------
    MemoryBudgetError
        One row, or one aligned task, does not fit.
    ValueError
        ``force`` is not a plan.

    Examples
    --------
    >>> shuffled = Wanted(4_000_000, 4_000_000, 1024, in_order=False)
    >>> choose(shuffled, budget_nbytes=10**9, workers=2, align=16384).kind
    'exchange'
    >>> choose(Wanted(256, 4_000_000, 1024, in_order=False), budget_nbytes=10**9, workers=2).kind
    'gather'
    """
    if force not in ("auto", "gather", "exchange"):
        raise ArgumentError(f"storegate.shuffle is 'auto', 'gather' or 'exchange', found {force!r}")
    _, fitting = permuted_rows(wanted.row_nbytes, wanted.n_stored, budget_nbytes, workers, copies)
    if wanted.in_order or wanted.random_access:
        enough = max(1, min(fitting // 2, BLOCK_NBYTES // wanted.row_nbytes))
        enough = _whole(enough, wanted.chunk_rows)
        enough = max(align, enough // align * align)  # shards are written whole, whatever memory they take
        return _read(wanted, bucket_rows or min(enough, wanted.n_rows), budget_nbytes, workers)
    n_gathers = -(-wanted.n_rows // fitting)
    wide = wanted.row_nbytes >= WIDE_ROW_NBYTES
    if force == "gather" or (force == "auto" and (n_gathers <= GATHER_READS or wide)):
        return _gather(wanted, bucket_rows or fitting, budget_nbytes, workers, copies)
    plan = _exchange(wanted, fitting, budget_nbytes, workers, align, bucket_rows, copies)
    is_short = plan.part_nbytes < MIN_PART_NBYTES
    return _with_a_third_pass(plan, wanted, budget_nbytes) if is_short and passes > 2 else plan


def _whole(n_rows: int, chunk_rows: int) -> int:
    """Return rows rounded to whole chunks, unless one chunk has more rows."""
    return n_rows // chunk_rows * chunk_rows if n_rows >= chunk_rows else n_rows


def _read(wanted: Wanted, bucket_rows: int, budget_nbytes: int, workers: int) -> Plan:
    bucket_rows = max(1, bucket_rows)
    n_buckets = max(1, -(-wanted.n_rows // bucket_rows))
    held = min(bucket_rows, wanted.n_rows)
    at_once = min(workers, n_buckets)
    projected = reserved_nbytes(budget_nbytes)
    projected += int(at_once * (COPIES * held * wanted.row_nbytes + wanted.decoding_nbytes))
    require(projected, budget_nbytes, what=f"reading {held} rows of {format_nbytes(wanted.row_nbytes)}", remedy=_REMEDY)
    return Plan("read", wanted.n_stored, bucket_rows, 0, n_buckets, wanted.nbytes, 0, projected, workers)


def _gather(wanted: Wanted, bucket_rows: int, budget_nbytes: int, workers: int, copies: float) -> Plan:
    bucket_rows = max(1, min(bucket_rows, wanted.n_rows))
    n_buckets = -(-wanted.n_rows // bucket_rows) if wanted.n_rows else 1
    read_nbytes = min(wanted.source_nbytes, wanted.n_rows * max(wanted.row_nbytes, 2**18)) * n_buckets
    at_once = min(workers, n_buckets)
    projected = _projected(bucket_rows, wanted.row_nbytes, at_once, budget_nbytes, copies)
    projected += at_once * wanted.decoding_nbytes
    require(projected, budget_nbytes, what=f"gathering {bucket_rows} rows", remedy=_REMEDY)
    return Plan("gather", wanted.n_stored, bucket_rows, 0, n_buckets, read_nbytes, 0, projected, workers)


_REMEDY = "raise storegate.memory-limit (or backend_args['budget']), or use fewer threads"


def _exchange(
    wanted: Wanted, fitting: int, budget_nbytes: int, workers: int, align: int, bucket_rows: int | None, copies: float
) -> Plan:
    enough = max(TASK_NBYTES, math.isqrt(GOOD_PART_NBYTES * wanted.source_nbytes))
    spilled, row_nbytes = wanted.spilled_nbytes, wanted.row_nbytes
    # if transforms make rows wider, more stored rows fit in a task than wanted ones
    fitting_maps = fitting * (row_nbytes + ROW_OVERHEAD_NBYTES) // (spilled + ROW_OVERHEAD_NBYTES)
    map_rows = _whole(max(1, min(fitting_maps, enough // spilled)), math.lcm(align, wanted.chunk_rows))
    map_rows = _whole(map_rows, wanted.chunk_rows)
    if bucket_rows is None:
        bucket_rows = max(align, min(fitting, enough // max(spilled, row_nbytes)) // align * align)
    held = max(map_rows * (spilled + ROW_OVERHEAD_NBYTES), bucket_rows * (row_nbytes + ROW_OVERHEAD_NBYTES))
    n_maps, n_buckets = -(-wanted.n_stored // map_rows), -(-wanted.n_rows // bucket_rows)
    at_once = min(workers, max(n_maps, n_buckets))
    projected = reserved_nbytes(budget_nbytes) + int(at_once * copies * held)
    projected += 2 * at_once * align * row_nbytes  # shards being encoded
    projected += at_once * wanted.decoding_nbytes
    require(projected, budget_nbytes, what=f"an exchange of {align} rows per task", remedy=_REMEDY)
    plan = Plan(
        "exchange",
        map_rows,
        bucket_rows,
        n_maps,
        n_buckets,
        0,
        0,
        projected,
        workers,
        part_nbytes=map_rows * spilled // n_buckets,
    )
    return _with_traffic(plan, wanted)


def _with_a_third_pass(plan: Plan, wanted: Wanted, budget_nbytes: int) -> Plan:
    """Return a plan whose first pass sorts into about as many buckets as its second; the given plan if those are few.

    A task of the pass in between knows the places of all rows of a coarse bucket, which takes memory.
    """
    index_nbytes = plan.workers * plan.bucket_rows * ROW_OVERHEAD_NBYTES
    coarse = min(math.isqrt(plan.n_buckets), (budget_nbytes - plan.projected_nbytes) // index_nbytes)
    if coarse < 2:
        return plan
    three = replace(
        plan,
        coarse=coarse,
        projected_nbytes=plan.projected_nbytes + coarse * index_nbytes,
        part_nbytes=plan.part_nbytes * coarse,  # in the first pass; those of the second are no shorter
    )
    return _with_traffic(three, wanted)


def _with_traffic(plan: Plan, wanted: Wanted) -> Plan:
    """Return an exchange with its traffic: a task that reads a part reads its entry, and no other.

    ::

        pass      files               parts of each     bytes of all rows
        request   K/F                 P                 8 a row             only for orders with repeats
        scatter   P                   K/F               as spilled
        split     K/F · P/(K/F)       F                 as spilled          only in three passes

    with P scatter tasks, K buckets and F of them in a coarse bucket; F = 1 in two passes.
    """
    n_coarse = -(-plan.n_buckets // plan.coarse)
    files, entries, rows_nbytes = plan.n_maps, plan.n_maps * n_coarse, wanted.n_rows * wanted.spilled_nbytes
    if wanted.has_repeats:
        files += n_coarse
        entries += n_coarse * plan.n_maps
        rows_nbytes += wanted.n_rows * REQUEST_NBYTES
    if plan.coarse > 1:
        n_fine = -(-plan.n_maps // n_coarse)
        files += n_coarse * n_fine
        entries += n_fine * plan.n_buckets
        rows_nbytes += wanted.n_rows * wanted.spilled_nbytes
    spilled_nbytes = rows_nbytes + entries * ENTRY_NBYTES
    return replace(
        plan,
        read_nbytes=wanted.first_pass_nbytes + spilled_nbytes,
        write_nbytes=spilled_nbytes + files * MAGIC_NBYTES,
    )


def _projected(task_rows: int, row_nbytes: int, workers: int, budget_nbytes: int, copies: float = COPIES) -> int:
    rows_nbytes = workers * copies * task_rows * (row_nbytes + ROW_OVERHEAD_NBYTES)
    return reserved_nbytes(budget_nbytes) + int(rows_nbytes)
