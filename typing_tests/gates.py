"""What the methods of a gate return, by the form of what they are given."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, assert_type

import dask.array as da
import numpy as np
import xarray as xr

from storegate import StoreGate
from storegate.types import Array, Backend, BackendArgs, Metadata, Mode, OpenArgs


def options(where: Path, backend: Backend) -> StoreGate:
    arguments: BackendArgs = {"output_dir": where, "mode": "w", "chunk": 100, "compressor": "zstd", "budget": "1GiB"}
    arguments["durability"] = "power"
    StoreGate("numpy", {"copy": False})
    StoreGate("zarr", {"output_dir": "s3://bucket/store", "storage_options": {"anon": True}}, version=3)
    return StoreGate(backend, arguments, "a")


def opened(where: Path) -> StoreGate:
    more: OpenArgs = {"budget": "1GiB"}
    assert_type(StoreGate.open("s3://bucket/store", "a", "w", storage_options={"anon": True}), StoreGate)
    return StoreGate.open(where, version=3, **more)


def read(gate: StoreGate, where: Path) -> None:
    gate.read(where / "*.h5", ["x", "y"], phase=(0.8, 0.1, 0.1), shuffle=3, group="events")
    gate.read([where, "s3://bucket/a.csv"], dtypes={"x": np.float32}, storage_options={"anon": True})
    gate.read("imgs/*/*", size=(64, 64), colors="RGB", label="folder", format="images")


def facts(gate: StoreGate) -> None:
    assert_type(gate.backend, Literal["numpy", "zarr", "hybrid"])
    assert_type(gate.mode, Literal["numpy", "zarr"])
    assert_type(gate.sizes, dict[str, int])
    assert_type(gate.phases, tuple[str, ...])
    assert_type(gate.get_metadata(), Metadata)
    assert_type(gate.get_metadata()["sizes"], dict[str, int])
    assert_type(gate.get_var_names("all"), list[str])
    assert_type(gate.get_var_shapes("x"), tuple[int, ...] | None)
    assert_type(gate.get_var_shapes(["x", "y"]), list[tuple[int, ...] | None])
    assert_type(gate.to_xarray("valid"), xr.Dataset)
    assert_type(gate.fingerprint("x"), str)
    assert_type(gate.fingerprint(), dict[str, str])
    assert_type(gate.history()[0].version, int)


def rows(gate: StoreGate, compute: bool) -> None:
    assert_type(gate.get_data("x"), Array)
    assert_type(gate.get_data(("x", "y"), "valid", (0, 3)), Array)
    assert_type(gate.get_data(["x", "y"], None, [0, 1]), list[Array])
    assert_type(gate.get_data("x", index=np.arange(3)), Array)
    assert_type(gate.get_data("x", compute=False), da.Array)
    assert_type(gate.get_data(("x", "y"), compute=False), da.Array)
    assert_type(gate.get_data(["x"], compute=False), list[da.Array])
    assert_type(gate.get_data("x", compute=compute), Array | list[Array] | da.Array | list[da.Array])


def calls(gate: StoreGate, mode: Mode) -> None:
    gate.set_mode(mode)
    gate.create_empty("x", (3, 2), dtype=np.int32)
    gate.astype(["x", "y"], "f4", "all")
    gate.shuffle("train", seed=1)
    gate.compact(var_names=("x", "y"))
    gate.to_memory("x", callback=doubled)
    gate.vacuum(older_than="2d")
    gate["train"]["x"][0:3] = [1, 2, 3]
    del gate["train"]["x"]


def doubled(names: str, data: Array) -> tuple[str, Array]:
    return names, 2 * data


def batch_of(gate: StoreGate, names: Sequence[str]) -> list[Array]:
    return gate.get_data(list(names))
