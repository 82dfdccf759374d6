"""Pieces: rows of one array, and the transforms applied when they are read; knows no order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import RowArray, RowSpan
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import LabelError
from storegate_engine.integers import stable_argsort
from storegate_engine.orders import spans
from storegate_engine.table.transforms import Cast, Transform, apply_all, fold

__all__ = ["Piece"]

Array: TypeAlias = np.ndarray[Any, Any]

TRANSFORM_NBYTES = 2**20
"""Rows are transformed this many bytes at a time, while they are in a core's cache."""

WINDOW_NBYTES = 16 * 2**20
"""Stored rows held at a time if many are picked and transformed."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Rows of one array, and their transforms."""

    array: RowArray
    """The array that holds the rows."""
    start: int
    """The first row of the array that belongs to the piece."""
    stop: int
    """The row after the last."""
    transforms: tuple[Transform, ...] = ()
    """The transforms, in order of application."""
    shuffled_by: int | None = field(default=None, compare=False)
    """The seed, if the array was written in the order of a uniform shuffle."""
    is_update: bool = field(default=False, compare=False)
    """Whether its rows were written in the places of others."""

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return self.stop - self.start

    @property
    def arrays(self) -> tuple[RowArray, ...]:
        """The arrays with the rows: one, or several if rows differ in length."""
        return self.array.parts or (self.array,)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows after the transforms."""
        return fold(self.transforms, self.array.dtype, self.array.row_shape)[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row after the transforms."""
        return fold(self.transforms, self.array.dtype, self.array.row_shape)[1]

    @property
    def source_row_nbytes(self) -> int:
        """Bytes of one row before the transforms, with the average of its texts, or of its items."""
        if self.array.parts:
            return self.array.held_row_nbytes or 1
        return row_nbytes(self.array.dtype, self.array.row_shape) + self.text_nbytes

    @property
    def text_nbytes(self) -> int:
        """Average bytes of the variable-length texts of a row; 0 if they were not counted."""
        size = self.array.text
        return 0 if size is None else -(-size.nbytes // max(1, self.array.n_rows))

    @property
    def widest_row_nbytes(self) -> int:
        """Bytes of one row at the widest, before, between or after the transforms."""
        dtype, row_shape = self.array.dtype, self.array.row_shape
        widest = self.source_row_nbytes
        for transform in self.transforms:
            dtype, row_shape = fold((transform,), dtype, row_shape)
            widest = max(widest, row_nbytes(dtype, row_shape))
        return max(1, widest)

    @property
    def chunk_nbytes(self) -> int:
        """Bytes of the rows that are decoded together, before the transforms."""
        return self.array.chunk_rows * self.source_row_nbytes

    def is_alike(self, other: Piece) -> bool:
        """Return whether all rows of both pieces are equal: constants, with the same transforms."""
        mine, theirs = self.array, other.array
        if mine.constant is None or mine.constant != theirs.constant:
            return False
        is_like = mine.dtype == theirs.dtype and mine.row_shape == theirs.row_shape
        return is_like and self.transforms == other.transforms

    def with_transform(self, transform: Transform) -> Piece:
        """Return the piece with one more transform."""
        return replace(self, transforms=(*self.transforms, transform))

    def read_into(self, lo: int, hi: int, out: Array, *, alone: bool = False) -> None:
        """Read rows ``lo..hi`` of the piece into ``out``; ``alone``, in this thread."""
        if not self.transforms:
            self.array.read_into(self.start + lo, self.start + hi, out, alone=alone)
            return
        first, last = self.start + lo, self.start + hi
        step = max(1, TRANSFORM_NBYTES // (self.source_row_nbytes * self.array.chunk_rows)) * self.array.chunk_rows
        cuts = [first, *range(first // step * step + step, last, step), last]
        source = np.empty((min(step, last - first), *self.array.row_shape), self.array.dtype)
        for start, stop in pairwise(cuts):
            rows = source[: stop - start]
            self.array.read_into(start, stop, rows, alone=alone)
            try:
                self.transform_into(rows, out[start - first : stop - first])
            except LabelError as err:
                raise err.at_row(err.row + start - first) from err

    def read_spans(self, spans: Sequence[RowSpan], out: Array, *, alone: bool = False) -> None:
        """Read spans of rows of the piece to their places in ``out``; a LabelError has the place."""
        if not self.transforms:
            self._read_stored(spans, out, alone=alone)
            return
        ends = list(accumulate(hi - lo for lo, hi, _ in spans))
        source = np.empty((ends[-1], *self.array.row_shape), self.array.dtype)
        within = [(lo, hi, end - hi + lo) for (lo, hi, _), end in zip(spans, ends, strict=True)]
        self._read_stored(within, source, alone=alone)
        for (lo, hi, place), end in zip(spans, ends, strict=True):
            try:
                self.transform_into(source[end - hi + lo : end], out[place : place + hi - lo])
            except LabelError as err:
                raise err.at_row(place + err.row) from err

    def _read_stored(self, spans: Sequence[RowSpan], out: Array, *, alone: bool) -> None:
        shifted = [(self.start + lo, self.start + hi, place) for lo, hi, place in spans]
        self.array.read_spans(shifted, out, alone=alone)

    def take_into(self, rows: Array, out: Array, *, alone: bool = False) -> None:
        """Read ``rows`` of the piece into ``out``; ``alone``, in this thread."""
        if not self.transforms:
            self.array.take_into(rows + self.start, out, alone=alone)
            return
        step = max(1, WINDOW_NBYTES // self.widest_row_nbytes)
        if len(rows) <= step:
            self._take_window(rows, out, alone=alone)
            return
        # in windows of neighbours: each chunk is read once, or twice
        places = stable_argsort(rows // max(1, step // 4))
        try:
            for lo in range(0, len(rows), step):
                at = places[lo : lo + step]
                part = np.empty((len(at), *out.shape[1:]), out.dtype)
                self._take_window(rows[at], part, alone=alone)
                out[at] = part
        except LabelError:
            for lo in range(0, len(rows), step):  # in the wanted order, so that the first bad row is found first
                try:
                    self._take_window(rows[lo : lo + step], out[lo : lo + step], alone=alone)
                except LabelError as err:
                    raise err.at_row(lo + err.row) from err

    def _take_window(self, rows: Array, out: Array, *, alone: bool) -> None:
        source = np.empty((len(rows), *self.array.row_shape), self.array.dtype)
        self.array.take_into(rows + self.start, source, alone=alone)
        self.transform_into(source, out)

    def transform_into(self, source: Array, out: Array) -> None:
        """Apply the transforms to some rows at a time; a last cast between numbers is the assignment itself."""
        last = self.transforms[-1]
        is_assigned = isinstance(last, Cast) and source.dtype.kind in "iufb" and out.dtype.kind in "iufb"
        transforms = self.transforms[:-1] if is_assigned else self.transforms
        for lo, hi in spans(len(source), max(1, TRANSFORM_NBYTES // self.widest_row_nbytes)):
            try:
                out[lo:hi] = apply_all(transforms, source[lo:hi])
            except LabelError as err:
                raise err.at_row(lo + err.row) from err
