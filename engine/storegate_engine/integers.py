"""Integers: sorting and grouping row numbers by integer keys, as fast as the range of the keys allows."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["groups_of", "stable_argsort"]

IntArray: TypeAlias = npt.NDArray[Any]
Places: TypeAlias = npt.NDArray[np.intp]


def stable_argsort(keys: IntArray) -> Places:
    """Return ``np.argsort(keys, kind="stable")`` of one-dimensional integers, faster if their range is small.

    numpy sorts 16-bit numbers in linear time: 25 ns per entry, where 64-bit ones take 150. If key and place fit in one
    64-bit number together, sorting these takes 65.

    >>> stable_argsort(np.array([70_000, 7, 70_000, 3]))
    array([3, 1, 0, 2])
    """
    if not len(keys):
        return np.empty(0, np.intp)
    low, high = int(keys.min()), int(keys.max())
    if high - low < 2**16:
        return np.argsort((keys - low).astype(np.uint16), kind="stable")
    width = len(keys).bit_length()
    if (high - low).bit_length() + width < 64:
        packed = keys.astype(np.int64)
        packed -= low
        packed <<= width
        packed |= np.arange(len(keys))
        packed.sort()
        packed &= (1 << width) - 1
        return packed
    return np.argsort(keys, kind="stable")


def groups_of(keys: IntArray) -> tuple[Places, list[int], list[int]]:
    """Return the places of keys in ascending order of keys, the first index of each key there, and the keys.

    >>> groups_of(np.array([5, 3, 5]))
    (array([1, 0, 2]), [0, 1, 3], [3, 5])
    """
    places = stable_argsort(keys)
    if not len(places):
        return places, [0], []
    ordered = keys[places]
    firsts = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1
    cuts = [0, *firsts.tolist(), len(places)]
    return places, cuts, ordered[cuts[:-1]].tolist()
