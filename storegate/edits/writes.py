"""Writes: calls that add, replace or delete rows, inside a transaction; all or nothing."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from storegate.callers import users_stacklevel
from storegate.contents import whole
from storegate.edits import tables, updates
from storegate.edits.labels import add_labels, described
from storegate.edits.samples import Place, require_same_samples
from storegate.edits.scalings import is_scaled
from storegate.parsing import (
    ALL,
    PHASES,
    Labelled,
    Names,
    OneRow,
    RowRange,
    Selection,
    Split,
    Target,
    hint_of_samples,
    is_everything,
    labels_of,
    labels_of_row,
    n_selected,
    one_row_columns,
    parse_columns,
    parse_item,
    parse_method_index,
    require_equal_rows,
)
from storegate_engine.arrays import RowArray
from storegate_engine.errors import DtypeError, ShapeError, shown
from storegate_engine.orders import NewIndex, Range, RowIndex, RowOrder, cut, permute
from storegate_engine.store import Source, Transaction, as_lists, categories_of, description_of, kind_in, write
from storegate_engine.table import Description, Table, Variable, appended_dtype, longest, require_combinable, rows_of

__all__ = ["add", "append_arrays", "assign", "clear", "create_zeros", "delete", "update"]


@contextlib.contextmanager
def _hinting(change: Transaction, columns: Mapping[str, Source], target: Target) -> Iterator[set[int]]:
    """Add a hint to shape errors if an iterator seems to give single samples; yields the expected numbers of rows.

    The caller adds the numbers it learns. Edits are checked before they are committed.
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
    """Warn if the number of blocks of an iterator, not of its rows, equals the rows of the other variables."""
    for at in phases:
        table = new[at]
        others = {len(variable) for name, variable in table.items() if name not in columns}
        wrong = {name: column for name, column in columns.items() if name in table and len(table[name]) not in others}
        if hint := hint_of_samples(wrong, rows=others):
            warnings.warn(f"phase {at!r} cannot be compiled{hint}", UserWarning, stacklevel=users_stacklevel())
            return


def add(
    change: Transaction, names: Names, data: object, target: Target, seed: int | None, *, do_compile: bool = False
) -> None:
    """Append rows to variables; everything is checked before the first row is written."""
    columns, labels = parse_columns(names, data), labels_of(names, data)
    columns = _as_lists(columns, [change.table[at] for at in tables.touched_phases(target)])
    with _hinting(change, columns, target) as expected:
        _append(change, columns, labels, target, seed, expected)
        if do_compile:
            change.edit(Table.with_compiled)


def _as_lists(columns: Mapping[str, Source], olds: Sequence[Mapping[str, Variable]]) -> dict[str, Source]:
    """Return sources; those of variables of lists as lists."""
    found = dict(columns)
    for name, column in columns.items():
        lists = [variables[name] for variables in olds if name in variables and variables[name].kind == "ragged"]
        if lists:
            found[name] = as_lists(column, lists[0].dtype, lists[0].row_shape)
    return found


def _append(
    change: Transaction,
    columns: Mapping[str, Source],
    labels: Mapping[str, Labelled],
    target: Target,
    seed: int | None,
    expected: set[int],
) -> None:
    table = change.table
    sizes = table.sizes() if target == ALL else None
    known = [column.n_rows for column in columns.values() if column.n_rows is not None]
    phases = tables.target_phases(table, target, known)
    _continue_categories(change, columns)
    for at in phases:
        for name, column in columns.items():
            if name in table[at]:
                table[at][name].require_row_shape(column.row_shape, kind_in(column))
                require_combinable(name, table[at][name].dtype, column.dtype)
    _warn_of_scales(table, phases, columns)
    if known:
        new_labels = {name: label for name, label in labels.items() if all(name not in table[at] for at in phases)}
        require_same_samples(table, _places(table, target, known[0], seed), columns, new_labels)
    add_labels(change, columns, labels, phases)
    arrays = write(change, columns)
    expected.update(array.n_rows for array in arrays.values())
    require_equal_rows({name: array.n_rows for name, array in arrays.items()})
    append_arrays(change, arrays, target, seed, _about(columns, labels), sizes)


def _warn_of_scales(table: Table, phases: Collection[str], names: Collection[str]) -> None:
    """Warn if rows are added beside others that were scaled after they were added."""
    for name in names:
        scaled = [at for at in PHASES if name in table[at] and is_scaled(table[at][name])]
        if scaled and phases:
            warnings.warn(
                f"rows are added to variable {name!r} of phase {', '.join(phases)} as they are, and those of phase "
                f"{', '.join(scaled)} were scaled; bring them to the same scale first, with "
                f"gate[{scaled[0]!r}][{name!r}].scaled(rows)",
                UserWarning,
                stacklevel=users_stacklevel(),
            )
            return


def append_arrays(
    change: Transaction,
    arrays: Mapping[str, RowArray],
    target: Target,
    seed: int | None,
    about: Mapping[str, Description],
    sizes: dict[str, int] | None,
) -> None:
    """Append the rows of arrays, which are there already; ``sizes`` are those that phases must still have."""
    table = change.table
    new = tables.new_rows(table, target, arrays, seed, about=about)
    widened = []
    for at, variables in new.items():
        for place, rows in enumerate(variables):
            old = table[at].get(rows.name)
            if old is not None:
                variables[place] = rows.cast(appended_dtype(old, rows))
                if variables[place].dtype != old.dtype:  # its checked rows must still be these
                    widened.append((at, rows.name))
    touched = [(at, rows.name) for at in new for rows in new[at]]
    change.edit(tables.appended(new, table, sizes=sizes), reads=widened, touches=touched)


def _continue_categories(
    change: Transaction, columns: Mapping[str, Source], phases: Sequence[str] = PHASES, *, are_codes_taken: bool = False
) -> None:
    """Continue the codes of categories that rows of the same name have in some phases, which must stay as they are.

    Raises
    ------
    DtypeError
        Some rows of a variable would be plain values, others codes; or only some categories are ordered.
    """
    for name, column in columns.items():
        olds = {at: change.table[at][name] for at in phases if name in change.table[at]}
        categories = categories_of(column)
        for at, old in olds.items():
            about = old.about
            if categories is not None and about.categories is None:
                raise DtypeError(
                    f"variable {name!r} of phase {at!r} holds {old.dtype} values, and the new rows are categories; "
                    "convert the column to its values first, as in column.astype(str)"
                )
            if categories is None and about.categories is not None and not are_codes_taken:
                raise DtypeError(
                    f"variable {name!r} of phase {at!r} has categories ({shown(about.categories)}), and the new rows "
                    "are plain values; make them categories, as in frame.astype('category')"
                )
            if categories is not None and about.is_ordered != categories.is_ordered:
                raise DtypeError(
                    f"variable {name!r} of phase {at!r} and the new rows have categories of which only one kind is "
                    "ordered; convert the column, as in column.cat.as_ordered()"
                )
        if categories is not None:
            categories.begin(longest(old.about.categories for old in olds.values()))
            change.edit(tables.with_categories_as_in(change.table, name))


def _about(
    columns: Mapping[str, Source], labels: Mapping[str, Labelled], replaced: Table | None = None
) -> dict[str, Description]:
    """Return the descriptions of sources whose rows were read."""
    found = {}
    for name, column in columns.items():
        olds = [] if replaced is None else [replaced[at][name] for at in PHASES if name in replaced[at]]
        n_axes = 1 + len(column.row_shape)
        found[name] = described(description_of(column), labels.get(name), olds, n_axes)
    return found


def _replace_all(change: Transaction, names: Names, data: object, target: Target, *, do_compile: bool = False) -> None:
    """Replace whole variables by equal numbers of rows; dtype and row shape may change."""
    columns, labels = parse_columns(names, data), labels_of(names, data)
    with _hinting(change, columns, target) as expected:
        known = [column.n_rows for column in columns.values() if column.n_rows is not None]
        if known:
            for at, (lo, hi) in tables.spread(change.table, target, known[0]).items():
                for name in columns:
                    tables.require_rows(change.table, at, name, hi - lo)
            require_same_samples(change.table, _places(change.table, target, known[0]), columns, labels)
        replaced = tables.target_phases(change.table, target, known)
        _continue_categories(change, columns, [at for at in PHASES if at not in replaced])
        add_labels(change, columns, labels, replaced, replaced=replaced)
        arrays = write(change, columns)
        expected.update(array.n_rows for array in arrays.values())
        require_equal_rows({name: array.n_rows for name, array in arrays.items()})
        new = tables.new_rows(change.table, target, arrays, about=_about(columns, labels, change.table))
        change.edit(tables.replaced(new), reads=[(at, rows.name) for at in new for rows in new[at]])
        if do_compile:
            change.edit(Table.with_compiled)


def _places(table: Table, target: Target, n_rows: int, seed: int | None = None) -> list[Place]:
    """Return where each phase gets rows of whole variables."""
    rows: RowOrder = Range(0, n_rows)
    if seed is not None:
        rows = permute(rows, seed)
    return [Place(at, cut(rows, lo, hi)) for at, (lo, hi) in tables.spread(table, target, n_rows).items()]


def _update_rows(change: Transaction, names: Names, data: object, phase: str, selection: Selection) -> None:
    """Replace the selected rows of one phase, or of all phases concatenated."""
    table = change.table
    olds = {name: whole(table, phase, name) for name in names.names}
    if isinstance(selection, OneRow):
        columns = _as_lists(one_row_columns(names, data, olds), [olds])
        labels = labels_of_row(names, data, {name: old.dims for name, old in olds.items()})
    else:
        columns, labels = _as_lists(parse_columns(names, data), [olds]), labels_of(names, data)
    with _hinting(change, columns, phase) as expected:
        expected.add(n_selected(selection))
        for name, column in columns.items():
            olds[name].require_row_shape(column.row_shape, kind_in(column))
            require_combinable(name, olds[name].dtype, column.dtype)
            if column.n_rows is not None:
                updates.require_selected(name, selection, column.n_rows)
        _continue_categories(change, columns, are_codes_taken=True)
        require_same_samples(table, [Place(phase, Range(0, n_selected(selection)), selection)], columns, labels)
        # what has no names of dimensions takes rows with any
        named = {name: label for name, label in labels.items() if olds[name].about.dims is not None}
        add_labels(change, {name: columns[name] for name in named}, named, tables.firsts_of(table, phase))
        arrays = write(change, columns)
        about = _about(columns, {})
        max_runs = min(updates.MAX_RUNS, updates.MAX_ALL_RUNS // len(arrays))
        for at, first in tables.firsts_of(table, phase).items():
            indexes = _OneIndex(change)
            for name, array in arrays.items():
                old = table.variable(at, name)
                new = updates.updated(
                    old, selection, rows_of(name, array), indexes.store, first=first, max_runs=max_runs
                )
                if new is old:
                    continue
                if about[name].categories is not None:
                    new = replace(new, about=old.about.joined(about[name]))
                change.edit(tables.put(at, [new]), reads=[(at, name)], touches=[(at, name)])


def update(change: Transaction, names: Names, data: object, target: Target, index: object, *, do_compile: bool) -> None:
    """Replace the rows selected by ``update_data(index=index)``."""
    if index is None or (isinstance(index, (int, np.integer)) and index == -1):
        _replace_all(change, names, data, target, do_compile=do_compile)
    elif isinstance(target, Split):
        raise ShapeError("a split replaces whole variables; give index=-1, or one phase or all")
    else:
        n_rows = len(whole(change.table, target, names.names[0]))
        _update_rows(change, names, data, target, parse_method_index(index, n_rows))
        if do_compile:
            change.edit(Table.with_compiled)


def assign(change: Transaction, names: Names, data: object, phase: str, item: object) -> None:
    """Replace the rows selected by ``view[item] = data``, and compile."""
    if is_everything(item):  # like update_data, add a missing variable
        _replace_all(change, names, data, phase, do_compile=True)
        return
    n_rows = len(whole(change.table, phase, names.names[0]))
    selection = parse_item(item, n_rows)
    if n_rows and selection == RowRange(0, n_rows):  # any slice picks all rows where there are none
        _replace_all(change, names, data, phase, do_compile=True)
    else:
        _update_rows(change, names, data, phase, selection)
        change.edit(Table.with_compiled)


def create_zeros(
    change: Transaction, names: Names, target: Target, shape: tuple[int, ...], dtype: np.dtype[Any]
) -> None:
    """Add variables of zeros, stored without any rows."""
    array = tables.zeros(names.names, shape, dtype)
    change.edit(tables.created(target, dict.fromkeys(names.names, array)))


def delete(change: Transaction, names: Names, target: Target, *, do_compile: bool) -> None:
    """Delete variables, if they exist."""
    for at in tables.touched_phases(target):
        change.edit(tables.dropped(at, names.names))
    if do_compile:
        change.edit(Table.with_compiled)


def clear(change: Transaction) -> None:
    """Delete all variables."""
    change.edit(lambda table: Table())


class _OneIndex:
    """Stores the index of an update once for all variables of a phase."""

    def __init__(self, change: Transaction) -> None:
        self._change = change
        self._stored: dict[tuple[int, int], RowIndex] = {}

    def store(self, new: NewIndex) -> RowIndex:
        """Return the stored index of these numbers of rows, or store it."""
        size = new.n_rows, new.stop
        if size not in self._stored:
            self._stored[size] = self._change.store_index(new)
        return self._stored[size]
