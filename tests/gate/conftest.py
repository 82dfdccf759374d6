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
