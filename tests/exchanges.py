"""What tests of exchanges share: how a lazy array would be read, one task of a sort, and where spill lies."""

from __future__ import annotations

from pathlib import Path

from storegate_engine.buffers import Workspace
from storegate_engine.exchange import bucket_sorts


def layer_of(array):
    return next(layer for layer in array.dask.layers.values() if hasattr(layer, "plan"))


def kind_of(array):
    layer = layer_of(array)
    return layer.plan(range(array.numblocks[0])).kind


def exchange_of(gate):
    array = gate["train"]["x"].data
    return layer_of(array).plan(range(array.numblocks[0]))


def collected(sort, bucket):
    return bucket_sorts.collect(sort, bucket, Workspace())


def scratch(store):
    return list(Path(store).rglob("scratch/*"))
