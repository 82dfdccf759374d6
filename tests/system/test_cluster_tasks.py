"""Tasks of a worker that call us: they wait for other tasks of theirs, and the worker has one thread."""

from __future__ import annotations

import copy

import dask
import dask.array as da
import numpy as np
import pytest
from distributed import Client, LocalCluster, get_client

from storegate import StoreGate

ROWS, SEED = 20_000, 3
SECONDS = 120
"""A task that waits for its own thread never ends; any other takes a second or two."""


def opened(store):
    return StoreGate("hybrid", {"output_dir": store, "budget": "16MiB"}, "test_id")


def expected():
    rows = np.random.default_rng(0).random((ROWS, 64), dtype="f4")
    return rows, rows[np.random.RandomState(SEED).permutation(ROWS)]


@pytest.fixture(autouse=True)
def configuration():
    """Take back dask's configuration: tasks that set it at once, in threads of this process, leave what others set."""
    before = copy.deepcopy(dask.config.config)
    yield
    dask.config.config.clear()
    dask.config.config.update(before)


@pytest.fixture(
    params=[
        "threads of this process",
        *(pytest.param(each, marks=pytest.mark.slow) for each in ("in this process", "of its own")),
    ]
)
def one_thread(request, tmp_path, of_processes):
    """A cluster of one worker that has one thread."""
    if request.param == "of its own":
        with of_processes(tmp_path / "dask", n_workers=1) as client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=1,
            # a worker pauses when its process holds too much, and this one may hold what other tests have left
            memory_limit="700MB" if request.param == "in this process" else "32GB",
            processes=request.param == "in this process",
            host="127.0.0.1",
            protocol="tcp://",
            dashboard_address="127.0.0.1:0",
            local_directory=str(tmp_path / "dask"),
        ) as running,
        Client(running) as client,
    ):
        yield client


def compact(gate):
    gate.compact()
    return gate.get_data("x")


def to_memory(gate):
    gate.to_memory("x")
    gate.set_mode("numpy")
    return gate.get_data("x")


def to_storage(gate):
    gate.to_memory("x")
    gate.delete_data("x")
    gate.to_storage("x")
    return gate.get_data("x")


def batches_of_rows_on_workers(gate):
    gate.to_memory("x")
    gate.set_mode("numpy")
    return np.concatenate(list(gate["train"]["x"].batches(1000, shuffle=False, budget="200MiB")))


def add_data_of_dask(gate):
    gate.add_data("y", da.ones((ROWS, 64), "f4", chunks=(1000, 64)) + gate["train"]["x"].data)
    return gate.get_data("y") - np.float32(1)


def add_data_of_ours(gate):
    gate.add_data("y", gate["train"]["x"].data)
    return gate.get_data("y")


def dataset(gate):
    return gate["train"].to_xarray()["x"].values


def fingerprint(gate):
    return gate.fingerprint("x")


def verify(gate):
    gate.compact()
    return bool(gate.verify().problems)


def in_a_task(call, store):
    """Compute, which makes the worker's client active, and then call."""
    assert get_client() is not None
    assert da.ones(10, chunks=5).sum().compute() == 10
    with dask.config.set({"storegate.shuffle": "exchange"}):  # which runs many tasks
        return call(opened(store))


ROADS = [
    compact,
    to_memory,
    to_storage,
    batches_of_rows_on_workers,
    add_data_of_dask,
    add_data_of_ours,
    dataset,
    fingerprint,
    verify,
]


@pytest.mark.slow
def test_tasks_that_call_us_return(one_thread, tmp_path):
    rows, shuffled = expected()
    for road in ROADS:
        store = tmp_path / road.__name__
        gate = opened(store)
        gate.add_data("x", rows, shuffle=SEED)
        found = one_thread.submit(in_a_task, road, store, pure=False).result(timeout=SECONDS)
        if road is fingerprint:
            assert found == gate.fingerprint("x")
        elif road is verify:
            assert found is False
        elif road is add_data_of_dask:
            np.testing.assert_allclose(found, shuffled, rtol=0, atol=1e-6)
        else:
            np.testing.assert_array_equal(found, shuffled, err_msg=road.__name__)


def test_a_thread_that_was_given_back_is_not_taken_twice(one_thread, tmp_path):
    """A worker of one thread runs one of these tasks after the other, whatever they did."""
    rows, shuffled = expected()
    gate = opened(tmp_path / "store")
    gate.add_data("x", rows, shuffle=SEED)
    prints = [one_thread.submit(in_a_task, fingerprint, tmp_path / "store", pure=False) for _ in range(4)]
    assert {future.result(timeout=SECONDS) for future in prints} == {gate.fingerprint("x")}
    assert sum(one_thread.nthreads().values()) == 1
