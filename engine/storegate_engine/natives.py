"""Natives: callers' data as plain ndarrays; refuses missing values, and values that numpy would change.

Other libraries are recognised by the attributes of their objects, and not imported: pandas and its extension arrays
(``isna``), polars (``null_count``), numpy's masked arrays. What pyarrow holds is of `arrow`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrow import BYTES_REMEDY, arrow_type, arrow_values, as_arrow, bytes_of
from storegate_engine.casts import combined, holds
from storegate_engine.dtypes import TEXT
from storegate_engine.errors import DtypeError, MissingValueError, ShapeError, shown

__all__ = ["alike", "as_native", "is_foreign"]

WIDE = 4
"""Texts in a list become variable-length text if one width for all would take more than this many times their bytes."""

Array: TypeAlias = np.ndarray[Any, Any]


def is_foreign(data: Any) -> bool:
    """Return whether data are a column or frame of pandas, pyarrow or polars, which are converted as a whole."""
    if _is_lazy(data):
        return False
    is_column = hasattr(data, "to_numpy") and (hasattr(data, "isna") or hasattr(data, "null_count"))
    return is_column or _is_arrow_table(data)


def _is_arrow_table(data: Any) -> bool:
    return hasattr(data, "num_columns") and hasattr(data, "column")


def _is_lazy(data: Any) -> bool:
    return hasattr(data, "compute") or hasattr(type(data), "dask")  # on the class: the attribute may build a graph


def as_native(data: Any, what: str) -> Array:
    """Return data as an ndarray, of no subclass except memmap; it may share their memory.

    Parameters
    ----------
    data : array-like
        Data in memory, or a lazy block, which is computed.
    what : str
        A name for the data, for messages.

    Raises
    ------
    MissingValueError
        A value is missing: masked, null or NA. NaN and NaT are values.
    DtypeError
        No common dtype holds all values of a list unchanged.

    Examples
    --------
    >>> as_native(np.ma.array([1, 2], mask=[False, False]), "x")
    array([1, 2])
    """
    if type(data) is np.ndarray and data.dtype.kind in "biufcUSmMV":  # lists have many of them
        return data
    if hasattr(data, "dims") and hasattr(data, "data"):  # xarray's own conversion would drop a mask
        data = data.data
    if _is_lazy(data):
        data = data.compute()
    if isinstance(data, np.ma.MaskedArray):
        return _unmasked(data, what)
    if is_foreign(data):
        return _of_columns(data, what)
    if isinstance(data, (list, tuple)):
        return _of_list(data, what)
    # a memmap is kept, so that its pages can leave memory once they are read
    values = data if isinstance(data, np.memmap) else np.asarray(data)
    if values.dtype.kind == "T" and values.dtype != TEXT:
        return _plain_text(values, what)
    if values.dtype.kind == "O" and values.size and all(isinstance(text, str) for text in values.flat):
        return values.astype(TEXT)
    if _are_bytes(values):
        return bytes_of(values, what)
    if values.dtype.kind == "O" and values.size:
        raise _objects(values, what)
    return values


def _are_bytes(values: Array) -> bool:
    return values.dtype.kind == "O" and values.size > 0 and all(isinstance(value, bytes) for value in values.flat)


def _objects(values: Array, what: str) -> DtypeError:
    """Return the error that says what objects there are, and how they become values."""
    first = next((value for value in values.flat if not isinstance(value, str)), None)
    names = list(dict.fromkeys(type(value).__name__ for value in values.reshape(-1)[:1000].tolist()))
    listed = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
    remedy = "convert them first, for example with np.asarray(data, dtype='f4'), or dtype='U' for text"
    if any(value is None for value in values.flat):
        remedy = "None is no value: convert it to one, such as NaN or an empty text"
    elif hasattr(first, "timetuple") and hasattr(first, "calendar"):
        remedy = (
            "times of another calendar: make them those of numpy, as in ds.convert_calendar('standard', "
            "use_cftime=False), or keep numbers with their units, as in xr.open_dataset(path, decode_times=False)"
        )
    elif hasattr(first, "timetuple"):
        zone = "; convert those with a zone to UTC, and take it away first" if getattr(first, "tzinfo", None) else ""
        remedy = f"make them times of numpy, as in np.asarray(data, dtype='M8[us]'){zone}"
    elif isinstance(first, tuple):
        remedy = "an index of several levels is stored by its levels: call reset_index() first"
    elif isinstance(first, bytes):
        remedy = "give values of one kind"
    elif hasattr(first, "__len__"):
        remedy = "pad rows of different length to one shape"
    return DtypeError(f"{what}: data of dtype object ({listed}) cannot be stored without pickle; {remedy}")


def _missing(what: str, found: str, remedy: str) -> MissingValueError:
    return MissingValueError(f"{what}: {found}, which cannot be stored; {remedy}")


def _unmasked(data: np.ma.MaskedArray[Any, Any], what: str) -> Array:
    count = int(np.count_nonzero(np.ma.getmaskarray(data)))
    if count:
        raise _missing(what, f"{count} values are masked", "give a value for them with .filled(value)")
    return np.asarray(data.data)


def _plain_text(values: Array, what: str) -> Array:
    """Return text without the options of its dtype, if no text is missing."""
    missing = getattr(values.dtype, "na_object", None)
    if hasattr(values.dtype, "na_object") and not isinstance(missing, str):
        count = sum(not isinstance(text, str) for text in values.reshape(-1).tolist())
        if count:
            raise _missing(what, f"{count} texts are missing", "give a text for them, as in x[np.isnan(x)] = ''")
    return values.astype(TEXT)


def _of_columns(data: Any, what: str) -> Array:
    """Return a column or frame by position; labels are ignored."""
    columns = _columns(data)
    if columns is not None:
        parts = [as_native(column, f"{what}, column {at}") for at, column in enumerate(columns)]
        return np.stack(alike(parts, what), axis=1) if parts else np.empty((len(data), 0))
    if (column := as_arrow(data)) is not None:
        return arrow_values(column, arrow_type(column.type, what), what)
    dtype = getattr(data, "dtype", None)
    if isinstance(dtype, np.dtype) and dtype.kind != "O":  # objects may be texts
        return np.asarray(data.to_numpy())
    nulls = 0 if hasattr(dtype, "fill_value") else _n_nulls(data)  # those of sparse floats are NaN
    if nulls and not str(dtype).startswith(("Date", "Duration(")):  # times of polars: null is NaT
        fill = "fillna" if hasattr(data, "fillna") else "fill_null"
        raise _missing(what, f"{nulls} values are null", f"give a value for them with .{fill}(value)")
    native = (
        TEXT if getattr(dtype, "type", None) is str or str(dtype) == "String" else getattr(dtype, "numpy_dtype", None)
    )
    if native == TEXT:
        return np.asarray(list(data), dtype=TEXT)
    if isinstance(native, np.dtype) and native.kind != "O":
        return np.asarray(data.to_numpy(dtype=native))
    if "time_zone='" in str(dtype) or "Struct(" in str(dtype):  # of polars, which drops zones, and names of fields
        raise _no_dtype(data, np.empty(0), what)
    try:
        values = np.asarray(data)
    except Exception as err:  # each library has its own, for types that numpy lacks
        raise DtypeError(f"{what}: values of {dtype} have no numpy dtype ({err}); cast them first") from err
    if values.dtype.kind != "O":
        return values
    if all(isinstance(value, str) for value in values.flat):
        return values.astype(TEXT)
    if _are_bytes(values):
        return bytes_of(values, what)
    if len(values) and all(isinstance(value, np.ndarray) for value in values.tolist()):  # rows of several values
        rows = [as_native(row, what) for row in values.tolist()]
        if len({row.shape for row in rows}) > 1:
            raise ShapeError(f"{what}: its rows have the shapes {shown(list(dict.fromkeys(r.shape for r in rows)))}")
        return np.stack(alike(rows, what))
    raise _no_dtype(data, values, what)


def _no_dtype(data: Any, values: Array, what: str) -> DtypeError:
    """Return the error that says what a column holds, and how it becomes one that numpy has a dtype for."""
    remedy = _remedy(getattr(data, "dtype", None), values)
    return DtypeError(f"{what}: values of {_kind_of(data, values)} have no numpy dtype; {remedy}")


def _kind_of(data: Any, values: Array) -> str:
    """Return what a column holds, in words."""
    dtype = getattr(data, "dtype", getattr(data, "type", type(data).__name__))
    if str(dtype) != "object":
        return str(dtype)
    types = dict.fromkeys(type(value).__name__ for value in values.reshape(-1)[:1000].tolist())
    return f"object ({', '.join(list(types)[:4])}{', ...' if len(types) > 4 else ''})"


def _remedy(dtype: Any, values: Array) -> str:
    """Return how a column of pandas or polars becomes one that numpy has a dtype for."""
    if any(isinstance(value, bytes) for value in values.flat):
        return "give values of one kind"
    if getattr(dtype, "tz", None) is not None:
        return "take the zone away with .dt.tz_localize(None)"
    if "time_zone='" in str(dtype):
        return "take the zone away with .dt.replace_time_zone(None)"
    if "Struct(" in str(dtype):
        return "give each field a column of its own, as in series.struct.unnest()"
    if hasattr(dtype, "subtype") and hasattr(dtype, "closed"):
        return "store its ends, as in .array.left and .array.right"
    if hasattr(dtype, "freq"):
        return "make its values times with .dt.to_timestamp()"
    if values.size and all(hasattr(value, "timetuple") for value in values.flat):
        return "make them times, as in .astype('datetime64[s]')"
    return "convert them first, as in .astype('float64') for numbers or .astype(str) for text"


def _columns(data: Any) -> list[Any] | None:
    """Return the columns of a frame, None for a single column."""
    if _is_arrow_table(data):
        return [data.column(at) for at in range(data.num_columns)]
    if not hasattr(data, "columns"):
        return None
    frame = data.iloc if hasattr(data, "iloc") else data
    return [frame[:, at] for at in range(len(data.columns))]


def _n_nulls(data: Any) -> int:
    if hasattr(data, "isna"):
        return int(np.count_nonzero(np.asarray(data.isna())))
    count = data.null_count
    return int(count() if callable(count) else count)


_FAMILIES: tuple[tuple[type, ...], ...] = (
    (np.timedelta64,),  # before the integers, of which numpy makes it a subclass
    (bool, int, float, complex, np.bool_, np.number),
    (str,),
    (bytes,),
    (np.datetime64,),
)


def _of_list(data: list[Any] | tuple[Any, ...], what: str) -> Array:
    """Return nested lists as numpy does, if every value is unchanged: no numbers as text, no rounding."""
    kinds = _leaf_kinds(data)
    if any(issubclass(kind, np.ndarray) or hasattr(kind, "to_numpy") for kind in kinds):
        parts = [as_native(item, what) for item in data]
        if len({part.shape for part in parts}) > 1:
            raise ShapeError(f"{what}: items of shapes {shown([part.shape for part in parts])} do not form an array")
        return np.stack(alike(parts, what))
    if np.ma.core.MaskedConstant in kinds:
        raise _missing(what, "a value is masked", "give a value for it with .filled(value)")
    found = ([at for at, family in enumerate(_FAMILIES) if issubclass(kind, family)] for kind in kinds)
    families = {at for ats in found for at in ats[:1]}
    if len(families) > 1:
        listed = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise DtypeError(f"{what}: no dtype holds values of {listed} unchanged; convert them to one kind first")
    try:
        values = np.asarray(data)
    except ValueError as err:
        raise ShapeError(f"{what}: its items do not form an array: {err}") from err
    if values.dtype.kind in "fc" and any(issubclass(kind, (int, np.integer)) for kind in kinds):
        _require_whole(data, what, is_mixed=any(issubclass(kind, (float, complex, np.inexact)) for kind in kinds))
    if values.dtype.kind == "O" and not all(isinstance(value, int) for value in values.flat):
        raise _objects(values, what)
    if values.dtype.kind in "SU" and _end_in_zeros(data):
        if values.dtype.kind == "S":
            raise DtypeError(f"{what}: {BYTES_REMEDY}")
        return np.asarray(data, dtype=TEXT)
    if values.dtype.kind == "U" and values.nbytes > WIDE * _text_nbytes(values):
        return values.astype(TEXT)
    if values.dtype.kind in "mM":
        alike([np.asarray(leaf) for leaf in np.asarray(data, dtype=object).reshape(-1)], what)
    return values


def _end_in_zeros(data: list[Any] | tuple[Any, ...]) -> bool:
    """Return whether some texts or bytes end with a zero, which arrays of fixed length drop."""
    leaves = data if all(isinstance(text, (str, bytes)) for text in data) else np.asarray(data, object).reshape(-1)
    return any(text.endswith("\0" if isinstance(text, str) else b"\0") for text in leaves)


def _text_nbytes(texts: Array) -> int:
    """Return the bytes of variable-length texts: 16 each, as in `numpy.dtypes.StringDType`, or more."""
    return sum(max(16, len(text.encode(errors="replace"))) for text in texts.reshape(-1).tolist())


def _leaf_kinds(data: list[Any] | tuple[Any, ...]) -> set[type]:
    kinds = set(map(type, data))
    nested = kinds & {list, tuple}
    for item in data if nested else ():
        if type(item) in nested:
            kinds |= _leaf_kinds(item)
    return kinds - nested


def _require_whole(data: list[Any] | tuple[Any, ...], what: str, *, is_mixed: bool) -> None:
    """Refuse integers that become floats, unless there are floats among them and none is rounded."""
    for value in np.asarray(data, dtype=object).reshape(-1):
        if isinstance(value, (int, np.integer)) and (not is_mixed or int(float(value)) != int(value)):
            raise DtypeError(
                f"{what}: no integer dtype holds all values, and float64 may round them (found {value}); choose the "
                "dtype, as in np.asarray(data, dtype='f8')"
            )


def alike(parts: Sequence[Array], what: str = "") -> list[Array]:
    """Return arrays in one dtype that holds the values of all unchanged; those without values do not count.

    Parameters
    ----------
    parts : sequence of ndarray
        The arrays, of any shapes.
    what : str
        A name for the data, for messages.

    Raises
    ------
    DtypeError
        No dtype holds all values.

    Examples
    --------
    >>> [part.dtype.name for part in alike([np.array([1]), np.array([0.5]), np.array([], "c16")])]
    ['float64', 'float64', 'float64']
    """
    if len({part.dtype for part in parts}) == 1:
        return list(parts)
    before = f"{what}: " if what else ""
    first, *others = dict.fromkeys(part.dtype for part in parts if part.size) or [parts[0].dtype]
    try:
        dtype = reduce(combined, others, first)
    except DtypeError as err:
        raise DtypeError(f"{before}{err}") from err
    for part in parts if others else ():
        if not holds(dtype, part):
            raise DtypeError(f"{before}{dtype} would change values of {part.dtype}; convert them to one dtype first")
    return [part.astype(dtype, copy=False) if part.size else np.empty(part.shape, dtype) for part in parts]
