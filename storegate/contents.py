"""Contents: names, shapes and sizes of a table; never reads a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from storegate.parsing import ALL, PHASES, Names, require_compiled
from storegate_engine.errors import PhaseNotFoundError, near_match
from storegate_engine.table import Table, Variable

__all__ = [
    "Metadata",
    "first_names",
    "has_variable",
    "metadata",
    "n_samples",
    "names_in",
    "require_known",
    "row_shapes",
    "whole",
]


class Metadata(TypedDict):
    """What :meth:`StoreGate.get_metadata` returns."""

    compiled: bool
    """Always True: without compilation there is no metadata."""
    total_events: list[int]
    """Rows of train, valid and test."""
    sizes: dict[str, int]
    """Rows of each phase and of ``all``."""
    valid_phases: list[str]
    """Phases with rows."""


def metadata(table: Table) -> Metadata:
    """Return the sizes of a compiled table."""
    require_compiled(table.compiled, "metadata")
    sizes = table.sizes()
    return {
        "compiled": True,
        "total_events": list(sizes.values()),
        "sizes": {**sizes, ALL: sum(sizes.values())},
        "valid_phases": [phase for phase, rows in sizes.items() if rows],
    }


def n_samples(table: Table, phase: str | None) -> int:
    """Return the number of rows of a compiled phase; of all phases for None."""
    require_compiled(table.compiled, "len")
    return sum(table.sizes().values()) if phase in (None, ALL) else table.n_rows(phase)


def whole(table: Table, phase: str, name: str) -> Variable:
    """Return a variable of one phase, or of all phases concatenated.

    Raises
    ------
    NotCompiledError
        All phases of a table that is not compiled were requested.
    VariableNotFoundError
        A phase that has rows lacks the variable.
    """
    if phase != ALL:
        return table.variable(phase, name)
    require_compiled(table.compiled, "reading")
    phases = [at for at in PHASES if table[at]] or list(PHASES[:1])
    joined = table.variable(phases[0], name)
    for at in phases[1:]:
        joined = joined.appended(table.variable(at, name))
    return joined


def names_in(table: Table, phase: str) -> list[str]:
    """Return the variables of a phase in the order they were added; for ``all``, those in every phase with rows."""
    if phase != ALL:
        return list(table[phase])
    filled = [table[at] for at in PHASES if table[at]]
    return [name for name in (filled[0] if filled else ()) if all(name in variables for variables in filled)]


def first_names(table: Table, phase: str | None) -> tuple[str, ...]:
    """Return the variables of a phase; for None, of the first phase that has any."""
    phases = (phase,) if phase in PHASES else PHASES
    return next((tuple(table[at]) for at in phases if table[at]), ())


def has_variable(table: Table, phase: str | None, name: object) -> bool:
    """Return whether a phase has a variable; for None, whether every phase with rows has it."""
    if not isinstance(name, str):
        return False
    if phase not in (None, ALL):
        return name in table[phase]
    return name in names_in(table, ALL)


def require_known(table: Table, names: Sequence[str]) -> None:
    """Refuse unknown variable names, most often a misspelled phase.

    Raises
    ------
    PhaseNotFoundError
        No phase has a variable of that name.
    """
    known = dict.fromkeys(name for phase in PHASES for name in table[phase])
    for name in names:
        if name not in known:
            raise PhaseNotFoundError(
                f"there is no phase or variable {name!r}{near_match(name, (*PHASES, ALL, *known))} "
                f"(phases: {', '.join((*PHASES, ALL))}; variables: {', '.join(sorted(known)) or 'none'})"
            )


def row_shapes(table: Table, names: Names, phase: str) -> list[tuple[int, ...] | None]:
    """Return the shape of one row of each variable, None if it is unknown."""
    phases = PHASES if phase == ALL else (phase,)
    return [next((table[at][name].row_shape for at in phases if name in table[at]), None) for name in names.names]
