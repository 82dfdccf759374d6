"""The hybrid backend with rows in the memory of a cluster's workers."""

from __future__ import annotations

import gc
import sys
import time

import cloudpickle
import dask
import distributed
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import MemoryArray, PersistedArray, StoredArray
from storegate_engine.graphs.dask_arrays import layers_of
from storegate_engine.graphs.persisted import BlocksLayer
from tests.array_forms import lacking
from tests.clusters import SCHEDULERS


@pytest.fixture(scope="module", params=SCHEDULERS)
def cluster(request, tmp_path_factory, of_processes):
    """Two worker processes on loopback, with a scheduler here or in a process too; something to connect to."""
    if request.param == "of its own":
        with of_processes(tmp_path_factory.mktemp("dask"), memory_limit="512MiB") as starter:
            address = starter.scheduler.address
            starter.close()  # it would be the active client of all tests
            yield address
        return
    with distributed.LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        memory_limit="512MiB",
    ) as running:
        yield running


@pytest.fixture
def client(cluster):
    from distributed import Client

    with Client(cluster) as connected:
        yield connected


def workers_of(client, array):
    """Return the workers that hold each block of a persisted array, by key."""
    held = {str(key): workers for key, workers in client.who_has().items()}
    return {str(future.key): held.get(str(future.key), ()) for future in distributed.futures_of(array.values)}


N = 4000


EVENTS = np.random.default_rng(3).standard_normal((N, 20)).astype("f4")


LABELS = np.random.default_rng(4).integers(0, 4, N)


@pytest.fixture
def events(tmp_path, client):
    """Rows in storage whose budget makes ten blocks of a phase."""
    args = {"output_dir": tmp_path / "store", "chunk": 100, "budget": "256KiB"}
    with StoreGate("hybrid", args, data_id="test_id") as gate:
        gate.add_data(["x", "y"], [EVENTS, LABELS], phase=(3000, 600, 400), do_compile=True)
        yield gate


class TestCluster:
    def test_rows_lie_on_the_workers(self, events, client):
        events.to_memory(["x", "y"], "all")
        events.set_mode("numpy")
        for phase, size in (("train", 3000), ("valid", 600), ("test", 400)):
            (piece,) = events.table[phase]["x"].pieces
            assert isinstance(piece.array, PersistedArray)
            assert piece.n_rows == size
            held = workers_of(client, piece.array)
            assert len(held) == piece.array.values.numblocks[0]
            assert all(held.values())
        (piece,) = events.table["train"]["x"].pieces
        assert piece.array.values.numblocks[0] > 2
        assert set(workers_of(client, piece.array)) <= {str(key) for keys in client.has_what().values() for key in keys}
        assert sum(client.run(lambda dask_worker: dask_worker.data.memory.total_weight).values()) >= EVENTS.nbytes

    def test_rows_are_read_by_every_index(self, events):
        events.to_memory(["x", "y"], "all")
        events.set_mode("numpy")
        x = EVENTS[:3000]
        mask = LABELS[:3000] == 2
        for index in (0, 2999, slice(3, 2000, 7), slice(None, None, -1), [5, 5, 2999, 0], np.array([-1, 17]), mask, []):
            expected = x[np.asarray(index, int)] if isinstance(index, list) else x[index]
            found = events["train"]["x"][index]
            assert type(found) is np.ndarray
            np.testing.assert_array_equal(found, expected)
            np.testing.assert_array_equal(events.get_data("x", index=index), expected)
        np.testing.assert_array_equal(events.get_data("x"), x)
        np.testing.assert_array_equal(events.get_data("x", index=(290, 1311)), x[290:1311])
        np.testing.assert_array_equal(events.get_data("x", "all", [3999, 0, 3000]), EVENTS[[3999, 0, 3000]])
        np.testing.assert_array_equal(events.get_data(("y", "y"), index=7), LABELS[[7, 7]])
        assert isinstance(events.get_data("y", index=3), np.int64)
        found = events.get_data("x", index=4)
        found[...] = 0
        np.testing.assert_array_equal(events.get_data("x", index=4), x[4])

    @pytest.mark.slow
    @lacking("mean of xarray")
    def test_datasets_are_computed_there(self, events):
        events.to_memory(["x", "y"])
        events.set_mode("numpy")
        dataset = events["train"].to_xarray()
        np.testing.assert_array_equal(dataset["x"].compute().values, EVENTS[:3000])
        np.testing.assert_allclose(
            dataset["x"].mean("sample").compute(), EVENTS[:3000].mean(axis=0), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_array_equal(dataset.isel(sample=slice(10, 20))["y"].values, LABELS[10:20])
        lazy = events.get_data("x", index=[7, 3], compute=False)
        np.testing.assert_array_equal(lazy.compute(), EVENTS[[7, 3]])

    @pytest.mark.slow
    def test_shuffle_and_onehot_on_top(self, events):
        events.to_memory(["x", "y"])
        events.set_mode("numpy")
        events.onehot("y", 4)
        events.shuffle("train", 6)
        events.astype("x", "f8")
        order = np.random.RandomState(6).permutation(3000)
        encoded = np.identity(4)[LABELS[:3000]][order]
        np.testing.assert_array_equal(events.get_data("y"), encoded)
        np.testing.assert_array_equal(events["train"]["y"][[2, 1500]], encoded[[2, 1500]])
        dataset = events["train"].to_xarray()
        np.testing.assert_array_equal(dataset["y"].compute(), encoded)
        np.testing.assert_array_equal(dataset["x"].compute(), EVENTS[:3000].astype("f8")[order])
        assert dataset["x"].dtype == np.float64

    @pytest.mark.parametrize("plan", ["gather", pytest.param("exchange", marks=pytest.mark.slow)])
    def test_shuffled_rows_are_moved_between_workers(self, events, plan, tmp_path):
        events.to_memory(["x", "y"])
        events.set_mode("numpy")
        events.shuffle("train", 6)
        order = np.random.RandomState(6).permutation(3000)
        with dask.config.set({"storegate.shuffle": plan, "storegate.scratch-directory": str(tmp_path / "spill")}):
            lazy = events["train"].to_xarray()["x"]
            data = events["train"]["x"].data
            (layer,) = (layer for layer in layers_of(data) if isinstance(layer, BlocksLayer))
            everything = layer.get_output_keys()
            tasks, _ = layer.cull(everything, everything)
            assert layer.plan(range(len(everything))).kind == plan
            if plan == "exchange":
                assert len(tasks) == layer.n_sources + 1 + len(everything)
            assert max(len(cloudpickle.dumps(task)) for task in tasks.values()) < 8 * len(EVENTS), "no permutation"
            np.testing.assert_array_equal(lazy.values, EVENTS[:3000][order])
            np.testing.assert_array_equal(lazy[70:90].values, EVENTS[:3000][order][70:90])
            np.testing.assert_allclose(data.mean().compute(), EVENTS[:3000].mean(), rtol=1e-4, atol=1e-6)

    @pytest.mark.slow
    def test_changes_beside_persisted_rows(self, events):
        events.to_memory("x")
        events.set_mode("numpy")
        events.add_data("x", EVENTS[:5])
        events.update_data("x", np.zeros((2, 20), "f4"), index=(10, 12))
        expected = np.concatenate([EVENTS[:3000], EVENTS[:5]])
        expected[10:12] = 0
        np.testing.assert_array_equal(events.get_data("x"), expected)
        np.testing.assert_array_equal(events["train"]["x"].data.compute(), expected)
        np.testing.assert_array_equal(events["train"]["x"][[3004, 11, 0]], expected[[3004, 11, 0]])

    @pytest.mark.slow
    def test_back_to_storage(self, events, client):
        events.to_memory(["x", "y"], "all", output_var_names=["mx", "my"])
        events.set_mode("numpy")
        events.shuffle("train", 2)
        (piece,) = events.table["train"]["mx"].pieces
        keys = set(workers_of(client, piece.array))
        del piece
        events.to_storage(["mx", "my"], "all")
        events.set_mode("zarr")
        order = np.random.RandomState(2).permutation(3000)
        np.testing.assert_array_equal(events.get_data("mx"), EVENTS[:3000][order])
        np.testing.assert_array_equal(events.get_data("my", "test"), LABELS[3600:])
        assert all(isinstance(piece.array, StoredArray) for _, variable in events.table for piece in variable.pieces)
        gc.collect()
        wait_until(lambda: not keys & {str(key) for key in client.who_has()})

    def test_callbacks(self, events):
        def double(var_names, data):
            return "twice", data * 2

        events.to_memory("x", callback=double)
        double.accepts_lazy = True
        events.to_memory("x", "valid", callback=double)
        events.set_mode("numpy")
        np.testing.assert_array_equal(events.get_data("twice"), EVENTS[:3000] * 2)
        np.testing.assert_array_equal(events.get_data("twice", "valid"), EVENTS[3000:3600] * 2)

    @pytest.mark.slow
    @lacking("groupby of xarray")
    @lacking("groupby of flox", dask_array=True)
    def test_a_stored_gate_is_computed_on_the_workers(self, events, client):
        dataset = events["train"].to_xarray()
        assert len(dataset.chunks["sample"]) > 2
        np.testing.assert_array_equal(dataset["x"].compute(), EVENTS[:3000])
        mean = dataset["x"].groupby(dataset["y"].compute()).mean().compute()
        expected = [EVENTS[:3000][LABELS[:3000] == label].mean(axis=0) for label in range(4)]
        np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-5)
        events.shuffle("train", 8)
        order = np.random.RandomState(8).permutation(3000)
        np.testing.assert_array_equal(events["train"].to_xarray()["y"].compute(), LABELS[:3000][order])
        np.testing.assert_array_equal(
            events["train"].to_xarray().isel(sample=slice(50, 60))["x"].values, EVENTS[:3000][order][50:60]
        )

    @pytest.mark.slow
    def test_a_gate_is_used_inside_a_task(self, events, client):
        def total(gate, phase):
            return float(gate.get_data("x", phase).astype("f8").sum())

        futures = [client.submit(total, events, phase, pure=False) for phase in ("train", "valid", "test")]
        assert sum(client.gather(futures)) == pytest.approx(EVENTS.astype("f8").sum())


def test_without_a_cluster_rows_stay_in_this_process(hybrid):
    assert "distributed" in sys.modules, "its import alone must not matter"
    hybrid.to_memory("x")
    (piece,) = hybrid.repository("numpy").table["train"]["x"].pieces
    assert isinstance(piece.array, MemoryArray)


def wait_until(holds, seconds=60):
    """Wait for what another process does."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)
