"""In which threads rows are read: those of dask's tasks and of a stream's own, where many are read side by side."""

from __future__ import annotations

import threading

import dask
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import shards

ROWS = np.random.default_rng(0).random((4000, 32))


@pytest.fixture
def gate(tmp_path):
    with (
        dask.config.set({"storegate.scratch-directory": tmp_path / "scratch"}),
        StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 50}, "a") as opened,
    ):
        opened.add_data("x", ROWS)
        yield opened


@pytest.fixture
def threads(monkeypatch):
    """The names of the threads that read chunks, of which any two may be read by two threads."""
    names = set()
    monkeypatch.setattr(shards, "TASK_NBYTES", (64, 64))
    original = shards.Shards.read_chunks

    def chunks(self, *args):
        name = threading.current_thread().name
        names.add(name.rpartition("_")[0] or name)
        return original(self, *args)

    monkeypatch.setattr(shards.Shards, "read_chunks", chunks)
    return names


def test_rows_that_one_asks_for_are_read_by_all_cores(gate, threads):
    np.testing.assert_array_equal(gate.get_data("x"), ROWS)
    assert threads == {"storegate-read"}


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_block_of_a_graph_is_read_in_the_thread_of_its_task(gate, threads, shuffled):
    expected = ROWS
    if shuffled:
        gate.shuffle("train", seed=3)
        expected = ROWS[np.random.RandomState(3).permutation(len(ROWS))]
    lazy = gate.get_data("x", compute=False)
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), expected)
    assert threads == {threading.current_thread().name}


@pytest.mark.parametrize(("shuffle", "plan"), [(False, "auto"), ("blocks", "auto"), (True, "exchange")])
def test_a_stream_reads_in_its_own_threads(gate, threads, shuffle, plan):
    options = {"block_rows": 1, "buffer_blocks": 4000} if shuffle == "blocks" else {}
    with (
        dask.config.set({"storegate.shuffle": plan}),
        gate["train"]["x"].batches(500, shuffle=shuffle, seed=1, budget="64MiB", **options) as stream,
    ):
        rows = np.concatenate(list(stream))
    np.testing.assert_array_equal(np.sort(rows, axis=0), np.sort(ROWS, axis=0))
    assert threads
    assert threads <= {"storegate-stream", "storegate-stream-read"}
