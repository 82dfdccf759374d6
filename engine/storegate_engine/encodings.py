"""Encodings: values as zarr v3 specifies them, above all text and times, and back; does no I/O."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from storegate_engine.casts import holds
from storegate_engine.dtypes import TEXT, dtype_from_text, dtype_to_text
from storegate_engine.errors import DtypeError

__all__ = [
    "Encoding",
    "canonical_bytes",
    "encoding_of",
    "is_calendar",
    "is_text",
    "require_text",
    "row_nbytes",
]

_CF_UNITS = {
    "D": "days",
    "h": "hours",
    "m": "minutes",
    "s": "seconds",
    "ms": "milliseconds",
    "us": "microseconds",
    "ns": "nanoseconds",
}
_CALENDAR_UNITS = {"Y": "years", "M": "months"}
_NOT_A_TIME = int(np.iinfo(np.int64).min)


def is_text(dtype: np.dtype[Any]) -> bool:
    """Return whether values of ``dtype`` are text or bytes."""
    return dtype.kind in "UST"


def row_nbytes(dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> int:
    """Return the bytes of one row in memory (variable-length text counts 16 bytes and its references)."""
    return max(1, dtype.itemsize * int(np.prod(row_shape, dtype=np.int64)))


def canonical_bytes(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    r"""Return values as bytes that depend only on dtype and values: little-endian, in C order.

    Variable-length text is the lengths of all texts in UTF-8 (8 bytes each), then the texts.

    >>> bytes(canonical_bytes(np.array([1, 2], ">u2")))
    b'\x01\x00\x02\x00'
    """
    if values.dtype.kind == "T":
        texts = [text.encode() for text in values.reshape(-1).tolist()]
        return np.frombuffer(np.array([len(text) for text in texts], "<u8").tobytes() + b"".join(texts), "u1")
    if not values.size or not values.dtype.itemsize:
        return np.empty(0, "u1")
    little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
    return little.reshape(-1).view("u1")


@dataclass(frozen=True, slots=True)
class Encoding:
    """The stored form of values of one logical dtype."""

    logical: np.dtype[Any]
    """The dtype that users see."""
    stored: np.dtype[Any]
    """The dtype of the zarr array."""
    attributes: tuple[tuple[str, Any], ...] = ()
    """CF attributes with which xarray decodes the stored values."""
    unit: str = ""
    """The unit in which dates and durations are stored."""

    @property
    def is_identity(self) -> bool:
        """Whether stored values are the logical ones, byte for byte."""
        return self.logical == self.stored

    def encode(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the stored form of logical values; never changes its argument.

        Raises
        ------
        DtypeError
            A date has no number of days, or characters are not valid text.
        """
        if self.logical.kind in "mM":
            unit = self._unit
            if not holds(unit, values):
                raise DtypeError(f"a value of {self.logical} is too far from 1970 to store in days; convert it first")
            return values.astype(unit, copy=False).astype(np.int64)
        if self.logical.kind == "S":
            # latin-1 maps every byte to one character and back
            return np.char.decode(values.astype(self.logical, copy=False), "latin-1").astype(TEXT)
        if values.dtype.kind == "U":
            # numpy would read swapped bytes as other characters
            values = values.astype(values.dtype.newbyteorder("="), copy=False)
        try:
            return values.astype(self.stored, copy=False)
        except (TypeError, UnicodeError) as err:
            if self.stored != TEXT:
                raise
            raise DtypeError(f"a text cannot be stored as UTF-8: {err}; remove lone surrogates first") from err

    def decode(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Return the logical form of stored values."""
        if self.logical.kind in "mM":
            return values.view(self._unit).astype(self.logical, copy=False)
        if self.logical.kind == "S":
            width = max(1, self.logical.itemsize)
            return np.char.encode(values.astype(f"U{width}"), "latin-1").astype(self.logical)
        return values.astype(self.logical, copy=False)

    @property
    def _unit(self) -> np.dtype[Any]:
        """The dtype of dates and durations whose ticks are stored."""
        return np.dtype(f"{self.logical.kind}8[{self.unit}]")

    def in_days(self) -> Encoding:
        """Return the former encoding of durations of months and years: as days, which rounds them."""
        return replace(self, unit="D")


def _stored_unit(dtype: np.dtype[Any]) -> str:
    """Return the unit in which times are stored.

    CF has no calendar units, so dates and weeks become days; months and years have no fixed number of days, and stay.
    """
    unit = np.datetime_data(dtype)[0]
    return unit if unit in _CF_UNITS or is_calendar(dtype) else "D"


def is_calendar(dtype: np.dtype[Any]) -> bool:
    """Return whether values are durations of months or years, which have no length in days."""
    return dtype.kind == "m" and np.datetime_data(dtype)[0] in "YM"


def require_text(values: np.ndarray[Any, Any], name: str) -> None:
    """Refuse invalid characters of text, which otherwise only storage would notice.

    Raises
    ------
    DtypeError
        The text has a lone surrogate.
    """
    if values.dtype.kind != "U" or not values.size:
        return
    codes = np.ascontiguousarray(values, values.dtype.newbyteorder("=")).reshape(-1).view(np.uint32)
    wrong = (codes >= 0xD800) & (codes < 0xE000)
    if wrong.any():
        raise DtypeError(
            f"variable {name!r}: a text cannot be stored as UTF-8: it has the lone surrogate "
            f"U+{int(codes[wrong][0]):04X}; remove lone surrogates first"
        )


@functools.lru_cache(maxsize=256)
def encoding_of(dtype: np.dtype[Any]) -> Encoding:
    """Return the encoding of values of ``dtype``.

    Numbers are stored unchanged; datetime64 and timedelta64 as int64 with CF attributes; text and bytes as
    variable-length UTF-8 (bytes as latin-1 characters).

    Raises
    ------
    DtypeError
        The dtype cannot be stored.
    """
    dtype_to_text(dtype)
    dtype = dtype if dtype.kind == "T" else dtype.newbyteorder("=")
    if dtype.kind in "US" and not dtype.itemsize:
        dtype = np.dtype(f"{dtype.kind}1")  # what numpy makes of it
    if is_text(dtype):
        return Encoding(dtype, TEXT)
    if is_calendar(dtype):
        unit = _stored_unit(dtype)
        return Encoding(dtype, np.dtype(np.int64), (("units", _CALENDAR_UNITS[unit]),), unit)
    if dtype.kind in "mM":
        unit = _stored_unit(dtype)
        since = f"{_CF_UNITS[unit]} since 1970-01-01" if dtype.kind == "M" else _CF_UNITS[unit]
        calendar = (("calendar", "proleptic_gregorian"),) if dtype.kind == "M" else ()
        return Encoding(dtype, np.dtype(np.int64), (("units", since), *calendar, ("_FillValue", _NOT_A_TIME)), unit)
    dtype = dtype_from_text(dtype_to_text(dtype))  # of C's integers of one width, which are equal, zarr knows only one
    return Encoding(dtype, dtype)
