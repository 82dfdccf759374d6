"""Deals: which part (a phase, a fold) each row gets: by class, by group, by value or by hash; reads no rows.

Every function returns the number of the part of each row, as uint8 or uint16, and depends only on its arguments.

=========== ==============================================================================================
classes     every class is shared out exactly, within one row; the totals are exact
groups      no group in two parts; the largest first, at random where they fit
thresholds  by value: a row is in the part whose bounds enclose its value
hashes      by a hash of its values: a row stays where it is, however many others come
=========== ==============================================================================================
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentError

__all__ = [
    "MAX_PARTS",
    "deal_by_threshold",
    "deal_classes",
    "deal_evenly",
    "deal_groups",
    "parts_of_hashes",
]

Array: TypeAlias = npt.NDArray[Any]

MAX_PARTS = 2**16
"""Most parts."""


def deal_evenly(n_rows: int, n_parts: int, seed: int) -> Array:
    """Deal rows at random to parts of equal size, or of one row more.

    >>> np.bincount(deal_evenly(10, 3, seed=0)).tolist()
    [4, 3, 3]
    """
    parts = np.empty(n_rows, _dtype(n_parts))
    parts[_shuffled(n_rows, seed)] = np.arange(n_rows) % n_parts
    return parts


def deal_classes(codes: Array, totals: Sequence[int], seed: int) -> Array:
    """Deal the rows of each class in the shares of the totals, exact within one row.

    Parameters
    ----------
    codes : integers of shape (n,)
        The class of each row, from 0 on.
    totals : sequence of int
        The rows of each part, which sum to n.
    seed : int
        Decides which rows of a class go where.

    Examples
    --------
    >>> parts = deal_classes(np.array([0] * 80 + [1] * 20), (50, 30, 20), seed=1)
    >>> [np.bincount(parts[:80]).tolist(), np.bincount(parts[80:]).tolist()]
    [[40, 24, 16], [10, 6, 4]]
    """
    sizes = np.bincount(codes)
    ends = np.cumsum(_rounded(sizes, totals), axis=1)
    shuffled = _shuffled(len(codes), seed)
    narrow = codes.astype(np.min_scalar_type(max(0, len(sizes) - 1)))  # numpy sorts short integers by radix
    by_class = shuffled[np.argsort(narrow[shuffled], kind="stable")]
    place = np.arange(len(codes)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    dealt = np.zeros(len(codes), _dtype(len(totals)))
    for part in range(len(totals) - 1):
        dealt += place >= np.repeat(ends[:, part], sizes)
    parts = np.empty_like(dealt)
    parts[by_class] = dealt
    return parts


def _rounded(sizes: Array, totals: Sequence[int]) -> Array:
    """Return whole numbers next to ``size * total / n``, whose sums are the sizes and the totals.

    Each entry is rounded down; what remains of a class goes to the parts with the largest remainders. The sums by part
    are then mended by moving single rows to parts whose remainder allows one more, the least wrong ones first. Such
    moves always exist: the remainders themselves are a fractional solution, and the problem is one of flows.
    """
    n_rows = int(sizes.sum())
    exact = sizes[:, None].astype(object if n_rows > 2**31 else np.int64) * np.asarray(totals)[None, :]
    floors = (exact // max(1, n_rows)).astype(np.int64)
    rest = (exact % max(1, n_rows)).astype(np.int64)
    given = np.zeros(rest.shape, bool)
    left = sizes - floors.sum(axis=1)
    ranked = np.argsort(-rest, axis=1, kind="stable")
    for place in range(len(totals) - 1):  # fewer remain than there are parts
        more = np.flatnonzero(left > place)
        given[more, ranked[more, place]] = True
    surplus = given.sum(axis=0) + floors.sum(axis=0) - np.asarray(totals)
    while (surplus > 0).any():
        _move_one_kind(given, rest, surplus)
    rounded: Array = floors + given
    return rounded


def _move_one_kind(given: Array, rest: Array, surplus: Array) -> None:
    """Move as many single rows as possible from a part with too many towards one with too few."""
    start = int(np.argmax(surplus))
    came: dict[int, int] = {start: -1}
    queue = [start]
    for part in queue:  # the shortest way over parts between which a row can move
        for other in range(len(surplus)):
            if other not in came and _movable(given, rest, part, other).any():
                came[other] = part
                queue.append(other)
    goal = next(part for part in queue if surplus[part] < 0)
    way = [goal]
    while came[way[-1]] >= 0:
        way.append(came[way[-1]])
    way.reverse()
    pairs = list(pairwise(way))
    choices = [np.flatnonzero(_movable(given, rest, part, other)) for part, other in pairs]
    # over several parts one row at a time: a class may be among the choices of two moves
    most = 1 if len(pairs) > 1 else min(int(surplus[start]), int(-surplus[goal]), len(choices[0]))
    for (part, other), rows in zip(pairs, choices, strict=True):
        loss = rest[rows, part] - rest[rows, other]
        chosen = rows[np.argsort(loss, kind="stable")[:most]]
        given[chosen, part], given[chosen, other] = False, True
    surplus[start] -= most
    surplus[goal] += most


def _movable(given: Array, rest: Array, part: int, other: int) -> Array:
    movable: Array = given[:, part] & ~given[:, other] & (rest[:, other] > 0)
    return movable


def deal_groups(codes: Array, totals: Sequence[int], seed: int) -> Array:
    """Deal whole groups, the largest first, each to a part drawn by the totals, or where that is full, the emptiest.

    Every part with a total gets a group. Apart from that, parts differ from their totals by less than the rows of the
    largest group: what goes where it fits never exceeds a total, and the first group that fits nowhere is larger than
    what any part lacks by then.

    Raises
    ------
    ArgumentError
        There are fewer groups than parts with a total.

    Examples
    --------
    >>> np.bincount(deal_groups(np.repeat([0, 1, 2, 3], [5, 3, 1, 1]), (5, 3, 2), seed=0)).tolist()
    [5, 3, 2]
    """
    sizes = np.bincount(codes)
    empty = {part for part, total in enumerate(totals) if total}
    if len(sizes) < len(empty):
        raise ArgumentError(
            f"{len(sizes)} groups cannot be dealt to parts of {list(totals)} rows, since one would get no group; take "
            "other groups or shares"
        )
    random = np.random.RandomState(seed)
    shuffled = random.permutation(len(sizes))
    largest_first = shuffled[np.argsort(-sizes[shuffled], kind="stable")]
    draws = np.searchsorted(np.cumsum(totals), random.randint(0, max(1, len(codes)), len(sizes), np.int64), "right")
    dealt = np.empty(len(sizes), _dtype(len(totals)))
    parts = random.permutation(len(totals)).tolist()
    lacks = list(totals)
    # what parts lack only shrinks, so that an entry that is out of date is at the top before its part is overlooked
    emptiest = [(-lacks[part], at, part) for at, part in enumerate(parts)]
    heapq.heapify(emptiest)
    for place, (size, drawn) in enumerate(zip(sizes[largest_first].tolist(), draws.tolist(), strict=True)):
        if len(sizes) - place == len(empty):
            dealt[place:] = sorted((one for one in parts if one in empty), key=lambda one: -totals[one])
            break
        part = drawn
        if lacks[drawn] < size:
            while -emptiest[0][0] != lacks[emptiest[0][2]]:
                _, at, part = emptiest[0]
                heapq.heapreplace(emptiest, (-lacks[part], at, part))
            part = emptiest[0][2]
        lacks[part] -= size
        empty.discard(part)
        dealt[place] = part
    parts_of_groups = np.empty_like(dealt)
    parts_of_groups[largest_first] = dealt
    return parts_of_groups[codes]


def deal_by_threshold(values: Array, thresholds: Sequence[Any]) -> Array:
    """Return how many thresholds each value has reached: values below the first one are in part 0.

    >>> deal_by_threshold(np.array([1, 5, 9]), [5, 7]).tolist()
    [0, 1, 2]
    """
    parts = np.zeros(len(values), _dtype(len(thresholds) + 1))
    for threshold in thresholds:
        parts += values >= threshold
    return parts


def parts_of_hashes(hashes: npt.NDArray[np.uint64], shares: Sequence[float]) -> Array:
    """Return the part of each hash, for shares that sum to 1."""
    places = (hashes >> np.uint64(11)).astype(np.float64) / 2**53
    parts: Array = np.searchsorted(np.cumsum(shares)[:-1], places, side="right").astype(_dtype(len(shares)))
    return parts


# ------------------------------------------------------------------------------
# Parts
# ------------------------------------------------------------------------------


def _shuffled(n_rows: int, seed: int) -> Array:
    """Return the rows in the order of a shuffle with this seed."""
    return np.random.RandomState(seed).permutation(n_rows)


def _dtype(n_parts: int) -> np.dtype[Any]:
    if n_parts > MAX_PARTS:
        raise ArgumentError(f"rows can be dealt to {MAX_PARTS} parts at most, found {n_parts}")
    return np.dtype(np.uint8 if n_parts <= 2**8 else np.uint16)
