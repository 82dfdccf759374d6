"""Deals: which part (a phase, a fold) each row gets: by class, by group, by value or by hash; reads no rows.

Every function returns the number of the part of each row, as uint8 or uint16, and depends only on its arguments.

=========== ==============================================================================================
classes     every class is shared out exactly, within one row; the totals are exact
groups      no group in two parts; in random order, each where its middle falls
thresholds  by value: a row is in the part whose bounds enclose its value
hashes      by a hash of its values: a row stays where it is, however many others come
=========== ==============================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentError, DtypeError

__all__ = [
    "MAX_PARTS",
    "deal_by_threshold",
    "deal_classes",
    "deal_evenly",
    "deal_groups",
    "hash_rows",
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
    sizes = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
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
    """Deal whole groups in random order, each to the part in which the middle of its rows falls.

    A part differs from its total by less than the rows of the groups at its ends.

    Raises
    ------
    ArgumentError
        There are fewer groups than parts with rows, or one is so large that a part would get none.
    """
    sizes = np.bincount(codes) if len(codes) else np.zeros(0, np.int64)
    shuffled = _shuffled(len(sizes), seed)
    ends = np.cumsum(sizes[shuffled])
    parts_of_groups = np.empty(len(sizes), _dtype(len(totals)))
    # twice the middle, in whole numbers
    middles = 2 * ends - sizes[shuffled]
    parts_of_groups[shuffled] = np.searchsorted(2 * np.cumsum(totals)[:-1], middles, side="right")
    filled = np.bincount(parts_of_groups, minlength=len(totals))
    if any(total and not n_groups for total, n_groups in zip(totals, filled, strict=True)):
        raise ArgumentError(
            f"{len(sizes)} groups, the largest of {int(sizes.max(initial=0))} rows, cannot be dealt to parts of "
            f"{list(totals)} rows, since one would get no group; take other groups or shares"
        )
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


# ------------------------------------------------------------------------------
# Hashes: part of a store's meaning, so that they never change
# ------------------------------------------------------------------------------

_ODD = np.uint64(0x9E3779B97F4A7C15)


def hash_rows(columns: Sequence[Array], seed: int) -> npt.NDArray[np.uint64]:
    """Return 64 random bits for each row, which depend on its values and the seed alone.

    Equal numbers have equal hashes, whatever their dtype: ``True``, ``1`` and ``1.0``.

    Raises
    ------
    DtypeError
        Values of this dtype have no hash.
    """
    found = np.full(len(columns[0]), _mixed(np.asarray(seed, np.uint64)), np.uint64)
    for column in columns:
        flat = column.reshape(len(column), -1)
        for at in range(flat.shape[1]):
            found = _mixed(found ^ _bits(flat[:, at]))
    return found


def parts_of_hashes(hashes: npt.NDArray[np.uint64], shares: Sequence[float]) -> Array:
    """Return the part of each hash, for shares that sum to 1."""
    places = (hashes >> np.uint64(11)).astype(np.float64) / 2**53
    parts: Array = np.searchsorted(np.cumsum(shares)[:-1], places, side="right").astype(_dtype(len(shares)))
    return parts


def _bits(values: Array) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each value, equal for equal values."""
    kind = values.dtype.kind
    if kind in "biumM":
        return values.astype("i8" if kind in "bimM" else "u8").view("u8")
    if kind == "f":
        wide = values.astype("f8")
        whole = (np.abs(wide) < 2.0**63) & (wide == np.rint(wide))
        as_integers = np.where(whole, wide, 0).astype("i8").view("u8")
        # of NaN, whose payload may be any, one pattern stands for all
        return np.where(whole, as_integers, _mixed(np.where(np.isnan(wide), np.nan, wide).view("u8")))
    if kind in "SUT":
        distinct, places = np.unique(values.astype(object) if kind == "T" else values, return_inverse=True)
        contents = [text if isinstance(text, bytes) else str(text).encode() for text in distinct.tolist()]
        digests = [hashlib.blake2b(content, digest_size=8).digest() for content in contents]
        return np.frombuffer(b"".join(digests), "<u8").astype("u8")[places]
    raise DtypeError(f"values of {values.dtype} have no hash; take a variable of numbers, times or texts")


def _mixed(bits: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return the finalizer of splitmix64, with every bit depending on all others."""
    with np.errstate(over="ignore"):
        bits = bits + _ODD
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))


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
