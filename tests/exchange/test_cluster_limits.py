"""Limits of workers: plans are made for the smallest worker that is there or promised, and wait where there is none."""

from __future__ import annotations

import os
import threading

import dask
import numpy as np
import pytest
from dask_jobqueue import SLURMCluster
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster

from storegate import StoreGate
from storegate_engine.clusters import WorkerLimits, worker_limits
from storegate_engine.errors import ArgumentError, ClusterError, WorkerTimeoutError
from tests.clusters import LOOPBACK

MB = 10**6


ROWS = np.random.default_rng(0).random((50_000, 64), dtype="f4")
SHUFFLED = ROWS[np.random.RandomState(3).permutation(len(ROWS))]


@pytest.fixture
def gate(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "4GB"}, data_id="test_id") as opened:
        opened.add_data("x", ROWS, shuffle=3)
        yield opened


def without_workers(tmp_path):
    """Start a cluster that has no workers yet."""
    return LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        memory_limit="300MB",
        local_directory=str(tmp_path / "dask"),
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
    )


@pytest.fixture
def to_scale(tmp_path):
    with without_workers(tmp_path) as running, Client(running) as client:
        yield client


def limits_of(gate):
    return gate.capacity.budget_nbytes, gate.capacity.workers


def test_workers_that_come_later_are_planned_for(to_scale, gate):
    assert limits_of(gate) == (300 * MB, 1)
    dataset = gate["train"].to_xarray()  # planned before there is any worker
    to_scale.cluster.scale(2)
    np.testing.assert_array_equal(dataset["x"].values, SHUFFLED)
    assert limits_of(gate) == (300 * MB, 1)


def test_an_adaptive_cluster_promises_workers(to_scale, gate):
    to_scale.cluster.adapt(minimum=0, maximum=2, interval="50ms")
    assert limits_of(gate) == (300 * MB, 1)
    gate.compact()
    np.testing.assert_array_equal(gate.get_data("x"), SHUFFLED)


@pytest.mark.slow
def test_workers_of_different_memory(growing, gate):
    """The one with the least memory for each thread is planned for, of those that are there."""
    client, start_worker = growing
    start_worker(1, "900MB")
    start_worker(4, "800MB")
    client.wait_for_workers(2, timeout=120)
    assert limits_of(gate) == (800 * MB, 4)
    dataset = gate["train"].to_xarray()
    start_worker(2, "300MB")
    client.wait_for_workers(3, timeout=120)
    assert limits_of(gate) == (300 * MB, 2)
    np.testing.assert_array_equal(dataset["x"].values, SHUFFLED)
    gate.compact()
    np.testing.assert_array_equal(gate.get_data("x"), SHUFFLED)


@pytest.mark.slow
def test_workers_that_arrive_after_the_plan(growing, gate):
    """They take part; and all of the work where the worker that was planned for has gone."""
    client, start_worker = growing
    start_worker(1, "400MB")
    client.wait_for_workers(1, timeout=120)
    (first,) = client.run(os.getpid)
    with dask.config.set({"storegate.shuffle": "exchange"}):
        dataset = gate["train"].to_xarray()
    start_worker(1, "400MB")
    client.wait_for_workers(2, timeout=120)
    np.testing.assert_array_equal(dataset["x"].values, SHUFFLED)
    client.retire_workers([first])
    np.testing.assert_array_equal(dataset["x"].values, SHUFFLED)


def test_a_worker_is_promised_until_it_comes(tmp_path, gate):
    """A cluster that knows what workers it will have is planned for as if they were there."""
    worker = {**LOOPBACK, "local_directory": str(tmp_path / "dask"), "nthreads": 1, "memory_limit": "900MB"}
    workers = {"large": {"cls": Nanny, "options": worker}}
    scheduler = {"cls": Scheduler, "options": LOOPBACK}
    with SpecCluster(workers=workers, scheduler=scheduler) as running, Client(running) as client:
        client.wait_for_workers(1, timeout=120)
        assert limits_of(gate) == (900 * MB, 1)
        small = {**worker, "nthreads": 2, "memory_limit": 250 * MB}
        running.worker_spec["small"] = {"cls": Nanny, "options": small}
        assert limits_of(gate) == (250 * MB, 2)


@pytest.mark.slow
def test_a_memory_limit_of_the_gate_holds_for_each_worker(tmp_path, of_processes):
    """A budget below the limits of all workers is shared by the threads of the one that has most."""
    with of_processes(tmp_path / "dask", n_workers=1, n_threads=2, memory_limit="500MB") as client:
        gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "100MB"}, data_id="test_id")
        assert limits_of(gate) == (100 * MB, 2)
        assert worker_limits(client) == [WorkerLimits(500 * MB, 2)]


def test_the_first_worker_is_waited_for(tmp_path, gate, of_processes):
    """A cluster that somebody else started promises nothing."""
    with without_workers(tmp_path) as running, Client(running.scheduler_address):
        with dask.config.set({"storegate.worker-timeout": 0}), pytest.raises(WorkerTimeoutError, match="start workers"):
            gate["train"].to_xarray()
        with dask.config.set({"storegate.worker-timeout": "300ms"}), pytest.raises(TimeoutError, match=r"0\.3 s"):
            gate.compact()
        with dask.config.set({"storegate.worker-timeout": "soon"}), pytest.raises(ArgumentError, match="60s"):
            gate.capacity  # noqa: B018
        assert issubclass(WorkerTimeoutError, ClusterError)
        found = []
        asks = threading.Thread(target=lambda: found.append(limits_of(gate)))
        asks.start()
        running.scale(1)
        asks.join(timeout=120)
        assert found == [(300 * MB, 1)]


def test_jobs_of_a_batch_system_promise_workers(tmp_path, gate):
    """A job has all cores and the whole memory of its node; the workers that it starts share them."""
    job = {"log_directory": str(tmp_path / "logs"), "local_directory": str(tmp_path / "dask")}
    with (
        SLURMCluster(
            queue="normal", cores=8, processes=8, memory="2GiB", walltime="04:00:00", scheduler_options=LOOPBACK, **job
        ) as running,
        Client(running) as client,
    ):
        assert worker_limits(client) == [WorkerLimits(2**28, 1)]
        assert limits_of(gate) == (2**28, 1)
