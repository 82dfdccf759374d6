"""Rewrites: the logical rows of stored variables as new arrays in that order, with as few moves as possible.

The plan is chosen by bytes, see `plans`. Tasks run in threads, or on the workers of the active dask cluster. If a
rewrite is killed, the next one reuses its spill.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import pairwise, repeat
from typing import Any, TypeAlias

import numpy as np

from storegate_engine import settings
from storegate_engine.arrays import ArraySpec, RowArray, StoredArray, Written, of_written, write_rows
from storegate_engine.buffers import Workspace
from storegate_engine.clusters import Capacity, active_client
from storegate_engine.clusters import capacity as capacity_of
from storegate_engine.encodings import encoding_of
from storegate_engine.errors import LabelError, MemoryBudgetError
from storegate_engine.exchange import TASK_NBYTES, Exchange, Plan, open_exchange, plan_rows, run, workspace
from storegate_engine.integers import stable_argsort
from storegate_engine.store.repository import Repository, Transaction
from storegate_engine.store.sources import LISTS_NBYTES, Source
from storegate_engine.store.table_sources import VariableSource
from storegate_engine.table import Variable, is_stored

__all__ = ["blocks_in_order", "plan_rewrite", "rewrite", "write"]

Array: TypeAlias = np.ndarray[Any, Any]

GATHER_COPIES = 1.3
"""Copies of the rows of one gather: the rows, and the rows that its tasks have just read."""
GATHER_NBYTES = 2 * 2**20
"""Stored rows that a gather task reads at a time, and places while they are in a core's cache."""
LISTS_SHARE = 6
"""Share of a memory limit for rows of various lengths that are read together: the items, and their copy in order."""
SPAN_NBYTES = 16 * 2**20
"""Stored rows that one gather task reads in order."""


def write(change: Transaction, sources: Mapping[str, Source]) -> dict[str, RowArray]:
    """Write new rows and return their arrays by name; rows of stored variables are written by :func:`rewrite`.

    Raises
    ------
    MemoryBudgetError, SpillError
        See :func:`rewrite`.
    """
    variables = {
        name: source.variable
        for name, source in sources.items()
        if isinstance(source, VariableSource) and is_stored(source.variable) and source.kind == "dense"
    }
    if not variables or change.repository.in_memory:
        return change.store(sources)
    limits = capacity_of(change.repository.budget_nbytes)
    planned = _planned(change.repository, variables, limits)
    others = {name: source for name, source in sources.items() if name not in variables}
    arrays = change.store(others) if others else {}
    arrays |= _move(change, variables, planned, limits, is_last=False)
    return {name: arrays[name] for name in sources}


def rewrite(change: Transaction, variables: Mapping[str, Variable], capacity: Capacity) -> dict[str, RowArray]:
    """Write logical rows in order, and return the new arrays by name.

    Parameters
    ----------
    change : Transaction
        The transaction whose repository gets the arrays.
    variables : mapping of str to Variable
        The variables to write, by the names of the new arrays.
    capacity : Capacity
        Memory and threads to plan with.

    Raises
    ------
    MemoryBudgetError
        The smallest plan does not fit; nothing was written.
    SpillError
        The scratch space is full; the table stays as it was.
    """
    if change.repository.in_memory:
        return change.store({name: VariableSource(variable) for name, variable in variables.items()})
    dense = {name: variable for name, variable in variables.items() if variable.kind == "dense"}
    planned = _planned(change.repository, dense, capacity)
    lists = {name: _lists_of(variable, capacity) for name, variable in variables.items() if name not in dense}
    arrays = change.store(lists) if lists else {}
    arrays |= _move(change, dense, planned, capacity, is_last=True) if dense else {}
    return {name: arrays[name] for name in variables}


def _planned(
    repository: Repository, variables: Mapping[str, Variable], capacity: Capacity
) -> dict[str, tuple[ArraySpec, Plan]]:
    """Return the arrays to write and their plans; raises before writing if one does not fit."""
    specs = {name: repository.spec(name, VariableSource(variable)) for name, variable in variables.items()}
    return {
        name: (spec, plan_rewrite(variables[name], spec.layout.shard_rows, capacity)) for name, spec in specs.items()
    }


def _move(
    change: Transaction,
    variables: Mapping[str, Variable],
    planned: Mapping[str, tuple[ArraySpec, Plan]],
    capacity: Capacity,
    *,
    is_last: bool,
) -> dict[str, RowArray]:
    """Write what was planned; rows read for the last time leave the page cache."""
    plans = {name: plan for name, (_, plan) in planned.items()}
    segment = change.new_segment()
    arrays: dict[str, RowArray] = {}
    total = sum(plans[name].passes * variable.nbytes for name, variable in variables.items())
    with settings.progress_bar(change.operation, total) as bar:
        for names in _moved_together(variables, plans):
            group = [variables[name] for name in names]
            new = [segment.reserve(name, planned[name][0]) for name in names]
            plan = plans[names[0]]
            if plan.kind == "exchange":
                written = _exchange(group, new, plan, bar.update, is_last=is_last)
            elif plan.kind == "read" or active_client() is not None:
                written = [_copy(group[0], new[0], plan, bar.update)]
            else:
                written = [_gather(group[0], new[0], plan, capacity.workers + 2, bar.update, is_last=is_last)]
            for name, array, parts in zip(names, new, written, strict=True):
                encoding = encoding_of(array.dtype)
                arrays[name] = segment.seal(name, array.n_rows, encoding, *of_written(parts))
    return {name: arrays[name] for name in variables}


def _moved_together(variables: Mapping[str, Variable], plans: Mapping[str, Plan]) -> list[list[str]]:
    """Return names in groups whose rows are exchanged together: those with the same order and task size.

    Their destinations are computed and sorted once, which for narrow rows takes longer than moving them. Rows of
    different widths would make segments that are too short or too long.
    """
    groups: dict[Any, list[str]] = {}
    for name, variable in variables.items():
        plan = plans[name]
        together = plan.kind == "exchange" and variable.order.is_injective
        sizes = (plan.map_rows, plan.bucket_rows, plan.coarse, plan.workers)
        groups.setdefault((variable.order, variable.offsets[-1], sizes) if together else name, []).append(name)
    return list(groups.values())


def _lists_of(variable: Variable, capacity: Capacity) -> VariableSource:
    """Return rows of various lengths as a source, of which as many are read together as memory allows."""
    return VariableSource(variable, max(LISTS_NBYTES, capacity.budget_nbytes // LISTS_SHARE))


def plan_rewrite(variable: Variable, shard_rows: int, capacity: Capacity) -> Plan:
    """Return the plan: one gather at a time with the whole memory, or else an exchange whose tasks share it."""
    n_rows, budget_nbytes = len(variable), capacity.budget_nbytes
    in_order = variable.order.runs(0, n_rows) is not None
    if not in_order and active_client() is None:
        plan = plan_rows(variable, n_rows, budget_nbytes, 1, in_order=False, align=shard_rows, copies=GATHER_COPIES)
        if plan.kind != "exchange":
            return plan
    most = capacity.workers if active_client() is not None else capacity.workers + 2  # some wait for storage
    fitting: list[Plan] = []
    for workers in range(most, 1, -1):  # fewer tasks at a time may fit, or save a pass with more memory each
        with contextlib.suppress(MemoryBudgetError):
            plan = plan_rows(variable, n_rows, budget_nbytes, workers, in_order=in_order, align=shard_rows, passes=3)
            if plan.passes < 3:
                return plan
            fitting.append(plan)
    if fitting:
        return fitting[0]
    return plan_rows(variable, n_rows, budget_nbytes, 1, in_order=in_order, align=shard_rows, passes=3)


def blocks_in_order(variable: Variable, capacity: Capacity) -> Iterator[Any]:
    """Yield all logical rows in order, each block valid until the next; uses an exchange if they do not fit."""
    if variable.kind != "dense":
        yield from _lists_of(variable, capacity).blocks(1)
        return
    plan = plan_rewrite(variable, 1, capacity)
    if plan.kind == "exchange":
        with open_exchange([variable], plan) as exchange:
            space = Workspace()
            for bucket in range(plan.n_buckets):
                yield from exchange.collect(bucket, [space])
        return
    step = plan.bucket_rows if plan.kind == "gather" else min(plan.bucket_rows, TASK_NBYTES // variable.row_nbytes)
    step = max(1, step)
    for lo in range(0, len(variable), step):
        yield variable.read(lo, min(lo + step, len(variable)))


def _copy(variable: Variable, array: StoredArray, plan: Plan, progress: Callable[[int], object]) -> list[Written]:
    """Read and write runs of whole shards, each in its own task."""
    step = _whole_shards(array, plan.bucket_rows)
    starts = range(0, len(variable), step)
    tasks = (partial(copy_rows, variable, array, lo, min(lo + step, len(variable))) for lo in starts)
    return run(tasks, plan.workers, lambda: progress(step * variable.row_nbytes))


def _whole_shards(array: StoredArray, n_rows: int) -> int:
    return max(array.layout.shard_rows, n_rows // array.layout.shard_rows * array.layout.shard_rows)


def copy_rows(variable: Variable, array: StoredArray, lo: int, hi: int) -> Written:
    """Write logical rows ``lo..hi`` to their place in the new array."""
    space = workspace()
    rows = space.array("rows", (hi - lo, *variable.row_shape), variable.dtype)
    variable.read_into(lo, hi, rows)
    return write_rows(array, lo, rows)


def _gather(
    variable: Variable,
    array: StoredArray,
    plan: Plan,
    n_threads: int,
    progress: Callable[[int], object],
    *,
    is_last: bool,
) -> list[Written]:
    """Read the stored rows in order, place those of one bucket at a time in memory, then write them."""
    step = len(variable) if plan.n_buckets == 1 else _whole_shards(array, plan.bucket_rows)
    part = _whole_shards(array, max(1, TASK_NBYTES // variable.row_nbytes))
    written: list[Written] = []
    for lo in range(0, len(variable), step):
        hi = min(lo + step, len(variable))
        out = _gathered(variable, lo, hi, n_threads, is_last=is_last and hi == len(variable))
        starts = range(0, len(out), part)
        parts = (partial(write_rows, array, lo + at, out[at : at + part]) for at in starts)
        written += run(parts, n_threads, here=True)
        progress(out.nbytes)
    return written


def _gathered(variable: Variable, lo: int, hi: int, n_threads: int, *, is_last: bool) -> Array:
    """Return logical rows ``lo..hi``, by reading the stored rows in order; ``is_last`` if for the last time."""
    out = np.empty((hi - lo, *variable.row_shape), variable.dtype)
    stored = variable.stored_rows()
    shard = max((piece.array.shard_rows for piece in stored.pieces), default=1)
    span = shard * max(1, SPAN_NBYTES // (shard * max(1, variable.row_nbytes)))
    wanted, places = ascending(variable.order.rows(lo, hi), len(stored))
    cuts = np.searchsorted(wanted, np.arange(0, len(stored) + span, span)).tolist()

    def place(number: int, first: int, last: int) -> None:
        _place(stored, wanted[first:last], places[first:last], out)
        if is_last:
            stored.drop(number * span, (number + 1) * span)

    tasks = (partial(place, number, a, b) for number, (a, b) in enumerate(pairwise(cuts)) if a < b)
    try:
        run(tasks, n_threads, here=True)
    except LabelError:
        del out
        out = variable.read(lo, hi)  # names the logical row, unless the label belongs to a row between the wanted ones
    return out


def ascending(rows: Array, n_stored: int) -> tuple[Array, Array]:
    """Return row numbers in ascending order, and their former positions."""
    if len(rows) > n_stored // 2 and len(rows) < 2**32 - 1:  # a table is much faster than sorting
        table = np.zeros(n_stored, np.uint32)  # place + 1, 0 for a row that is absent
        table[rows] = np.arange(1, len(rows) + 1, dtype=np.uint32)
        found = np.flatnonzero(table)
        if len(found) == len(rows):  # no repeats
            return found, table[found] - np.uint32(1)
    places = stable_argsort(rows)
    return rows[places], places


def _place(stored: Variable, wanted: Array, places: Array, out: Array) -> None:
    """Read the span of stored rows that holds the wanted ones, a window at a time, and put these in their places."""
    window = max(1, GATHER_NBYTES // max(1, stored.row_nbytes))
    start, stop = int(wanted[0]), int(wanted[-1]) + 1
    cuts = np.searchsorted(wanted, np.arange(start, stop + window, window)).tolist()
    for a, b in pairwise(cuts):
        if a == b:
            continue
        first, last = int(wanted[a]), int(wanted[b - 1]) + 1
        rows = workspace().array("rows", (last - first, *stored.row_shape), stored.dtype)
        stored.read_into(first, last, rows)
        within = wanted[a:b] - first
        everything = len(within) == len(rows) and bool((within == np.arange(len(rows))).all())
        out[places[a:b]] = rows if everything else rows[within]


def _exchange(
    variables: list[Variable],
    arrays: list[StoredArray],
    plan: Plan,
    progress: Callable[[int], object],
    *,
    is_last: bool,
) -> list[list[Written]]:
    """Exchange variables of one order, and return what was written of each."""
    nbytes = sum(variable.nbytes for variable in variables)
    with open_exchange(variables, plan, lambda share: progress(int(nbytes * share)), is_last=is_last) as exchange:
        starts = ((bucket, bucket * plan.bucket_rows) for bucket in range(plan.n_buckets))
        buckets = (partial(collect_and_write, exchange, bucket, arrays, start) for bucket, start in starts)
        written = run(buckets, plan.workers, lambda: progress(nbytes // plan.n_buckets))
    return [list(parts) for parts in zip(*written, strict=True)]


def collect_and_write(exchange: Exchange, bucket: int, arrays: list[StoredArray], start: int) -> list[Written]:
    """Write one bucket of every variable to its place in the new arrays, as a task of the last pass."""
    collected = exchange.collect(bucket, repeat(workspace()))
    return [write_rows(array, start, rows) for array, rows in zip(arrays, collected, strict=True)]
