"""Stream loads: reads the rows of a stream's epochs into buffers, ahead of the batches; knows no batch's form.

========  =====================================================  ====================================
source    when                                                   reads
========  =====================================================  ====================================
spans     rows in order, or in blocks, that lie in runs          each chunk once in a load
memory    any order of rows that fit the budget                  the phase once, for all epochs
exchange  any order of more rows, see `stream_spills`            the phase once an epoch, into spill,
                                                                 while the epoch before streams
gather    any order of more text than fits                       each chunk for many loads
========  =====================================================  ====================================

A source yields tasks, in order. Each runs in a thread and returns one `Ready`; at most ``prefetch`` of them run or
wait while one is consumed, which bounds the memory.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from types import TracebackType
from typing import Any, Self, TypeAlias, TypeVar

import numpy as np

from storegate_engine.arrays import in_own_thread
from storegate_engine.budget import ROW_OVERHEAD_NBYTES, require, reserved_nbytes
from storegate_engine.clusters import active_client, thread_given_back
from storegate_engine.exchange import COPIES, moved_row_nbytes
from storegate_engine.orders import Range, RowOrder
from storegate_engine.streams.blocks import Blocks
from storegate_engine.streams.epochs import Epochs, Load, Share
from storegate_engine.table import Variable

__all__ = [
    "BlockSource",
    "EpochOrder",
    "GatherSource",
    "MemorySource",
    "Ready",
    "RunSource",
    "Source",
    "Threads",
    "ahead",
    "copied_nbytes",
    "free_one",
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
FETCH_NBYTES = 64 * 2**10
"""Bytes of a span, on average, from which on the system is told about it beforehand."""
COPY_NBYTES = 2**20
"""Small batches are copied together, up to so many bytes: threads hand Python's lock over at every copy."""
RUN_NBYTES = 16 * 2**20
"""Rows of one load that are read in order."""
ORDER_NBYTES = 5
"""Bytes of each row of a round while its order is worked out, and of each row that waits in it (measured)."""
MOST_WAITING = 1024
"""Tasks that are handed to the reading threads at a time."""
MEMORY_ROWS = 2**18
"""Rows in memory whose order is worked out at a time."""


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
        self.loads = ThreadPoolExecutor(loads, thread_name_prefix="storegate-stream")
        self.reads = ThreadPoolExecutor(READERS, thread_name_prefix="storegate-stream-read")
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
        self.reads.shutdown(wait=False, cancel_futures=True)  # first: loads wait for them
        self.loads.shutdown(wait=True, cancel_futures=True)
        self.reads.shutdown(wait=True)


class Source(ABC):
    """Where the loads of a stream come from."""

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


def ahead(tasks: Iterator[Callable[[], Ready]], pool: ThreadPoolExecutor, prefetch: int) -> Iterator[Ready]:
    """Yield what tasks return, in order; ``prefetch`` of them run or wait while one result is consumed."""
    running: deque[Future[Ready]] = deque()
    for task in tasks:
        running.append(pool.submit(task))
        if len(running) > prefetch:
            yield _waited_for(running.popleft())
    while running:
        yield _waited_for(running.popleft())


def _waited_for(running: Future[Ready]) -> Ready:
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


# ------------------------------------------------------------------------------
# Rows that lie in runs
# ------------------------------------------------------------------------------


class _SpanSource(Source):
    """Reads the spans of loads by many threads into one buffer for every variable, which later loads use again."""

    def __init__(self, variables: Sequence[Variable], load_rows: int, prefetch: int) -> None:
        self.variables = variables
        self.load_rows = load_rows
        self.prefetch = prefetch
        self._free: deque[list[Array]] = deque()

    def __getstate__(self) -> dict[str, Any]:
        """Travel without memory."""
        return {**self.__dict__, "_free": deque()}

    def close(self, spill_from: int | None = None) -> None:
        """Let go of the memory, which later epochs would use again."""
        self._free.clear()

    @property
    def load_nbytes(self) -> int:
        """Bytes of one load, and of the numbers of its rows."""
        return self.load_rows * (row_nbytes_of(self.variables) + np.dtype(np.intp).itemsize)

    @property
    def projected_nbytes(self) -> int:
        """Every load that is ready or on its way, the planning of some, and what the reading threads hold."""
        reading = reading_nbytes(self.variables, self.load_rows)
        return (1 + self.prefetch) * self.load_nbytes + self.planning_nbytes + reading

    @property
    def planning_nbytes(self) -> int:
        """Working out which rows a load reads."""
        return self.load_rows * ROW_OVERHEAD_NBYTES

    def read(self, plan: Callable[[], Load], threads: Threads) -> Ready:
        """Make one load."""
        load = plan()
        buffers = free_one(self._free, self._buffers)
        arrays = [buffer[: load.n_rows] for buffer in buffers]
        threads.run(self._parts(load, arrays), partial(self._fetch, load))
        return Ready(arrays, load.rows, load.cuts.tolist(), load.closed, partial(self._free.append, buffers))

    def _fetch(self, load: Load) -> None:
        """Have the disk work on all of a load at once, where its spans are long enough to be worth it."""
        for variable in self.variables:
            if load.n_rows * variable.row_nbytes >= FETCH_NBYTES * len(load.spans):
                variable.will_read(load.spans)

    def _buffers(self) -> list[Array]:
        return [np.empty((self.load_rows, *variable.row_shape), variable.dtype) for variable in self.variables]

    def _parts(self, load: Load, arrays: list[Array]) -> Iterator[Callable[[], object]]:
        for variable, array in zip(self.variables, arrays, strict=True):
            yield from _reads(variable, load.spans, array)


def _reads(variable: Variable, spans: Sequence[tuple[int, int]], out: Array) -> Iterator[Callable[[], object]]:
    """Yield what reads spans of rows that lie in runs, end to end into ``out``, some at a time."""
    done = 0
    for part in _in_parts(spans, max(1, PART_NBYTES // max(1, variable.row_nbytes))):
        n_rows = sum(stop - start for start, stop in part)
        yield partial(_read_part, variable, part, out[done : done + n_rows])
        done += n_rows


def _in_parts(spans: Sequence[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    """Yield spans in lists of at most so many rows; longer spans are cut."""
    part: list[tuple[int, int]] = []
    room = most
    for start, stop in spans:
        for lo in range(start, stop, most):
            hi = min(lo + most, stop)
            if hi - lo > room:
                yield part
                part, room = [], most
            part.append((lo, hi))
            room -= hi - lo
    if part:
        yield part


def _read_part(variable: Variable, spans: Sequence[tuple[int, int]], out: Array) -> None:
    """Read spans in this thread, beside others of ours."""
    with in_own_thread():
        variable.read_spans(spans, out)


class BlockSource(_SpanSource):
    """Rounds of blocks: each is one load, or several where a whole one does not fit, which read its chunks again."""

    def __init__(self, variables: Sequence[Variable], blocks: Blocks, budget_nbytes: int, prefetch: int) -> None:
        super().__init__(variables, blocks.share_rows, prefetch)
        self.blocks = blocks
        self.parts = 1
        epochs = blocks.epochs
        step_rows = max(1, -(-epochs.batch_rows // epochs.world))
        n_steps = -(-blocks.share_rows // step_rows)
        limit = budget_nbytes - reserved_nbytes(budget_nbytes)
        while self.projected_nbytes > limit and self.parts < n_steps:
            self.parts = min(n_steps, self.parts + max(1, self.parts // 4))
            self.load_rows = min(blocks.share_rows, -(-n_steps // self.parts) * step_rows)
        require(
            reserved_nbytes(budget_nbytes) + self.projected_nbytes,
            budget_nbytes,
            what=f"a block shuffle with {1 + prefetch} buffers of {blocks.buffer_blocks} blocks of {blocks.block_rows} "
            f"rows, read in parts of one batch of {epochs.batch_rows} rows,",
            remedy="raise budget= (or storegate.memory-limit), or lower prefetch=, the batch size or buffer_blocks=; "
            "the latter is another order of the rows",
        )

    @property
    def planning_nbytes(self) -> int:
        """The order of a round, which is worked out whole, and which of its rows are this rank's."""
        n_rows = self.blocks.share_rows + (self.blocks.round_rows if self.blocks.epochs.world > 1 else 0)
        return n_rows * ORDER_NBYTES

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for each load."""
        for load in self.blocks.loads(epoch, step):
            plan = partial(self.blocks.load, *load)
            if self.parts == 1:
                yield partial(self.read, plan, threads)
            else:
                for part in range(self.parts):
                    yield partial(self._read_part, plan, part)

    def _read_part(self, plan: Callable[[], Load], part: int) -> Ready:
        """Read the rows of some batches of a round, in their order."""
        load = plan()
        n_steps = len(load.cuts) - 1
        first, last = n_steps * part // self.parts, n_steps * (part + 1) // self.parts
        cuts = load.cuts[first : last + 1]
        rows = load.logical(int(cuts[0]), int(cuts[-1]))
        spare = reading_nbytes(self.variables, len(rows))
        arrays = [variable.take(rows, spare_nbytes=spare) for variable in self.variables]
        return Ready(arrays, None, (cuts - cuts[0]).tolist(), load.closed or last < n_steps)


class RunSource(_SpanSource):
    """Steps of rows in order, some at a time."""

    def __init__(self, variables: Sequence[Variable], epochs: Epochs, budget_nbytes: int, prefetch: int) -> None:
        self.share = Share(Range(0, epochs.n_rows), epochs)
        row_nbytes = row_nbytes_of(variables) + ROW_OVERHEAD_NBYTES
        free = (budget_nbytes - reserved_nbytes(budget_nbytes)) // (2 * (2 + prefetch))
        fitting = min(RUN_NBYTES, free) // row_nbytes // max(1, self.share.step_rows)
        self.steps = max(1, fitting)
        longest = max(self.share.step_rows, min(len(self.share), self.steps * self.share.step_rows))
        super().__init__(variables, max(1, longest), prefetch)
        require(
            reserved_nbytes(budget_nbytes) + self.projected_nbytes,
            budget_nbytes,
            what=f"reading batches of {epochs.batch_rows} rows",
            remedy="raise budget= (or storegate.memory-limit), or lower prefetch= or the batch size",
        )

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for every few steps."""
        for first in range(step, self.share.epochs.n_steps, self.steps):
            yield partial(self.read, partial(self._load, first), threads)

    def _load(self, first: int) -> Load:
        steps = range(first, min(first + self.steps, self.share.epochs.n_steps) + 1)
        cuts = np.array([self.share.start(step) for step in steps])
        runs = self.share.runs(int(cuts[0]), int(cuts[-1]))
        assert runs is not None
        return Load(tuple(runs), np.arange(cuts[-1] - cuts[0]), cuts - cuts[0])


class GatherSource(Source):
    """Any order of rows that neither fit the memory nor can be spilled, as variable-length text: picked step by step.

    Every chunk is read for each load that wants a row of it, so that an epoch reads the phase many times.
    """

    def __init__(
        self, variables: Sequence[Variable], epochs: Epochs, order: EpochOrder, budget_nbytes: int, prefetch: int
    ) -> None:
        self.variables = variables
        self.epochs = epochs
        self.order = order
        self.prefetch = prefetch
        self.step_rows = max(1, -(-epochs.batch_rows // epochs.world))
        self.row_nbytes = sum(moved_row_nbytes(variable) for variable in variables) + ROW_OVERHEAD_NBYTES
        free = budget_nbytes - reserved_nbytes(budget_nbytes) - copied_nbytes(variables, epochs)
        self.steps = max(1, int(free / (2 + prefetch) / self.row_nbytes) // self.step_rows)
        require(
            reserved_nbytes(budget_nbytes) + self.projected_nbytes,
            budget_nbytes,
            what=f"picking batches of {epochs.batch_rows} rows",
            remedy="raise budget= (or storegate.memory-limit), or lower prefetch= or the batch size",
        )

    @property
    def projected_nbytes(self) -> int:
        """The loads that are ready, and the one that is read."""
        return (2 + self.prefetch) * min(self.epochs.n_rows, self.steps * self.step_rows) * self.row_nbytes

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for every few steps."""
        share = Share(self.order(Range(0, self.epochs.n_rows), epoch), self.epochs)
        for first in range(step, self.epochs.n_steps, self.steps):
            yield partial(self._pick, share, first, min(first + self.steps, self.epochs.n_steps))

    def _pick(self, share: Share, first: int, last: int) -> Ready:
        cuts = np.array([share.start(step) for step in range(first, last + 1)])
        rows = share.rows(int(cuts[0]), int(cuts[-1]))
        spare = max(1, len(rows) * self.row_nbytes // 2)
        return Ready(
            [variable.take(rows, spare_nbytes=spare) for variable in self.variables], None, (cuts - cuts[0]).tolist()
        )


# ------------------------------------------------------------------------------
# Rows in memory
# ------------------------------------------------------------------------------


class MemorySource(Source):
    """All rows of the phase in memory, read once and kept for all epochs."""

    def __init__(self, variables: Sequence[Variable], epochs: Epochs, order: EpochOrder) -> None:
        self.variables = variables
        self.epochs = epochs
        self.order = order
        self._rows: list[Array] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the rows."""
        return {**self.__dict__, "_rows": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the rows again on first use."""
        self.__dict__.update({**state, "_lock": threading.Lock()})

    @property
    def projected_nbytes(self) -> int:
        """The rows, and the order of some of them."""
        rows = self.epochs.n_rows * row_nbytes_of(self.variables)
        reading = 2 * reading_nbytes(self.variables, self.epochs.n_rows)  # a gather holds windows, and rows of them
        index = int(self.epochs.n_rows * COPIES * ROW_OVERHEAD_NBYTES)  # a gather's sorting, or a drawn epoch's list
        return rows + reading + index

    def close(self, spill_from: int | None = None) -> None:
        """Let go of the rows."""
        self._rows = None

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for every few steps, whose rows' order it works out."""
        share = Share(self.order(Range(0, self.epochs.n_rows), epoch), self.epochs)
        n_steps = max(1, MEMORY_ROWS // max(1, share.step_rows))
        for first in range(step, self.epochs.n_steps, n_steps):
            yield partial(self._ready, share, first, min(first + n_steps, self.epochs.n_steps), threads)

    def _ready(self, share: Share, first: int, last: int, threads: Threads) -> Ready:
        cuts = np.array([share.start(step) for step in range(first, last + 1)])
        return Ready(self._read(threads), share.rows(int(cuts[0]), int(cuts[-1])), (cuts - cuts[0]).tolist())

    def _read(self, threads: Threads) -> list[Array]:
        with self._lock:
            if self._rows is None:
                arrays = [np.empty(variable.shape, variable.dtype) for variable in self.variables]
                threads.run(self._parts(arrays))
                self._rows = arrays
            return self._rows

    def _parts(self, arrays: list[Array]) -> Iterator[Callable[[], object]]:
        for variable, array in zip(self.variables, arrays, strict=True):
            if variable.order.runs(0, len(variable)) is None:
                yield partial(variable.read_into, 0, len(variable), array)
            else:
                yield from _reads(variable, [(0, len(variable))], array)
