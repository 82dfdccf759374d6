"""Casts: values that another dtype holds unchanged; pure.

numpy's "safe" casts round int64 to float64 and write numbers as text. Here a dtype holds a value only if it can be
restored: the same number, text, bytes or time.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.errors import DtypeError

__all__ = ["combined", "holds", "holds_all", "is_float_of_integers", "overflows"]

Array: TypeAlias = np.ndarray[Any, Any]
DType: TypeAlias = np.dtype[Any]

_FAMILIES = {"b": "numbers", "i": "numbers", "u": "numbers", "f": "numbers", "c": "numbers"}
_FAMILIES |= {"U": "text", "T": "text", "S": "bytes", "M": "dates", "m": "durations"}


def combined(first: DType, second: DType) -> DType:
    """Return the common dtype of two dtypes: ``np.result_type`` within one family.

    Bytes and text take the kind of ``first``, so that a column keeps its kind.

    Raises
    ------
    DtypeError
        There is no common dtype: numbers and text, dates and durations, durations without a common unit, or uint64 and
        negative integers.

    Examples
    --------
    >>> combined(np.dtype("S2"), np.dtype("U5"))
    dtype('S5')
    """
    families = [_FAMILIES.get(dtype.kind, "other values") for dtype in (first, second)]
    if families == ["bytes", "text"] and second.kind == "U":
        return np.result_type(first, np.dtype(f"S{second.itemsize // 4}"))
    if families == ["text", "bytes"]:
        return np.result_type(first, np.dtype(f"U{second.itemsize}"))
    if is_float_of_integers(first, second):
        raise DtypeError(f"no integer dtype holds {first} and {second}; convert one with astype first")
    try:
        if families[0] == families[1]:
            return np.result_type(first, second)
    except TypeError as err:
        raise DtypeError(f"{first} and {second} have no common unit; convert one with astype first") from err
    raise DtypeError(f"{second} ({families[1]}) cannot join {first} ({families[0]}); convert one with astype first")


def is_float_of_integers(first: DType, second: DType) -> bool:
    """Return whether numpy would make floats of the two integer dtypes: uint64 and a signed one."""
    return first.kind in "iu" and second.kind in "iu" and np.result_type(first, second).kind == "f"


def holds_all(target: DType, source: DType) -> bool:
    """Return whether ``target`` holds every possible value of ``source`` unchanged.

    >>> holds_all(np.dtype("f8"), np.dtype("i4")), holds_all(np.dtype("f8"), np.dtype("i8"))
    (True, False)
    """
    if source == target:
        return True
    if source.kind in "biufc" and target.kind in "biufc":
        if source.kind in "iu" and target.kind in "fc":
            parts = 1 if target.kind == "f" else 2
            mantissa = {2: 11, 4: 24, 8: 53}[target.itemsize // parts]
            return source.itemsize * 8 - (source.kind == "i") <= mantissa
        return np.can_cast(source, target, "safe")
    if source.kind == target.kind and source.kind in "US":
        return bool(source.itemsize <= target.itemsize)
    return source.kind == "U" and target.kind == "T"


def holds(target: DType, values: Array) -> bool:
    """Return whether ``target`` holds all of these values unchanged.

    >>> holds(np.dtype("f8"), np.array([2**53])), holds(np.dtype("f8"), np.array([2**53 + 1]))
    (True, False)
    """
    if not values.size or holds_all(target, values.dtype):
        return True
    source = values.dtype
    if source.kind in "biufc" and target.kind in "biufc":
        with np.errstate(all="ignore"):
            return _holds_numbers(target, values)
    if source.kind in "mM" and source.kind == target.kind:
        return _holds_times(target, values)
    if source.kind in "UST" and target.kind in "UST":
        return _holds_text(target, values)
    return False


def overflows(target: DType, values: Array) -> bool:
    """Return whether a date or duration is outside the range of a finer unit, in which numpy would wrap around."""
    kinds = {target.kind, values.dtype.kind}
    if kinds not in ({"m"}, {"M"}) or target == values.dtype:
        return False
    old, new = (np.datetime_data(dtype)[0] for dtype in (values.dtype, target))
    if old not in _UNITS or new not in _UNITS or _UNITS.index(new) <= _UNITS.index(old):
        return False
    if target.kind == "m" and old in "YM" and new not in "YM":
        return _months_overflow(target, values)
    return not holds(target, values)


def _months_overflow(target: DType, values: Array) -> bool:
    """Return whether months or years, which have an average number of days here, leave the range of a unit."""
    (old, n_old), (new, n_new) = np.datetime_data(values.dtype), np.datetime_data(target)
    months = Fraction((12 if old == "Y" else 1) * n_old, n_new)
    most = int(np.iinfo(np.int64).max / (months * DAYS_PER_MONTH * _TICKS_PER_DAY[new]))
    ticks = values[~np.isnat(values)].astype(np.int64)
    if ((ticks > most) | (ticks < -most)).any():
        return True
    try:  # numpy may multiply by more, and divide afterwards; from 2.5 on it says when that is too much
        values.astype(target)
    except OverflowError:
        return True
    return False


DAYS_PER_MONTH = Fraction(146_097, 4800)
"""Of the 400 years in which the calendar repeats."""
_TICKS_PER_DAY = {"W": Fraction(1, 7), "D": Fraction(1), "h": Fraction(24), "m": Fraction(1440), "s": Fraction(86_400)}
_TICKS_PER_DAY |= {unit: Fraction(86_400 * 1000**power) for power, unit in enumerate(("ms", "us", "ns"), 1)}
_UNITS = ("Y", "M", "W", "D", "h", "m", "s", "ms", "us", "ns")


def _holds_numbers(target: DType, values: Array) -> bool:
    if values.dtype.kind == "c":
        part = np.empty(0, target).real.dtype
        if target.kind != "c" and values.imag.any():
            return False
        return _holds_numbers(part, values.real) and _holds_numbers(part, values.imag)
    if target.kind == "b":
        return bool(((values == 0) | (values == 1)).all())
    if values.dtype.kind == "f" and target.kind in "fc":
        return bool(((values.astype(target).real == values) | np.isnan(values)).all())
    if target.kind in "iu":
        limits = np.iinfo(target)
        if values.dtype.kind != "f":
            return limits.min <= int(values.min()) and int(values.max()) <= limits.max
        whole = values.astype(np.float64)  # the number above the highest is a power of two, which float64 has
        inside = (whole >= limits.min) & (whole < 2.0 ** limits.max.bit_length())
        return bool((inside & (whole == np.trunc(whole))).all())
    cast = values.astype(target).real.astype(np.float64)
    top = 2.0 ** (8 * values.dtype.itemsize - (values.dtype.kind == "i"))  # the value that rounding up may reach
    return bool((np.isfinite(cast) & (cast < top)).all()) and bool((cast.astype(values.dtype) == values).all())


def _holds_times(target: DType, values: Array) -> bool:
    """Compare ticks after a round trip: a product that wraps around is not restored."""
    try:
        back = values.astype(target).astype(values.dtype)
    except (TypeError, OverflowError):  # durations of months have no fixed number of days
        return False
    return bool((back.view(np.int64) == np.ascontiguousarray(values).view(np.int64)).all())


def _holds_text(target: DType, values: Array) -> bool:
    """Compare after a round trip of numpy: ASCII is equal as text and bytes, and zeros at the end are padding."""
    texts = values.reshape(-1).tolist()
    if (values.dtype.kind == "S") != (target.kind == "S") and not all(text.isascii() for text in texts):
        return False
    if target.kind == "T":
        return True
    width = target.itemsize // (4 if target.kind == "U" else 1)
    end = b"\0" if values.dtype.kind == "S" else "\0"
    return all(len(text) <= width and not text.endswith(end) for text in texts)
