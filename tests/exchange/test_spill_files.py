"""Spill of exchanges: made, used again, written over and removed; damaged files are named."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine import holds
from storegate_engine import scratch as spill
from storegate_engine.buffers import Workspace
from storegate_engine.errors import CorruptStoreError, SpillError
from storegate_engine.exchange import bucket_sorts, driver, open_exchange, plans, spill_files
from storegate_engine.exchange.plans import Wanted, choose
from storegate_engine.exchange.sorts import BucketSort
from storegate_engine.store.rewriting import plan_rewrite
from tests.exchanges import collected, scratch
from tests.processes import environment


class TestSpill:
    def test_a_second_compute_reuses_the_spill(self, shuffled, counted_reads):
        gate, expected, _ = shuffled
        lazy = gate["train"]["x"].data
        lazy.compute(scheduler="sync")
        assert len(scratch(gate.repository().location.path)) == 1
        counted_reads.clear()
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), expected)
        assert counted_reads == []

    def test_a_spill_goes_with_its_plan(self, shuffled):
        gate, _, _ = shuffled
        lazy = gate["train"]["x"].data
        lazy.compute()
        store = gate.repository().location.path
        assert scratch(store) != []
        del lazy
        gc.collect()
        assert not (store / "scratch").exists()

    def test_compact_leaves_no_spill(self, shuffled):
        gate, expected, _ = shuffled
        gate.compact()
        assert not (gate.repository().location.path / "scratch").exists()
        np.testing.assert_array_equal(gate.get_data("x"), expected)

    @pytest.mark.slow
    def test_a_spill_goes_at_the_end_of_the_process(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        code = (
            "import sys, numpy as np; from storegate import StoreGate\n"
            f"gate = StoreGate('zarr', {{'output_dir': {str(tmp_path / 'store')!r}, 'budget': '1MiB'}}, 'test_id')\n"
            "lazy = gate['train']['x'].data; print(float(lazy.sum().compute()))"
        )
        out = subprocess.run([sys.executable, "-c", code], check=True, env=environment(), capture_output=True)
        assert float(out.stdout) == pytest.approx(float(expected.sum()), rel=1e-4)
        assert not (gate.repository().location.path / "scratch").exists()

    def test_scratch_directory(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        with dask.config.set({"storegate.scratch-directory": str(tmp_path / "elsewhere")}):
            lazy = gate["train"]["x"].data
            np.testing.assert_array_equal(lazy.compute(), expected)
            (directory,) = (tmp_path / "elsewhere").iterdir()
            assert directory.stat().st_mode & 0o077 == 0
        assert scratch(gate.repository().location.path) == []


class TestSpare:
    """Files that nobody needs any more are written over."""

    def spill(self, directory, plan, content):
        made = spill.open_spill(directory, plan * 32)
        made.path.mkdir(parents=True, exist_ok=True)
        (made.path / "map-000000").write_bytes(content)
        return made

    def test_files_are_left_to_another_plan_by_the_last_holder(self, tmp_path):
        old, heir = self.spill(tmp_path, "1", b"old"), spill.open_spill(tmp_path, "2" * 32)
        path = old.path
        also = spill.open_spill(tmp_path, "1" * 32)
        old.leave_to(heir)
        del old
        assert (path / "map-000000").read_bytes() == b"old"
        del also
        assert not path.exists()
        assert (heir.path / spill.SPARE / "map-000000").read_bytes() == b"old"
        following = self.spill(tmp_path, "3", b"new")
        heir.leave_to(following)
        del heir
        left = [str(path.relative_to(following.path)) for path in following.path.rglob("*")]
        assert sorted(left) == [holds.LOCK, "map-000000", spill.SPARE], "what the heir did not use goes"
        del following
        assert not tmp_path.exists() or list(tmp_path.iterdir()) == []

    def test_nothing_is_left_to_a_plan_that_is_gone(self, tmp_path):
        old, other = self.spill(tmp_path, "1", b"old"), self.spill(tmp_path, "4", b"other")
        heir = spill.open_spill(tmp_path, "2" * 32)
        old.leave_to(heir)
        del heir
        del old
        assert list(tmp_path.iterdir()) == [other.path]

    def test_what_is_left_behind_is_taken_by_the_next_one(self, tmp_path):
        old, other = self.spill(tmp_path, "1", b"old"), self.spill(tmp_path, "4", b"other")
        also = spill.open_spill(tmp_path, "1" * 32)
        old.leave_behind()
        also.leave_to(other)  # whoever shares it does not undo that
        del old
        assert holds.orphans(tmp_path) == [], "somebody holds it"
        del also
        (path,) = holds.orphans(tmp_path)
        assert (path / "map-000000").read_bytes() == b"old"
        taken = spill.open_spill(tmp_path, "1" * 32)
        assert (taken.path / "map-000000").read_bytes() == b"old"
        assert holds.orphans(tmp_path) == []
        del taken
        assert list(tmp_path.iterdir()) == [other.path]

    def test_one_who_is_done_does_not_remove_what_another_thread_reads(self, shuffled):
        gate, expected, _ = shuffled
        variable = gate.table["train"]["x"]
        plan = plan_rewrite(variable, 100, gate.capacity)
        assert plan.kind == "exchange"
        with open_exchange([variable], plan) as reading:
            with open_exchange([variable], plan):
                pass
            rows = [np.array(next(reading.collect(bucket, [Workspace()]))) for bucket in range(plan.n_buckets)]
            np.testing.assert_array_equal(np.concatenate(rows), expected)
        assert scratch(gate.repository().location.path) == []

    @pytest.mark.parametrize("nbytes", [0, 10, 300_000, 3_000_000])
    def test_a_spare_file_of_any_length_is_written_over(self, shuffled, tmp_path, nbytes):
        gate, expected, _ = shuffled
        exchange = BucketSort(gate.table["train"]["x"], 5000, 4000, str(tmp_path / "spill"), (0, 5))
        (tmp_path / "spill" / spill.SPARE).mkdir(parents=True)
        for number in range(2):
            (tmp_path / "spill" / spill.SPARE / f"map-{number:06d}").write_bytes(b"\xff" * nbytes)
        for number in range(exchange.n_maps):
            bucket_sorts.scatter(exchange, number, Workspace())
        assert list((tmp_path / "spill" / spill.SPARE).iterdir()) == []
        sizes = {path.stat().st_size for path in (tmp_path / "spill").glob("map-*")}
        assert len(sizes) == 1
        for bucket in range(5):
            np.testing.assert_array_equal(collected(exchange, bucket), expected[bucket * 4000 : (bucket + 1) * 4000])


class TestFaults:
    def exchange(self, gate, directory):
        variable = gate.table["train"]["x"]
        exchange = BucketSort(variable, 5000, 4000, str(directory), (0, 5))
        for number in range(exchange.n_maps):
            bucket_sorts.scatter(exchange, number, Workspace())
        return exchange

    @pytest.mark.parametrize("damage", ["flip", "truncate", "remove", "header", "empty"])
    def test_a_damaged_spill_file_is_named(self, shuffled, tmp_path, damage):
        gate, expected, _ = shuffled
        exchange = self.exchange(gate, tmp_path / "spill")
        np.testing.assert_array_equal(collected(exchange, 2), expected[8000:12_000])
        path = tmp_path / "spill" / "map-000001"
        content = bytearray(path.read_bytes())
        if damage == "flip":
            content[len(content) // 2] ^= 1
        elif damage == "header":
            content[8 + 24 * 2 + 5] ^= 1  # the entry of the third part
        path.write_bytes({"truncate": content[: len(content) // 2], "empty": b""}.get(damage, bytes(content)))
        if damage == "remove":
            path.unlink()
        with pytest.raises(CorruptStoreError, match="map-000001"):
            [collected(exchange, bucket) for bucket in range(5)]

    def test_a_plan_counts_the_entries_that_are_read(self):
        assert spill_files.ENTRY.itemsize == plans.ENTRY_NBYTES
        rows = Wanted(10**9, 10**9, 64, in_order=False)
        plan = choose(rows, budget_nbytes=2**30, workers=2, force="exchange", passes=2)
        entries = plan.n_maps * plan.n_buckets * plans.ENTRY_NBYTES
        assert plan.read_nbytes == 2 * 64 * 10**9 + entries
        three = choose(rows, budget_nbytes=2**28, workers=2, force="exchange", passes=3)
        assert three.passes == 3
        assert 3 * 64 * 10**9 < three.read_nbytes < 3 * 64 * 10**9 + three.n_maps * three.n_buckets * plans.ENTRY_NBYTES

    def test_a_file_of_another_plan_or_place_is_not_taken(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        exchange = self.exchange(gate, tmp_path / f"{'1' * 32}.a.1.b")
        exchange.path("").rename(tmp_path / f"{'1' * 32}.a.2.c")  # as one that adopts it does
        exchange = replace(exchange, directory=str(tmp_path / f"{'1' * 32}.a.2.c"))
        np.testing.assert_array_equal(collected(exchange, 2), expected[8000:12_000])
        other = self.exchange(gate, tmp_path / f"{'2' * 32}.a.1.b")
        for source in (other.map_path(1), exchange.map_path(2)):
            content = exchange.map_path(1).read_bytes()
            exchange.map_path(1).write_bytes(source.read_bytes())
            with pytest.raises(CorruptStoreError, match="map-000001 is not what was written"):
                collected(exchange, 2)
            exchange.map_path(1).write_bytes(content)

    def test_the_entry_of_another_part_is_not_taken(self, shuffled, tmp_path):
        gate, expected, _ = shuffled
        exchange = self.exchange(gate, tmp_path / "spill")
        content = bytearray(exchange.map_path(1).read_bytes())
        entries = [slice(8 + 24 * number, 8 + 24 * (number + 1)) for number in range(5)]
        content[entries[2]] = content[entries[3]]
        exchange.map_path(1).write_bytes(content)
        np.testing.assert_array_equal(collected(exchange, 3), expected[12_000:16_000])
        with pytest.raises(CorruptStoreError, match="map-000001 is not what was written: the entry of part 2"):
            collected(exchange, 2)

    def test_an_interrupted_task_leaves_no_part_of_a_file(self, shuffled, tmp_path, monkeypatch):
        gate, _, _ = shuffled
        monkeypatch.setattr(
            "storegate_engine.exchange.spill_files.write_all", lambda *_: (_ for _ in ()).throw(MemoryError)
        )
        with pytest.raises(MemoryError):
            self.exchange(gate, tmp_path / "spill")
        assert list((tmp_path / "spill").iterdir()) == []

    def test_a_store_that_cannot_be_written_keeps_its_spill_elsewhere(self, shuffled, tmp_path, monkeypatch):
        gate, expected, _ = shuffled
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "system"))
        store = gate.repository().location.path
        for path in [store, *store.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
        if os.access(store, os.W_OK):  # as the superuser may, whatever the mode
            original = os.access
            monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != store and original(path, mode))
        reader = StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r", "budget": "1MiB"}, "test_id")
        lazy = reader["train"]["x"].data
        np.testing.assert_array_equal(lazy.compute(), expected)
        assert list((tmp_path / "system").glob("storegate-scratch-*/*/map-*"))
        assert scratch(store) == []
        del lazy
        for path in [store, *store.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)

    def test_a_full_disk_is_a_typed_error_and_leaves_the_store(self, shuffled, tmp_path):
        """RLIMIT_FSIZE stands for a full disk: writes beyond it fail."""
        gate, expected, _ = shuffled
        code = (
            "import resource, signal\n"
            "from storegate import StoreGate\n"
            "from storegate_engine.errors import SpillError\n"
            f"gate = StoreGate('zarr', {{'output_dir': {str(tmp_path / 'store')!r}, 'budget': '1MiB'}}, 'test_id')\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
            "try:\n"
            "    gate.compact()\n"
            "except SpillError as err:\n"
            "    print(err)\n"
        )
        out = subprocess.run(
            [sys.executable, "-c", code], check=True, env=environment(), capture_output=True, text=True
        )
        assert "map-0000" in out.stdout
        assert "scratch-directory" in out.stdout
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)

    def test_no_place_for_spill(self, shuffled, tmp_path):
        gate, _, _ = shuffled
        (tmp_path / "file").write_text("no directory")
        nowhere = {"storegate.scratch-directory": str(tmp_path / "file" / "below")}
        with dask.config.set(nowhere), pytest.raises(SpillError, match="scratch-directory"):
            gate.compact()
        assert gate.table["train"]["x"].order.runs(0, 100) is None

    @pytest.mark.slow
    @pytest.mark.parametrize("moment", ["scatter", "collect"])
    def test_a_killed_compact_is_run_again(self, shuffled, tmp_path, moment):
        gate, expected, _ = shuffled
        code = (
            "import os, signal\n"
            "from storegate import StoreGate\n"
            "from storegate_engine.exchange import driver\n"
            f"name = {'scatter' if moment == 'scatter' else 'collect'!r}\n"
            "original, count = getattr(driver, name), []\n"
            "def killing(*args, **options):\n"
            "    count.append(1)\n"
            "    if len(count) == 12: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return original(*args, **options)\n"
            "setattr(driver, name, killing)\n"
            f"args = {{'output_dir': {str(tmp_path / 'store')!r}, 'budget': '1MiB', 'chunk': 100}}\n"
            "StoreGate('zarr', args, 'test_id').compact()\n"
        )
        killed = subprocess.run([sys.executable, "-c", code], check=False, env=environment())
        assert killed.returncode == -signal.SIGKILL
        assert scratch(tmp_path / "store") != []
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        gate.compact()
        np.testing.assert_array_equal(gate.get_data("x"), expected)
        assert gate.table["train"]["x"].order.runs(0, 20_000) == [(0, 20_000)]
        assert scratch(tmp_path / "store") == []

    def test_an_interrupted_compact_changes_nothing(self, shuffled, tmp_path, monkeypatch):
        gate, expected, _ = shuffled

        def interrupted(*args, **options):
            raise KeyboardInterrupt

        monkeypatch.setattr(driver, "collect", interrupted)
        version = gate.repository().version
        segments = sorted((tmp_path / "store" / "test_id" / "segments").glob("*/zarr.json"))
        with pytest.raises(KeyboardInterrupt):
            gate.compact()
        assert gate.repository().version == version
        assert sorted((tmp_path / "store" / "test_id" / "segments").glob("*/zarr.json")) == segments
        np.testing.assert_array_equal(gate.get_data("x"), expected)
