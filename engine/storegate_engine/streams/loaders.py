"""Loaders: read the rows of a stream's epochs into buffers, ahead of the batches; know no batch's form.

========  =====================================================  ====================================
loader    when                                                   reads
========  =====================================================  ====================================
spans     rows in order, or in blocks, that lie in runs          each chunk once in a load
memory    any order of rows that fit the budget                  the phase once, for all epochs
exchange  any order of more rows, see `spilled`                  the phase once an epoch, into spill,
                                                                 while the epoch before streams
gather    any order of more text than fits                       each chunk for many loads
========  =====================================================  ====================================

A loader yields tasks, in order. Each runs in a thread and returns one `Ready`; at most ``prefetch`` of them run or
wait while one is consumed, which bounds the memory.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np

from storegate_engine.clusters import active_client, thread_given_back
from storegate_engine.exchange import moved_row_nbytes
from storegate_engine.orders import RowOrder
from storegate_engine.streams.epochs import Epochs
from storegate_engine.table import Variable
from storegate_engine.threads import Pending, ThreadPool

__all__ = [
    "PART_NBYTES",
    "READERS",
    "EpochOrder",
    "Loader",
    "Ready",
    "Threads",
    "ahead",
    "copied_nbytes",
    "free_one",
    "reading_nbytes",
    "row_nbytes_of",
    "together",
]

Array: TypeAlias = np.ndarray[Any, Any]
EpochOrder: TypeAlias = Callable[[RowOrder, int], RowOrder]
"""Rows, and the number of an epoch, to these rows in the order of that epoch."""

READERS = 2
"""Threads that read the parts of a load: more of them wait for one another."""
PART_NBYTES = 4 * 2**20
"""Bytes of one variable that one thread reads at a time."""
COPY_NBYTES = 2**20
"""Small batches are copied together, up to so many bytes: threads hand Python's lock over at every copy."""
MOST_WAITING = 1024
"""Tasks that are handed to the reading threads at a time."""


@dataclass(slots=True, eq=False)
class Ready:
    """Rows in memory, and the batches that they make."""

    arrays: list[Array]
    """The rows of every variable."""
    rows: Array | None
    """Which of them the batches take, batch after batch; None takes them as they lie."""
    cuts: list[int]
    """Where each batch begins, and where the last one ends."""
    closed: bool = True
    """Whether the last batch ends here."""
    release: Callable[[], None] = lambda: None
    """Called when no batch is taken any more."""


class Threads:
    """The threads of one iteration; leaving the context ends them, whatever they were doing."""

    def __init__(self, loads: int) -> None:
        self.loads = ThreadPool(loads, "storegate-stream")
        self.reads = ThreadPool(READERS, "storegate-stream-read")
        self.stopping = threading.Event()

    def run(self, tasks: Iterator[Callable[[], object]], meanwhile: Callable[[], object] = lambda: None) -> None:
        """Run tasks in the reading threads, and wait; the first error is raised."""
        futures = deque(self.reads.submit(task) for task in islice(tasks, MOST_WAITING))
        try:
            meanwhile()
            while futures:
                futures.popleft().result()
                futures.extend(self.reads.submit(task) for task in islice(tasks, 1))
        finally:
            for future in futures:
                future.cancel()

    def __enter__(self) -> Self:
        """Start nothing: threads start with their first task."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads."""
        self.stopping.set()
        self.reads.close(wait=False)  # first: loads wait for them
        self.loads.close()
        self.reads.close()


class Loader(ABC):
    """Makes the loads of a stream."""

    loads_at_once = 1
    """Loads that are made at the same time: the first batch waits for one alone, and this one has all readers."""

    @property
    @abstractmethod
    def projected_nbytes(self) -> int:
        """The peak memory of reading, the batches in the consumer's hands not included."""

    @abstractmethod
    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield tasks that make the loads of an epoch from a step on, in order."""

    def end(self, epoch: int) -> None:  # noqa: B027 (most have nothing to do)
        """Make ready for the next epoch; called when all loads of this one were consumed."""

    def close(self, spill_from: int | None = None) -> None:  # noqa: B027
        """Let go of what is kept from one epoch to the next; leave the spill of this epoch and later ones behind."""


def ahead(tasks: Iterator[Callable[[], Ready]], pool: ThreadPool, prefetch: int) -> Iterator[Ready]:
    """Yield what tasks return, in order; ``prefetch`` of them run or wait while one result is consumed."""
    running: deque[Pending[Ready]] = deque()
    for task in tasks:
        running.append(pool.submit(task))
        if len(running) > prefetch:
            yield _waited_for(running.popleft())
    while running:
        yield _waited_for(running.popleft())


def _waited_for(running: Pending[Ready]) -> Ready:
    if running.done() or active_client() is None:
        return running.result()
    with thread_given_back():  # of a task on a worker: rows may lie on this very worker, and want its thread
        return running.result()


T = TypeVar("T")


def free_one(free: deque[T], make: Callable[[], T]) -> T:
    """Return memory that is touched already, or new one; threads meet here."""
    try:
        return free.popleft()
    except IndexError:
        return make()


def row_nbytes_of(variables: Sequence[Variable]) -> int:
    """Return the bytes of one row of all variables."""
    return sum(variable.row_nbytes for variable in variables)


def together(variables: Sequence[Variable]) -> int:
    """Return the rows that are copied at a time."""
    return max(1, COPY_NBYTES // max(1, row_nbytes_of(variables)))


def copied_nbytes(variables: Sequence[Variable], epochs: Epochs) -> int:
    """Return what the batches take that are copied together, and those before them."""
    batch_rows = -(-epochs.batch_rows // epochs.world)
    return 2 * max(batch_rows, min(together(variables), epochs.n_rows)) * row_nbytes_of(variables)


def reading_nbytes(variables: Sequence[Variable], n_rows: int) -> int:
    """Return what threads hold while they read so many rows: encoded or decoded chunks, and rows to transform."""
    chunk = max((piece.chunk_nbytes for variable in variables for piece in variable.pieces), default=0)
    moved = sum(moved_row_nbytes(variable) for variable in variables)
    return int(2 * min(READERS * PART_NBYTES * moved // row_nbytes_of(variables), n_rows * moved) + 2 * READERS * chunk)
