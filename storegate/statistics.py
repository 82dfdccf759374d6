"""Statistics: summaries of the rows of variables; what is not known takes one pass over them, within the budget."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate.reading import all_rows, parts_of
from storegate_engine.arrays import Statistics, Tally
from storegate_engine.table import Moments, Variable, known_of
from storegate_engine.threads import Pending, ThreadPool

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe", "moments_of", "statistics_of"]

Array: TypeAlias = np.ndarray[Any, Any]

N_THREADS = min(4, os.cpu_count() or 1)
"""Threads that read and count."""


def describe(variables: Sequence[Variable], budget_nbytes: int) -> pd.DataFrame:
    """Return one line of statistics per variable, over all values of its rows."""
    import pandas as pd  # deferred on purpose: it takes a third of a second

    names = pd.Index([variable.name for variable in variables], name="variable")
    lines = statistics_of(variables, budget_nbytes)
    if not variables:
        return pd.DataFrame(lines, index=names)
    # as objects: integers stay exact beside floats, and months, of which pandas knows none, are no days
    types: dict[str, Any] = {"mean": float, "std": float, "min": object, "max": object}
    columns = {key: pd.Series([line[key] for line in lines], names, types.get(key)) for key in lines[0]}
    return pd.DataFrame(columns)


def statistics_of(variables: Sequence[Variable], budget_nbytes: int) -> list[dict[str, Any]]:
    """Return the statistics of each variable by name; what it has none of, such as a mean of texts, is None."""
    return [_Summary.of(variable, budget_nbytes).line() for variable in variables]


def moments_of(variable: Variable, axes: tuple[int, ...], budget_nbytes: int, *, ends: bool = False) -> Moments:
    """Return the moments of all rows over the samples and some other axes, read once by several threads.

    Rows of a shuffled phase are read in stored order; blocks are joined in the same order on every machine.
    """
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(variable.shape))[1:]
    found = Moments.none(shape, variable.dtype)
    pool = ThreadPool(N_THREADS, "storegate-moments")
    waiting: deque[Pending[Moments]] = deque()
    free: deque[Array] = deque()
    try:
        for part in parts_of(variable, budget_nbytes // (N_THREADS + 1)):
            waiting.append(pool.submit(partial(_moments_of, *part, axes, ends, free)))
            if len(waiting) > 2 * N_THREADS:
                found = found.joined(waiting.popleft().result())
        for pending in waiting:
            found = found.joined(pending.result())
    finally:
        pool.close()
    return found


def _moments_of(variable: Variable, lo: int, hi: int, axes: tuple[int, ...], ends: bool, free: deque[Array]) -> Moments:
    try:
        memory = free.pop()  # of a part before, none of which is shorter than a later one
    except IndexError:
        memory = np.empty((hi - lo, *variable.row_shape), variable.dtype)
    rows = memory[: hi - lo]
    variable.read_into(lo, hi, rows, alone=True)
    found = Moments.of(rows, axes, ends=ends)
    free.append(memory)
    return found


@dataclass(slots=True)
class _Summary:
    """Statistics of the values of a variable."""

    variable: Variable
    found: Statistics
    n_values: int
    """The number of values, missing ones included."""
    mean: float = math.nan
    std: float = math.nan

    @classmethod
    def of(cls, variable: Variable, budget_nbytes: int) -> _Summary:
        """Return what is known; read all rows once for the rest: means, and ends that are not exact."""
        known = known_of(variable)
        kind = variable.dtype.kind
        if kind in "UST":
            n_values = math.prod(variable.shape)
            if variable.kind == "ragged":
                n_values = variable.n_items()
            return cls(variable, Statistics(), n_values)
        if known is not None and known.is_exact:
            summary = cls(variable, known.statistics, math.prod(variable.shape))
            least, most = known.statistics.least, known.statistics.most
            if kind not in "biuf" or least is None:
                return summary
            if least == most and math.isfinite(least):
                summary.mean, summary.std = float(least), 0.0
            else:
                summary._count(moments_of(variable, tuple(range(len(variable.shape))), budget_nbytes))
            return summary
        return cls._read(variable, budget_nbytes)

    @classmethod
    def _read(cls, variable: Variable, budget_nbytes: int) -> _Summary:
        tally, moments, n_values = Tally(variable.dtype), Moments.none((1,) * len(variable.row_shape)), 0
        for rows in all_rows(variable, budget_nbytes):
            tally.add(rows)
            n_values += rows.size
            if variable.dtype.kind in "biuf":
                moments = moments.joined(Moments.of(rows, tuple(range(rows.ndim))))
        summary = cls(variable, tally.found(), n_values)
        summary._count(moments)
        return summary

    def _count(self, moments: Moments) -> None:
        if moments.count.item():
            self.mean, self.std = moments.mean.item(), moments.std.item()

    def line(self) -> dict[str, Any]:
        """Return the statistics by name."""
        ends = self.found.extremes(self.variable.dtype)
        return {
            "dtype": str(self.variable.dtype),
            "shape": self.variable.shape,
            "count": self.n_values - self.found.n_missing,
            "missing": self.found.n_missing,
            "infinite": self.found.n_infinite,
            "mean": None if math.isnan(self.mean) else self.mean,
            "std": None if math.isnan(self.std) else self.std,
            "min": None if ends is None else ends[0],
            "max": None if ends is None else ends[1],
        }
