"""Reading threads: one pool per process, whose tasks read and never wait for one another."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial

from storegate_engine.threads import ThreadPool

__all__ = ["N_CORES", "run_tasks"]

N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Number of cores that this process may use, and of threads that read."""
_lock = threading.Lock()
_thread = threading.local()
"""``reads``: whether this thread is one of the pool's, in a task."""

_pool: ThreadPool | None = None


def run_tasks(tasks: Sequence[Callable[[], None]], *, here: bool = False) -> None:
    """Run tasks in threads, or in this one (also a single task); after an error, waiting tasks are not begun.

    Tasks of a task run in its thread: were they handed to the pool, all of its threads could wait for tasks that none
    is left to run. So it is with rows picked through a list that is itself read from storage.
    """
    if here or len(tasks) == 1 or getattr(_thread, "reads", False):
        for task in tasks:
            task()
        return
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPool(N_CORES, "storegate-read")
    failed = threading.Event()
    running = [_pool.submit(partial(_run, task, failed)) for task in tasks]
    try:
        for pending in running:
            pending.result()
    finally:  # a raised error refers to this frame, which would keep all errors and what they refer to
        failed.set()
        for pending in running:
            pending.wait()  # it writes to the caller's memory
        del pending, running


def _run(task: Callable[[], None], failed: threading.Event) -> None:
    if failed.is_set():
        return
    _thread.reads = True
    try:
        task()
    except BaseException:
        failed.set()
        raise
    finally:
        _thread.reads = False


def _after_fork_in_child() -> None:
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
