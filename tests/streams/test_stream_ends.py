"""What streams leave: no thread, file, descriptor or spill, however they end."""

from __future__ import annotations

import contextlib
import gc
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine.exchange import bucket_sorts
from storegate_engine.holds import orphans
from storegate_engine.scratch import SPARE
from tests.examples import in_turns
from tests.listings import inodes_below
from tests.processes import environment
from tests.replays import SMALL, SOURCES, exchanging, own_threads

pytestmark = pytest.mark.usefixtures("scratch")


def descriptors():
    """Return how many files are open; sockets and pipes are those of clusters and event loops."""
    found = 0
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself
            found += os.readlink(f"/proc/self/fd/{descriptor}").startswith("/")
    return found


@pytest.mark.parametrize(
    ("shuffle", "source", "leave"), in_turns([False, True, "blocks"], SOURCES, ["break", "raise", "end", "never begun"])
)
def test_no_thread_no_file_and_no_spill_is_left(stored, scratch, shuffle, source, leave):
    stored.add_data("x", np.arange(3000))
    view = stored["train"]["x"]
    list(view.batches(1000, shuffle=False))  # opens what stays open
    before = own_threads(), descriptors()
    with exchanging(source):
        options = {"label": "x", "block_rows": 1, "buffer_blocks": 1000} if shuffle == "blocks" else {}
        stream = view.batches(10, shuffle=shuffle, budget="4MB" if source == "exchange" else "64MiB", **options)
    with stream:
        if leave == "break":
            for _ in stream:
                break
        elif leave == "raise":
            with pytest.raises(TypeError):
                "".join(stream)
        elif leave == "end":
            assert len(list(stream)) == 300
        else:
            iter(stream)
        gc.collect()
        assert own_threads() <= before[0]
        n_spills = len(list(scratch.iterdir())) if scratch.exists() else 0
        assert descriptors() <= before[1] + n_spills, "a lock on each directory of spill"
    assert not scratch.exists()
    assert descriptors() <= before[1]


@pytest.mark.parametrize("end", ["killed", pytest.param("kept", marks=pytest.mark.slow)])
def test_what_an_earlier_process_spilled_is_used_when_its_stream_goes_on(tmp_path, scratch, monkeypatch, end):
    program = f"""
    import dask, json, time, numpy as np
    from storegate import StoreGate
    dask.config.set({{"storegate.shuffle": "exchange", "storegate.scratch-directory": {str(scratch)!r}}})
    gate = StoreGate("zarr", {{"output_dir": {str(tmp_path / "store")!r}, "chunk": 100}}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    stream = gate["train"]["x"].batches(100, seed=3, epoch=2, budget={SMALL!r})
    for batch in stream:
        if stream.step == 87:
            print(json.dumps(stream.state_dict()), flush=True)
            {"time.sleep(600)" if end == "killed" else "break"}
    stream.close(keep_spill=True)
    """
    with python(program, stdout=subprocess.PIPE) as process:
        state = json.loads(process.stdout.readline())
        if end == "killed":
            process.kill()
    assert process.returncode == (-signal.SIGKILL if end == "killed" else 0)
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a")
    whole = list(gate["train"]["x"].batches(100, seed=3, epoch=2, budget="64MiB"))
    written = []
    original = bucket_sorts.write_parts
    monkeypatch.setattr(
        bucket_sorts, "write_parts", lambda path, *a, **o: written.append(path) or original(path, *a, **o)
    )
    with exchanging("exchange"), gate["train"]["x"].batches(100, seed=3, budget=SMALL) as stream:
        stream.load_state_dict(state)
        found = list(stream)
        np.testing.assert_array_equal(np.concatenate(found), np.concatenate(whole[87:]))
        following = Path(stream.loader.exchange_of(3).sorts[0].directory)
        assert {path.parent for path in written} <= {following}, "and of that, what was not written when it was killed"
    assert not scratch.exists()


def spilled_files(stream, epoch):
    """Return the spill files of an epoch, by where they lie on the disk."""
    return inodes_below(Path(stream.loader.exchange_of(epoch).sorts[0].directory), "*-map-*")


@pytest.mark.slow
def test_an_epoch_is_spilled_over_the_files_of_one_that_is_done(tmp_path, scratch):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    with exchanging("exchange"), gate["train"]["x"].batches(100, seed=3, budget=SMALL) as stream:
        files = []
        for epoch in range(5):
            expected = np.concatenate(list(gate["train"]["x"].batches(100, seed=3, epoch=epoch, budget="64MiB")))
            np.testing.assert_array_equal(np.concatenate(list(stream)), expected)
            files.append(spilled_files(stream, epoch + 1))
            assert len(list(scratch.iterdir())) == 2, "this epoch's and the next one's"
            assert list(scratch.glob(f"*/{SPARE}")) == []
    assert len(files[0]) > 2
    assert files[0] == files[2] == files[4], "written over again and again"
    assert files[1] == files[3] != files[0]
    assert not scratch.exists()


def send_rows_later(stream, sharing, begun, closed, queue):
    sharing.close(keep_spill=True)
    batches = iter(stream)
    first = next(batches)
    begun.set()
    closed.wait(120)
    queue.put([batch.tolist() for batch in (first, *batches)])


@pytest.mark.slow
def test_a_forked_child_spills_for_itself(tmp_path, scratch):
    if not hasattr(os, "fork"):
        pytest.skip("no fork here")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    context = multiprocessing.get_context("fork")
    begun, closed, queue = context.Event(), context.Event(), context.Queue()
    with exchanging("exchange"):
        stream, sharing = (gate["train"]["x"].batches(100, seed=3, budget=SMALL) for _ in range(2))
    with stream, sharing:
        expected = list(stream)
        next(iter(sharing))
        stream.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python's own: threads and fork
            process = context.Process(target=send_rows_later, args=(stream, sharing, begun, closed, queue))
            process.start()
        assert begun.wait(120)
        np.testing.assert_array_equal(list(stream), expected)
    closed.set()  # what the parent spilled is gone
    assert queue.get(timeout=30) == [batch.tolist() for batch in expected]
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.parametrize("done", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_spill_that_was_kept_is_used_in_the_same_process(tmp_path, scratch, done):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a")
    gate.add_data("x", np.arange(20_000))
    with exchanging("exchange"):
        first, second = (gate["train"]["x"].batches(100, seed=3, budget=SMALL) for _ in range(2))
    batches = iter(first)
    found = [next(batches) for _ in range(200 if done else 50)]
    if done:
        assert list(batches) == []
    files = spilled_files(first, first.epoch)
    state = first.state_dict()
    first.close(keep_spill=True)
    first.close()
    assert len(list(scratch.iterdir())) == (1 if done else 2), "nothing of the epoch that is done"
    second.load_state_dict(state)
    found += list(second)
    kept = spilled_files(second, state["epoch"])
    assert files.items() <= kept.items()
    assert len(np.unique(np.concatenate(found[:200]))) == 20_000
    second.close(keep_spill=True)
    assert sorted(orphans(scratch)) == sorted(scratch.iterdir()) != [], "removed by vacuum, where they lie in a store"


def test_streams_of_one_order_share_their_spill(tmp_path, scratch):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, "a")
    gate.add_data("x", np.arange(20_000))
    with exchanging("exchange"):
        one, other = (gate["train"]["x"].batches(100, seed=3, budget=SMALL) for _ in range(2))
    with one, other:
        pairs = zip(one, other, strict=True)
        np.testing.assert_array_equal(*next(pairs))
        assert len(list(scratch.iterdir())) == 2, "this epoch's and the next one's"
        one.close()
        rest = list(other)
        assert sum(map(len, rest)) == 19_900
    assert not scratch.exists()


def test_a_reader_that_fails_is_the_consumers_error_and_leaves_nothing(stored, tmp_path):
    stored.add_data("x", np.arange(30_000))
    before = own_threads()
    stream = stored["train"]["x"].batches(100, shuffle=False)
    for chunk in tmp_path.rglob("c/*"):
        chunk.write_bytes(b"broken")
    with pytest.raises(errors.CorruptStoreError):
        list(stream)
    assert own_threads() <= before


@pytest.mark.slow
@pytest.mark.parametrize("shuffle", [True, pytest.param("blocks", marks=pytest.mark.slow)])
def test_ctrl_c_ends_the_process_at_once(tmp_path, shuffle):
    program = f"""
    import dask, signal, threading, numpy as np
    from storegate import StoreGate
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may have been started without it
    dask.config.set({{"storegate.shuffle": "exchange", "storegate.scratch-directory": {str(tmp_path / "scratch")!r}}})
    gate = StoreGate("zarr", {{"output_dir": {str(tmp_path / "store")!r}}}, data_id="a")
    gate.add_data("x", np.arange(200_000))
    sizes = {{"block_rows": 100, "buffer_blocks": 64}} if {shuffle!r} == "blocks" else {{}}
    stream = gate["train"]["x"].batches(10, shuffle={shuffle!r}, budget="32MiB", **sizes)
    try:
        while True:
            for batch in stream:
                if stream.step == 5:
                    print("reading", flush=True)
    except KeyboardInterrupt:
        stream.close()
        print([thread.name for thread in threading.enumerate() if "storegate" in thread.name], flush=True)
    """
    with python(program, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(signal.SIGINT)
        found, _ = process.communicate(timeout=60)
    assert found.splitlines()[-1] == "[]"
    assert process.returncode == 0
    assert list(tmp_path.rglob("*-map-*")) == []


@pytest.mark.parametrize("stay", ["default", pytest.param("ignored", marks=pytest.mark.slow)])
@pytest.mark.skipif("COVERAGE_RUN" in os.environ, reason="coverage handles the signal itself")
def test_sigterm_ends_the_process_and_its_spill(tmp_path, stay):
    scratch = tmp_path / "scratch"
    program = f"""
    import dask, signal, sys, numpy as np
    from storegate import StoreGate
    dask.config.set({{"storegate.shuffle": "exchange", "storegate.scratch-directory": {str(scratch)!r}}})
    if {stay!r} == "ignored":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    gate = StoreGate("zarr", {{"output_dir": {str(tmp_path / "store")!r}}}, data_id="a")
    gate.add_data("x", np.arange(200_000))
    stream = gate["train"]["x"].batches(10, budget="32MiB")
    for batch in stream:
        if stream.step == 5:
            print("reading", flush=True)
            sys.stdin.readline()  # until the signal was sent
        if stream.step == 500 and {stay!r} == "ignored":
            break
    stream.close()
    """
    with python(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == "reading\n"
        assert list(scratch.iterdir())
        process.send_signal(signal.SIGTERM)
        process.communicate("\n", timeout=120)
    assert process.returncode == (0 if stay == "ignored" else -signal.SIGTERM)
    assert not scratch.exists()


def python(program, **options):
    command = [sys.executable, "-W", "ignore", "-c", textwrap.dedent(program)]
    return subprocess.Popen(command, env=environment(), text=True, **options)
