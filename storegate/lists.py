"""Lists: rows of various lengths, and of sparse matrices, as groups of zarr that other software reads.

Lists lie as ``awkward.to_buffers`` names their parts, one array for each buffer, with ``form`` and ``length`` in the
attributes of the group; this is what awkward plans for its own ``to_zarr`` (its issues 4364 and 4381), and how AnnData
keeps arrays of awkward. Sparse matrices lie as AnnData's ``csr_matrix``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from storegate_engine.errors import DtypeError
from storegate_engine.exchange import task_nbytes
from storegate_engine.ragged import Ragged
from storegate_engine.store import VariableSource
from storegate_engine.table import Variable

__all__ = ["write_lists"]

CHUNK_NBYTES = 2**20
"""Bytes of a chunk of items."""


def write_lists(path: Path, variable: Variable, budget_nbytes: int) -> None:
    """Write the rows of a variable as a group below a zarr group, block by block.

    Raises
    ------
    DtypeError
        Items are text, dates or durations, for which neither layout has a form.
    """
    import zarr  # deferred on purpose: few programs need it

    if variable.dtype.kind not in "biufc" or (variable.kind == "ragged" and variable.row_shape):
        raise DtypeError(
            f"variable {variable.name!r} has {variable.row_shape_in_words}, of {variable.dtype}, which cannot "
            "be exported to zarr; export to Parquet, or leave it out"
        )
    group = zarr.open_group(path, mode="a").create_group(variable.name)
    names = ("node0-offsets", "node1-data", "") if variable.kind == "ragged" else ("indptr", "data", "indices")
    n_items = variable.n_items()
    arrays = [_created(group, names[0], len(variable) + 1, np.dtype(np.int64))]
    arrays.append(_created(group, names[1], n_items, variable.dtype))
    if variable.kind == "sparse":
        arrays.append(_created(group, names[2], n_items, variable.sources[1].dtype))
    arrays[0][0] = 0
    rows_done = items_done = 0
    for rows in _blocks(variable, budget_nbytes):
        lo, hi = int(rows.offsets[0]), int(rows.offsets[-1])
        arrays[0][rows_done + 1 : rows_done + len(rows) + 1] = rows.offsets[1:] - lo + items_done
        arrays[1][items_done : items_done + hi - lo] = rows.items[lo:hi]
        if rows.columns is not None:
            arrays[2][items_done : items_done + hi - lo] = rows.columns[lo:hi]
        rows_done, items_done = rows_done + len(rows), items_done + hi - lo
    if variable.kind == "ragged":
        group.attrs.update(
            {
                "encoding-type": "awkward-array",
                "encoding-version": "0.1.0",
                "form": json.dumps(_form(variable.dtype)),
                "length": len(variable),
            }
        )
    else:
        shape = [len(variable), variable.row_shape[0]]
        group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})


def _form(dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the form of awkward for lists of numbers."""
    content = {"class": "NumpyArray", "primitive": dtype.name, "form_key": "node1"}
    return {"class": "ListOffsetArray", "offsets": "i64", "content": content, "form_key": "node0"}


def _blocks(variable: Variable, budget_nbytes: int) -> Iterator[Ragged]:
    return VariableSource(variable, task_nbytes(budget_nbytes, 1)).blocks(1)


def _created(group: Any, name: str, size: int, dtype: np.dtype[Any]) -> Any:
    attributes = {"encoding-type": "array", "encoding-version": "0.2.0"}  # which AnnData asks for
    chunks = (max(1, CHUNK_NBYTES // dtype.itemsize),)
    return group.create_array(name, shape=(size,), dtype=dtype, chunks=chunks, attributes=attributes)
