"""What a cluster may lose in the middle of a call: workers in each pass, the scheduler, the sight of the scratch."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from dataclasses import astuple
from functools import partial
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import ClusterError, SpillError
from storegate_engine.exchange import run
from tests.clusters import gone, scheduler_here
from tests.listings import files_below

ROWS, SEED = 20_000, 3
VALUES = np.random.default_rng(0).random((ROWS, 64), dtype="f4")
PERMUTED = np.random.RandomState(SEED).permutation(ROWS)
REPEATED = np.random.default_rng(1).integers(0, ROWS, ROWS)


def opened(store, budget="2MiB"):
    return StoreGate("zarr", {"output_dir": store, "budget": budget, "chunk": 100}, "test_id")


@pytest.fixture
def store(tmp_path):
    opened(tmp_path / "store").add_data("x", VALUES, shuffle=SEED)
    return tmp_path / "store"


@contextlib.contextmanager
def as_soon_as(moment: Callable[[], bool], act: Callable[[], None]):
    """Act in another thread when a moment comes, which it does before this ends."""
    done, acted = threading.Event(), []

    def watch():
        while not done.is_set():
            if moment():
                act()
                acted.append(True)
                return
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()
    assert acted, "the moment did not come"


def spilled(store, pattern):
    return [path for path, _ in files_below(store / "test_id" / "scratch", pattern)]


def compute(gate):
    return gate["train"]["x"].data.compute()


def compute_repeated(gate):
    return gate["train"]["x"].data[REPEATED].compute()


def compact(gate):
    gate.compact()
    return gate.get_data("x")


EXPECTED = {compute: VALUES[PERMUTED], compute_repeated: VALUES[PERMUTED][REPEATED], compact: VALUES[PERMUTED]}
PASSES = {
    "requests": lambda store: spilled(store, "map-*-request-*"),
    "scatters": lambda store: [path for path in spilled(store, "map-*") if "request" not in path.name],
    "splits": lambda store: spilled(store, "split-*"),
    "collects": lambda store: newest(store / "test_id" / "segments"),
}
"""The files that a pass writes, which say that it has begun."""
HERE, OWN = "in this process", "of its own"
ROADS = [
    (HERE, compact, "collects"),
    *(
        pytest.param(*road, marks=pytest.mark.slow)
        for road in (
            (HERE, compute_repeated, "requests"),
            (OWN, compute, "scatters"),
            (HERE, compact, "scatters"),
            (OWN, compact, "splits"),
            (OWN, compact, "collects"),
        )
    ),
]


def newest(segments):
    """Return the shards of what is being written."""
    shards = [path for path, _ in files_below(segments) if path.parts[-4:-2] == ("x", "c")]
    written = sorted({path.parents[3] for path in shards}, key=lambda segment: segment.stat().st_ctime_ns)
    return [path for path in shards if path.is_relative_to(written[-1])] if len(written) > 1 else []


@pytest.fixture(autouse=True)
def exchanges():
    with dask.config.set({"storegate.shuffle": "exchange"}):
        yield


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the sockets of killed workers
@pytest.mark.parametrize(
    ("cluster", "road", "during"), ROADS, indirect=["cluster"], ids=lambda value: getattr(value, "__name__", value)
)
def test_a_worker_that_is_killed_in_a_pass_costs_its_own_tasks(cluster, store, road, during):
    gate = opened(store)
    pid = next(iter(cluster.run(os.getpid).values()))
    with as_soon_as(lambda: len(PASSES[during](store)) >= 2, lambda: os.kill(pid, signal.SIGKILL)):
        found = road(gate)
    np.testing.assert_array_equal(found, EXPECTED[road])
    assert gone(store / "test_id" / "scratch")


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of the sockets to a killed scheduler
@pytest.mark.parametrize("road", [compute, compact])
@pytest.mark.slow
def test_a_scheduler_that_is_killed_in_the_middle_costs_the_call(store, tmp_path, of_processes, caplog, road):
    caplog.set_level(logging.CRITICAL, "distributed.client")  # a record of the loss would keep the frames of the call
    gate = opened(store)
    with of_processes(tmp_path / "dask") as client:
        pid = client.run_on_scheduler(os.getpid)
        lost = (
            (ClusterError,) if road is compact else (ClusterError, CancelledError, OSError)
        )  # the other call is dask's
        in_the_middle = as_soon_as(lambda: len(PASSES["scatters"](store)) >= 2, lambda: os.kill(pid, signal.SIGKILL))
        with in_the_middle, pytest.raises(lost):
            road(gate)
    assert gone(store / "test_id" / "scratch")
    np.testing.assert_array_equal(compact(gate), VALUES[PERMUTED])  # without a cluster
    assert gate.verify().problems == ()


# -------------------------------------------------------------------------------------- scratch


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="a path that is another one in each process")
def test_workers_that_do_not_share_the_scratch_are_refused_at_the_start(store, tmp_path, of_processes, monkeypatch):
    monkeypatch.chdir(tmp_path)
    gate = opened(store)
    with of_processes(tmp_path / "dask"), dask.config.set({"storegate.scratch-directory": "/proc/self/cwd/scratch"}):
        with pytest.raises(SpillError, match=r"not visible to 2 workers .*scratch-directory.*share.*absolute"):
            compact(gate)
        with pytest.raises(SpillError, match=r"seen from this worker.*scratch-directory.*share"):
            compute(gate)
        assert list(tmp_path.rglob("map-*")) == []
        assert gone(tmp_path / "scratch")
    np.testing.assert_array_equal(gate.get_data("x"), VALUES[PERMUTED])


@pytest.mark.slow
def test_a_relative_scratch_directory_is_the_clients(cluster, store, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    gate = opened(store)
    with dask.config.set({"storegate.scratch-directory": "scratch"}):
        np.testing.assert_array_equal(compute(gate), VALUES[PERMUTED])
        np.testing.assert_array_equal(compact(gate), VALUES[PERMUTED])
    assert gone(tmp_path / "here" / "scratch")
    assert list(tmp_path.rglob("map-*")) == []


@pytest.mark.slow
@pytest.mark.parametrize(("cluster", "road"), [(HERE, compute), (OWN, compact)], indirect=["cluster"])
def test_a_store_on_s3_is_shared_as_a_directory_is(cluster, s3_args, tmp_path, road):
    gate = StoreGate("zarr", {**s3_args, "budget": "2MiB"}, "test_id")
    gate.add_data("x", VALUES, shuffle=SEED)
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch"}):
        with as_soon_as((tmp_path / "scratch").exists, lambda: None):
            found = road(gate)
        np.testing.assert_array_equal(found, VALUES[PERMUTED])
        del found
        assert gone(tmp_path / "scratch")


# -------------------------------------------------------------------------------------- life


@pytest.mark.slow
def test_a_temporary_store_lives_as_long_as_what_is_computed_from_it(cluster):
    def persisted():
        gate = StoreGate("zarr", None, "test_id")
        gate.add_data("x", VALUES)
        return gate["train"].to_xarray()["x"].persist()

    lazy = persisted()
    gc.collect()
    np.testing.assert_array_equal(lazy.values, VALUES)


def most_at_once(number, path):
    """Return how many tasks were within this one's time, each of which waits for another or for a while."""
    with open(path, "a") as file:
        file.write("+\n")
        file.flush()
        time.sleep(0.05)  # what overlaps is what is looked for
        seen = Path(path).read_text().split()
        file.write("-\n")
    return seen.count("+") - seen.count("-")


@pytest.mark.slow
def test_no_more_tasks_at_once_than_were_planned(tmp_path):
    """A plan may have fewer than the worker has threads, each with more memory."""
    with scheduler_here(tmp_path / "dask") as (client, start_worker):
        start_worker(4)
        client.wait_for_workers(1, timeout=120)
        for planned in (1, 2):
            path = str(tmp_path / f"log-{planned}")
            found = run((partial(most_at_once, number, path) for number in range(12)), planned)
            assert max(found) <= planned


@pytest.mark.slow
def test_a_task_plans_with_its_workers_memory(tmp_path, store):
    with scheduler_here(tmp_path / "dask") as (client, start_worker):
        start_worker()
        found = client.submit(lambda: astuple(opened(store, "4GB").capacity), pure=False).result()
    assert found == (700 * 10**6, 1)
