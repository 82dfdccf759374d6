"""Changes: what the calls that add and replace rows do inside of their transaction; all or nothing."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from storegate.edits import tables
from storegate.parsing.inputs import Names, one_row_columns, parse_columns, require_equal_rows
from storegate.parsing.iterators import hint_of_samples
from storegate.parsing.phases import ALL, Split, Target
from storegate.parsing.selection import OneRow, Selection, n_selected
from storegate.reading import whole
from storegate_engine.errors import ShapeError
from storegate_engine.orders import NewIndex, RowIndex
from storegate_engine.store import Source, Transaction, write
from storegate_engine.table import Table, appended_dtype, require_combinable, rows_of

__all__ = ["add", "replace_all", "update_rows"]


@contextlib.contextmanager
def _hinting(change: Transaction, columns: Mapping[str, Source], target: Target) -> Iterator[set[int]]:
    """Say in an error of shapes where an iterator gave single samples, it seems; yields the expected numbers of rows.

    The caller adds those that it learns on its way. What was edited is looked at before it is committed.
    """
    table, phases = change.table, tables.touched_phases(target)
    rows = {column.n_rows for column in columns.values() if column.n_rows is not None}
    rows.update(len(variable) for at in phases for name, variable in table[at].items())
    if isinstance(target, Split) and target.is_counts:
        rows.add(int(sum(target.shares)))
    try:
        yield rows
        if any(column.n_rows is None for column in columns.values()):
            _warn_of_samples(columns, change.apply(table), phases)
    except ShapeError as err:
        shapes = {name: table[at][name].row_shape for at in phases for name in columns if name in table[at]}
        hint = hint_of_samples(columns, rows=rows, row_shapes=shapes)
        if not hint:
            raise
        raise ShapeError(f"{err}{hint}") from err


def _warn_of_samples(columns: Mapping[str, Source], new: Table, phases: Sequence[str]) -> None:
    """Warn where an iterator gave as many blocks as the other variables of its phase have rows, unlike its own."""
    for at in phases:
        table = new[at]
        others = {len(variable) for name, variable in table.items() if name not in columns}
        wrong = {name: column for name, column in columns.items() if name in table and len(table[name]) not in others}
        if hint := hint_of_samples(wrong, rows=others):
            warnings.warn(f"phase {at!r} cannot be compiled{hint}", UserWarning, stacklevel=6)
            return


def add(
    change: Transaction, names: Names, data: Any, target: Target, seed: int | None, *, do_compile: bool = False
) -> None:
    """Put rows behind those that the variables have; everything is checked before the first row is written."""
    columns = parse_columns(names, data)
    with _hinting(change, columns, target) as expected:
        _append(change, columns, target, seed, expected)
        if do_compile:
            change.edit(Table.with_compiled)


def _append(
    change: Transaction, columns: Mapping[str, Source], target: Target, seed: int | None, expected: set[int]
) -> None:
    table = change.table
    sizes = table.sizes() if target == ALL else None
    known = [column.n_rows for column in columns.values() if column.n_rows is not None]
    phases = tables.spread(table, target, known[0]) if known else tables.touched_phases(target)
    for at in phases:
        for name, column in columns.items():
            if name in table[at]:
                table[at][name].require_row_shape(column.row_shape)
                require_combinable(name, table[at][name].dtype, column.dtype)
    arrays = write(change, columns)
    expected.update(array.n_rows for array in arrays.values())
    require_equal_rows({name: array.n_rows for name, array in arrays.items()})
    new = tables.new_rows(table, target, arrays, seed)
    widened = []
    for at, variables in new.items():
        for place, rows in enumerate(variables):
            old = table[at].get(rows.name)
            if old is not None:
                variables[place] = rows.cast(appended_dtype(old, rows))
                if variables[place].dtype != old.dtype:  # its rows were looked at, and must be these
                    widened.append((at, rows.name))
    touched = [(at, rows.name) for at in new for rows in new[at]]
    change.edit(tables.appended(new, table, sizes=sizes), reads=widened, touches=touched)


def replace_all(change: Transaction, names: Names, data: Any, target: Target, *, do_compile: bool = False) -> None:
    """Replace whole variables by as many rows; dtype and sample shape may change."""
    columns = parse_columns(names, data)
    with _hinting(change, columns, target) as expected:
        known = [column.n_rows for column in columns.values() if column.n_rows is not None]
        if known:
            for at, (lo, hi) in tables.spread(change.table, target, known[0]).items():
                for name in columns:
                    tables.require_rows(change.table, at, name, hi - lo)
        arrays = write(change, columns)
        expected.update(array.n_rows for array in arrays.values())
        require_equal_rows({name: array.n_rows for name, array in arrays.items()})
        new = tables.new_rows(change.table, target, arrays)
        change.edit(tables.replaced(new), reads=[(at, rows.name) for at in new for rows in new[at]])
        if do_compile:
            change.edit(Table.with_compiled)


def update_rows(change: Transaction, names: Names, data: Any, phase: str, selection: Selection) -> None:
    """Replace the selected rows of one phase, or of all phases concatenated."""
    table = change.table
    olds = {name: whole(table, phase, name) for name in names.names}
    if isinstance(selection, OneRow):
        columns = one_row_columns(names, data, {name: old.row_shape for name, old in olds.items()})
    else:
        columns = parse_columns(names, data)
    with _hinting(change, columns, phase) as expected:
        expected.add(n_selected(selection))
        for name, column in columns.items():
            olds[name].require_row_shape(column.row_shape)
            require_combinable(name, olds[name].dtype, column.dtype)
            if column.n_rows is not None:
                tables.require_selected(name, selection, column.n_rows)
        arrays = write(change, columns)
        max_runs = min(tables.MAX_RUNS, tables.MAX_ALL_RUNS // len(arrays))
        for at, first in tables.firsts_of(table, phase).items():
            indexes = _OneIndex(change)
            for name, array in arrays.items():
                old = table.variable(at, name)
                new = tables.updated(
                    old, selection, rows_of(name, array), indexes.store, first=first, max_runs=max_runs
                )
                if new is old:
                    continue
                change.edit(tables.put(at, [new]), reads=[(at, name)], touches=[(at, name)])


class _OneIndex:
    """Stores what variables of one phase are updated by once for all of them."""

    def __init__(self, change: Transaction) -> None:
        self._change = change
        self._stored: dict[tuple[int, int], RowIndex] = {}

    def store(self, new: NewIndex) -> RowIndex:
        """Return the index of as many rows that was stored before, or store it."""
        size = new.n_rows, new.stop
        if size not in self._stored:
            self._stored[size] = self._change.store_index(new)
        return self._stored[size]
