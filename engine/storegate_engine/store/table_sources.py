"""Table sources: rows of the variables and indexes of a table, and how much text any source has."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.orders import STEP_ROWS, NewIndex, spans
from storegate_engine.ragged import Ragged
from storegate_engine.store.sources import LISTS_NBYTES, ArraySource, ColumnSource, Source, StreamSource
from storegate_engine.table import Description, Kind, Variable
from storegate_engine.texts import TextSize, sampled_nbytes

__all__ = ["IndexSource", "VariableSource", "text_of"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class VariableSource:
    """The logical rows of a variable."""

    variable: Variable
    block_nbytes: int = LISTS_NBYTES
    """Bytes of rows of various lengths that are read together."""

    @property
    def kind(self) -> Kind:
        """The kind of rows."""
        return self.variable.kind

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.variable)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        return self.variable.dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.variable.row_shape

    @property
    def about(self) -> Description:
        """Metadata of the variable."""
        return self.variable.about

    def blocks(self, block_rows: int) -> Iterator[Any]:
        """Yield rows read from their pieces."""
        if self.kind != "dense":
            yield from self._lists()
            return
        for start in range(0, len(self.variable), block_rows):
            yield self.variable.read(start, min(start + block_rows, len(self.variable)))

    def _lists(self) -> Iterator[Ragged]:
        """Yield rows of various lengths, as many as take the memory; one row may take more."""
        variable, bounds = self.variable, self.variable.bounds
        item_nbytes = sum(source.row_nbytes for source in variable.sources)
        for lo, hi in spans(len(variable), max(1, self.block_nbytes // bounds.row_nbytes)):
            rows = bounds.read(lo, hi)
            ends = np.cumsum((rows[:, 1] - rows[:, 0]) * item_nbytes)
            start = 0
            while start < hi - lo:
                before = ends[start - 1] if start else 0
                stop = max(start + 1, int(np.searchsorted(ends, before + self.block_nbytes, side="right")))
                yield variable.holding(rows[start:stop]).read()
                start = stop


@dataclass(frozen=True, slots=True, eq=False)
class IndexSource:
    """The entries of an index, computed part by part."""

    index: NewIndex
    row_shape: tuple[int, ...] = ()

    @property
    def n_rows(self) -> int:
        """The number of entries."""
        return self.index.n_rows

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the entries."""
        return self.index.dtype

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the entries."""
        for lo, hi in spans(self.index.n_rows, min(block_rows, STEP_ROWS)):
            yield self.index.slice(lo, hi).astype(self.index.dtype)


def text_of(source: Source) -> tuple[float, TextSize | None]:
    """Return the average bytes of the texts of a row, and their size if it is known for certain.

    The average is a guess from the first rows; 0 if they cannot be read.
    """
    if source.dtype.kind != "T":
        return 0.0, None
    match source:
        case ArraySource(values):
            return sampled_nbytes(values), None
        case StreamSource(first):
            return sampled_nbytes(first), None
        case ColumnSource(whole):
            return text_of(whole)[0] / max(1, whole.row_shape[0]), None
        case VariableSource(variable) if (size := _text_of_variable(variable)) is not None:
            return size.nbytes / max(1, len(variable)), size
    return 0.0, None


def _text_of_variable(variable: Variable) -> TextSize | None:
    """Return the largest size of the texts of a variable; None for texts in memory or of earlier versions."""
    n_texts = math.prod(variable.row_shape)
    size = TextSize(0, 0)
    for piece in variable.pieces:
        array = piece.array
        if (text := array.text) is not None:
            row = text.nbytes / max(1, array.n_rows)
            size = size.with_rows(TextSize(int(row * piece.n_rows), text.largest_nbytes))
        elif array.dtype.kind == "T" and array.constant is None:
            return None
        else:  # a number takes no more than 64 characters, a character no more than 4 bytes
            row_nbytes = n_texts * (4 + (array.dtype.itemsize if array.dtype.kind in "US" else 64))
            size = size.with_rows(TextSize(row_nbytes * piece.n_rows, row_nbytes))
    n_stored = max(1, variable.offsets[-1])
    return TextSize(int(size.nbytes / n_stored * len(variable)), size.largest_nbytes)
