"""Span loaders: rows stored in runs, in order or in blocks; each load reads a chunk once."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import Held
from storegate_engine.budget import ROW_OVERHEAD_NBYTES, require, reserved_nbytes
from storegate_engine.orders import Range
from storegate_engine.streams.blocks import Blocks
from storegate_engine.streams.epochs import Epochs, Load
from storegate_engine.streams.loaders import (
    Loader,
    Ready,
    Threads,
    are_remote,
    free_one,
    held_nbytes_of,
    part_nbytes_of,
    reading_nbytes,
)
from storegate_engine.streams.shares import Share
from storegate_engine.table import Variable, in_parts

__all__ = ["BlockLoader", "RunLoader", "reads_of"]

Array: TypeAlias = np.ndarray[Any, Any]

FETCH_NBYTES = 64 * 2**10
"""Mean bytes of a span from which the system is told in advance that it will be read."""
RUN_NBYTES = 16 * 2**20
"""Bytes of one load of rows in order."""
REMOTE_RUN_NBYTES = 64 * 2**20
"""Bytes of such a load from an object store."""
REMOTE_LOADS = 2
"""Such loads for each that is read ahead elsewhere: a server gives each request little, so that many are under way."""
FIRST_PARTS = 8
"""The first of them is so much smaller, and each next one twice as large: the first batch waits for all of it."""
FIRST_LOADS = 1
"""Such loads that begin with the first one, which would wait for more."""
ORDER_NBYTES = 5
"""Bytes per row of a round while its order is computed, and per row that waits in it (measured)."""


class _SpanLoader(Loader):
    """Reads the spans of loads with many threads into one buffer per variable, which later loads reuse."""

    def __init__(self, variables: Sequence[Variable], load_rows: int, prefetch: int) -> None:
        self.variables = variables
        self.load_rows = load_rows
        self.prefetch = prefetch
        self._free: deque[list[Any]] = deque()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without memory."""
        return {**self.__dict__, "_free": deque()}

    def close(self, spill_from: int | None = None) -> None:
        """Release the memory, which later epochs would reuse."""
        self._free.clear()

    @property
    def load_nbytes(self) -> int:
        """Bytes of one load, and of its row numbers."""
        return self.load_rows * (held_nbytes_of(self.variables) + np.dtype(np.intp).itemsize)

    @property
    def projected_nbytes(self) -> int:
        """The bytes of all loads that are ready or being made, of their plans, and of the reading threads."""
        reading = reading_nbytes(self.variables, self.load_rows, max(2, self.loads_at_once))
        return (1 + self.prefetch) * self.load_nbytes + self.planning_nbytes + reading

    @property
    def planning_nbytes(self) -> int:
        """Bytes for computing which rows a load reads."""
        return self.load_rows * ROW_OVERHEAD_NBYTES

    def read(self, plan: Callable[[], Load], threads: Threads) -> Ready:
        """Make one load."""
        load = plan()
        buffers = free_one(self._free, self._buffers)
        arrays = [
            variable.held(load.spans, buffer) if variable.is_overlapping else buffer[: load.n_rows]
            for variable, buffer in zip(self.variables, buffers, strict=True)
        ]
        threads.run(self._parts(load, arrays), partial(self._fetch, load))
        return Ready(arrays, load.rows, load.cuts.tolist(), load.closed, partial(self._free.append, buffers))

    def _fetch(self, load: Load) -> None:
        """Ask the disk for the whole load at once, if its spans are long enough."""
        for variable in self.variables:
            if load.n_rows * variable.row_nbytes >= FETCH_NBYTES * len(load.spans):
                variable.will_read(load.spans)

    def _buffers(self) -> list[Any]:
        """Return an array for the rows of each variable; for rows that are held together, a list of theirs."""
        return [
            [] if of.is_overlapping else np.empty((self.load_rows, *of.row_shape), of.dtype) for of in self.variables
        ]

    def _parts(self, load: Load, arrays: Sequence[Array | Held]) -> Iterator[Callable[[], object]]:
        for variable, array in zip(self.variables, arrays, strict=True):
            yield from reads_of(variable, load.spans, array)


def reads_of(variable: Variable, spans: Sequence[tuple[int, int]], out: Array | Held) -> Iterator[Callable[[], object]]:
    """Yield tasks that read spans of rows in runs, concatenated into ``out``."""
    if not isinstance(out, np.ndarray):
        for read in out.reads(max(1, part_nbytes_of(variable) // max(1, variable.held_row_nbytes))):
            yield partial(read, alone=True)
        return
    done = 0
    for part in in_parts(spans, max(1, part_nbytes_of(variable) // max(1, variable.row_nbytes))):
        n_rows = sum(stop - start for start, stop in part)
        yield partial(_read_part, variable, part, out[done : done + n_rows])
        done += n_rows


def _read_part(variable: Variable, spans: Sequence[tuple[int, int]], out: Array) -> None:
    """Read spans in this thread, while others of ours read, too."""
    variable.read_spans(spans, out, alone=True)


class BlockLoader(_SpanLoader):
    """Rounds of blocks: each is one load or, if it does not fit, several, which read its chunks again."""

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
            "a lower buffer_blocks= changes the order of the rows",
        )

    @property
    def planning_nbytes(self) -> int:
        """Bytes for the order of a round, which is computed as a whole, and for which rows are this rank's."""
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


class RunLoader(_SpanLoader):
    """Steps of rows in order, a few at a time."""

    def __init__(self, variables: Sequence[Variable], epochs: Epochs, budget_nbytes: int, prefetch: int) -> None:
        self.share = Share(Range(0, epochs.n_rows), epochs)
        row_nbytes = held_nbytes_of(variables) + ROW_OVERHEAD_NBYTES
        is_remote = are_remote(variables)
        free = (budget_nbytes - reserved_nbytes(budget_nbytes)) // (2 * (2 + is_remote + prefetch))
        fitting = (
            min(REMOTE_RUN_NBYTES if is_remote else RUN_NBYTES, free) // row_nbytes // max(1, self.share.step_rows)
        )
        self.steps = max(1, fitting)
        longest = max(self.share.step_rows, min(len(self.share), self.steps * self.share.step_rows))
        super().__init__(variables, max(1, longest), prefetch)
        if is_remote:
            self.prefetch = REMOTE_LOADS * prefetch
            while self.prefetch > prefetch and reserved_nbytes(budget_nbytes) + self.projected_nbytes > budget_nbytes:
                self.prefetch -= 1
        require(
            reserved_nbytes(budget_nbytes) + self.projected_nbytes,
            budget_nbytes,
            what=f"reading batches of {epochs.batch_rows} rows",
            remedy="raise budget= (or storegate.memory-limit), or lower prefetch= or the batch size",
        )

    @property
    def loads_at_once(self) -> int:
        """Loads made at the same time: from an object store all, also the one that is waited for."""
        return 1 + self.prefetch if are_remote(self.variables) else 1

    def n_ahead(self, epoch: int, prefetch: int) -> tuple[int, int | None]:
        """Return how many loads are made ahead: from an object store more, as the first ones come."""
        return self.prefetch, FIRST_LOADS if are_remote(self.variables) else None

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for every few steps; from an object store, which is waited for, for fewer at first."""
        n_steps = max(1, self.steps // FIRST_PARTS) if are_remote(self.variables) else self.steps
        while step < self.share.epochs.n_steps:
            yield partial(self.read, partial(self._load, step, n_steps), threads)
            step, n_steps = step + n_steps, min(2 * n_steps, self.steps)

    def _load(self, first: int, n_steps: int) -> Load:
        steps = range(first, min(first + n_steps, self.share.epochs.n_steps) + 1)
        cuts = np.array([self.share.start(step) for step in steps])
        runs = self.share.runs(int(cuts[0]), int(cuts[-1]))
        assert runs is not None
        return Load(tuple(runs), np.arange(cuts[-1] - cuts[0]), cuts - cuts[0])


class StoredFirst(Loader):
    """Epoch 0 in stored order, and later ones by another loader; memory is that of one at a time."""

    def __init__(self, first: RunLoader, later: Loader) -> None:
        self.variables = first.variables
        self._first, self._later = first, later

    def _of(self, epoch: int) -> Loader:
        return self._later if epoch else self._first

    @property
    def loads_at_once(self) -> int:
        """The larger number of both."""
        return max(self._first.loads_at_once, self._later.loads_at_once)

    @property
    def reads_at_once(self) -> int:
        """The larger number of both."""
        return max(self._first.reads_at_once, self._later.reads_at_once)

    @property
    def projected_nbytes(self) -> int:
        """The larger peak of both."""
        return max(self._first.projected_nbytes, self._later.projected_nbytes)

    def n_ahead(self, epoch: int, prefetch: int) -> tuple[int, int | None]:
        """Return what the loader of the epoch does."""
        return self._of(epoch).n_ahead(epoch, prefetch)

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Return the tasks of the loader of the epoch; what the first one kept is released for the next."""
        if epoch:
            self._first.close()
        return self._of(epoch).tasks(epoch, step, threads)

    def end(self, epoch: int) -> None:
        """End the epoch of its loader."""
        self._of(epoch).end(epoch)

    def close(self, spill_from: int | None = None) -> None:
        """Release what both keep."""
        self._first.close()
        self._later.close(spill_from)
