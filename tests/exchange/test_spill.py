"""Spill: gone when its last user ends, however that is; found after a kill; never that of another user or process."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine import holds
from storegate_engine import scratch as spill
from storegate_engine.buffers import Workspace
from storegate_engine.errors import CorruptStoreError, SpillError
from storegate_engine.exchange import bucket_sorts, spill_files
from tests.processes import environment

ROWS = np.random.default_rng(0).random((20_000, 16), dtype="f4")
PLAN = "0" * 32


@pytest.fixture
def scratch(tmp_path):
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch", "storegate.shuffle": "exchange"}):
        yield tmp_path / "scratch"


@pytest.fixture
def gate(tmp_path, scratch):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "1MiB"}, "a") as opened:
        opened.add_data("x", ROWS, shuffle=3)
        yield opened


EXPECTED = ROWS[np.random.RandomState(3).permutation(len(ROWS))]


def files(scratch):
    gc.collect()
    return sorted(path for path in scratch.rglob("*") if path.is_file()) if scratch.exists() else []


def script(tmp_path, body):
    """Return a program that has the gate's data lazily as ``lazy``."""
    return textwrap.dedent(f"""
        import gc, os, signal, sys, dask, numpy as np
        from storegate import StoreGate
        scratch = {str(tmp_path / "scratch")!r}
        dask.config.set({{"storegate.scratch-directory": scratch, "storegate.shuffle": "exchange"}})
        gate = StoreGate("zarr", {{"output_dir": {str(tmp_path / "store")!r}, "budget": "1MiB"}}, "a")
        lazy = gate["train"]["x"].data
    """) + textwrap.dedent(body)


def run(tmp_path, body):
    return subprocess.run([sys.executable, "-c", script(tmp_path, body)], check=False, env=environment()).returncode


def slowly(*values):
    """Parameters of tests that are run with the slow ones."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


class TestLazy:
    @pytest.mark.parametrize("scheduler", ["threads", "sync", "processes"])
    def test_an_optimized_graph_outlives_what_it_was_made_of(self, gate, scratch, scheduler):
        optimized = dask.optimize(gate["train"]["x"].data)[0]
        gc.collect()
        for _ in range(2):
            np.testing.assert_array_equal(optimized.compute(scheduler=scheduler), EXPECTED)
        assert files(scratch) != []
        del optimized
        assert files(scratch) == []

    def test_delayed_blocks_outlive_it_too(self, gate, scratch):
        blocks = gate["train"]["x"].data.to_delayed().ravel().tolist()
        gc.collect()
        np.testing.assert_array_equal(np.concatenate(dask.compute(*blocks)), EXPECTED)
        last = blocks[-1]
        del blocks
        assert len(last.compute()) > 0
        del last
        assert files(scratch) == []

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda lazy: pickle.loads(pickle.dumps(lazy))])
    @pytest.mark.parametrize("optimized", [False, True])
    def test_copies_have_it_for_themselves(self, gate, scratch, copied, optimized):
        lazy = gate["train"]["x"].data
        lazy = dask.optimize(lazy)[0] if optimized else lazy
        other = copied(lazy)
        del lazy
        gc.collect()
        np.testing.assert_array_equal(other.compute(scheduler="threads"), EXPECTED)
        del other
        assert files(scratch) == []

    def test_a_graph_in_another_process_spills_for_itself(self, tmp_path, gate, scratch):
        optimized = dask.optimize(gate["train"]["x"].data)[0]
        (tmp_path / "graph").write_bytes(pickle.dumps(optimized))
        del optimized
        assert files(scratch) == []
        body = f"""
            import pickle
            x = pickle.load(open({str(tmp_path / "graph")!r}, "rb")).compute(scheduler="threads")
            np.save({str(tmp_path / "rows.npy")!r}, x)
        """
        assert run(tmp_path, body) == 0
        np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), EXPECTED)
        assert files(scratch) == []

    def test_a_part_of_a_result_keeps_nothing(self, gate, scratch):
        kept = (gate["train"]["x"].data + 1).persist(scheduler="threads")
        assert files(scratch) == []
        np.testing.assert_array_equal(kept.compute(), EXPECTED + 1)

    def test_a_late_thread_after_an_error_leaves_nothing(self, gate, scratch, monkeypatch):
        """One scatter fails; another one is in the middle, and goes on when everything else has ended."""
        entered, go_on, ended = threading.Event(), threading.Event(), threading.Event()
        write, first = spill_files.write_parts, threading.Lock()

        def slow(path, *args, **kwargs):
            if first.acquire(blocking=False):
                entered.set()
                assert go_on.wait(60)
                try:
                    write(path, *args, **kwargs)
                finally:
                    ended.set()
                return
            assert entered.wait(60)
            raise SpillError("no space")

        monkeypatch.setattr(bucket_sorts, "write_parts", slow)
        lazy = gate["train"]["x"].data
        try:
            lazy.compute(scheduler="threads", num_workers=2)
        except SpillError:
            failed = True
        assert failed
        del lazy
        gc.collect()
        go_on.set()
        assert ended.wait(60)
        for thread in threading.enumerate():
            if thread.name.startswith("ThreadPoolExecutor"):
                thread.join(0.5)
        sys.last_value = None
        assert files(scratch) == []

    def test_who_ended_is_not_written_to(self, tmp_path):
        mine = spill.open_spill(tmp_path / "scratch", PLAN)
        visit, path = mine.visited(), mine.path
        del mine
        gc.collect()
        with pytest.raises(SpillError, match="has ended"):
            spill_files.write_parts(path / "map-000000", ROWS, np.arange(2), np.array([2]), Workspace())
        assert not (tmp_path / "scratch").exists()
        assert visit.path != path  # one of its own
        del visit
        assert not (tmp_path / "scratch").exists()


def iterate_in_child(view, budget, path):
    stream = view.batches(500, shuffle=True, budget=budget)
    next(iter(stream))
    Path(path).write_text(str(sum(1 for _ in Path(path).parent.joinpath("scratch").iterdir())))


def compute_in_child(lazy, path):
    np.testing.assert_array_equal(lazy.compute(scheduler="sync"), EXPECTED)
    Path(path).write_text("1")


class TestProcesses:
    @pytest.mark.parametrize("method", ["fork", "forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
    def test_children_leave_nothing(self, tmp_path, gate, scratch, method):
        """As the workers of a DataLoader do, which never reach the end of Python itself."""
        context = multiprocessing.get_context(method)
        for number in range(3):
            path = tmp_path / f"seen{number}"
            with dask.config.set({"storegate.scratch-directory": scratch}):
                arguments = (gate["train"]["x"], "2MiB", path)
                child = context.Process(target=iterate_in_child, args=arguments)
                if method != "fork":
                    child = context.Process(
                        target=compute_in_child, args=(dask.optimize(gate["train"]["x"].data)[0], path)
                    )
                child.start()
                child.join()
            assert child.exitcode == 0
            assert int(path.read_text()) >= 1
            assert files(scratch) == []

    def test_a_forked_child_has_its_own(self, tmp_path, gate, scratch):
        optimized = dask.optimize(gate["train"]["x"].data)[0]
        optimized.compute(scheduler="sync")
        before = files(scratch)
        child = multiprocessing.get_context("fork").Process(
            target=compute_in_child, args=(optimized, tmp_path / "done")
        )
        child.start()
        child.join()
        assert child.exitcode == 0
        assert files(scratch) == before
        np.testing.assert_array_equal(optimized.compute(scheduler="sync"), EXPECTED)
        del optimized
        assert files(scratch) == []

    def test_a_child_that_outlives_its_parent_does_not_keep_its_locks(self, tmp_path, gate, scratch):
        body = """
            lazy.compute(scheduler="sync")
            reading, writing = os.pipe()
            if os.fork() == 0:
                os.setsid()
                os.write(writing, b"1")
                os.read(0, 1)
                os._exit(0)
            os.read(reading, 1)
            os.kill(os.getpid(), signal.SIGKILL)
        """
        command = [sys.executable, "-c", script(tmp_path, body)]
        with subprocess.Popen(command, env=environment(), stdin=subprocess.PIPE) as done:
            assert done.wait() == -signal.SIGKILL
            assert len(holds.orphans(scratch)) == 1  # while the child waits for its standard input

    @pytest.mark.parametrize("end", ["", *slowly("sys.exit(3)", "raise RuntimeError"), "os.fork() or sys.exit()"])
    def test_it_goes_with_the_process(self, tmp_path, gate, scratch, end):
        run(
            tmp_path,
            f"""
            keep = dask.optimize(lazy)[0]
            keep.compute(scheduler="sync")
            iterator = iter(gate["train"]["x"].batches(500, shuffle=True, budget="2MiB"))
            next(iterator)
            {end}
        """,
        )
        assert files(scratch) == []

    @pytest.mark.parametrize(
        "found_by",
        [
            "the same plan",
            *(pytest.param(each, marks=pytest.mark.slow) for each in ("another plan", "vacuum")),
            "vacuum of another data_id",
        ],
    )
    def test_after_a_kill_it_is_found(self, tmp_path, gate, scratch, found_by):
        assert (
            run(
                tmp_path,
                """
            lazy.compute(scheduler="sync")
            os.kill(os.getpid(), signal.SIGKILL)
        """,
            )
            == -signal.SIGKILL
        )
        assert files(scratch) != []
        if found_by == "the same plan":
            gate["train"]["x"].data.compute(scheduler="sync")
        elif found_by == "another plan":
            gate.compact()
        else:
            if found_by != "vacuum":
                gate.set_data_id("b")
                gate.add_data("y", [1])
            assert gate.vacuum(older_than=3600).scratch == []
            planned = gate.vacuum(older_than=0, dry_run=True)
            assert len([path for path in planned.scratch if path.startswith(str(scratch))]) == 1
            assert files(scratch) != []
            done = gate.vacuum(older_than=0)
            assert done.scratch == planned.scratch
            assert done.nbytes >= ROWS.nbytes
        assert files(scratch) == []

    def test_a_stream_that_is_dropped(self, gate, scratch):
        stream = gate["train"]["x"].batches(500, shuffle=True, budget="2MiB")
        for number, _ in enumerate(stream):
            if number == 3:
                break
        assert scratch.exists()
        gc.disable()
        try:
            del stream
            assert not scratch.exists(), "by counting references: nothing in it stands in a circle"
        finally:
            gc.enable()


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


def test_a_scratch_directory_of_the_user_stays_as_it_is(gate, tmp_path):
    place = tmp_path / "mine"
    place.mkdir(mode=0o750)
    for left in ([], ["notes.txt"]):
        for name in left:
            (place / name).write_text("mine")
        with dask.config.set({"storegate.scratch-directory": place}):
            optimized = dask.optimize(gate["train"]["x"].data)[0]
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
    def test_files_of_another_user_are_not_believed(self, gate, scratch, tmp_path, forged):
        """With entries and checksums that fit."""
        lazy = gate["train"]["x"].data
        optimized = dask.optimize(lazy)[0]
        np.testing.assert_array_equal(optimized.compute(scheduler="sync"), EXPECTED)
        (directory,) = scratch.iterdir()
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
