"""Fixtures that several tests of this room share."""

from __future__ import annotations

import pytest

from storegate import StoreGate
from tests.gate.hybrid_cases import X, Y


@pytest.fixture
def hybrid(tmp_path):
    """x and y in storage, split 60/30/10, compiled."""
    with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="test_id") as gate:
        gate.add_data(["x", "y"], [X, Y], phase=(60, 30, 10), do_compile=True)
        yield gate


@pytest.fixture(params=["numpy", "zarr"])
def small_backend(request):
    return request.param


@pytest.fixture
def small(small_backend, tmp_path):
    """A gate that stores a few dozen rows of ``X`` at a time, so that everything below is many blocks."""
    args = None if small_backend == "numpy" else {"output_dir": tmp_path / "store", "chunk": 10, "budget": 40_000}
    with StoreGate(small_backend, args, data_id="test_id") as opened:
        yield opened
