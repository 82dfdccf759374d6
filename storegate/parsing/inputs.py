"""Inputs: what ``var_names``, ``data`` and ``shuffle`` mean, as named sources of rows; stores nothing."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.clusters import active_client
from storegate_engine.errors import ArgumentTypeError, DtypeError, ShapeError, shown
from storegate_engine.graphs import in_full_pass, variable_of
from storegate_engine.names import validate_name
from storegate_engine.orders import as_int
from storegate_engine.store import (
    ArraySource,
    ColumnSource,
    Source,
    StreamSource,
    VariableSource,
    as_native,
    as_source,
    is_foreign,
)
from storegate_engine.table import is_stored

FEW_COLUMNS = 16
"""Columns of an array that are read one after the other: with more, rows are read once for all of them."""

MAX_AXES = 64
"""Axes of an array of numpy."""

__all__ = [
    "Names",
    "one_row_columns",
    "parse_columns",
    "parse_dtype",
    "parse_names",
    "parse_seed",
    "parse_shape",
    "parse_shuffle_seed",
    "require_equal_rows",
]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Names:
    """Variable names, and the shape in which their data come and go."""

    names: tuple[str, ...]
    """One name or more, in order."""
    form: str
    """``one`` (a string: one array), ``stack`` (a tuple: one array, stacked) or ``each`` (a list: list of arrays)."""


def parse_names(var_names: Any, *, validate: bool = False) -> Names:
    """Return the names of a string, tuple or list.

    Raises
    ------
    TypeError
        Anything else.
    InvalidNameError
        With ``validate``, a name that cannot be stored.
    """
    if isinstance(var_names, str):
        names = Names((var_names,), "one")
    elif isinstance(var_names, (tuple, list)) and all(isinstance(name, str) for name in var_names):
        names = Names(tuple(var_names), "stack" if isinstance(var_names, tuple) else "each")
    else:
        raise DtypeError(f"var_names is a string, or a tuple or list of strings; found {var_names!r}")
    if not names.names:
        raise ShapeError("var_names is empty; name at least one variable")
    if validate:
        for name in names.names:
            validate_name(name)
        if len(set(names.names)) != len(names.names):
            raise ShapeError(f"var_names has a name twice: {list(names.names)}")
    return names


def parse_columns(names: Names, data: Any) -> dict[str, Source]:
    """Return a source of rows for every name.

    Raises
    ------
    ShapeError
        Data whose shape does not fit the names, or entries of different lengths.
    """
    match names.form:
        case "one":
            return {names.names[0]: _source(data, names.names[0])}
        case "stack":
            return _stacked(names, as_source(in_full_pass(data), str(names.names)))
    entries = _entries(names, data)
    if isinstance(entries, np.ndarray):
        return _stacked(names, ArraySource(entries))
    columns = {name: _source(entry, name) for name, entry in zip(names.names, entries, strict=True)}
    require_equal_rows({name: column.n_rows for name, column in columns.items()})
    return columns


def _source(data: Any, name: str) -> Source:
    """Return data as a source; a stored variable that comes back lazily, and untouched, as what it is."""
    variable = variable_of(data)
    if variable is not None and is_stored(variable) and active_client() is None:  # else its workers compute it
        return VariableSource(variable)
    return as_source(in_full_pass(data), name)


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
        raise ShapeError(f"a list of {len(names.names)} names takes a list of as many arrays, found {type(data)}")
    if len(data) == len(names.names):
        return [data[at] for at in range(len(data))]
    lengths = {len(row) if hasattr(row, "__len__") and not isinstance(row, str) else None for row in data}
    if lengths == {len(names.names)}:
        warnings.warn(
            f"data have {len(data)} entries for the {len(names.names)} names in a list: they are taken as samples; "
            "pass a tuple of names for data of shape (N, M, *k)",
            UserWarning,
            stacklevel=4,
        )
        return as_native(data, f"variables {list(names.names)}")
    raise ShapeError(f"a list of {len(names.names)} names takes as many arrays, found {len(data)}")


def require_equal_rows(rows: dict[str, int | None]) -> None:
    """Raise ShapeError unless all known numbers of rows are the same."""
    if len({count for count in rows.values() if count is not None}) > 1:
        raise ShapeError(f"the variables have different numbers of rows: {rows}")


def one_row_columns(names: Names, data: Any, row_shapes: dict[str, tuple[int, ...]]) -> dict[str, Source]:
    """Return sources of one row each from data of shape ``k`` or ``(1, *k)``."""
    values = [data] if names.form == "one" else data
    if names.form == "stack":
        stacked = as_native(data, f"variables {list(names.names)}")
        values = stacked[0] if stacked.ndim and stacked.shape[0] == 1 and len(names.names) != 1 else stacked
        if stacked.shape == (1, 1, *row_shapes[names.names[0]]):
            values = stacked[0]
    if not hasattr(values, "__len__") or len(values) != len(names.names):
        raise ShapeError(f"one row of {len(names.names)} variables takes as many entries, found {data!r}")
    columns: dict[str, Source] = {}
    for name, value in zip(names.names, values, strict=True):
        row = as_native(value, f"variable {name!r}")
        if row.shape == row_shapes[name]:
            row = row[np.newaxis]
        if row.shape != (1, *row_shapes[name]):
            raise ShapeError(
                f"one row of variable {name!r} has shape {row_shapes[name]}, and the data have {row.shape}"
            )
        columns[name] = as_source(row, name)
    return columns


def parse_seed(shuffle: Any) -> int | None:
    """Return the seed that ``shuffle`` means: False is none, True is 1, an int (0 included) is itself.

    Raises
    ------
    StoreGateError
        Not a bool or an int of 32 bits.
    """
    if shuffle is None or shuffle is False:
        return None
    if isinstance(shuffle, (bool, np.bool_)):
        return 1 if shuffle else None
    if not isinstance(shuffle, (int, np.integer)):
        raise DtypeError(f"shuffle is a bool or an int seed, found {shuffle!r}")
    return parse_shuffle_seed(shuffle)


def parse_shuffle_seed(seed: Any) -> int:
    """Return a seed of numpy's permutation: an int of 32 bits, and nothing that would have to become one.

    Raises
    ------
    DtypeError
        A bool, a float, a text: not an integer (a TypeError).
    ShapeError
        An integer outside of 0 .. 2**32 - 1 (a ValueError).
    """
    try:
        number = as_int(seed, "a seed")
    except TypeError as err:
        raise DtypeError(f"{err}, found {seed!r}") from err
    if not 0 <= number < 2**32:
        raise ShapeError(f"a seed lies between 0 and 2**32 - 1, found {number}")
    return number


def parse_shape(shape: Any) -> tuple[int, ...]:
    """Return the sizes of ``(N, *k)``, or of ``N`` alone.

    Raises
    ------
    ArgumentTypeError
        Neither integers nor a sequence of them (a TypeError).
    ShapeError
        No axis, too many of them, or a size that is negative or beyond 2**63 - 1 (a ValueError).
    """
    given = shape.tolist() if isinstance(shape, np.ndarray) else shape
    if not isinstance(given, (tuple, list)):
        given = (given,)
    sizes = tuple(as_int(size, f"each size of the shape {shown(shape)}") for size in given)
    if not 1 <= len(sizes) <= MAX_AXES:
        raise ShapeError(f"a shape is (N, *k), of 1 to {MAX_AXES} axes, found {shown(shape)}")
    if not all(0 <= size < 2**63 for size in sizes):
        raise ShapeError(f"each size of a shape is 0 .. 2**63 - 1, found {shown(shape)}")
    return sizes


def parse_dtype(dtype: Any) -> np.dtype[Any]:
    """Return what numpy makes of a dtype that was named; None, which numpy takes for float64, is refused.

    Raises
    ------
    ArgumentTypeError
        It is no dtype (a TypeError).
    """
    try:
        if dtype is not None:
            named: np.dtype[Any] = np.dtype(dtype)
            return named
    except (TypeError, ValueError) as err:
        raise ArgumentTypeError(f"{shown(dtype)} is no dtype of numpy ({err}); give one, as in 'float32'") from err
    raise ArgumentTypeError("None is no dtype; give one, as in 'float32'")
