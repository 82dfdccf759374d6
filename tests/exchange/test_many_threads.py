"""Many threads: what a Dataset promises is computed within the memory, however narrow its variables are."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import MemoryBudgetError
from storegate_engine.exchange.plans import Wanted, choose

N_ROWS, SEED = 80_000, 3


@pytest.fixture(params=[32, 128])
def threads(request, monkeypatch):
    monkeypatch.setattr("dask.system.CPU_COUNT", request.param)
    return request.param


@pytest.mark.parametrize("shuffle", [None, SEED])
@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_narrow_variables_are_computed(backend, shuffle, threads, tmp_path):
    args = {"budget": "256MiB"} | ({"output_dir": tmp_path / "store"} if backend == "zarr" else {})
    rows = np.arange(float(N_ROWS))
    with StoreGate(backend, args, data_id="d") as gate:
        gate.add_data(["x", "y"], [rows, rows], shuffle=shuffle)
        expected = rows[np.random.RandomState(SEED).permutation(N_ROWS)] if shuffle else rows
        dataset = gate["train"].to_xarray()
        np.testing.assert_array_equal(dataset.compute()["x"], expected)
        np.testing.assert_array_equal(dataset["y"].isel(sample=slice(None, None, -1)), expected[::-1])
        np.testing.assert_array_equal(dataset.isel(sample=np.arange(N_ROWS)[::-1])["x"], expected[::-1])
        np.testing.assert_array_equal(dataset["x"][N_ROWS // 3 :], expected[N_ROWS // 3 :])


def test_what_would_not_be_computed_is_refused_at_once(tmp_path, monkeypatch):
    """Each variable fits, in few tasks with a whole chunk each; forty of them at the same time do not."""
    monkeypatch.setattr("dask.system.CPU_COUNT", 128)
    args = {"budget": "4GiB", "chunk": 120_000, "output_dir": tmp_path / "store"}
    names = [f"x{number}" for number in range(40)]
    with StoreGate("zarr", args, data_id="d") as gate:
        gate.add_data(names, [np.arange(120_000.0)] * len(names))
    with StoreGate("zarr", {**args, "budget": "64MiB"}, data_id="d") as gate:
        with pytest.raises(MemoryBudgetError, match="40 variables at the same time.*fewer threads"):
            gate["train"].to_xarray()
        assert gate["train"]["x0"].data.sum().compute() == np.arange(120_000.0).sum()


@pytest.mark.parametrize("in_order", [True, False])
def test_a_plan_counts_the_tasks_that_it_has(in_order):
    """One task takes what one takes, whatever the number of threads that could run more."""
    rows = Wanted(1000, 1000, 128, in_order=in_order, chunk_rows=1000, chunk_nbytes=128_000)
    plans = [choose(rows, budget_nbytes=2**28, workers=workers, bucket_rows=1000) for workers in (1, 8, 512)]
    assert {plan.at_once for plan in plans} == {1}
    assert len({plan.projected_nbytes for plan in plans}) == 1
