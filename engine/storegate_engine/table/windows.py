"""Windows: adjacent rows of a variable as one row of an array, which reads each row once for all windows that share it.

::

    rows     0 1 2 3 4 5 | 6 7 8 9         two series: no window goes from one to the next
    windows  0 1 2                         of three rows, stride 1
               1 2 3
                 2 3 4
                   3 4 5
                           6 7 8
                             7 8 9
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.arrays import Fileless, RowSpan, files_in
from storegate_engine.errors import ShapeError
from storegate_engine.orders import Range, spans
from storegate_engine.table.description import PLAIN
from storegate_engine.table.pieces import Piece
from storegate_engine.table.variable import Variable

__all__ = ["HeldRows", "WindowArray", "WindowPlan", "series_of"]

Array: TypeAlias = npt.NDArray[Any]
Int64Array: TypeAlias = npt.NDArray[np.int64]

READ_NBYTES = 16 * 2**20
"""Bytes of rows that are read at a time to make windows of them."""
HELD_SHARE = 1.25
"""Rows in memory for each row that no window before has: the ends of blocks have more."""
COPIED_NBYTES = 2**20
"""Bytes of windows that are copied at a time."""
FEW_ROWS = 64
"""Runs of fewer rows are picked together: a call for each would take longer."""


@dataclass(frozen=True, slots=True, eq=False)
class WindowPlan:
    """Which rows each window has."""

    firsts: Int64Array
    """The first row of each series."""
    ends: Int64Array
    """The number of windows of all series up to each, itself included."""
    length: int
    """Rows of a window."""
    stride: int
    """Rows from the beginning of a window to that of the next one."""

    @classmethod
    def of(cls, bounds: Int64Array, length: int, stride: int) -> Self:
        """Return the plan of series that begin and end at ``bounds``."""
        sizes = np.diff(bounds)
        counts = np.where(sizes >= length, (sizes - length) // stride + 1, 0)
        has_any = counts > 0
        return cls(bounds[:-1][has_any], np.cumsum(counts[has_any]), length, stride)

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def starts(self, windows: Int64Array) -> Int64Array:
        """Return the first rows of windows."""
        series = np.searchsorted(self.ends, windows, side="right")
        before = np.concatenate([[0], self.ends[:-1]])
        rows: Int64Array = self.firsts[series] + (windows - before[series]) * self.stride
        return rows


@dataclass(frozen=True, slots=True, eq=False)
class WindowArray(Fileless):
    """Windows of a variable as rows of shape ``(length, *row_shape)``."""

    variable: Variable
    """The rows."""
    plan: WindowPlan
    """The windows."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        return self.variable.dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """``(length, *row_shape)``."""
        return (self.plan.length, *self.variable.row_shape)

    @property
    def n_rows(self) -> int:
        """The number of windows."""
        return len(self.plan)

    @property
    def chunk_rows(self) -> int:
        """As many windows as take the memory of the rows that are decoded together."""
        most = max((piece.array.chunk_rows for piece in self.variable.pieces), default=1)
        return max(1, most // self.plan.length)

    @property
    def is_random_access(self) -> bool:  # type: ignore[override] # of arrays without files it is a constant
        """Whether any row can be read alone."""
        return all(piece.array.is_random_access for piece in self.variable.pieces)

    @property
    def is_remote(self) -> bool:  # type: ignore[override]
        """Whether the rows are in an object store."""
        return self.variable.is_remote

    @property
    def windows(self) -> WindowArray:
        """The array itself."""
        return self

    def starts(self, windows: Array, /) -> Array:
        """Return the first row of each window."""
        return self.plan.starts(windows)

    def as_variable(self) -> Variable:
        """Return the windows as a variable, in their order."""
        piece = Piece(self, 0, self.n_rows)
        name = f"{self.variable.name} in windows of {self.plan.length}, stride {self.plan.stride}"
        return Variable(name, self.dtype, self.row_shape, (piece,), Range(0, self.n_rows), about=PLAIN)

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Read windows ``start..stop``: rows that they share are read once."""
        self.take_into(np.arange(start, stop), out, alone=alone)

    def read_spans(self, spans: Sequence[RowSpan], out: Array, /, *, alone: bool = False) -> None:
        """Read spans of windows to their places in ``out``: rows that they share are read once."""
        windows = np.concatenate([np.arange(start, stop) for start, stop, _ in spans] or [np.empty(0, np.int64)])
        places = np.concatenate([np.arange(at, at + stop - start) for start, stop, at in spans] or [windows])
        if len(places) and (places == np.arange(places[0], places[0] + len(places))).all():
            self.take_into(windows, out[places[0] : places[0] + len(places)], alone=alone)
            return
        for start, stop, at in spans:
            self.read_into(start, stop, out[at : at + stop - start], alone=alone)

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Read windows anywhere: rows that those read together share are read once."""
        order = np.argsort(rows, kind="stable")
        together = max(1, READ_NBYTES // max(1, self.variable.row_nbytes * min(self.plan.length, self.plan.stride)))
        for lo in range(0, len(order), together):
            places = order[lo : lo + together]
            held = self.held(rows[places])
            if len(held.runs) * FEW_ROWS > len(held.buffer):
                held.buffer[...] = self.variable.take(held.rows())
            else:
                for read in held.reads(len(held.buffer)):
                    read(alone=alone)
            for first, last in spans(len(places), max(1, COPIED_NBYTES // max(1, out[:1].nbytes))):
                out[places[first:last]] = held.take(np.arange(first, last))

    def held(self, windows: Array) -> HeldRows:
        """Return memory for the rows of some windows, which are still to be read."""
        return HeldRows(self.variable, self.starts(windows), self.plan.length)

    @property
    def held_row_nbytes(self) -> int:
        """Bytes that a window takes in such memory: of the rows that no window before it has, and a part of others."""
        return math.ceil(HELD_SHARE * self.plan.stride * self.variable.row_nbytes) + np.dtype(np.int64).itemsize


class HeldRows:
    """The rows of some windows in memory, each row once; gives copies of windows, as an array of them would.

    Parameters
    ----------
    variable : Variable
        The rows.
    starts : ndarray of int64
        The first row of each window.
    length : int
        Rows of a window.
    """

    def __init__(self, variable: Variable, starts: Int64Array, length: int) -> None:
        self._variable = variable
        self._length = length
        ordered = np.sort(starts)
        is_new = np.concatenate([[True], ordered[1:] > ordered[:-1] + length])[: len(ordered)]
        begins = ordered[is_new]
        ends = np.concatenate([ordered[:-1][is_new[1:]], ordered[-1:]]) + length
        offsets = np.concatenate([[0], np.cumsum(ends - begins)]).astype(np.int64)
        self.runs = list(zip(begins.tolist(), ends.tolist(), offsets.tolist(), strict=False))
        """The rows from .. to of the variable, and their place in the buffer."""
        self.buffer = np.empty((int(offsets[-1]), *variable.row_shape), variable.dtype)
        """The rows."""
        self._windows: Array | None = None
        if self.buffer.dtype.kind != "T" and len(self.buffer) >= length:  # of others, numpy makes no such view
            windows = np.lib.stride_tricks.sliding_window_view(self.buffer, length, axis=0)
            self._windows = np.moveaxis(windows, -1, 1)
        self._firsts = starts + (offsets[:-1] - begins)[np.searchsorted(begins, starts, side="right") - 1]

    def rows(self) -> Int64Array:
        """Return the rows of the variable that the buffer is for."""
        found = [np.arange(begin, end) for begin, end, _ in self.runs]
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def reads(self, most_rows: int) -> Iterator[Callable[..., None]]:
        """Yield functions that each read some rows into the buffer; ``alone`` as in `RowArray`."""
        for begin, end, at in self.runs:
            for lo in range(begin, end, max(1, most_rows)):
                hi = min(lo + most_rows, end)
                yield partial(self._variable.read_into, lo, hi, self.buffer[at + lo - begin : at + hi - begin])

    def take(self, rows: Array, axis: int = 0) -> Array:
        """Return copies of windows, by their numbers among those that were asked for."""
        firsts = self._firsts[rows]
        if self._windows is None:
            texts: Array = self.buffer[firsts[:, None] + np.arange(self._length)]
            return texts
        # not `take`, which would first write all windows out
        copies: Array = self._windows[firsts]
        return copies

    def __getitem__(self, rows: slice) -> Array:
        """Return copies of adjacent windows."""
        return self.take(np.arange(len(self._firsts))[rows])


def series_of(variables: Sequence[Variable], within: Sequence[Variable] = ()) -> Int64Array:
    """Return where the series of variables begin and end, within which rows of each are neighbours.

    A series ends where rows were left out or moved, where another file of another program begins, and where a value of
    ``within`` changes. Rows that replaced others in their places do not end one.

    Returns
    -------
    ndarray of int64
        Ascending, from 0 to the number of rows.
    """
    n_rows = len(variables[0])
    alike = {_where(variable): variable for variable in variables}  # those added together are stored alike
    begins = np.unique(np.concatenate([*map(_moved, alike.values()), *map(_changed, within)]))
    inner = begins[(begins > 0) & (begins < n_rows)]
    return np.concatenate([[0], inner, [n_rows]]).astype(np.int64)


def _where(variable: Variable) -> Hashable:
    """Return all that tells which rows of a variable are neighbours."""
    updates = tuple(piece.is_update for piece in variable.pieces)
    return variable.order, tuple(variable.offsets), updates, tuple(_edges_of_files(variable).tolist())


def _moved(variable: Variable) -> Int64Array:
    """Return the rows that are no neighbours of those before them, by where they are stored."""
    edges = _edges_of_files(variable)
    updates = [span for span, piece in zip(pairwise(variable.offsets), variable.pieces, strict=True) if piece.is_update]
    ends = np.concatenate([edges, np.array(updates, np.int64).reshape(-1)])  # rows stored on both sides are elsewhere
    found: list[Int64Array] = []
    before: int | None = None
    for lo, hi in spans(len(variable)):
        stored = variable.order.rows(lo, hi)
        earlier = np.concatenate([[stored[0] - 1 if before is None else before], stored[:-1]])
        found.append(lo + np.flatnonzero((stored != earlier + 1) | np.isin(stored, ends)))
        before = int(stored[-1])
    if not found:
        return np.empty(0, np.int64)
    begins = np.concatenate([[0], *found]).astype(np.int64)
    return _without_replaced(variable, np.unique(begins), edges)


def _edges_of_files(variable: Variable) -> Int64Array:
    """Return the stored rows with which files of other programs begin."""
    edges = []
    for piece, offset in zip(variable.pieces, variable.offsets, strict=False):
        if piece.array.sources is not None:
            _, starts = files_in(piece.array.sources)
            edges.append(np.asarray(starts[:-1], np.int64) - piece.start + offset)
    return np.concatenate([*edges, np.empty(0, np.int64)]).astype(np.int64)


def _without_replaced(variable: Variable, begins: Int64Array, edges: Int64Array) -> Int64Array:
    """Leave out the ends of runs of replaced rows: they are stored in other pieces, and the run after them goes on."""
    # Replaced rows are stored after those that there were, and rows that are added later after them. Places are counted
    # as if no row had been replaced:
    #
    #     stored   | 0 1 2 3 | update: 4 | 5 6 |         order    | 0 | 4 | 2 3 | 5 6 |
    #     places   | 0 1 2 3 |           | 4 5 |         places   | 0 |   | 2 3 | 4 5 |     one run
    is_update = np.array([piece.is_update for piece in variable.pieces])
    if not is_update.any() or len(begins) < 2:
        return begins
    offsets = np.asarray(variable.offsets)
    hidden = np.cumsum(np.append(0, np.where(is_update, np.diff(offsets), 0)))
    stored = variable.order.take(begins)
    piece = np.searchsorted(offsets, stored, side="right") - 1
    replaced = is_update[piece]
    own = np.flatnonzero(~replaced)
    if not len(own):
        return begins  # nothing tells where they were
    pieces = np.flatnonzero(~is_update)
    shift = stored[own] - begins[own] - hidden[piece[own]]
    # between runs that are as far from their places, all are in their places: replaced rows, if there are any
    alike = np.flatnonzero(shift[1:] == shift[:-1]).tolist()
    gone = [np.arange(own[at] + 1, own[at + 1] + 1) for at in alike]
    # and so are those before the first and after the last one, if these would reach from the begin or to the end
    if shift[0] in offsets[pieces] - hidden[pieces]:
        gone.append(np.arange(1, own[0] + 1))
    if shift[-1] + len(variable) in offsets[pieces + 1] - hidden[pieces]:
        gone.append(np.arange(own[-1] + 1, len(begins)))
    dropped = np.concatenate([*gone, np.empty(0, np.int64)]).astype(np.int64)
    dropped = dropped[~np.isin(stored[dropped], edges)]
    return np.delete(begins, dropped)


def _changed(variable: Variable) -> Int64Array:
    """Return the rows whose value is another than that of the row before.

    Raises
    ------
    ShapeError
        Rows have several values.
    """
    if not variable.is_scalar:
        raise ShapeError(
            f"within= needs one value for each row, and variable {variable.name!r} has {variable.row_shape_in_words}"
        )
    found = [np.empty(0, np.int64)]
    step = max(1, READ_NBYTES // max(1, variable.row_nbytes))
    before: Array | None = None
    for lo, hi in spans(len(variable), step):
        values = variable.read(lo, hi)
        joined = values if before is None else np.concatenate([before, values])
        differs = joined[1:] != joined[:-1]
        found.append(np.flatnonzero(differs) + lo + (before is None))
        before = values[-1:]
    return np.concatenate(found)
