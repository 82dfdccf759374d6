"""Statistics: summaries of the rows of variables; what is not known takes one pass over them, within the budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate.reading import all_rows
from storegate_engine.arrays import Statistics, Tally
from storegate_engine.table import Variable, known_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe"]

Array: TypeAlias = np.ndarray[Any, Any]


def describe(variables: Sequence[Variable], budget_nbytes: int) -> pd.DataFrame:
    """Return one line of statistics per variable, over all values of its rows."""
    import pandas as pd  # deferred on purpose: it takes a third of a second

    names = pd.Index([variable.name for variable in variables], name="variable")
    found = pd.DataFrame([_Summary.of(variable, budget_nbytes).line() for variable in variables], index=names)
    return found.astype({"min": object, "max": object}) if variables else found  # integers stay exact beside floats


@dataclass(slots=True)
class _Moments:
    """Running mean and deviation of the values that are not missing."""

    count: int = 0
    """Number of values."""
    mean: float = math.nan
    squares: float = math.nan
    """The sum of the squared differences from the mean."""

    @classmethod
    def of_equal(cls, count: int, value: float) -> _Moments:
        """Return those of equal values."""
        return cls(count, value, 0.0)

    def add(self, values: Array) -> None:
        """Merge more values (Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983)."""
        if not values.size:
            return
        with np.errstate(invalid="ignore", over="ignore"):  # infinite values count
            mean = float(values.mean(dtype=np.float64))
            squares = float(np.square(values.astype(np.float64) - mean).sum())
            if not self.count:
                self.count, self.mean, self.squares = values.size, mean, squares
                return
            both, delta = self.count + values.size, mean - self.mean
            self.mean += delta * values.size / both
            self.squares += squares + delta * delta * self.count * values.size / both
            self.count = both

    @property
    def std(self) -> float:
        """The deviation of the population."""
        return math.sqrt(self.squares / self.count) if self.count else math.nan


@dataclass(slots=True)
class _Summary:
    """Statistics of the values of a variable."""

    variable: Variable
    found: Statistics
    moments: _Moments = field(default_factory=_Moments)

    @classmethod
    def of(cls, variable: Variable, budget_nbytes: int) -> _Summary:
        """Return what is known; read all rows once for the rest: means, and ends that are not exact."""
        known = known_of(variable)
        kind = variable.dtype.kind
        if kind in "UST":
            return cls(variable, Statistics())
        if known is not None and known.is_exact:
            summary = cls(variable, known.statistics)
            least, most, n_missing = known.statistics.least, known.statistics.most, known.statistics.n_missing
            if kind not in "biuf" or least is None:
                return summary
            if least == most and math.isfinite(least):
                summary.moments = _Moments.of_equal(math.prod(variable.shape) - n_missing, float(least))
                return summary
            for rows in all_rows(variable, budget_nbytes):
                summary.moments.add(rows[~np.isnan(rows)] if n_missing else rows)
            return summary
        return cls._read(variable, budget_nbytes)

    @classmethod
    def _read(cls, variable: Variable, budget_nbytes: int) -> _Summary:
        tally, moments = Tally(variable.dtype), _Moments()
        for rows in all_rows(variable, budget_nbytes):
            tally.add(rows)
            if variable.dtype.kind in "biuf":
                moments.add(rows[~np.isnan(rows)] if variable.dtype.kind == "f" else rows)
        return cls(variable, tally.found(), moments)

    def line(self) -> dict[str, Any]:
        """Return the statistics by name."""
        ends = self.found.extremes(self.variable.dtype)
        return {
            "dtype": str(self.variable.dtype),
            "shape": self.variable.shape,
            "count": math.prod(self.variable.shape) - self.found.n_missing,
            "missing": self.found.n_missing,
            "infinite": self.found.n_infinite,
            "mean": self.moments.mean,
            "std": self.moments.std,
            "min": None if ends is None else ends[0],
            "max": None if ends is None else ends[1],
        }
