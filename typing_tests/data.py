"""What rows may be."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
import zarr

import storegate
from storegate import StoreGate
from storegate.types import Array


class Frames:
    """Rows of a library that this one does not know."""

    shape = (10, 3)
    dtype = np.dtype(np.float32)

    def __getitem__(self, item: slice) -> Array:
        return np.zeros((10, 3), np.float32)[item]


def blocks() -> Iterator[Array]:
    yield np.zeros((5, 2))


def add(gate: StoreGate, stored: zarr.Array[Any]) -> None:
    gate.add_data("x", np.arange(3))
    gate.add_data("x", [1, 2, 3], phase=(0.8, 0.1, 0.1), shuffle=True)
    gate.add_data("x", [[1.0, 2.0], [3.0, 4.0]], phase=[2, 0, 0], shuffle=7)
    gate.add_data("x", da.ones((10, 2)), phase="all")
    gate.add_data("x", stored)
    gate.add_data("x", xr.DataArray([1, 2]))
    gate.add_data("x", blocks())
    gate.add_data("x", storegate.samples(iter([np.zeros(3), np.ones(3)])))
    gate.add_data("x", Frames())
    gate.add_data("x", gate["valid"]["x"])
    gate.add_data(("x", "y"), np.zeros((3, 2)))
    gate.add_data(["x", "y"], [np.arange(3), da.ones(3)])
    gate.add_data(["x", "y"], [blocks(), blocks()])
    gate.update_data("x", [5], index=0)
    gate.update_data("x", np.arange(2), "valid", (3, None))
