"""Ragged: bounds of rows as the items behind them, each read once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.arrays import RowArray
from storegate_engine.errors import CorruptStoreError
from storegate_engine.ragged import Ragged, compiled, require_columns, rows_of, trusted
from storegate_engine.slices import first_of_run, gathered, offsets_of
from storegate_engine.table.pieces import Piece
from storegate_engine.table.transforms import Cast, Transform

__all__ = ["BOUND", "HeldRagged", "bounds_of", "columns_of", "in_parts", "items_of"]

Array: TypeAlias = np.ndarray[Any, Any]
Int64Array: TypeAlias = npt.NDArray[np.int64]


BOUND = np.dtype(np.int64)
"""The dtype of bounds."""
SPARE = 1.1
"""More memory than needed, since the next rows may have more items: new memory costs more than reading into old."""


@dataclass(frozen=True, slots=True)
class Shift(Transform):
    """Bounds among the items of one array as bounds among those of several; made for reading, and never stored."""

    offset: int
    """The items before those of the array."""
    n_items: int
    """The items of the array, which bounds must not leave."""

    def out_dtype(self, dtype: np.dtype[Any]) -> np.dtype[Any]:
        """Return the dtype itself."""
        return dtype

    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape itself."""
        return row_shape

    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return the names themselves."""
        return dims

    def apply(self, values: Array) -> Array:
        """Return shifted bounds.

        Raises
        ------
        CorruptStoreError
            Some are no bounds of items.
        """
        if len(values) and not (values.min() >= 0 and values.max() <= self.n_items and _ascend(values)):
            raise CorruptStoreError(f"the bounds of rows do not lie within their {self.n_items} items")
        return values + self.offset

    def to_json(self) -> object:
        """Raise TypeError."""
        raise TypeError("a shift of bounds is not stored")


def _ascend(bounds: Array) -> bool:
    return bool((bounds[:, 0] <= bounds[:, 1]).all())


def bounds_of(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return the bounds of rows of pieces, among the items of :func:`items_of`."""
    shifts: dict[tuple[RowArray, tuple[Transform, ...]], Shift] = {}
    end = 0
    for piece in pieces:
        if (piece.array, piece.transforms) not in shifts:
            n_items = piece.array.parts[1].n_rows
            shifts[piece.array, piece.transforms] = Shift(end, n_items)
            end += n_items
    return tuple(
        Piece(piece.array.parts[0], piece.start, piece.stop, (shifts[piece.array, piece.transforms],))
        for piece in pieces
    )


def items_of(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return the items of pieces, those of an array once for each chain of transforms."""
    arrays = dict.fromkeys((piece.array, piece.transforms) for piece in pieces)
    return tuple(Piece(array.parts[1], 0, array.parts[1].n_rows, transforms) for array, transforms in arrays)


def columns_of(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Return the columns of the items of a sparse matrix, in one dtype."""
    arrays = dict.fromkeys((piece.array, piece.transforms) for piece in pieces)
    found = [Piece(array.parts[2], 0, array.parts[2].n_rows) for array, _ in arrays]
    widest = np.result_type(*(piece.dtype for piece in found))
    return tuple(piece if piece.dtype == widest else piece.with_transform(Cast(widest)) for piece in found)


class Items(Protocol):
    """What items are read from."""

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one item."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the items."""

    def read_spans(self, spans: Sequence[tuple[int, int]], out: Array, *, alone: bool = False) -> None:
        """Read runs of items, concatenated into ``out``."""


class HeldRagged:
    """The items of some rows in memory, each item once; gives copies of rows.

    Parameters
    ----------
    bounds : ndarray of int64, shape (n, 2)
        The first item of each row, and the end.
    sources : sequence of Items
        Where the items are, and the columns of a sparse matrix.
    n_columns : int
        The number of its columns.
    memory : list of ndarray
        Memory of rows that are not needed any more; memory that is larger takes its place.
    """

    def __init__(
        self, bounds: Int64Array, sources: Sequence[Items], n_columns: int = 0, memory: list[Array] | None = None
    ) -> None:
        self._sources = sources
        self._n_columns = n_columns
        starts, ends = bounds[:, 0], bounds[:, 1]
        lengths = ends - starts
        is_in_order = bool((starts[1:] >= ends[:-1]).all())
        self._runs, firsts, n_items = (_runs_in_order if is_in_order else _runs_of)(starts, ends, lengths)
        # together, since rows are picked at random: their places and lengths are then on one line of a core's cache
        self._places = np.stack([firsts, lengths], axis=1)
        space = n_items if memory is None else int(n_items * SPARE)
        memory = [] if memory is None else memory
        if not memory or len(memory[0]) < n_items:
            memory[:] = [np.empty((space, *source.row_shape), source.dtype) for source in sources]
        self.buffers = [buffer[:n_items] for buffer in memory]
        """The items."""
        self._matrix = self._ranks = None
        if len(self.buffers) > 1 and lengths.sum() == n_items:  # no row twice: they are those of a matrix
            if not is_in_order:
                order = np.argsort(firsts, kind="stable")
                self._ranks = np.empty_like(order)
                self._ranks[order] = np.arange(len(order))
                lengths = lengths[order]
            self._held = trusted(offsets_of(lengths), self.buffers[0], self.buffers[1], n_columns)
            self._matrix = compiled(self._held)

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._places)

    def reads(self, most_rows: int) -> Iterator[Callable[..., None]]:
        """Yield functions that each read the items of about so many rows; ``alone`` as in `RowArray`."""
        most_items = max(1, len(self.buffers[0]) * most_rows // max(1, len(self)))
        for part in range(len(self.buffers)):
            done = 0
            for spans in in_parts(self._runs, most_items):
                n_items = sum(hi - lo for lo, hi in spans)
                yield partial(self._read, part, spans, self.buffers[part][done : done + n_items])
                done += n_items

    def _read(self, part: int, spans: Sequence[tuple[int, int]], out: Array, *, alone: bool = False) -> None:
        self._sources[part].read_spans(spans, out, alone=alone)
        if part:  # once, and not for each batch
            require_columns(out, self._n_columns)

    def read(self, *, alone: bool = False) -> Ragged:
        """Read all items, and return all rows."""
        for read in self.reads(max(1, len(self))):
            read(alone=alone)
        firsts, lengths = self._places.T
        if (first := first_of_run(firsts, lengths)) is not None:
            columns = self.buffers[1] if len(self.buffers) > 1 else None
            return trusted(first + offsets_of(lengths), self.buffers[0], columns, self._n_columns)
        return self.take(np.arange(len(self)))

    def take(self, rows: Array, axis: int = 0) -> Ragged:
        """Return copies of rows, by their numbers among those that were asked for."""
        if self._matrix is not None:
            return rows_of(self._matrix, rows if self._ranks is None else self._ranks[rows], self._held)
        firsts, lengths = np.ascontiguousarray(self._places.take(rows, axis=0).T)
        columns = self.buffers[1] if len(self.buffers) > 1 else None
        items, columns = gathered(self.buffers[0], columns, firsts, lengths)
        return trusted(offsets_of(lengths), items, columns, self._n_columns)

    def __getitem__(self, rows: slice) -> Ragged:
        """Return copies of adjacent rows."""
        return self.take(np.arange(len(self))[rows])


Runs: TypeAlias = tuple[list[tuple[int, int]], Int64Array, int]
"""Runs of items to read, the place of the first item of each row among them, and their number."""


def _runs_in_order(starts: Int64Array, ends: Int64Array, lengths: Int64Array) -> Runs:
    """Return the runs of rows that lie one after the other, with gaps."""
    if not len(starts):
        return [], starts, 0
    begins = np.flatnonzero(np.concatenate([[True], starts[1:] > ends[:-1]]))
    lasts = np.concatenate([begins[1:], [len(starts)]]) - 1
    runs = zip(starts[begins].tolist(), ends[lasts].tolist(), strict=True)
    offsets = offsets_of(lengths)
    return [(lo, hi) for lo, hi in runs if lo < hi], offsets[:-1], int(offsets[-1])


def _runs_of(starts: Int64Array, ends: Int64Array, lengths: Int64Array) -> Runs:
    """Return the runs of rows anywhere: what lies one after the other is read in one run, and what is shared once."""
    filled = np.flatnonzero(lengths)
    order = filled[np.argsort(starts[filled], kind="stable")]
    reached = np.maximum.accumulate(ends[order])
    is_new = np.concatenate([[True], starts[order[1:]] > reached[:-1]])[: len(order)]
    begins = starts[order][is_new]
    lasts = np.concatenate([reached[:-1][is_new[1:]], reached[-1:]])
    offsets = offsets_of(lasts - begins)
    firsts = np.zeros(len(starts), np.int64)
    run = np.searchsorted(begins, starts[filled], side="right") - 1
    firsts[filled] = starts[filled] + (offsets[:-1] - begins)[run]
    return list(zip(begins.tolist(), lasts.tolist(), strict=True)), firsts, int(offsets[-1])


def in_parts(spans: Sequence[tuple[int, int]], most: int) -> Iterator[list[tuple[int, int]]]:
    """Yield spans in lists of at most ``most`` rows; longer spans are cut.

    >>> list(in_parts([(0, 3), (5, 7), (8, 20)], 5))
    [[(0, 3), (5, 7)], [(8, 13)], [(13, 18)], [(18, 20)]]
    """
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
