"""Keys of dask graphs: one that two graphs share names the same work, whoever comes first."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine import budget
from storegate_engine.exchange import plans
from tests.array_forms import lacking, layer_of

N_ROWS = 60_000


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(budget, "BLOCK_NBYTES", 2**17)
    monkeypatch.setattr(plans, "MIN_PART_NBYTES", 2**10)


@pytest.fixture
def shuffled(tmp_path, small_blocks):
    """A shuffled variable of 30 blocks, of which some are gathered together."""
    rows = np.random.default_rng(0).random((N_ROWS, 16)).astype("f4")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "32MiB"}, "test_id")
    gate.add_data("x", rows)
    gate.shuffle("train", seed=3)
    return gate, rows[np.random.RandomState(3).permutation(N_ROWS)]


def selections(seed: int, count: int) -> list[np.ndarray]:
    """Rows here and there that begin in the same blocks, and end in others."""
    rng = np.random.default_rng(seed)
    first = np.arange(3)
    return [np.concatenate([first, np.sort(rng.integers(0, N_ROWS, rng.integers(1, 12)))]) for _ in range(count)]


@pytest.mark.parametrize("plan", ["auto", "gather", "exchange"])
def test_a_key_names_all_that_its_task_does(shuffled, plan):
    gate, _ = shuffled
    rng = np.random.default_rng(1)
    with dask.config.set({"storegate.shuffle": plan}):
        layer = layer_of(gate["train"].to_xarray()["x"].data)
        outputs = sorted(layer.get_output_keys())
        assert len(outputs) > 5
        known: dict[object, object] = {}
        for part in [layer, layer.in_full_pass()]:
            for _ in range(40):
                wanted = {outputs[0], *(outputs[at] for at in rng.integers(0, len(outputs), rng.integers(1, 6)))}
                culled, needed = part.cull(wanted, set())
                for key, task in dict(culled).items():
                    does = (task.func, task.args, task.kwargs, needed[key])
                    # a block is the same rows in whatever way it is read
                    if key not in wanted:
                        assert str(known.setdefault(key, does)) == str(does), key
        assert known or plan == "auto"


@pytest.mark.parametrize("plan", ["auto", "gather", "exchange"])
def test_parts_that_are_optimized_apart_and_computed_together(shuffled, plan):
    gate, expected = shuffled
    with dask.config.set({"storegate.shuffle": plan}):
        x = gate["train"].to_xarray()["x"].data
        wanted = selections(2, 12)
        parts = [dask.optimize(x[rows] if at % 2 else x[rows] + 0)[0] for at, rows in enumerate(wanted)]
        for rows, found in zip(wanted, dask.compute(*parts), strict=True):
            np.testing.assert_array_equal(found, expected[rows])


@pytest.mark.slow
def test_overlapping_selections_of_persisted_and_lazy_rows_on_a_cluster(cluster, shuffled):
    gate, expected = shuffled
    dataset = gate["train"].to_xarray()
    held = [(dataset["x"] + np.float32(1)).persist()]
    for at, rows in enumerate(selections(3, 20)):
        part = dataset["x"].isel(sample=rows)
        if at % 4 == 0:
            held.append((part * 2).persist())
        np.testing.assert_array_equal(part.compute(), expected[rows])
    futures = [cluster.compute(dataset["x"].isel(sample=rows)) for rows in selections(4, 20)]
    for rows, future in zip(selections(4, 20), futures, strict=True):
        np.testing.assert_array_equal(future.result(), expected[rows])
    np.testing.assert_array_equal(held[0].compute(), expected + 1)


@pytest.mark.slow
@lacking("rows by their numbers (Shuffle._token)")
def test_overlapping_selections_of_rows_in_the_memory_of_workers(cluster, tmp_path, small_blocks):
    rows = np.random.default_rng(0).random((N_ROWS, 4)).astype("f4")
    gate = StoreGate("hybrid", {"output_dir": tmp_path / "store"}, "test_id")
    gate.add_data("x", rows)
    gate.to_memory("x")
    gate.set_mode("numpy")
    gate.shuffle("train", seed=3)
    expected = rows[np.random.RandomState(3).permutation(N_ROWS)]
    x = gate["train"].to_xarray()["x"]
    wanted = selections(5, 16)
    held = [(x.isel(sample=part) * 2).persist() for part in wanted[:4]]
    futures = [cluster.compute(x.isel(sample=part)) for part in wanted]
    for part, future in zip(wanted, futures, strict=True):
        np.testing.assert_array_equal(future.result(), expected[part])
    for part, kept in zip(wanted, held, strict=False):
        np.testing.assert_array_equal(kept.compute(), expected[part] * 2)


def test_two_threads_that_copy_lazy_variables_leave_nothing_behind(shuffled, tmp_path):
    gate, expected = shuffled
    before = dict(dask.config.config.get("storegate", {}))
    lazy = gate["train"].to_xarray()["x"].data
    barrier = threading.Barrier(2)

    def copied(number: int) -> np.ndarray:
        with StoreGate("zarr", {"output_dir": tmp_path / f"copy-{number}"}, "test_id") as other:
            barrier.wait()
            other.add_data("x", lazy + np.float32(number))
            return other.get_data("x")

    with ThreadPoolExecutor(2) as pool:
        for number, found in enumerate(pool.map(copied, range(2))):
            np.testing.assert_array_equal(found, expected + number)
    assert dict(dask.config.config.get("storegate", {})) == before
