"""Statistics: what is known of the values of an array without reading it, counted while its rows are written; pure.

Integers, bools and ticks of times are kept as integers, floats as the hexadecimal text of their bits, so that no number
is ever rounded, not even 2**64 - 1, and -0.0 stays what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.casts import holds_all, overflows
from storegate_engine.encodings import encoding_of, is_calendar
from storegate_engine.errors import CorruptStoreError, shown

__all__ = ["Statistics", "Tally", "joined"]

Array: TypeAlias = np.ndarray[Any, Any]
DType: TypeAlias = np.dtype[Any]
Number: TypeAlias = int | float

WINDOW_NBYTES = 2**20
"""Values counted together: they are still in a core's cache when they are looked at again."""
_NOT_A_TIME = int(np.iinfo(np.int64).min)
_KEYS = {"least", "most", "missing", "infinite", "text_nbytes"}


@dataclass(frozen=True, slots=True)
class Statistics:
    """The smallest and largest value of an array, and counts of those that are not numbers.

    Of floats, -0.0 is smaller than 0.0, so that both ends are certain to the bit.
    """

    least: Number | None = None
    """The smallest value that is not missing, of times in ticks of their unit; None for complex numbers and text, or if
    there is none."""
    most: Number | None = None
    """The largest one."""
    n_missing: int = 0
    """Number of values that are NaN or NaT."""
    n_infinite: int = 0
    """Number of values that are infinite."""
    text_nbytes: int | None = None
    """Bytes of all texts as UTF-8, without their lengths; None for other values, or if they were not counted."""

    def extremes(self, dtype: DType) -> Array | None:
        """Return the smallest and the largest value, as values of the array's dtype; None if they are not known."""
        if self.least is None:
            return None
        if dtype.kind in "mM":
            return np.array([self.least, self.most], np.int64).view(dtype)
        return np.array([self.least, self.most], dtype)

    def cast(self, old: DType, new: DType) -> Statistics | None:
        """Return the statistics of the values after ``astype``; None if these do not tell.

        All casts here keep the order of values, so that the ends stay ends.
        """
        if old == new:
            return self
        if old.kind in "biufc" and new.kind == "c":
            return replace(self, least=None, most=None) if holds_all(new, old) else None
        ends = self.extremes(old)
        if ends is None:
            is_empty = not self.n_missing and old.kind in "biufmM" and new.kind in "biufmM"
            return self if is_empty else None
        if new.kind == "f" and old.kind in "biuf":
            return self._as_floats(ends, new)
        if new.kind == "b" and old.kind in "biuf":
            return self._as_bools()
        if new.kind == old.kind and new.kind in "mM":
            if is_calendar(old) != is_calendar(new) or overflows(new, ends):  # months have no fixed number of days
                return None
            least, most = ends.astype(new).view(np.int64).tolist()
            return replace(self, least=least, most=most)
        is_integer = (new.kind in "iumM" and old.kind in "biuf") or (new.kind in "iu" and old.kind in "mM")
        if not is_integer or self.least is None or self.most is None or self.n_missing or self.n_infinite:
            return None
        (least, most), (lowest, highest) = (int(self.least), int(self.most)), _range_of(new)
        return Statistics(least, most) if lowest <= least and most <= highest else None

    def _as_floats(self, ends: Array, new: DType) -> Statistics | None:
        with np.errstate(over="ignore", under="ignore"):
            least, most = ends.astype(new).astype(np.float64).tolist()
        if not self.n_infinite and (math.isinf(least) or math.isinf(most)):
            return None  # some became infinite, but not all
        if self.n_infinite and not holds_all(new, ends.dtype):
            return None
        return replace(self, least=least, most=most)

    def _as_bools(self) -> Statistics | None:
        assert self.least is not None
        assert self.most is not None
        if self.least > 0 or self.most < 0:
            return Statistics(1, 1)  # NaN is true, too
        if self.n_missing or self.least < 0 < self.most:
            return None  # whether there is a zero is not known
        return Statistics(0, int(self.least != self.most))

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON for a manifest: only what is there."""
        ends = {"least": _to_json(self.least), "most": _to_json(self.most)} if self.least is not None else {}
        counts = {"missing": self.n_missing, "infinite": self.n_infinite}
        text = {} if self.text_nbytes is None else {"text_nbytes": self.text_nbytes}
        return {**ends, **{name: n for name, n in counts.items() if n}, **text}

    @classmethod
    def from_json(cls, document: Any, dtype: DType, n_values: int) -> Statistics:
        """Return the statistics of an array of a dtype and number of values, from a manifest.

        Raises
        ------
        CorruptStoreError
            The JSON was not made by :meth:`to_json` for such an array.
        """
        if not isinstance(document, dict) or document.keys() - _KEYS:
            raise CorruptStoreError(f"an array has the statistics {shown(document)}")
        counts = [document.get(name, 0) for name in ("missing", "infinite", "text_nbytes")]
        least, most = (_from_json(document.get(name), dtype) for name in ("least", "most"))
        is_whole = all(type(n) is int and 0 <= n < 2**62 for n in counts) and counts[0] + counts[1] <= n_values
        is_range = (least is None and most is None) or (
            least is not None and most is not None and _place(least) <= _place(most)
        )
        if not is_whole or not is_range:
            raise CorruptStoreError(f"an array of {n_values} values of {dtype} has the statistics {shown(document)}")
        return cls(least, most, counts[0], counts[1], document.get("text_nbytes"))


def _to_json(value: Number | None) -> int | str | None:
    return value.hex() if isinstance(value, float) else value


def _from_json(value: object, dtype: DType) -> Number | None:
    """Return a smallest or largest value of a dtype from JSON, which is not trusted."""
    if value is None:
        return None
    try:
        if dtype.kind == "f" and isinstance(value, str):
            number = float.fromhex(value)
            with np.errstate(over="ignore"):
                if float(dtype.type(number)) == number:
                    return number
        elif dtype.kind in "biumM" and type(value) is int:
            lowest, highest = _range_of(dtype)
            if lowest <= value <= highest:
                return value
    except (OverflowError, ValueError) as err:
        raise CorruptStoreError(f"a value of {dtype} is stored as {shown(value)}") from err
    raise CorruptStoreError(f"a value of {dtype} is stored as {shown(value)}")


def _range_of(dtype: DType) -> tuple[int, int]:
    if dtype.kind == "b":
        return 0, 1
    limits = np.iinfo(np.int64 if dtype.kind in "mM" else dtype)
    return int(limits.min) + (dtype.kind in "mM"), int(limits.max)


def _place(value: Number) -> tuple[Number, float]:
    """Return what numbers are ordered by: -0.0 comes before 0.0."""
    return value, math.copysign(1.0, value) if isinstance(value, float) else 0.0


def joined(several: Iterable[Statistics | None]) -> Statistics | None:
    """Return the statistics of several arrays together; None if those of one are not known, or there is no array.

    >>> joined([Statistics(1, 3), Statistics(-0.0, 2, n_missing=1)])
    Statistics(least=-0.0, most=3, n_missing=1, n_infinite=0, text_nbytes=None)
    """
    found = list(several)
    known = [one for one in found if one is not None]
    if not known or len(known) < len(found):
        return None
    texts = [one.text_nbytes for one in known]
    return Statistics(
        min((one.least for one in known if one.least is not None), key=_place, default=None),
        max((one.most for one in known if one.most is not None), key=_place, default=None),
        sum(one.n_missing for one in known),
        sum(one.n_infinite for one in known),
        None if None in texts else sum(n for n in texts if n is not None),
    )


class Tally:
    """Counts values as they pass, block by block: of any dtype, or in the stored form of times.

    Parameters
    ----------
    dtype : numpy.dtype
        The logical dtype of the rows.
    """

    def __init__(self, dtype: DType) -> None:
        self._dtype = dtype
        self._found = Statistics()

    def add(self, values: Array) -> None:
        """Count contiguous values; those of times may be ticks."""
        values = values.reshape(-1)
        step = max(1, WINDOW_NBYTES // max(1, values.dtype.itemsize))
        for lo in range(0, len(values), step):
            self._add(values[lo : lo + step])

    def add_text(self, nbytes: int) -> None:
        """Count the bytes of texts."""
        self._found = replace(self._found, text_nbytes=(self._found.text_nbytes or 0) + nbytes)

    def _add(self, values: Array) -> None:
        kind = self._dtype.kind
        if kind in "fc":
            new = _of_floats(values) if kind == "f" else _of_complex(values)
        elif kind in "mM":
            new = _of_ticks(values.view(np.int64))
        else:
            new = Statistics(int(values.min()), int(values.max()))
        both = joined([self._found, new])
        assert both is not None
        self._found = both

    def found(self) -> Statistics:
        """Return the statistics of all values so far."""
        return self._found

    @staticmethod
    def decoded(found: Statistics | None, dtype: DType) -> Statistics | None:
        """Return statistics of stored values as those of values of the logical dtype: times change their unit."""
        encoding = encoding_of(dtype)
        if found is None or found.least is None or dtype.kind not in "mM":
            return found
        least, most = encoding.decode(np.array([found.least, found.most], np.int64)).view(np.int64).tolist()
        return replace(found, least=least, most=most)


def _of_ticks(ticks: Array) -> Statistics:
    least = int(ticks.min())
    n_missing = 0
    if least == _NOT_A_TIME:
        is_time = ticks != _NOT_A_TIME
        n_missing = len(ticks) - int(np.count_nonzero(is_time))
        if n_missing == len(ticks):
            return Statistics(n_missing=n_missing)
        least = int(ticks.min(initial=np.iinfo(np.int64).max, where=is_time))
    return Statistics(least, int(ticks.max()), n_missing)


# The bits of floats lie on a ring, and ascend within each of its four arcs; numpy finds the ends of integers as fast as
# memory delivers them, also where it has no fast loop for the floats (float16):
#
#     0.0 .. inf | NaN | -0.0 .. -inf | NaN          as unsigned integers, after which it begins again
#
# Turned so that an arc comes last, the greatest bits are the end of that arc if there is any value on it; turned so
# that it comes first, the least bits are its beginning.


def _of_floats(values: Array) -> Statistics:
    signed, bits, infinity = _bits(values)
    negative = 1 << 8 * values.dtype.itemsize - 1
    most, least = int(signed.max()), int(bits.max())
    n_missing = n_infinite = 0
    if most > infinity or least > infinity | negative:
        n_missing = _n_nan(values, bits, infinity)
        if n_missing == len(values):
            return Statistics(n_missing=n_missing)
        most, least = _last(bits, infinity), _last(bits, infinity | negative)
        most = most if most <= infinity else -1
        least = least if negative <= least <= infinity | negative else 0
    if most == infinity or least == infinity | negative:
        n_infinite = int(np.count_nonzero(np.isinf(values)))
    if most < 0:  # no number is positive, not even 0.0
        most = _first(bits, negative)
    elif least < negative:  # none is negative
        least = int(bits.min())
    ends = np.array([least, most], bits.dtype).view(values.dtype)
    return Statistics(float(ends[0]), float(ends[1]), n_missing, n_infinite)


def _n_nan(values: Array, bits: Array, infinity: int) -> int:
    if values.dtype != np.float16:
        return int(np.count_nonzero(np.isnan(values)))
    return int(np.count_nonzero((bits & bits.dtype.type(0x7FFF)) > bits.dtype.type(infinity)))


def _last(bits: Array, end: int) -> int:
    """Return the greatest bits after the ring is turned so that ``end`` comes last."""
    turn = bits.dtype.type(np.iinfo(bits.dtype).max - end)
    return (int((bits + turn).max()) - int(turn)) & int(np.iinfo(bits.dtype).max)


def _first(bits: Array, begin: int) -> int:
    """Return the least bits after the ring is turned so that ``begin`` comes first."""
    turn = bits.dtype.type(begin)
    return (int((bits - turn).min()) + int(turn)) & int(np.iinfo(bits.dtype).max)


def _of_complex(values: Array) -> Statistics:
    signed, unsigned, infinity = _bits(values.view(values.real.dtype))
    negative = 1 << 8 * signed.itemsize - 1
    if int(signed.max()) < infinity and int(unsigned.max()) < infinity | negative:
        return Statistics()
    n_missing = int(np.count_nonzero(np.isnan(values)))
    return Statistics(n_missing=n_missing, n_infinite=int(np.count_nonzero(np.isinf(values) & ~np.isnan(values))))


def _bits(values: Array) -> tuple[Array, Array, int]:
    """Return the bits of floats as signed and unsigned integers, and those of infinity."""
    size = values.dtype.itemsize
    infinity = int(np.array(np.inf, values.dtype).view(f"u{size}"))
    return values.view(f"i{size}"), values.view(f"u{size}"), infinity
