"""Loaders: read the rows of a stream's epochs into buffers, ahead of the batches; do not know their form.

========  =====================================================  ====================================
loader    when                                                   reads
========  =====================================================  ====================================
spans     rows in order or in blocks, stored in runs             each chunk once per load
memory    any order of rows that fit in the budget               the phase once, for all epochs
exchange  any order of more rows, see `spilled`                  the phase once, or once per epoch, into
                                                                 a spill, while the epoch before streams;
                                                                 the first steps chunk by chunk
windows   any order of windows of more rows, see `copied`        the rows once, into a copy, and each window
                                                                 from there; the first steps chunk by chunk
gather    any order of more text than fits                       each chunk for many loads
========  =====================================================  ====================================

A loader yields tasks, in order. Each runs in a thread and returns one `Ready`; while one is consumed, at most
``prefetch`` of them run or wait, or twice as many small ones of an object store, which bounds the memory.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np

from storegate_engine.arrays import FETCHED_NBYTES, Held, fetching_until
from storegate_engine.clusters import active_client, thread_given_back
from storegate_engine.exchange import moved_row_nbytes
from storegate_engine.orders import RowOrder
from storegate_engine.streams.epochs import Epochs
from storegate_engine.streams.shares import Share
from storegate_engine.table import Variable
from storegate_engine.threads import Pending, ThreadPool

__all__ = [
    "MOST_WAITING",
    "READERS",
    "REMOTE_READERS",
    "EpochOrder",
    "Loader",
    "Ready",
    "Threads",
    "ahead",
    "are_remote",
    "copied_nbytes",
    "free_one",
    "held_nbytes_of",
    "part_nbytes_of",
    "picked",
    "reading_nbytes",
    "row_nbytes_of",
    "together",
]

Array: TypeAlias = np.ndarray[Any, Any]
T = TypeVar("T")
EpochOrder: TypeAlias = Callable[[RowOrder, int], RowOrder]
"""Returns rows in the order of an epoch, from the rows and the number of the epoch."""

READERS = 2
"""Threads that read the parts of a load; more of them would wait for one another."""
PART_NBYTES = 4 * 2**20
"""Bytes of one variable that one thread reads at a time."""
REMOTE_READERS = 16
"""Threads that wait for the parts of loads from an object store: each part has many requests under way."""
REMOTE_CHUNKS = 8
"""Chunks of an object store, encoded or decoded, in memory at the same time."""
REMOTE_PART_NBYTES = 64 * 2**20
"""Bytes of one variable that are read together from an object store."""
COPY_NBYTES = 2**20
"""Batches up to this many bytes are copied together: each copy hands Python's lock from thread to thread."""
MOST_WAITING = 1024
"""Tasks handed to the reading threads at a time."""


@dataclass(slots=True, eq=False)
class Ready:
    """Rows in memory, and their batches."""

    arrays: Sequence[Array | Held]
    """The rows of every variable."""
    rows: Array | None
    """Indices of the rows of the batches, batch after batch; None takes all rows in order."""
    cuts: list[int]
    """The first index of each batch, and the end of the last one."""
    closed: bool = True
    """Whether the last batch ends here."""
    release: Callable[[], None] = lambda: None
    """Called when all batches have been taken."""


class Threads:
    """The threads of one iteration; leaving the context ends them, whatever they do."""

    def __init__(self, loads: int, reads: int) -> None:
        self.stopping = threading.Event()
        self.loads = ThreadPool(loads, "storegate-stream")
        self.reads = ThreadPool(reads, "storegate-stream-read")

    def wanted(self, task: Callable[[], T]) -> Callable[[], T]:
        """Return a task that waits for servers only as long as the iteration lasts; not for functions of users."""
        return partial(_until, self.stopping, task)

    def run(
        self,
        tasks: Iterator[Callable[[], object]],
        meanwhile: Callable[[], object] = lambda: None,
        *,
        waiting: int = MOST_WAITING,
    ) -> None:
        """Run tasks in the reading threads, and wait; the first error is raised.

        Others get a thread in between if only a few tasks are ``waiting`` at a time.
        """
        futures = deque(self.reads.submit(self.wanted(task)) for task in islice(tasks, waiting))
        try:
            meanwhile()
            while futures:
                futures.popleft().result()
                futures.extend(self.reads.submit(self.wanted(task)) for task in islice(tasks, 1))
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

    variables: Sequence[Variable]
    """The rows."""

    @property
    def loads_at_once(self) -> int:
        """Loads made at the same time: the first batch waits for one load, which then has all readers.

        From an object store two: the requests of the second one begin before the last of the first are answered.
        """
        return 2 if are_remote(self.variables) else 1

    @property
    def reads_at_once(self) -> int:
        """Threads that read the parts of loads."""
        return REMOTE_READERS if are_remote(self.variables) else READERS

    @property
    @abstractmethod
    def projected_nbytes(self) -> int:
        """The peak memory of reading, without the batches in the consumer's hands."""

    def loads(self, epoch: int, step: int, threads: Threads, prefetch: int) -> Iterator[Ready]:
        """Yield the loads of an epoch, starting at a step, of which a few are made ahead, see `n_ahead`."""
        most, begin = self.n_ahead(epoch, prefetch)
        return ahead(map(threads.wanted, self.tasks(epoch, step, threads)), threads.loads, most, begin=begin)

    def n_ahead(self, epoch: int, prefetch: int) -> tuple[int, int | None]:
        """Return how many loads of an epoch are made ahead, and how many begin with the first one, see `ahead`."""
        return prefetch, None

    @abstractmethod
    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield tasks that make the loads of an epoch, in order, starting at a step."""

    def end(self, epoch: int) -> None:  # noqa: B027 (most have nothing to do)
        """Prepare the next epoch; called when all loads of this one were consumed."""

    def close(self, spill_from: int | None = None) -> None:  # noqa: B027
        """Release what is kept between epochs; leave the spills of epoch ``spill_from`` and later ones on disk."""


def ahead(
    tasks: Iterator[Callable[[], Ready]], pool: ThreadPool, prefetch: int, *, begin: int | None = None
) -> Iterator[Ready]:
    """Yield the results of tasks, in order; ``prefetch`` tasks run or wait while one result is consumed.

    If waiting for a task itself may take long, ``begin`` with fewer than that, and one more with every result.
    """
    running: deque[Pending[Ready]] = deque()
    most = prefetch if begin is None else min(begin, prefetch)
    for task in tasks:
        running.append(pool.submit(task))
        if len(running) > most:
            most = min(most + 1, prefetch)
            yield _waited_for(running.popleft())
    while running:
        yield _waited_for(running.popleft())


def picked(variables: Sequence[Variable], share: Share, first: int, last: int, spare_nbytes: int) -> Ready:
    """Return the rows of steps of a share, read where they are stored, with every chunk that holds one of them."""
    cuts = [share.start(step) for step in range(first, last + 1)]
    rows = share.rows(cuts[0], cuts[-1])
    arrays = [variable.take(rows, spare_nbytes=spare_nbytes) for variable in variables]
    return Ready(arrays, None, [cut - cuts[0] for cut in cuts])


def _waited_for(running: Pending[Ready]) -> Ready:
    if running.done() or active_client() is None:
        return running.result()
    with thread_given_back():  # of a task on a worker: rows may be on this worker, and need its thread
        return running.result()


def _until(stopping: threading.Event, task: Callable[[], T]) -> T:
    with fetching_until(stopping):
        return task()


def free_one(free: deque[T], make: Callable[[], T]) -> T:
    """Return free memory if there is some, else new memory; called by several threads."""
    try:
        return free.popleft()
    except IndexError:
        return make()


def row_nbytes_of(variables: Sequence[Variable]) -> int:
    """Return the bytes of one row of all variables."""
    return sum(variable.row_nbytes for variable in variables)


def held_nbytes_of(variables: Sequence[Variable]) -> int:
    """Return the bytes that one row of all variables takes in a loader's memory."""
    return sum(variable.held_row_nbytes for variable in variables)


def together(variables: Sequence[Variable]) -> int:
    """Return the number of rows that are copied at a time."""
    return max(1, COPY_NBYTES // max(1, row_nbytes_of(variables)))


def copied_nbytes(variables: Sequence[Variable], epochs: Epochs) -> int:
    """Return the bytes of the batches that are copied together, and of those before them."""
    batch_rows = -(-epochs.batch_rows // epochs.world)
    return 2 * max(batch_rows, min(together(variables), epochs.n_rows)) * row_nbytes_of(variables)


def reading_nbytes(variables: Sequence[Variable], n_rows: int, n_loads: int = 2) -> int:
    """Return the bytes that threads hold while they read rows: encoded or decoded chunks, and rows to transform.

    From an object store ``n_loads`` of so many rows are read at the same time.
    """
    chunk = max((piece.chunk_nbytes for variable in variables for piece in variable.pieces), default=0)
    moved = sum(moved_row_nbytes(variable) for variable in variables)
    if are_remote(variables):
        # with the requests, and what threads and allocators keep of these
        changed = sum(moved_row_nbytes(of) for of in variables if any(piece.transforms for piece in of.pieces))
        return 2 * min(FETCHED_NBYTES, 2 * n_rows * moved) + n_loads * n_rows * changed + REMOTE_CHUNKS * chunk
    return int(2 * min(READERS * PART_NBYTES * moved // row_nbytes_of(variables), n_rows * moved) + 2 * READERS * chunk)


def are_remote(variables: Sequence[Variable]) -> bool:
    """Return whether some rows are in an object store."""
    return any(variable.is_remote for variable in variables)


def part_nbytes_of(variable: Variable) -> int:
    """Return the bytes of a variable that one thread reads at a time."""
    return REMOTE_PART_NBYTES if variable.is_remote else PART_NBYTES
