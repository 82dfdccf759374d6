"""Differences: what differs between two states of a table; pure, reads nothing."""

from __future__ import annotations

from dataclasses import dataclass

from storegate_engine.arrays import RowArray
from storegate_engine.encodings import row_nbytes
from storegate_engine.table.table import PHASES, Table
from storegate_engine.table.variable import Variable

__all__ = ["Difference", "added", "compare"]


def added(before: Table, after: Table) -> tuple[int, int]:
    """Return the number of rows added in all phases, and the bytes of the rows stored for them."""
    rows = sum(_longest(after, phase) - _longest(before, phase) for phase in PHASES)
    new = _arrays(after) - _arrays(before)
    return rows, sum(array.n_rows * row_nbytes(array.dtype, array.row_shape) for array in new)


def _longest(table: Table, phase: str) -> int:
    return max((len(variable) for variable in table[phase].values()), default=0)


def _arrays(table: Table) -> set[RowArray]:
    variables = (*(variable for _, variable in table), *table.shared.values())
    arrays = (part for of in variables for piece in of.pieces for part in piece.arrays)
    return {array for array in arrays if not hasattr(array, "value")}


@dataclass(frozen=True, slots=True)
class Difference:
    """What changed in one variable of one phase."""

    phase: str
    """The phase."""
    name: str
    """The variable's name."""
    what: str
    """``added``, ``removed``, or what has changed: ``rows``, ``dtype``, ``shape``, ``values``, ``order``."""
    before: str
    """Rows, dtype and shape of one row in the first state; ``-`` if it is not there."""
    after: str
    """The same in the second state."""


def compare(before: Table, after: Table) -> list[Difference]:
    """Return the differences between two tables; variables with equal rows are left out."""
    found = []
    for phase in PHASES:
        for name in dict.fromkeys([*before[phase], *after[phase]]):
            old, new = before[phase].get(name), after[phase].get(name)
            if what := _what(old, new):
                found.append(Difference(phase, name, what, _described(old), _described(new)))
    return found


def _what(old: Variable | None, new: Variable | None) -> str:
    if old is None:
        return "added"
    if new is None:
        return "removed"
    aspects = {
        "rows": len(old) != len(new),
        "dtype": old.dtype != new.dtype,
        "shape": old.row_shape != new.row_shape,
        "values": old.pieces != new.pieces,
        "order": old.order != new.order and len(old) == len(new),
    }
    return ", ".join(aspect for aspect, differs in aspects.items() if differs)


def _described(variable: Variable | None) -> str:
    if variable is None:
        return "-"
    shape = variable.row_shape if variable.kind == "dense" else variable.row_shape_in_words
    return f"{len(variable)} rows of {variable.dtype} {shape}"
