"""NetCDF: what the files of NetCDF4, which are HDF5, say about their arrays; reads coordinates, but no rows.

The sample axis is the dimension with which all data variables begin, or else the only unlimited one. Arrays without it,
such as the latitudes of a grid, are kept once for all rows. Numbers that mean times or missing values become these
while they are copied, see `cf_values`; what is packed is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from storegate.parsing import Labelled, Whole
from storegate.readers.cf_values import CODED, MISSING, Filled, is_decoded, require_not_packed, rows_of, values_of
from storegate_engine.arrays import open_to_read
from storegate_engine.errors import DtypeError, ShapeError
from storegate_engine.names import validate_name
from storegate_engine.optional import require_package
from storegate_engine.table import Description, attributes_of

__all__ = ["is_size", "labels_in", "labels_of_group"]

Array: TypeAlias = np.ndarray[Any, Any]

INTERNAL = (
    "CLASS",
    "DIMENSION_LABELS",
    "DIMENSION_LIST",
    "NAME",
    "REFERENCE_LIST",
    "_NCProperties",
    "_Netcdf4Coordinates",
    "_Netcdf4Dimid",
    "_nc3_strict",
)
"""Attributes of the format itself."""
NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
"""What NetCDF4 calls a dataset that is only the size of a dimension."""


def labels_in(path: str, group: str, names: Sequence[str] | None) -> dict[str, Labelled]:
    """Return what a file says about arrays of a group that are read where they are; nothing if it is not of NetCDF.

    Raises
    ------
    DtypeError
        Numbers of a variable stand for other ones, or for missing values.
    """
    h5py = require_package("h5py", "hdf5", path)
    with h5py.File(open_to_read(path), "r") as file:
        found = file[group or "/"]
        labels = {} if hasattr(found, "dtype") else labels_of_group(found, names, in_place=True)
        for name, label in labels.items():
            if isinstance(label.rows, Filled):
                raise DtypeError(
                    f"variable {name!r} of {path} has {label.rows.missing[0]} for missing values, which are not "
                    "converted in place; copy it with gate.read"
                )
        return labels


def labels_of_group(group: Any, names: Sequence[str] | None, *, in_place: bool = False) -> dict[str, Labelled]:
    """Return the arrays of a group of h5py along its sample axis, with their labels; nothing if it is not of NetCDF.

    Rows that stay ``in_place`` are the numbers of the file, and keep the attributes that say what these mean.

    Raises
    ------
    ShapeError
        There is no one sample axis, or it does not come first in an array.
    DtypeError
        An array is stored as other numbers than it means.
    """
    items = {name: item for name, item in group.items() if hasattr(item, "dtype")}
    if not any("DIMENSION_LIST" in item.attrs or _is_scale(item) for item in items.values()):
        return {}
    sizes = {name: item for name, item in items.items() if is_size(item)}
    ids = {item.attrs["_Netcdf4Dimid"]: name for name, item in items.items() if "_Netcdf4Dimid" in item.attrs}
    dims = {name: _dims(item, name, ids) for name, item in items.items() if name not in sizes}
    if any(found is None for found in dims.values()):
        return {}
    known: dict[str, tuple[str, ...]] = {name: found for name, found in dims.items() if found is not None}
    coordinates = _coordinates(group, items, known)
    wanted = [name for name in known if name not in coordinates] if names is None else [*names]
    if any(name not in known for name in wanted):
        return {}  # who asks for them says that they are not there
    dim = _sample_dim(known, wanted, items, is_given=names is not None)
    along = [name for name, found in known.items() if dim in found]
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
    attrs = {name: _attributes(items[name]) for name in (*chosen, *shared)}
    rows = {name: rows_of(name, items[name], attrs[name], decode=not in_place or name not in chosen) for name in attrs}
    abouts = {
        name: _about(items[name], name, known[name], coordinates, attrs[name], is_decoded(rows[name])) for name in attrs
    }
    whole = Whole(
        attributes_of(_attributes(group), "the file"),
        {name: _Values(values_of(items[name], rows[name])) for name in shared},
        {validate_name(name): abouts[name] for name in shared},
    )
    return {name: Labelled(rows[name], abouts[name], whole) for name in chosen}


def is_size(item: Any) -> bool:
    """Return whether a dataset is only the size of a dimension of NetCDF."""
    name = item.attrs.get("NAME", b"")
    return (name.encode() if isinstance(name, str) else bytes(name)).startswith(NO_VARIABLE)


def _is_scale(item: Any) -> bool:
    return _text(item.attrs.get("CLASS", "")) == "DIMENSION_SCALE"


def _dims(item: Any, name: str, ids: Mapping[int, str]) -> tuple[str, ...] | None:
    """Return the names of the dimensions of an array, None if some have none."""
    if _is_scale(item):
        if item.ndim == 1:
            return (name,)
        return (
            tuple(ids[at] for at in item.attrs["_Netcdf4Coordinates"]) if "_Netcdf4Coordinates" in item.attrs else None
        )
    scales = [axis[0].name.rpartition("/")[2] if len(axis) else None for axis in item.dims]
    return None if None in scales else tuple(str(scale) for scale in scales)


def _coordinates(group: Any, items: Mapping[str, Any], dims: Mapping[str, tuple[str, ...]]) -> set[str]:
    """Return the arrays that have the name of a dimension, or are named as coordinates by others."""
    named = {name for holder in (group, *items.values()) for name in _text(holder.attrs.get("coordinates", "")).split()}
    of_dims = {name for found in dims.values() for name in found}
    return {name for name in dims if name in named or name in of_dims}


def _sample_dim(
    dims: Mapping[str, tuple[str, ...]], wanted: Iterable[str], items: Mapping[str, Any], *, is_given: bool
) -> str:
    firsts = {name: dims[name][:1] for name in wanted}
    found = {first for first in firsts.values() if first or is_given}
    if len(found) > 1 and not is_given:
        unlimited = {name for name in items if _is_scale(items[name]) and items[name].maxshape[:1] == (None,)}
        found = {first for first in found if first[0] in unlimited}
    if len(found) == 1 and () not in found:
        return found.pop()[0]
    listed = ", ".join(f"{name}: {dims[name]}" for name in firsts)
    raise ShapeError(
        f"the variables do not all begin with the same dimension ({listed}); choose those of the samples by var_names"
    )


def _about(
    item: Any, name: str, dims: tuple[str, ...], coordinates: set[str], attributes: Mapping[str, Any], decoded: bool
) -> Description:
    require_not_packed(name, item)
    over = (*MISSING, *CODED) if decoded else MISSING
    attrs = {key: value for key, value in attributes.items() if key not in over}
    names = tuple(validate_name(dim, "dimension") for dim in dims)
    return Description(dims=names, attrs=attributes_of(attrs, f"variable {name!r}"), is_coordinate=name in coordinates)


def _attributes(holder: Any) -> dict[str, Any]:
    """Return attributes as xarray has them: single values as such, texts as text; coordinates are known otherwise."""
    found: dict[str, Any] = {}
    for key, value in holder.attrs.items():
        if key in INTERNAL or key == "coordinates":
            continue
        if isinstance(value, np.ndarray) and value.shape == (1,):
            value = value[0]
        if isinstance(value, np.ndarray) and value.dtype.kind in "OS":
            value = [_text(one) for one in value.tolist()]
        is_text = isinstance(value, (str, bytes)) or type(value).__name__ == "Empty"
        found[key] = _text(value) if is_text else value
    return found


def _text(value: Any) -> str:
    if isinstance(value, np.ndarray):
        value = value.reshape(-1)[0] if value.size else ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value if isinstance(value, str) else ""


@dataclass(frozen=True, slots=True, eq=False)
class _Values:
    """An array without samples."""

    values: Array
