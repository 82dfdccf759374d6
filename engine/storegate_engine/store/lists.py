"""Lists: callers' rows of various lengths, and sparse matrices, as `Ragged`; and their way into arrays.

Other libraries are recognised by the attributes of their objects, and never imported:

================================================  ==========================================
scipy.sparse                                      ``tocsr``
awkward                                           the name of its module
arrays of lists of pyarrow, columns of polars     see `arrow`, ``to_arrow``
columns of pandas, and arrays of objects          lists, tuples or arrays as objects
lists of lists, tuples or arrays                  if their lengths differ
================================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.arrays import RaggedArray, RowArray
from storegate_engine.arrow import arrow_type, arrow_values, as_arrow, is_list
from storegate_engine.dtypes import TEXT
from storegate_engine.errors import DtypeError, MissingValueError, ShapeError, shown
from storegate_engine.natives import alike, as_native
from storegate_engine.ragged import Ragged
from storegate_engine.slices import offsets_of
from storegate_engine.table import Kind

__all__ = [
    "DenseLists",
    "RaggedSource",
    "RaggedWriter",
    "as_rows",
    "column_dtype",
    "empty_lists",
    "kind_in",
    "lists_in",
    "lists_of_one_length",
    "part_names",
]

Array: TypeAlias = np.ndarray[Any, Any]


def as_rows(data: Any, what: str) -> Any:
    """Return data as an ndarray or, if rows are lists of various lengths or sparse, as `Ragged`; see `as_native`."""
    found = lists_in(data, what)
    return as_native(data, what) if found is None else found


def lists_in(data: Any, what: str, *, by_chance: bool = False) -> Ragged | None:
    """Return data in memory whose rows are lists or sparse; None for others.

    Objects of one length are an array, unless they are lists that have one length ``by_chance``.

    Raises
    ------
    MissingValueError
        A list, or an item, is missing.
    DtypeError
        Items are objects, or lists again.
    ShapeError
        Items have different shapes.
    """
    if isinstance(data, Ragged):
        return data
    if hasattr(data, "tocsr"):
        return _of_sparse(data, what)
    if isinstance(data, np.ndarray):
        return _of_objects(data, what, by_chance) if data.dtype.kind == "O" and data.ndim == 1 else None
    if isinstance(data, (list, tuple)):
        return _of_lists(data, what) if _differ_in_length(data) else None
    package = type(data).__module__.partition(".")[0]
    if package == "awkward" and hasattr(data, "layout"):
        return _of_awkward(data, what)
    if package == "polars" and hasattr(data, "to_arrow") and str(getattr(data, "dtype", "")).startswith("List("):
        data = data.to_arrow()
    if (column := as_arrow(data)) is not None:
        return _of_arrow(column, what) if is_list(column.type) else None
    if hasattr(data, "isna") and getattr(getattr(data, "dtype", None), "kind", "") == "O" and hasattr(data, "to_numpy"):
        values = data.to_numpy()
        return _of_objects(values, what, by_chance) if values.ndim == 1 else None
    return None


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _differ_in_length(rows: Sequence[Any]) -> bool:
    if not rows or not _is_list(rows[0]):
        return False
    length = len(rows[0])
    return all(map(_is_list, rows)) and any(len(row) != length for row in rows)


def _of_objects(values: Array, what: str, by_chance: bool) -> Ragged | None:
    rows = values.tolist()
    if not by_chance and len({len(row) for row in rows if _is_list(row)}) < 2:
        return None
    missing = sum(not _is_list(row) for row in rows)
    if missing:
        raise MissingValueError(f"{what}: {missing} of {len(rows)} rows are no lists; give an empty list for them")
    return _of_lists(rows, what)


def _of_lists(rows: Sequence[Any], what: str) -> Ragged:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    if all(isinstance(row, np.ndarray) for row in rows):
        filled = [row for row in rows if len(row)] or list(rows[:1])
        if len({row.shape[1:] for row in filled}) > 1:
            raise ShapeError(
                f"{what}: rows differ in more than their length, found items of shape "
                f"{shown(sorted({row.shape[1:] for row in filled}))}; pad or resize them to one shape"
            )
        items = np.concatenate(alike([as_native(row, what) for row in filled], what))
    else:
        try:
            items = as_native(list(chain.from_iterable(rows)), what)
        except ValueError as err:
            if isinstance(err, (DtypeError, MissingValueError)):
                raise
            raise ShapeError(
                f"{what}: rows are lists of lists of various lengths; one level of them can be stored: give each level "
                "a variable of its own, or pad the inner one"
            ) from err
    return _texts_of_any_width(Ragged(offsets_of(lengths), items))


def _texts_of_any_width(rows: Ragged) -> Ragged:
    return rows.astype(TEXT) if rows.dtype.kind == "U" else rows


def _of_sparse(data: Any, what: str) -> Ragged:
    matrix = data.tocsr()
    if matrix.ndim != 2:
        raise ShapeError(f"{what}: a sparse array has rows if it has two dimensions, found shape {matrix.shape}")
    if not matrix.has_canonical_format:  # sorted, and no entry twice: equal matrices are then stored equally
        matrix = matrix.copy()
        matrix.sum_duplicates()
    columns = matrix.indices.astype(column_dtype(matrix.shape[1]), copy=False)
    return Ragged(matrix.indptr.astype(np.int64), matrix.data, columns, int(matrix.shape[1]))


def _of_arrow(data: Any, what: str) -> Ragged:
    array = data.combine_chunks() if hasattr(data, "combine_chunks") else data
    if hasattr(array, "num_chunks"):  # of an empty column
        array = array.chunk(0) if array.num_chunks else array
    if array.null_count:
        raise MissingValueError(f"{what}: {array.null_count} lists are null; fill them, for example with empty ones")
    found = arrow_type(array.type.value_type, what, within=array.type)
    offsets = np.asarray(array.offsets.to_numpy(zero_copy_only=False)).astype(np.int64)
    values = array.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0]))  # an array may be a part of another
    if values.null_count and found.dtype.kind not in "mM":
        raise MissingValueError(f"{what}: {values.null_count} items are null; fill them first")
    return Ragged(offsets - offsets[0], arrow_values(values, found, what))


def _of_awkward(data: Any, what: str) -> Ragged | None:
    if " var " not in f" {data.type} ":
        return None
    if "?" in str(data.type) or "option" in str(data.type):
        raise MissingValueError(f"{what}: it may have missing values ({data.type}); fill them with awkward.fill_none")
    if str(data.type).count("var ") > 1 or "{" in str(data.type):
        raise DtypeError(
            f"{what}: it is of type {data.type}; one level of lists of numbers can be stored: give each field, and "
            "each level, a variable of its own"
        )
    layout = data.layout
    while hasattr(layout, "content") and not hasattr(layout, "offsets") and not hasattr(layout, "starts"):
        layout = layout.project() if hasattr(layout, "project") else layout.content
    layout = layout.to_ListOffsetArray64(False) if hasattr(layout, "to_ListOffsetArray64") else layout
    items = layout.content
    is_text = items.parameter("__array__") in ("string", "bytestring")
    values = np.asarray(items.to_list(), TEXT) if is_text else np.asarray(type(data)(items))
    return Ragged(np.asarray(layout.offsets, np.int64), values)


def kind_in(source: object) -> Kind:
    """Return the kind of rows of a source."""
    found: Kind = getattr(source, "kind", "dense")
    return found


def empty_lists(source: Any) -> Ragged:
    """Return no rows of a source whose rows are lists, or sparse."""
    if kind_in(source) == "ragged":
        return Ragged(np.zeros(1, np.int64), np.empty((0, *source.row_shape), source.dtype))
    n_columns = source.row_shape[0]
    return Ragged(np.zeros(1, np.int64), np.empty(0, source.dtype), np.empty(0, column_dtype(n_columns)), n_columns)


@dataclass(frozen=True, slots=True, eq=False)
class RaggedSource:
    """Rows in memory that are lists, or sparse."""

    values: Ragged

    @property
    def kind(self) -> Kind:
        """The kind of rows."""
        return "ragged" if self.values.columns is None else "sparse"

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.values)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the items."""
        return self.values.dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one item; of a sparse matrix the number of columns."""
        return self.values.item_shape

    def blocks(self, block_rows: int) -> Iterator[Any]:
        """Yield views of rows."""
        return (self.values[lo : lo + block_rows] for lo in range(0, len(self.values), block_rows))


@dataclass(frozen=True, slots=True, eq=False)
class DenseLists:
    """Rows of one length, for a variable whose rows are lists."""

    rows: Any
    """The source of the rows."""
    kind: Kind = "ragged"

    @property
    def n_rows(self) -> int | None:
        """The number of rows."""
        found: int | None = self.rows.n_rows
        return found

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the items."""
        dtype: np.dtype[Any] = self.rows.dtype
        return dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one item."""
        shape: tuple[int, ...] = self.rows.row_shape[1:]
        return shape

    def blocks(self, block_rows: int) -> Iterator[Any]:
        """Yield the rows as lists."""
        return map(lists_of_one_length, self.rows.blocks(block_rows))


def lists_of_one_length(rows: Array) -> Ragged:
    """Return rows of one length as lists."""
    n_rows, length = rows.shape[:2]
    offsets = np.arange(n_rows + 1, dtype=np.int64) * length
    return _texts_of_any_width(Ragged(offsets, rows.reshape(n_rows * length, *rows.shape[2:])))


def column_dtype(n_columns: int) -> np.dtype[Any]:
    """Return the dtype of the columns of a sparse matrix."""
    return np.dtype(np.int32 if n_columns <= np.iinfo(np.int32).max else np.int64)


class PartWriter(Protocol):
    """What the rows of one array are appended to."""

    def append(self, rows: Array) -> None:
        """Append rows."""

    def put_rest(self) -> None:
        """Hand the remaining rows to storage."""

    def close(self) -> RowArray:
        """Return the finished array."""

    def abandon(self) -> None:
        """Wait until nothing is being written."""


class RaggedWriter:
    """Appends rows of various lengths to the arrays of their bounds and items.

    Parameters
    ----------
    make : callable
        Returns the writer of a part: 0 for the bounds, 1 for the items, 2 for the columns.
    kind : Kind
        The kind of rows.
    n_columns : int
        The number of columns of a sparse matrix.
    """

    def __init__(self, make: Callable[[int], PartWriter], kind: Kind, n_columns: int = 0) -> None:
        self._writers = [make(part) for part in range(3 if kind == "sparse" else 2)]
        self._n_columns = n_columns if kind == "sparse" else 0
        self._n_items = 0

    def append(self, rows: Ragged) -> None:
        """Append rows; the caller may change them as soon as this returns."""
        lo, hi = int(rows.offsets[0]), int(rows.offsets[-1])
        ends = rows.offsets - lo + self._n_items
        self._writers[0].append(np.stack([ends[:-1], ends[1:]], axis=1))
        self._writers[1].append(rows.items[lo:hi])
        if rows.columns is not None:
            self._writers[2].append(rows.columns[lo:hi])
        self._n_items += hi - lo

    def put_rest(self) -> None:
        """Hand the remaining rows to storage; no more may be appended."""
        for writer in self._writers:
            writer.put_rest()

    def close(self) -> RaggedArray:
        """Return the finished array."""
        return RaggedArray(tuple(writer.close() for writer in self._writers), self._n_columns)

    def abandon(self) -> None:
        """Wait until nothing is being written, ignoring errors."""
        for writer in self._writers:
            writer.abandon()


_PARTS = ("", ".items", ".columns")


def part_names(name: str, taken: set[str]) -> tuple[str, ...]:
    """Return names for the arrays of the parts of a variable, none of which others have.

    >>> part_names("x", {"x", "x.items"})
    ('x', 'x.items+', 'x.columns')
    """
    found = [name]
    for part in _PARTS[1:]:
        own = name.encode()[:200].decode(errors="ignore") + part
        while own in taken:
            own += "+"
        taken.add(own)
        found.append(own)
    return tuple(found)
