"""Arrow: columns of Arrow as plain ndarrays, whoever carries them; refuses values that numpy would change.

A column is stored in the same way, or refused for the same reason, whether it comes as an array of pyarrow, as a column
of pandas or polars, in a table, or from a file.

========================================  ==============================================
numbers, bools                            their dtype
dates, timestamps, durations              in their unit, null as NaT; refused with a time zone
text                                      ``numpy.dtypes.StringDType``
bytes                                     ``S``; refused if values end in zeros, which ``S`` drops
lists of one length, tensors              rows with axes
dictionaries, run-end encoded             their values
========================================  ==============================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.dtypes import TEXT
from storegate_engine.errors import DtypeError, MissingValueError
from storegate_engine.optional import require_package

__all__ = [
    "BYTES_REMEDY",
    "ArrowType",
    "arrow_type",
    "arrow_values",
    "as_arrow",
    "bytes_of",
    "columns_of_schema",
    "is_list",
]

Array: TypeAlias = np.ndarray[Any, Any]

NUMBERS = "store numbers, as in np.frombuffer(value, 'u1'), which are lists"
BYTES_REMEDY = f"bytes of fixed length drop zeros at their end: {NUMBERS}"
"""What to do about bytes that no array keeps."""
LONG_NBYTES, WIDE = 1024, 4
"""Bytes longer than this are refused if one width for all takes more than this many times their own lengths."""


@dataclass(frozen=True, slots=True)
class ArrowType:
    """What values of a column of Arrow become."""

    dtype: np.dtype[Any]
    """Their dtype; bytes may be wider."""
    row_shape: tuple[int, ...]
    """The shape of one row."""


def as_arrow(data: Any) -> Any:
    """Return a column of pyarrow, or of pandas that is one inside, as an array of pyarrow; None for others."""
    if type(data).__module__.partition(".")[0] == "pyarrow" and hasattr(data, "type") and hasattr(data, "null_count"):
        return data
    if hasattr(getattr(data, "dtype", None), "pyarrow_dtype"):
        array = getattr(data, "array", data)
        return array.__arrow_array__() if hasattr(array, "__arrow_array__") else None
    return None


def is_list(kind: Any) -> bool:
    """Return whether values of a type are lists of various lengths."""
    return str(kind).startswith(("list<", "large_list<"))


_INDEX = re.compile(r"__index_level_\d+__")
"""What pandas calls an index without a name in a table of Arrow."""


def columns_of_schema(schema: Any) -> dict[str, str]:
    """Return the columns of a schema, and the names of their variables: an index of pandas as in its frames.

    One without a name is left out if it only numbers rows, and is called ``index`` otherwise.

    Raises
    ------
    DtypeError
        Two columns have the same name.
    """
    if len(set(schema.names)) < len(schema.names):
        raise DtypeError(f"the table has several columns of one name: {', '.join(schema.names)}; rename them")
    found: dict[str, str] = {}
    for name in schema.names:
        is_index = _INDEX.fullmatch(name) is not None
        if is_index and str(schema.field(name).type).startswith(("int", "uint")):
            continue
        found[name] = "index" if is_index and "index" not in (*schema.names, *found.values()) else name
    return found or {name: name for name in schema.names}


def arrow_type(kind: Any, what: str, *, within: Any = None) -> ArrowType:
    """Return what values of a type of Arrow become; ``within`` is the type of lists that hold them.

    Raises
    ------
    DtypeError
        numpy has no dtype that holds them unchanged; the message says what to do.
    """
    pa = require_package("pyarrow", "arrow", what)
    types, value = pa.types, kind
    row_shape: tuple[int, ...] = ()
    if isinstance(value, pa.FixedShapeTensorType):
        if value.permutation is not None and list(value.permutation) != list(range(len(value.shape))):
            raise DtypeError(
                f"{what} has tensors whose dimensions are stored in the order {value.permutation}; make them "
                "of arrays in C order, as in FixedShapeTensorArray.from_numpy_ndarray"
            )
        row_shape, value = tuple(value.shape), value.value_type
    while _is_wrapped(value) or types.is_fixed_size_list(value):
        row_shape += (value.list_size,) if types.is_fixed_size_list(value) else ()
        value = value.value_type
    if getattr(value, "tz", None) is not None:
        raise DtypeError(
            f"{what} is of {within or kind}, and times are stored without a zone; cast it to timestamp({value.unit!r})"
        )
    if _is_text(types, value):
        return ArrowType(TEXT, row_shape)
    if _is_binary(types, value):
        width = value.byte_width if types.is_fixed_size_binary(value) else 1
        return ArrowType(np.dtype(f"S{max(1, width)}"), row_shape)
    dtype = _dtype(types, value)
    if dtype.kind == "O" and within is not None:
        raise DtypeError(
            f"{what} is of {within}, and lists hold numbers or text; {_remedy(types, value)}, or give each level of "
            "its lists a column of its own"
        )
    if dtype.kind == "O":
        raise DtypeError(f"{what} is of {kind}, which is neither numbers nor text; {_remedy(types, value)}")
    return ArrowType(dtype, row_shape)


def arrow_values(array: Any, found: ArrowType, what: str) -> Array:
    """Return the values of an array of pyarrow, which may share its memory.

    Raises
    ------
    MissingValueError
        A value is null; a time that is null is NaT.
    DtypeError
        Bytes end in zeros.
    """
    if hasattr(array, "num_chunks"):
        parts = [arrow_values(chunk, found, what) for chunk in array.chunks if len(chunk)]
        if found.dtype.kind == "S":
            found = ArrowType(np.result_type(found.dtype, *parts), found.row_shape)
        return parts[0] if len(parts) == 1 else np.concatenate([*parts, np.empty((0, *found.row_shape), found.dtype)])
    n_rows = len(array)
    while True:
        if hasattr(array, "run_ends"):
            array = require_package("pyarrow.compute", "arrow", what).run_end_decode(array)
        elif hasattr(array, "dictionary"):
            array = array.dictionary_decode()
        elif hasattr(array, "storage"):
            array = array.storage
        elif hasattr(array.type, "list_size"):
            _require_valid(array, what)
            array = array.flatten()
        else:
            break
    if found.dtype.kind not in "mM":
        _require_valid(array, what)
    values = _plain(array, found.dtype, what)
    return values.reshape(n_rows, *found.row_shape)


def _plain(array: Any, dtype: np.dtype[Any], what: str) -> Array:
    """Return the values of an array of one level."""
    values: Array = array.to_numpy(zero_copy_only=False)
    return values.astype(dtype, copy=False) if dtype.kind != "S" else bytes_of(values, what)


def bytes_of(objects: Array, what: str) -> Array:
    """Return objects that are all bytes as ``S``, which is as wide as the longest of them.

    Raises
    ------
    DtypeError
        One ends in zeros, or they are long, and most are much shorter than the longest.
    """
    values = objects.reshape(-1).tolist()
    if any(value.endswith(b"\0") for value in values):
        raise DtypeError(f"{what}: {BYTES_REMEDY}")
    lengths = list(map(len, values))
    if values and (longest := max(lengths)) > LONG_NBYTES and longest * len(values) > WIDE * sum(lengths):
        raise DtypeError(
            f"{what}: bytes of fixed length are all as long as the longest, of {longest:,} bytes here, and most are "
            f"much shorter: {NUMBERS}"
        )
    return objects.astype("S")


def _is_wrapped(kind: Any) -> bool:
    """Return whether values of a type are those of another one, stored in a shorter form."""
    return str(kind).startswith(("dictionary<", "run_end_encoded<"))


def _dtype(types: Any, kind: Any) -> np.dtype[Any]:
    """Return the dtype of numbers, bools and times; object if there is none."""
    if types.is_temporal(kind):
        return _time(types, kind)
    dtype: np.dtype[Any] = np.dtype(kind.to_pandas_dtype() if types.is_primitive(kind) else object)
    return dtype


def _is_text(types: Any, kind: Any) -> bool:
    is_view = getattr(types, "is_string_view", lambda kind: False)
    return bool(types.is_string(kind) or types.is_large_string(kind) or is_view(kind))


def _is_binary(types: Any, kind: Any) -> bool:
    is_view = getattr(types, "is_binary_view", lambda kind: False)
    return bool(
        types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind) or is_view(kind)
    )


def _time(types: Any, kind: Any) -> np.dtype[Any]:
    """Return the dtype of times and durations, in their unit."""
    if types.is_date32(kind):
        return np.dtype("M8[D]")
    if types.is_date64(kind):
        return np.dtype("M8[ms]")
    if types.is_timestamp(kind) or types.is_duration(kind):
        return np.dtype(f"{'M' if types.is_timestamp(kind) else 'm'}8[{kind.unit}]")
    return np.dtype(object)  # a time of day, or an interval


def _remedy(types: Any, kind: Any) -> str:
    if types.is_struct(kind):
        return "flatten() the table first"
    if is_list(kind):
        return "give its rows one length, as a fixed_size_list"
    if types.is_null(kind):
        return "it has nothing but nulls: leave it out"
    if hasattr(kind, "storage_type"):
        return f"cast it to {kind.storage_type} first"
    return "cast it to a type of numbers or text first"


def _require_valid(array: Any, what: str) -> None:
    if array.null_count:
        raise MissingValueError(
            f"{what}: {array.null_count} values are null, which cannot be stored; replace them with fill_null(value)"
        )
