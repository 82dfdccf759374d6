"""Checks: a transform can be applied to every row that a variable shows; otherwise it is refused before the change.

What is known of the values decides, if it can, without reading. Otherwise the rows are read once, within the budget.
"""

from __future__ import annotations

import contextlib
from typing import Any, TypeAlias

import numpy as np

from storegate.reading import all_rows
from storegate_engine.arrays import Tally
from storegate_engine.errors import ConversionError, DtypeError, LabelError, ShapeError
from storegate_engine.table import OneHot, Transform, Variable, accepts

__all__ = ["require_applicable"]

Array: TypeAlias = np.ndarray[Any, Any]


def require_applicable(transform: Transform, variable: Variable, phase: str, budget_nbytes: int) -> None:
    """Refuse a transform after which a row of a variable could not be read.

    Raises
    ------
    LabelError
        A label is not one of the classes; the error has the first one and its row.
    ConversionError
        A value cannot be cast.
    DtypeError, ShapeError
        The transform cannot be applied to any rows of this dtype or shape.
    """
    where = f"variable {variable.name!r} of phase {phase!r}"
    try:
        after = variable.transformed(transform)
    except DtypeError as err:
        raise DtypeError(f"{where}: {err}") from err
    except ShapeError as err:
        raise ShapeError(f"{where}: {err}") from err
    if accepts(transform, variable):
        return
    if isinstance(transform, OneHot):
        _require_labels(transform, variable, phase, budget_nbytes)
        return
    first, stop = variable.order.bounds if len(variable) else (0, 0)
    if not variable.order.is_injective or stop - first > len(variable):
        with contextlib.suppress(ConversionError):  # in stored order, which is fast; but other rows may be to blame
            _read(after.stored_rows().cut(first, stop), budget_nbytes)
            return
    try:
        _read(after, budget_nbytes)
    except ConversionError as err:
        raise ConversionError(f"{where} cannot be cast to {after.dtype}: {err}; nothing was changed") from err


def _read(variable: Variable, budget_nbytes: int) -> None:
    for _ in all_rows(variable, budget_nbytes):
        pass


def _require_labels(onehot: OneHot, variable: Variable, phase: str, budget_nbytes: int) -> None:
    """Read the stored rows in order, and refuse labels of rows that are shown."""
    order, (first, stop) = variable.order, variable.order.bounds
    in_order = order.is_injective
    tally, bad_row, bad_label = Tally(variable.dtype), len(variable), 0
    read = variable.stored_rows().cut(first, stop) if in_order else variable
    done = first if in_order else 0
    for rows in all_rows(read, budget_nbytes):
        labels = rows.reshape(len(rows), -1)
        is_bad = (labels < 0) | (labels >= onehot.num_classes)
        at = np.flatnonzero(is_bad.any(axis=1))
        logical = order.find(done + at) if in_order else done + at
        done += len(rows)
        at, logical = at[logical >= 0], logical[logical >= 0]
        if not len(at):
            continue
        tally.add(labels[at][is_bad[at]])
        earliest = int(np.argmin(logical))
        if int(logical[earliest]) < bad_row:
            bad_row, row = int(logical[earliest]), at[earliest]
            bad_label = int(labels[row][np.argmax(is_bad[row])])
    found = tally.found()
    if found.least is None or found.most is None:
        return
    ends = [f"the smallest label is {found.least}"] if found.least < 0 else []
    ends += [f"the largest label is {found.most}"] if found.most >= onehot.num_classes else []
    remedy = (
        "correct the labels" if found.least < 0 else f"give num_classes={int(found.most) + 1}, or correct the labels"
    )
    raise LabelError(
        f"onehot with num_classes={onehot.num_classes} takes labels 0..{onehot.num_classes - 1}, found {bad_label}; in "
        f"phase {phase!r} {' and '.join(ends)}: {remedy}; nothing was changed",
        row=bad_row,
        label=bad_label,
        variable=variable.name,
    )
