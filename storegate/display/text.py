"""Text: the contents of a gate or view as a table of cells; from metadata alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from storegate.parsing import ALL, PHASES
from storegate_engine.budget import format_nbytes
from storegate_engine.errors import printable
from storegate_engine.store import Repository
from storegate_engine.table import Table, Variable

__all__ = ["DETAILS", "Cells", "aligned", "details", "table_text", "title_of_view", "titled"]

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


def titled(title: str, lines: Cells | None) -> str:
    """Return a title over a table of details; None means that no data_id is set."""
    return f"<{title}, no data_id set>" if lines is None else f"<{title}>\n{aligned([DETAILS, *lines])}"


def title_of_view(phase: str | None, names: Sequence[str] | None, n_chosen: int | None) -> str:
    """Return the title of a view: its phase and variables (None for all), and the number of chosen rows."""
    rows = "" if n_chosen is None else f"{n_chosen} rows of "
    return f"StoreGate view of {rows}{', '.join(names) if names else 'all variables'} in phase {phase or ALL!r}"


def details(
    repository: Repository | None, phase: str | None = None, names: Sequence[str] | None = None
) -> list[Sequence[str]] | None:
    """Return one line per variable of a phase (None for all); None if there is no repository."""
    if repository is None:
        return None
    table = repository.table
    total = sum(_rows(table, at) for at in PHASES) or 1
    lines: list[Sequence[str]] = []
    for at in PHASES if phase in (None, ALL) else (phase,):
        share = f"{100 * _rows(table, at) / total:.0f}%"
        for name, variable in table[at].items():
            if names is None or name in names:
                size = (str(variable.dtype), str(variable.row_shape), format_nbytes(variable.nbytes))
                lines.append((at, str(len(variable)), share, name, *size, repository.backend, _pending(variable)))
    return lines


def _rows(table: Table, phase: str) -> int:
    return max((len(variable) for variable in table[phase].values()), default=0)


def _pending(variable: Variable) -> str:
    """Return the transforms still to be applied when rows are read."""
    transforms = {str(transform): None for piece in variable.pieces for transform in piece.transforms}
    order = "" if variable.order.form == "range" else variable.order.form
    return ", ".join([*filter(None, [order]), *transforms]) or "-"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines of a table, the first one as header; control characters are escaped."""
    rows = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    rule = "  ".join("-" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], rule, *lines[1:]])
