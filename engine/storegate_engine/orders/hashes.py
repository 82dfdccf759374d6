"""Hashes: 64 bits for each row, equal for equal values; part of a store's meaning, so that they never change.

=================== ==================================================================================================
numbers             by value, whatever their dtype: ``True``, ``1``, ``1.0`` and ``1 + 0j`` are equal
times, durations    by instant, whatever their unit; durations of months and years as months, which have no days
missing values      NaN of any payload is one value, and so is NaT of any unit
lists               by their values and their length
sparse rows         by their values other than zero and the columns of those, in any order
=================== ==================================================================================================
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import DtypeError
from storegate_engine.ragged import Ragged

__all__ = ["hash_rows"]

Array: TypeAlias = npt.NDArray[Any]
Bits: TypeAlias = npt.NDArray[np.uint64]

STEP_ITEMS = 2**17
"""Items of lists that are hashed at a time: what is made of them fits in caches."""

_ODD = np.uint64(0x9E3779B97F4A7C15)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "D": 86_400, "W": 604_800, "generic": 1}
_PER_SECOND = {"ms": 10**3, "us": 10**6, "ns": 10**9, "ps": 10**12, "fs": 10**15, "as": 10**18}
_MONTHS = {"M": 1, "Y": 12}
_NAT = np.int64(-(2**63))


def hash_rows(columns: Sequence[Array | Ragged], seed: int) -> Bits:
    """Return 64 random bits for each row, which depend on its values and the seed alone.

    Raises
    ------
    DtypeError
        Values of this dtype have no hash.

    Examples
    --------
    >>> days = np.array(["2020-01-01"], "M8[D]")
    >>> hash_rows([days], seed=0) == hash_rows([days.astype("M8[ns]")], seed=0)
    array([ True])
    """
    found = np.full(len(columns[0]), _mixed(np.asarray(seed, np.uint64)), np.uint64)
    for column in columns:
        if isinstance(column, Ragged):
            found = _mixed(found ^ _bits_of_lists(column))
            continue
        flat = column.reshape(len(column), -1)
        for at in range(flat.shape[1]):
            found = _mixed(found ^ _bits(flat[:, at]))
    return found


def _bits_of_lists(rows: Ragged) -> Bits:
    """Return 64 bits for each row: a sum over its items, each mixed with its place, or its column."""
    is_sparse = rows.columns is not None
    if is_sparse:
        rows = _canonical(rows)
    values = rows.flat.reshape(-1)
    width = int(np.prod(rows.items.shape[1:]))
    ends = (rows.offsets - rows.offsets[0]) * width
    sums = np.zeros(len(rows), np.uint64) if is_sparse else _mixed(np.diff(ends).astype(np.uint64))
    for lo in range(0, len(values), STEP_ITEMS):
        hi = min(lo + STEP_ITEMS, len(values))
        first, stop = int(np.searchsorted(ends, lo, "right")) - 1, int(np.searchsorted(ends, hi, "left"))
        owners = np.repeat(np.arange(first, stop), np.diff(np.clip(ends[first : stop + 1], lo, hi)))
        places = np.arange(lo, hi) - ends[owners] if rows.columns is None else rows.columns[lo:hi]
        terms = _mixed(_bits(values[lo:hi]) ^ _mixed(places.astype(np.uint64)))
        begins = np.flatnonzero(np.diff(owners, prepend=-1))
        sums[owners[begins]] += np.add.reduceat(terms, begins)
    return sums


def _canonical(rows: Ragged) -> Ragged:
    """Return rows of a sparse matrix without zeros, each column at most once; scipy, too, sums several values."""
    assert rows.columns is not None
    values, columns = rows.flat, rows.columns[rows.offsets[0] : rows.offsets[-1]].astype(np.int64)
    owners = np.repeat(np.arange(len(rows)), rows.lengths)
    if (ordered := np.lexsort((columns, owners))).size:
        values, columns, owners = values[ordered], columns[ordered], owners[ordered]
        is_first = np.diff(columns, prepend=-1).astype(bool) | np.diff(owners, prepend=-1).astype(bool)
        if not is_first.all():
            values = np.add.reduceat(values, np.flatnonzero(is_first), dtype=values.dtype)
            columns, owners = columns[is_first], owners[is_first]
    kept = values != 0
    counts = np.bincount(owners[kept], minlength=len(rows))
    return Ragged(np.concatenate([[0], np.cumsum(counts)]), values[kept], columns[kept], rows.n_columns)


def _bits(values: Array) -> Bits:
    """Return 64 bits for each value, equal for equal values."""
    kind = values.dtype.kind
    if kind in "bi":
        return values.astype("i8").view("u8")
    if kind == "u":
        return _bits_of_unsigned(values.astype("u8"))
    if kind == "f":
        return _bits_of_floats(values.astype("f8"))
    if kind == "c":
        real, imag = values.real.astype("f8"), values.imag.astype("f8")
        real = np.where(np.isnan(imag), np.nan, real)
        both = _mixed(_mixed(_bits_of_floats(real)) ^ _bits_of_floats(imag))
        return np.where((imag == 0) | np.isnan(real), _bits_of_floats(real), both)
    if kind in "mM":
        return _bits_of_times(values)
    if kind in "SUT":
        distinct, places = np.unique(values.astype(object) if kind == "T" else values, return_inverse=True)
        contents = [text if isinstance(text, bytes) else str(text).encode() for text in distinct.tolist()]
        digests = [hashlib.blake2b(content, digest_size=8).digest() for content in contents]
        return np.frombuffer(b"".join(digests), "<u8").astype("u8")[places]
    raise DtypeError(f"values of {values.dtype} have no hash; take a variable of numbers, times or texts")


def _bits_of_floats(wide: Array) -> Bits:
    whole = (np.abs(wide) < 2.0**63) & (wide == np.rint(wide))
    as_integers = np.where(whole, wide, 0).astype("i8").view("u8")
    # of NaN, whose payload may be any, one pattern stands for all
    return np.where(whole, as_integers, _mixed(np.where(np.isnan(wide), np.nan, wide).view("u8")))


def _bits_of_unsigned(wide: Array) -> Bits:
    is_large = wide >= np.uint64(2**63)
    if not is_large.any():
        return wide
    # those bits are negative integers otherwise; floats of the same value have a hash of their own
    floats = wide.astype("f8")
    is_float = np.where(floats < 2.0**64, floats, 0).astype("u8") == wide
    large = np.where(is_float, _mixed(floats.view("u8")), _mixed(_mixed(wide)))
    return np.where(is_large, large, wide)


def _bits_of_times(values: Array) -> Bits:
    """Return bits of whole seconds since the epoch, with the attoseconds that remain if there are any.

    Seconds beyond 64 bits wrap around, for equal instants alike.
    """
    unit, count = np.datetime_data(values.dtype)
    ticks = values.astype(values.dtype.newbyteorder("="), copy=False).view("i8")
    rest = np.zeros(len(ticks), np.uint64)
    if unit in _MONTHS and values.dtype.kind == "m":
        found = _mixed(~(ticks * np.int64(_MONTHS[unit] * count)).view("u8"))
    elif unit in _MONTHS:
        found = _seconds_of_months(ticks, _MONTHS[unit] * count).view("u8")
    elif unit in _SECONDS:
        found = (ticks * np.int64(_SECONDS[unit] * count)).view("u8")
    else:
        seconds, parts = _divided(ticks, count, _PER_SECOND[unit])
        found, rest = seconds.view("u8"), parts.view("u8") * np.uint64(10**18 // _PER_SECOND[unit])
    found = np.where(rest == 0, found, _mixed(_mixed(found) ^ rest))
    return np.where(np.isnat(values), _NAT.view("u8"), found)


def _seconds_of_months(ticks: Array, months: int) -> Array:
    """Return seconds since the epoch of the begins of months; 400 years, of which all have equal days, at a time."""
    cycle = 400 * 12
    cycles, rest = _divided(ticks, months, cycle)
    days: Array = rest.astype("M8[M]").astype("M8[D]").view("i8") + cycles * np.int64(146_097)
    return days * np.int64(86_400)


def _divided(ticks: Array, count: int, divisor: int) -> tuple[Array, Array]:
    """Return quotients, wrapped around in 64 bits, and remainders of ``ticks * count``, which may be longer."""
    if count == 1:
        return np.floor_divide(ticks, divisor), np.mod(ticks, divisor)
    products = ticks.astype(object) * count
    wrapped = np.array([int(one) % 2**64 for one in products // divisor], np.uint64).view("i8")
    return wrapped, (products % divisor).astype("i8")


def _mixed(bits: Bits) -> Bits:
    """Return the finalizer of splitmix64, with every bit depending on all others."""
    with np.errstate(over="ignore"):
        bits = bits + _ODD
        bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return bits ^ (bits >> np.uint64(31))
