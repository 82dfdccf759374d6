"""Vacuum and ``mode="w"``: only what is ours goes; names that stand in the way, and races."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate_engine.contents import MARKER, strangers
from storegate_engine.directories import Directory, Entry
from storegate_engine.errors import ConflictError, NotAStoreError, WriteError
from storegate_engine.locations import Location
from tests.store.vacuum_cases import X, open_gate

HEX = "a" * 32


PARTS = ["a", "segments", "manifests", HEX, "x", "c", "0", "zarr.json", "..", "", "é"]


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
