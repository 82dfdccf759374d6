"""Versions of a table: their history, going back, what differs, and what vacuum and verify make of them."""

from __future__ import annotations

import json
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine import scratch as spill
from storegate_engine import testing
from storegate_engine.arrays import checks
from storegate_engine.errors import ReadOnlyError, SnapshotExpired, VersionNotFoundError
from storegate_engine.store import ArraySource

X = np.arange(40, dtype="f4").reshape(20, 2)


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
        assert [commit.rows for commit in commits] == [20, 5, 0, 0, 0, 0]
        assert [commit.nbytes for commit in commits] == [160 + 160, 40 + 40, 16, 0, 0, 0]
        assert commits[3].arguments == {"phase": "train", "seed": 3}
        assert all(timedelta(0) <= before - commit.time < timedelta(minutes=5) for commit in commits)
        assert "update_data" in repr(commits)
        assert repr(commits).splitlines()[0].split() == "version time operation arguments rows nbytes".split()

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
        with pytest.raises(VersionNotFoundError, match="storage"):
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
            change.repository._store({"z": evolved_source()}, [])  # of a transaction that cannot clean up
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


class TestVerify:
    @pytest.fixture
    def sharded(self, tmp_path):
        """An array of many shards of one chunk, one of a single shard, text and an index."""
        with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 4, "budget": "4MiB"}, "test_id") as gate:
            gate.add_data(["x", "t"], [np.random.default_rng(0).random((64, 4000)), np.array(["a", "bc"] * 32)])
            gate["train"]["t"][list(range(0, 64, 2))] = ["z"] * 32
            yield gate

    def shards(self, tmp_path):
        return sorted(p for p in tmp_path.glob("store/test_id/segments/*/x/c/**/*") if p.is_file())

    def test_all_is_well(self, sharded, tmp_path):
        found = sharded.verify()
        assert found.problems == ()
        assert {row.used_by for row in found if row.used_by} == {"train/x", "train/t"}
        assert len(self.shards(tmp_path)) > 4
        assert repr(found).splitlines()[0].split() == ["key", "used_by", "nbytes", "problem"]

    def test_a_shard_exchanged_for_another_is_found(self, sharded, tmp_path):
        first, second, *_ = self.shards(tmp_path)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        sharded.get_data("x")  # each decodes, and has the checksum of its chunks
        wrong = [row.key for row in sharded.verify().problems]
        assert wrong == [str(path.relative_to(tmp_path / "store/test_id")) for path in (first, second)]

    def test_the_same_with_one_shard(self, stored, tmp_path):
        """Here the manifest alone knows."""
        stored.add_data("x", X)
        stored.add_data("x", X + 1)
        first, second = (p for p in tmp_path.glob("store/test_id/segments/*/x/c/**/*") if p.is_file())
        first.write_bytes(second.read_bytes())
        (problem,) = stored.verify().problems
        assert "checksum does not match" in problem.problem
        assert problem.used_by == "train/x"
        assert first.parents[3].name in problem.key

    @pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
    def test_broken_shards_are_named(self, sharded, tmp_path, damage):
        path = self.shards(tmp_path)[2]
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        damages = {"flip": content, "truncate": content[:20]}
        path.write_bytes(damages[damage]) if damage in damages else path.unlink()
        (problem,) = sharded.verify().problems
        assert problem.key == str(path.relative_to(tmp_path / "store/test_id"))

    def test_an_array_of_endless_wrong_shards_ends(self, sharded, tmp_path, monkeypatch):
        monkeypatch.setattr(checks, "MAX_WRONG", 3)
        for path in self.shards(tmp_path):
            path.unlink()
        *first, last = sharded.verify().problems
        assert len(first) == 3
        assert "3 shards are wrong" in last.problem

    @pytest.mark.parametrize("content", [None, b"", b"1234567", b"\0" * 32, b"x" * 10**6], ids=range(5))
    def test_broken_checksums_are_named(self, sharded, tmp_path, content):
        (path,) = tmp_path.glob("store/test_id/segments/*/x/shards.crc32c")
        path.unlink() if content is None else path.write_bytes(content)
        keys = [row.key for row in sharded.verify().problems]
        assert keys == [str(path.relative_to(tmp_path / "store/test_id"))]

    def test_a_missing_version_in_between_is_named(self, sharded, tmp_path):
        sharded.shuffle()
        (tmp_path / "store/test_id/manifests/00000002.json").unlink()
        (problem,) = sharded.verify().problems
        assert problem.key == "manifests/00000002.json"

    @pytest.mark.parametrize("plan", ["gather", "exchange"])
    def test_rewritten_rows_have_checksums_too(self, sharded, plan, tmp_path):
        import dask

        sharded.shuffle()
        with dask.config.set({"storegate.shuffle": plan}):
            sharded.compact()
        sharded.vacuum(older_than=0)
        assert sharded.verify().problems == ()
        first, second, *_ = self.shards(tmp_path)
        first.write_bytes(second.read_bytes())
        assert len(sharded.verify().problems) == 1

    @pytest.mark.parametrize("dtype", ["U3", "S4", "M8[M]", "m8[ms]", "f2", "bool", "c8", "T"])
    def test_every_dtype(self, stored, dtype):
        kind = np.dtypes.StringDType() if dtype == "T" else np.dtype(dtype)
        rows = testing.random_rows(np.random.default_rng(0), 50, np.dtype("U3") if dtype == "T" else kind, (2,))
        stored.add_data("x", rows.astype(kind))
        assert stored.verify().problems == ()


class TestFingerprints:
    @given(st.data())
    @settings(max_examples=25, deadline=None)
    def test_equal_rows_have_equal_fingerprints_however_they_were_made(self, tmp_path_factory, data):
        rows = data.draw(testing.arrays(max_rows=30))
        seed = data.draw(st.integers(0, 99))
        cut = data.draw(st.integers(0, len(rows)))
        tmp_path = tmp_path_factory.mktemp("store")
        plain = StoreGate(data_id="a")
        plain.add_data("x", rows)
        other = StoreGate("zarr", {"output_dir": tmp_path, "chunk": 3, "compressor": "zstd"}, "b")
        order = np.argsort(np.random.RandomState(seed).permutation(len(rows)))
        other.add_data("y", rows[order][:cut])
        other.add_data("y", rows[order][cut:])
        other.shuffle(seed=seed)
        expected = plain.fingerprint("x")
        assert other.fingerprint("y") == expected
        other.compact()
        assert other.fingerprint("y") == expected
        assert len(expected) == 64

    def test_other_rows_have_others(self):
        def of(rows):
            gate = StoreGate(data_id="a")
            gate.add_data("x", rows)
            return gate.fingerprint("x")

        rows = [X, X[::-1], X.astype("f8"), X.reshape(40), X.reshape(10, 4), X[:19], X + 1e-6]
        texts = [np.array(t, np.dtypes.StringDType()) for t in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""])]
        assert len({of(value) for value in [*rows, *texts]}) == len(rows) + len(texts)

    def test_known_ones_are_in_attrs_and_outlive_the_process(self, stored, tmp_path, counted_reads):
        stored.add_data(["x", "y"], [X, np.arange(20)])
        assert "fingerprints" not in stored["train"].to_xarray().attrs
        found = stored.fingerprint()
        assert set(found) == {"x", "y"}
        stored.shuffle("train", 1)
        stored.rollback(1)
        os.rename(tmp_path / "store", tmp_path / "moved")
        moved = StoreGate("zarr", {"output_dir": tmp_path / "moved", "mode": "r"}, "test_id")
        counted_reads.clear()
        dataset = moved["train"].to_xarray()
        assert json.loads(dataset.attrs["fingerprints"]) == found
        assert moved.fingerprint("x") == found["x"]
        assert counted_reads == []
        assert isinstance(dataset, xr.Dataset)
        again = StoreGate("zarr", {"output_dir": tmp_path / "moved"}, "test_id")
        again.shuffle("train", 1)
        assert "fingerprints" not in again["train"].to_xarray().attrs
        again.vacuum(older_than=0)
        assert len(list(Path(tmp_path / "moved/test_id/fingerprints").iterdir())) == 0

    def test_every_version_carries_them_where_that_is_set(self, tmp_path, counted_reads):
        stored = StoreGate("hybrid", {"output_dir": tmp_path}, "a")
        stored.set_mode("zarr")  # version 1, which is empty
        model = {"x": X, "y": np.arange(20)}
        expected = {}

        def carried():
            plain = StoreGate(data_id="a")
            for name, rows in model.items():
                plain.add_data(name, rows)
            expected[stored.history()[-1].version] = plain.fingerprint()

        with dask.config.set({"storegate.fingerprints": True}):
            stored.add_data(["x", "y"], list(model.values()))
            carried()
            stored.shuffle("train", 1)
            model = {name: rows[np.random.RandomState(1).permutation(20)] for name, rows in model.items()}
            carried()
            stored.astype("x", "f2")
            model["x"] = model["x"].astype("f2")
            carried()
            stored.to_memory("y", output_var_names="z")
            stored.to_storage("z")
            model["z"] = model["y"]
            carried()
            stored.compact()
            carried()
            assert [1, *expected] == [commit.version for commit in stored.history()]
        for version, found in expected.items():
            old = StoreGate("zarr", {"output_dir": tmp_path}, "a", version=version)
            counted_reads.clear()
            assert json.loads(old["train"].to_xarray().attrs["fingerprints"]) == found, version
            assert counted_reads == []

    def test_a_version_is_committed_also_where_its_fingerprint_cannot_be_made(self, stored):
        with dask.config.set({"storegate.fingerprints": True}):
            stored.add_data(["x", "y"], [X, np.arange(20)])
            with pytest.warns(
                UserWarning, match=r"version 2 was committed without a fingerprint of train/y: .*found 10"
            ):
                stored.onehot("y", 10)
        assert len(stored.history()) == 2
        assert set(json.loads(stored["train"].to_xarray().attrs["fingerprints"])) == {"x"}

    def test_within_the_memory_limit_by_an_exchange(self, tmp_path, monkeypatch):
        from storegate_engine.exchange import driver

        collected = []
        collect = driver.collect
        monkeypatch.setattr(driver, "collect", lambda *a, **k: collected.append(1) or collect(*a, **k))
        rows = np.random.default_rng(0).random((20_000, 32), dtype="f4")
        gate = StoreGate("zarr", {"output_dir": tmp_path, "budget": "2MiB"}, "a")
        gate.add_data("x", rows, shuffle=5)
        plain = StoreGate(data_id="a")
        plain.add_data("x", rows[np.random.RandomState(5).permutation(20_000)])
        assert gate.fingerprint("x") == plain.fingerprint("x")
        assert len(collected) > 1
