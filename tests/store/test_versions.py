"""Versions of a table: their history, going back, what differs, and what vacuum makes of them."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine import scratch as spill
from storegate_engine.errors import ReadOnlyError, SnapshotExpired, VersionNotFoundError
from storegate_engine.store import ArraySource
from tests.store.versions_cases import X


def at_version(directory, version):
    return StoreGate("zarr", {"output_dir": directory}, "test_id", version=version)


@pytest.fixture
def evolved(stored):
    """Six versions: add, add, update, shuffle, astype, delete."""
    stored.add_data(["x", "y"], [X, np.arange(20)])
    stored.add_data(["x", "y"], [X[:5], np.arange(5)])
    stored.update_data("x", X[:2] * 10, index=(3, 5), do_compile=False)
    stored.shuffle("train", seed=3)
    stored.astype("x", "f8")
    stored.delete_data("y", do_compile=False)
    return stored


def states():
    """What ``x`` holds at each version."""
    first = X
    second = np.concatenate([X, X[:5]])
    third = second.copy()
    third[3:5] = X[:2] * 10
    fourth = third[np.random.RandomState(3).permutation(25)]
    return {1: first, 2: second, 3: third, 4: fourth, 5: fourth.astype("f8"), 6: fourth.astype("f8")}


class TestHistory:
    def test_every_version_says_how_it_came_to_be(self, evolved):
        before = datetime.now(UTC)
        commits = evolved.history()
        assert [commit.version for commit in commits] == [1, 2, 3, 4, 5, 6]
        operations = ["add_data", "add_data", "update_data", "shuffle", "astype", "delete_data"]
        assert [commit.operation for commit in commits] == operations
        assert [commit.n_rows for commit in commits] == [20, 5, 0, 0, 0, 0]
        assert [commit.nbytes for commit in commits] == [160 + 160, 40 + 40, 16, 0, 0, 0]
        assert commits[3].arguments == {"phase": "train", "seed": 3}
        assert all(timedelta(0) <= before - commit.time < timedelta(minutes=5) for commit in commits)
        assert "update_data" in repr(commits)
        assert repr(commits).splitlines()[0].split() == "version time operation arguments n_rows nbytes".split()

    def test_a_version_opens_as_it_was_and_cannot_change(self, evolved, tmp_path):
        for version, expected in states().items():
            gate = at_version(tmp_path / "store", version)
            np.testing.assert_array_equal(gate.get_data("x"), expected)
            assert gate.get_data("x").dtype == expected.dtype
            assert ("y" in gate["train"]) == (version < 6)
        evolved.add_data("x", X)
        np.testing.assert_array_equal(at_version(tmp_path / "store", 4).get_data("x"), states()[4])
        gate = at_version(tmp_path / "store", 4)
        for change in (
            lambda: gate.add_data("x", X),
            gate.shuffle,
            gate.compact,
            lambda: gate.rollback(2),
            gate.vacuum,
        ):
            with pytest.raises(ReadOnlyError, match=r"version 4, which cannot change.*rollback\(4\)"):
                change()
        assert at_version(tmp_path / "store", 0).get_var_names() == []
        gate.compile()
        assert gate.get_metadata()["sizes"]["train"] == 25

    @pytest.mark.parametrize("version", [7, -1, 10**30])
    def test_a_version_that_never_was(self, evolved, tmp_path, version):
        with pytest.raises(VersionNotFoundError, match="the newest is 6"):
            at_version(tmp_path / "store", version)
        with pytest.raises(ValueError, match="the newest is 6"):
            evolved.rollback(version)
        assert len(evolved.history()) == 6

    def test_opening_a_version_makes_no_store(self, tmp_path):
        with pytest.raises(OSError, match="no store"):
            at_version(tmp_path / "none", 1)
        assert not (tmp_path / "none").exists()
        with pytest.raises(VersionNotFoundError, match="mode='w'"):
            StoreGate("zarr", {"output_dir": tmp_path, "mode": "w"}, version=1)

    def test_rows_in_memory_have_no_versions(self):
        gate = StoreGate(data_id="a")
        gate.add_data("x", [1])
        for call in (gate.history, gate.vacuum, gate.verify, lambda: gate.rollback(1), lambda: gate.diff(0, 1)):
            with pytest.raises(VersionNotFoundError, match="zarr"):
                call()
        with pytest.raises(VersionNotFoundError, match="only the zarr backend keeps versions"):
            StoreGate(data_id="a", version=1)
        np.testing.assert_array_equal(gate.get_data("x"), [1])

    def test_the_hybrid_backend_has_those_of_its_storage(self, tmp_path):
        gate = StoreGate("hybrid", {"output_dir": tmp_path}, "a")
        gate.add_data("x", [1, 2])
        gate.add_data("x", [3])
        gate.rollback(1)
        np.testing.assert_array_equal(gate.get_data("x"), [1, 2])
        assert [commit.operation for commit in gate.history()] == ["add_data", "add_data", "rollback"]
        old = StoreGate("hybrid", {"output_dir": tmp_path}, "a", version=2)
        old.to_memory("x")
        old.set_mode("numpy")
        np.testing.assert_array_equal(old.get_data("x"), [1, 2, 3])


class TestRollback:
    def test_going_back_is_a_new_version_and_loses_nothing(self, evolved, tmp_path):
        for version in (2, 5, 1):
            evolved.rollback(version)
            np.testing.assert_array_equal(evolved.get_data("x"), states()[version])
        assert evolved.history()[-1].arguments == {"version": 1}
        assert evolved.repository().version == 9
        for version, expected in states().items():
            np.testing.assert_array_equal(at_version(tmp_path / "store", version).get_data("x"), expected)
        evolved.add_data(["x", "y"], [X[:1], [0]])
        np.testing.assert_array_equal(evolved.get_data("x"), np.concatenate([X, X[:1]]))

    def test_going_back_to_what_is_vacuumed_meanwhile_is_refused(self, evolved, tmp_path):
        other = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")
        repository = evolved.repository()
        table_at, seen = repository.table_at, []

        def vacuumed_after_the_first_look(version):
            table = table_at(version)
            if not seen:
                other.vacuum(older_than=0)
            seen.append(version)
            return table

        repository.table_at = vacuumed_after_the_first_look
        with pytest.raises(SnapshotExpired):
            evolved.rollback(1)
        assert seen == [1]
        np.testing.assert_array_equal(other.get_data("x"), states()[6])


class TestDiff:
    def test_what_differs_is_named(self, evolved):
        def named(a, b):
            return {(d.name, d.what) for d in evolved.diff(a, b)}

        assert named(1, 2) == {("x", "rows, values"), ("y", "rows, values")}
        assert named(3, 4) == {("x", "order"), ("y", "order")}
        assert named(4, 5) == {("x", "dtype, values")}
        assert named(5, 6) == {("y", "removed")}
        assert named(0, 1) == {("x", "added"), ("y", "added")}
        assert named(6, 6) == set()
        assert "20 rows of float32 (2,)" in repr(evolved.diff(1, 2))
        assert repr(evolved.diff(6, 6)) == "(none)"


class TestVacuum:
    def test_only_what_no_kept_version_needs_goes(self, evolved, tmp_path):
        evolved.compact()
        before = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        planned = evolved.vacuum(older_than=0, keep_versions=3, dry_run=True)
        assert planned.versions == [1, 2, 3, 4]
        assert planned.segments == []
        assert "would free" in str(planned)
        assert before == sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        for version in (5, 6, 7):
            at_version(tmp_path / "store", version).get_data("x")
        done = evolved.vacuum(older_than=0)
        assert done.versions == [1, 2, 3, 4, 5, 6]
        assert len(done.segments) == 3
        after = sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file())
        assert done.nbytes > before - after - 2000
        assert str(done).startswith("freed")
        np.testing.assert_array_equal(evolved.get_data("x"), states()[6])
        evolved.add_data("x", X[:1])
        assert [commit.version for commit in evolved.history()] == [7, 8, 9]
        with pytest.raises(SnapshotExpired, match=r"version 3 .* kept are 7\.\.9"):
            at_version(tmp_path / "store", 3)
        assert evolved.verify().problems == ()

    def test_what_is_young_stays(self, evolved, tmp_path):
        before = sorted(tmp_path.rglob("*"))
        done = evolved.vacuum()
        assert (done.versions, done.segments, done.nbytes) == ([], [], 0)
        assert sorted(tmp_path.rglob("*")) == before
        with evolved.repository().begin("open") as change:  # rows of a transaction that has not committed
            segment = change.new_segment()
            change.store({"z": evolved_source()})
            assert evolved.vacuum(older_than=3600).segments == []
        assert segment.identifier not in evolved.vacuum(older_than=3600).segments

    def test_segments_go_by_the_age_of_their_newest_file(self, evolved, tmp_path):
        with evolved.repository().begin("killed") as change:
            change.repository.store_arrays({"z": evolved_source()}, [])  # of a transaction that cannot clean up
        (orphan,) = set(os.listdir(tmp_path / "store/test_id/segments")) - used_segments(evolved) - {"zarr.json"}
        old = time.time() - 7200
        for path in (tmp_path / "store/test_id/segments" / orphan).rglob("*"):
            os.utime(path, (old, old))
        assert evolved.vacuum(older_than=3600).segments == []  # begun just now, as its name says
        assert evolved.vacuum(older_than=0, keep_versions=100).segments == [orphan]

    def test_left_files_of_killed_processes_go(self, evolved, tmp_path):
        store = tmp_path / "store" / "test_id"
        left = store / "scratch" / f"{'0' * 32}.host.{os.getpid()}.00000000"
        left.mkdir(parents=True)
        (left / "map-000000").write_bytes(b"rows")
        running = spill.open_spill(store / "scratch", "1" * 32)
        partial = store / "manifests" / f"00000007.json.{'a' * 32}.partial"
        partial.write_bytes(b"{")
        assert evolved.vacuum().partial == []
        done = evolved.vacuum(older_than=0, keep_versions=100)
        assert done.scratch == [str(left)]
        assert done.partial == [str(partial)]
        assert not left.exists()
        assert not partial.exists()
        assert running.path.exists()

    @pytest.mark.parametrize("wrong", [{"older_than": -1}, {"older_than": "soon"}, {"keep_versions": 0}])
    def test_wrong_arguments(self, evolved, wrong):
        with pytest.raises(ValueError, match=r"age|keep_versions"):
            evolved.vacuum(**wrong)

    def test_pinned_readers_of_what_is_gone_learn_it(self, evolved, tmp_path):
        """Arrays that were open, lazy ones and text too: an error that says so, never zeros."""
        evolved.add_data("t", np.array(["a", "bc"] * 10))
        pinned = at_version(tmp_path / "store", 7)
        pinned.get_data(["x"])
        pinned.get_data("t")
        held = evolved["train"]["x"].data
        lazy_text = evolved["train"]["t"].data
        evolved.delete_data(["x", "t"], do_compile=False)
        evolved.vacuum(older_than=0)
        for read in (
            lambda: pinned.get_data("x"),
            lambda: pinned.get_data("t"),
            lambda: pinned["train"]["x"][3],
            lambda: held.compute(scheduler="sync"),
            lambda: lazy_text.compute(scheduler="sync"),
        ):
            with pytest.raises(SnapshotExpired, match="vacuumed"):
                read()

    def test_gates_that_slept_through_a_vacuum_see_the_newest(self, evolved, tmp_path):
        empty = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "later")
        other = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")
        for number in range(3):
            evolved.add_data("x", X[:1] + number)
            StoreGate("zarr", {"output_dir": tmp_path / "store"}, "later").add_data("z", [number])
        evolved.vacuum(older_than=0)
        StoreGate("zarr", {"output_dir": tmp_path / "store"}, "later").vacuum(older_than=0)
        np.testing.assert_array_equal(other.get_data("x"), evolved.get_data("x"))
        np.testing.assert_array_equal(empty.get_data("z"), [0, 1, 2])

    def test_on_object_stores_and_in_memory(self, s3_args):
        for args in (s3_args, {"output_dir": "memory://test_vacuum"}):
            gate = StoreGate("zarr", args, "a")
            gate.add_data("x", X)
            gate.add_data("x", X)
            gate.compact()
            assert gate.vacuum(older_than=3600).segments == []
            done = gate.vacuum(older_than=0)
            assert len(done.segments) == 2
            assert done.nbytes > 0
            np.testing.assert_array_equal(gate.get_data("x"), np.concatenate([X, X]))
            assert gate.verify().problems == ()
            assert [commit.operation for commit in gate.history()] == ["compact", "vacuum"]


def evolved_source():
    return ArraySource(np.arange(3))


def used_segments(gate):
    return {
        piece.array.segment
        for version in range(1, 7)
        for _, v in gate.repository().table_at(version)
        for piece in v.pieces
    }
