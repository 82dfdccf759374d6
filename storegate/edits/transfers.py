"""Transfers: variables between memory and storage on the hybrid backend, block by block."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeAlias

from storegate.edits import tables
from storegate.edits.labels import carry_labels
from storegate.parsing import ALL, PHASES, Data, Names, VarNames, parse_columns, parse_names
from storegate.reading import Selected
from storegate_engine import graphs
from storegate_engine.arrays import RowArray, persist
from storegate_engine.clusters import Capacity, active_client
from storegate_engine.errors import ArgumentTypeError, shown
from storegate_engine.store import (
    Categories,
    Repository,
    Source,
    Transaction,
    VariableSource,
    description_of,
    source_of,
    write,
)
from storegate_engine.table import Table, Variable, longest, rows_of

__all__ = ["move"]

Callback: TypeAlias = Callable[..., tuple[VarNames, Data]]
"""A function of names and data that returns new ones."""


def move(
    operation: str,
    source: Repository,
    target: Repository,
    names: Names,
    renamed: Names,
    phase: str,
    callback: Callback | None,
    limits: Capacity,
) -> None:
    """Copy variables from one repository to the other; after a copy to storage, the memory is released.

    Parameters
    ----------
    operation : str
        ``to_memory`` or ``to_storage``.
    source, target : Repository
        Where variables come from and go to; variables of the same names in the target are replaced.
    names, renamed : Names
        The variables, and their names in the target.
    phase : str
        A phase, or ``all``: every phase that has rows.
    callback : callable or None
        Gets names and data, and returns new ones; its names win over ``renamed``.
    limits : Capacity
        Memory and threads to plan with.
    """
    if callback is not None and not callable(callback):
        raise ArgumentTypeError(f"{operation} takes a callable as callback, found {shown(callback)}")
    table = source.table
    phases = tables.phases_of(table, phase, names.names, operation)
    if phase == ALL:
        phases = [at for at in PHASES if table[at]]
        for at in phases:
            tables.phases_of(table, at, names.names, operation)
    stored: dict[str, list[Variable]] = {}
    with target.begin(operation, var_names=list(names.names), phase=phase) as change:
        categories: dict[str, Categories] = {}
        moved: dict[str, Source] = {}
        for at in phases:
            variables = [table.variable(at, name) for name in names.names]
            if callback is None:
                columns = {
                    new: _moved(old, new, target.table, phases, categories)
                    for new, old in zip(renamed.names, variables, strict=True)
                }
            else:
                columns = _called(callback, names, variables, limits)
            arrays = _store(change, target, columns, limits)
            histories = {variable.history for variable in variables}
            history = histories.pop() if len(histories) == 1 else ()
            olds = {} if callback is not None else dict(zip(renamed.names, variables, strict=True))
            seeds = {name: old.shuffled_by for name, old in olds.items()}
            new = [
                replace(
                    rows_of(name, array, shuffled_by=seeds.get(name)),
                    history=history,
                    about=description_of(columns[name]),
                )
                for name, array in arrays.items()
            ]
            change.edit(tables.put(at, new))
            if callback is None and all(isinstance(column, VariableSource) for column in columns.values()):
                stored[at] = [
                    replace(
                        rows_of(old.name, arrays[name], shuffled_by=old.shuffled_by),
                        history=old.history,
                        about=old.about,
                    )
                    for name, old in zip(renamed.names, variables, strict=True)
                ]
            moved.update(columns)
        carry_labels(change, table, phases, names.names, moved)
        change.edit(_compiled_if_even)
    if source.in_memory:
        with source.begin(operation, var_names=list(names.names), phase=phase) as release:
            for at in phases:
                release.edit(tables.dropped(at, names.names))
            release.edit(_compiled_if_even)
            release.is_release = True
            if len(stored) == len(phases):
                release.stand_in = _with(release.table, stored)


def _moved(
    variable: Variable, name: str, target: Table, phases: Sequence[str], categories: dict[str, Categories]
) -> Source:
    """Return a variable as a source; codes of categories go on from those of phases that stay, and of those before."""
    if variable.about.categories is None:
        return VariableSource(variable)
    if name not in categories:
        stay = [target[at][name].about.categories for at in PHASES if at not in phases and name in target[at]]
        categories[name] = Categories(is_ordered=variable.about.is_ordered)
        categories[name].begin(longest(stay))
    known, own = categories[name].values, variable.about.categories
    if own[: len(known)] == known[: len(own)]:  # the codes mean the same
        categories[name].begin(longest((known, own)))
        return VariableSource(variable)
    return source_of(variable, categories[name])


def _called(callback: Callback, names: Names, variables: Sequence[Variable], limits: Capacity) -> dict[str, Source]:
    rows = Selected.everything(names, variables)
    data = rows.lazy(limits) if getattr(callback, "accepts_lazy", False) else rows.read(limits.budget_nbytes)
    given = names.names[0] if names.form == "one" else list(names.names)
    returned = callback(tuple(given) if names.form == "stack" else given, data)
    if not hasattr(returned, "__len__") or len(returned) != 2:
        raise ArgumentTypeError(f"the callback returns (var_names, data), found {shown(returned)}")
    new_names, new_data = returned
    return parse_columns(parse_names(new_names, validate=True), new_data)


def _store(
    change: Transaction, target: Repository, columns: dict[str, Source], limits: Capacity
) -> dict[str, RowArray]:
    if target.in_memory and active_client() is not None:
        variables = {n: column.variable for n, column in columns.items() if isinstance(column, VariableSource)}
        if len(variables) == len(columns):
            # lists have no arrays on workers: they come to this process
            lists = {name: columns[name] for name, variable in variables.items() if variable.kind != "dense"}
            dense = {name: variable for name, variable in variables.items() if name not in lists}
            rows = graphs.blocks_of(list(dense.values()), limits)
            found = persist({name: graphs.to_dask(variable, rows, limits) for name, variable in dense.items()})
            return {**found, **(write(change, lists) if lists else {})}
    return write(change, columns)


def _with(table: Table, stored: dict[str, list[Variable]]) -> Table:
    """Return a table with the stored copies of some variables in place of these."""
    for at, variables in stored.items():
        table = replace(table.with_variables(at, variables), compiled=table.compiled)
    return table


def _compiled_if_even(table: Table) -> Table:
    """Compile a table if the rows of each phase match; programs then read moved variables without ``compile()``."""
    even = all(len({len(variable) for variable in table[phase].values()}) <= 1 for phase in PHASES)
    return table.with_compiled() if even else table
