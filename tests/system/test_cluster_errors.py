"""Errors on a cluster: a call is done whole or not at all, and says what happened in its own words."""

from __future__ import annotations

import os
import signal
import time
from functools import partial

import numpy as np
import pytest
from distributed import Client, LocalCluster

from storegate import StoreGate
from storegate_engine.errors import ClusterError, CorruptStoreError
from storegate_engine.exchange import run

ROWS = 20_000


def flip_a_byte(store, name):
    """Damage a shard of a variable, in its middle."""
    path = max((at for at in store.rglob(f"{name}/c/**/*") if at.is_file()), key=lambda at: at.stat().st_size)
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :])


@pytest.fixture
def hybrid(tmp_path):
    with StoreGate("hybrid", {"output_dir": tmp_path / "store", "budget": "64MiB"}, "test_id") as gate:
        yield gate


@pytest.mark.slow
@pytest.mark.parametrize(("cluster", "shuffle"), [("of its own", None), ("in this process", 3)], indirect=["cluster"])
def test_rows_that_cannot_be_read_are_not_committed(cluster, hybrid, tmp_path, shuffle):
    rows = np.random.default_rng(0).random((ROWS, 16), dtype="f4")
    hybrid.add_data("good", rows)
    hybrid.to_memory("good")
    hybrid.delete_data("good")
    hybrid.add_data("x", rows, shuffle=shuffle)
    flip_a_byte(tmp_path / "store", "x")
    with pytest.raises(CorruptStoreError):
        hybrid.to_memory("x", output_var_names="good")
    hybrid.set_mode("numpy")
    np.testing.assert_array_equal(hybrid.get_data("good"), rows)  # it was not replaced
    hybrid.set_mode("zarr")
    with pytest.raises(CorruptStoreError):
        hybrid.to_memory("x", output_var_names="bad")
    hybrid.set_mode("numpy")
    assert hybrid.get_var_names() == ["good"]
    hybrid.set_mode("zarr")
    with pytest.raises(CorruptStoreError):
        hybrid.add_data("y", hybrid["train"]["x"].data)


def ask_for_everything(gate):
    yield lambda: gate.capacity
    yield lambda: gate["train"].to_xarray()
    yield gate.compact
    yield lambda: gate.to_memory("x")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the sockets to a killed scheduler
def test_a_lost_scheduler_is_named_at_once(hybrid, tmp_path, of_processes):
    rows = np.random.default_rng(0).random((ROWS, 16), dtype="f4")
    hybrid.add_data("x", rows, shuffle=3)
    with of_processes(tmp_path / "dask") as client:
        address = client.scheduler.address
        hybrid.to_memory("x", output_var_names="kept")
        os.kill(client.run_on_scheduler(os.getpid), signal.SIGKILL)
        hybrid.set_mode("numpy")
        with pytest.raises(ClusterError, match="closed or lost"):
            hybrid.get_data("kept")
        hybrid.set_mode("zarr")
        started = time.monotonic()
        for call in ask_for_everything(hybrid):
            with pytest.raises(ClusterError, match=f"{address} does not answer.*connect to a running one"):
                call()
        assert time.monotonic() - started < 25  # distributed alone tries for half a minute, each time
    np.testing.assert_array_equal(hybrid.get_data("x"), rows[np.random.RandomState(3).permutation(ROWS)])


def test_rows_went_with_the_client(cluster, hybrid):
    hybrid.add_data("x", np.arange(ROWS))
    hybrid.to_memory("x")
    hybrid.set_mode("numpy")
    cluster.close()
    view = hybrid["train"]["x"]
    for read in (
        lambda: hybrid.get_data("x"),
        lambda: hybrid.get_data("x", index=[3, 1]),
        lambda: np.asarray(view.data),
        lambda: hybrid["train"].to_xarray(),
        lambda: list(view.batches(100)),
        lambda: hybrid.fingerprint("x"),
        lambda: hybrid.to_storage("x", output_var_names="y"),
    ):
        with pytest.raises(ClusterError, match="went with its client.*to_storage"):
            read()
    hybrid.set_mode("zarr")
    np.testing.assert_array_equal(hybrid.get_data("x"), np.arange(ROWS))


@pytest.mark.parametrize("workers_too", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_cluster_that_is_closed_in_the_middle_is_named(tmp_path, workers_too):
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path / "dask"),
    ) as running:
        client = Client(running)
        close = running.close if workers_too else client.close
        with pytest.raises(ClusterError, match=rf"{running.scheduler_address} was closed or lost before.*again"):
            run((partial(pow, number, 2) for number in range(1000)), 2, close)
        client.close()
