"""Stores in use: readers of a version, laziness, processes, tidiness, names and progress."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine import testing
from tests.processes import environment
from tests.store.storage_cases import ROWS, segment_paths


class TestPinnedReaders:
    def test_a_dataset_keeps_its_version(self, gate):
        x = np.arange(2000.0).reshape(1000, 2)
        gate.add_data(["x", "y"], [x, np.arange(1000)], shuffle=3, do_compile=True)
        expected = x[np.random.RandomState(3).permutation(1000)]
        held = gate["train"].to_xarray()
        lazy = gate["train"]["x"].data
        gate.update_data("x", np.zeros((10, 2)), index=(0, 10))
        gate.astype("x", "i2")
        gate.shuffle()
        gate.add_data("x", np.zeros((10, 2)))
        gate.compact()
        gate.delete_data("x")
        assert held.encoding["version"] < gate.repository().version
        np.testing.assert_array_equal(held["x"].values, expected)
        np.testing.assert_array_equal(lazy.compute(), expected)


class TestLaziness:
    def test_building_reads_nothing(self, gate, counted_reads):
        gate.add_data(["x", "y"], [np.zeros((1000, 3)), np.arange(1000) % 3], phase=(800, 100, 100), do_compile=True)
        gate.shuffle()
        gate.onehot("y", 3, "all")
        gate.astype("x", "f2", "all")
        gate.argmax("y", 1, "all")
        counted_reads.clear()
        dataset, tree = gate["train"].to_xarray(), gate.to_datatree()
        gate.get_data(("x", "x"), "all", compute=False)
        gate["train"]["x"].data.mean()
        part = dataset.isel(sample=slice(0, 10))
        assert counted_reads == []
        assert tree["valid"].sizes["sample"] == 100
        assert dataset["x"].dims == ("sample", "x_1")
        part.compute(scheduler="sync")
        assert len(counted_reads) == 2

    def test_changes_read_and_write_no_rows(self, stored, tmp_path, counted_reads):
        n = 1_000_000
        labels = np.random.default_rng(0).integers(0, 10, n).astype("i1")
        stored.add_data("y", labels, do_compile=True)
        stored.shuffle(seed=3)
        stored.onehot("y", 10)
        stored.argmax("y", 1)
        stored.astype("y", "i4")
        assert counted_reads == []
        assert len(segment_paths(tmp_path / "store")) == 1
        code = (
            "from storegate import StoreGate\n"
            f"gate = StoreGate('zarr', {{'output_dir': {str(tmp_path / 'store')!r}, 'mode': 'r'}}, 'test_id')\n"
            "rows = gate.get_data('y', index=(5, 105)); print(rows.dtype, *rows)"
        )
        out = subprocess.run([sys.executable, "-c", code], check=True, env=environment(), capture_output=True)
        expected = labels[np.random.RandomState(3).permutation(n)]
        assert out.stdout.decode().split() == ["int32", *map(str, expected[5:105])]


class TestProcesses:
    def test_a_forked_child_reads_and_writes_as_its_parent_does(self, stored):
        rows = np.random.default_rng(0).standard_normal((600_000, 8))
        stored.add_data("x", rows)
        stored.get_data("x")
        pid = os.fork()
        if pid == 0:  # the child
            import warnings

            status = 1
            try:
                warnings.simplefilter("error")
                stored.add_data("y", rows)
                status = 0 if np.array_equal(stored.get_data("x"), rows) else 2
            finally:
                os._exit(status)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        np.testing.assert_array_equal(stored.get_data("y"), rows)

    @pytest.mark.parametrize("method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_spawned_processes_get_a_working_gate(self, gate, method):
        gate.add_data("x", ROWS["f"], shuffle=2)
        with multiprocessing.get_context(method).Pool(1) as pool:
            found = pool.apply(read_rows, (gate, "x"))
        np.testing.assert_array_equal(found, gate.get_data("x"))

    def test_threads_share_a_gate(self, gate):
        from concurrent.futures import ThreadPoolExecutor

        rows = [np.full((10, 2), number) for number in range(40)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda part: gate.add_data("x", part), rows))
        assert sorted(gate.get_data("x")[::10, 0]) == list(range(40))


def read_rows(gate, name):
    return gate.get_data(name)


def test_random_rows_are_of_every_kind():
    for kind in ("bool", "U3", "M8[s]", "c8", "u1"):
        rows = testing.random_rows(np.random.default_rng(0), 50, np.dtype(kind), (2,))
        assert rows.dtype == np.dtype(kind)
        assert len(np.unique(rows)) > 1


class TestTidiness:
    def test_many_shuffles_and_updates_stay_small(self, gate, backend, tmp_path):
        """Orders that nest become index arrays: manifests stay small, and what is read the same."""
        x = np.arange(500)
        gate.add_data(["x", "y"], [x, -x])
        for number in range(30):
            gate.shuffle("train", number)
            x = x[np.random.RandomState(number).permutation(500)]
            gate["train"][["x", "y"]][7:9] = [[number, 0], [-number, 0]]
            x[7:9] = [number, 0]
        np.testing.assert_array_equal(gate.get_data("x"), x)
        np.testing.assert_array_equal(gate.get_data("y"), -x)
        np.testing.assert_array_equal(gate["train"]["x"].data.compute(), x)
        assert gate.table["train"]["x"].order.depth <= 9
        if backend != "numpy":
            again = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")
            np.testing.assert_array_equal(again.get_data("x"), x)
            assert max(path.stat().st_size for path in (tmp_path / "store").rglob("manifests/*")) < 500_000

    def test_many_scattered_updates_stay_small(self, gate):
        x = np.zeros(3000, int)
        gate.add_data("x", x)
        for number in range(8):
            rows = np.arange(number, 3000, 20)
            gate["train"]["x"][rows] = np.full(len(rows), number)
            x[rows] = number
        np.testing.assert_array_equal(gate.get_data("x"), x)


class TestNames:
    @pytest.mark.parametrize(
        "name",
        [
            "",
            ".",
            "..",
            "a/b",
            "a\\b",
            ".zarr",
            "a\0b",
            "x" * 300,
            "a\nb",
            "\x7f",
            "zarr.json",
            "../up",
            "/abs",
            "e\u0301",
        ],
    )
    def test_names_that_cannot_be_stored_change_nothing(self, stored, tmp_path, name):
        stored.add_data("x", [1])
        before = sorted(tmp_path.rglob("*"))
        for call in (
            lambda: stored.add_data(name, [1]),
            lambda: stored.update_data(name, [1]),
            lambda: stored.create_empty(name, (3,)),
            lambda: stored.add_data(["ok", name], [[1], [2]]),
            lambda: stored.set_data_id(name),
            lambda: StoreGate("zarr", {"output_dir": tmp_path / "other"}, data_id=name),
        ):
            with pytest.raises(ValueError, match=r"name|data_id"):
                call()
        assert sorted(tmp_path.rglob("*")) == before
        assert stored.data_id == "test_id"


class TestProgress:
    @pytest.mark.parametrize("shown", [True, False])
    def test_long_work_shows_a_bar_in_a_terminal(self, shown):
        pty = pytest.importorskip("pty")  # Windows has none
        code = (
            "import dask, tqdm.std; from storegate_engine.settings import progress_bar\n"
            f"dask.config.set({{'storegate.progress': {shown}}})\n"
            "now = 0.0; tqdm.std.time = lambda: now\n"
            "with progress_bar('store', 100) as bar:\n"
            "    bar.update(10); now = 2.2; bar.update(50)\n"
        )
        master, slave = pty.openpty()
        termios = pytest.importorskip("termios")
        termios.tcsetwinsize(slave, (24, 80))
        subprocess.run([sys.executable, "-c", code], stderr=slave, check=True, env=environment())
        os.close(slave)
        printed = b""
        try:
            while chunk := os.read(master, 4096):
                printed += chunk
        except OSError:  # Linux: the other end is closed
            pass
        os.close(master)
        assert (b"store" in printed) == shown


def test_compact_does_not_mind_labels_of_rows_of_other_phases(tmp_path):
    """Phases of one shuffled array share its stored rows, and each may have its own number of classes."""
    labels = np.arange(100) % 50
    labels[:50] = 0
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data("y", labels, phase=(0.5, 0.5, 0.0), shuffle=3)
        few = gate.get_data("y", "train")
        gate["train"]["y"][few >= 10] = np.zeros(np.count_nonzero(few >= 10), int)
        few = np.where(few < 10, few, 0)
        gate.onehot("y", 10)
        gate.compact("train", "y")
        np.testing.assert_array_equal(gate.get_data("y"), np.identity(10)[few])
