"""Tasks: small functions run in threads of this process, or on the active dask cluster."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from itertools import islice
from typing import TypeVar

from storegate_engine.buffers import Workspace
from storegate_engine.clusters import active_client, asking
from storegate_engine.threads import ThreadPool

__all__ = ["run", "workspace"]

T = TypeVar("T")

THREADS = "storegate-task"
WINDOW = 10_000
"""Tasks handed to a scheduler at a time."""
RETRIES = 3
"""Number of retries of a task that failed with its worker."""


def run(
    tasks: Iterator[Callable[[], T]], n_threads: int, done: Callable[[], object] = lambda: None, *, here: bool = False
) -> list[T]:
    """Run tasks on the active cluster, or in threads (always if ``here``); an error stops tasks that have not begun.

    At most ``n_threads`` tasks run at a time on a worker, or in this process, as planned. Their results are small, and
    come in any order. In a task of a worker, its thread is given back meanwhile.

    Raises
    ------
    ClusterError
        The cluster was closed, or its scheduler was lost, before all tasks were done.
    """
    client = None if here else active_client()
    results: list[T] = []
    if client is not None:
        from distributed import as_completed  # optional, deferred on purpose

        while window := list(islice(tasks, WINDOW)):
            with asking(client):
                futures = [client.submit(in_turn, task, n_threads, pure=False, retries=RETRIES) for task in window]
                try:
                    for future in as_completed(futures):  # type: ignore[no-untyped-call]
                        results.append(future.result())
                        done()
                finally:
                    with contextlib.suppress(Exception):  # the cluster is gone: the earlier error says why
                        client.cancel(futures)
        return results
    return _run_here(tasks, n_threads, done)


_turns: dict[tuple[str, int], threading.BoundedSemaphore] = {}
_turns_lock = threading.Lock()


def in_turn(task: Callable[[], T], n_threads: int) -> T:
    """Run a task on a worker, which may have more threads than the plan allows."""
    from distributed import get_worker  # optional, deferred on purpose

    with _turns_lock:
        turns = _turns.setdefault((get_worker().address, n_threads), threading.BoundedSemaphore(n_threads))
    with turns:
        return task()


def _run_here(tasks: Iterator[Callable[[], T]], n_threads: int, done: Callable[[], object] = lambda: None) -> list[T]:
    """Run tasks in threads of this process; the first error stops tasks that have not begun."""
    pool = ThreadPool(n_threads, THREADS)
    results: list[T] = []
    try:
        for result in pool.run(tasks, n_threads):
            results.append(result)
            done()
    finally:
        pool.close()
    return results


class _Local(threading.local):
    workspace: Workspace | None = None


_local = _Local()


def workspace() -> Workspace:
    """Return the memory of this thread if it is one of ours, else new memory: a worker's threads outlive a task."""
    if not threading.current_thread().name.startswith(THREADS):
        return Workspace()
    if _local.workspace is None:
        _local.workspace = Workspace()
    return _local.workspace
