"""Lists: rows of various lengths, and of sparse matrices, as dask arrays of objects and of dense rows.

dask and numpy have no arrays of such rows. Each block is read by itself, in logical order: an order moves bounds alone,
and there is nothing to exchange.
"""

from __future__ import annotations

import uuid
from itertools import accumulate, pairwise
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask.base import is_dask_collection
from dask.delayed import delayed

from storegate_engine.table import Variable, is_stored, token_of

__all__ = ["is_of_lists", "lists_to_dask"]

Array: TypeAlias = np.ndarray[Any, Any]


PREFIX = "lists-"
"""How the keys of their variables begin."""


def lists_to_dask(variable: Variable, rows: tuple[int, ...]) -> da.Array:
    """Return a variable as a dask array; nothing is read.

    Parameters
    ----------
    variable : Variable
        The variable, whose rows are lists or sparse.
    rows : tuple of int
        Rows of each block.
    """
    token = token_of(variable, rows) if is_stored(variable) else uuid.uuid4().hex
    dtype = np.dtype(object) if variable.kind == "ragged" else variable.dtype
    whole = delayed(variable, name=f"{PREFIX}{variable.name}-{token}", traverse=False)
    read = delayed(_read, pure=True)
    blocks = [
        da.from_delayed(
            read(whole, lo, hi, dask_key_name=f"read-{variable.name}-{token}-{lo}"),
            (hi - lo, *variable.shape[1:]),
            dtype=dtype,
        )
        for lo, hi in pairwise((0, *accumulate(rows)))
    ]
    joined: da.Array = da.concatenate(blocks) if len(blocks) > 1 else blocks[0]
    return joined


def is_of_lists(array: Any) -> bool:
    """Return whether lazy rows are those of :func:`lists_to_dask`, or made of them."""
    graph = array.__dask_graph__() if is_dask_collection(array) else None
    return graph is not None and any(str(key).startswith(PREFIX) for key in graph)


def _read(variable: Variable, lo: int, hi: int) -> Array:
    """Return logical rows as objects, or with the zeros of sparse rows."""
    return np.asarray(variable.read(lo, hi))
