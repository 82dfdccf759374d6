"""The exchange on a real cluster: the same rows whatever the workers, and workers that are killed in the middle."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from pathlib import Path

import dask
import numpy as np
import pytest
from distributed import Client, LocalCluster

from storegate import StoreGate
from storegate_engine.errors import SpillError
from storegate_engine.scratch import Visit
from tests.clusters import gone
from tests.listings import inodes_below, nbytes_below


@pytest.fixture
def shuffled(tmp_path):
    rows = np.random.default_rng(0).random((20_000, 64), dtype="f4")
    args = {"output_dir": tmp_path / "store", "budget": "2MiB"}
    gate = StoreGate("zarr", args, "test_id")
    gate.add_data(["x", "y"], [rows, np.arange(20_000)], shuffle=3)
    order = np.random.RandomState(3).permutation(20_000)
    return gate, rows[order], order


def test_the_same_rows_on_a_cluster(cluster, shuffled):
    gate, expected, order = shuffled
    dataset = gate["train"].to_xarray()
    np.testing.assert_array_equal(dataset["x"].compute().values, expected)
    persisted = dataset["y"].persist()
    np.testing.assert_array_equal(persisted.values, order)
    np.testing.assert_array_equal(dataset["x"].isel(sample=slice(5, 300)).values, expected[5:300])
    gate.compact()
    np.testing.assert_array_equal(gate.get_data("x"), expected)
    np.testing.assert_array_equal(gate.get_data("y"), order)


@pytest.mark.slow
@pytest.mark.parametrize(("n_workers", "chunk"), [(1, 1000), (3, 1000), (3, 730)])
def test_the_same_rows_whatever_the_workers_and_the_chunks(tmp_path, n_workers, chunk):
    rows = np.random.default_rng(0).random((30_000, 16), dtype="f4")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB", "chunk": chunk}, "test_id")
    gate.add_data("x", rows, shuffle=3)
    expected = rows[np.random.RandomState(3).permutation(30_000)]
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(tmp_path / "dask"),
        ) as running,
        Client(running),
    ):
        assert "exchange" in gate["train"].explain()
        np.testing.assert_array_equal(gate["train"].to_xarray()["x"].values, expected)
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)


@pytest.fixture
def scratch(tmp_path):
    """Spill that the client is told to put elsewhere than the workers would."""
    with dask.config.set({"storegate.scratch-directory": tmp_path / "elsewhere"}):
        yield tmp_path / "elsewhere"


@pytest.mark.slow
def test_the_spill_lies_where_the_client_says_and_goes_with_what_it_holds(cluster, shuffled, scratch, tmp_path):
    gate, expected, _ = shuffled
    for _ in range(3):
        dataset = gate["train"].to_xarray()
        assert "exchange" in gate["train"].explain()
        future = cluster.compute(dataset["x"].data)
        np.testing.assert_array_equal(future.result(), expected)
        assert expected.nbytes <= nbytes_below(scratch) < 1.2 * expected.nbytes
        future = cluster.compute(dataset["x"].data)  # again, over what is there
        np.testing.assert_array_equal(future.result()[:10], expected[:10])
        assert nbytes_below(scratch) < 1.2 * expected.nbytes
        del future, dataset
        gc.collect()
        cluster.run_on_scheduler(gc.collect)  # one of this process shares its objects
        assert gone(scratch)
    assert not (tmp_path / "store" / "scratch").exists()
    assert list(tmp_path.rglob("map-*")) == []


def test_the_plan_is_that_of_the_settings_where_the_array_was_made(cluster, shuffled, tmp_path):
    gate, expected, _ = shuffled
    with dask.config.set({"storegate.shuffle": "gather"}):
        lazy = gate["train"]["x"].data
    np.testing.assert_array_equal(lazy.compute(), expected)
    assert list(tmp_path.rglob("map-*")) == []


def test_what_is_persisted_is_computed_when_the_layer_is_gone(cluster, shuffled, tmp_path):
    gate, expected, _ = shuffled
    persisted = gate["train"].to_xarray()["x"].persist()
    gc.collect()
    np.testing.assert_array_equal(persisted.values, expected)
    assert list(tmp_path.rglob("map-*")), "for workers that are lost"
    del persisted
    gc.collect()
    assert gone(tmp_path / "store" / "test_id" / "scratch")


def open_visit(path):
    return os.fspath(Visit(Path(path), Path(path).parent, "1" * 32, os.getuid()))


def test_a_scratch_directory_that_workers_do_not_see_is_named_with_the_rule(cluster, tmp_path):
    with pytest.raises(SpillError, match=r"seen from this worker.*scratch-directory.*share"):
        cluster.submit(open_visit, str(tmp_path / "only here")).result()


def kill_workers(pids, moments, done, killed):
    """Kill workers with SIGKILL, one after the other, each as soon as its moment holds."""
    for number, (pid, moment) in enumerate(zip(pids, moments, strict=True)):
        while not moment():
            if done.is_set():
                return
            time.sleep(0.001)
        os.kill(pid, signal.SIGKILL)
        killed.append(number)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the sockets of killed workers
@pytest.mark.parametrize(
    ("cluster", "road"), [("of its own", "compute"), ("in this process", "compact")], indirect=["cluster"]
)
def test_killed_workers_cost_their_own_tasks(cluster, shuffled, tmp_path, road):
    gate, expected, _ = shuffled
    lazy = gate["train"]["x"].data
    n_maps = next(layer for layer in lazy.dask.layers.values()).plan(range(lazy.numblocks[0])).n_maps

    def spilled():
        return len(inodes_below(tmp_path / "store", "map-*"))

    done, killed = threading.Event(), []
    moments = [lambda: spilled() >= 2, lambda: spilled() >= n_maps]
    pids = list(cluster.run(os.getpid).values())
    killer = threading.Thread(target=kill_workers, args=(pids, moments, done, killed))
    killer.start()
    try:
        if road == "compute":
            found = lazy.compute()
        else:
            gate.compact(var_names="x")
            found = gate.get_data("x")
    finally:
        done.set()
        killer.join()
    assert killed == [0, 1]
    np.testing.assert_array_equal(found, expected)
