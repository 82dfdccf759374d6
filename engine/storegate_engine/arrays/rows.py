"""Rows: the protocol of arrays of rows, wherever they are, and arrays in memory or without bytes.

The protocol answers all questions about an array, so that callers need not know its class. Arrays without files inherit
their common answers from `Fileless`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.arrays.inspection import require_within_limits
from storegate_engine.arrays.shards import RowSpan
from storegate_engine.arrays.statistics import Statistics, Tally
from storegate_engine.budget import Layout
from storegate_engine.dtypes import dtype_from_text, dtype_to_text
from storegate_engine.encodings import is_text
from storegate_engine.errors import CorruptStoreError, shown
from storegate_engine.locations import Location
from storegate_engine.texts import TextSize

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["ConstantArray", "Fileless", "Held", "MemoryArray", "RowArray"]

Array: TypeAlias = np.ndarray[Any, Any]


class Held(Protocol):
    """Rows that share bytes, in memory, each byte once: written out, as windows, they would take many times as much."""

    def reads(self, most_rows: int) -> Iterator[Callable[..., None]]:
        """Yield functions that each read some of the bytes; ``alone`` as in `RowArray`."""
        ...

    def take(self, rows: Array, axis: int = 0) -> Any:
        """Return copies of rows, by their numbers among those that are held."""
        ...

    def __getitem__(self, rows: slice, /) -> Any:
        """Return copies of adjacent rows."""
        ...


class Shared(Protocol):
    """Rows that windows share."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        ...

    @property
    def row_nbytes(self) -> int:
        """Bytes of one row."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def read(self, lo: int, hi: int) -> Any:
        """Return rows ``lo..hi``."""
        ...


class Windowed(Protocol):
    """Rows that are windows: adjacent rows of others."""

    @property
    def variable(self) -> Shared:
        """The rows that windows share."""
        ...

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The number of rows of a window, and the shape of a row."""
        ...

    def starts(self, windows: Array, /) -> Array:
        """Return the first row of each window."""
        ...


class RowArray(Protocol):
    """Rows that can be read: the only interface between plans and bytes."""

    def __hash__(self) -> int:
        """Return the hash of the array, not of its values."""
        ...

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

    @property
    def parts(self) -> tuple[RowArray, ...]:
        """The arrays of bounds, items and columns, if rows differ in length, see `ragged_arrays`; else nothing."""
        ...

    # Layout

    @property
    def chunk_rows(self) -> int:
        """Number of rows that are decoded together."""
        ...

    @property
    def shard_rows(self) -> int:
        """Number of rows of one file; 1 if there are no files."""
        ...

    @property
    def is_random_access(self) -> bool:
        """Whether any row can be read alone: nothing else is decoded, and no other process is involved."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether every read waits for an answer of a server, so that many should be under way."""
        ...

    @property
    def held_row_nbytes(self) -> int | None:
        """Bytes that a row takes in :meth:`held`; None if rows share no bytes."""
        ...

    @property
    def windows(self) -> Windowed | None:
        """The rows as windows of others; None if they are none."""
        ...

    @property
    def constant(self) -> int | None:
        """The value of all rows, 0 (for text: empty) or 1; then nothing is read. None if rows may differ."""
        ...

    @property
    def text(self) -> TextSize | None:
        """The size of variable-length text; None for other dtypes, or if it was not counted."""
        ...

    @property
    def statistics(self) -> Statistics | None:
        """What is known of the values without reading them; None if nothing is."""
        ...

    # Place

    @property
    def is_stored(self) -> bool:
        """Whether any process can find the rows by the result of `to_json`: they are in storage, or constant."""
        ...

    @property
    def location(self) -> Location | None:
        """The segment with the files; None if there are none."""
        ...

    @property
    def sources(self) -> RowArray | None:
        """The list of files of other programs that hold the rows; None if they are the store's own."""
        ...

    def problems(self) -> Iterator[str]:
        """Yield what is wrong with files of other programs."""
        ...

    def on_workers(self) -> da.Array | None:
        """Return the rows on the workers of a cluster, as a persisted dask array; None if they are elsewhere.

        Raises
        ------
        ClusterError
            The rows were lost with the cluster.
        """
        ...

    def to_json(self) -> dict[str, Any]:
        """Return the array as JSON for a manifest.

        Raises
        ------
        TypeError
            `is_stored` is False.
        """
        ...

    # Reading. ``alone`` reads in this thread: if other threads read, too, handing over costs more than it gains.

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Read rows ``start..stop`` into ``out`` of shape ``(stop - start, *row_shape)``."""
        ...

    def read_spans(self, spans: Sequence[RowSpan], out: Array, /, *, alone: bool = False) -> None:
        """Read spans of rows to their places in ``out``; every chunk that they touch is read once, if possible."""
        ...

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Read ``rows`` (int64) into ``out`` of shape ``(len(rows), *row_shape)``."""
        ...

    def held(self, rows: Array, /) -> Held:
        """Return memory for rows that share bytes, each once; they are still to be read."""
        ...

    def will_read(self, spans: Sequence[tuple[int, int]]) -> None:
        """Ask storage to fetch rows, given as firsts and ends, in ascending order: a hint."""
        ...

    def drop(self, start: int, stop: int) -> None:
        """Tell storage that rows ``start..stop`` will not be read again soon: a hint."""
        ...


class Fileless:
    """The answers to `RowArray` that are the same for all arrays without files."""

    __slots__ = ()

    shard_rows = 1
    is_random_access = False
    is_remote = False
    is_stored = False

    @property
    def parts(self) -> tuple[RowArray, ...]:
        """Nothing: rows have one shape."""
        return ()

    @property
    def held_row_nbytes(self) -> int | None:
        """None: rows share no bytes."""
        return None

    def held(self, rows: Array, /) -> Held:
        """Raise TypeError."""
        raise TypeError(f"rows of a {type(self).__name__} share no bytes")

    @property
    def windows(self) -> Windowed | None:
        """None: rows are no windows."""
        return None

    @property
    def constant(self) -> int | None:
        """None: the rows may differ."""
        return None

    @property
    def text(self) -> TextSize | None:
        """None: the size was not counted."""
        return None

    @property
    def statistics(self) -> Statistics | None:
        """None: the values were not counted."""
        return None

    @property
    def location(self) -> Location | None:
        """None: there are no files."""
        return None

    @property
    def sources(self) -> RowArray | None:
        """None: there are no files of other programs."""
        return None

    def problems(self) -> Iterator[str]:
        """Yield nothing."""
        return iter(())

    def on_workers(self) -> da.Array | None:
        """Return None: the rows are in this process."""
        return None

    def to_json(self) -> dict[str, Any]:
        """Raise TypeError."""
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
    """Rows in the memory of this process; pickled with their values."""

    values: Array
    """The rows."""
    is_ours: bool = False
    """Whether nobody else can change the values, so that what was counted once stays true."""
    _counted: list[Statistics] = field(default_factory=list, init=False, repr=False)
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
        """1: any row can be read alone."""
        return 1

    @property
    def statistics(self) -> Statistics | None:
        """What is known of the values, counted on first demand and kept; None if their owner may change them.

        Counting them while they are copied would make the copy a third slower.
        """
        if not self.is_ours:
            return None
        if not self._counted:
            tally = Tally(self.dtype)
            if self.values.size and not is_text(self.dtype):
                tally.add(self.values)
            self._counted.append(tally.found())
        return self._counted[0]

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
    """Rows that are all zeros (empty texts) or all ones; takes no space."""

    dtype: np.dtype[Any]
    """The dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    n_rows: int
    """The number of rows."""
    value: int = 0
    """The value: 0 or 1."""
    is_random_access = True
    is_stored = True

    @property
    def chunk_rows(self) -> int:
        """1: any row can be made alone."""
        return 1

    @property
    def constant(self) -> int:
        """The value of all rows."""
        return self.value

    @property
    def statistics(self) -> Statistics:
        """Those of one value, if there are any."""
        tally = Tally(self.dtype)
        if is_text(self.dtype):
            tally.add_text(0)
        elif self.n_rows and 0 not in self.row_shape:
            one = np.empty(1, self.dtype)
            self.read_into(0, 1, one)
            tally.add(one)
        return tally.found()

    def to_json(self) -> dict[str, Any]:
        """Return the array as JSON for a manifest, which is all of it."""
        return {
            "constant": self.value,
            "dtype": dtype_to_text(self.dtype),
            "row_shape": list(self.row_shape),
            "n_rows": self.n_rows,
        }

    @classmethod
    def from_json(cls, document: Any) -> ConstantArray:
        """Return the array from its JSON in a manifest.

        Raises
        ------
        CorruptStoreError
            The JSON was not made by :meth:`to_json`.
        ShapeError
            The array is too large to handle.
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
