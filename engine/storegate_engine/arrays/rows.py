"""Rows: the one protocol over arrays of rows, wherever these lie, and those that are in memory or take no space.

What callers need to know of an array stands in the protocol: they ask it, and never what class it is of. Arrays
without files inherit the answers that are the same for all of them from `Fileless`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.arrays.inspection import require_within_limits
from storegate_engine.arrays.shards import RowSpan
from storegate_engine.budget import Layout
from storegate_engine.dtypes import dtype_from_text, dtype_to_text
from storegate_engine.encodings import is_text
from storegate_engine.errors import CorruptStoreError, shown
from storegate_engine.locations import Location
from storegate_engine.texts import TextSize

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["ConstantArray", "Fileless", "MemoryArray", "RowArray"]

Array: TypeAlias = np.ndarray[Any, Any]


class RowArray(Protocol):
    """Rows that can be read: the one-protocol border between plans and bytes."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        ...

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        ...

    # How they lie.

    @property
    def chunk_rows(self) -> int:
        """The rows that are decoded together."""
        ...

    @property
    def shard_rows(self) -> int:
        """The rows of one file; 1 where there are no files."""
        ...

    @property
    def is_random_access(self) -> bool:
        """Whether any row is read at the price of itself: nothing is decoded with it, and nobody else is asked."""
        ...

    @property
    def constant(self) -> int | None:
        """What all rows are, 0 (for texts: empty) or 1: nothing is read. None where they may differ."""
        ...

    @property
    def text(self) -> TextSize | None:
        """What variable-length text takes; None for other dtypes, and where nobody has counted."""
        ...

    # Where they lie.

    @property
    def is_stored(self) -> bool:
        """Whether any process can find the rows again by what `to_json` returns: in storage, or out of nothing."""
        ...

    @property
    def location(self) -> Location | None:
        """The segment that has their files; None where there are none."""
        ...

    def on_workers(self) -> da.Array | None:
        """Return the rows on the workers of a cluster, as a persisted dask array; None where they lie elsewhere.

        Raises
        ------
        ClusterError
            They went with the cluster.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest holds of the array.

        Raises
        ------
        TypeError
            Unless `is_stored`.
        """
        ...

    # Reading. ``alone`` reads in this thread: where others read beside it, handing over costs more than it gains.

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Read rows ``start..stop`` into ``out`` of shape ``(stop - start, *row_shape)``."""
        ...

    def read_spans(self, spans: Sequence[RowSpan], out: Array, /, *, alone: bool = False) -> None:
        """Read spans of rows to their places in ``out``; every chunk that they touch is read once, where it can be."""
        ...

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Read ``rows`` (int64) into ``out`` of shape ``(len(rows), *row_shape)``."""
        ...

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Let storage fetch rows, as firsts and lasts, in ascending order: a hint."""
        ...

    def drop(self, start: int, stop: int) -> None:
        """Say that rows ``start..stop`` are not read again soon: a hint."""
        ...


class Fileless:
    """What `RowArray` asks of arrays without files, where all of these give the same answer."""

    __slots__ = ()

    shard_rows = 1
    is_random_access = False
    is_stored = False

    @property
    def constant(self) -> int | None:
        """None: the rows may differ."""
        return None

    @property
    def text(self) -> TextSize | None:
        """None: nobody has counted."""
        return None

    @property
    def location(self) -> Location | None:
        """None: there are no files."""
        return None

    def on_workers(self) -> da.Array | None:
        """Return None: the rows are in this process."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Refuse."""
        raise TypeError(f"rows of a {type(self).__name__} have no stored form; write them to storage first")

    def read_spans(self: RowArray, spans: Sequence[RowSpan], out: Array, /, *, alone: bool = False) -> None:
        """Read spans of rows to their places in ``out``, one after the other."""
        for start, stop, place in spans:
            self.read_into(start, stop, out[place : place + stop - start], alone=alone)

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Do nothing: there is nothing to fetch."""

    def drop(self, start: int, stop: int) -> None:
        """Do nothing: no files are cached."""


@dataclass(frozen=True, slots=True, eq=False)
class MemoryArray(Fileless):
    """Rows in the memory of this process; travels by value."""

    values: Array
    is_random_access = True

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        dtype: np.dtype[Any] = self.values.dtype
        return dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(self.values.shape[1:])

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.values)

    @property
    def chunk_rows(self) -> int:
        """Any row can be read alone."""
        return 1

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Copy rows ``start..stop`` into ``out``."""
        out[...] = self.values[start:stop]

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Copy ``rows`` into ``out``."""
        if out.dtype == self.values.dtype and out.flags.c_contiguous and out.dtype.kind not in "T":
            self.values.take(rows, axis=0, out=out, mode="clip")  # rows are validated; "raise" would buffer
        else:
            out[...] = self.values[rows]


@dataclass(frozen=True, slots=True)
class ConstantArray(Fileless):
    """Rows that are all zeros (empty texts) or all ones; takes no space anywhere."""

    dtype: np.dtype[Any]
    """The dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    n_rows: int
    """The number of rows."""
    value: int = 0
    """0 or 1."""
    is_random_access = True
    is_stored = True

    @property
    def chunk_rows(self) -> int:
        """Any row can be made alone."""
        return 1

    @property
    def constant(self) -> int:
        """What all rows are."""
        return self.value

    def to_json(self) -> dict[str, Any]:
        """Return what a manifest holds of the array: all that there is of it."""
        return {
            "constant": self.value,
            "dtype": dtype_to_text(self.dtype),
            "row_shape": list(self.row_shape),
            "n_rows": self.n_rows,
        }

    @classmethod
    def from_json(cls, document: Any) -> ConstantArray:
        """Return the array that a manifest describes.

        Raises
        ------
        CorruptStoreError
            The document is not one that :meth:`to_json` returns.
        ShapeError
            The array is too large to be handled.
        """
        counts = (document["n_rows"], *document["row_shape"])
        value = document["constant"]
        if type(value) is not int or value not in (0, 1) or any(type(n) is not int or n < 0 for n in counts):
            raise CorruptStoreError(f"a constant array that is not ours: {shown(document)}")
        dtype = dtype_from_text(document["dtype"])
        require_within_limits(dtype, tuple(counts[1:]), counts[0], Layout(1, 1))
        return cls(dtype, tuple(counts[1:]), counts[0], value)

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Fill ``out``."""
        out[...] = "" if is_text(self.dtype) else np.asarray(self.value, np.int64).astype(self.dtype)

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Fill ``out``."""
        self.read_into(0, 0, out)
