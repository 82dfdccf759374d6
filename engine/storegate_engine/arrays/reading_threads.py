"""Reading threads: a pool for files and one for servers, per process; their tasks never wait for one another."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from functools import partial
from itertools import islice
from typing import TypeVar

from storegate_engine.threads import Pending, ThreadPool

__all__ = ["FETCHED_NBYTES", "N_CORES", "fetched", "fetching_until", "require_wanted", "run_fetches", "run_tasks"]

T = TypeVar("T")

N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
"""Number of cores that this process may use, and of threads that read."""
N_FETCHES = 96
"""Most requests to servers that are under way; their threads wait most of the time."""
FETCHED_NBYTES = 64 * 2**20
"""Most memory of these requests, over all reads of this process."""
_lock = threading.Lock()
_thread = threading.local()
"""``reads``: whether this thread is one of the pool's, in a task; ``stopping``: see `fetching_until`."""

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


@contextlib.contextmanager
def fetching_until(stopping: threading.Event) -> Iterator[None]:
    """Let this thread wait for servers only until an event is set; from then on its reads raise CancelledError."""
    _thread.stopping = stopping
    try:
        yield
    finally:
        _thread.stopping = None


def require_wanted() -> None:
    """Raise CancelledError if nobody wants any more what this thread fetches."""
    stopping: threading.Event | None = getattr(_thread, "stopping", None)
    if stopping is not None and stopping.is_set():
        raise CancelledError


def _run(task: Callable[[], None], failed: threading.Event, stopping: threading.Event | None = None) -> None:
    if failed.is_set():
        return
    _thread.reads, _thread.stopping = True, stopping
    try:
        require_wanted()
        task()
    except BaseException:
        failed.set()
        raise
    finally:
        _thread.reads, _thread.stopping = False, None


class _Room:
    """The memory of the requests under way: a thread that begins one waits until there is room for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._nbytes = 0

    def run(self, nbytes: int, task: Callable[[], None]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._nbytes or self._nbytes + nbytes <= FETCHED_NBYTES)
            self._nbytes += nbytes
        try:
            task()
        finally:
            with self._changed:
                self._nbytes -= nbytes
                self._changed.notify_all()


_room = _Room()
_fetching: ThreadPool | None = None


def _fetch_pool() -> ThreadPool:
    global _fetching
    with _lock:
        if _fetching is None:
            _fetching = ThreadPool(N_FETCHES, "storegate-fetch")
            # a thread within a library of Rust must not be stopped where it is, as the interpreter's end would
            atexit.register(_fetching.close)
    return _fetching


def run_fetches(tasks: Iterable[tuple[int, Callable[[], None]]]) -> None:
    """Run tasks that wait for a server, each with the memory that it takes, in threads; a single one in this thread.

    Tasks are made as others end. After an error, no more are begun.
    """
    waiting = iter(tasks)
    first = list(islice(waiting, 2))
    if len(first) == 1:
        first[0][1]()
        return
    pool, failed, stopping = _fetch_pool(), threading.Event(), getattr(_thread, "stopping", None)

    def begun(nbytes: int, task: Callable[[], None]) -> Pending[None]:
        return pool.submit(partial(_room.run, nbytes, partial(_run, task, failed, stopping)))

    running = deque(begun(*each) for each in first)
    try:
        for each in waiting:
            running.append(begun(*each))
            if len(running) >= N_FETCHES:
                running[0].result()
                running.popleft()
        for pending in running:
            pending.result()
    finally:  # as above
        failed.set()
        for pending in running:
            pending.wait()
        running.clear()


def fetched(tasks: Sequence[Callable[[], T]]) -> Iterator[T]:
    """Yield the results of tasks that wait for a server, in order, while the next ones run in threads."""
    if len(tasks) == 1:
        yield tasks[0]()
        return
    pool = _fetch_pool()
    waiting = iter(tasks)
    running = deque(pool.submit(task) for task in islice(waiting, N_FETCHES))
    try:
        while running:
            yield running.popleft().result()
            running.extend(pool.submit(task) for task in islice(waiting, 1))
    finally:
        for pending in running:
            pending.cancel()


def _after_fork_in_child() -> None:
    global _pool, _fetching, _lock, _room
    _pool, _fetching, _lock, _room = None, None, threading.Lock(), _Room()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
