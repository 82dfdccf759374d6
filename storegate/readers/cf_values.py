"""CF values: numbers that mean times, durations, truths or missing values, turned into these while they are copied.

Arrays are those of h5py and of zarr, as xarray and the libraries of NetCDF write them.

What they mean is as in xarray, whose coders decode them: see the conventions CF, https://cfconventions.org, and the
attribute ``dtype`` that xarray writes.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.errors import DtypeError, MissingValueError

__all__ = [
    "CODED",
    "DIMENSIONS",
    "ENCODING",
    "MISSING",
    "Decoded",
    "Filled",
    "Joined",
    "is_decoded",
    "joined_of",
    "require_not_packed",
    "require_readable_in_place",
    "rows_of",
    "values_of",
]

Array: TypeAlias = np.ndarray[Any, Any]

MISSING = ("_FillValue", "missing_value")
"""Attributes with numbers that stand for missing values."""
DIMENSIONS = "_ARRAY_DIMENSIONS"
"""The attribute in which xarray keeps the names of dimensions in format 2 of zarr."""
PACKED = ("scale_factor", "add_offset", "_Unsigned")
"""Attributes of variables that are stored as other numbers than they mean."""
UNITS = ("ns", "us", "s")
"""The units of times: the first one that reaches all of a file, as in xarray."""
_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")
"""Calendars that datetime64 has."""
_DURATION = re.compile(r"timedelta64\[(s|ms|us|ns)\]")
"""What xarray says of durations."""
NOT_A_TIME = int(np.iinfo(np.int64).min)
"""What xarray writes for NaT, without an attribute that says so."""
BLOCK_NBYTES = 4 * 2**20
"""Bytes of times that are looked at together."""
ENCODING = "_Encoding"
"""The attribute that names the encoding of characters."""
CODED = ("units", "calendar", "dtype")
"""Attributes that say how numbers are coded."""


@dataclass(frozen=True, slots=True, eq=False)
class _Rows:
    """An array whose values are converted when they are read."""

    name: str
    item: Any
    missing: tuple[Any, ...]
    """Numbers that stand for missing values."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array."""
        return tuple(self.item.shape)

    @property
    def ndim(self) -> int:
        """The number of its dimensions."""
        return len(self.shape)

    @property
    def chunks(self) -> Any:
        """The shape of its chunks."""
        return self.item.chunks

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]


@dataclass(frozen=True, slots=True, eq=False)
class Filled(_Rows):
    """Numbers of which some stand for missing values: they become NaN, or are refused."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the values."""
        found: np.dtype[Any] = self.item.dtype
        return found

    def __getitem__(self, rows: Any) -> Array:
        """Return some rows."""
        values = np.asarray(self.item[rows])
        absent = np.isin(values, self.missing)
        if not absent.any():
            return values
        if self.dtype.kind not in "fc":
            raise MissingValueError(
                f"variable {self.name!r}: {int(absent.sum())} values are {self.missing[0]}, which stands for missing "
                "ones; choose a value for them with add_data(xarray.open_dataset(path).fillna(value))"
            )
        values[absent] = np.nan
        return values


@dataclass(frozen=True, slots=True, eq=False)
class Decoded(_Rows):
    """Numbers that mean something else."""

    dtype: np.dtype[Any]
    """The dtype of what they mean."""
    decode: Callable[[Array], Array]
    """Returns what numbers mean."""

    def __getitem__(self, rows: Any) -> Array:
        """Return some rows.

        Raises
        ------
        MissingValueError
            A truth value is missing.
        """
        values = np.asarray(self.item[rows])
        absent = np.isin(values, self.missing)
        if not absent.any():
            return self._decoded(values)
        if self.dtype.kind == "b":
            raise MissingValueError(
                f"variable {self.name!r}: {int(absent.sum())} truth values are missing; choose values for them with "
                "add_data(xarray.open_dataset(path).fillna(value))"
            )
        found = np.full(values.shape, "NaT", self.dtype)
        found[~absent] = self._decoded(values[~absent])
        return found

    def _decoded(self, values: Array) -> Array:
        if not values.size:
            return np.empty(values.shape, self.dtype)
        return self.decode(values).astype(self.dtype, copy=False)


@dataclass(frozen=True, slots=True, eq=False)
class Joined(_Rows):
    """Single characters along the last axis that are one text together."""

    encoding: str
    """The encoding of text; empty for bytes."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the array without the characters."""
        return tuple(self.item.shape[:-1])

    @property
    def chunks(self) -> Any:
        """The shape of its chunks."""
        return self.item.chunks and self.item.chunks[:-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Bytes or text of as many characters."""
        return np.dtype(f"{'U' if self.encoding else 'S'}{self.item.shape[-1]}")

    def __getitem__(self, rows: Any) -> Array:
        """Return some rows."""
        chars = np.ascontiguousarray(self.item[rows])
        joined = chars.view(f"S{self.item.shape[-1]}")[..., 0]
        return np.char.decode(joined, self.encoding).astype(self.dtype) if self.encoding else joined


def joined_of(name: str, item: Any, attrs: Mapping[str, Any]) -> Joined | None:
    """Return single characters as texts, as xarray has those of NetCDF; None for other arrays."""
    if item.dtype != "S1" or item.ndim < 2 or not item.shape[-1]:
        return None
    return Joined(name, item, (), str(attrs.get(ENCODING, "")))


def rows_of(name: str, item: Any, attrs: Mapping[str, Any], *, decode: bool = True) -> Any:
    """Return an array, converted if its attributes say that its numbers mean something else.

    Rows that stay in their file keep their numbers: ``decode=False`` looks for those that mean missing values alone.
    """
    if item.dtype.kind not in "biufc":
        return item
    given = [value for found in _missing_in(item) for value in _numbers(name, found)]
    missing = tuple(dict.fromkeys(value for value in given if value == value))  # NaN means itself
    never = (*missing, NOT_A_TIME) if item.dtype == np.int64 else missing
    if decode and (coded := _coding(item, attrs, never)) is not None:
        return Decoded(name, item, never if coded[0].kind in "mM" else missing, *coded)
    return Filled(name, item, missing) if missing else item


def _missing_in(item: Any) -> Iterator[Any]:
    """Yield what stands for missing values, as it is stored."""
    yield from (item.attrs[key] for key in MISSING if key in item.attrs)
    # into zarr v2, xarray writes `_FillValue` as the fill value of the array, and none if there is no such number
    if DIMENSIONS in item.attrs and (filled := getattr(item, "fill_value", None)) is not None:
        yield filled


def _numbers(name: str, given: Any) -> Iterator[Any]:
    """Return the numbers of an attribute; xarray writes those of floats into zarr as eight bytes in base 64."""
    if not isinstance(given, str):
        return iter(np.ravel(given).tolist())
    try:
        return iter(np.frombuffer(base64.b64decode(given, validate=True), "<f8").tolist())
    except ValueError as err:
        raise DtypeError(
            f"variable {name!r} has the text {given!r} for missing values, instead of a number; decode it with "
            "add_data(xarray.open_dataset(path))"
        ) from err


def require_not_packed(name: str, item: Any) -> None:
    """Raise DtypeError if an array is stored as other numbers than it means."""
    if packed := [attribute for attribute in PACKED if attribute in item.attrs]:
        raise DtypeError(
            f"variable {name!r} is packed, with {' and '.join(packed)}; unpack it with "
            "add_data(xarray.open_dataset(path))"
        )


def require_readable_in_place(name: str, item: Any, attrs: Mapping[str, Any], joined: Joined | None) -> None:
    """Raise DtypeError if an array has truths as integers, or text as single characters."""
    if joined is not None or _are_truths(item, attrs):
        kind = "text, stored as single characters" if joined is not None else f"truths, stored as {item.dtype}"
        raise DtypeError(f"variable {name!r} holds {kind}, which is not read in place; copy it with gate.read")


def _are_truths(item: Any, attrs: Mapping[str, Any]) -> bool:
    return str(attrs.get("dtype", "")) == "bool" and item.dtype.kind in "iu"


def is_decoded(rows: Any) -> bool:
    """Return whether rows mean something else than the numbers of the file, so that attributes about these are over."""
    return isinstance(rows, (Decoded, Joined))


def values_of(item: Any, rows: Any) -> Array:
    """Return the values of a whole array of h5py, of which `rows_of` gave the rows."""
    if isinstance(rows, Filled) and not item.ndim:
        return np.asarray(item[()])
    return np.asarray(item.asstr()[()] if item.dtype.kind == "O" else rows[()])


def _coding(
    item: Any, attrs: Mapping[str, Any], missing: tuple[Any, ...]
) -> tuple[np.dtype[Any], Callable[[Array], Array]] | None:
    """Return the dtype that numbers mean, and what decodes them; None if they mean themselves."""
    units, meant = attrs.get("units"), str(attrs.get("dtype", ""))
    if _are_truths(item, attrs):
        return np.dtype(bool), lambda values: values.astype(bool)
    if not isinstance(units, str) or item.dtype.kind not in "iuf":
        return None
    coding = {key: attrs[key] for key in CODED if key in attrs}
    if (duration := _DURATION.fullmatch(meant)) is not None:
        return np.dtype(duration[0]), lambda values: _by_xarray("CFTimedeltaCoder", values, coding)
    if "since" not in units or str(attrs.get("calendar", "standard")).lower() not in _CALENDARS:
        return None

    ends = _ends(item, missing)
    for unit in UNITS:
        decode = partial(_by_xarray, "CFDatetimeCoder", attrs=coding, time_unit=unit)
        try:
            found = decode(ends)
        except OverflowError:
            continue
        except ValueError:
            return None  # "counts since the last reset": no times
        if found.dtype.kind == "M":
            return np.dtype(f"M8[{unit}]"), decode
    return None  # years that datetime64 does not reach


def _ends(item: Any, missing: tuple[Any, ...]) -> Array:
    """Return the smallest and largest number that is not missing; 0 if all are."""
    ends: list[Array] = []
    step = max(1, BLOCK_NBYTES // max(1, item.dtype.itemsize * int(np.prod(item.shape[1:]))))
    for lo in range(0, item.shape[0], step) if item.ndim else ():
        values = np.asarray(item[lo : lo + step]).reshape(-1)
        present = values[(values == values) & ~np.isin(values, missing)]
        if present.size:
            ends += [present.min(), present.max()]
    if not item.ndim:
        return np.asarray(item[()]).reshape(-1)
    return np.array([min(ends), max(ends)]) if ends else np.zeros(1, item.dtype)


def _by_xarray(coder: str, values: Array, attrs: Mapping[str, Any], **options: Any) -> Array:
    import xarray as xr  # deferred on purpose: it takes a third of a second

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of times that are out of reach, which are told from their dtype
        variable = xr.Variable(tuple(map(str, range(values.ndim))), values, dict(attrs))
        return np.asarray(getattr(xr.coders, coder)(**options).decode(variable).values)
