"""Rows that other software yields in batches: those of a raw file, and their labels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["BLOCK_ROWS", "Rows"]

BLOCK_ROWS = 2**14
"""Rows that are written at once."""


@dataclass(frozen=True)
class Rows:
    """The rows of a raw file, and their labels."""

    path: str
    """The raw file."""
    n_rows: int
    row_shape: tuple[int, ...]
    dtype: str

    @property
    def x(self) -> np.ndarray[Any, Any]:
        """The rows, as a memmap."""
        return np.memmap(self.path, self.dtype, "r", shape=(self.n_rows, *self.row_shape))

    @property
    def y(self) -> np.ndarray[Any, Any]:
        """The labels."""
        return np.arange(self.n_rows) % 10

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return math.prod(self.row_shape)

    def blocks(self) -> Iterator[tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]]:
        """Yield consecutive rows and labels."""
        x, y = self.x, self.y
        for start in range(0, self.n_rows, BLOCK_ROWS):
            yield np.array(x[start : start + BLOCK_ROWS]), y[start : start + BLOCK_ROWS]

    def singles(self) -> Iterator[tuple[int, np.ndarray[Any, Any], int]]:
        """Yield every row's number, the row and its label."""
        number = 0
        for x, y in self.blocks():
            for row, label in zip(x, y.tolist(), strict=True):
                yield number, row, label
                number += 1
