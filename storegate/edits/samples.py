"""Samples: whether rows that come with a coordinate belong to the samples beside which they would be stored."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from storegate.contents import has_variable, whole
from storegate.parsing import Labelled, Selection, is_dataarray
from storegate.reading import cut_out
from storegate_engine.errors import ArgumentError
from storegate_engine.orders import RowOrder
from storegate_engine.table import Table, Variable

__all__ = ["Place", "require_same_samples"]


@dataclass(frozen=True, slots=True)
class Place:
    """Where new rows go: the rows of ``order`` beside the selected rows of a phase."""

    phase: str
    """The phase, or ``all``."""
    order: RowOrder
    """The new rows that go there, in their order there."""
    selection: Selection | None = None
    """The rows beside which they go, None for all rows of the phase."""

    def rows_beside(self, table: Table, name: str) -> Variable | None:
        """Return the rows that a variable has there; None if it has none, or another number of them."""
        if not has_variable(table, self.phase, name):
            return None
        variable = whole(table, self.phase, name)
        if self.selection is not None:
            variable = cut_out(variable, self.selection)
        return variable if len(variable) == len(self.order) else None


def require_same_samples(
    table: Table, places: Sequence[Place], columns: Collection[str], labels: Mapping[str, Labelled]
) -> None:
    """Refuse arrays whose coordinate along the samples is not that of the rows beside which they would be stored.

    Parameters
    ----------
    table : Table
        The table.
    places : sequence of Place
        Where the new rows go.
    columns : collection of str
        The names of the new rows, of which one may be the coordinate.
    labels : mapping of str to Labelled
        The arrays of xarray among them.

    Raises
    ------
    ArgumentError
        The coordinate has other values, or the same in another order.
    """
    for name, label in labels.items():
        dim = str(label.about.dims[0]) if label.about.dims else ""
        if not is_dataarray(label.rows) or dim not in label.rows.coords or dim in columns:
            continue
        coordinate = label.rows.coords[dim]
        for place in places:
            known = place.rows_beside(table, dim)
            if known is not None and not _is_coordinate(known, coordinate, place.order):
                where = "" if place.selection is None else "the selected rows of "
                raise ArgumentError(
                    f"{name!r} has another coordinate {dim!r} than {where}phase {place.phase!r}, or another order of "
                    f"it, so that its rows belong to other samples; bring them in order, as in "
                    f"x.sel({dim}=gate.to_xarray({place.phase!r}).{dim}{'' if place.selection is None else '[rows]'}), "
                    f"or leave the coordinate out with x.drop_vars({dim!r})"
                )


COMPARED_ROWS = 2**16
"""Rows of a coordinate that are compared at a time."""


def _is_coordinate(known: Variable, coordinate: Any, order: RowOrder) -> bool:
    """Return whether rows are those of a coordinate, in an order."""
    categories = known.about.categories
    for lo in range(0, len(known), COMPARED_ROWS):
        hi = min(lo + COMPARED_ROWS, len(known))
        one, other = known.read(lo, hi), np.asarray(coordinate[order.rows(lo, hi)].values)
        if categories is not None and other.dtype.kind not in "iu":
            one = np.array([*categories, None], object)[one]  # -1 stands for a missing one
        if one.dtype.kind in "UT":
            one, other = one.astype(object), other.astype(object)
        if not np.array_equal(one, other, equal_nan={one.dtype.kind, other.dtype.kind} <= set("fcmM")):
            return False
    return True
