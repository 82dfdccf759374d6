"""Spill: gone when its last user ends, however that is, and found after a kill."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import pickle
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate_engine import holds
from storegate_engine import scratch as spill
from storegate_engine.buffers import Workspace
from storegate_engine.errors import SpillError
from storegate_engine.exchange import bucket_sorts, spill_files
from tests.clusters import gone
from tests.exchange.spill_cases import EXPECTED, PLAN, ROWS
from tests.listings import files_below
from tests.processes import environment


def files(scratch):
    gc.collect()
    return sorted(path for path, _ in files_below(scratch))


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
    @pytest.mark.parametrize("scheduler", ["threads", "sync", pytest.param("processes", marks=pytest.mark.slow)])
    def test_an_optimized_graph_outlives_what_it_was_made_of(self, spilling, spill_scratch, scheduler):
        optimized = dask.optimize(spilling["train"]["x"].data)[0]
        gc.collect()
        for _ in range(2):
            np.testing.assert_array_equal(optimized.compute(scheduler=scheduler), EXPECTED)
        assert files(spill_scratch) != []
        del optimized
        assert files(spill_scratch) == []

    def test_delayed_blocks_outlive_it_too(self, spilling, spill_scratch):
        blocks = spilling["train"]["x"].data.to_delayed().ravel().tolist()
        gc.collect()
        np.testing.assert_array_equal(np.concatenate(dask.compute(*blocks)), EXPECTED)
        last = blocks[-1]
        del blocks
        assert len(last.compute()) > 0
        del last
        assert files(spill_scratch) == []

    @pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda lazy: pickle.loads(pickle.dumps(lazy))])
    @pytest.mark.parametrize("optimized", [False, True])
    def test_copies_have_it_for_themselves(self, spilling, spill_scratch, copied, optimized):
        lazy = spilling["train"]["x"].data
        lazy = dask.optimize(lazy)[0] if optimized else lazy
        other = copied(lazy)
        del lazy
        gc.collect()
        np.testing.assert_array_equal(other.compute(scheduler="threads"), EXPECTED)
        del other
        assert files(spill_scratch) == []

    @pytest.mark.slow
    def test_a_graph_in_another_process_spills_for_itself(self, tmp_path, spilling, spill_scratch):
        optimized = dask.optimize(spilling["train"]["x"].data)[0]
        (tmp_path / "graph").write_bytes(pickle.dumps(optimized))
        del optimized
        assert files(spill_scratch) == []
        body = f"""
            import pickle
            x = pickle.load(open({str(tmp_path / "graph")!r}, "rb")).compute(scheduler="threads")
            np.save({str(tmp_path / "rows.npy")!r}, x)
        """
        assert run(tmp_path, body) == 0
        np.testing.assert_array_equal(np.load(tmp_path / "rows.npy"), EXPECTED)
        assert files(spill_scratch) == []

    def test_a_part_of_a_result_keeps_nothing(self, spilling, spill_scratch):
        kept = (spilling["train"]["x"].data + 1).persist(scheduler="threads")
        assert files(spill_scratch) == []
        np.testing.assert_array_equal(kept.compute(), EXPECTED + 1)

    def test_a_late_thread_after_an_error_leaves_nothing(self, spilling, spill_scratch, monkeypatch):
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
        lazy = spilling["train"]["x"].data
        try:
            lazy.compute(scheduler="threads", num_workers=2)
        except SpillError:
            failed = True
        assert failed
        del lazy
        gc.collect()
        go_on.set()
        assert ended.wait(60)
        sys.last_value = None
        # the place goes last; a listing while its directory is renamed may find no file too early
        assert gone(spill_scratch), "once the thread has let it go"

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
    @pytest.mark.parametrize(
        "method", ["fork", *(pytest.param(method, marks=pytest.mark.slow) for method in ("forkserver", "spawn"))]
    )
    def test_children_leave_nothing(self, tmp_path, spilling, spill_scratch, method):
        """As the workers of a DataLoader do, which never reach the end of Python itself."""
        context = multiprocessing.get_context(method)
        for number in range(3):
            path = tmp_path / f"seen{number}"
            with dask.config.set({"storegate.scratch-directory": spill_scratch}):
                arguments = (spilling["train"]["x"], "2MiB", path)
                child = context.Process(target=iterate_in_child, args=arguments)
                if method != "fork":
                    child = context.Process(
                        target=compute_in_child, args=(dask.optimize(spilling["train"]["x"].data)[0], path)
                    )
                child.start()
                child.join()
            assert child.exitcode == 0
            assert int(path.read_text()) >= 1
            assert files(spill_scratch) == []

    def test_a_forked_child_has_its_own(self, tmp_path, spilling, spill_scratch):
        optimized = dask.optimize(spilling["train"]["x"].data)[0]
        optimized.compute(scheduler="sync")
        before = files(spill_scratch)
        child = multiprocessing.get_context("fork").Process(
            target=compute_in_child, args=(optimized, tmp_path / "done")
        )
        child.start()
        child.join()
        assert child.exitcode == 0
        assert files(spill_scratch) == before
        np.testing.assert_array_equal(optimized.compute(scheduler="sync"), EXPECTED)
        del optimized
        assert files(spill_scratch) == []

    @pytest.mark.slow
    def test_a_child_that_outlives_its_parent_does_not_keep_its_locks(self, tmp_path, spilling, spill_scratch):
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
            assert len(holds.orphans(spill_scratch)) == 1  # while the child waits for its standard input

    @pytest.mark.slow
    @pytest.mark.parametrize("end", ["", *slowly("sys.exit(3)", "raise RuntimeError"), "os.fork() or sys.exit()"])
    def test_it_goes_with_the_process(self, tmp_path, spilling, spill_scratch, end):
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
        assert files(spill_scratch) == []

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "found_by",
        [
            "the same plan",
            *(
                pytest.param(each, marks=pytest.mark.slow)
                for each in ("another plan", "vacuum", "vacuum of another data_id")
            ),
        ],
    )
    def test_after_a_kill_it_is_found(self, tmp_path, spilling, spill_scratch, found_by):
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
        assert files(spill_scratch) != []
        if found_by == "the same plan":
            spilling["train"]["x"].data.compute(scheduler="sync")
        elif found_by == "another plan":
            spilling.compact()
        else:
            if found_by != "vacuum":
                spilling.set_data_id("b")
                spilling.add_data("y", [1])
            assert spilling.vacuum(older_than=3600).scratch == []
            planned = spilling.vacuum(older_than=0, dry_run=True)
            assert len([path for path in planned.scratch if path.startswith(str(spill_scratch))]) == 1
            assert files(spill_scratch) != []
            done = spilling.vacuum(older_than=0)
            assert done.scratch == planned.scratch
            assert done.nbytes >= ROWS.nbytes
        assert files(spill_scratch) == []

    def test_a_stream_that_is_dropped(self, spilling, spill_scratch):
        stream = spilling["train"]["x"].batches(500, shuffle=True, budget="2MiB")
        for number, _ in enumerate(stream):
            if number == 3:
                break
        assert spill_scratch.exists()
        gc.disable()
        try:
            del stream
            assert not spill_scratch.exists(), "by counting references: nothing in it stands in a circle"
        finally:
            gc.enable()
