"""Reading: names and selections as rows, in memory or as dask arrays; knows variables, and no gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import dask.array as da
import numpy as np

from storegate.parsing.inputs import Names
from storegate.parsing.phases import ALL, PHASES, require_compiled
from storegate.parsing.selection import OneRow, RowRange, Rows, Selection, n_selected
from storegate_engine.arrays import Capacity
from storegate_engine.casts import combined
from storegate_engine.errors import DtypeError, ShapeError
from storegate_engine.exchange import task_nbytes
from storegate_engine.graphs import blocks_of, to_dask
from storegate_engine.table import Table, Variable

__all__ = ["Subset", "read", "read_lazy", "require_stackable", "whole"]


def whole(table: Table, phase: str, name: str) -> Variable:
    """Return a variable of one phase, or of all phases concatenated.

    Raises
    ------
    NotCompiledError
        All phases of a table that is not compiled.
    VariableNotFoundError
        A phase that has rows does not have it.
    """
    if phase != ALL:
        return table.variable(phase, name)
    require_compiled(table.compiled, "reading")
    phases = [at for at in PHASES if table[at]] or list(PHASES[:1])
    joined = table.variable(phases[0], name)
    for at in phases[1:]:
        joined = joined.appended(table.variable(at, name))
    return joined


def require_stackable(variables: Sequence[Variable]) -> None:
    """Refuse to stack variables whose rows form no array, before any is read.

    Raises
    ------
    ShapeError
        Their rows have different shapes.
    DtypeError
        No dtype leaves the values of all what they are: numbers and text, dates and durations.
    """
    first = variables[0]
    dtype = first.dtype
    for variable in variables[1:]:
        remedy = "a list of names gives an array for each"
        if variable.row_shape != first.row_shape:
            raise ShapeError(
                f"variables {first.name!r} and {variable.name!r} cannot be stacked: their rows have the shapes "
                f"{first.row_shape} and {variable.row_shape}; {remedy}"
            )
        try:
            dtype = combined(dtype, variable.dtype)
        except DtypeError as err:
            raise DtypeError(f"variable {variable.name!r} cannot be stacked behind {dtype}: {err}; {remedy}") from err


def read(names: Names, variables: Sequence[Variable], selections: Sequence[Selection], budget_nbytes: int) -> Any:
    """Return selected rows as ndarrays, in the form of the names; within the budget beside these."""
    if names.form == "stack":
        require_stackable(variables)
        _require_alike(variables, selections)
    spare = task_nbytes(budget_nbytes, 1, copies=1)
    parts = [_read_one(variable, selection, spare) for variable, selection in zip(variables, selections, strict=True)]
    match names.form:
        case "one":
            return parts[0]
        case "each":
            return parts
    return np.stack(parts, axis=0 if isinstance(selections[0], OneRow) else 1)


def _require_alike(variables: Sequence[Variable], selections: Sequence[Selection]) -> None:
    counts = {variable.name: n_selected(rows) for variable, rows in zip(variables, selections, strict=True)}
    if len(set(counts.values())) > 1:
        raise ShapeError(f"variables of different numbers of rows cannot be stacked: {counts}; use a list of names")


def _read_one(variable: Variable, selection: Selection, spare_nbytes: int) -> Any:
    match selection:
        case OneRow(row):
            rows = variable.read(row, row + 1, spare_nbytes=spare_nbytes)
            return rows[0]
        case RowRange(start, stop):
            return variable.read(start, stop, spare_nbytes=spare_nbytes)
        case Rows(index):
            return variable.pick(index, spare_nbytes=spare_nbytes)


def read_lazy(names: Names, variables: Sequence[Variable], selections: Sequence[Selection], limits: Capacity) -> Any:
    """Return selected rows as dask arrays, in the form of the names; reads nothing."""
    if names.form == "stack":
        require_stackable(variables)
    cuts = [_cut(variable, selection) for variable, selection in zip(variables, selections, strict=True)]
    if len({len(cut) for cut in cuts}) > 1:
        raise ShapeError(f"the variables have different numbers of rows: {[len(cut) for cut in cuts]}")
    rows = blocks_of(cuts, limits)
    arrays = [to_dask(cut, rows, limits) for cut in cuts]
    if isinstance(selections[0], OneRow):
        arrays = [array[0] for array in arrays]
    match names.form:
        case "one":
            return arrays[0]
        case "each":
            return arrays
    return da.stack(arrays, axis=0 if isinstance(selections[0], OneRow) else 1)


def _cut(variable: Variable, selection: Selection) -> Variable:
    match selection:
        case OneRow(row):
            return variable.cut(row, row + 1)
        case RowRange(start, stop):
            return variable.cut(start, stop)
        case Rows(index):
            return variable.selected(index)


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """Rows of a phase, none of which is read."""

    n_rows: int
    """The rows that the phase had."""
    selections: tuple[Selection, ...]
    """Which of them, then which of these, and so on."""

    def __len__(self) -> int:
        return n_selected(self.selections[-1])

    def of(self, variable: Variable) -> Variable:
        """Return these rows of a variable.

        Raises
        ------
        ShapeError
            The phase has another number of rows by now.
        """
        if len(variable) != self.n_rows:
            raise ShapeError(
                f"a subset of {self.n_rows} rows of variable {variable.name!r}, which has {len(variable)} by now; take "
                "the subset again"
            )
        return reduce(_cut, self.selections, variable)
