"""Rewrites: the logical rows of stored variables as new arrays in that order; moves each row as rarely as it can.

The plan is chosen by bytes, see `plans`. Tasks run in threads, or on the workers of the active dask cluster. A
rewrite that was killed finds the spill it had written when it is run again.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from itertools import islice, pairwise
from typing import Any, TypeAlias, TypeVar

import numpy as np

from storegate_engine import checksums, settings
from storegate_engine.arrays import RowArray, StoredArray
from storegate_engine.encodings import encoding_of
from storegate_engine.errors import LabelError, MemoryBudgetError
from storegate_engine.exchange import (
    Exchange,
    Workspace,
    collect,
    is_invertible,
    pass_row_nbytes,
    plan_rows,
    request,
    scatter,
    scratch_of,
)
from storegate_engine.plans import TASK_NBYTES, Plan
from storegate_engine.repository import StoredRepository, Transaction
from storegate_engine.segments import write_rows
from storegate_engine.sources import VariableSource
from storegate_engine.spill import open_spill
from storegate_engine.states import token_of
from storegate_engine.table import Variable
from storegate_engine.tiers import Capacity, active_client

__all__ = ["blocks_in_order", "plan_rewrite", "rewrite"]

Array: TypeAlias = np.ndarray[Any, Any]
T = TypeVar("T")

THREADS = "storegate-rewrite"
WINDOW = 10_000
"""Tasks that are handed to a scheduler at a time."""
GATHER_COPIES = 1.3
"""Copies of the rows of one gather: themselves, and what its tasks have just read."""
GATHER_NBYTES = 2 * 2**20
"""Stored rows that one task of a gather reads, and places while they are in the cache of a core."""
RETRIES = 3
"""How often a task that failed with its worker is tried again."""


def rewrite(change: Transaction, variables: Mapping[str, Variable], capacity: Capacity) -> dict[str, RowArray]:
    """Write logical rows out in order and return the new arrays, by name.

    Parameters
    ----------
    change : Transaction
        To whose repository the arrays belong.
    variables : mapping of str to Variable
        What is written, and under which name.
    capacity : Capacity
        Memory and threads to plan with.

    Raises
    ------
    MemoryBudgetError
        The smallest plan does not fit; nothing was written.
    SpillError
        The scratch space is full; the table stays as it was.
    """
    if not isinstance(change.repository, StoredRepository):
        return change.store({name: VariableSource(variable) for name, variable in variables.items()})
    specs = {name: change.repository.spec(name, VariableSource(variable)) for name, variable in variables.items()}
    plans = {
        name: plan_rewrite(variable, specs[name].layout.shard_rows, capacity) for name, variable in variables.items()
    }
    segment = change.new_segment()
    arrays: dict[str, RowArray] = {}
    total = sum((2 if plans[name].kind == "exchange" else 1) * v.nbytes for name, v in variables.items())
    with settings.progress_bar(change.operation, total) as bar:
        for name, variable in variables.items():
            array = segment.reserve(name, specs[name])
            if plans[name].kind == "exchange":
                written = _exchange(variable, array, plans[name], bar.update)
            elif plans[name].kind == "read" or active_client() is not None:
                written = _copy(variable, array, plans[name], bar.update)
            else:
                written = _gather(variable, array, plans[name], capacity.workers + 2, bar.update)
            arrays[name] = segment.seal(name, len(variable), encoding_of(array.dtype), checksums.in_order(written))
    return arrays


def plan_rewrite(variable: Variable, shard_rows: int, capacity: Capacity) -> Plan:
    """Choose with the whole memory for one gather at a time, else with shares for the tasks of an exchange."""
    n_rows, budget_nbytes = len(variable), capacity.budget_nbytes
    in_order = variable.order.runs(0, n_rows) is not None
    if not in_order and active_client() is None:
        plan = plan_rows(variable, n_rows, budget_nbytes, 1, in_order=False, align=shard_rows, copies=GATHER_COPIES)
        if plan.kind != "exchange":
            return plan
    most = capacity.workers if active_client() is not None else capacity.workers + 2  # some wait for storage
    for workers in range(most, 1, -1):
        with contextlib.suppress(MemoryBudgetError):  # fewer tasks at a time may fit
            return plan_rows(variable, n_rows, budget_nbytes, workers, in_order=in_order, align=shard_rows)
    return plan_rows(variable, n_rows, budget_nbytes, 1, in_order=in_order, align=shard_rows)


def blocks_in_order(variable: Variable, capacity: Capacity) -> Iterator[Array]:
    """Yield all logical rows in order, each block valid until the next; by an exchange where they do not fit."""
    plan = plan_rewrite(variable, 1, capacity)
    if plan.kind == "exchange":
        spill = open_spill(scratch_of(variable), token_of(variable, plan.map_rows, plan.bucket_rows))
        exchange = Exchange(variable, plan.map_rows, plan.bucket_rows, str(spill.path), (0, plan.n_buckets))
        _first_pass(exchange, plan, lambda: None)
        space = Workspace()
        yield from (collect(exchange, number, workspace=space) for number in range(plan.n_buckets))
        spill.remove()
        return
    step = plan.bucket_rows if plan.kind == "gather" else min(plan.bucket_rows, TASK_NBYTES // variable.row_nbytes)
    step = max(1, step)
    for lo in range(0, len(variable), step):
        yield variable.read(lo, min(lo + step, len(variable)))


def _copy(
    variable: Variable, array: StoredArray, plan: Plan, progress: Callable[[int], object]
) -> list[checksums.Written]:
    """Read and write runs of whole shards, each in a task of its own."""
    step = _whole_shards(array, plan.bucket_rows)
    starts = range(0, len(variable), step)
    tasks = (partial(copy_rows, variable, array, lo, min(lo + step, len(variable))) for lo in starts)
    return _run(tasks, plan.workers, lambda: progress(step * variable.row_nbytes))


def _whole_shards(array: StoredArray, n_rows: int) -> int:
    return max(array.layout.shard_rows, n_rows // array.layout.shard_rows * array.layout.shard_rows)


def copy_rows(variable: Variable, array: StoredArray, lo: int, hi: int) -> checksums.Written:
    """Write logical rows ``lo..hi`` to their place in the new array."""
    space = _workspace() or Workspace()
    rows = space.array("rows", (hi - lo, *variable.row_shape), variable.dtype)
    variable.read_into(lo, hi, rows)
    return write_rows(array, lo, rows)


def _gather(
    variable: Variable, array: StoredArray, plan: Plan, n_threads: int, progress: Callable[[int], object]
) -> list[checksums.Written]:
    """Read the stored rows in order, place those of one bucket at a time in memory, then write them."""
    step = _whole_shards(array, plan.bucket_rows)
    part = _whole_shards(array, max(1, TASK_NBYTES // variable.row_nbytes))
    stored = variable.stored_rows()
    written: list[checksums.Written] = []
    for lo in range(0, len(variable), step):
        hi = min(lo + step, len(variable))
        out = np.empty((hi - lo, *variable.row_shape), variable.dtype)
        wanted = variable.order.rows(lo, hi)
        places = np.argsort(wanted, kind="stable")
        wanted = wanted[places]
        window = max(1, GATHER_NBYTES // pass_row_nbytes(variable))
        cuts = np.searchsorted(wanted, np.arange(0, variable.offsets[-1] + window, window)).tolist()
        spans = [(first, last) for first, last in pairwise(cuts) if first < last]
        try:
            _run_here((partial(_place, stored, wanted[a:b], places[a:b], out) for a, b in spans), n_threads)
        except LabelError:
            variable.read(lo, hi)  # names the logical row
            raise
        starts = range(0, hi - lo, part)
        written += _run_here((partial(write_rows, array, lo + at, out[at : at + part]) for at in starts), n_threads)
        progress(out.nbytes)
    return written


def _place(stored: Variable, wanted: Array, places: Array, out: Array) -> None:
    """Read the span of stored rows in which the wanted ones lie, and put these in their places."""
    first, last = int(wanted[0]), int(wanted[-1]) + 1
    space = _workspace() or Workspace()
    rows = space.array("rows", (last - first, *stored.row_shape), stored.dtype)
    stored.read_into(first, last, rows)
    wanted = wanted - first
    everything = len(wanted) == len(rows) and bool((wanted == np.arange(len(rows))).all())
    out[places] = rows if everything else rows[wanted]


def _exchange(
    variable: Variable, array: StoredArray, plan: Plan, progress: Callable[[int], object]
) -> list[checksums.Written]:
    spill = open_spill(scratch_of(variable), token_of(variable, plan.map_rows, plan.bucket_rows))
    exchange = Exchange(variable, plan.map_rows, plan.bucket_rows, str(spill.path), (0, plan.n_buckets))
    share = variable.nbytes // max(1, plan.n_maps)
    _first_pass(exchange, plan, lambda: progress(share))
    share = variable.nbytes // max(1, plan.n_buckets)
    buckets = (partial(collect_and_write, exchange, number, array) for number in range(plan.n_buckets))
    written = _run(buckets, plan.workers, lambda: progress(share))
    spill.remove()
    return written


def _first_pass(exchange: Exchange, plan: Plan, done: Callable[[], object]) -> None:
    if not is_invertible(exchange.variable.order):
        _run((partial(request, exchange, number) for number in range(plan.n_buckets)), plan.workers, lambda: None)
    _run((partial(scatter_here, exchange, number) for number in range(plan.n_maps)), plan.workers, done)


class _Local(threading.local):
    workspace: Workspace | None = None


_local = _Local()


def _workspace() -> Workspace | None:
    """Return the memory of this thread, in a thread of ours; a worker's threads outlive the rewrite."""
    if not threading.current_thread().name.startswith(THREADS):
        return None
    if _local.workspace is None:
        _local.workspace = Workspace()
    return _local.workspace


def scatter_here(exchange: Exchange, number: int) -> None:
    """Do one task of the first pass."""
    scatter(exchange, number, workspace=_workspace())


def collect_and_write(exchange: Exchange, number: int, array: StoredArray) -> checksums.Written:
    """Write one bucket to its place in the new array; what a task of the second pass does."""
    return write_rows(array, number * exchange.bucket_rows, collect(exchange, number, workspace=_workspace()))


def _run(tasks: Iterator[Callable[[], T]], n_threads: int, done: Callable[[], object]) -> list[T]:
    """Run tasks on the active cluster, else in threads; the first error stops what has not begun.

    What they return is small, and comes in no order.
    """
    client = active_client()
    results: list[T] = []
    if client is not None:
        from distributed import as_completed  # optional, deferred on purpose

        while window := list(islice(tasks, WINDOW)):
            futures = [client.submit(task, pure=False, retries=RETRIES) for task in window]
            try:
                for future in as_completed(futures):  # type: ignore[no-untyped-call]
                    results.append(future.result())
                    done()
            finally:
                client.cancel(futures)
        return results
    return _run_here(tasks, n_threads, done)


def _run_here(tasks: Iterator[Callable[[], T]], n_threads: int, done: Callable[[], object] = lambda: None) -> list[T]:
    """Run tasks in threads of this process; the first error stops what has not begun."""
    results: list[T] = []
    with ThreadPoolExecutor(n_threads, thread_name_prefix=THREADS) as pool:
        running: set[Future[T]] = set()
        try:
            for task in tasks:
                running.add(pool.submit(task))
                if len(running) > n_threads:
                    running = _wait_for_one(running, results, done)
            while running:
                running = _wait_for_one(running, results, done)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return results


def _wait_for_one(running: set[Future[T]], results: list[T], done: Callable[[], object]) -> set[Future[T]]:
    finished, rest = wait(running, return_when=FIRST_COMPLETED)
    for future in finished:
        results.append(future.result())
        done()
    return rest
