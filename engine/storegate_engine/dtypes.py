"""Dtypes: those that can be stored, and their names; the only file that reads these names.

========  ============================  ================================================================
form      example                       where, and which dtypes
========  ============================  ================================================================
manifest  ``f4``  ``U7``  ``M8[s]``  ``T``  manifests and fingerprints: all that can be stored, without a byte order
cast      ``<f4`` ``<U0`` ``<M8`` ``string``  transforms: what rows are cast to, numpy completes widths and units
zarr      ``float32`` ``string``        ``zarr.json``: as zarr v3 names numbers, and text of any width
========  ============================  ================================================================
"""

from __future__ import annotations

import re
from typing import Any, Final, Literal, TypeAlias

import numpy as np

from storegate_engine.errors import CorruptStoreError, DtypeError, shown

__all__ = ["TEXT", "DtypeForm", "dtype_from_text", "dtype_to_text"]

DtypeForm: TypeAlias = Literal["manifest", "cast", "zarr"]
"""The place of a dtype's name."""

TEXT: Final = np.dtypes.StringDType()
_NUMBERS = frozenset("b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split())
_ZARR = {np.dtype(text).name: np.dtype(text) for text in _NUMBERS}
_TIME = re.compile(r"[mM]8\[(Y|M|W|D|h|m|s|ms|us|ns)\]")
_WIDTH_DIGITS = 7
_TEXT = re.compile(rf"[US](?:0|[1-9][0-9]{{0,{_WIDTH_DIGITS - 1}}})")
_CAST = re.compile(r"[<>|][biufcSU][0-9]{1,9}|[<>][mM]8(\[[0-9]{0,9}[a-zA-Z]{1,2}\])?")
_ANY_TEXT = "string"


def dtype_to_text(dtype: np.dtype[Any], form: DtypeForm = "manifest") -> str:
    """Return the name of a dtype.

    Raises
    ------
    DtypeError
        Manifests cannot hold the dtype: object, structured, unsupported or empty dtypes.

    Examples
    --------
    >>> dtype_to_text(np.dtype(">f4")), dtype_to_text(np.dtype("U7")), dtype_to_text(np.dtype("M8[s]"))
    ('f4', 'U7', 'M8[s]')
    >>> dtype_to_text(np.dtype(">f4"), "cast"), dtype_to_text(np.dtype(">f4"), "zarr")
    ('>f4', 'float32')
    """
    match form:
        case "manifest":
            return _to_manifest(dtype)
        case "cast":
            return _ANY_TEXT if dtype.kind == "T" else dtype.str
        case "zarr":
            return _ANY_TEXT if dtype.kind in "UST" else dtype.name


def _to_manifest(dtype: np.dtype[Any]) -> str:
    if dtype == TEXT:
        return "T"
    if dtype.kind == "T":
        raise DtypeError(f"{dtype!r} has options that cannot be stored; use numpy.dtypes.StringDType() as it is")
    text = dtype.str[1:]
    if dtype.kind in "US" and len(text) > 1 + _WIDTH_DIGITS:
        raise DtypeError(
            f"dtype {dtype} cannot be stored: texts have less than {10**_WIDTH_DIGITS} characters of one width; use "
            "numpy.dtypes.StringDType()"
        )
    if text in _NUMBERS or _TIME.fullmatch(text) or dtype.kind in "US":
        return text
    if dtype.kind == "O":
        raise DtypeError(
            "data of dtype object cannot be stored without pickle; convert them first, for example with "
            "np.asarray(data, dtype='f4'), or dtype='U' for text (ragged rows: pad them to one shape)"
        )
    if dtype.names:
        raise DtypeError(
            f"structured dtype {dtype} cannot be stored; add each field as a variable: {', '.join(dtype.names)}"
        )
    if dtype.kind in "mM":
        raise DtypeError(
            f"dtype {dtype} cannot be stored; convert to a unit from years to nanoseconds, as in "
            f"astype('{dtype.kind}8[s]')"
        )
    raise DtypeError(
        f"dtype {dtype} cannot be stored; convert to one of bool, int8-64, uint8-64, float16-64, complex64-128, "
        "datetime64, timedelta64 or text"
    )


def dtype_from_text(text: object, form: DtypeForm = "manifest") -> np.dtype[Any]:
    """Return the dtype of a name, which is not trusted.

    Raises
    ------
    CorruptStoreError
        This library writes no such name there.
    """
    found = _from_text(text, form) if isinstance(text, str) else None
    if found is None:
        raise CorruptStoreError(f"the store names a dtype that is not allowed: {shown(text)}")
    return found


def _from_text(text: str, form: DtypeForm) -> np.dtype[Any] | None:
    if form == "zarr":
        return TEXT if text == _ANY_TEXT else _ZARR.get(text)
    if form == "manifest":
        if text == "T":
            return TEXT
        is_legal = text in _NUMBERS or _TIME.fullmatch(text) or _TEXT.fullmatch(text)
        return np.dtype(text) if is_legal else None
    if text == _ANY_TEXT:
        return TEXT
    if not _CAST.fullmatch(text):
        return None
    try:
        dtype = np.dtype(text)
    except (TypeError, ValueError):
        return None
    return dtype if dtype.str == text else None  # numpy accepts far more names than it writes
