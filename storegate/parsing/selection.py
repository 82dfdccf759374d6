"""Selections: the rows that an index selects; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import EllipsisType
from typing import TYPE_CHECKING, Any, Protocol, SupportsIndex, TypeAlias, TypeGuard, Union

import numpy as np

from storegate_engine.errors import ArgumentError, ArgumentTypeError, RowIndexError, shown
from storegate_engine.natives import as_native
from storegate_engine.orders import ArrayIndex, MaskIndex, RangeIndex, RowIndex, spans

if TYPE_CHECKING:
    import dask.array as da

__all__ = [
    "Index",
    "MethodIndex",
    "OneRow",
    "RowRange",
    "Rows",
    "Selection",
    "as_indexer",
    "is_everything",
    "n_selected",
    "parse_item",
    "parse_method_index",
]

Array: TypeAlias = np.ndarray[Any, Any]


class SupportsArray(Protocol):
    """Anything with ``__array__``: arrays of dask, xarray, torch, pandas, and views."""

    def __array__(self) -> object:
        """Return the array."""


Index: TypeAlias = Union[SupportsIndex, slice, EllipsisType, Sequence[int], Sequence[bool], SupportsArray, "da.Array"]
"""One row, or several: a slice, ``...``, row numbers, or a mask."""
MethodIndex: TypeAlias = Index | tuple[int | None, int | None] | None
"""Like `Index`, but -1 and None stand for all rows, and ``(a, b)`` for a range."""


@dataclass(frozen=True, slots=True)
class OneRow:
    """One row, without a sample axis."""

    row: int


@dataclass(frozen=True, slots=True)
class RowRange:
    """Rows ``start .. stop - 1``."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Rows in any order, repeats included."""

    index: RowIndex
    """Row numbers, none of them negative."""


Selection: TypeAlias = OneRow | RowRange | Rows


def n_selected(selection: Selection) -> int:
    """Return the number of rows."""
    match selection:
        case OneRow():
            return 1
        case RowRange(start, stop):
            return stop - start
        case Rows(index):
            return len(index)


def as_indexer(selection: Selection) -> int | slice | Array:
    """Return the equivalent index for numpy and xarray."""
    match selection:
        case OneRow(row):
            return row
        case RowRange(start, stop):
            return slice(start, stop)
        case Rows(index):
            return index.slice(0, len(index))


def parse_method_index(index: object, n_rows: int) -> Selection:
    """Return the selection of ``get_data(index=…)`` and ``update_data(index=…)``.

    An int is one row, -1 all rows, other negative ints count from the end; a tuple ``(a, b)`` is a range, clipped at
    the end like a slice, and ``(a, None)`` the rest; slices, lists, arrays and tensors pick rows; a boolean mask
    selects.

    Raises
    ------
    IndexError
        A row is outside ``0 .. n_rows - 1``.

    Examples
    --------
    >>> parse_method_index(-1, 5), parse_method_index((1, 3), 5), parse_method_index((4, 99), 5)
    (RowRange(start=0, stop=5), RowRange(start=1, stop=3), RowRange(start=4, stop=5))
    """
    if index is None:
        return RowRange(0, n_rows)
    if isinstance(index, tuple):
        if len(index) != 2 or not all(at is None or _is_int(at) for at in index):
            raise RowIndexError(f"a tuple index is a range (start, stop), found {index!r}; use a list to pick rows")
        first, last = (None if at is None else int(at) + n_rows * (at < 0) for at in index)
        if first is not None and last is not None and first > last:
            raise RowIndexError(f"the range {index!r} ends before it begins, among {n_rows} rows")
        start, stop, _ = slice(index[0], index[1]).indices(n_rows)
        return RowRange(start, max(start, stop))
    if _is_int(index) and index == -1:
        return RowRange(0, n_rows)
    return parse_item(index, n_rows)


def _is_int(item: object) -> TypeGuard[int]:
    return isinstance(item, (int, np.integer)) and not isinstance(item, bool)


def is_everything(item: object) -> bool:
    """Return whether ``view[item]`` means all rows, whatever their number: ``[:]`` or ``[...]``."""
    return item is Ellipsis or (isinstance(item, slice) and item in (slice(None), slice(0, None), slice(None, None, 1)))


def parse_item(item: object, n_rows: int) -> Selection:
    """Return the selection of ``view[item]``, as in Python and numpy: ``view[-1]`` is the last row.

    Raises
    ------
    IndexError
        A row is out of range, or a mask has another length.
    TypeError
        The item is not an index.
    """
    if _is_int(item):
        row = int(item) + n_rows if item < 0 else int(item)
        if not 0 <= row < n_rows:
            raise RowIndexError(f"row {int(item)} is out of range: there are {n_rows} rows")
        return OneRow(row)
    if isinstance(item, tuple):
        if not item:
            raise RowIndexError("an index of a view picks rows, found (); use view[:] for all of them")
        first, rest = item[0], ", ".join(map(repr, item[1:])) or ":"
        raise RowIndexError(
            f"an index of a view picks only rows, found {item!r}; index the rows that it gives, as in "
            f"view[{first!r}][{rest}], or pick several rows with a list, as in view[{list(item)!r}]"
        )
    if isinstance(item, slice):
        try:
            start, stop, step = item.indices(n_rows)
        except (TypeError, ValueError) as err:
            kind = ArgumentTypeError if isinstance(err, TypeError) else ArgumentError
            raise kind(f"{shown(item)} picks no rows: {err}; give integers, as in view[10:20:2]") from err
        if step == 1:
            return RowRange(start, max(start, stop))
        numbers = range(start, stop, step)
        return Rows(RangeIndex(numbers)) if numbers else RowRange(0, 0)
    if item is Ellipsis:
        return RowRange(0, n_rows)
    if isinstance(item, (str, bytes, bool, float, set, frozenset, dict)) or item is None or callable(item):
        choose = "; gate.filter takes a function of the phase's Dataset" if callable(item) else ""
        raise ArgumentTypeError(
            f"{shown(item)} is not an index of rows; use an int, a slice, a list, an array or a mask{choose}"
        )
    return _parse_array(as_native(item, "the index"), n_rows)


def _parse_array(index: Array, n_rows: int) -> Selection:
    if index.ndim == 0 and index.dtype.kind in "iu":
        return parse_item(int(index), n_rows)
    if index.ndim != 1:
        raise RowIndexError(f"an index of rows has one dimension, found shape {index.shape}")
    if index.dtype.kind == "b":
        if len(index) != n_rows:
            raise RowIndexError(f"the mask has {len(index)} entries, and there are {n_rows} rows")
        return Rows(MaskIndex(index))
    if index.size and index.dtype.kind not in "iu":
        raise RowIndexError(f"an index of rows holds integers or is a mask, found dtype {index.dtype}")
    if index.dtype.kind == "u" and index.size and index.max() >= 2**63:
        raise RowIndexError(f"row {index.max()} is out of range: there are {n_rows} rows")
    rows = np.empty(len(index), np.uint32 if n_rows <= 2**32 else np.int64)
    for lo, hi in spans(len(index)):
        part = index[lo:hi].astype(np.int64)  # a copy, so that the caller cannot change it after the check
        bad = (part < -n_rows) | (part >= n_rows)
        if bad.any():
            raise RowIndexError(f"row {part[bad][0]} is out of range: there are {n_rows} rows")
        part[part < 0] += n_rows
        rows[lo:hi] = part
    return Rows(ArrayIndex.of_own(rows))
