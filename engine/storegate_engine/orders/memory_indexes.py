"""Memory indexes: lists of row numbers in memory, each in its most compact form; never reads data.

========== ============================================ ===================
index      for                                          bytes
========== ============================================ ===================
ArrayIndex any rows, repeats included                   4 or 8 per entry
MaskIndex  rows that a mask selects, ascending          1/8 per row of the mask
RangeIndex every k-th row, also backwards               none
========== ============================================ ===================
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import NotInvertibleError
from storegate_engine.integers import groups_of
from storegate_engine.orders.indexes import NewIndex, spans
from storegate_engine.orders.permutations import as_int64

__all__ = ["ArrayIndex", "MaskIndex", "RangeIndex", "in_memory"]

Int64Array: TypeAlias = npt.NDArray[np.int64]


class _InMemory:
    """The common part of indexes in memory: they have no name in a manifest."""

    __slots__ = ("__weakref__",)

    def __len__(self) -> int:
        raise NotImplementedError

    def to_json(self) -> object:
        """Raise TypeError: rows in memory have no name."""
        raise TypeError(f"an index of {len(self)} rows in memory cannot be put in a manifest; store it first")


class ArrayIndex(_InMemory):
    """A `RowIndex` in memory: a read-only copy of integers, unsigned 32-bit if they fit.

    Two of them are equal only if they are the same object.

    Parameters
    ----------
    values : integers of shape (n,), not negative
    is_distinct : bool
        Whether no row is known to be named twice.

    Raises
    ------
    TypeError, ValueError
        The values are not integers, not one-dimensional, or negative.

    Examples
    --------
    >>> ArrayIndex([4, 0, 2]).find(np.array([0, 1, 2]))
    array([ 1, -1,  2])
    """

    __slots__ = ("_inverse", "_sorter", "_stop", "_values", "is_distinct")

    def __init__(self, values: npt.ArrayLike, *, is_distinct: bool = False) -> None:
        array = as_int64(values, "an index")
        if array.ndim != 1:
            raise ValueError(f"an index has one dimension, but the shape {array.shape} was given")
        if array.size and int(array.min()) < 0:
            raise ValueError(f"an index holds no negative rows, but {int(array.min())} was given")
        narrow = not array.size or int(array.max()) < 2**32
        self._adopt(array.astype(np.uint32 if narrow else np.int64), is_distinct=is_distinct)

    def _adopt(self, values: npt.NDArray[Any], *, is_distinct: bool = False) -> None:
        values.setflags(write=False)
        self.is_distinct = is_distinct
        self._values = values
        self._stop = int(values.max()) + 1 if values.size else 0
        self._inverse: npt.NDArray[Any] | None = None
        self._sorter: npt.NDArray[np.intp] | None = None

    @classmethod
    def of_own(cls, values: npt.NDArray[Any], *, is_distinct: bool = False) -> ArrayIndex:
        """Wrap an array without a copy; nothing else may hold it."""
        index = cls.__new__(cls)
        index._adopt(values, is_distinct=is_distinct)
        return index

    def __reduce__(self) -> tuple[Callable[[npt.NDArray[Any], bool], ArrayIndex], tuple[npt.NDArray[Any], bool]]:
        return _index_of_own, (self._values, self.is_distinct)

    def __repr__(self) -> str:
        return f"ArrayIndex(<{self._values.size} rows below {self._stop}, {self._values.dtype}>)"

    def __len__(self) -> int:
        return self._values.size

    @property
    def values(self) -> npt.NDArray[Any]:
        """The entries: read-only, uint32 or int64."""
        return self._values

    @property
    def stop(self) -> int:
        """The largest entry plus one; 0 if there is none."""
        return self._stop

    @property
    def nbytes(self) -> int:
        """The bytes of the entries (without the inverse, once that is used)."""
        return self._values.nbytes

    def take(self, rows: Int64Array, /) -> Int64Array:
        """Return the entries at ``rows``."""
        return self._values[rows].astype(np.int64)

    def slice(self, lo: int, hi: int, /) -> Int64Array:
        """Return the entries lo .. hi-1."""
        return self._values[lo:hi].astype(np.int64)

    def find(self, values: Int64Array, /) -> Int64Array:
        """Return the position of each of ``values``, or -1; NotInvertibleError if a row is repeated."""
        if self._inverse is None:
            self._invert()  # twice at worst, if threads meet here
        inverted, sorter = self._inverse, self._sorter
        assert inverted is not None
        out = np.full(values.shape, -1, np.int64)
        known = (values >= 0) & (values < self._stop)
        wanted = values[known]
        if sorter is None:  # a table over all rows: position + 1, 0 for a row that is absent
            out[known] = inverted[wanted].astype(np.int64) - 1
        else:  # sorted entries; every wanted value is at most the last of them
            at = np.searchsorted(inverted, wanted.astype(inverted.dtype))
            out[known] = np.where(inverted[at] == wanted, sorter[at], -1)
        return out

    def token(self) -> object:
        """Return the SHA-256 of the entries."""
        digest = hashlib.sha256()
        for lo, hi in spans(len(self)):
            digest.update(self.slice(lo, hi).astype("<i8", copy=False).data)
        return ["rows", len(self), digest.hexdigest()]

    def _invert(self) -> None:
        # A table over all rows is fastest, and takes 4 bytes for each row below the largest entry; if entries
        # are few among many rows, they are sorted and searched instead.
        n = self._values.size
        if self._stop <= max(4 * n, 1024) and n < 2**32 - 1:
            table = np.zeros(self._stop, np.uint32)
            for lo, hi in spans(n):
                table[self._values[lo:hi]] = np.arange(lo + 1, hi + 1, dtype=np.uint32)
            if np.count_nonzero(table) != n:
                self._refuse_inverse()
            self._inverse = table
            return
        sorter = np.argsort(self._values, kind="stable")
        ordered = self._values[sorter]
        if np.any(ordered[1:] == ordered[:-1]):
            self._refuse_inverse()
        self._sorter = sorter  # first, since another thread may see the inverse at once
        self._inverse = ordered

    def _refuse_inverse(self) -> None:
        ordered = np.sort(self._values)
        repeated = int(ordered[1:][ordered[1:] == ordered[:-1]][0])
        first, second = np.flatnonzero(self._values == repeated)[:2]
        raise NotInvertibleError(
            f"row {repeated} stands at both {first} and {second} of an index of {len(self)} rows, so that "
            "stored rows have no single position; read it by logical rows, or compact the variable first"
        )


def _index_of_own(values: npt.NDArray[Any], is_distinct: bool) -> ArrayIndex:
    return ArrayIndex.of_own(values, is_distinct=is_distinct)


class MaskIndex(_InMemory):
    """A `RowIndex` of the rows that a mask selects, ascending; one bit per row of the mask.

    Parameters
    ----------
    mask : booleans of shape (n,)
        Copied.

    Examples
    --------
    >>> index = MaskIndex(np.array([False, True, True, False, True]))
    >>> index.slice(0, 3), index.find(np.array([2, 3, 4]))
    (array([1, 2, 4]), array([ 1, -1,  2]))
    """

    __slots__ = ("_bits", "_n_rows", "_starts")
    is_distinct = True
    BLOCK_ROWS = 2**16
    """Rows of the mask per block with a known number of selected rows."""

    def __init__(self, mask: npt.NDArray[np.bool_]) -> None:
        blocks = [np.packbits(mask[lo:hi]) for lo, hi in spans(len(mask), self.BLOCK_ROWS)]
        counts = [int(np.bitwise_count(bits).sum()) for bits in blocks]
        self._bits = np.concatenate(blocks) if blocks else np.empty(0, np.uint8)
        self._n_rows = len(mask)
        self._starts = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)

    def __repr__(self) -> str:
        return f"MaskIndex(<{len(self)} of {self._n_rows} rows>)"

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def stop(self) -> int:
        """The largest entry plus one, or more."""
        return self._n_rows

    def _rows_of(self, block: int) -> Int64Array:
        """Return the selected rows of one block of the mask, relative to its first row."""
        return np.flatnonzero(self._unpacked(block))

    def _unpacked(self, block: int) -> npt.NDArray[np.uint8]:
        first = block * self.BLOCK_ROWS
        n_rows = min(self.BLOCK_ROWS, self._n_rows - first)
        return np.unpackbits(self._bits[first // 8 : (first + n_rows + 7) // 8], count=n_rows)

    def slice(self, lo: int, hi: int, /) -> Int64Array:
        """Return the entries lo .. hi-1."""
        out = np.empty(hi - lo, np.int64)
        block = int(np.searchsorted(self._starts, lo, side="right")) - 1
        done = lo
        while done < hi:
            start, stop = int(self._starts[block]), min(hi, int(self._starts[block + 1]))
            if done < stop:
                rows = self._rows_of(block)[done - start : stop - start]
                np.add(rows, block * self.BLOCK_ROWS, out=out[done - lo : stop - lo])
                done = stop
            block += 1
        return out

    def take(self, rows: Int64Array, /) -> Int64Array:
        """Return the entries at ``rows``."""
        out = np.empty(len(rows), np.int64)
        for block, where in _grouped(np.searchsorted(self._starts, rows, side="right") - 1):
            out[where] = self._rows_of(block)[rows[where] - self._starts[block]] + block * self.BLOCK_ROWS
        return out

    def find(self, values: Int64Array, /) -> Int64Array:
        """Return the position of each of ``values``, or -1."""
        out = np.full(len(values), -1, np.int64)
        known = np.flatnonzero((values >= 0) & (values < self._n_rows))
        for block, where in _grouped(values[known] // self.BLOCK_ROWS):
            bits = self._unpacked(block)
            within = values[known[where]] - block * self.BLOCK_ROWS
            ranks = np.cumsum(bits, dtype=np.int64)[within] - 1 + self._starts[block]
            out[known[where]] = np.where(bits[within] != 0, ranks, -1)
        return out

    def token(self) -> object:
        """Return the SHA-256 of the mask."""
        return ["mask", self._n_rows, hashlib.sha256(self._bits.data).hexdigest()]


def _grouped(keys: Int64Array) -> Iterator[tuple[int, Int64Array]]:
    """Yield every key and its positions."""
    places, cuts, found = groups_of(keys)
    for key, lo, hi in zip(found, cuts, cuts[1:], strict=False):
        yield key, places[lo:hi]


class RangeIndex(_InMemory):
    """A `RowIndex` of the numbers of a Python range, which is not empty and not negative.

    >>> RangeIndex(range(8, 0, -3)).find(np.array([2, 3, 8]))
    array([ 2, -1,  0])
    """

    __slots__ = ("_range",)
    is_distinct = True

    def __init__(self, numbers: range) -> None:
        self._range = numbers

    def __repr__(self) -> str:
        return f"RangeIndex({self._range})"

    def __len__(self) -> int:
        return len(self._range)

    @property
    def stop(self) -> int:
        """The largest entry plus one."""
        return max(self._range[0], self._range[-1]) + 1

    def slice(self, lo: int, hi: int, /) -> Int64Array:
        """Return the entries lo .. hi-1."""
        part = self._range[lo:hi]
        return np.arange(part.start, part.stop, part.step, dtype=np.int64)

    def take(self, rows: Int64Array, /) -> Int64Array:
        """Return the entries at ``rows``."""
        return rows * self._range.step + self._range.start

    def find(self, values: Int64Array, /) -> Int64Array:
        """Return the position of each of ``values``, or -1."""
        places, rest = np.divmod(values - self._range.start, self._range.step)
        return np.where((rest == 0) & (places >= 0) & (places < len(self)), places, -1)

    def token(self) -> object:
        """Return its start, stop and step."""
        return ["range", self._range.start, self._range.stop, self._range.step]


def in_memory(new: NewIndex) -> ArrayIndex:
    """Return a new index as an array in memory."""
    values = np.empty(new.n_rows, new.dtype)
    for lo, hi in spans(new.n_rows):
        values[lo:hi] = new.slice(lo, hi)
    return ArrayIndex.of_own(values)
