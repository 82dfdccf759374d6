"""Labels: dimensions, coordinates and attributes of arrays and Datasets of xarray; reads no rows.

A Dataset has one sample axis, and every variable along it becomes a variable of the table. What has no sample axis,
such as the latitudes of a grid, is shared: it is kept once for all phases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from storegate_engine.errors import ArgumentError, ArgumentTypeError, DtypeError, ShapeError, near_match
from storegate_engine.names import validate_name
from storegate_engine.table import Attributes, Description, attributes_of

__all__ = [
    "Labelled",
    "Whole",
    "dataset_columns",
    "is_dataarray",
    "is_dataset",
    "labelled",
    "require_same_meaning",
    "require_sample_dim",
]

KEPT = ("units", "calendar")
"""Attributes that say what numbers mean: rows of all files have the same."""


@dataclass(frozen=True, slots=True)
class Whole:
    """What a Dataset holds beside its rows."""

    attrs: Attributes | None = None
    """Its attributes; None for a single array."""
    shared: Mapping[str, Any] = field(default_factory=dict)
    """Arrays of xarray without the sample axis, by name."""
    abouts: Mapping[str, Description] = field(default_factory=dict)
    """Their descriptions."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Rows, and what xarray says about them."""

    rows: Any
    """The rows, in any form."""
    about: Description
    """Their dimensions and attributes."""
    whole: Whole
    """What comes with them."""


def is_dataset(data: Any) -> bool:
    """Return whether data are a Dataset of xarray."""
    return hasattr(data, "data_vars") and hasattr(data, "coords")


def is_dataarray(data: Any) -> bool:
    """Return whether data are a DataArray of xarray."""
    return hasattr(data, "to_dataset") and hasattr(data, "coords") and hasattr(data, "dims")


def labelled(data: Any, name: str) -> Labelled | None:
    """Return a DataArray or Variable of xarray with its labels, None for any other data."""
    if isinstance(data, Labelled):
        return data
    if not (hasattr(data, "dims") and hasattr(data, "to_index")) or not data.dims:
        return None
    coords = data.coords if is_dataarray(data) else {}
    shared = {str(key): coords[key] for key in coords if data.dims[0] not in coords[key].dims}
    return Labelled(data, _about(data, f"variable {name!r}"), _whole(None, shared))


def dataset_columns(data: Any, names: Iterable[str] | None, sample_dim: str | None) -> dict[str, Labelled]:
    """Return the variables of a Dataset along its sample axis.

    Parameters
    ----------
    data : xr.Dataset
        The Dataset.
    names : iterable of str or None
        The variables to take, None for all with a sample axis.
    sample_dim : str or None
        The sample axis, None for the one with which every variable begins.

    Raises
    ------
    ShapeError
        There is no such axis, or it does not come first in a variable.
    """
    wanted = {str(name): data[name] for name in (data.data_vars if names is None else names)}
    dim = _sample_dim(data, wanted, sample_dim)
    along = {str(name): data[name] for name in data.variables if dim in data[name].dims}
    for name, array in (along if names is None else wanted).items():
        if array.dims[:1] != (dim,):
            lacks = "" if dim in array.dims else "; it has none, so leave it out with a list of names"
            raise ShapeError(
                f"variable {name!r} of the Dataset has dimensions {array.dims}, and samples lie along {dim!r}; put "
                f"that first, as in ds.transpose({dim!r}, ...){lacks}"
            )
    chosen = along if names is None else wanted
    dims = {of for array in chosen.values() for of in array.dims}
    shared = {
        str(name): data[name]
        for name in data.variables
        if name not in along and (names is None or (name in data.coords and dims.issuperset(data[name].dims)))
    }
    whole = _whole(data, shared)
    return {
        name: Labelled(array, _about(array, f"variable {name!r}", is_coordinate=name in data.coords), whole)
        for name, array in chosen.items()
    }


def _sample_dim(data: Any, wanted: Mapping[str, Any], sample_dim: str | None) -> str:
    if sample_dim is not None:
        if not isinstance(sample_dim, str):
            raise ArgumentTypeError(f"sample_dim is the name of a dimension, found {sample_dim!r}")
        if sample_dim not in data.dims:
            dims = [str(dim) for dim in data.dims]
            raise ShapeError(
                f"the Dataset has no dimension {sample_dim!r}{near_match(sample_dim, dims)} (dimensions: "
                f"{', '.join(dims) or 'none'})"
            )
        return sample_dim
    firsts = {name: str(array.dims[0]) if array.dims else None for name, array in wanted.items()}
    if len(found := set(firsts.values())) == 1 and None not in found:
        (dim,) = found
        return str(dim)
    if not firsts:
        raise ShapeError("the Dataset has no variables")
    listed = ", ".join(f"{name}: {wanted[name].dims}" for name in firsts)
    raise ShapeError(
        f"the variables of the Dataset do not all begin with the same dimension ({listed}); say along which samples "
        "lie, as in sample_dim='time'"
    )


def _whole(dataset: Any, shared: Mapping[str, Any]) -> Whole:
    abouts = {
        validate_name(name): _about(
            array, f"variable {name!r}", is_coordinate=dataset is None or name in dataset.coords
        )
        for name, array in shared.items()
    }
    return Whole(None if dataset is None else attributes_of(dataset.attrs, "the Dataset"), shared, abouts)


def _about(array: Any, what: str, *, is_coordinate: bool = False) -> Description:
    dims = tuple(validate_name(dim, "dimension") for dim in array.dims)
    if len(set(dims)) < len(dims):
        raise ShapeError(f"{what} has the dimensions {dims}, one of them twice; rename one")
    return Description(dims=dims, attrs=attributes_of(array.attrs, what), is_coordinate=is_coordinate)


def require_sample_dim(sample_dim: str | None, data: Any) -> None:
    """Refuse a sample axis that is not the first one of an array, or is given for data without names of dimensions.

    Raises
    ------
    ShapeError
        The samples of the array lie along another dimension.
    ArgumentError
        The data have no dimensions.
    """
    if sample_dim is None:
        return
    if not hasattr(data, "dims"):
        raise ArgumentError(
            f"sample_dim={sample_dim!r} names a dimension of xarray, and the data are {type(data).__name__}, whose "
            "samples lie along the first axis"
        )
    if data.dims[:1] != (sample_dim,):
        raise ShapeError(
            f"the array has dimensions {data.dims}, and samples lie along {sample_dim!r}; put that first, as in "
            f"x.transpose({sample_dim!r}, ...)"
        )


def require_same_meaning(first: Mapping[str, Labelled], other: Mapping[str, Labelled], place: object) -> None:
    """Refuse rows of another file that have other dimensions, units or calendars, or lie on another grid.

    Raises
    ------
    DtypeError
        They have other dimensions, units or calendars; the message names the first file.
    ArgumentError
        A coordinate without samples has other values, or the same in another order.
    """
    common = [name for name in first if name in other]
    # What the rows of all variables mean comes before where they lie: a dimension of another name also changes each
    # coordinate along it.
    for name in common:
        old, new = first[name].about, other[name].about
        before, after = ({key: text for key, text in about.attrs if key in KEPT} for about in (old, new))
        if (old.dims, before) != (new.dims, after):
            raise DtypeError(
                f"variable {name!r} has dimensions {new.dims} and {_said(after)}, and in {place} {old.dims} and "
                f"{_said(before)}; convert the rows, then add those of one file after the other"
            )
    for name in common:
        mine, theirs = first[name].whole, other[name].whole
        for key in (key for key in mine.shared if key in theirs.shared):
            one, two = np.asarray(mine.shared[key].values), np.asarray(theirs.shared[key].values)
            is_number = {one.dtype.kind, two.dtype.kind} <= set("fcmM")
            same_dims = mine.abouts[key].dims == theirs.abouts[key].dims
            if not same_dims or not np.array_equal(one, two, equal_nan=is_number):
                raise ArgumentError(
                    f"coordinate {key!r} of {name!r} has other values than in {place}, or the same in another order: "
                    "its rows lie on another grid; interpolate or reorder them, or read them into another variable"
                )


def _said(kept: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {text}" for key, text in kept.items()) or "no units"
