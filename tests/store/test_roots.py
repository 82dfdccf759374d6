"""Roots that several processes open for the first time at once, and what a killed one leaves."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.contents import MARKER
from storegate_engine.errors import NotAStoreError
from storegate_engine.locations import Location

PARTIAL = f"storegate.{'0' * 31}f.partial"


def open_and_add(directory, barrier, number):
    barrier.wait()
    StoreGate("zarr", {"output_dir": directory}, f"id{number}").add_data("x", [number])


@pytest.mark.parametrize("mode", ["a", "w"])
def test_a_marker_that_is_just_written_is_no_foreign_file(tmp_path, mode):
    (tmp_path / PARTIAL).write_bytes(b'{"form')
    with StoreGate("zarr", {"output_dir": tmp_path, "mode": mode}, "a") as gate:
        gate.add_data("x", [1])
    (tmp_path / "other.partial").write_bytes(b"")
    (tmp_path / MARKER).unlink()
    with pytest.raises(NotAStoreError, match="not a store"):
        StoreGate("zarr", {"output_dir": tmp_path, "mode": mode}, "a")


@pytest.mark.parametrize("mode", ["a", "r"])
def test_a_store_that_another_process_makes_while_this_one_looks(tmp_path, monkeypatch, mode):
    """Between the first look for the marker and the listing, the other one writes the marker and a data_id."""
    list_children = Location.children

    def other_first(self, key=""):
        monkeypatch.setattr(Location, "children", list_children)
        StoreGate("zarr", {"output_dir": tmp_path}, "other").add_data("x", [7])
        return list_children(self, key)

    monkeypatch.setattr(Location, "children", other_first)
    with StoreGate("zarr", {"output_dir": tmp_path, "mode": mode}, "other") as gate:
        np.testing.assert_array_equal(gate.get_data("x"), [7])


def test_many_threads_open_a_new_root_at_once(tmp_path):
    for attempt in range(6):
        barrier, failed = threading.Barrier(8), []

        def work(number, directory=tmp_path / f"root{attempt}", barrier=barrier, failed=failed):
            try:
                open_and_add(directory, barrier, number)
            except Exception as err:  # noqa: BLE001
                failed.append(err)

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []


def test_many_processes_open_a_new_root_at_once(processes, tmp_path):
    barrier = processes.Barrier(4)
    workers = [processes.Process(target=open_and_add, args=(tmp_path / "root", barrier, n)) for n in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    with StoreGate("zarr", {"output_dir": tmp_path / "root", "mode": "r"}) as gate:
        assert gate.get_data_ids() == [f"id{number}" for number in range(4)]


def test_a_root_that_is_emptied_stays_a_store(tmp_path, monkeypatch):
    """Killed in the middle of ``mode="w"`` it can still be opened."""
    StoreGate("zarr", {"output_dir": tmp_path}, "a").add_data("x", [1])
    deleted = []
    monkeypatch.setattr(Location, "delete", lambda self, key="": deleted.append(key))
    StoreGate("zarr", {"output_dir": tmp_path, "mode": "w"})
    assert sorted(deleted) == sorted(set(os.listdir(tmp_path)) - {MARKER})
