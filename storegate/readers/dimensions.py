"""Dimensions: arrays of a file whose axes have names, as NetCDF4 and xarray write them; knows no format.

The sample axis is the dimension with which all data variables begin, or else the only unlimited one. Arrays without it,
such as the latitudes of a grid, are kept once for all rows. Numbers that mean times or missing values become these
while they are copied, see `cf_values`; what is packed is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from storegate.parsing import Labelled, Whole
from storegate.readers.cf_values import (
    CODED,
    ENCODING,
    MISSING,
    Filled,
    is_decoded,
    joined_of,
    require_not_packed,
    require_readable_in_place,
    rows_of,
    values_of,
)
from storegate_engine.errors import DtypeError, ShapeError
from storegate_engine.names import validate_name
from storegate_engine.table import Description, attributes_of

__all__ = ["NamedArrays", "labels_of", "require_none_filled"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class NamedArrays:
    """The arrays of a group, and what the file says about them."""

    items: Mapping[str, Any]
    """The arrays, which are read by slices."""
    dims: Mapping[str, tuple[str, ...]]
    """The names of the axes of each."""
    attrs_of: Callable[[str], Mapping[str, Any]]
    """Returns the attributes of one, as xarray has them; those of arrays that nobody wants are not read."""
    group_attrs: Mapping[str, Any]
    """Those of the group."""
    named: frozenset[str]
    """The arrays that others, or the group, call coordinates."""
    unlimited: frozenset[str] = frozenset()
    """The dimensions that may grow."""

    @property
    def coordinates(self) -> set[str]:
        """The arrays that have the name of a dimension, or are named as coordinates."""
        of_dims = {name for found in self.dims.values() for name in found}
        return {name for name in self.dims if name in self.named or name in of_dims}


def labels_of(found: NamedArrays, names: Sequence[str] | None, *, in_place: bool = False) -> dict[str, Labelled]:
    """Return arrays along the sample axis, with their labels; nothing if some that are asked for are not there.

    Rows that stay ``in_place`` are the numbers of the file, and keep the attributes that say what these mean.

    Raises
    ------
    ShapeError
        There is no one sample axis, or it does not come first in an array.
    DtypeError
        An array is stored as other numbers than it means.
    """
    items, known, coordinates = found.items, found.dims, found.coordinates
    wanted = [name for name in known if name not in coordinates] if names is None else [*names]
    if any(name not in known for name in wanted):
        return {}  # who asks for them says that they are not there
    dim = _sample_dim(known, wanted, found.unlimited, is_given=names is not None)
    along = [name for name, dims in known.items() if dim in dims]
    chosen = along if names is None else wanted
    for name in chosen:
        if known[name][:1] != (dim,):
            raise ShapeError(
                f"variable {name!r} has dimensions {known[name]}, and samples lie along {dim!r}; choose others by "
                "name, or transpose it, as in add_data(xarray.open_dataset(path).transpose(...))"
            )
    used = {of for name in chosen for of in known[name]}
    shared = [
        name
        for name in known
        if name not in along and (names is None or (name in coordinates and used.issuperset(known[name])))
    ]
    attrs = {name: found.attrs_of(name) for name in (*chosen, *shared)}
    rows: dict[str, Any] = {}
    for name, of in attrs.items():
        decode = not in_place or name not in chosen
        joined = joined_of(name, items[name], of)
        if not decode:
            require_readable_in_place(name, items[name], of, joined)
        rows[name] = rows_of(name, items[name], of, decode=decode) if joined is None else joined
    abouts = {}
    for name in attrs:
        require_not_packed(name, items[name])
        dims = known[name][: len(rows[name].shape)]
        abouts[name] = _about(name, dims, coordinates, attrs[name], is_decoded(rows[name]))
    whole = Whole(
        attributes_of(found.group_attrs, "the file"),
        {name: _Values(values_of(items[name], rows[name])) for name in shared},
        {validate_name(name): abouts[name] for name in shared},
    )
    return {name: Labelled(rows[name], abouts[name], whole) for name in chosen}


def require_none_filled(labels: Mapping[str, Labelled], path: str) -> None:
    """Refuse numbers that stand for missing values in rows that stay in their file.

    Raises
    ------
    DtypeError
        There are some.
    """
    for name, label in labels.items():
        if isinstance(label.rows, Filled):
            raise DtypeError(
                f"variable {name!r} of {path} has {label.rows.missing[0]} for missing values, which are not "
                "converted in place; copy it with gate.read"
            )


def _sample_dim(
    dims: Mapping[str, tuple[str, ...]], wanted: Iterable[str], unlimited: frozenset[str], *, is_given: bool
) -> str:
    firsts = {name: dims[name][:1] for name in wanted}
    found = {first for first in firsts.values() if first or is_given}
    if len(found) > 1 and not is_given:
        found = {first for first in found if first[0] in unlimited}
    if len(found) == 1 and () not in found:
        return found.pop()[0]
    listed = ", ".join(f"{name}: {dims[name]}" for name in firsts)
    raise ShapeError(
        f"the variables do not all begin with the same dimension ({listed}); choose those of the samples by var_names"
    )


def _about(
    name: str, dims: tuple[str, ...], coordinates: set[str], attributes: Mapping[str, Any], decoded: bool
) -> Description:
    over = (*MISSING, *CODED, ENCODING) if decoded else MISSING
    attrs = {key: value for key, value in attributes.items() if key not in over}
    names = tuple(validate_name(dim, "dimension") for dim in dims)
    return Description(dims=names, attrs=attributes_of(attrs, f"variable {name!r}"), is_coordinate=name in coordinates)


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """An array without samples."""

    values: Array
