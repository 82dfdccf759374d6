"""Fixtures of exchanges."""

from __future__ import annotations

import dask
import numpy as np
import pytest

from storegate import StoreGate
from tests.exchange.spill_cases import ROWS


@pytest.fixture
def shuffled(tmp_path):
    """20,000 shuffled rows under a budget of 1 MiB: a full pass is an exchange."""
    rows = np.random.default_rng(0).random((20_000, 16), dtype="f4")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB", "chunk": 100}, "test_id")
    gate.add_data(["x", "y"], [rows, np.arange(20_000)], shuffle=3)
    gate.shuffle(seed=4)
    order = np.random.RandomState(3).permutation(20_000)[np.random.RandomState(4).permutation(20_000)]
    return gate, rows[order], order


@pytest.fixture
def spill_scratch(tmp_path):
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch", "storegate.shuffle": "exchange"}):
        yield tmp_path / "scratch"


@pytest.fixture
def spilling(tmp_path, spill_scratch):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB"}, "a") as opened:
        opened.add_data("x", ROWS, shuffle=3)
        yield opened
