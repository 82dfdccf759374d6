"""Tables: new states of a table from written rows; pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from storegate.parsing import ALL, PHASES, Split, Target, require_compiled
from storegate_engine.arrays import ConstantArray, RowArray, require_within_limits
from storegate_engine.budget import Layout
from storegate_engine.encodings import encoding_of
from storegate_engine.errors import (
    ConflictError,
    DtypeError,
    ShapeError,
    VariableExistsError,
    VariableNotFoundError,
    near_match,
)
from storegate_engine.orders import Span
from storegate_engine.table import PLAIN, Description, Table, Variable, rows_of

__all__ = [
    "NewRows",
    "appended",
    "created",
    "dropped",
    "firsts_of",
    "mapped",
    "new_rows",
    "phases_of",
    "put",
    "replaced",
    "require_rows",
    "spread",
    "storable",
    "touched_phases",
    "with_active",
    "zeros",
]

NewRows: TypeAlias = dict[str, list[Variable]]
"""New variables, by phase."""
ACTIVE = "active"
"""The variable that says which samples count, for programs written for the predecessor."""


def phases_of(table: Table, phase: str, names: Iterable[str], what: str) -> list[str]:
    """Return the phases that ``phase`` stands for; each of them must have all the variables.

    Raises
    ------
    VariableNotFoundError
        A variable does not exist.
    """
    names = list(names)
    if phase != ALL:
        for name in names:
            table.variable(phase, name)
        return [phase]
    known = {name: None for at in PHASES for name in table[at]}
    for name in names:
        if name not in known:
            raise VariableNotFoundError(
                f"{what}: no variable {name!r} in any phase{near_match(name, known)} "
                f"(variables: {', '.join(sorted(known)) or 'none'})"
            )
    found = [at for at in PHASES if any(name in table[at] for name in names)]
    for at in found:
        for name in names:
            table.variable(at, name)
    return found


def spread(table: Table, target: Target, n_rows: int) -> dict[str, Span]:
    """Return the span of ``n_rows`` new rows that each phase gets.

    Raises
    ------
    ShapeError
        The split does not fit the number of rows.
    NotCompiledError
        The phase is ``all``, and the table is not compiled.
    """
    if isinstance(target, Split):
        return target.ranges(n_rows)
    if target != ALL:
        return {target: Span(0, n_rows)}
    require_compiled(table.compiled, "adding data")
    sizes = table.sizes()
    return Split((sizes["train"], sizes["valid"], sizes["test"])).ranges(n_rows)


def target_phases(table: Table, target: Target, known: Sequence[int]) -> Collection[str]:
    """Return the phases that a target means: those that get rows, if the numbers of rows are known."""
    return spread(table, target, known[0]) if known else touched_phases(target)


def new_rows(
    table: Table,
    target: Target,
    arrays: Mapping[str, RowArray],
    seed: int | None = None,
    *,
    about: Mapping[str, Description] | None = None,
) -> NewRows:
    """Return written rows as variables of the phases that get them, with their descriptions."""
    described = about or {}
    n_rows = next(iter(arrays.values())).n_rows
    ranges = spread(table, target, n_rows)
    return {
        phase: [
            replace(rows_of(name, array, lo, hi, seed=seed), about=described.get(name, PLAIN))
            for name, array in arrays.items()
        ]
        for phase, (lo, hi) in ranges.items()
    }


def appended(new: NewRows, before: Table, *, sizes: dict[str, int] | None = None) -> Callable[[Table], Table]:
    """Return the edit that appends new rows to the old ones.

    Parameters
    ----------
    new : mapping of str to list of Variable
        Variables in their final dtypes.
    before : Table
        The table for which these were chosen.
    sizes : dict, optional
        The expected number of rows of every phase; None if it does not matter.
    """

    def edit(table: Table) -> Table:
        if sizes is not None and table.sizes() != sizes:
            raise ConflictError("another writer changed the sizes of the phases meanwhile; nothing was changed")
        for phase, variables in new.items():
            joined = []
            for rows in variables:
                old = table[phase].get(rows.name)
                if old is not None and old.dtype != before[phase].get(rows.name, rows).dtype:
                    raise ConflictError(
                        f"another writer changed variable {rows.name!r} of phase {phase!r} to {old.dtype} meanwhile; "
                        "nothing was changed, try again"
                    )
                joined.append(rows if old is None else old.appended(rows))
            table = table.with_variables(phase, joined)
        return table

    return edit


def with_categories_as_in(before: Table, name: str) -> Callable[[Table], Table]:
    """Return the edit that changes nothing, and refuses a table in which a variable has got other categories."""

    def edit(table: Table) -> Table:
        for phase in PHASES:
            old, now = before[phase].get(name), table[phase].get(name)
            if now is not None and now.about.categories != (None if old is None else old.about.categories):
                raise ConflictError(
                    f"another writer changed the categories of variable {name!r} of phase {phase!r} meanwhile; nothing "
                    "was changed, try again"
                )
        return table

    return edit


def replaced(new: NewRows) -> Callable[[Table], Table]:
    """Return the edit that replaces variables by new ones with equal numbers of rows."""

    def edit(table: Table) -> Table:
        for phase, variables in new.items():
            for rows in variables:
                require_rows(table, phase, rows.name, len(rows))
            table = table.with_variables(phase, [_in_place(table, phase, rows) for rows in variables])
        return table

    return edit


def _in_place(table: Table, phase: str, rows: Variable) -> Variable:
    """Return rows given in the current order of a phase, with the history of its variables."""
    old = table[phase].get(rows.name)
    histories = {old.history} if old is not None else {variable.history for variable in table[phase].values()}
    return replace(rows, history=histories.pop()) if len(histories) == 1 else rows


def put(phase: str, variables: Iterable[Variable], *, compiled: bool = False) -> Callable[[Table], Table]:
    """Return the edit that adds or replaces variables of one phase; ``compiled`` keeps a table compiled."""
    new = list(variables)

    def edit(table: Table) -> Table:
        keep = compiled and table.compiled
        table = table.with_variables(phase, new)
        return table.with_compiled() if keep else table

    return edit


def dropped(phase: str, names: Iterable[str]) -> Callable[[Table], Table]:
    """Return the edit that deletes variables of one phase."""
    gone = list(names)
    return lambda table: table.without(phase, gone)


def mapped(phase: str, names: Iterable[str], edit: Callable[[Variable], Variable]) -> Callable[[Table], Table]:
    """Return the edit that changes how variables of one phase are read; the compiled flag stays."""
    changed = list(names)
    return lambda table: table.mapped(phase, changed, edit)


def require_rows(table: Table, phase: str, name: str, n_rows: int) -> None:
    """Raise ShapeError if a variable exists with another number of rows than its replacement."""
    old = table[phase].get(name)
    if old is not None and len(old) != n_rows:
        raise ShapeError(
            f"variable {name!r} has {len(old)} rows in phase {phase!r}, and the new data have {n_rows}; "
            "delete it first to change the number"
        )


def firsts_of(table: Table, phase: str) -> dict[str, int]:
    """Return the first row of each phase; for ``all``, with all phases concatenated."""
    if phase != ALL:
        return {phase: 0}
    sizes = [table.n_rows(at) for at in PHASES]
    return {at: sum(sizes[:number]) for number, at in enumerate(PHASES) if sizes[number]}


def storable(dtype: np.dtype[Any], names: Iterable[str]) -> np.dtype[Any]:
    """Return a dtype in native byte order.

    Raises
    ------
    DtypeError
        The dtype cannot be stored; the message names the variables.
    """
    try:
        return encoding_of(dtype).logical
    except DtypeError as err:
        raise DtypeError(f"variable {', '.join(map(repr, names))}: {err}") from err


def zeros(names: Iterable[str], shape: tuple[int, ...], dtype: np.dtype[Any]) -> ConstantArray:
    """Return rows of zeros, of shape ``(N, *k)``.

    Raises
    ------
    DtypeError
        The dtype cannot be stored.
    ShapeError
        The rows are too large to be stored.
    """
    array = ConstantArray(storable(dtype, names), shape[1:], shape[0])
    try:
        require_within_limits(array.dtype, array.row_shape, array.n_rows, Layout(1, 1))
    except ShapeError as err:
        raise ShapeError(f"variable {', '.join(map(repr, names))}: {err}") from err
    return array


def touched_phases(target: Target) -> tuple[str, ...]:
    """Return the phases that a target may touch."""
    return PHASES if isinstance(target, Split) or target == ALL else (target,)


def created(target: Target, arrays: Mapping[str, RowArray]) -> Callable[[Table], Table]:
    """Return the edit that adds variables, which must not exist yet."""

    def edit(table: Table) -> Table:
        for phase, variables in new_rows(table, target, arrays).items():
            for rows in variables:
                if rows.name in table[phase]:
                    raise VariableExistsError(f"variable {rows.name!r} exists in phase {phase!r}; delete it first")
            table = table.with_variables(phase, [_in_place(table, phase, rows) for rows in variables])
        return table

    return edit


def with_active(table: Table) -> Table:
    """Return the table with the variable ``active`` (re)set to ones in every phase that has rows."""
    for phase in PHASES:
        table = table.without(phase, [ACTIVE])
        if rows := table.n_rows(phase):
            ones = ConstantArray(np.dtype(np.int64), (), rows, 1)
            table = table.with_variables(phase, [_in_place(table, phase, rows_of(ACTIVE, ones))])
    return table
