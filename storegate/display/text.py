"""Text: the variables of a table as ``show_info`` prints them; from metadata alone."""

from __future__ import annotations

from storegate.display.outline import shape_text
from storegate.display.widths import aligned
from storegate_engine.store import Repository

__all__ = ["table_text"]

HEADER = ("phase", "backend", "var_names", "dtype", "total events", "var_shape")


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
            shape_text(variable) or "()",
        )
        for phase, variable in table
    ]
    state = "compiled" if table.compiled else "not compiled"
    return f"StoreGate data_id : {data_id}, {state}\n{aligned([HEADER, *rows])}"
