"""What tests of readers share: a gate in storage that has rows already, and how it stays."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from storegate import StoreGate


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {"output_dir": tmp_path / "store", "budget": "64MiB"} if request.param == "zarr" else {}
    with StoreGate(request.param, args, data_id="a") as made:
        yield made


@pytest.fixture
def unchanged():
    """Return a context in which a gate with some rows must not change."""

    @contextlib.contextmanager
    def check(gate):
        gate.add_data("kept", np.arange(5), phase="valid")
        before = (gate.table, gate.sizes, gate.fingerprint("kept", "valid"))
        yield
        assert (gate.table, gate.sizes, gate.fingerprint("kept", "valid")) == before

    return check
