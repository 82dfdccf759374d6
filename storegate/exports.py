"""Exports: rows as tables of other libraries, some megabytes at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate.reading import blocks_in_order
from storegate_engine.casts import holds, overflows
from storegate_engine.errors import DtypeError, ShapeError
from storegate_engine.exchange import task_nbytes
from storegate_engine.optional import require_package
from storegate_engine.ragged import Ragged
from storegate_engine.table import Variable

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["arrow_reader", "pandas_frame"]

Array: TypeAlias = np.ndarray[Any, Any]

BATCH_NBYTES = 64 * 2**20
"""Most bytes of a record batch; the memory of a task may lower it."""

_ARROW_UNITS = ("s", "ms", "us", "ns")


def arrow_reader(
    variables: Sequence[Variable], budget_nbytes: int, *, tensors: bool = True, seconds: bool = True
) -> Any:
    """Return a ``pyarrow.RecordBatchReader`` of variables, which reads rows as batches are requested.

    Rows of several values are fixed-shape tensors, or else nested lists; codes of categories are dictionaries. Times
    in ``seconds`` become milliseconds for what knows nothing longer.

    Raises
    ------
    ModuleNotFoundError
        pyarrow is not installed.
    ShapeError
        The variables have different numbers of rows.
    DtypeError
        Arrow has no type for a dtype; or, when rows are read, none that holds a time.
    """
    pa = require_package("pyarrow", "arrow", "a table of Arrow")
    _n_rows(variables)  # refuses different numbers
    longest = "s" if seconds else "ms"
    schema = pa.schema([(variable.name, _type(pa, variable, tensors, longest)) for variable in variables])
    limit = min(BATCH_NBYTES, task_nbytes(budget_nbytes, 1))
    step = max(1, limit // max(1, sum(variable.row_nbytes for variable in variables)))

    def batches() -> Iterator[Any]:
        for blocks in blocks_in_order(variables, step, budget_nbytes):
            pairs = zip(variables, blocks, strict=True)
            arrays = [_array(pa, variable, rows, tensors, longest) for variable, rows in pairs]
            yield pa.record_batch(arrays, schema=schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def pandas_frame(variables: Sequence[Variable], n: int | None) -> pd.DataFrame:
    """Return the first rows of variables, or all, as a frame; rows of several values become arrays in a column."""
    import pandas as pd  # deferred on purpose: it takes a third of a second

    names = [variable.name for variable in variables]
    if len(set(names)) < len(names):
        raise ShapeError(f"a frame has one column for each name; found {names}")
    n_rows = _n_rows(variables) if n is None else min(n, _n_rows(variables))
    columns: dict[str, Any] = {}
    for variable in variables:
        _require_length(variable)
        values = variable.read(0, n_rows)
        if isinstance(values, Ragged):
            columns[variable.name] = pd.Series(list(values), dtype=object)
            continue
        if variable.about.categories is not None:
            codes: Any = _codes(variable, values)
            dtype = pd.CategoricalDtype(list(variable.about.categories), ordered=variable.about.is_ordered)
            columns[variable.name] = pd.Categorical.from_codes(codes, dtype=dtype)
        elif values.ndim > 1:
            columns[variable.name] = pd.Series(list(values), dtype=object)
        elif values.dtype.kind in "UT":
            columns[variable.name] = pd.Series(values.astype(object))
        else:
            columns[variable.name] = values
    return pd.DataFrame(columns, index=pd.RangeIndex(n_rows))


def _n_rows(variables: Sequence[Variable]) -> int:
    counts = {variable.name: len(variable) for variable in variables}
    if len(set(counts.values())) > 1:
        raise ShapeError(f"the variables of a table need equal numbers of rows; found {counts}")
    return next(iter(counts.values()), 0)


def _codes(variable: Variable, codes: Array) -> Array:
    """Return codes after a check that each has a category: rows may have been assigned as plain numbers."""
    n = len(variable.about.categories or ())
    if len(codes) and not 0 <= codes.min() <= codes.max() < n:
        raise DtypeError(
            f"variable {variable.name!r} has {n} categories, and codes from {codes.min()} to {codes.max()}; assign "
            "codes in that range, or delete and add the variable"
        )
    return codes


def _type(pa: Any, variable: Variable, tensors: bool, longest: str) -> Any:
    """Return the Arrow type of a variable's rows."""
    if variable.about.categories is not None:
        value = pa.array(list(variable.about.categories)).type
        return pa.dictionary(pa.int32(), value, ordered=variable.about.is_ordered)
    if variable.kind == "sparse":
        raise DtypeError(
            f"variable {variable.name!r} holds rows of a sparse matrix, which tables do not have; take it alone, as in "
            f"gate[phase][{variable.name!r}][:], and the others as a table"
        )
    if variable.kind == "ragged":
        return pa.large_list(_type(pa, variable.sources[0], False, longest))
    kind = variable.dtype.kind
    if kind == "c":
        raise DtypeError(
            f"variable {variable.name!r} is {variable.dtype}, and Arrow has no complex numbers; leave it out, as in "
            "gate[phase][names].to_arrow(), or store real and imaginary parts"
        )
    if kind in "UT":
        value = pa.string()
    elif kind in "SV":
        value = pa.binary()
    else:
        value = pa.from_numpy_dtype(_storable(variable, longest))
    if _is_date(variable.dtype):
        value = pa.date32()
    if not variable.row_shape:
        return value
    if not tensors or kind in "UTSV" or 0 in variable.row_shape:
        for size in reversed(variable.row_shape):
            value = pa.list_(value, size) if size else pa.list_(value)  # polars fails on fixed lists of nothing
        return value
    return pa.fixed_shape_tensor(value, variable.row_shape)


def _require_length(variable: Variable) -> None:
    """Refuse durations of months, which pandas would take for 30.4 days, rounded."""
    if variable.dtype.kind == "m" and np.datetime_data(variable.dtype)[0] in ("M", "Y"):
        raise DtypeError(
            f"variable {variable.name!r} is {variable.dtype}, and months have no length; cast it to int64 first"
        )


def _is_date(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "M" and np.datetime_data(dtype)[0] in ("D", "W", "M", "Y")


def _storable(variable: Variable, longest: str) -> np.dtype[Any]:
    """Return the dtype to give to Arrow: times in days, or in the ``longest`` unit of seconds or shorter ones."""
    dtype = variable.dtype
    if dtype.kind not in "mM" or np.datetime_data(dtype)[0] in _ARROW_UNITS[_ARROW_UNITS.index(longest) :]:
        return dtype
    _require_length(variable)
    return np.dtype("M8[D]" if _is_date(dtype) else f"{dtype.kind}8[{longest}]")


def _times(pa: Any, variable: Variable, values: Array, dtype: np.dtype[Any]) -> Any:
    """Return times in the unit of Arrow; NaT is null.

    Raises
    ------
    DtypeError
        Arrow has no such time in its unit.
    """
    is_null = np.isnat(values)
    ticks = np.where(is_null, np.zeros((), values.dtype), values)  # what lies under a null is read by some
    found = ticks.astype(dtype) if not overflows(dtype, ticks) else None
    if found is None or (_is_date(dtype) and len(found) and not holds(np.dtype("i4"), found.view("i8"))):
        raise DtypeError(
            f"variable {variable.name!r} is {variable.dtype}, and has times between {ticks.min()} and {ticks.max()}, "
            f"outside the range of Arrow's {'dates' if _is_date(dtype) else f'times in {np.datetime_data(dtype)[0]}'}"
        )
    return pa.array(found, mask=is_null if is_null.any() else None)


def _array(pa: Any, variable: Variable, values: Any, tensors: bool, longest: str) -> Any:
    """Return rows as an Arrow array of the type given by :func:`_type`."""
    if variable.about.categories is not None:
        codes = pa.array(_codes(variable, values).astype(np.int32))
        known = pa.array(list(variable.about.categories))
        return pa.DictionaryArray.from_arrays(codes, known, ordered=variable.about.is_ordered)
    if isinstance(values, Ragged):
        items = _array(pa, variable.sources[0], values.flat, False, longest)
        return pa.LargeListArray.from_arrays(pa.array(values.offsets - values.offsets[0]), items)
    flat = values.reshape(-1)
    if values.dtype.kind in "UTSV":
        array = pa.array(flat.astype(object).tolist(), pa.string() if values.dtype.kind in "UT" else pa.binary())
    elif values.dtype.kind in "mM":
        array = _times(pa, variable, flat, _storable(variable, longest))
    else:
        array = pa.array(flat)
    if not variable.row_shape:
        return array
    kind = _type(pa, variable, tensors, longest)
    if isinstance(kind, pa.FixedShapeTensorType):
        stored = pa.FixedSizeListArray.from_arrays(array, int(np.prod(variable.row_shape)))
        return pa.ExtensionArray.from_storage(kind, stored)
    for axis in range(len(variable.row_shape))[::-1]:
        size = variable.row_shape[axis]
        if size:
            array = pa.FixedSizeListArray.from_arrays(array, size)
        else:  # lists without items do not say how many they are
            array = pa.array([[]] * int(np.prod((len(values), *variable.row_shape[:axis]))), pa.list_(array.type))
    return array
