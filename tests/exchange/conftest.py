"""Fixtures of exchanges."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import StoreGate


@pytest.fixture
def shuffled(tmp_path):
    """20,000 shuffled rows under a budget of 1 MiB: a full pass is an exchange."""
    rows = np.random.default_rng(0).random((20_000, 16), dtype="f4")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB", "chunk": 100}, "test_id")
    gate.add_data(["x", "y"], [rows, np.arange(20_000)], shuffle=3)
    gate.shuffle(seed=4)
    order = np.random.RandomState(3).permutation(20_000)[np.random.RandomState(4).permutation(20_000)]
    return gate, rows[order], order
