"""Threads: a small pool whose users may be interrupted at any time; knows nothing of its tasks."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, Generic, TypeAlias, TypeVar

__all__ = ["Pending", "ThreadPool"]

T = TypeVar("T")
_Tasks: TypeAlias = "SimpleQueue[tuple[Callable[[], Any], Pending[Any]] | None]"


class Pending(Generic[T]):
    """The future result of a task."""

    def __init__(self) -> None:
        self._outcome: tuple[T | None, BaseException | None] | None = None
        self._arrived: SimpleQueue[None] = SimpleQueue()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Do not begin the task; if it runs, it continues."""
        self._is_cancelled = True

    def done(self) -> bool:
        """Return whether :meth:`result` need not wait."""
        return self._outcome is not None

    def wait(self) -> None:
        """Wait until the task has returned or raised; only one thread may, also again after an interrupt."""
        if self._outcome is None:  # an interrupt may lose the item of the queue, which is not needed
            self._arrived.get()

    def result(self) -> T:
        """Return what the task returns, or raise what it raises."""
        self.wait()
        assert self._outcome is not None
        value, error = self._outcome
        if error is not None:
            try:
                raise error
            finally:
                del error  # it refers to this frame
        return value  # type: ignore[return-value]

    def _run(self, task: Callable[[], T]) -> None:
        arrived = self._arrived
        if self._is_cancelled:
            self._outcome = None, CancelledError()
        else:
            try:
                self._outcome = task(), None
            except BaseException as err:  # noqa: BLE001 (it is raised where the result is asked for)
                self._outcome = None, err
        del self, task  # an error refers to this frame: without this, they would form a cycle
        arrived.put(None)


class ThreadPool:
    """Threads that run tasks in order of submission.

    With `concurrent.futures`, a caller that waits must not be interrupted (Ctrl-C): an interrupt just after the caller
    has taken a lock leaves it taken, and the thread with the result waits for it forever, as does any caller that then
    waits for the thread. Here both meet in queues written in C, which an interrupt leaves intact.

    Parameters
    ----------
    n_threads : int
        Most threads; one starts with a task for which no other is free, since each keeps memory for its work.
    name : str
        Prefix of their names.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self._n_threads = n_threads
        self._name = name
        self._tasks: _Tasks = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._idle: SimpleQueue[None] = SimpleQueue()
        """An item for each thread that has ended a task, taken by who submits the next one."""
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, task: Callable[[], T]) -> Pending[T]:
        """Submit a task."""
        pending: Pending[T] = Pending()
        try:
            self._idle.get_nowait()
        except Empty:
            self._start()
        self._tasks.put((task, pending))
        if self._is_closed:
            self._cancel_all()
        return pending

    def _start(self) -> None:
        """Start a thread, unless there are as many as there may be."""
        if len(self._threads) < self._n_threads:
            with self._lock:
                if len(self._threads) < self._n_threads:
                    name = f"{self._name}_{len(self._threads)}"
                    thread = threading.Thread(target=_work, args=(self._tasks, self._idle), name=name, daemon=True)
                    self._threads.append(thread)
                    thread.start()

    def run(self, tasks: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
        """Yield the results of tasks, as they finish; at most ``ahead`` run or wait while one result is consumed."""
        finished: SimpleQueue[Pending[T]] = SimpleQueue()

        def run(task: Callable[[], T]) -> None:
            pending: Pending[T] = Pending()
            pending._run(task)
            finished.put(pending)

        n_running = 0
        for task in tasks:
            self.submit(partial(run, task))
            n_running += 1
            if n_running > ahead:
                n_running -= 1
                yield finished.get().result()
        for _ in range(n_running):
            yield finished.get().result()

    def close(self, *, wait: bool = True) -> None:
        """Begin no more tasks, and wait for running ones; waiting for any other raises CancelledError."""
        self._is_closed = True  # first, so that a later task is cancelled by its submitter
        self._cancel_all()
        for _ in self._threads:
            self._tasks.put(None)
        # a loop that was left is closed when the interpreter ends, and by then its threads are stopped for good
        if wait and not sys.is_finalizing():
            for thread in self._threads:
                if thread.ident is not None:  # its start was not interrupted
                    thread.join()

    def _cancel_all(self) -> None:
        n_ends = 0
        with contextlib.suppress(Empty):
            while True:
                if (found := self._tasks.get_nowait()) is None:
                    n_ends += 1
                    continue
                task, pending = found
                pending.cancel()
                pending._run(task)
        for _ in range(n_ends):
            self._tasks.put(None)

    def __del__(self) -> None:
        for _ in self._threads:
            self._tasks.put(None)


def _work(tasks: _Tasks, idle: SimpleQueue[None]) -> None:
    """Run tasks until the pool is closed."""
    while (found := tasks.get()) is not None:
        task, pending = found
        del found
        pending._run(task)
        idle.put(None)
        del task, pending  # so that their memory is released while this waits
