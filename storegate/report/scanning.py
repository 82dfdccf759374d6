"""Scanning: the rows of all variables and phases, read once, and handed to `counting`; within the memory limit.

Rows out of order are read as they are stored, as in `storegate.scans`, but each variable by itself, in threads.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate.reading import blocks_in_order
from storegate.report.counting import Counted
from storegate.scans import LEAST_SHARE, can_be_scanned
from storegate_engine.exchange import task_nbytes
from storegate_engine.orders import RowOrder
from storegate_engine.settings import progress_bar
from storegate_engine.table import OneHot, Piece, Variable
from storegate_engine.threads import Pending, ThreadPool

__all__ = ["Found", "is_onehot", "labels_of", "scan"]

Array: TypeAlias = np.ndarray[Any, Any]
Mask: TypeAlias = npt.NDArray[np.bool_] | None
"""Which rows of a block a phase has; None for all."""
Found: TypeAlias = Mapping[tuple[str, str], Counted]
"""What was counted, by variable and phase."""

N_THREADS = min(4, os.cpu_count() or 1)
"""Threads that read and count."""
BLOCK_NBYTES = 16 * 2**20
"""Most bytes of a block."""
BLOCK_ROWS = 2**18
"""Rows whose places in the phases are looked up at a time."""
COPIES = 4
"""Blocks' worth of memory that a task takes: the block, the rows of a phase, and their numbers being counted."""


def scan(named: Sequence[tuple[str, str, Variable]], budget_nbytes: int) -> Found:
    """Count the values of variables, given with their names and phases, reading each stored row once.

    One-hot rows are counted by their labels, see `labels_of`.
    """
    variables = [(name, at, labels_of(of)) for name, at, of in named if len(of)]
    found: dict[tuple[str, str], Counted] = {}
    total = sum(of.nbytes for _, _, of in variables)
    pool = ThreadPool(N_THREADS, "storegate-report")
    waiting: deque[tuple[Pending[list[Counted]], list[tuple[str, str]], int]] = deque()
    with progress_bar("report", total) as bar:

        def take() -> None:
            # in the order of submission, so that means are the same to the last bit whichever thread is first
            pending, keys, nbytes = waiting.popleft()
            for key, counted in zip(keys, pending.result(), strict=True):
                found[key] = found[key].joined(counted) if key in found else counted
            bar.update(nbytes)

        try:
            for task, keys, nbytes in _tasks(variables, budget_nbytes):
                waiting.append((pool.submit(task), keys, nbytes))
                if len(waiting) > 2 * N_THREADS:
                    take()
            while waiting:
                take()
        finally:
            pool.close()
    return found


def is_onehot(variable: Variable) -> bool:
    """Return whether all rows are one-hot."""
    return bool(variable.pieces) and all(_ends_onehot(piece) for piece in variable.pieces)


def _ends_onehot(piece: Piece) -> bool:
    return bool(piece.transforms) and isinstance(piece.transforms[-1], OneHot)


def labels_of(variable: Variable) -> Variable:
    """Return the labels of one-hot rows; other variables as they are."""
    if not is_onehot(variable):
        return variable
    pieces = tuple(replace(piece, transforms=piece.transforms[:-1]) for piece in variable.pieces)
    if len({(piece.dtype, piece.row_shape) for piece in pieces}) > 1:
        return variable
    return replace(variable, dtype=pieces[0].dtype, row_shape=pieces[0].row_shape, pieces=pieces)


Task: TypeAlias = tuple[Callable[[], list[Counted]], list[tuple[str, str]], int]
"""A task, the variables and phases that its results are of, and the bytes that it counts."""


def _tasks(variables: Sequence[tuple[str, str, Variable]], budget_nbytes: int) -> Iterator[Task]:
    nbytes = min(BLOCK_NBYTES, task_nbytes(budget_nbytes, N_THREADS + 1, COPIES))
    scattered: list[_Scattered] = []
    for name, at, variable in variables:
        if variable.order.runs(0, len(variable)) is not None:
            step = max(1, nbytes // max(1, variable.dense_row_nbytes))
            for lo in range(0, len(variable), step):
                hi = min(lo + step, len(variable))
                yield partial(_count, variable, lo, hi, [None]), [(name, at)], (hi - lo) * variable.row_nbytes
        elif can_be_scanned(variable):
            _put(scattered, name, at, variable)
        else:
            yield from _gathered(name, at, variable, budget_nbytes)
    together = []
    for group in scattered:
        if group.share >= LEAST_SHARE:
            together.append(group)
            continue
        for at in group.orders:
            yield from _gathered(group.name, at, group.variable(at), budget_nbytes)
    yield from _scanned(together, nbytes)


def _gathered(name: str, at: str, variable: Variable, budget_nbytes: int) -> Iterator[Task]:
    """Yield tasks for rows that come in their order, from one exchange if they do not fit in memory."""
    step = max(1, min(BLOCK_NBYTES, task_nbytes(budget_nbytes, 4)) // max(1, variable.dense_row_nbytes))
    for (rows,) in blocks_in_order([variable], step, budget_nbytes // 2):
        values: Any = rows
        counted = Counted.of(np.ascontiguousarray(values.flat if variable.kind == "ragged" else values))
        yield partial(list, [counted]), [(name, at)], len(rows) * variable.row_nbytes


@dataclass(slots=True, eq=False)
class _Scattered:
    """A variable with the same stored rows in several phases."""

    name: str
    stored: Variable
    orders: dict[str, RowOrder] = field(default_factory=dict)

    @property
    def span(self) -> tuple[int, int]:
        """The stored rows that contain those of all phases."""
        bounds = [order.bounds for order in self.orders.values()]
        return min(lo for lo, _ in bounds), max(hi for _, hi in bounds)

    @property
    def share(self) -> float:
        """The share of these rows that the phases have."""
        lo, hi = self.span
        return sum(map(len, self.orders.values())) / (hi - lo)

    def variable(self, at: str) -> Variable:
        """Return the variable as a phase has it."""
        return replace(self.stored, order=self.orders[at])


def _put(groups: list[_Scattered], name: str, at: str, variable: Variable) -> None:
    for group in groups:
        if group.name == name and group.stored.pieces == variable.pieces:
            group.orders[at] = variable.order
            return
    groups.append(_Scattered(name, variable.stored_rows(), {at: variable.order}))


def _scanned(groups: Sequence[_Scattered], nbytes: int) -> Iterator[Task]:
    """Yield tasks for stored rows, those of variables with the same orders together."""
    waiting = list(groups)
    while waiting:
        orders = waiting[0].orders
        alike = [group for group in waiting if group.orders == orders]
        waiting = [group for group in waiting if group not in alike]
        first, stop = alike[0].span
        for lo in range(first, stop, BLOCK_ROWS):
            hi = min(lo + BLOCK_ROWS, stop)
            masks = {at: order.positions(lo, hi) >= 0 for at, order in orders.items()}
            for group in alike:
                keys = [(group.name, at) for at in masks]
                for begin, end in _parts(group.stored, lo, hi, nbytes):
                    cuts: list[Mask] = [mask[begin - lo : end - lo] for mask in masks.values()]
                    n_rows = sum(int(np.count_nonzero(cut)) for cut in cuts if cut is not None)
                    yield partial(_count, group.stored, begin, end, cuts), keys, n_rows * group.stored.row_nbytes


def _parts(variable: Variable, lo: int, hi: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """Cut rows into blocks, at the ends of chunks if these are smaller: no chunk is then read twice."""
    row_nbytes = max(1, variable.dense_row_nbytes)
    step = max(1, nbytes // row_nbytes)
    chunk = max([1, *(piece.array.chunk_rows for piece in variable.pieces)])
    step = max(chunk, step // chunk * chunk) if chunk * row_nbytes <= nbytes else step
    begin = lo
    while begin < hi:
        end = min(hi, (begin // step + 1) * step)
        yield begin, end
        begin = end


def _count(variable: Variable, lo: int, hi: int, masks: Sequence[Mask]) -> list[Counted]:
    """Read rows once, and count those of each phase."""
    if variable.kind == "dense":
        rows = np.empty((hi - lo, *variable.row_shape), variable.dtype)
        variable.read_into(lo, hi, rows, alone=True)
        return [Counted.of(rows if mask is None else rows[mask]) for mask in masks]
    read = variable.read(lo, hi)
    if variable.kind == "sparse":
        rows = np.asarray(read)
        return [Counted.of(rows if mask is None else rows[mask]) for mask in masks]
    return [Counted.of(read.flat if mask is None else read.flat[np.repeat(mask, read.lengths)]) for mask in masks]
