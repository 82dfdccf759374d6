"""Moments: number, mean, deviation and ends of values, counted block by block and joined; reads no rows itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Moments"]

Array: TypeAlias = npt.NDArray[Any]

CACHED_VALUES = 2**18
"""Values that are counted at a time, in the cache: half as many take a fifth longer, for what calls cost."""
WIDTH = 1024
"""Values that are added up side by side."""
FIRST_ROWS = 256
"""Rows whose mean is near that of all: their differences from it are small numbers, whose squares lose no digits."""
_FLOAT = np.dtype(np.float64)
LEAST_SHARE = 1e-6
"""Variances of a smaller share of the squared mean are counted about a mean."""


@dataclass(frozen=True, slots=True, eq=False)
class Moments:
    """Those of values over the samples and some other axes; each array has the shape of a row, 1 where it was reduced.

    Sums of squares about the mean are joined exactly as if all values had been counted at once (Chan, Golub and
    LeVeque, Algorithms for computing the sample variance, 1983), so that a large offset costs no digits.
    """

    count: Array
    """How many values there are that are not missing, as int64."""
    mean: Array
    """Their means, in float64."""
    squares: Array
    """The sums of their squared differences from the mean."""
    least: Array
    """The smallest ones, in the dtype of the values: its largest number if there are none, or they were not counted."""
    most: Array
    """The largest ones; if there are none, its smallest number."""

    @classmethod
    def none(cls, shape: tuple[int, ...], dtype: np.dtype[Any] = _FLOAT) -> Self:
        """Return those of no values of a dtype."""
        zeros = np.zeros(shape)
        ends = (0, 1) if dtype.kind == "b" else (-np.inf, np.inf)
        if dtype.kind in "iu":
            ends = (np.iinfo(dtype).min, np.iinfo(dtype).max)
        most, least = (np.full(shape, end, dtype) for end in ends)
        return cls(zeros.astype(np.int64), zeros, zeros, least, most)

    @classmethod
    def of(cls, rows: Array, axes: tuple[int, ...], *, ends: bool = False) -> Self:
        """Return those of rows, over axis 0 and some others; with the smallest and largest only if asked."""
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(rows.shape))[1:]
        if not rows.size:
            return cls.none(shape, rows.dtype)
        with np.errstate(invalid="ignore", over="ignore"):  # infinite values count
            count: Array = np.full((1, *shape), rows.size // math.prod(shape), np.int64)
            found = cls._about(None, rows, axes, count)
            if rows.dtype.kind == "f" and np.isnan(found.mean).any():  # a value is missing, or infinite ones meet
                count = np.count_nonzero(~np.isnan(rows), axis=axes, keepdims=True)
                near = np.nan_to_num(rows, nan=0, posinf=np.inf, neginf=-np.inf).sum(axes, np.float64, keepdims=True)
                found = cls._about(near / np.maximum(count, 1), rows, axes, count, some_missing=True)
            elif (found.squares < LEAST_SHARE * found.count * np.square(found.mean)).any():  # digits were lost
                near = rows[:FIRST_ROWS].mean(axis=axes, keepdims=True, dtype=np.float64)
                found = cls._about(near, rows, axes, count)
            if ends:
                some_missing = rows.dtype.kind == "f" and (count < rows.size // math.prod(shape)).any()
                pair = (np.fmin, np.fmax) if some_missing else (np.minimum, np.maximum)  # which take less time
                least, most = (_over(of, rows, axes)[0] for of in pair)
                found = replace(found, least=least, most=most)
        return found

    @classmethod
    def _about(
        cls, near: Array | None, rows: Array, axes: tuple[int, ...], count: Array, *, some_missing: bool = False
    ) -> Self:
        """Return those of rows, counted as differences from ``near`` if it is given."""
        sums, squares = np.zeros(count.shape), np.zeros(count.shape)
        step = min(len(rows), max(1, CACHED_VALUES // rows[:1].size))
        as_they_are = near is None and rows.dtype == np.float64
        # new memory for each part would take longer than its sums
        memory = np.empty((0 if as_they_are else step, *rows.shape[1:]))
        for lo in range(0, len(rows), step):
            values = rows[lo : lo + step]
            if not as_they_are:
                values = memory[: len(rows) - lo]
                np.copyto(values, rows[lo : lo + step], casting="unsafe")
            if near is not None:
                values -= near
            if some_missing:
                values[np.isnan(rows[lo : lo + step])] = 0
            more, squared = _sums(values, axes)
            sums += more
            squares += squared
        shift = sums / np.maximum(count, 1)
        squares = np.maximum(squares - shift * sums, 0)
        none = cls.none(sums.shape[1:], rows.dtype)
        mean = shift if near is None else near + shift
        return cls(count[0], mean[0], squares[0], none.least, none.most)

    def joined(self, other: Moments) -> Self:
        """Return those of the values of both."""
        both = self.count + other.count
        share = other.count / np.maximum(both, 1)
        with np.errstate(invalid="ignore", over="ignore"):
            delta = other.mean - self.mean
            is_finite = np.isfinite(delta)
            mean = np.where(is_finite, self.mean + delta * share, self.mean + other.mean)  # of infinite ones
            squares = self.squares + other.squares + np.where(is_finite, delta * delta * self.count * share, np.nan)
        least, most = np.fmin(self.least, other.least), np.fmax(self.most, other.most)
        return type(self)(both, mean, squares, least, most)

    @property
    def std(self) -> Array:
        """The deviations of the population; 0 where there are no values."""
        deviations: Array = np.sqrt(self.squares / np.maximum(self.count, 1))
        return deviations


def _sums(values: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return the sums of values and of their squares over axes, which are kept with one entry."""
    if 1 < len(axes) < values.ndim:
        return values.sum(axis=axes, keepdims=True), np.square(values).sum(axis=axes, keepdims=True)
    n_values = values[:1].size
    sums, squares = np.zeros(n_values), np.zeros(n_values)
    for part in _side_by_side(values):
        sums += part.sum(axis=0).reshape(-1, n_values).sum(axis=0)
        squares += np.einsum("ij,ij->j", part, part).reshape(-1, n_values).sum(axis=0)
    shape = (1, *values.shape[1:])
    sums, squares = sums.reshape(shape), squares.reshape(shape)
    return (sums, squares) if len(axes) == 1 else (sums.sum(keepdims=True), squares.sum(keepdims=True))


def _over(of: np.ufunc, rows: Array, axes: tuple[int, ...]) -> Array:
    """Return the smallest or largest of rows over axes, which are kept with one entry."""
    found = rows
    if len(axes) in (1, rows.ndim):
        parts = [of.reduce(part, axis=0).reshape(-1, rows[:1].size) for part in _side_by_side(rows)]
        found = np.concatenate(parts).reshape(-1, *rows.shape[1:])
    least: Array = of.reduce(found, axes, keepdims=True)
    return least


def _side_by_side(values: Array) -> Iterator[Array]:
    """Yield values as rows of several of theirs, and the rest: numpy is slow where the last axis is short."""
    n_values = values[:1].size
    together = max(1, WIDTH // n_values)
    n_whole = len(values) // together * together
    for part in (values[:n_whole].reshape(-1, together * n_values), values[n_whole:].reshape(-1, n_values)):
        if len(part):
            yield part
