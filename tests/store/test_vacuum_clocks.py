"""Vacuum while writers stand still, and by clocks that differ."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import segments
from storegate_engine.errors import ConflictError, SnapshotExpired, StoreError
from storegate_engine.locations import Location
from storegate_engine.store import ArraySource, manifests, repository, vacuuming
from storegate_engine.store.logs import StoredLog
from tests.examples import in_turns
from tests.store.vacuum_cases import X, open_gate

DAY = 86_400


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
            "written": (type(stored), "commit_changes", "before"),
            "looked": (Location, "write_if_absent", "before"),
            "put": (Location, "write_if_absent", "after"),
            "read back": (StoredLog, "is_taken_up", "before"),
        }[where]
        original = getattr(kind, name)

        def stopped(*args, **kwargs):
            if when == "after":
                result = original(*args, **kwargs)
            if not self.were_here:
                self()
            return result if when == "after" else original(*args, **kwargs)

        patch.setattr(kind, name, stopped)


OTHERS = [(1, 0), (6, 0), (1, 1), (2, 1), (6, 1), (0, 2), (1, 3)]
"""How often others commit and vacuum."""
SOME_OTHERS = [(1, 0), (6, 1), (0, 2)]
MOMENTS = ["begun", "written", "looked", "put", "read back"]
STOPS = [
    *(stop for stop in in_turns(["memory", "disk"], MOMENTS, CHANGES, [SOME_OTHERS], every=4) if not stop.marks),
    *(
        pytest.param(*stop, OTHERS, marks=pytest.mark.slow)
        for stop in itertools.product(["memory", "disk"], MOMENTS, CHANGES)
    ),
]
"""Each change meets each moment in the fast ones, in memory or on disk."""


class TestStoppedWriters:
    """A writer that was stopped at any point, while others commit and vacuum everything that they may."""

    @pytest.mark.parametrize(("where", "stopped", "change", "others_do"), STOPS)
    def test_what_is_acknowledged_is_there_once(self, tmp_path, monkeypatch, where, stopped, change, others_do):
        args = {"output_dir": tmp_path / "store" if where == "disk" else f"memory://{tmp_path}"}
        monkeypatch.setattr(repository, "COMMIT_LOCK", contextlib.nullcontext())  # of this process: others have none
        monkeypatch.setattr(manifests, "RECENT", 5)
        outcomes = set()
        for n_commits, n_vacuums in others_do:
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
                    if "it is not known whether" not in str(err) or n_commits + 2 * n_vacuums <= manifests.RECENT:
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
        commit = kind.commit_changes

        def emptied(self, transaction):  # before the put, for which an opener with mode="w" would wait
            monkeypatch.setattr(kind, "commit_changes", commit)
            open_gate(tmp_path, mode="w")
            return commit(self, transaction)

        monkeypatch.setattr(kind, "commit_changes", emptied)
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
