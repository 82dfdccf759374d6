"""Gathers: stored rows in any order, into memory; reads each chunk as rarely as memory allows.

If most of the stored rows are wanted and they fit in memory, they are read once, in order, and picked from memory, as
fast as numpy's ``rows[index]``. Otherwise the wanted rows are grouped by piece and chunk, a part of them at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import run_tasks
from storegate_engine.errors import LabelError
from storegate_engine.integers import groups_of
from storegate_engine.orders import spans
from storegate_engine.table.pieces import Piece

__all__ = ["SPARE_NBYTES", "gather_into"]

Array: TypeAlias = np.ndarray[Any, Any]

SPARE_NBYTES = 64 * 2**20
"""Default memory of a gather, besides the wanted rows."""
INDEX_NBYTES = 48
"""Bytes of row numbers per grouped row: itself, its piece and chunk, and their sorting."""
DENSE = 16
"""If at least one stored row in this many is wanted, reading all of them in order costs less than grouping."""
PICK_ROWS = 2**17
"""Rows that one task picks from memory: their numbers fit in a core's cache."""


def gather_into(
    pieces: Sequence[Piece],
    offsets: Sequence[int],
    stored: Callable[[int, int], Array],
    out: Array,
    *,
    bounds: tuple[int, int],
    spare_nbytes: int = SPARE_NBYTES,
    alone: bool = False,
) -> None:
    """Read stored rows into ``out``, in any order, repeats included.

    Parameters
    ----------
    pieces : sequence of Piece
        The stored rows, concatenated.
    offsets : sequence of int
        The first row of each piece among them, and the end of the last one.
    stored : callable
        Returns the stored rows for ``lo..hi`` of ``out``, as int64.
    out : ndarray of shape (n, *row_shape)
        C-contiguous.
    bounds : tuple of int
        The first and last + 1 of the stored rows that contain all wanted ones.
    spare_nbytes : int
        Memory besides ``out``; one row and one chunk are held in any case.
    alone : bool
        Read and pick in this thread, because other threads read, too.

    Raises
    ------
    LabelError
        A transform met a label outside its classes; the error has the place in ``out`` of the first one.
    """
    # Picking from memory reads each stored row once and in order, some of them needlessly. Grouping reads only the
    # wanted chunks, and sorts row numbers for it.
    first, last = bounds
    if len(out) * DENSE >= last - first and _whole_nbytes(pieces, offsets, bounds) <= spare_nbytes // 2:
        _gather_whole(pieces, offsets, stored, out, bounds, alone=alone)
        return
    for lo, hi in spans(len(out), max(1, spare_nbytes // INDEX_NBYTES)):
        try:
            _gather_grouped(pieces, offsets, stored(lo, hi), out[lo:hi], spare_nbytes // 2, alone=alone)
        except LabelError as err:
            raise err.at_row(lo + err.row) from err


def _whole_nbytes(pieces: Sequence[Piece], offsets: Sequence[int], bounds: tuple[int, int]) -> float:
    """Return the bytes of a span of stored rows as stored; infinite if they cannot be picked from."""
    touched = [piece for piece, lo, hi in zip(pieces, offsets, offsets[1:], strict=False) if _meet(lo, hi, bounds)]
    kinds = {(piece.array.dtype, piece.array.row_shape, piece.transforms) for piece in touched}
    if len(kinds) != 1 or touched[0].array.dtype.hasobject:
        return float("inf")
    return (bounds[1] - bounds[0]) * touched[0].source_row_nbytes


def _meet(lo: int, hi: int, bounds: tuple[int, int]) -> bool:
    return max(lo, bounds[0]) < min(hi, bounds[1])


def _gather_whole(
    pieces: Sequence[Piece],
    offsets: Sequence[int],
    stored: Callable[[int, int], Array],
    out: Array,
    bounds: tuple[int, int],
    *,
    alone: bool,
) -> None:
    """Read a span of stored rows once, in order, and pick the wanted ones from memory."""
    start, stop = bounds
    touched = [
        (piece, max(lo, start) - lo, min(hi, stop) - lo, max(lo, start) - start)
        for piece, lo, hi in zip(pieces, offsets, offsets[1:], strict=False)
        if _meet(lo, hi, bounds)
    ]
    kind = touched[0][0]
    source = np.empty((stop - start, *kind.array.row_shape), kind.array.dtype)
    for piece, lo, hi, place in touched:
        piece.array.read_into(piece.start + lo, piece.start + hi, source[place : place + hi - lo], alone=alone)

    def pick(lo: int, hi: int) -> None:
        rows = stored(lo, hi)
        rows -= start
        if not kind.transforms:
            source.take(rows, axis=0, out=out[lo:hi], mode="clip")  # rows are validated; "raise" would buffer
            return
        try:
            kind.transform_into(source[rows], out[lo:hi])
        except LabelError as err:
            raise err.at_row(lo + err.row) from err

    widest = max(1, kind.source_row_nbytes + out.nbytes // max(1, len(out)))
    step = min(PICK_ROWS, max(1, 2**23 // widest))
    run_tasks([partial(pick, lo, hi) for lo, hi in spans(len(out), step)], here=alone)


def _gather_grouped(
    pieces: Sequence[Piece], offsets: Sequence[int], stored: Array, out: Array, spare_nbytes: int, *, alone: bool
) -> None:
    """Read the wanted rows piece by piece; a repeated row is read once with its chunk."""
    if len(pieces) == 1:
        pieces[0].take_into(stored, out, alone=alone)
        return
    places, cuts, numbers = groups_of(np.searchsorted(np.asarray(offsets), stored, side="right") - 1)
    step = max(1, spare_nbytes // max(1, out.nbytes // max(1, len(out))))
    for number, first, last in zip(numbers, cuts, cuts[1:], strict=False):
        for lo in range(first, last, step):
            where = places[lo : min(lo + step, last)]
            part = np.empty((len(where), *out.shape[1:]), out.dtype)
            try:
                pieces[number].take_into(stored[where] - offsets[number], part, alone=alone)
            except LabelError as err:
                raise err.at_row(int(where[err.row])) from err
            out[where] = part
