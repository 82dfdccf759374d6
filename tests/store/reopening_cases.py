"""Stores that open afterwards: what several tests use."""

from __future__ import annotations

import numpy as np

from storegate import StoreGate

TEXT = np.dtypes.StringDType()


def opened(tmp_path, **args):
    return StoreGate("zarr", {"output_dir": tmp_path / "store", **args}, data_id="a")
