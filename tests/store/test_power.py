"""Power failures, simulated: only what was synced is there afterwards, and any part of the rest."""

from __future__ import annotations

import itertools
import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine import locations
from tests.examples import in_turns

X = np.random.default_rng(0).random((48, 4000))


class Disk:
    """What a disk holds: contents of files as they were synced, names as their directories were synced."""

    def __init__(self, monkeypatch, root):
        self.root = root
        self.contents: dict[tuple[int, int], bytes] = {}
        self.entries: dict[Path, dict[str, tuple[int, int] | None]] = {}

        def synced(descriptor, path):  # and not by the real disk, which takes longer
            status = os.fstat(descriptor)
            if not path.is_relative_to(root):
                return  # of others, where directories come and go
            if path.is_dir():
                self.entries[path] = {child.name: identity(child) for child in path.iterdir()}
            else:
                self.contents[status.st_dev, status.st_ino] = path.read_bytes()

        monkeypatch.setattr(locations, "sync_descriptor", synced)

    def after_power_failure(self, image, rng=None):
        """Write what is certainly there to ``image``; with ``rng`` any part of what was not synced too."""
        self._restore(self.root, image, rng)

    def _restore(self, directory, image, rng):
        image.mkdir()
        known = self.entries.get(directory, {})
        for child in sorted(directory.iterdir()):
            certain = child.name in known and (child.is_dir() or known[child.name] == identity(child))
            lucky = rng is not None and rng.random() < 0.5
            if not certain and not lucky:
                continue
            if child.is_dir():
                self._restore(child, image / child.name, rng)
            elif (content := self.contents.get(identity(child))) is not None:
                (image / child.name).write_bytes(content)
            else:  # the name is there, and of the content what the system happened to write
                content = child.read_bytes()
                (image / child.name).write_bytes(content[: rng.randrange(len(content) + 1)] if rng else b"")


def identity(path):
    status = path.lstat()
    return None if path.is_dir() else (status.st_dev, status.st_ino)


def changes(gate):
    yield lambda: gate.add_data(["x", "t"], [X, np.array(["a", "bc"] * 24)])
    yield lambda: gate.add_data(["x", "t"], [X[:5], np.array(["d"] * 5)])
    yield lambda: gate["train"]["x"].__setitem__([1, 5, 9], X[:3])
    yield lambda: gate.shuffle("train", 3)
    yield lambda: gate.astype("x", "f4")
    yield lambda: gate.compact("train", "x")
    yield lambda: gate.rollback(3)
    yield lambda: gate.vacuum(older_than=0, keep_versions=2)
    yield lambda: gate.delete_data("t")


def snapshot(gate):
    return {name: gate.get_data(name) for name in gate.get_var_names()}


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def failures(gate, disk, tmp_path, seeds):
    """Make every change, lose the power after each, and yield what was acknowledged and what is left."""
    for number, change in enumerate(changes(gate)):
        change()
        for seed in (None, *range(seeds)):
            image = tmp_path / f"image{number}-{seed}"
            disk.after_power_failure(image, None if seed is None else random.Random(1000 * number + seed))
            yield snapshot(gate), image
            shutil.rmtree(image)


@pytest.mark.parametrize("seeds", [0, pytest.param(10, marks=pytest.mark.slow)])
def test_every_acknowledged_commit_is_readable_after_a_power_failure(monkeypatch, tmp_path, seeds):
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(monkeypatch, root)
    args = {"durability": "power", "chunk": 4, "budget": "4MiB"}
    gate = StoreGate("zarr", {**args, "output_dir": root / "store"}, "a")
    count = 0
    for acknowledged, image in failures(gate, disk, tmp_path, seeds):
        again = StoreGate("zarr", {**args, "output_dir": image / "store"}, "a")
        assert same(snapshot(again), acknowledged)
        assert again.verify().problems == ()
        again.add_data("new", X[:1])  # and the store goes on
        np.testing.assert_array_equal(again.get_data("new"), X[:1])
        count += 1
    assert count == 9 * (seeds + 1)


@pytest.mark.slow
def test_what_workers_wrote_is_synced_before_it_is_committed(monkeypatch, tmp_path, cluster):
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(monkeypatch, root)
    gate = StoreGate("zarr", {"output_dir": root / "store", "durability": "power", "budget": "4MiB"}, "a")
    gate.add_data("x", np.random.default_rng(0).random((100_000, 32), dtype="f4"))
    gate.shuffle("train", 3)
    gate.compact()
    disk.after_power_failure(tmp_path / "image")
    again = StoreGate("zarr", {"output_dir": tmp_path / "image" / "store"}, "a")
    assert same(snapshot(again), snapshot(gate))
    assert again.verify().problems == ()


def test_without_it_an_acknowledged_commit_may_be_lost(monkeypatch, tmp_path):
    """That the simulation bites: nothing is promised for ``durability="process"``."""
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(monkeypatch, root)
    gate = StoreGate("zarr", {"output_dir": root / "store"}, "a")
    gate.add_data("x", X)
    disk.after_power_failure(tmp_path / "image")
    assert not (tmp_path / "image" / "store").exists()


@pytest.mark.parametrize("skipped", ["files", "directories", "manifest"])
def test_each_kind_of_sync_is_needed(monkeypatch, tmp_path, skipped):
    root = tmp_path / "disk"
    root.mkdir()
    disk = Disk(monkeypatch, root)
    recorded = locations.sync_descriptor
    monkeypatch.setattr(locations, "sync_descriptor", lambda d, p: recorded(d, p) if not skip(p) else None)

    def skip(path):
        kind = "directories" if path.is_dir() else "manifest" if "manifests" in path.parts else "files"
        return kind == skipped

    gate = StoreGate("zarr", {"output_dir": root / "store", "durability": "power"}, "a")
    gate.add_data("x", X)
    disk.after_power_failure(tmp_path / "image")
    try:
        again = StoreGate("zarr", {"output_dir": tmp_path / "image" / "store"}, "a")
        found = snapshot(again)
    except OSError:
        return
    assert not same(found, snapshot(gate))


def test_only_a_durable_store_syncs(monkeypatch, tmp_path):
    synced = []
    monkeypatch.setattr(locations, "sync_descriptor", lambda descriptor, path: synced.append(path))
    StoreGate("zarr", {"output_dir": tmp_path / "process"}, "a").add_data("x", X)
    assert synced == []
    StoreGate("zarr", {"output_dir": tmp_path / "power", "durability": "power"}, "a").add_data("x", X)
    assert {"x", "manifests", "segments", "power"} <= {path.name for path in synced}
    order = [path.parts for path in synced]
    first_manifest = next(at for at, parts in enumerate(order) if "00000001" in parts[-1])
    assert all("segments" not in parts for parts in order[first_manifest:])


@pytest.mark.parametrize("value", ["disk", "", None, 7])
def test_an_unknown_durability_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="'process' or 'power'"):
        StoreGate("zarr", {"output_dir": tmp_path, "durability": value})


PLACES, BEFORE, LATE = ["store", "runs/2026/11/store"], [None, "nothing", "rows", "kept open"], [0, 1, 2, 3, 4, 5, 6, 8]
GAPS = [
    *(gap for gap in in_turns(PLACES, BEFORE, LATE, [1], every=4) if not gap.marks),
    *(pytest.param(*gap, 3, marks=pytest.mark.slow) for gap in itertools.product(PLACES, BEFORE, LATE)),
]
"""Every two of the three meet in the fast ones."""


class TestGaps:
    """What a process without durability, or nobody at all, has synced before the first durable commit."""

    @pytest.fixture
    def disk(self, monkeypatch, tmp_path):
        (tmp_path / "disk").mkdir()
        return Disk(monkeypatch, tmp_path / "disk")

    def again(self, disk, tmp_path, place, rng=None):
        image = tmp_path / "image"
        shutil.rmtree(image, ignore_errors=True)
        disk.after_power_failure(image, rng)
        return StoreGate("zarr", {"output_dir": image / place, "mode": "r"}, "a")

    @pytest.mark.parametrize(("place", "before", "change", "seeds"), GAPS)
    def test_a_durable_commit_makes_all_that_it_needs_durable(self, disk, tmp_path, place, before, change, seeds):
        root = disk.root / place
        args = {"output_dir": root, "chunk": 4, "budget": "4MiB"}
        gate = StoreGate("zarr", args, "a") if before == "kept open" else None
        if before is not None:
            early = StoreGate("zarr", args, "a")
            for at, call in enumerate(changes(early)):
                if before != "nothing" and at < max(change, 3):
                    call()
        late = StoreGate("zarr", {**args, "durability": "power"}, "a")
        for at, call in enumerate(changes(late)):
            if at == change or (before in (None, "nothing") and at <= change):
                call()
        for seed in range(seeds):
            found = self.again(disk, tmp_path, place, random.Random(seed) if seed else None)
            assert same(snapshot(found), snapshot(late))
            problems = [row.problem for row in found.verify().problems if row.used_by or "manifests" in row.key]
            assert problems == [], "rows that only versions without durability have may be lost"
            assert [commit.version for commit in found.history()] == [commit.version for commit in late.history()]
        del gate

    def test_segments_are_synced_once(self, monkeypatch, tmp_path):
        early = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "a")
        early.add_data("x", X)
        early.add_data("x", X)
        synced = []
        monkeypatch.setattr(locations, "sync_descriptor", lambda descriptor, path: synced.append(path))

        def segments():
            found = [path for path in synced if path.name == "zarr.json" and path.parent.parent.name == "segments"]
            synced.clear()
            return len(found)

        late = StoreGate("zarr", {"output_dir": tmp_path / "store", "durability": "power"}, "a")
        late.shuffle("train", 1)
        assert segments() == 2
        late.shuffle("train", 2)
        assert segments() == 0
        late.add_data("x", X)
        assert segments() == 1
        again = StoreGate("zarr", {"output_dir": tmp_path / "store", "durability": "power"}, "a")
        again.shuffle("train", 3)
        assert segments() == 0
        early.add_data("x", X)
        early.shuffle("train", 4)
        again.shuffle("train", 5)
        assert segments() == 1

    def test_fingerprints_are_durable(self, disk, tmp_path):
        gate = StoreGate("zarr", {"output_dir": disk.root / "store", "durability": "power"}, "a")
        gate.add_data("x", X)
        found = gate.fingerprint("x")
        for seed in range(5):
            assert self.again(disk, tmp_path, "store", random.Random(seed)).fingerprint("x") == found
