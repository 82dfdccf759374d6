"""Vacuum and ``mode="w"``: what several tests use."""

from __future__ import annotations

import numpy as np

from storegate import StoreGate

X = np.arange(40, dtype="f4").reshape(20, 2)


def open_gate(directory, data_id="a", **args):
    return StoreGate("zarr", {"output_dir": directory, **args}, data_id)
