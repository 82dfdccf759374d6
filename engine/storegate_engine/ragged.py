"""Ragged: rows of various lengths in memory, as all their items beside each other; pure.

::

    rows      [1 2 3] [] [4 5]
    items      1 2 3      4 5
    offsets   0      3  3     5      row i is items[offsets[i] : offsets[i + 1]]

Rows of a sparse matrix are the same with a second array beside the items: the column of each of them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, Self, TypeAlias, overload

import numpy as np
import numpy.typing as npt

from storegate_engine.casts import combined, holds, is_float_of_integers
from storegate_engine.errors import ArgumentError, DtypeError, RowIndexError, ShapeError, shown
from storegate_engine.natives import alike, as_native
from storegate_engine.optional import require_package
from storegate_engine.slices import gathered, offsets_of, side_by_side

__all__ = ["Pad", "Ragged", "compiled", "concatenated", "pad", "require_columns", "rows_of", "trusted"]

Array: TypeAlias = np.ndarray[Any, Any]
Int64Array: TypeAlias = npt.NDArray[np.int64]

COMPILED = frozenset("?bBhHiIlLqQfdFD")
"""The dtypes of items that scipy's loops know, by numpy's characters."""


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """Rows of various lengths, or rows of a sparse matrix.

    Parameters
    ----------
    offsets : ndarray of int64, shape (n_rows + 1,)
        The first item of each row, and the end of the last one.
    items : ndarray, shape ``(n_items, *item_shape)``
        The items of all rows; those before the first offset and after the last one belong to no row.
    columns : ndarray of int64, shape (n_items,), optional
        The column of each item of a sparse matrix.
    n_columns : int, optional
        The number of columns of a sparse matrix.

    Raises
    ------
    ShapeError
        The offsets do not describe rows of the items, or a column is not among the ``n_columns``.

    Examples
    --------
    >>> rows = Ragged.of([[1, 2, 3], [], [4, 5]])
    >>> rows
    Ragged(3 rows of 0 to 3 items, int64)
    >>> rows[2], rows.lengths
    (array([4, 5]), array([3, 0, 2]))
    >>> rows.padded(-1)
    array([[ 1,  2,  3],
           [-1, -1, -1],
           [ 4,  5, -1]])
    >>> rows.offsets, rows.items, rows.dtype, rows.item_shape
    (array([0, 3, 3, 5]), array([1, 2, 3, 4, 5]), dtype('int64'), ())
    >>> sparse = Ragged(np.array([0, 1, 1]), np.array([0.5]), columns=np.array([2]), n_columns=3)
    >>> sparse.columns, sparse.n_columns, sparse.nbytes
    (array([2]), 3, 40)
    >>> sparse.to_csr().toarray()
    array([[0. , 0. , 0.5],
           [0. , 0. , 0. ]])
    """

    offsets: Int64Array
    """The first item of each row, and the end of the last one."""
    items: Array
    """The items, of which rows are slices."""
    columns: Array | None = None
    """The column of each item of a sparse matrix; None for lists."""
    n_columns: int = 0
    """The number of columns of a sparse matrix."""

    def __post_init__(self) -> None:
        offsets = self.offsets
        if offsets.ndim != 1 or not len(offsets) or offsets.dtype != np.int64 or self.items.ndim < 1:
            raise ShapeError(
                f"offsets are at least one int64, found {offsets.dtype} of shape {offsets.shape}, with items of shape "
                f"{self.items.shape}"
            )
        if offsets[0] < 0 or offsets[-1] > len(self.items) or (offsets[1:] < offsets[:-1]).any():
            raise ShapeError(f"offsets ascend from 0 or more to at most {len(self.items)}, the number of items")
        if self.columns is not None and self.columns.shape != self.items.shape:
            raise ShapeError(f"{len(self.items)} items have {len(self.columns)} columns; give one for each")
        if self.columns is not None:
            require_columns(self.columns[offsets[0] : offsets[-1]], self.n_columns)

    @classmethod
    def of(cls, rows: Sequence[npt.ArrayLike], dtype: npt.DTypeLike | None = None) -> Self:
        """Return sequences as rows.

        Parameters
        ----------
        rows : sequence of array-like
            The rows, each of shape ``(length, *item_shape)``.
        dtype : dtype-like, optional
            The dtype of the items; by default the one that holds those of all rows unchanged.

        Raises
        ------
        ShapeError
            The items have different shapes.
        DtypeError
            The items are objects, or no dtype holds all of them unchanged: give one.
        MissingValueError
            An item is masked or null.

        Examples
        --------
        >>> from storegate import Ragged
        >>> rows = Ragged.of([[1, 2], [], [3]])
        >>> len(rows), rows[0]
        (3, array([1, 2]))
        """
        what = "rows of various lengths"
        given: list[Any] = list(rows)
        if dtype is None and given and all(isinstance(row, (list, tuple)) for row in given):  # at once: rows are many
            items, lengths = as_native(list(chain.from_iterable(given)), what), list(map(len, given))
        else:
            arrays = [as_native(row, what) if dtype is None else np.asarray(row, dtype) for row in given]
            items, lengths = _joined(arrays)
        if dtype is not None and not len(items):
            items = items.astype(dtype)
        if items.dtype.kind == "O":
            raise DtypeError(f"{what} hold objects; convert their items to numbers or texts")
        return cls(offsets_of(np.asarray(lengths, np.int64)), items)

    # What an array has, too

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.offsets) - 1

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the items."""
        dtype: np.dtype[Any] = self.items.dtype
        return dtype

    @property
    def item_shape(self) -> tuple[int, ...]:
        """The shape of one item; of a sparse matrix the number of its columns."""
        return tuple(self.items.shape[1:]) if self.columns is None else (self.n_columns,)

    @property
    def nbytes(self) -> int:
        """Bytes of the rows, with their offsets."""
        columns = 0 if self.columns is None else self.columns.itemsize
        size = self.items.itemsize * int(np.prod(self.items.shape[1:])) + columns
        return int(self.offsets[-1] - self.offsets[0]) * size + self.offsets.nbytes

    @property
    def lengths(self) -> Int64Array:
        """The number of items of each row.

        Examples
        --------
        >>> from storegate import Ragged
        >>> rows = Ragged.of([[1, 2], [], [3]])
        >>> rows.lengths
        array([2, 0, 1])
        """
        return np.diff(self.offsets)

    @property
    def flat(self) -> Array:
        """The items of all rows, one after the other; a view."""
        return self.items[self.offsets[0] : self.offsets[-1]]

    def __iter__(self) -> Iterator[Array]:
        """Iterate over the rows."""
        return (self[at] for at in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Array: ...
    @overload
    def __getitem__(self, index: slice | Array | Sequence[int]) -> Ragged: ...
    def __getitem__(self, index: Any) -> Any:
        """Return one row as an array, or several rows.

        One row of a sparse matrix is an array of all its columns.

        Raises
        ------
        RowIndexError
            A row is out of range, or the index is none of rows: it is of another dtype, or a mask of another length.
        """
        if isinstance(index, slice):
            lo, hi, step = index.indices(len(self))
            if step == 1:
                return self._with(self.offsets[lo : max(lo, hi) + 1])
            return self.take(np.arange(lo, hi, step))
        if isinstance(index, (int, np.integer)) and not isinstance(index, bool):
            if not -len(self) <= index < len(self):
                raise RowIndexError(f"row {index} of {len(self)}")
            at = range(len(self))[index]
            lo, hi = self.offsets[at : at + 2].tolist()
            if self.columns is None:
                return self.items[lo:hi]
            row = np.zeros(self.n_columns, self.dtype)
            row[self.columns[lo:hi]] = self.items[lo:hi]
            return row
        rows = np.asarray(index)
        if rows.ndim != 1 or (rows.dtype.kind == "b" and len(rows) != len(self)):
            raise RowIndexError(
                f"an index of {len(self)} rows is a number, a slice, a list of numbers or a mask of shape "
                f"({len(self)},), found {rows.dtype} of shape {rows.shape}"
            )
        if rows.dtype.kind == "b":
            rows = np.flatnonzero(rows)
        if rows.size and rows.dtype.kind not in "iu":
            raise RowIndexError(f"numbers of rows are integers, found {rows.dtype}; convert them, as in astype(int)")
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise RowIndexError(f"rows {rows.min()} to {rows.max()} of {len(self)}")
        rows = rows.astype(np.int64)
        return self.take(np.where(rows < 0, rows + len(self), rows))

    def take(self, rows: Array, axis: int = 0) -> Ragged:
        """Return copies of rows, by their numbers.

        Examples
        --------
        >>> from storegate import Ragged
        >>> rows = Ragged.of([[1, 2], [], [3]])
        >>> rows.take([2, 0]).tolist()
        [[3], [1, 2]]
        """
        if (matrix := compiled(self)) is not None:
            return rows_of(matrix, rows, self)
        starts = self.offsets[:-1][rows]
        lengths = self.offsets[1:][rows] - starts
        items, columns = gathered(self.items, self.columns, starts, lengths)
        return trusted(offsets_of(lengths), items, columns, self.n_columns)

    def copy(self) -> Ragged:
        """Return the rows with items of their own.

        Examples
        --------
        >>> from storegate import Ragged
        >>> rows = Ragged.of([[1, 2], [], [3]])
        >>> rows.copy().tolist()
        [[1, 2], [], [3]]
        """
        lo, hi = self.offsets[0], self.offsets[-1]
        columns = None if self.columns is None else self.columns[lo:hi].copy()
        return trusted(self.offsets - lo, self.items[lo:hi].copy(), columns, self.n_columns)

    def astype(self, dtype: npt.DTypeLike) -> Ragged:
        """Return the rows with their items cast, by numpy's rules.

        Examples
        --------
        >>> from storegate import Ragged
        >>> rows = Ragged.of([[1, 2], [], [3]])
        >>> rows.astype("float32").flat
        array([1., 2., 3.], dtype=float32)
        """
        return trusted(self.offsets, self.items.astype(dtype), self.columns, self.n_columns)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        """Return an array of objects, a row each; of a sparse matrix, all of its columns."""
        if self.columns is not None:
            dense = np.zeros((len(self), self.n_columns), self.dtype)
            lo, hi = self.offsets[0], self.offsets[-1]
            dense[np.repeat(np.arange(len(self)), self.lengths), self.columns[lo:hi]] = self.items[lo:hi]
            return dense if dtype is None else dense.astype(dtype)
        if dtype is not None and np.dtype(dtype).kind != "O":
            raise DtypeError(f"rows of various lengths are no array of {np.dtype(dtype)}; pad them with padded(value)")
        rows = np.empty(len(self), object)
        rows[:] = list(self)
        return rows

    def __repr__(self) -> str:
        if self.columns is not None:
            return f"Ragged({len(self)} sparse rows of {self.n_columns} columns, {self.dtype})"
        lengths = self.lengths
        span = f"{lengths.min()} to {lengths.max()}" if len(lengths) else "no"
        return f"Ragged({len(self)} rows of {span} items, {self.dtype})"

    def _with(self, offsets: Int64Array) -> Ragged:
        return trusted(offsets, self.items, self.columns, self.n_columns)

    # Other forms

    def tolist(self) -> list[Any]:
        """Return a list of lists.

        >>> Ragged.of([[1, 2], []]).tolist()
        [[1, 2], []]
        """
        return [row.tolist() for row in self]

    def padded(self, value: Any = 0, *, length: int | None = None, multiple_of: int = 1) -> Array:
        """Return the rows as one array, the shorter ones filled up at their ends.

        Parameters
        ----------
        value : scalar
            What fills the shorter rows: a number beside numbers, a text beside texts, a time beside times.
        length : int, optional
            The length of every row of the result; that of the longest row if None.
        multiple_of : int
            Without ``length``, the rows of the result are as long as the next multiple of this.

        Returns
        -------
        ndarray of shape ``(n_rows, length, *item_shape)``

        Raises
        ------
        ArgumentError
            A row is longer than ``length``, or the value is no single one, of another kind than the items, or none that
            their dtype holds.
        DtypeError
            The rows are those of a sparse matrix.

        Examples
        --------
        >>> Ragged.of([[1, 2, 3], [4]]).padded(0, multiple_of=4)
        array([[1, 2, 3, 0],
               [4, 0, 0, 0]])
        """
        if self.columns is not None:
            raise DtypeError("rows of a sparse matrix have columns, and are not padded; use to_csr()")
        if multiple_of < 1:
            raise ArgumentError(f"multiple_of is at least 1, found {multiple_of}")
        lengths = self.lengths
        longest = int(lengths.max(initial=0))
        if length is None:
            length = -(-longest // multiple_of) * multiple_of
        elif longest > length:
            raise ArgumentError(f"a row has {longest} items, and length={length}; cut the rows first, or give more")
        return side_by_side(self.flat, lengths, length, self._filler(value))

    def _filler(self, value: Any) -> Any:
        """Return what fills up rows, in the dtype of the items: floats may be rounded."""
        given = np.asarray(value)
        if given.ndim:
            raise ArgumentError(f"padding takes a single value, found one of shape {given.shape}: {shown(value)}")
        with np.errstate(over="ignore"):
            is_rounded = (given.dtype.kind, self.dtype.kind) in (("f", "f"), ("f", "c"), ("c", "c"))
            if is_rounded and np.isfinite(given.astype(self.dtype)) == np.isfinite(given):
                return given.astype(self.dtype)
        try:
            combined(self.dtype, given.dtype)
        except DtypeError as err:
            if not is_float_of_integers(self.dtype, given.dtype):
                raise ArgumentError(
                    f"the items are {self.dtype}, and the value {value!r} to pad with is {given.dtype}; give one of "
                    "their kind, such as padded('') for text"
                ) from err
        if not holds(self.dtype, given):
            raise ArgumentError(f"{self.dtype} cannot hold the value {value!r} to pad with; cast the variable first")
        return given.astype(self.dtype)

    def to_awkward(self) -> Any:
        """Return the rows as an array of awkward, without a copy unless they are text.

        Raises
        ------
        ImportError
            awkward is not installed.
        DtypeError
            The rows are those of a sparse matrix.

        Examples
        --------
        >>> from storegate import Ragged
        >>> rows = Ragged.of([[1, 2], [], [3]])
        >>> rows.to_awkward().tolist()
        [[1, 2], [], [3]]
        """
        if self.columns is not None:
            raise DtypeError("an array of awkward has no columns of a sparse matrix; use to_csr()")
        ak = require_package("awkward", "awkward", "to_awkward()")
        content = ak.contents.NumpyArray(np.ascontiguousarray(self.flat)) if self.dtype.kind not in "UST" else None
        if content is None:
            content = _texts_of_awkward(ak, self.flat.reshape(-1).tolist(), is_bytes=self.dtype.kind == "S")
            for size in self.item_shape[::-1]:
                content = ak.contents.RegularArray(content, size)
        return ak.Array(ak.contents.ListOffsetArray(ak.index.Index64(self.offsets - self.offsets[0]), content))

    def to_csr(self) -> Any:
        """Return the rows of a sparse matrix as a ``scipy.sparse.csr_array``.

        Raises
        ------
        ImportError
            scipy is not installed.
        DtypeError
            The rows are lists.
        """
        if self.columns is None:
            raise DtypeError("these rows are lists, and not those of a sparse matrix; use padded(), flat or tolist()")
        lo, hi = self.offsets[0], self.offsets[-1]
        dtype = _index_dtype(self, self.columns)
        matrix = copy.copy(_empty_matrix(len(self), self.n_columns))
        matrix.data, matrix.indptr = self.items[lo:hi], (self.offsets - lo).astype(dtype)
        matrix.indices = self.columns[lo:hi].astype(dtype, copy=False)
        return matrix


def _index_dtype(rows: Ragged, columns: Array) -> np.dtype[Any]:
    """Return int32 or int64, of one dtype with the columns: scipy's own loops know no other."""
    is_long = max(rows.offsets[-1] - rows.offsets[0], rows.n_columns) > np.iinfo(np.int32).max
    return np.dtype(np.int64 if is_long or columns.dtype == np.int64 else np.int32)


def _texts_of_awkward(ak: Any, texts: list[Any], *, is_bytes: bool) -> Any:
    """Return texts as awkward lays them out: lists of bytes, whose names say what they are."""
    kind, item = ("bytestring", "byte") if is_bytes else ("string", "char")
    encoded = texts if is_bytes else [text.encode() for text in texts]
    chars = ak.contents.NumpyArray(np.frombuffer(b"".join(encoded), np.uint8), parameters={"__array__": item})
    offsets = offsets_of(np.fromiter(map(len, encoded), np.int64, len(encoded)))
    return ak.contents.ListOffsetArray(ak.index.Index64(offsets), chars, parameters={"__array__": kind})


@lru_cache(maxsize=4)
def _empty_matrix(n_rows: int, n_columns: int) -> Any:
    """Return a matrix to copy: scipy's checks, for each batch again, would take longer than its rows."""
    sparse = require_package("scipy.sparse", "sparse", "a sparse matrix")
    matrix = sparse.csr_array((n_rows, n_columns))
    matrix.indptr = matrix.indptr[:0].copy()  # which copies replace, and large ones are not kept
    return matrix


def _joined(rows: list[Array]) -> tuple[Array, list[int]]:
    """Return the items of rows in one dtype, and the lengths of the rows."""
    filled = [row for row in rows if row.size or row.ndim > 1] or rows[:1]
    shapes = {row.shape[1:] for row in filled}
    if any(not row.ndim for row in rows) or len(shapes) > 1:
        raise ShapeError(f"rows of various lengths have items of one shape, found {sorted(shapes)}")
    return np.concatenate(alike(filled or [np.empty(0)], "rows of various lengths")), list(map(len, rows))


def pad(value: Any = 0, *, length: int | None = None, multiple_of: int = 1) -> Pad:
    """Return a function that makes one array of rows of various lengths, for ``collate=`` of batches.

    Parameters
    ----------
    value : scalar
        What fills the shorter rows, at their ends; of the kind of their items, as ``pad("")`` for text.
    length : int, optional
        The length of every row; by default that of the longest row of the batch.
    multiple_of : int
        Without ``length``, rows are as long as the next multiple of this, so that batches have few shapes.

    Examples
    --------
    >>> from storegate import StoreGate, pad
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("tokens", [[1, 2, 3], [4]])
    >>> next(iter(gate["train"]["tokens"].batches(2, shuffle=False, collate=pad(0, multiple_of=4))))
    array([[1, 2, 3, 0],
           [4, 0, 0, 0]])
    """
    return Pad(value, length, multiple_of)


@dataclass(frozen=True, slots=True)
class Pad:
    """Makes one array of rows of various lengths, see :func:`pad`; can be pickled."""

    value: Any = 0
    """What fills the shorter rows."""
    length: int | None = None
    """The length of every row; that of the longest row if None."""
    multiple_of: int = 1
    """Without a length, rows are as long as the next multiple of this."""

    def __call__(self, rows: Ragged) -> Array:
        """Return the padded rows."""
        return rows.padded(self.value, length=self.length, multiple_of=self.multiple_of)


def require_columns(columns: Array, n_columns: int) -> None:
    """Raise ShapeError if some are not among the columns of a sparse matrix: scipy would leave its memory."""
    if len(columns) and (columns.min() < 0 or columns.max() >= n_columns):
        raise ShapeError(
            f"the columns of {n_columns} are 0 to {n_columns - 1}, found {columns.min()} to {columns.max()}"
        )


def trusted(offsets: Int64Array, items: Array, columns: Array | None = None, n_columns: int = 0) -> Ragged:
    """Return rows whose parts were checked before: batches are cut out of checked rows, thousands in a second."""
    rows = object.__new__(Ragged)
    for name, value in zip(Ragged.__slots__, (offsets, items, columns, n_columns), strict=True):
        object.__setattr__(rows, name, value)
    return rows


def compiled(rows: Ragged) -> Any:
    """Return rows of a sparse matrix as scipy has them, whose compiled loop copies rows at random at twice the speed.

    None if scipy is missing, knows no such items, or would copy the columns, which may be read only later.
    """
    columns, dtype = rows.columns, rows.items.dtype
    if columns is None or columns.dtype != _index_dtype(rows, columns):
        return None
    if dtype.char not in COMPILED or not dtype.isnative:
        return None
    with suppress(ImportError):
        return rows.to_csr()
    return None


def rows_of(matrix: Any, rows: Array, like: Ragged) -> Ragged:
    """Return copies of rows of a matrix of scipy, with the columns' dtype of others."""
    assert like.columns is not None
    taken = matrix[rows]
    offsets, columns = taken.indptr.astype(np.int64), taken.indices.astype(like.columns.dtype, copy=False)
    return trusted(offsets, taken.data, columns, like.n_columns)


def concatenated(parts: Sequence[Any]) -> Any:
    """Return arrays, or rows of various lengths, one after the other."""
    if not isinstance(parts[0], Ragged):
        return np.concatenate(parts)
    lengths = np.concatenate([part.lengths for part in parts])
    items = np.concatenate([part.flat for part in parts])
    columns = None
    if parts[0].columns is not None:
        columns = np.concatenate([part.columns[part.offsets[0] : part.offsets[-1]] for part in parts])
    return trusted(offsets_of(lengths), items, columns, parts[0].n_columns)
