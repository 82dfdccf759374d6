"""Threads: a few of them, whose users may be interrupted at any moment; knows not what they do."""

from __future__ import annotations

import contextlib
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
    """What a task will return."""

    def __init__(self) -> None:
        self._outcome: tuple[T | None, BaseException | None] | None = None
        self._arrived: SimpleQueue[None] = SimpleQueue()
        self._is_cancelled = False

    def cancel(self) -> None:
        """Do not begin the task; one that runs goes on."""
        self._is_cancelled = True

    def done(self) -> bool:
        """Return whether :meth:`result` need not wait."""
        return self._outcome is not None

    def wait(self) -> None:
        """Wait until the task has returned or raised; one thread may, again after an interrupt."""
        if self._outcome is None:  # what is taken out of the queue may be lost to an interrupt, and is not needed
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
                del error  # it leads to this frame
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
        del self, task  # an error leads to this frame: what has it would stand in a circle with it
        arrived.put(None)


class ThreadPool:
    """Threads that run tasks in the order in which they come.

    Those of `concurrent.futures` cannot be waited for by somebody who may be interrupted (Ctrl-C): an interrupt that
    comes just when the waiter has taken a lock leaves it taken, and the thread that has the result waits for it for
    ever, as does who then waits for the thread. Here both meet in queues of C, which an interrupt leaves whole.

    Parameters
    ----------
    n_threads : int
        Threads; each starts with a task.
    name : str
        What their names begin with.
    """

    def __init__(self, n_threads: int, name: str) -> None:
        self._n_threads = n_threads
        self._name = name
        self._tasks: _Tasks = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._is_closed = False

    def submit(self, task: Callable[[], T]) -> Pending[T]:
        """Hand over a task."""
        pending: Pending[T] = Pending()
        self._tasks.put((task, pending))
        if len(self._threads) < self._n_threads:
            with self._lock:
                if len(self._threads) < self._n_threads:
                    name = f"{self._name}_{len(self._threads)}"
                    thread = threading.Thread(target=_work, args=(self._tasks,), name=name, daemon=True)
                    self._threads.append(thread)
                    thread.start()
        if self._is_closed:
            self._cancel_all()
        return pending

    def run(self, tasks: Iterable[Callable[[], T]], ahead: int) -> Iterator[T]:
        """Yield what tasks return, as they are done; at most ``ahead`` run or wait while one result is consumed."""
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
        """Begin no more tasks, and wait for those that run; who waits for the others gets a CancelledError."""
        self._is_closed = True  # first: a task that comes behind the others is cancelled by who hands it over
        self._cancel_all()
        for _ in self._threads:
            self._tasks.put(None)
        if wait:
            for thread in self._threads:
                if thread.ident is not None:  # who started it was not interrupted
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


def _work(tasks: _Tasks) -> None:
    """Run tasks until there is nobody any more who hands over some."""
    while (found := tasks.get()) is not None:
        task, pending = found
        del found
        pending._run(task)
        del task, pending  # what they hold goes while this waits
