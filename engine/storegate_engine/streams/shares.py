"""Shares: the rows of one rank, or of several ranks on one machine, in the order of an epoch; pure.

::

    step           0               1               2           3 (the last one is shorter)
    positions      0 0 0 1 1 1 2 2 0 0 0 1 1 1 2 2 0 0 0 1 ..  0 0 1 2      the rank that has each
    Share(1)             0 1 2           3 4 5           6 ..      9        the rows of rank 1
    Dealt, 2 steps a bucket:       rank 0 of steps 0, 1 | rank 1 of steps 0, 1 | rank 2 .. | rank 0 of steps 2, 3 | ..
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import NotInvertibleError
from storegate_engine.orders import Nested, RowOrder, Span, join_runs
from storegate_engine.streams.epochs import Epochs

__all__ = ["Chained", "Dealt", "Share"]

Int64Array: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _OfSteps(Nested):
    """The base of orders that name the positions of some ranks in all steps of an epoch."""

    epochs: Epochs
    """The steps, the rank and the number of all ranks."""

    @property
    def is_injective(self) -> bool:
        """Whether no stored row is named twice; False if the first rows fill up the last step."""
        return self.epochs.n_positions <= self.epochs.n_rows and self.order.is_injective

    @abstractmethod
    def _positions(self, rows: Int64Array) -> Int64Array:
        """Return the positions of rows of this order."""

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self._take(np.arange(lo, hi, dtype=np.int64))

    def _take(self, indices: Int64Array) -> Int64Array:
        if not indices.size:
            return np.empty(0, np.int64)
        return self.order._take(self._positions(indices) % len(self.order))

    def _require_invertible(self) -> None:
        if self.epochs.n_positions > self.epochs.n_rows:
            raise NotInvertibleError("an epoch that is filled up with its first rows repeats them")


@dataclass(frozen=True, slots=True)
class Share(_OfSteps):
    """A rank's slices of all steps of an epoch, concatenated, in the order of the epoch."""

    @property
    def step_rows(self) -> int:
        """Rows of this rank in a full step."""
        epochs = self.epochs
        k = epochs.batch_rows
        return k * (epochs.rank + 1) // epochs.world - k * epochs.rank // epochs.world

    @property
    def begins(self) -> None:
        """The first row of each bucket, if that is not a multiple of the rows of one."""
        return

    def start(self, step: int) -> int:
        """Return the index of the first row of a step; the number of rows for the step after the last one."""
        if step < self.epochs.n_steps:
            return step * self.step_rows
        if not step:
            return 0
        first, last = self.epochs.part(step - 1)
        return (step - 1) * self.step_rows + last - first

    def __len__(self) -> int:
        return self.start(self.epochs.n_steps)

    def _positions(self, own: Int64Array) -> Int64Array:
        """Return the positions of rows of this rank."""
        # Full steps give this rank equal numbers of rows; the last step is divided separately:
        #
        #     positions    | step 0: rank 0, 1, 2 | step 1: rank 0, 1, 2 | last: 0, 1, 2 |
        #     own          |         rank 1       |         rank 1       |       1       |    concatenated
        epochs, last = self.epochs, self.epochs.n_steps - 1
        steps = own // self.step_rows if self.step_rows else np.full(own.size, last)
        offset = epochs.batch_rows * epochs.rank // epochs.world
        positions = own - steps * self.step_rows + steps * epochs.batch_rows + offset
        at_end = own >= self.start(last)
        positions[at_end] = own[at_end] - self.start(last) + epochs.part(last)[0]
        return positions

    def _find(self, stored: Int64Array) -> Int64Array:
        epochs = self.epochs
        self._require_invertible()
        # `_positions` backwards: the step of a position, and its place among the rows of this rank
        found = self.order._find(stored)
        steps = found // epochs.batch_rows
        out = np.full(found.size, -1, np.int64)
        last = epochs.n_steps - 1
        offset = epochs.batch_rows * epochs.rank // epochs.world
        within = found - steps * epochs.batch_rows - offset
        full = (found >= 0) & (steps < last) & (within >= 0) & (within < self.step_rows)
        out[full] = steps[full] * self.step_rows + within[full]
        if last >= 0:
            first, stop = epochs.part(last)
            at_end = (found >= first) & (found < stop)
            out[at_end] = found[at_end] - first + self.start(last)
        return out

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return join_runs(self.order._runs(first, last) for first, last in self._spans(lo, hi))

    def _spans(self, lo: int, hi: int) -> Iterator[Span]:
        """Yield the rows lo .. hi-1 as slices of the order."""
        n = len(self.order)
        step = min(lo // max(1, self.step_rows), self.epochs.n_steps - 1)
        while lo < hi:
            start = self.start(step)
            take = min(hi, self.start(step + 1)) - lo
            first = self.epochs.part(step)[0] + lo - start
            while take > 0:
                part = min(take, n - first % n)
                yield Span(first % n, first % n + part)
                first, take, lo = first + part, take - part, lo + part
            step += 1


@dataclass(frozen=True, slots=True)
class Chained(Nested):
    """The rows of an epoch by their places in the epoch before, as if they were stored in its order."""

    before: RowOrder
    """The order of the epoch before, of the same rows."""

    def __len__(self) -> int:
        return len(self.order)

    def _rows(self, lo: int, hi: int) -> Int64Array:
        return self.before._find(self.order._rows(lo, hi))

    def _take(self, indices: Int64Array) -> Int64Array:
        return self.before._find(self.order._take(indices))

    def _find(self, stored: Int64Array) -> Int64Array:
        return self.order._find(self.before._take(stored))

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return None


@dataclass(frozen=True, slots=True)
class Dealt(_OfSteps):
    """The slices of adjacent ranks, bucket after bucket of some steps, and in each bucket rank after rank.

    A rank finds its rows of a bucket together, and one pass over stored rows serves all ranks.
    """

    ranks: Span
    """The first of the ranks, and the end."""
    steps: int
    """Steps of a bucket; the last one may have fewer."""
    begins: Int64Array = field(init=False, compare=False, repr=False)
    """The first row of each rank in each bucket, and the end."""

    def __post_init__(self) -> None:
        first, last = self.ranks
        ranks = np.arange(first, last)
        n_buckets = -(-self.epochs.n_steps // self.steps)
        sizes = np.tile(self.steps * self._step_rows(ranks), (n_buckets, 1))
        if n_buckets:
            full, rest = divmod(self.epochs.n_positions - (n_buckets - 1) * self._bucket_rows, self.epochs.batch_rows)
            begins, ends = _slices(rest, ranks, self.epochs.world)
            sizes[-1] = full * self._step_rows(ranks) + ends - begins
        object.__setattr__(self, "begins", np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64))

    @property
    def _bucket_rows(self) -> int:
        """Positions of a full bucket."""
        return self.steps * self.epochs.batch_rows

    @property
    def step_rows(self) -> int:
        """Most rows of one of the ranks in a step."""
        return -(-self.epochs.batch_rows // self.epochs.world)

    def _step_rows(self, ranks: Int64Array) -> Int64Array:
        """Return the rows of ranks in a full step."""
        begins, ends = _slices(self.epochs.batch_rows, ranks, self.epochs.world)
        return ends - begins

    def __len__(self) -> int:
        return int(self.begins[-1])

    def _positions(self, places: Int64Array) -> Int64Array:
        """Return the positions of rows."""
        k, world = self.epochs.batch_rows, self.epochs.world
        first, last = self.ranks
        parts = np.searchsorted(self.begins, places, side="right") - 1
        within = places - self.begins[parts]
        buckets, ranks = np.divmod(parts, last - first)
        ranks += first
        step_rows = self._step_rows(ranks)
        n_full, rest = divmod(self.epochs.n_positions, k)
        steps = buckets * self.steps + within // np.maximum(1, step_rows)
        at_end = (steps >= n_full) | (step_rows == 0)
        steps[at_end] = n_full
        offsets = within - (steps - buckets * self.steps) * step_rows
        sizes = np.where(at_end, rest, k)
        positions: Int64Array = steps * k + _slices(sizes, ranks, world)[0] + offsets
        return positions

    def _find(self, stored: Int64Array) -> Int64Array:
        epochs, (first, last) = self.epochs, self.ranks
        self._require_invertible()
        found = self.order._find(stored)
        out = np.full(found.size, -1, np.int64)
        steps, offsets = np.divmod(found, epochs.batch_rows)
        n_full, rest = divmod(epochs.n_positions, epochs.batch_rows)
        sizes = np.maximum(1, np.where(steps < n_full, epochs.batch_rows, rest))
        ranks = ((offsets + 1) * epochs.world - 1) // sizes
        own = (found >= 0) & (found < epochs.n_positions) & (ranks >= first) & (ranks < last)
        steps, offsets, ranks, sizes = steps[own], offsets[own], ranks[own], sizes[own]
        buckets, steps = np.divmod(steps, self.steps)
        begin = self.begins[buckets * (last - first) + ranks - first]
        out[own] = begin + steps * self._step_rows(ranks) + offsets - _slices(sizes, ranks, epochs.world)[0]
        return out

    def _runs(self, lo: int, hi: int) -> list[Span] | None:
        return None


def _slices(n_rows: int | Int64Array, ranks: Int64Array, world: int) -> tuple[Int64Array, Int64Array]:
    """Return the begins and ends of the slices of ranks in steps of some positions."""
    return n_rows * ranks // world, n_rows * (ranks + 1) // world
