"""Slices: runs of items, gathered one after the other or side by side; pure.

Rows of various lengths are slices of their items. numpy copies a slice at the price of some hundred items, and a list
of items at the price of a miss of the cache for each: short and long slices take different ways here.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["first_of_run", "gathered", "offsets_of", "side_by_side"]

Array: TypeAlias = np.ndarray[Any, Any]
Int64Array: TypeAlias = npt.NDArray[np.int64]

SLICED_ITEMS = 128
"""Slices of more items than this, on average, are copied one by one: numbers of their items would take longer."""
PADDED_ITEMS = 768
"""From this length on, rows side by side are filled up one by one: marking each of their items would take longer."""
NEAR_ITEMS = 32
"""Slices of at most so many items, on average, lie on a few lines of a core's cache."""
TOUCHED_ITEMS = 2**18
"""Items that a core's cache may hold are not fetched into it first."""
LOOKED_AT = 64
"""Slices that mostly tell whether all lie one after the other."""


def offsets_of(lengths: Int64Array) -> Int64Array:
    """Return offsets from lengths.

    >>> offsets_of(np.array([3, 0, 2]))
    array([0, 3, 3, 5])
    """
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def first_of_run(starts: Int64Array, lengths: Int64Array) -> int | None:
    """Return the first item of slices if each begins where the one before ends; None if not. Empty ones lie anywhere.

    >>> first_of_run(np.array([7, 0, 9]), np.array([2, 0, 3]))
    7
    """
    first = 0
    for these in (slice(LOOKED_AT), slice(None)):
        filled = np.flatnonzero(lengths[these])
        if len(filled):
            begins = starts[filled]
            if not np.array_equal(begins[1:], begins[:-1] + lengths[filled[:-1]]):
                return None
            first = int(begins[0])
    return first


def gathered(
    items: Array, columns: Array | None, starts: Int64Array, lengths: Int64Array
) -> tuple[Array, Array | None]:
    """Return slices of items, and of their columns, one after the other, as copies.

    >>> gathered(np.arange(10), None, np.array([7, 2]), np.array([2, 3]))[0]
    array([7, 8, 2, 3, 4])
    """
    several = [items] if columns is None else [items, columns]
    n_items = int(lengths.sum())
    if (first := first_of_run(starts, lengths)) is not None:
        copies = [of[first : first + n_items].copy() for of in several]
    elif n_items > SLICED_ITEMS * len(lengths):
        copies = [_sliced(of, starts, lengths, n_items) for of in several]
    else:
        index = _numbers(starts, lengths, n_items)
        if 2 * len(lengths) <= n_items <= NEAR_ITEMS * len(lengths) and len(items) > TOUCHED_ITEMS:
            # The items of a slice wait for each other in memory; first and last ones of all slices come at once.
            ends = np.stack([starts, starts + lengths])
            for of in several:
                of.take(ends, axis=0, mode="clip")
        # the numbers are right, and checking them would take as long as copying
        copies = [of.take(index, axis=0, mode="clip") for of in several]
    return copies[0], None if columns is None else copies[1]


def _numbers(starts: Int64Array, lengths: Int64Array, n_items: int) -> Int64Array:
    """Return the number of each item of slices."""
    if not lengths.all():
        filled = np.flatnonzero(lengths)
        starts, lengths = starts[filled], lengths[filled]
    # sums of steps: 1 within a slice, and from the last item of a slice to the first one of the next
    steps = np.ones(n_items, np.int64)
    steps[0] = starts[0]
    steps[np.cumsum(lengths[:-1])] = starts[1:] - starts[:-1] - lengths[:-1] + 1
    return np.cumsum(steps, out=steps)


def side_by_side(items: Array, lengths: Int64Array, length: int, value: Any) -> Array:
    """Return slices that lie one after the other as rows of one length, the shorter ones filled up at their ends.

    >>> side_by_side(np.arange(3), np.array([2, 1]), 3, -1)
    array([[ 0,  1, -1],
           [ 2, -1, -1]])
    """
    shape = (len(lengths), length, *items.shape[1:])
    if not len(lengths) or (lengths == length).all():
        return items.copy().reshape(shape)
    memory = _bytes_of(items)
    if memory is None or length < PADDED_ITEMS:
        out = np.full(shape, value, items.dtype)
        out[np.arange(length, dtype=np.int32) < lengths.astype(np.int32)[:, None]] = items
        return out
    filler = _bytes_of(np.full(shape[1:], value, items.dtype))
    assert filler is not None
    cuts = pairwise((offsets_of(lengths) * items[:1].nbytes).tolist())
    return _joined((part for lo, hi in cuts for part in (memory[lo:hi], filler[hi - lo :])), items.dtype, shape)


def _sliced(items: Array, starts: Int64Array, lengths: Int64Array, n_items: int) -> Array:
    memory = _bytes_of(items)
    size = 1 if memory is None else items[:1].nbytes
    cuts = zip((starts * size).tolist(), ((starts + lengths) * size).tolist(), strict=True)
    if memory is None:
        several: Array = np.concatenate([items[lo:hi] for lo, hi in cuts])
        return several
    return _joined((memory[lo:hi] for lo, hi in cuts), items.dtype, (n_items, *items.shape[1:]))


def _bytes_of(items: Array) -> memoryview | None:
    """Return the bytes of items, which Python slices and joins in half the time of numpy; None if they are no bytes."""
    if not items.flags.c_contiguous or items.dtype.hasobject or not items.nbytes:
        return None
    return items.reshape(-1).view(np.uint8).data


def _joined(parts: Iterable[memoryview], dtype: np.dtype[Any], shape: tuple[int, ...]) -> Array:
    return np.frombuffer(bytearray().join(parts), dtype).reshape(shape)
