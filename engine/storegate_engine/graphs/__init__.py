"""Graphs: variables as dask arrays and Datasets; reads no rows until dask computes.

The public names are imported on first use, because dask.array and xarray take most of a second to import: use them as
``graphs.to_dask``.

What its files know:

    datasets           variables as dask arrays, and phases as xarray Datasets
    backend_arrays     Datasets whose rows are read when they are indexed, as xarray opens files
    dask_arrays        a variable as an array whose selections are edits of its order
    layers             blocks of a variable as one symbolic layer of a graph
    lists              rows of various lengths, and of sparse matrices, read block by block
    row_layers         named layers for variables, and for rows that an index picks
    persisted          rows in the memory of a cluster's workers, in any order
    array_expressions  blocks as a node of array expressions, of dask or of dask-array
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from storegate_engine.graphs.backend_arrays import on_demand, variable_of
    from storegate_engine.graphs.dask_arrays import blocks_read, in_full_pass
    from storegate_engine.graphs.datasets import plans_of, to_dask, to_dataset
    from storegate_engine.graphs.layers import blocks_of
    from storegate_engine.graphs.lists import is_of_lists

__all__ = [
    "blocks_of",
    "blocks_read",
    "in_full_pass",
    "is_of_lists",
    "on_demand",
    "plans_of",
    "to_dask",
    "to_dataset",
    "variable_of",
]

_FILES = {
    "blocks_of": "layers",
    "blocks_read": "dask_arrays",
    "in_full_pass": "dask_arrays",
    "is_of_lists": "lists",
    "on_demand": "backend_arrays",
    "plans_of": "datasets",
    "to_dask": "datasets",
    "to_dataset": "datasets",
    "variable_of": "backend_arrays",
}


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in _FILES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(f"{__name__}.{_FILES[name]}"), name)
    globals()[name] = value
    return value
