"""Text: the contents of a gate or view as a table of cells; from metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from storegate.display.widths import aligned
from storegate.parsing import ALL, PHASES
from storegate_engine.budget import format_nbytes
from storegate_engine.store import Repository
from storegate_engine.table import Variable

__all__ = ["DETAILS", "Cells", "details", "table_text"]

Cells: TypeAlias = Sequence[Sequence[str]]
HEADER = ("phase", "backend", "var_names", "dtype", "total events", "var_shape")
DETAILS = ("phase", "rows", "share", "variable", "dtype", "shape", "bytes", "backend", "pending")


def table_text(repository: Repository, data_id: str | None) -> str:
    """Return the table that ``show_info`` prints: all variables of all phases."""
    table = repository.table
    rows = [
        (
            phase,
            repository.backend,
            variable.name,
            str(variable.dtype),
            str(len(variable)),
            str(variable.row_shape),
        )
        for phase, variable in table
    ]
    state = "compiled" if table.compiled else "not compiled"
    return f"StoreGate data_id : {data_id}, {state}\n{aligned([HEADER, *rows])}"


def details(
    repository: Repository | None, phase: str | None = None, names: Sequence[str] | None = None
) -> list[Sequence[str]] | None:
    """Return one line per variable of a phase (None for all); None if there is no repository."""
    if repository is None:
        return None
    table = repository.table
    lines: list[Sequence[str]] = []
    for at in PHASES if phase in (None, ALL) else (phase,):
        for name, variable in table[at].items():
            if names is None or name in names:
                total = sum(len(table[one][name]) for one in PHASES if name in table[one]) or 1
                share = f"{100 * len(variable) / total:.0f}%"
                size = (str(variable.dtype), str(variable.row_shape), format_nbytes(variable.nbytes))
                lines.append((at, str(len(variable)), share, name, *size, repository.backend, _pending(variable)))
    return lines


def _pending(variable: Variable) -> str:
    """Return the transforms still to be applied when rows are read."""
    transforms = {str(transform): None for piece in variable.pieces for transform in piece.transforms}
    order = "" if variable.order.form == "range" else variable.order.form
    return ", ".join([*filter(None, [order]), *transforms]) or "-"
