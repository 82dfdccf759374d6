"""Reports: what a gate holds, as text and HTML, from metadata alone; reads no data."""

from __future__ import annotations

import html
import warnings
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import xarray as xr

from storegate.parsing.phases import ALL, PHASES
from storegate_engine.budget import format_nbytes
from storegate_engine.errors import AlignmentWarning, ArgumentTypeError, printable, shown
from storegate_engine.graphs import plans_of
from storegate_engine.orders import Range
from storegate_engine.store import Repository
from storegate_engine.table import Table, Variable

if TYPE_CHECKING:
    from storegate.gate import StoreGate
    from storegate.views import View

__all__ = ["aligned", "explain", "gate_html", "gate_text", "table_text", "view_html", "view_text"]

HEADER = ("phase", "backend", "var_names", "dtype", "total events", "var_shape")
DETAILS = ("phase", "rows", "share", "variable", "dtype", "shape", "bytes", "tier", "pending")


def warn_of_misaligned(table: Table, *, stacklevel: int) -> None:
    """Warn where variables of a phase were shuffled differently when they were added."""
    for phase, groups in table.misaligned().items():
        listed = "; ".join(f"{', '.join(names)}: {_dealt(table[phase][names[0]])}" for names in groups)
        warnings.warn(
            f"the rows of variables in phase {phase!r} may not belong together: they were added in different orders "
            f"({listed}); add variables of the same samples in one call, or with the same shuffle= and split",
            AlignmentWarning,
            stacklevel=stacklevel,
        )


def _dealt(variable: Variable) -> str:
    parts = [
        f"rows {dealt.lo}..{dealt.hi} of {dealt.n_rows} shuffled with seed {dealt.seed}" for dealt in variable.history
    ]
    return " and ".join(parts) or "as they came"


def table_text(repository: Repository, data_id: str | None) -> str:
    """Return the table that ``show_info`` prints: every variable of every phase."""
    table = repository.table
    rows = [
        (
            phase,
            repository.tier,
            variable.name,
            str(variable.dtype),
            str(len(variable)),
            str(variable.row_shape),
        )
        for phase, variable in table
    ]
    state = "compiled" if table.compiled else "not compiled"
    return f"StoreGate data_id : {data_id}, {state}\n{aligned([HEADER, *rows])}"


def gate_text(gate: StoreGate) -> str:
    """Return the text of a gate."""
    if gate.data_id is None:
        return f"<StoreGate {gate.backend!r}, no data_id set>"
    title = f"<StoreGate {gate.backend!r}, data_id {gate.data_id!r}, version {gate.repository().version}>"
    return "\n".join([title, aligned([DETAILS, *_details(gate, PHASES, None)])])


def view_text(view: View) -> str:
    """Return the text of a view."""
    if view.gate.data_id is None:
        return f"<StoreGate view of {_title(view)}, no data_id set>"
    return f"<StoreGate view of {_title(view)}>\n{aligned([DETAILS, *_view_details(view)])}"


def gate_html(gate: StoreGate) -> str:
    """Return the HTML of a gate, for notebooks."""
    title = f"StoreGate {gate.backend!r}, data_id {gate.data_id!r}"
    return _as_html(title, [] if gate.data_id is None else _details(gate, PHASES, None))


def view_html(view: View) -> str:
    """Return the HTML of a view, for notebooks."""
    return _as_html(f"StoreGate view of {_title(view)}", [] if view.gate.data_id is None else _view_details(view))


PEEK_ROWS = 256


def explain(dataset: xr.Dataset | View) -> str:
    """Return how a full pass and a peek of 256 rows would read every lazy variable; nothing is read.

    Parameters
    ----------
    dataset : xr.Dataset or View
        A lazy Dataset of a phase, or a view.

    Returns
    -------
    str
        A line for each variable and pass: the plan, its tasks, the bytes read, the spill and the projected memory.

    Examples
    --------
    >>> from storegate import StoreGate, explain
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("x", [1.0, 2.0])
    >>> print(explain(gate["train"].to_xarray()))
    x  full pass  read: 1 tasks, reads 16 B, projected memory 24.0 MiB
    x  256 rows   read: 1 tasks, reads 16 B, projected memory 24.0 MiB
    """
    if not hasattr(dataset, "to_xarray") and not isinstance(dataset, xr.Dataset):
        raise ArgumentTypeError(f"explain takes a view or a Dataset of to_xarray(), found {shown(dataset)}")
    lazy = dataset if isinstance(dataset, xr.Dataset) else dataset.to_xarray()
    lines = []
    for name, (full, peek) in plans_of(lazy, PEEK_ROWS).items():
        lines.append((name, "full pass", full.describe()))
        lines.append((name, f"{PEEK_ROWS} rows", peek.describe()))
    width = max((len(name) for name, *_ in lines), default=0)
    return "\n".join(f"{name.ljust(width)}  {what.ljust(9)}  {plan}" for name, what, plan in lines)


def _title(view: View) -> str:
    names = ", ".join(view.names.names) if view.names else "all variables"
    rows = "" if view.chosen is None else f"{len(view.chosen)} rows of "
    return f"{rows}{names} in phase {view.phase or ALL!r}"


def _view_details(view: View) -> list[Sequence[str]]:
    phases = PHASES if view.phase in (None, ALL) else (view.phase,)
    return _details(view.gate, phases, view.names.names if view.names else None)


def _details(gate: StoreGate, phases: Iterable[Any], names: Sequence[str] | None) -> list[Sequence[str]]:
    repository = gate.repository()
    table = repository.table
    total = sum(_rows(table, phase) for phase in PHASES) or 1
    lines: list[Sequence[str]] = []
    for phase in phases:
        share = f"{100 * _rows(table, phase) / total:.0f}%"
        for name, variable in table[phase].items():
            if names is None or name in names:
                size = (str(variable.dtype), str(variable.row_shape), format_nbytes(variable.nbytes))
                lines.append((phase, str(len(variable)), share, name, *size, repository.tier, _pending(variable)))
    return lines


def _rows(table: Table, phase: str) -> int:
    return max((len(variable) for variable in table[phase].values()), default=0)


def _pending(variable: Variable) -> str:
    """Return what is still to be applied when rows are read."""
    transforms = {str(transform): None for piece in variable.pieces for transform in piece.transforms}
    order = "" if isinstance(variable.order, Range) else type(variable.order).__name__.lower()
    return ", ".join([*filter(None, [order]), *transforms]) or "-"


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return rows of cells as lines of a table; the first one is its header. Nothing in a cell moves the cursor."""
    rows = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    widths = [max(len(row[at]) for row in rows) for at in range(len(rows[0]))]
    rule = "  ".join("-" * width for width in widths)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], rule, *lines[1:]])


def _as_html(title: str, rows: Iterable[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f"<div><strong>{html.escape(title)}</strong><table>{line(DETAILS, 'th')}{body}</table></div>"
