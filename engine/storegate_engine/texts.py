"""Texts: bytes of variable-length text; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

__all__ = ["TextSize", "row_text_nbytes"]

Array: TypeAlias = np.ndarray[Any, Any]

SAMPLE_ROWS = 1000


@dataclass(frozen=True, slots=True)
class TextSize:
    """The bytes of the texts of rows as UTF-8, with four bytes for the length of each."""

    nbytes: int
    """Bytes of all rows."""
    largest_nbytes: int
    """Bytes of the largest row."""

    @classmethod
    def of(cls, row_nbytes: Array) -> TextSize:
        """Return the size of rows from the bytes of each."""
        return cls(int(row_nbytes.sum()), int(row_nbytes.max(initial=0)))

    def with_rows(self, other: TextSize) -> TextSize:
        """Return the size of these rows and others."""
        return TextSize(self.nbytes + other.nbytes, max(self.largest_nbytes, other.largest_nbytes))


def row_text_nbytes(rows: Array) -> Array:
    """Return the bytes of the texts of each row.

    >>> row_text_nbytes(np.array([["a", "é"], ["", ""]], np.dtypes.StringDType()))
    array([11,  8])
    """
    n_texts = math.prod(rows.shape[1:])
    lengths = np.fromiter((len(text.encode()) for text in rows.reshape(-1).tolist()), np.int64, rows.size)
    nbytes: Array = lengths.reshape(len(rows), n_texts).sum(axis=1)
    nbytes += 4 * n_texts
    return nbytes


def sampled_nbytes(rows: Array) -> float:
    """Return the mean bytes of a row of text, from some of the rows."""
    some = rows[:: max(1, len(rows) // SAMPLE_ROWS)]
    return float(row_text_nbytes(some).mean()) if len(some) else 0.0
