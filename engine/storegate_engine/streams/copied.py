"""Copied: windows anywhere, of more rows than fit in memory, read from a copy of the rows without chunks.

A window is a few rows of a chunk of many, and the next one lies elsewhere: read where they are stored, windows take
many times their bytes. So the rows are copied once, as they are in memory, while the first windows are read where they
are stored; from then on, and in later epochs, each window reads its own rows.
"""

from __future__ import annotations

import threading
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import Shared, Windowed
from storegate_engine.errors import SpillError
from storegate_engine.exchange import RowFile, Spills
from storegate_engine.orders import Range, spans
from storegate_engine.streams.epochs import Epochs
from storegate_engine.streams.loaders import EpochOrder, Ready, Threads, picked
from storegate_engine.streams.memory_loaders import GatherLoader
from storegate_engine.streams.shares import Share
from storegate_engine.table import Variable
from storegate_engine.threads import Pending

__all__ = ["WindowLoader", "can_be_copied"]

Array: TypeAlias = np.ndarray[Any, Any]

COPIED_NBYTES = 2 * 2**20
"""Bytes of rows that are copied at a time."""
LEAST_GAIN = 2
"""Rows are copied if windows read this many times as much without."""


def can_be_copied(variable: Variable) -> bool:
    """Return whether a variable has windows of rows whose bytes can be copied."""
    return len(variable.pieces) == 1 and variable.pieces[0].array.windows is not None and not variable.dtype.hasobject


def _windows_of(variable: Variable) -> Windowed:
    windows = variable.pieces[0].array.windows
    assert windows is not None
    return windows


class WindowLoader(GatherLoader):
    """Windows in any order, read from a copy of their rows as soon as it is there."""

    loads_at_once = 2
    held_loads = 3
    spare_nbytes = 2 * COPIED_NBYTES
    chunks_at_once = 4

    def __init__(
        self,
        variables: Sequence[Variable],
        epochs: Epochs,
        order: EpochOrder,
        budget_nbytes: int,
        prefetch: int,
        *,
        n_epochs: int | None,
    ) -> None:
        super().__init__(variables, epochs, order, budget_nbytes, prefetch)
        self.n_epochs = n_epochs
        self._has_space = True
        self._spills = Spills()
        self._copies: list[RowFile] = []
        self._copying: Pending[None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the copies."""
        return {**self.__dict__, "_spills": Spills(), "_copies": [], "_copying": None}

    def close(self, spill_from: int | None = None) -> None:
        """Remove the copies."""
        self._copies = []
        self._copying = None
        self._spills.clear()

    def tasks(self, epoch: int, step: int, threads: Threads) -> Iterator[Callable[[], Ready]]:
        """Yield a task for every few steps, and copy the rows meanwhile."""
        share = Share(self.order(Range(0, self.epochs.n_rows), epoch), self.epochs)
        self._copying = None  # of another loop, whose threads have ended
        if self._has_space and not self._copies and self._pays(step):
            self._copying = threads.loads.submit(threads.wanted(partial(self._copy, threads.stopping)))
        for first in range(step, self.epochs.n_steps, self.steps):
            last = min(first + self.steps, self.epochs.n_steps)
            if self._copying is not None and self._copying.done():
                self._copied()
            if self._copies:
                yield partial(self._read, share, first, last)
            else:
                spare = max(1, (share.start(last) - share.start(first)) * self.row_nbytes // 2)
                yield partial(picked, self.variables, share, first, last, spare)

    def end(self, epoch: int) -> None:
        """Wait for the copy, if another epoch reads it."""
        if self._copying is not None and epoch + 1 != self.n_epochs:
            self._copied()

    def _copied(self) -> None:
        copying, self._copying = self._copying, None
        assert copying is not None
        try:
            copying.result()
        except SpillError as err:
            self._has_space = False
            warnings.warn(
                f"the rows of windows could not be copied, so each epoch reads them many times where they are stored: "
                f"{err}",
                UserWarning,
                stacklevel=2,
            )

    def _pays(self, step: int) -> bool:
        """Return whether the windows of the steps that are left read much less from a copy."""
        n_left = self.step_rows * (self.epochs.n_steps - step)
        n_loads = -(-n_left // max(1, self.steps * self.step_rows))
        stored = copied = 0
        for variable in self.variables:
            shared = _windows_of(variable).variable
            nbytes = len(shared) * shared.row_nbytes
            stored += n_loads * min(
                nbytes, self.steps * self.step_rows * (variable.row_nbytes + variable.pieces[0].chunk_nbytes)
            )
            copied += 2 * nbytes + n_left * variable.row_nbytes
        return stored > LEAST_GAIN * copied

    def _copy(self, stopping: threading.Event) -> None:
        """Copy the rows of all windows, unless the loop ends before that."""
        spill = self._spills.open("rows", self.variables[0], lambda: uuid.uuid4().hex)
        files: list[RowFile] = []
        try:
            for number, variable in enumerate(self.variables):
                rows = _windows_of(variable).variable
                path = spill.path / f"{number:04d}-{uuid.uuid4().hex}"
                file = RowFile(path, rows.dtype, rows.row_shape, len(rows))
                step = max(1, COPIED_NBYTES // max(1, rows.row_nbytes) // file.checked_rows) * file.checked_rows
                if not file.write(_blocks(rows, step, stopping)):
                    return
                files.append(file)
            self._copies = files
        finally:
            if not self._copies:
                for file in files:
                    file.remove()

    def _read(self, share: Share, first: int, last: int) -> Ready:
        """Return the windows of some steps."""
        cuts = [share.start(step) for step in range(first, last + 1)]
        windows = share.rows(cuts[0], cuts[-1])
        arrays = []
        for variable, file in zip(self.variables, self._copies, strict=True):
            of = _windows_of(variable)
            starts = of.starts(variable.pieces[0].start + variable.order.take(windows))
            length = of.row_shape[0]
            out = np.empty((len(windows), *variable.row_shape), variable.dtype)
            with file.opened() as copy:
                for at, start in enumerate(starts.tolist()):
                    copy.read_into(start, start + length, out[at])
            arrays.append(out)
        return Ready(arrays, None, [cut - cuts[0] for cut in cuts])


def _blocks(rows: Shared, step: int, stopping: threading.Event) -> Iterator[Array]:
    """Yield all rows in blocks; none any more if the loop has ended."""
    for lo, hi in spans(len(rows), step):
        if stopping.is_set():
            return
        yield rows.read(lo, hi)
