"""Where spill lies, and whose it is: locks tell who lives; never that of another user or process."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile

import dask
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine import holds
from storegate_engine import scratch as spill
from storegate_engine.errors import CorruptStoreError
from tests.exchange.spill_cases import EXPECTED, PLAN, ROWS
from tests.processes import environment


class TestLocks:
    def test_it_is_the_lock_that_tells_who_lives(self, tmp_path, monkeypatch):
        """In another container the same numbers and names are those of other processes."""
        mine = spill.open_spill(tmp_path, PLAN)
        (mine.path / "map-000000").write_bytes(b"rows")
        code = (
            "import os, pathlib, sys\n"
            "os.kill = lambda pid, signal: (_ for _ in ()).throw(ProcessLookupError())\n"
            "from storegate_engine import holds\nfrom storegate_engine import scratch as spill\n"
            f"parent = pathlib.Path({str(tmp_path)!r})\n"
            "assert holds.orphans(parent) == []\n"
            f"other = spill.open_spill(parent, {PLAN!r})\n"
            "assert not (other.path / 'map-000000').exists()\n"
        )
        subprocess.run([sys.executable, "-c", code], check=True, env=environment())
        assert (mine.path / "map-000000").read_bytes() == b"rows"
        assert list(tmp_path.iterdir()) == [mine.path]

    def test_orphans_are_adopted_and_links_and_others_are_not(self, tmp_path, monkeypatch):
        orphan = tmp_path / f"{PLAN}.host.{os.getpid()}.00000000"
        orphan.mkdir(mode=0o700)
        (orphan / "map-000000").write_bytes(b"rows")
        adopted = spill.open_spill(tmp_path, PLAN)
        assert (adopted.path / "map-000000").read_bytes() == b"rows"
        path = adopted.path
        del adopted
        assert not path.exists()
        orphan.mkdir(parents=True, mode=0o700)
        mine = spill.open_spill(tmp_path, "1" * 32)
        link = tmp_path / f"{PLAN}.host.1.00000001"
        link.symlink_to(tmp_path, target_is_directory=True)
        (tmp_path / "photos").mkdir()
        assert holds.orphans(tmp_path) == [orphan]
        orphan.chmod(0o770)
        assert holds.orphans(tmp_path) == []  # others can write to it
        orphan.chmod(0o700)
        with monkeypatch.context() as patch:
            patch.setattr(holds.os, "getuid", lambda: orphan.stat().st_uid + 1)
            assert holds.orphans(tmp_path) == []  # another user's
        del mine
        assert sorted(tmp_path.iterdir()) == sorted([link, tmp_path / "photos"])

    def test_a_directory_without_locks_is_used_and_never_stolen(self, tmp_path, monkeypatch):
        monkeypatch.setattr(holds, "take_lock", lambda descriptor: None)
        mine = spill.open_spill(tmp_path, PLAN)
        assert mine.path.is_dir()
        assert holds.orphans(tmp_path) == []
        path = mine.path
        del mine
        assert not path.exists()

    def test_many_processes_open_one_plan(self, tmp_path, processes):
        """Each has one of its own, adopted or new, and nothing is left."""
        for number in range(3):
            (tmp_path / f"{PLAN}.host.{number}.00000000").mkdir(mode=0o700)
        barrier, seen = processes.Barrier(6), processes.Queue()
        workers = [processes.Process(target=open_one, args=(tmp_path, barrier, seen)) for _ in range(6)]
        for worker in workers:
            worker.start()
        found = [seen.get(timeout=120) for _ in workers]
        for worker in workers:
            worker.join()
        assert len(set(found)) == 6
        assert list(tmp_path.iterdir()) == []


def open_one(directory, barrier, seen):
    barrier.wait()
    mine = spill.open_spill(directory, PLAN)
    (mine.path / "map-000000").write_bytes(b"rows")
    barrier.wait()
    seen.put(str(mine.path))
    barrier.wait()


def elsewhere(tmp_path, monkeypatch):
    """Return rows of a store that cannot be written, and whose spill lies elsewhere."""
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB"}, "a")
    gate.add_data("x", ROWS, shuffle=3)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with dask.config.set({"storegate.shuffle": "exchange"}):
        return dask.optimize(gate["train"]["x"].data)[0]


def test_a_scratch_directory_of_the_user_stays_as_it_is(spilling, tmp_path):
    place = tmp_path / "mine"
    place.mkdir(mode=0o750)
    for left in ([], ["notes.txt"]):
        for name in left:
            (place / name).write_text("mine")
        with dask.config.set({"storegate.scratch-directory": place}):
            optimized = dask.optimize(spilling["train"]["x"].data)[0]
        np.testing.assert_array_equal(optimized.compute(scheduler="sync"), EXPECTED)
        assert len(list(place.iterdir())) == 1 + len(left)
        del optimized
        gc.collect()
        assert [path.name for path in place.iterdir()] == left
        assert place.stat().st_mode & 0o777 == 0o750


def test_a_place_that_several_processes_share_goes_with_the_last_if_one_made_it(tmp_path):
    place = tmp_path / "made"
    first, second = spill.open_spill(place, PLAN), spill.open_spill(place, "1" * 32)
    other = python(
        "import sys",
        f"mine = spill.open_spill(pathlib.Path({str(place)!r}), {'2' * 32!r})",
        "print(mine.path, flush=True)",
        "sys.stdin.read()",
    )
    with other as process:
        assert process.stdout.readline()
        del first, second
        gc.collect()
        assert len(list(place.iterdir())) == 1
        process.stdin.close()
        process.wait()
    assert not place.exists()


def python(*lines):
    code = (
        "import pathlib\nfrom storegate_engine import holds\nfrom storegate_engine import scratch as spill\n"
        + "\n".join(lines)
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], env=environment(), text=True, **pipes)


class TestUsers:
    @pytest.fixture
    def temporary(self, tmp_path, monkeypatch):
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
        (tmp_path / "tmp").mkdir()
        return tmp_path / "tmp"

    def test_the_default_is_a_private_directory_of_the_user(self, temporary, tmp_path, monkeypatch):
        lazy = elsewhere(tmp_path, monkeypatch)
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), EXPECTED)
        (place,) = temporary.iterdir()
        assert place.name == f"storegate-scratch-{os.getuid()}"
        assert place.stat().st_mode & 0o777 == 0o700
        assert [path.stat().st_mode & 0o777 for path in place.iterdir()] == [0o700]
        del lazy
        gc.collect()
        assert list(temporary.iterdir()) == []

    @pytest.mark.parametrize("taken", ["link", "file", "open to all", "another user"])
    def test_where_its_name_is_taken_it_is_another_one(self, temporary, taken, tmp_path, monkeypatch):
        place = temporary / f"storegate-scratch-{os.getuid()}"
        (tmp_path / "other").mkdir()
        if taken == "link":
            place.symlink_to(tmp_path / "other", target_is_directory=True)
        elif taken == "file":
            place.write_bytes(b"")
        else:
            place.mkdir(mode=0o700)
            place.chmod(0o777 if taken == "open to all" else 0o700)
        if taken == "another user":
            if os.getuid() != 0:
                pytest.skip("only the superuser can give a directory away")
            os.chown(place, 12345, 12345)
        lazy = elsewhere(tmp_path, monkeypatch)
        np.testing.assert_array_equal(lazy.compute(scheduler="sync"), EXPECTED)
        (used,) = set(temporary.iterdir()) - {place}
        assert used.stat().st_mode & 0o777 == 0o700
        assert used in holds.user_places()
        del lazy
        gc.collect()
        assert list(temporary.iterdir()) == [place]
        assert list((tmp_path / "other").iterdir()) == []

    def test_what_is_left_there_is_found_by_vacuum(self, temporary, tmp_path):
        left = holds.user_scratch() / f"{PLAN}.host.1.00000000"
        left.mkdir(mode=0o700)
        (left / "map-000000").write_bytes(b"rows")
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, "a") as gate:
            gate.add_data("x", [1])
            assert gate.vacuum(older_than=0).scratch == [str(left)]
        assert not left.exists()

    @pytest.mark.skipif(os.getuid() != 0, reason="only the superuser can make files of another user")
    @pytest.mark.parametrize("forged", ["file", "directory", "link"])
    def test_files_of_another_user_are_not_believed(self, spilling, spill_scratch, tmp_path, forged):
        """With entries and checksums that fit."""
        lazy = spilling["train"]["x"].data
        optimized = dask.optimize(lazy)[0]
        np.testing.assert_array_equal(optimized.compute(scheduler="sync"), EXPECTED)
        (directory,) = spill_scratch.iterdir()
        if forged == "directory":
            moved = tmp_path / "moved"
            directory.rename(moved)
            directory.mkdir()
            for path in moved.iterdir():
                (directory / path.name).write_bytes(path.read_bytes())
                os.chown(directory / path.name, 12345, 12345)
        else:
            path = next(directory.glob("map-*"))
            content = path.read_bytes()
            path.unlink()
            target = path if forged == "file" else tmp_path / "forged"
            target.write_bytes(content)
            os.chown(target, 12345, 12345)
            if forged == "link":
                path.symlink_to(target)
        with pytest.raises(CorruptStoreError, match=r"map-\w+-0000"):
            optimized.compute(scheduler="sync")
