"""Statistics: summaries of the rows of variables, in one pass over each that stays within the budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate_engine.exchange import task_nbytes
from storegate_engine.table import Variable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["describe"]

Array: TypeAlias = np.ndarray[Any, Any]

BLOCK_NBYTES = 16 * 2**20
"""Number of rows, in stored order, held at a time."""


def describe(variables: Sequence[Variable], budget_nbytes: int) -> pd.DataFrame:
    """Return one line of statistics per variable, over all values of its rows."""
    import pandas as pd  # deferred on purpose: it takes a third of a second

    names = pd.Index([variable.name for variable in variables], name="variable")
    found = pd.DataFrame([_Summary.of(variable, budget_nbytes).line() for variable in variables], index=names)
    return found.astype({"min": object, "max": object}) if variables else found  # integers stay exact beside floats


@dataclass(slots=True)
class _Summary:
    """Running statistics of the values of a variable."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int = 0
    """Number of values that are not missing."""
    missing: int = 0
    """Number of values that are NaN or NaT."""
    mean: float = math.nan
    squares: float = 0.0
    """The sum of the squared differences from the mean."""
    least: Any = None
    most: Any = None

    @classmethod
    def of(cls, variable: Variable, budget_nbytes: int) -> _Summary:
        """Read all rows of a variable once."""
        summary = cls(variable.dtype, variable.shape)
        for rows in _blocks(variable, budget_nbytes):
            summary.add(rows.reshape(-1))
        return summary

    def add(self, values: Array) -> None:
        """Include more values."""
        kind = values.dtype.kind
        if kind in "fc":
            present = values[~np.isnan(values)]
        elif kind in "mM":
            present = values[~np.isnat(values)]
        else:
            present = values
        self.missing += values.size - present.size
        if not present.size:
            return
        if kind in "biuf":
            self._add_moments(present)
        self.count += present.size
        if kind in "biufmM":
            least, most = present.min(), present.max()
            self.least = least if self.least is None else min(self.least, least)
            self.most = most if self.most is None else max(self.most, most)

    def _add_moments(self, values: Array) -> None:
        """Merge mean and squares (Chan, Golub and LeVeque, Algorithms for computing the sample variance, 1983)."""
        with np.errstate(invalid="ignore", over="ignore"):  # infinite values count
            mean = float(values.mean(dtype=np.float64))
            squares = float(np.square(values.astype(np.float64) - mean).sum())
            if not self.count:
                self.mean, self.squares = mean, squares
                return
            both, delta = self.count + values.size, mean - self.mean
            self.mean += delta * values.size / both
            self.squares += squares + delta * delta * self.count * values.size / both

    def line(self) -> dict[str, Any]:
        """Return the statistics by name."""
        has_moments = self.count and self.dtype.kind in "biuf"
        return {
            "dtype": str(self.dtype),
            "shape": self.shape,
            "count": self.count,
            "missing": self.missing,
            "mean": self.mean if has_moments else math.nan,
            "std": math.sqrt(self.squares / self.count) if has_moments else math.nan,
            "min": None if self.least is None else self.least,
            "max": None if self.most is None else self.most,
        }


def _blocks(variable: Variable, budget_nbytes: int) -> Iterator[Array]:
    """Yield all rows once, in the order that needs the least reading."""
    lowest, highest = variable.order.bounds if len(variable) else (0, -1)
    if variable.order.is_injective and highest - lowest + 1 == len(variable):  # a permutation of adjacent rows
        variable = variable.stored_rows().cut(lowest, highest + 1)
    in_order = variable.order.form == "range"
    nbytes = BLOCK_NBYTES if in_order else task_nbytes(budget_nbytes, 1)
    step = max(1, min(nbytes, task_nbytes(budget_nbytes, 1)) // max(1, variable.row_nbytes))
    for start in range(0, len(variable), step):
        yield variable.read(start, min(start + step, len(variable)))
