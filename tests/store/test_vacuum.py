"""Vacuum and ``mode="w"``: only what is ours goes; writers, clocks and names that stand in the way."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine.arrays import segments
from storegate_engine.contents import MARKER, strangers
from storegate_engine.directories import Directory, Entry
from storegate_engine.errors import ConflictError, NotAStoreError, SnapshotExpired, StoreError, WriteError
from storegate_engine.locations import Location
from storegate_engine.store import ArraySource, manifests, repository, vacuuming

HEX = "a" * 32
PARTS = ["a", "segments", "manifests", HEX, "x", "c", "0", "zarr.json", "..", "", "é"]
X = np.arange(40, dtype="f4").reshape(20, 2)
DAY = 86_400


def open_gate(directory, data_id="a", **args):
    return StoreGate("zarr", {"output_dir": directory, **args}, data_id)


def files(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file() and not path.is_symlink()}


class TestNames:
    @pytest.mark.parametrize(
        "name", [f"backup.{HEX}.partial", f"storegate.json.{HEX}.partial", f"storegate.{HEX}.partial"]
    )
    def test_a_data_id_called_like_an_unfinished_file_stays(self, tmp_path, name):
        with open_gate(tmp_path, name) as gate:
            gate.add_data("x", X)
        with open_gate(tmp_path) as gate:
            gate.add_data("x", X)
            gate.vacuum(older_than=0)
        np.testing.assert_array_equal(open_gate(tmp_path, name).get_data("x"), X)
        (tmp_path / MARKER).unlink()
        with pytest.raises(NotAStoreError):
            open_gate(tmp_path)

    @pytest.mark.parametrize(
        "place",
        [
            f"a/segments/{HEX}/notes.txt",
            f"a/segments/{HEX}/x/c/0/notes.txt",
            f"a/segments/{HEX}/x/c/00",
            f"a/segments/{HEX}/c/0",
            f"a/segments/photos.{HEX}.partial/photo.jpg",
            f"a/manifests/00000009.json.{HEX}.partial/photo.jpg",
            f"a/manifests/thesis.{HEX}.partial",
            f"a/fingerprints/{HEX}/photo.jpg",
            "a/fingerprints/thesis.tex",
            f"a/thesis.{HEX}.partial",
            "a/photos/photo.jpg",
        ],
    )
    def test_foreign_files_in_our_places_stay_and_are_named(self, tmp_path, place):
        gate = open_gate(tmp_path)
        gate.add_data("x", X)
        gate.fingerprint("x")
        path = tmp_path / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine")
        done = gate.vacuum(older_than=0)
        assert path.read_bytes() == b"mine"
        assert len(done.refused) == 1
        assert str(path).startswith(done.refused[0])
        assert done.refused[0] in str(done)
        before = files(tmp_path)
        with pytest.raises(NotAStoreError, match=done.refused[0].removeprefix(f"{tmp_path}/")):
            open_gate(tmp_path, mode="w")
        assert files(tmp_path) == before
        path.unlink()
        while path.parent != tmp_path and not list(path.parent.iterdir()):
            path = path.parent
            path.rmdir()
        open_gate(tmp_path, mode="w")
        assert os.listdir(tmp_path) == [MARKER]

    @pytest.mark.parametrize(
        "foreign", ["thesis.tex", "photos/", "photos/1.jpg", ".git/HEAD", "zarr.json", ".DS_Store"]
    )
    def test_emptying_a_root_refuses_what_lies_beside_a_store(self, tmp_path, foreign):
        open_gate(tmp_path).add_data("x", X)
        path = tmp_path / foreign
        path.parent.mkdir(exist_ok=True)
        path.mkdir() if foreign.endswith("/") else path.write_bytes(b"mine")
        before = files(tmp_path)
        with pytest.raises(NotAStoreError, match=f"{foreign.split('/')[0]}.*nothing was changed"):
            open_gate(tmp_path, mode="w")
        assert files(tmp_path) == before
        np.testing.assert_array_equal(open_gate(tmp_path, mode="r").get_data("x"), X)

    @pytest.mark.parametrize("kind", ["link", "link to a file", "pipe"])
    @pytest.mark.parametrize(
        "place", ["b", f"a/segments/{HEX}", f"a/manifests/2.json.{HEX}.partial", f"a/fingerprints/{HEX}"]
    )
    def test_what_is_no_file_and_no_directory_stays(self, tmp_path, kind, place):
        root, other = tmp_path / "root", tmp_path / "other"
        gate = open_gate(root)
        gate.add_data("x", X)
        gate.fingerprint("x")
        other.mkdir()
        (other / "file").write_bytes(b"mine")
        if kind == "pipe":
            os.mkfifo(root / place)
        else:
            (root / place).symlink_to(other if kind == "link" else other / "file")
        done = gate.vacuum(older_than=0)
        assert done.refused == ([] if place == "b" else [str(root / place)])
        with pytest.raises(NotAStoreError, match=place):
            open_gate(root, mode="w")
        assert os.path.lexists(root / place)
        assert files(other) == {other / "file": b"mine"}

    def test_all_that_a_store_writes_is_known_as_ours(self, tmp_path):
        for data_id in ("a", "übung 1 [GeV]"):
            gate = open_gate(tmp_path, data_id, chunk=4, budget="4MiB")
            gate.add_data(["x", "t", "c"], [X, np.array(["a", "bc"] * 10), np.arange(20)], phase=(0.5, 0.3, 0.2))
            gate["train"]["x"][[3, 1]] = X[:2]
            gate.add_data("cube", np.zeros((5, 2, 3, 4)))
            gate.fingerprint()
            gate.compact()
        lazy = gate["train"]["x"].data
        for partial in (f"storegate.json.{HEX}.partial", f"a/manifests/00000001.json.{HEX}.partial"):
            (tmp_path / partial).write_bytes(b"{")
        (segment, *_) = sorted((tmp_path / "a/segments").iterdir())
        for partial in ("zarr.json", "x/zarr.json", "x/c/0/0"):
            (segment / f"{partial}.{HEX}.partial").write_bytes(b"")
        entries = Location(str(tmp_path)).entries()
        assert len(entries) > 50
        assert strangers(entries) == []
        open_gate(tmp_path, mode="w")
        assert os.listdir(tmp_path) == [MARKER]
        del lazy

    @given(st.lists(st.sampled_from(PARTS), max_size=7))
    def test_a_prefix_of_what_is_ours_is_ours(self, parts):
        """So a directory is refused before anything in it is."""
        key = "/".join(parts)
        entries = [Entry("/".join(parts[:at]), "directory", 0, 0.0) for at in range(1, len(parts))]
        entries.append(Entry(key, "file", 0, 0.0))
        found = strangers(entries)
        assert found in ([], [entry.key for entry in entries if entry.key == (found or [None])[0]][:1])


class TestRaces:
    @pytest.mark.parametrize("missing", ["status", "child"])
    def test_a_file_that_is_renamed_while_vacuum_lists(self, tmp_path, monkeypatch, missing):
        gate = open_gate(tmp_path)
        gate.add_data("x", X)
        store = tmp_path / "a"
        partials = [
            store / "manifests" / f"00000002.json.{HEX}.partial",
            store / "segments" / HEX / f"zarr.json.{HEX}.partial",
        ]
        for partial in partials:
            partial.parent.mkdir(exist_ok=True)
            partial.write_bytes(b"{")
        original = getattr(Directory, missing)

        def renamed_just_now(self, name):
            if name.endswith(".partial") or name == HEX:
                raise FileNotFoundError(name)
            return original(self, name)

        with monkeypatch.context() as patch:
            patch.setattr(Directory, missing, renamed_just_now)
            gate.vacuum(older_than=0)
        np.testing.assert_array_equal(gate.get_data("x"), X)

    def test_vacuum_beside_a_writer(self, tmp_path):
        """Whatever is acknowledged is there, and nothing else is."""
        open_gate(tmp_path).add_data("x", [0])
        stop, failed, acknowledged = threading.Event(), [], []

        def write():
            gate = open_gate(tmp_path)
            for number in range(1, 30):
                try:
                    gate.add_data("x", [number])
                except (ConflictError, WriteError):  # vacuumed while it was written
                    continue
                except BaseException as err:  # noqa: BLE001
                    failed.append(err)
                    break
                acknowledged.append(number)
            stop.set()

        writer = threading.Thread(target=write)
        writer.start()
        gate = open_gate(tmp_path)
        while not stop.is_set():
            try:
                gate.vacuum(older_than=0)
            except ConflictError:
                continue
        writer.join()
        assert failed == []
        assert open_gate(tmp_path).get_data("x").tolist() == [0, *acknowledged]
        assert gate.verify().problems == ()


CHANGES = {
    "rows": lambda gate: gate.add_data("x", X + 100),
    "a scattered update": lambda gate: gate["train"]["x"].__setitem__([1, 5], X[:2] + 100),
    "no rows": lambda gate: gate.create_empty("z", (5,)),
    "an order": lambda gate: gate.shuffle("train", 3),
    "compact": lambda gate: gate.compact(),
    "rollback": lambda gate: gate.rollback(2),
}


def changed(before, change):
    model = StoreGate("numpy", data_id="a")
    model.add_data("x", before)
    if change == "rollback":
        return X
    if change != "compact":
        CHANGES[change](model)
    return model.get_data("x")


class Others:
    """What other processes do at a moment at which one is stopped."""

    def __init__(self, args, n_commits, n_vacuums):
        self.args, self.n_commits, self.n_vacuums = args, n_commits, n_vacuums
        self.were_here = False

    def __call__(self):
        self.were_here = True
        other = StoreGate("zarr", self.args, "a")
        for number in range(self.n_commits):
            other.update_data("y", [number], "valid", do_compile=False)
        for number in range(self.n_vacuums):
            other.vacuum(older_than=0)
            other.update_data("y", [-number], "valid", do_compile=False)

    def stop(self, patch, stored, where):
        kind, name, when = {
            "begun": (type(stored), "begin", "after"),
            "written": (type(stored), "_commit", "before"),
            "looked": (Location, "write_if_absent", "before"),
            "put": (Location, "write_if_absent", "after"),
            "read back": (manifests.StoredLog, "_is_taken_up", "before"),
        }[where]
        original = getattr(kind, name)

        def stopped(*args, **kwargs):
            if when == "after":
                result = original(*args, **kwargs)
            if not self.were_here:
                self()
            return result if when == "after" else original(*args, **kwargs)

        patch.setattr(kind, name, stopped)


class TestStoppedWriters:
    """A writer that was stopped at any point, while others commit and vacuum everything that they may."""

    @pytest.fixture(params=["disk", "memory"])
    def args(self, tmp_path, request):
        return {"output_dir": tmp_path / "store" if request.param == "disk" else f"memory://{tmp_path}"}

    @pytest.mark.parametrize("change", CHANGES)
    @pytest.mark.parametrize("stopped", ["begun", "written", "looked", "put", "read back"])
    def test_what_is_acknowledged_is_there_once(self, args, monkeypatch, stopped, change):
        monkeypatch.setattr(repository, "_commit_lock", contextlib.nullcontext())  # of this process: others have none
        monkeypatch.setattr(manifests, "RECENT", 5)
        outcomes = set()
        for n_commits, n_vacuums in ((1, 0), (6, 0), (1, 1), (2, 1), (6, 1), (0, 2), (1, 3)):
            args = {**args, "output_dir": f"{args['output_dir']}-{n_commits}-{n_vacuums}"}
            gate = StoreGate("zarr", args, "a")
            gate.add_data("x", X)
            gate.add_data("y", [0], "valid")
            gate.update_data("x", X + 1, do_compile=False)
            with monkeypatch.context() as patch:
                others = Others(args, n_commits, n_vacuums)
                others.stop(patch, gate.repository(), stopped)
                try:
                    CHANGES[change](gate)
                    acknowledged = True
                except (ConflictError, SnapshotExpired):
                    acknowledged = False
                except StoreError as err:  # it was put, and then too much happened before it looked
                    if "cannot be told" not in str(err) or n_commits + 2 * n_vacuums <= manifests.RECENT:
                        raise
                    acknowledged = True
            assert others.were_here
            outcomes.add(acknowledged)
            again = StoreGate("zarr", args, "a")
            expected = changed(X + 1, change) if acknowledged else X + 1
            np.testing.assert_array_equal(again.get_data("x"), expected)
            gate.repository().refresh()
            np.testing.assert_array_equal(gate.get_data("x"), expected)
            assert again.verify().problems == ()
            versions = [commit.version for commit in again.history()]
            assert versions == list(range(versions[0], versions[-1] + 1))
            assert acknowledged or n_vacuums or change == "compact", "others changed nothing that this one reads"
        assert True in outcomes or change in ("compact", "rollback")

    def test_a_store_that_was_emptied_meanwhile(self, tmp_path, monkeypatch):
        gate = open_gate(tmp_path)
        gate.add_data("x", X)
        gate.add_data("x", X)
        kind = type(gate.repository())
        commit = kind._commit

        def emptied(self, transaction):  # before the put, for which an opener with mode="w" would wait
            monkeypatch.setattr(kind, "_commit", commit)
            open_gate(tmp_path, mode="w")
            return commit(self, transaction)

        monkeypatch.setattr(kind, "_commit", emptied)
        with pytest.raises(ConflictError, match="mode='w'"):
            gate.add_data("x", X)
        again = open_gate(tmp_path)
        assert again.get_var_names() == []
        again.add_data("x", X)
        np.testing.assert_array_equal(again.get_data("x"), X)


class Clock:
    """A clock that is off by some seconds, in one module."""

    def __init__(self, monkeypatch, module, seconds):
        shifted = SimpleNamespace(**{name: getattr(time, name) for name in ("sleep", "monotonic")})
        shifted.time = lambda: time.time() + seconds
        shifted.time_ns = lambda: time.time_ns() + int(seconds * 10**9)
        monkeypatch.setattr(module, "time", shifted)


class TestClocks:
    @pytest.fixture(params=["disk", "s3"])
    def args(self, tmp_path, request):
        return {"output_dir": tmp_path / "store"} if request.param == "disk" else request.getfixturevalue("s3_args")

    def test_a_writer_whose_clock_is_behind(self, args, monkeypatch):
        for module in (manifests, segments):
            Clock(monkeypatch, module, -2 * DAY)
        gate = StoreGate("zarr", args, "a")
        gate.add_data("x", X)
        gate.update_data("x", X + 1, do_compile=False)
        with gate.repository().begin("open") as change:  # rows that are not committed yet
            change.store({"z": ArraySource(np.arange(3))})
            assert (gate.vacuum(older_than="1d").versions, gate.vacuum(older_than="1d").segments) == ([], [])
        np.testing.assert_array_equal(StoreGate("zarr", args, "a", version=1).get_data("x"), X)
        assert gate.vacuum(older_than=0, keep_versions=1).versions[0] == 1

    def test_a_version_is_replaced_no_earlier_than_those_before_it_were(self, tmp_path, monkeypatch):
        """Also where the clock that was behind is the file system's."""
        gate = open_gate(tmp_path)
        gate.add_data("x", X)
        gate.update_data("x", X + 1, do_compile=False)
        Clock(monkeypatch, manifests, -2 * DAY)
        gate.update_data("x", X + 2, do_compile=False)
        old = time.time() - 2 * DAY
        os.utime(tmp_path / "a/manifests/00000003.json", (old, old))
        assert gate.vacuum(older_than="1d").versions == []

    def test_a_clock_that_is_ahead_keeps_nothing_for_ever(self, tmp_path, monkeypatch):
        gate = open_gate(tmp_path)
        with monkeypatch.context() as patch:
            for module in (manifests, segments):
                Clock(patch, module, 400 * DAY)
            gate.add_data("x", X)
            gate.update_data("x", X + 1, do_compile=False)
        done = gate.vacuum(older_than=0)
        assert done.versions == [1]
        assert len(done.segments) == 1

    def test_one_who_vacuums_with_a_clock_ahead_goes_by_the_file_system(self, tmp_path, monkeypatch):
        gate = open_gate(tmp_path)
        gate.add_data("x", X)
        gate.update_data("x", X + 1, do_compile=False)
        Clock(monkeypatch, vacuuming, 2 * DAY)
        assert gate.vacuum(older_than="1d").versions == []
        assert not list(tmp_path.rglob("*.partial"))

    def test_versions_grow_old_all_the_same(self, tmp_path):
        gate = open_gate(tmp_path)
        for number in range(3):
            gate.update_data("x", X + number, do_compile=False)
        old = time.time() - 2 * DAY
        for path in tmp_path.rglob("*"):
            os.utime(path, (old, old))
        assert gate.vacuum(older_than="1d").versions == []  # by the writer's clock they are young
        with pytest.MonkeyPatch.context() as patch:
            shutil.rmtree(tmp_path)
            for module in (manifests, segments):
                Clock(patch, module, -2 * DAY)
            gate = open_gate(tmp_path)
            for number in range(3):
                gate.update_data("x", X + number, do_compile=False)
        for path in tmp_path.rglob("*"):
            os.utime(path, (old, old))
        done = gate.vacuum(older_than="1d")
        assert done.versions == [1, 2]
        assert len(done.segments) == 2
