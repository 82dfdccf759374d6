"""Conversions: in which dtype new rows and those of a variable lie together; reads rows where dtypes do not tell.

No stored value changes: a column widens only where all its values, and all new ones, stay what they are.
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
"""Rows that are looked at together."""


def require_combinable(name: str, old: DType, new: DType) -> None:
    """Refuse rows of a dtype that no row of a variable can lie with, before any is written.

    Raises
    ------
    DtypeError
        Text for numbers, durations for dates, and the like.
    """
    _common(name, old, new)


def _common(name: str, old: DType, new: DType) -> DType:
    if is_float_of_integers(old, new) or (old.kind, new.kind) == ("S", "T"):
        return old  # none holds all of both; what the variable is may hold these
    try:
        return combined(old, new)
    except DtypeError as err:
        raise DtypeError(f"variable {name!r}: {err}") from err


def appended_dtype(old: Variable, new: Variable) -> DType:
    """Return the dtype of a variable with new rows behind its own: the one that both combine to.

    Raises
    ------
    DtypeError
        A value of either would change.
    """
    dtype = _common(old.name, old.dtype, new.dtype)
    _require_kept(old, new, dtype)
    return dtype


def updated_dtype(old: Variable, new: Variable) -> DType:
    """Return the dtype of a variable some of whose rows are replaced: its own, where the new values are in it.

    Floats are rounded to narrower ones, unless they would become infinite.

    Raises
    ------
    DtypeError
        The variable cannot hold a new value, and would not keep those that it has in a wider dtype.
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
    """Return whether every row of a variable stays what it is under another dtype."""
    if holds_all(dtype, variable.dtype):
        return True
    stored = variable.stored_rows()
    if stored.order != variable.order:
        # in the order in which they lie, which is fast; a row that was replaced may be the only culprit
        with contextlib.suppress(LabelError):
            if all(holds(dtype, rows) for rows in _scanned(stored)):
                return True
    return all(holds(dtype, rows) for rows in _scanned(variable))


def _scanned(variable: Variable) -> Iterator[np.ndarray[Any, Any]]:
    step = max(1, SCAN_NBYTES // variable.row_nbytes)
    return (variable.read(lo, min(lo + step, len(variable))) for lo in range(0, len(variable), step))


def _is_rounding(old: DType, new: DType) -> bool:
    return old.kind in "fc" and new.kind in "fc" and np.can_cast(new, old, "same_kind")


def _stays_finite(dtype: DType, rows: np.ndarray[Any, Any]) -> bool:
    with np.errstate(all="ignore"):
        return bool((np.isfinite(rows.astype(dtype)) | ~np.isfinite(rows)).all())


def _require_kept(old: Variable, new: Variable, dtype: DType) -> None:
    for variable, what in ((old, "rows that are there"), (new, "new rows")):
        if not keeps(variable, dtype):
            raise DtypeError(
                f"variable {old.name!r} is {old.dtype}, the new rows are {new.dtype}, and {dtype} would change values "
                f"of the {what}; cast one of them first: gate.astype({old.name!r}, dtype), or data.astype(dtype)"
            )
