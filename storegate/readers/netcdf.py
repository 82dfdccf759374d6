"""NetCDF: the arrays of NetCDF4 files, which are HDF5, with their dimensions and attributes; reads no rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from storegate.parsing import Labelled
from storegate.readers.dimensions import NamedArrays, labels_of
from storegate_engine.arrays import name_in_netcdf, open_to_read
from storegate_engine.optional import require_package

__all__ = ["is_size", "labels_in_place", "labels_of_group"]

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


def labels_in_place(path: str, group: str, names: Sequence[str] | None) -> dict[str, Labelled]:
    """Return what a file says about arrays of a group that are read where they are; nothing if it is not of NetCDF."""
    h5py = require_package("h5py", "hdf5", path)
    with h5py.File(open_to_read(path), "r") as file:
        found = file[group or "/"]
        return {} if hasattr(found, "dtype") else labels_of_group(found, names, in_place=True)


def labels_of_group(group: Any, names: Sequence[str] | None, *, in_place: bool = False) -> dict[str, Labelled]:
    """Return the arrays of a group of h5py along its sample axis, see `labels_of`; nothing if it is not of NetCDF."""
    items = {name_in_netcdf(name): item for name, item in group.items() if hasattr(item, "shape")}
    if not any("DIMENSION_LIST" in item.attrs or _is_scale(item) for item in items.values()):
        return {}
    ids = {item.attrs["_Netcdf4Dimid"]: name for name, item in items.items() if "_Netcdf4Dimid" in item.attrs}
    dims = {name: _dims(item, name, ids) for name, item in items.items() if not is_size(item)}
    known = {name: found for name, found in dims.items() if found is not None}
    if len(known) < len(dims):
        return {}
    holders = (group, *items.values())
    named = frozenset(name for holder in holders for name in _text(holder.attrs.get("coordinates", "")).split())
    unlimited = frozenset(name for name, item in items.items() if _is_scale(item) and item.maxshape[:1] == (None,))

    def attrs_of(name: str) -> dict[str, Any]:
        return _attributes(items[name])

    return labels_of(
        NamedArrays(items, known, attrs_of, _attributes(group), named, unlimited), names, in_place=in_place
    )


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
