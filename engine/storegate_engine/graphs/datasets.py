"""Datasets: variables as dask arrays, and phases as xarray Datasets; reads no rows but those of short coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr

from storegate_engine.budget import require, reserved_nbytes
from storegate_engine.clusters import Capacity
from storegate_engine.encodings import encoding_of, is_calendar
from storegate_engine.exchange import Plan
from storegate_engine.graphs.backend_arrays import lazy_form
from storegate_engine.graphs.dask_arrays import for_xarray, layers_of, rows_to_dask
from storegate_engine.graphs.layers import blocks_of, plan_blocks
from storegate_engine.graphs.lists import lists_to_dask
from storegate_engine.graphs.persisted import is_persisted, persisted_to_dask
from storegate_engine.table import Attributes, Phase, Table, Variable, values_of

__all__ = ["plans_of", "to_dask", "to_dataset"]


def to_dask(variable: Variable, rows: tuple[int, ...], capacity: Capacity) -> da.Array:
    """Return a variable as a dask array of shape ``(n_samples, *row_shape)``; nothing is read.

    Rows of various lengths are objects, an ndarray each; rows of a sparse matrix have their zeros.

    Parameters
    ----------
    variable : Variable
        The variable to read on compute.
    rows : tuple of int
        Rows of each block.
    capacity : Capacity
        Memory and threads to plan with.
    """
    if variable.kind != "dense":
        return lists_to_dask(variable, rows)
    if is_persisted(variable):
        return persisted_to_dask(variable, rows, capacity)
    return rows_to_dask(variable, rows, capacity)


def to_dataset(table: Table, phase: Phase, attrs: Attributes, capacity: Capacity) -> xr.Dataset:
    """Return the variables of a phase as one lazy Dataset; of their rows nothing is read.

    Dimensions have the names that they came with, or ``sample``, ``<variable>_1`` and so on. All variables have the
    same blocks. Dates and durations get a unit that xarray can save: seconds for coarser ones; durations of months and
    years, which have no length in seconds, become integers with an attribute ``units``. Indexes are made of coordinates
    that came as such, unless they are long.

    Parameters
    ----------
    table : Table
        The table of the phase.
    phase : mapping of str to Variable
        The variables.
    attrs : Attributes
        The attributes of the Dataset.
    capacity : Capacity
        Memory and threads to plan with.

    Raises
    ------
    MemoryBudgetError
        A variable, or all of them together, would not fit in the memory limit when they are computed.
    """
    rows = blocks_of(list(phase.values()), capacity)
    _require_together(list(phase.values()), rows, capacity)
    sample_dim = table.sample_dim
    variables = {
        name: ((sample_dim, *variable.dims[1:]), for_xarray(to_dask(_in_seconds(variable), rows, capacity)))
        for name, variable in phase.items()
    }
    described = dict(phase)
    if phase:
        described |= table.shared
        variables |= {name: (variable.dims, _shared(variable, capacity)) for name, variable in table.shared.items()}
    # a variable with the name of a dimension is a coordinate, too; without an index it stays lazy
    dims = {dim for of, _ in variables.values() for dim in of}
    found = {name: xr.Variable(*variables[name], _attrs(variable)) for name, variable in described.items()}
    coords = {name: found.pop(name) for name, of in described.items() if of.about.is_coordinate or name in dims}
    indexes: dict[str, xr.Index] = {}
    for name, variable in coords.items():
        if variable.dims == (name,) and described[name].about.is_coordinate and _is_short(described[name], capacity):
            indexes[name] = index = xr.indexes.PandasIndex.from_variables({name: _in_memory(variable)}, options={})
            coords |= index.create_variables({name: variable})
    return xr.Dataset(found, coords=xr.Coordinates(coords, indexes=indexes), attrs=values_of(attrs))


INDEX_NBYTES = 2**25
"""Most bytes of a coordinate that is read for an index, some millions of times: one is made at each ``to_xarray()``."""
INDEX_SHARE = 16
"""Share of a memory limit for an index."""


def _is_short(variable: Variable, capacity: Capacity) -> bool:
    return variable.nbytes <= min(INDEX_NBYTES, capacity.budget_nbytes // INDEX_SHARE)


def _in_memory(variable: xr.Variable) -> xr.Variable:
    values = variable.to_numpy()
    return xr.Variable(variable.dims, values.astype(object) if values.dtype.kind == "T" else values, variable.attrs)


def _shared(variable: Variable, capacity: Capacity) -> Any:
    """Return what has no sample axis; short ones in memory, as xarray has coordinates of files."""
    if _is_short(variable, capacity):
        return _in_seconds(variable).read(0, 1)[0]
    return for_xarray(to_dask(_in_seconds(variable), (1,), capacity))[0]


def _require_together(variables: Sequence[Variable], rows: tuple[int, ...], capacity: Capacity) -> None:
    """Refuse variables of few blocks each, if all their tasks may run at the same time and do not fit in memory."""
    starts = (0, *np.cumsum(rows).tolist())
    dense = [variable for variable in variables if variable.kind == "dense"]
    plans = [plan_blocks(variable, starts, range(len(rows)), capacity) for variable in dense]
    projected = reserved = reserved_nbytes(capacity.budget_nbytes)
    room = capacity.workers
    for task_nbytes, n_tasks in sorted(
        ((plan.projected_nbytes - reserved) / plan.at_once, plan.at_once) for plan in plans if plan.at_once
    )[::-1]:
        projected += int(task_nbytes * min(room, n_tasks))
        room -= min(room, n_tasks)
    require(
        projected,
        capacity.budget_nbytes,
        what=f"reading {len(variables)} variables at the same time",
        remedy="raise storegate.memory-limit (or backend_args['budget']), use fewer threads, or take fewer variables",
    )


def _in_seconds(variable: Variable) -> Variable:
    if is_calendar(variable.dtype):
        return variable.cast(np.dtype(np.int64))
    if variable.dtype.kind in "mM" and np.datetime_data(variable.dtype)[0] not in ("s", "ms", "us", "ns"):
        return variable.cast(np.dtype(f"{variable.dtype.kind}8[s]"))
    return variable


def _attrs(variable: Variable) -> dict[str, Any]:
    about = variable.about
    return {
        **values_of(about.attrs),
        **(dict(encoding_of(variable.dtype).attributes) if is_calendar(variable.dtype) else {}),
        # NetCDF has no attributes that are true or false
        **({} if about.categories is None else {"categories": [*about.categories], "ordered": int(about.is_ordered)}),
    }


def plans_of(dataset: xr.Dataset, peek_rows: int) -> dict[str, tuple[Plan, Plan]]:
    """Return, for every lazy variable of ours in a Dataset, the plans of a full pass and of a peek.

    Parameters
    ----------
    dataset : xr.Dataset
        A Dataset of :func:`to_dataset`, or one made from it.
    peek_rows : int
        Number of first rows that the peek reads.
    """
    found: dict[str, tuple[Plan, Plan]] = {}
    for name, array in dataset.variables.items():
        for layer in layers_of(lazy_form(array)):
            blocks = range(len(layer.starts) - 1)
            peek = [block for block in blocks if layer.starts[block] < peek_rows]
            found[str(name)] = (layer.plan(blocks), layer.plan(peek))
    return found
