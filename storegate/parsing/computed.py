"""Computed: new variables from functions of a Dataset, all of them block by block in one pass; computes nothing yet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate.parsing.labels import Labelled, dataset_columns
from storegate_engine import graphs
from storegate_engine.dtypes import TEXT
from storegate_engine.errors import ArgumentError, ArgumentTypeError, ShapeError, shown
from storegate_engine.natives import as_native
from storegate_engine.store import CATEGORY_ATTRIBUTES, FieldSource

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Computable", "computed_columns"]

Array: TypeAlias = np.ndarray[Any, Any]
Computable: TypeAlias = "Callable[[xr.Dataset], Any] | xr.DataArray | Any"
"""A function of a phase's Dataset, or what one would return: rows for all samples of the phase."""


MAX_PASSES = 8
"""Most passes over the rows to compute a variable that needs them all for each block."""


@dataclass(frozen=True, slots=True, eq=False)
class _Computed:
    """Variables of a Dataset, computed block by block along the sample axis."""

    dataset: Any
    dim: str
    bounds: tuple[int, ...]
    """Where each block begins, and the end."""

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return int(self.dataset.sizes[self.dim])

    def blocks(self, names: Iterable[str], block_rows: int) -> Iterator[Mapping[str, Any]]:
        """Yield blocks of all variables, each computed in one pass over what they are made of.

        Raises
        ------
        ArgumentError
            Each block needs a reduction over most rows: that would be a pass over all of them for each block.
        """
        wanted = self.dataset[list(names)]
        bounds = self._bounds(block_rows)
        if len(bounds) > MAX_PASSES:
            for name, array in wanted.isel({self.dim: slice(0, self.bounds[1])}).data_vars.items():
                if array.chunks is not None and (n_read := graphs.blocks_read(array.data)) > MAX_PASSES:
                    raise ArgumentError(
                        f"{name!r} reduces over samples, so that each of {len(bounds) - 1} blocks would read "
                        f"{n_read}; compute the reduction once, as in lambda ds: ds.x - ds.x.mean().compute()"
                    )
        for lo, hi in pairwise(bounds):
            block = wanted.isel({self.dim: slice(lo, hi)}).compute()
            yield {name: block[name] for name in names}

    def _bounds(self, block_rows: int) -> list[int]:
        """Return the bounds of blocks put together to ``block_rows`` rows: each computation plans for all rows."""
        found = [0]
        for lo, hi in pairwise(self.bounds):
            if hi - found[-1] > block_rows and lo > found[-1]:
                found.append(lo)
        return [*found, self.bounds[-1]]


def computed_columns(dataset: xr.Dataset, functions: Mapping[str, Computable], dim: str) -> dict[str, Labelled]:
    """Return new variables as columns, to be computed when they are stored.

    Parameters
    ----------
    dataset : xr.Dataset
        A phase.
    functions : mapping of str to callable, DataArray or array
        Functions of the Dataset, and what they would return.
    dim : str
        The sample axis.

    Raises
    ------
    ShapeError
        A result has no sample axis, not at first, or another number of rows.
    ArgumentError
        A result has other coordinates than the Dataset, or the same in another order.
    """
    import xarray as xr  # deferred on purpose: it takes half a second

    n_rows, found = dataset.sizes[dim], {}
    for name, function in functions.items():
        value = function(dataset) if callable(function) else function
        if not isinstance(value, xr.DataArray):
            if not (hasattr(value, "shape") and hasattr(value, "dtype")):
                raise ArgumentTypeError(
                    f"the value of {name!r} is an array with rows for all samples, or a function of the Dataset that "
                    f"returns one; found {shown(value)}"
                )
            others = tuple(f"{name}_{axis}" for axis in range(1, len(value.shape)))
            value = xr.DataArray(value, dims=(dim, *others)) if value.shape else xr.DataArray(value)
        if value.dims[:1] != (dim,) or value.sizes[dim] != n_rows:
            remedy = "transpose it, or reduce over other dimensions only"
            if value.dims[:1] == (dim,):
                remedy = "give a value for every row: ds.x[ds.x > 0] leaves some out, ds.x.where(ds.x > 0) has them all"
            raise ShapeError(
                f"the value of {name!r} has dimensions {dict(value.sizes)}, and rows need {dim!r} with {n_rows} "
                f"entries as the first; {remedy}"
            )
        _require_aligned(name, value, dataset)
        found[name] = value.variable
    unchanged = {id(of.data) for of in dataset.variables.values()}
    whole = xr.Dataset(
        {
            name: (of.dims, graphs.in_full_pass(of).data, of.attrs if id(of.data) in unchanged else _own_attrs(of))
            for name, of in found.items()
        }
    )
    blocks = next(
        (of.chunks[0] for of in dataset.variables.values() if of.chunks is not None and of.dims[0] == dim), ()
    )
    bounds = (0, *np.cumsum(blocks or (n_rows,)).tolist())
    fields = _Computed(whole, dim, bounds)
    return {
        name: Labelled(partial(_field, fields, name)(), label.about, label.whole)
        for name, label in dataset_columns(whole, None, dim).items()
    }


def _own_attrs(computed: xr.Variable) -> dict[Any, Any]:
    """Return the attributes of new values: xarray keeps those of the codes that they were computed from."""
    return {name: value for name, value in computed.attrs.items() if name not in CATEGORY_ATTRIBUTES}


def _require_aligned(name: str, value: xr.DataArray, dataset: xr.Dataset) -> None:
    """Refuse values for other coordinates: they would be stored beside those of the Dataset, row by row."""
    for dim in value.dims:
        if dim not in value.coords or dim not in dataset.coords:
            continue
        one, other = value.indexes.get(dim), dataset.indexes.get(dim)
        if one is None or other is None:  # too long for an index: the rows of the Dataset, or computed from them
            first, second = (graphs.variable_of(of.coords[dim].variable) for of in (value, dataset))
            is_aligned = first == second
        else:
            is_aligned = one.equals(other)
        if not is_aligned:
            raise ArgumentError(
                f"the value of {name!r} has another coordinate {dim!r} than the phase, or another order of it; bring "
                f"it in that order, as in .sel({dim}=ds.{dim}), or leave the coordinate out with .drop_vars({dim!r})"
            )


def _field(fields: _Computed, name: str) -> FieldSource:
    array = fields.dataset[name]
    dtype = TEXT if array.dtype.kind in "TO" else array.dtype.newbyteorder("=")
    return FieldSource(fields, name, dtype, array.shape[1:], _as_rows)


def _as_rows(block: Any, what: str) -> Array:
    rows = as_native(block.variable, what)
    return rows.astype(TEXT) if rows.dtype.kind == "U" and block.dtype.kind in "TO" else rows
