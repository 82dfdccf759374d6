"""Conversions: the common dtype of new rows and those of a variable; reads rows if dtypes do not decide.

No stored value changes: a column widens only if all its values, and all new ones, are unchanged.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.casts import combined, holds, holds_all, is_float_of_integers
from storegate_engine.errors import DtypeError, LabelError
from storegate_engine.table.variable import Variable

__all__ = ["appended_dtype", "keeps", "require_combinable", "updated_dtype"]

DType: TypeAlias = np.dtype[Any]

SCAN_NBYTES = 4 * 2**20
"""Number of rows that are checked together."""


def require_combinable(name: str, old: DType, new: DType) -> None:
    """Refuse rows of a dtype that has no common dtype with the variable, before anything is written.

    Raises
    ------
    DtypeError
        The dtypes have no common one: text and numbers, durations and dates.
    """
    _common(name, old, new)


def _common(name: str, old: DType, new: DType) -> DType:
    if is_float_of_integers(old, new) or (old.kind, new.kind) == ("S", "T"):
        return old  # no dtype holds all values of both; the variable's own may hold these
    try:
        return combined(old, new)
    except DtypeError as err:
        raise DtypeError(f"variable {name!r}: {err}") from err


def appended_dtype(old: Variable, new: Variable) -> DType:
    """Return the dtype of a variable after rows are appended: the common one.

    Raises
    ------
    DtypeError
        A value of either would change.
    """
    dtype = _common(old.name, old.dtype, new.dtype)
    _require_kept(old, new, dtype)
    return dtype


def updated_dtype(old: Variable, new: Variable) -> DType:
    """Return the dtype of a variable after rows are replaced: its own, if it holds the new values.

    Floats are rounded to narrower ones, unless they would become infinite.

    Raises
    ------
    DtypeError
        The variable cannot hold a new value, and a wider dtype would change its own values.
    """
    dtype = _common(old.name, old.dtype, new.dtype)
    if _is_rounding(old.dtype, new.dtype):
        if all(_stays_finite(old.dtype, rows) for rows in _scanned(new)):
            return old.dtype
    elif keeps(new, old.dtype):
        return old.dtype
    _require_kept(old, new, dtype)
    return dtype


def keeps(variable: Variable, dtype: DType) -> bool:
    """Return whether every row of a variable is unchanged by another dtype."""
    if holds_all(dtype, variable.dtype):
        return True
    stored = variable.stored_rows()
    if stored.order != variable.order:
        # in stored order, which is fast; but a row that was replaced may be the only culprit
        with contextlib.suppress(LabelError):
            if all(holds(dtype, rows) for rows in _scanned(stored)):
                return True
    return all(holds(dtype, rows) for rows in _scanned(variable))


def _scanned(variable: Variable) -> Iterator[np.ndarray[Any, Any]]:
    step = max(1, SCAN_NBYTES // variable.row_nbytes)
    for lo in range(0, len(variable), step):
        rows = variable.read(lo, min(lo + step, len(variable)))
        yield rows if variable.kind == "dense" else rows.flat


def _is_rounding(old: DType, new: DType) -> bool:
    return old.kind in "fc" and new.kind in "fc" and np.can_cast(new, old, "same_kind")


def _stays_finite(dtype: DType, rows: np.ndarray[Any, Any]) -> bool:
    with np.errstate(all="ignore"):
        return bool((np.isfinite(rows.astype(dtype)) | ~np.isfinite(rows)).all())


def _require_kept(old: Variable, new: Variable, dtype: DType) -> None:
    for variable, what in ((old, "old rows"), (new, "new rows")):
        if not keeps(variable, dtype):
            raise DtypeError(
                f"variable {old.name!r} is {old.dtype}, the new rows are {new.dtype}, and {dtype} would change values "
                f"of the {what}; cast one of them first: gate.astype({old.name!r}, dtype), or data.astype(dtype)"
            )
