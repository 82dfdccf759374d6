"""Buckets: steps of rows of about the same length, so that padding them costs little; pure.

::

    the positions of an epoch, in windows of 64 steps:   | 64 k positions | 64 k positions | ... | rest
    the rows of a window are sorted by their length and cut into steps again
    its steps come in random order, and so do the rows of each step

Each row comes once, as before. A last step that is not full keeps its rows, which are a sample of all.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.orders import Nested, Span
from storegate_engine.streams.epochs import keyed_permutation

__all__ = ["Bucketed"]

Int64Array: TypeAlias = npt.NDArray[np.int64]

WINDOW_STEPS = 64
"""Steps whose rows are sorted together."""
_KEY = (64, 0)
"""Ends the keys of permutations here, so that no others have the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Bucketed(Nested):
    """Rows of another order, steps of which have about the same length."""

    lengths: npt.NDArray[np.integer[Any]]
    """The length of each row that the other order names."""
    step_rows: int
    """Rows of a step."""
    seed: int
    """The seed of the order."""
    epoch: int
    """The number of the epoch."""
    version: int
    """The version of how seeds and epochs become orders."""

    # by identity: those of the base compare the other order alone, and windows are kept by order
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    def __len__(self) -> int:
        return len(self.order)

    @property
    def window_rows(self) -> int:
        """Rows of a full window."""
        return WINDOW_STEPS * self.step_rows

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self._take(np.arange(lo, hi, dtype=np.int64))

    def _take(self, indices: Int64Array) -> Int64Array:
        out = np.empty(len(indices), np.int64)
        for number in np.unique(indices // self.window_rows).tolist():
            of = indices // self.window_rows == number
            out[of] = _window(self, number)[0][indices[of] - number * self.window_rows]
        return out

    def _find(self, stored: Int64Array) -> Int64Array:
        found = self.order._find(stored)
        for number in np.unique(found[found >= 0] // self.window_rows).tolist():
            of = (found >= 0) & (found // self.window_rows == number)
            places = np.argsort(_window(self, number)[1])
            found[of] = number * self.window_rows + places[found[of] - number * self.window_rows]
        return found

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return None


@lru_cache(maxsize=4)
def _window(order: Bucketed, number: int) -> tuple[Int64Array, Int64Array]:
    """Return the rows of a window, and the positions in it that they had in the other order."""
    first = number * order.window_rows
    rows = order.order._rows(first, min(first + order.window_rows, len(order)))
    n_steps = len(rows) // order.step_rows
    key = (order.seed, order.epoch, number, *_KEY)
    full = n_steps * order.step_rows
    # rows of equal length in random order, so that they do not always meet in the same step
    mixed = keyed_permutation(full, *key, 0, version=order.version)
    by_length = mixed[np.argsort(order.lengths[rows[mixed]], kind="stable")].reshape(n_steps, order.step_rows)
    steps = by_length[keyed_permutation(n_steps, *key, 1, version=order.version)]
    within = keyed_permutation(full, *key, 2, version=order.version).reshape(n_steps, order.step_rows)
    places = np.take_along_axis(steps, np.argsort(within, axis=1), axis=1).reshape(-1)
    places = np.concatenate([places, np.arange(full, len(rows))])
    return rows[places], places
