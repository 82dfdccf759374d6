"""Labels: dimensions, coordinates and attributes that come with new rows, and whether they agree with a table's."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from storegate.parsing import PHASES, Labelled
from storegate_engine.errors import ArgumentError, ConflictError, DtypeError, ShapeError, VariableExistsError
from storegate_engine.orders import Range
from storegate_engine.store import (
    CATEGORY_ATTRIBUTES,
    Source,
    Transaction,
    VariableSource,
    as_source,
    categories_in,
    kind_in,
)
from storegate_engine.table import SAMPLE, Description, Table, Variable, rows_of, values_of

__all__ = ["add_labels", "carry_labels", "described"]

KEPT = ("units", "calendar")
"""Attributes that say what the values mean: rows to append must have the same."""


def add_labels(
    change: Transaction,
    columns: Mapping[str, Source],
    labels: Mapping[str, Labelled],
    phases: Collection[str],
    *,
    replaced: Collection[str] = (),
) -> None:
    """Add what comes with new rows to a table: coordinates without samples, and attributes of phases without any.

    Parameters
    ----------
    change : Transaction
        The transaction.
    columns : mapping of str to Source
        The new rows.
    labels : mapping of str to Labelled
        The arrays of xarray among them.
    phases : collection of str
        The phases that get rows.
    replaced : collection of str
        The phases in which the rows replace those of the same name.

    Raises
    ------
    ShapeError, DtypeError, ArgumentError
        They do not agree with the table.
    """
    for name, label in labels.items():
        for at in (phase for phase in PHASES if phase not in replaced):
            if (old := change.table[at].get(name)) is not None:
                _require_same_meaning(old, label.about)
    if labels or change.table.shared:
        _require_agreement(_preview(change.table, columns, labels, phases), change.table.sample_dim)
    wholes = {id(label.whole): label.whole for label in labels.values()}
    given: dict[str, tuple[Source, Description]] = {}
    for whole in wholes.values():
        for name, array in whole.shared.items():
            source = as_source(_one_row(array), name)
            known = given.setdefault(name, (source, whole.abouts[name]))
            if not _are_equal(known, (source, whole.abouts[name])):
                raise ArgumentError(f"the new arrays have different coordinates {name!r}; add them one after the other")
        if whole.attrs:
            change.edit(_with_attrs(phases, whole.attrs))
    _share(change, given, _without(change.table, columns, replaced))
    if labels or change.table.shared:
        change.edit(_agreeing)


def described(about: Description, label: Labelled | None, olds: Sequence[Variable], n_axes: int) -> Description:
    """Return the description of new rows: their own labels, or those of the rows that they replace."""
    if label is not None:
        given = label.about
        # `to_xarray` shows categories as attributes, which xarray keeps for what is computed from codes
        says = about.categories is not None or categories_in(values_of(given.attrs)) is not None
        attrs = tuple(item for item in given.attrs if not says or item[0] not in CATEGORY_ATTRIBUTES)
        return replace(about, dims=given.dims, attrs=attrs, is_coordinate=given.is_coordinate)
    if about.dims is None:
        for old in olds:
            if old.about.dims is not None and len(old.about.dims) == n_axes:
                before = old.about
                return replace(about, dims=before.dims, attrs=before.attrs, is_coordinate=before.is_coordinate)
    return about


def _one_row(array: Any) -> Any:
    """Return an array without samples as one row."""
    return np.asarray(array.values)[np.newaxis]


def carry_labels(
    change: Transaction, table: Table, phases: Collection[str], names: Collection[str], new_names: Collection[str]
) -> None:
    """Add what belongs to variables of another table: its coordinates without samples, and attributes of phases."""
    dims = {dim for at in phases for name in names for dim in table[at][name].about.dims or ()}
    given: dict[str, tuple[Source, Description]] = {
        name: (VariableSource(variable), variable.about)
        for name, variable in table.shared.items()
        if dims.issuperset(variable.about.dims or ())
    }
    _share(change, given, _without(change.table, new_names, phases))
    for at in phases:
        if at in table.attrs:
            change.edit(_with_attrs([at], table.attrs[at]))
    if given:
        change.edit(_agreeing)


def _share(change: Transaction, given: Mapping[str, tuple[Source, Description]], kept: Iterable[Variable]) -> None:
    """Store what has no sample axis, unless the table has the same already.

    Parameters
    ----------
    change : Transaction
        The transaction.
    given : mapping of str to (Source, Description)
        One row each.
    kept : iterable of Variable
        The variables that stay, for which a coordinate must stay as it is.

    Raises
    ------
    ArgumentError
        The table has other values, and variables that they belong to.
    """
    known = change.table.shared
    used = [set(variable.about.dims or ()) for variable in kept]
    new = {}
    for name, (source, about) in given.items():
        if (old := known.get(name)) is None:
            new[name] = source
        elif not _are_equal((VariableSource(old), old.about), (source, about)):
            if any(not about.dims or dims.intersection(about.dims) for dims in used):
                raise ArgumentError(
                    f"{name!r} of dimensions {about.dims or '()'} differs from what is stored, and belongs to "
                    f"variables there, too; leave it out, as in ds.drop_vars({name!r}), rename it, or replace them"
                )
            new[name] = source
    change.edit(_sharing_as_in(change.table, given))
    if new:
        arrays = change.store(new)
        variables = [replace(rows_of(name, array), about=given[name][1]) for name, array in arrays.items()]
        change.edit(lambda table: table.with_shared(variables))


def _are_equal(one: tuple[Source, Description], other: tuple[Source, Description]) -> bool:
    (first, about), (second, also) = one, other
    if about.dims != also.dims or first.row_shape != second.row_shape:
        return False
    ((before,), (after,)) = first.blocks(1), second.blocks(1)
    return bool(np.array_equal(before, after, equal_nan={before.dtype.kind, after.dtype.kind} <= set("fcmM")))


def _sharing_as_in(before: Table, names: Iterable[str]) -> Callable[[Table], Table]:
    """Return the edit that changes nothing, and refuses a table in which what was compared is another by now."""
    compared = list(names)

    def edit(table: Table) -> Table:
        for name in compared:
            if table.shared.get(name) != before.shared.get(name):
                raise ConflictError(f"another writer changed {name!r} meanwhile; nothing was changed, try again")
        return table

    return edit


def _with_attrs(phases: Collection[str], attrs: Any) -> Callable[[Table], Table]:
    def edit(table: Table) -> Table:
        for phase in phases:
            if not table.attrs.get(phase):
                table = table.with_attrs(phase, attrs)
        return table

    return edit


def _without(table: Table, names: Collection[str], phases: Collection[str]) -> list[Variable]:
    """Return the variables of a table but those that are replaced."""
    return [variable for at, variable in table if not (at in phases and variable.name in names)]


def _require_same_meaning(old: Variable, about: Description) -> None:
    before = old.about
    if before.dims is None or about.dims is None:
        return
    if before.dims[1:] != about.dims[1:] and len(before.dims) == len(about.dims):
        renamed = {new: dim for dim, new in zip(before.dims[1:], about.dims[1:], strict=True) if dim != new}
        is_transposed = set(before.dims[1:]) == set(about.dims[1:])
        remedy = f"transpose them, as in ds.transpose{before.dims}" if is_transposed else ""
        raise ShapeError(
            f"variable {old.name!r} has dimensions {before.dims}, and the new rows {about.dims}; "
            f"{remedy or f'rename them, as in ds.rename({renamed})'}"
        )
    known, given = values_of(before.attrs), values_of(about.attrs)
    for key in KEPT:
        if key in known and key in given and known[key] != given[key]:
            raise DtypeError(
                f"variable {old.name!r} has {key} {known[key]!r}, and the new rows {given[key]!r}; convert them first"
            )


def _preview(
    table: Table, columns: Mapping[str, Source], labels: Mapping[str, Labelled], phases: Iterable[str]
) -> Table:
    """Return a table with the names and dimensions that it will have, but without the new rows."""
    for at in phases:
        new = [
            Variable(
                name,
                source.dtype,
                source.row_shape if kind_in(source) != "ragged" else (),  # lists have no more dimensions in xarray
                (),
                Range(0, 0),
                about=described(Description(), labels.get(name), [table[at][name]] if name in table[at] else [], 0),
            )
            for name, source in columns.items()
        ]
        table = table.with_variables(at, new)
    return table


def _agreeing(table: Table) -> Table:
    _require_agreement(table)
    return table


def _require_agreement(table: Table, known: str = SAMPLE) -> None:
    """Refuse a table that no Dataset can show; its samples lie along ``known`` if that is not the default.

    Raises
    ------
    ShapeError
        A dimension has two sizes, or samples lie along two dimensions.
    VariableExistsError
        A name stands for rows and for what has no samples.
    """
    sample_dim = table.sample_dim if known == SAMPLE else known
    for at in PHASES:
        sizes = {
            dim: (size, name)
            for name, variable in table.shared.items()
            for dim, size in zip(variable.about.dims or (), variable.row_shape, strict=False)
        }
        for name, variable in table[at].items():
            if name in table.shared:
                raise VariableExistsError(
                    f"{name!r} is stored for all phases, without samples, and as a variable of phase {at!r}; rename it"
                )
            if variable.about.dims is not None and variable.about.dims[0] not in (sample_dim, SAMPLE):
                other = variable.about.dims[0]
                raise ShapeError(
                    f"the samples of variable {name!r} lie along {other!r}, and those of others along {sample_dim!r}; "
                    f"rename the dimension, as in ds.rename({{{other!r}: {sample_dim!r}}})"
                )
            dims = variable.dims[1:]
            sizes_of_row = variable.row_shape[: len(dims)] if variable.kind == "ragged" else variable.row_shape
            for dim, size in zip(dims, sizes_of_row, strict=True):
                if dim == sample_dim:
                    raise ShapeError(
                        f"dimension {dim!r} of the rows of variable {name!r} is that of samples; rename it"
                    )
                before, owner = sizes.setdefault(dim, (size, name))
                if before != size:
                    raise ShapeError(
                        f"dimension {dim!r} has {size} entries in variable {name!r}, and {before} in {owner!r}; rename "
                        "it in one of them"
                    )
