"""Inputs: the argument ``data`` as named sources of rows; stores nothing."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate.callers import users_stacklevel
from storegate.parsing.frames import categorical
from storegate.parsing.labels import Labelled, is_dataarray, labelled
from storegate.parsing.names import Names
from storegate_engine import graphs
from storegate_engine.clusters import active_client
from storegate_engine.errors import ArgumentError, ShapeError, shown
from storegate_engine.natives import as_native, is_foreign
from storegate_engine.ragged import Ragged
from storegate_engine.store import (
    ArraySource,
    CodeSource,
    ColumnSource,
    FieldSource,
    RaggedSource,
    Source,
    StreamSource,
    VariableSource,
    as_codes,
    as_source,
    lists_in,
    source_of,
)
from storegate_engine.table import Variable, is_stored, values_of

COLUMNS = (CodeSource, FieldSource, VariableSource)
"""Sources that columns of tables are already."""
FEW_COLUMNS = 16
"""Columns of an array that are read one after the other; with more, rows are read once for all of them."""

__all__ = [
    "Data",
    "RowsLike",
    "columns_of",
    "labels_of",
    "labels_of_row",
    "one_row_columns",
    "parse_columns",
    "require_equal_rows",
]

Array: TypeAlias = np.ndarray[Any, Any]


class RowsLike(Protocol):
    """Rows in an array of any library: numpy, dask, zarr, h5py, xarray, torch, or a view of a gate."""

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_samples, *row_shape)``."""

    @property
    def dtype(self) -> object:
        """The dtype, in any form that numpy accepts."""

    def __getitem__(self, item: slice, /) -> object:
        """Return a slice of rows."""


Rows: TypeAlias = RowsLike | npt.ArrayLike | Iterator[RowsLike | npt.ArrayLike]
"""Rows of one variable, or an iterator of blocks of them."""
Data: TypeAlias = Rows | Sequence[Rows]
"""Data to store: rows, or rows by name."""


def parse_columns(names: Names, data: object) -> dict[str, Source]:
    """Return a source of rows for every name.

    Raises
    ------
    ShapeError
        The shape of the data does not fit the names, or entries have different lengths.
    """
    match names.form:
        case "one":
            return {names.names[0]: _source(data, names.names[0])}
        case "stack":
            return _stacked(names, as_source(_in_full_pass(data), str(names.names)))
    entries = _entries(names, data)
    if isinstance(entries, np.ndarray):
        return _stacked(names, ArraySource(entries))
    columns = {name: _source(entry, name) for name, entry in zip(names.names, entries, strict=True)}
    require_equal_rows({name: column.n_rows for name, column in columns.items()})
    return columns


def labels_of(names: Names, data: Any) -> dict[str, Labelled]:
    """Return the arrays of xarray among the data of :func:`parse_columns`, with their labels."""
    found = {name: labelled(entry, name) for name, entry in _named_entries(names, data).items()}
    return {name: entry for name, entry in found.items() if entry is not None}


def labels_of_row(names: Names, data: Any, dims: dict[str, tuple[str, ...]]) -> dict[str, Labelled]:
    """Return the arrays of xarray among the data of :func:`one_row_columns`, with their labels.

    ``dims`` are those of the variables, the samples first.
    """
    rows = _named_entries(names, data)
    for name, row in rows.items():
        if is_dataarray(row) and row.ndim == len(dims[name]) - 1:
            # what has no dimension belonged to the samples; only the coordinate of these says which of them the row was
            sample_dim = dims[name][0]
            without = row.drop_vars([key for key in row.coords if not row.coords[key].dims and key != sample_dim])
            rows[name] = without.expand_dims(sample_dim)
    return labels_of(Names(tuple(rows), "each"), list(rows.values()))


def _named_entries(names: Names, data: Any) -> dict[str, Any]:
    """Return what is given for each name; nothing for data that are one array for several names."""
    if names.form == "one":
        return {names.names[0]: data}
    if names.form == "stack" or not isinstance(data, (list, tuple)) or len(data) != len(names.names):
        return {}
    return dict(zip(names.names, data, strict=True))


def _source(data: Any, name: str) -> Source:
    """Return data as a source; an unchanged lazy array of a stored variable becomes that variable."""
    attrs = getattr(data, "attrs", None)  # of xarray, zarr and h5py
    if isinstance(data, Labelled):
        attrs, data = values_of(data.about.attrs), data.rows
    said: Mapping[str, Any] = attrs if isinstance(attrs, Mapping) else {}
    data = categorical(data, name)
    if isinstance(data, COLUMNS):
        return as_codes(data, said, name)
    if hasattr(data, "__storegate_variables__") and len(variables := data.__storegate_variables__()) == 1:
        return source_of(variables[0])
    variable = graphs.variable_of(data) if _may_be_lazy() else None
    if variable is not None and is_stored(variable) and active_client() is None:  # otherwise the workers compute it
        return source_of(variable)
    return as_codes(as_source(_in_full_pass(data), name), said, name)


def _in_full_pass(data: Any) -> Any:
    return graphs.in_full_pass(data) if _may_be_lazy() else data


def _may_be_lazy() -> bool:
    """Return whether a dask array, or one of xarray, can exist; an import to look would take half a second."""
    return "dask.array" in sys.modules or "xarray" in sys.modules


def _stacked(names: Names, source: Source) -> dict[str, Source]:
    found = source.row_shape[0] if source.row_shape else None
    if found != len(names.names):
        hint = ""
        if isinstance(source, StreamSource) and source.first.shape[0] == len(names.names):
            hint = "; if the iterator gives single samples, pass storegate.samples(iterator)"
        raise ShapeError(
            f"a tuple of {len(names.names)} names takes data of shape (N, {len(names.names)}, *k), "
            f"found rows of shape {source.row_shape}{hint}"
        )
    if isinstance(source, ArraySource) and len(names.names) <= FEW_COLUMNS:
        return {name: ArraySource(source.values[:, at]) for at, name in enumerate(names.names)}
    return {name: ColumnSource(source, at) for at, name in enumerate(names.names)}


def _entries(names: Names, data: Any) -> list[Any] | Array:
    if is_foreign(data):
        data = as_native(data, f"variables {list(names.names)}")
    if isinstance(data, (str, bytes)) or not hasattr(data, "__len__"):
        raise ShapeError(f"a list of {len(names.names)} names takes a list with one array each, found {type(data)}")
    if len(data) == len(names.names):
        return [data[at] for at in range(len(data))]
    lengths = {len(row) if hasattr(row, "__len__") and not isinstance(row, str) else None for row in data}
    if lengths == {len(names.names)}:
        warnings.warn(
            f"data have {len(data)} entries for the {len(names.names)} names in a list: they are taken as samples; "
            "pass a tuple of names for data of shape (N, M, *k)",
            UserWarning,
            stacklevel=users_stacklevel(),
        )
        return as_native(data, f"variables {list(names.names)}")
    raise ShapeError(f"a list of {len(names.names)} names takes one array each, found {len(data)} arrays")


def require_equal_rows(rows: dict[str, int | None]) -> None:
    """Raise ShapeError unless all known numbers of rows are the same."""
    if len({count for count in rows.values() if count is not None}) > 1:
        raise ShapeError(f"the variables have different numbers of rows: {rows}")


def one_row_columns(names: Names, data: object, olds: Mapping[str, Variable]) -> dict[str, Source]:
    """Return one-row sources from data of shape ``k`` or ``(1, *k)``, for rows of variables."""
    row_shapes = {name: old.row_shape for name, old in olds.items()}
    values: Any = [data] if names.form == "one" else data
    if names.form == "stack":
        stacked = as_native(data, f"variables {list(names.names)}")
        values = stacked[0] if stacked.ndim and stacked.shape[0] == 1 and len(names.names) != 1 else stacked
        if stacked.shape == (1, 1, *row_shapes[names.names[0]]):
            values = stacked[0]
    if not hasattr(values, "__len__") or len(values) != len(names.names):
        raise ShapeError(f"one row of {len(names.names)} variables takes one entry each, found {data!r}")
    columns: dict[str, Source] = {}
    for name, value in zip(names.names, values, strict=True):
        if isinstance(value, Labelled):
            value = value.rows
        value = categorical(value, name)
        if isinstance(value, COLUMNS):
            columns[name] = value  # a column of a table
            continue
        if olds[name].kind != "dense":
            columns[name] = _one_list(value, name, olds[name])
            continue
        row = as_native(value, f"variable {name!r}")
        if row.shape == row_shapes[name]:
            row = row[np.newaxis]
        if row.shape != (1, *row_shapes[name]):
            raise ShapeError(
                f"one row of variable {name!r} has shape {row_shapes[name]}, and the data have {row.shape}"
            )
        columns[name] = as_source(row, name)
    return columns


def _one_list(value: Any, name: str, old: Variable) -> Source:
    """Return a one-row source of a list, or of a row of a sparse matrix."""
    what = f"variable {name!r}"
    found = lists_in(value, what)
    if found is None and old.kind == "ragged":
        row = as_native(value, what)
        if row.shape[:1] == (1,) and row.ndim == 2 + len(old.row_shape):
            row = row[0]
        found = Ragged.of([row])
    if found is None or len(found) != 1:
        kind = (
            "list of items" if old.kind == "ragged" else "row of a sparse matrix, as in scipy.sparse.csr_array([row])"
        )
        raise ShapeError(f"one row of {what} is one {kind}, found {shown(value)}")
    return RaggedSource(found)


def columns_of(var_names: object, data: object) -> tuple[Sequence[str], list[Any]]:
    """Return names (a string as a list), and the column of each from rows of M items.

    Raises
    ------
    ValueError
        Rows do not have M items, or the names have another type.
    """
    if isinstance(var_names, str):
        return [var_names], [data]
    if not isinstance(var_names, (tuple, list)) or not all(isinstance(name, str) for name in var_names):
        raise ArgumentError(f"var_names is a string, or a tuple or list of strings; found {var_names!r}")
    rows = np.asarray(data)
    if rows.ndim < 2 or rows.shape[1] != len(var_names):
        raise ArgumentError(
            f"{len(var_names)} names take rows of {len(var_names)} items, found data of shape {rows.shape}"
        )
    return var_names, [rows[:, at] for at in range(len(var_names))]
