"""Memory loaders: any order of rows that fit in the budget, or of text that does not, a few steps at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import Held
from storegate_engine.budget import ROW_OVERHEAD_NBYTES, require, reserved_nbytes
from storegate_engine.exchange import COPIES, moved_row_nbytes
from storegate_engine.orders import Range
from storegate_engine.streams.epochs import Epochs
from storegate_engine.streams.loaders import (
    EpochOrder,
    Loader,
    Ready,
    Threads,
    copied_nbytes,
    held_nbytes_of,
    picked,
    reading_nbytes,
)
from storegate_engine.streams.shares import Share
from storegate_engine.streams.span_loaders import reads_of
from storegate_engine.table import Variable

__all__ = ["GatherLoader", "MemoryLoader"]

Array: TypeAlias = np.ndarray[Any, Any]

MEMORY_ROWS = 2**18
"""Rows in memory whose order is computed at a time."""


class MemoryLoader(Loader):
    """All rows of the phase in memory, read once and kept for all epochs."""

    def __init__(self, variables: Sequence[Variable], epochs: Epochs, order: EpochOrder) -> None:
        self.variables = variables
        self.epochs = epochs
        self.order = order
        self._rows: Sequence[Array | Held] | None = None
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the rows."""
        return {**self.__dict__, "_rows": None, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the rows again on first use."""
        self.__dict__.update({**state, "_lock": threading.Lock()})

    @property
    def projected_nbytes(self) -> int:
        """The bytes of the rows, and of the order of some of them."""
        rows = self.epochs.n_rows * held_nbytes_of(self.variables)
        reading = 2 * reading_nbytes(self.variables, self.epochs.n_rows)  # a gather holds windows, and rows from them
        index = int(self.epochs.n_rows * COPIES * ROW_OVERHEAD_NBYTES)  # sorting of a gather, or list of a drawn epoch
        return rows + reading + index

    def close(self, spill_from: int | None = None) -> None:
        """Release the rows."""
        self._rows = None

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for every few steps, which computes the order of their rows."""
        share = Share(self.order(Range(0, self.epochs.n_rows), epoch), self.epochs)
        n_steps = max(1, MEMORY_ROWS // max(1, share.step_rows))
        for first in range(step, self.epochs.n_steps, n_steps):
            yield partial(self._ready, share, first, min(first + n_steps, self.epochs.n_steps), threads)

    def _ready(self, share: Share, first: int, last: int, threads: Threads) -> Ready:
        cuts = np.array([share.start(step) for step in range(first, last + 1)])
        return Ready(self._read(threads), share.rows(int(cuts[0]), int(cuts[-1])), (cuts - cuts[0]).tolist())

    def _read(self, threads: Threads) -> Sequence[Array | Held]:
        with self._lock:
            if self._rows is None:
                arrays = [
                    variable.held([(0, len(variable))])
                    if variable.is_overlapping
                    else np.empty(variable.shape, variable.dtype)
                    for variable in self.variables
                ]
                threads.run(self._parts(arrays))
                self._rows = arrays
            return self._rows

    def _parts(self, arrays: Sequence[Array | Held]) -> Iterator[Callable[[], object]]:
        for variable, array in zip(self.variables, arrays, strict=True):
            if isinstance(array, np.ndarray) and variable.order.runs(0, len(variable)) is None:
                yield partial(variable.read_into, 0, len(variable), array)
            else:
                yield from reads_of(variable, [(0, len(variable))], array)


class GatherLoader(Loader):
    """Any order of rows that neither fit in memory nor can be spilled, like variable-length text; picked step by step.

    Every chunk is read for each load that needs one of its rows, so an epoch reads the phase many times.
    """

    held_loads = 2
    """Loads in memory besides those that are ahead: the one that is consumed, and those being read."""
    spare_nbytes = 0
    """Bytes that are left for other work."""
    chunks_at_once = 2
    """Chunks that are decoded at the same time."""

    def __init__(
        self, variables: Sequence[Variable], epochs: Epochs, order: EpochOrder, budget_nbytes: int, prefetch: int
    ) -> None:
        self.variables = variables
        self.epochs = epochs
        self.order = order
        self.prefetch = prefetch
        self.step_rows = max(1, -(-epochs.batch_rows // epochs.world))
        self.row_nbytes = sum(moved_row_nbytes(variable) for variable in variables) + ROW_OVERHEAD_NBYTES
        free = budget_nbytes - reserved_nbytes(budget_nbytes) - copied_nbytes(variables, epochs) - self._other_nbytes
        self.steps = max(1, int(free / (self.held_loads + prefetch) / self.row_nbytes) // self.step_rows)
        require(
            reserved_nbytes(budget_nbytes) + self.projected_nbytes,
            budget_nbytes,
            what=f"picking batches of {epochs.batch_rows} rows",
            remedy="raise budget= (or storegate.memory-limit), or lower prefetch= or the batch size",
        )

    @property
    def projected_nbytes(self) -> int:
        """The bytes of the loads that are ready, and of the one being read."""
        load_rows = min(self.epochs.n_rows, self.steps * self.step_rows)
        return (self.held_loads + self.prefetch) * load_rows * self.row_nbytes + self._other_nbytes

    @property
    def _other_nbytes(self) -> int:
        chunk = max((piece.chunk_nbytes for variable in self.variables for piece in variable.pieces), default=0)
        return self.chunks_at_once * chunk + self.spare_nbytes

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for every few steps."""
        share = Share(self.order(Range(0, self.epochs.n_rows), epoch), self.epochs)
        for first in range(step, self.epochs.n_steps, self.steps):
            last = min(first + self.steps, self.epochs.n_steps)
            spare = max(1, (share.start(last) - share.start(first)) * self.row_nbytes // 2)
            yield partial(picked, self.variables, share, first, last, spare)
