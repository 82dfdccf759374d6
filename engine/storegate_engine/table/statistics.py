"""Statistics: what is known of the values of a variable from those of its arrays; reads no rows.

Those of an array are of all its rows, before its transforms. A variable may show some of them, or several times, and
then they only bound what it shows.
"""

from __future__ import annotations

from typing import Any, NamedTuple, TypeAlias

import numpy as np

from storegate_engine.arrays import Statistics, joined
from storegate_engine.casts import overflows
from storegate_engine.table.pieces import Piece
from storegate_engine.table.transforms import ArgMax, Cast, OneHot, Transform, fold
from storegate_engine.table.variable import Variable

__all__ = ["KnownValues", "accepts", "known_of"]

DType: TypeAlias = np.dtype[Any]

_MAX_TICKS = np.iinfo(np.int64).max


class KnownValues(NamedTuple):
    """What is known of the values of a variable."""

    statistics: Statistics
    """Its statistics, if they are exact; else no value lies outside of them, and no count is larger."""
    is_exact: bool
    """Whether both ends are values of the variable, and the counts are right."""


def known_of(variable: Variable) -> KnownValues | None:
    """Return what is known of the values that a variable shows; None if nothing is."""
    if 0 in variable.shape:
        return KnownValues(Statistics(), True)
    first, stop = variable.order.bounds
    shows_all = variable.order.is_injective and stop - first == len(variable)
    found: list[Statistics] = []
    are_exact = []
    for piece, offset in zip(variable.pieces, variable.offsets, strict=False):
        if not max(first, offset) < min(stop, offset + piece.n_rows):
            continue
        known = _known_of_piece(piece)
        if known is None:
            return None
        is_whole = piece.n_rows == piece.array.n_rows and first <= offset and offset + piece.n_rows <= stop
        found.append(known.statistics)
        are_exact.append(known.is_exact and ((shows_all and is_whole) or _is_alike(known.statistics)))
    both = joined(found)
    is_exact = all(are_exact) and (shows_all or len(found) == 1)  # else a piece may not be shown at all
    return None if both is None else KnownValues(both, is_exact)


def _is_alike(found: Statistics) -> bool:
    """Return whether all values are equal, so that any of them have these statistics."""
    return found.least is not None and repr(found.least) == repr(found.most) and not found.n_missing | found.n_infinite


def _known_of_piece(piece: Piece) -> KnownValues | None:
    """Return what is known of all rows of the array of a piece, after the transforms."""
    found, is_exact = piece.array.statistics, True
    dtype, row_shape = piece.array.dtype, piece.array.row_shape
    for transform in piece.transforms:
        after = fold((transform,), dtype, row_shape)
        match transform:
            case OneHot(num_classes):
                if found is None or not _lie_within(found, num_classes):
                    return None  # some labels may not be classes, which reading tells
                found, is_exact = Statistics(1.0 if num_classes == 1 else 0.0, 1.0), True
            case ArgMax(axis):
                size = row_shape[axis % (len(row_shape) + 1) - 1]
                found, is_exact = Statistics(0, size - 1), size == 1
            case Cast() if found is not None:
                found = found.cast(dtype, after[0])
            case _:
                found = None
        dtype, row_shape = after
    return None if found is None else KnownValues(found, is_exact)


def accepts(transform: Transform, variable: Variable) -> bool | None:
    """Return whether a transform can be applied to every value of a variable; None if its rows must tell."""
    match transform:
        case OneHot(num_classes):
            if _lie_within(_limits(variable.dtype), num_classes):
                return True
            known = known_of(variable)
            if known is not None and _lie_within(known.statistics, num_classes):
                return True
            return False if known is not None and known.is_exact else None
        case Cast(dtype):
            return _casts(variable, dtype)
    return True


def _limits(dtype: DType) -> Statistics:
    """Return the ends of all values that an integer dtype or bool has."""
    if dtype.kind == "b":
        return Statistics(0, 1)
    return Statistics(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max))


def _lie_within(found: Statistics, num_classes: int) -> bool:
    """Return whether labels are classes, if there are any."""
    return found.least is None or found.most is None or (found.least >= 0 and found.most < num_classes)


def _casts(variable: Variable, dtype: DType) -> bool | None:
    old = variable.dtype
    if old.kind in "UST" and old != dtype:
        return True if old.kind == dtype.kind or {old.kind, dtype.kind} == {"U", "T"} else None
    if old.kind == "M" and dtype.kind in "SU" and dtype.itemsize:
        return None  # numpy refuses a width that is too small
    if old.kind not in "mM" or not overflows(dtype, np.array([_MAX_TICKS]).view(old)):
        return True
    known = known_of(variable)
    if known is None:
        return None
    ends = known.statistics.extremes(old)
    return True if ends is None or not overflows(dtype, ends) else None
