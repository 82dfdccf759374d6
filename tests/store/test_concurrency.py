"""Readers and writers that share a store: killed at any moment, in processes and threads, on disk and on S3."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import ConflictError, SnapshotExpired
from tests.processes import environment

ROWS = 400


def open_gate(args):
    return StoreGate("zarr", args, "test_id")


def run_all(processes, target, arguments):
    workers = [processes.Process(target=target, args=one) for one in arguments]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * len(workers)


# Killed writers, and a reader that watches them

CALLS = ("add", "update", "compact", "vacuum")


def change(gate, number):
    """Change number ``number``; every row of ``x`` and ``y`` then tells how many changes there were."""
    call = CALLS[number % 4]
    rows = np.full((ROWS, 4), number, "f8")
    if call == "add":
        gate.add_data(["x", "y"], [rows, rows[:, 0]])
    elif call == "update":
        gate.update_data(["x", "y"], [rows[:150], rows[:150, 0]], index=(100, 250))
    elif call == "compact":
        gate.astype(["x", "y"], "f4" if number % 8 == 2 else "f8")
        gate.compact()
    else:
        gate.vacuum(older_than=0, keep_versions=2)


def expected(n_changes):
    y = np.empty(0, "f8")
    for number in range(n_changes):
        if CALLS[number % 4] == "add":
            y = np.concatenate([y, np.full(ROWS, number)])
        elif CALLS[number % 4] == "update":
            y[100:250] = number
    return y


LIMIT = 28
"""Changes after which a store is left for a new one."""


def change_until_killed(directory, first, acknowledged):
    gate = open_gate({"output_dir": directory})
    for number in range(first, LIMIT):
        change(gate, number)
        acknowledged.send(number + 1)
    acknowledged.send(-1)
    signal.pause()


def read_one_state(gate):
    """Return the version that one read saw, and its ``y``; ``x`` must agree."""
    while True:
        table, version = gate.table, gate.repository().version
        if not version:
            return 0, np.empty(0)
        try:
            y = table["train"]["y"].read(0, len(table["train"]["y"]))
            x = table["train"]["x"].read(0, len(table["train"]["x"]))
        except SnapshotExpired:  # vacuumed between the two lines: read the newest
            continue
        assert (x == y[:, np.newaxis]).all(), "a mixture of two versions"
        return version, y


def watch(directories, failed):
    """Read in a loop until told to stop; versions only grow, and every state is one that was committed."""
    states = {expected(number).tobytes() for number in range(LIMIT + 1)}
    gate, current, last, reads = None, None, 0, 0
    while True:
        if directories.poll(0):
            message = directories.recv()
            if message is None:
                break
            gate, current, last = open_gate({"output_dir": message, "mode": "r"}), message, 0
        if gate is None:
            continue
        try:
            version, y = read_one_state(gate)
            assert version >= last, f"version {version} after {last}"
            assert y.astype("f8").tobytes() in states, f"no committed state at version {version} of {current}"
            last, reads = version, reads + 1
        except BaseException as err:  # noqa: BLE001
            failed.send(repr(err))
            return
    failed.send(reads)


def kill_and_watch(processes, tmp_path, n_kills, seed):
    rng = random.Random(seed)
    to_reader, from_main = processes.Pipe()[::-1]
    failures, failed = processes.Pipe(duplex=False)
    reader = processes.Process(target=watch, args=(from_main, failed))
    reader.start()
    stores, done, last_version = 0, LIMIT, 0
    directory = None
    for _ in range(n_kills):
        if done >= LIMIT:
            stores, done, last_version = stores + 1, 0, 0
            directory = tmp_path / f"store{stores}"
            open_gate({"output_dir": directory}).close()
            to_reader.send(directory)
        receiver, sender = processes.Pipe(duplex=False)
        writer = processes.Process(target=change_until_killed, args=(directory, done, sender))
        writer.start()
        sender.close()
        acknowledged = done
        for _ in range(rng.randrange(3)):
            number = receiver.recv()
            if number < 0:
                break
            acknowledged = number
        receiver.poll(rng.uniform(0, 0.03))  # a random moment, or the next acknowledgement
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        try:
            while receiver.poll():
                acknowledged = max(acknowledged, receiver.recv())
        except EOFError:
            pass
        gate = open_gate({"output_dir": directory})
        version, y = read_one_state(gate)
        assert version >= last_version
        last_version = version
        # a change that leaves the rows as they are (compact, vacuum) may be there or not
        candidates = [number for number in (acknowledged, acknowledged + 1) if np.array_equal(expected(number), y)]
        assert candidates, f"not the state after {acknowledged} or {acknowledged + 1} changes (seed {seed})"
        done = candidates[0]
    assert failures.poll(0) is False or pytest.fail(failures.recv())
    to_reader.send(None)
    reads = failures.recv()
    reader.join()
    assert isinstance(reads, int), reads
    return reads


@pytest.mark.slow
def test_killed_writers_and_a_reader_that_watches(processes, tmp_path):
    assert kill_and_watch(processes, tmp_path, 6, seed=1) > 5


@pytest.mark.slow
def test_many_killed_writers_and_a_reader_that_watches(processes, tmp_path):
    assert kill_and_watch(processes, tmp_path, 100, seed=2) > 100


# Several writers: what is acknowledged is there, once


def append_many(args, worker, count):
    gate = open_gate(args)
    for number in range(count):
        gate.add_data(["x", "y"], [np.full((2, 2), worker * 1000 + number), np.full(2, worker * 1000 + number)])


@pytest.mark.slow
def test_three_writers_on_an_s3_server_all_land_exactly_once(processes, s3_args):
    n_appends = 10
    run_all(processes, append_many, [(s3_args, worker, n_appends) for worker in range(3)])
    gate = open_gate(s3_args)
    y = gate.get_data("y").reshape(-1, 2)
    assert (y == y[:, :1]).all()
    assert sorted(y[:, 0]) == sorted(worker * 1000 + number for worker in range(3) for number in range(n_appends))
    np.testing.assert_array_equal(gate.get_data("x")[:, 0], y.ravel())
    assert gate.verify().problems == ()


# A reader during everything


def keep_changing(args, stop, vacuumed):
    gate = open_gate(args)
    for number in range(2000):
        if stop.is_set():
            return
        change(gate, number % 8 if number >= 8 else number)
        if number % 8 == 7:
            gate.clear_data()
            vacuumed.set()


@pytest.mark.parametrize("reads", [60, pytest.param(500, marks=pytest.mark.slow)])
def test_each_read_is_one_version_during_writes_compaction_and_vacuum(processes, tmp_path, reads):
    args = {"output_dir": tmp_path / "store"}
    change(open_gate(args), 0)
    pinned = StoreGate("zarr", args, "test_id", version=1)
    lazy = pinned["train"]["y"].data
    stop, vacuumed = processes.Event(), processes.Event()
    writer = processes.Process(target=keep_changing, args=(args, stop, vacuumed))
    writer.start()
    gate, seen, last, done = open_gate({**args, "mode": "r"}), set(), 0, 0
    try:
        assert vacuumed.wait(60)
        while done < reads or len(seen) <= 5:
            table, version = gate.table, gate.repository().version
            assert version >= last
            last = version
            variables = table["train"]
            if "y" not in variables:
                continue
            try:
                y = variables["y"].read(0, len(variables["y"]))
                x = variables["x"].read(0, len(variables["x"]))
            except SnapshotExpired:  # vacuumed since the table was looked at
                continue
            assert (x == y[:, np.newaxis]).all()
            seen.add(version)
            done += 1
    finally:
        stop.set()
        writer.join()
    assert writer.exitcode == 0
    open_gate(args).vacuum(older_than=0)
    for read in (lambda: pinned.get_data("y"), lambda: lazy.compute(scheduler="sync")):
        with pytest.raises(SnapshotExpired):
            read()


# Forks, spawns and threads


def forked(work):
    """Run ``work`` in a forked child and return its exit status; 1 is an exception."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


FORKING = """
import os, sys, threading, warnings
import numpy as np
from storegate import StoreGate
sys.path.insert(0, sys.argv[2])
from test_concurrency import forked
warnings.simplefilter("ignore")  # of Python 3.12 and newer: this process has threads, which is the point

gate = StoreGate("zarr", {"output_dir": sys.argv[1]}, "test_id")
gate.add_data(["x", "t"], [np.arange(5000.0), np.array(["a", "b"] * 2500)], shuffle=3)
expected, text = gate.get_data("x"), gate.get_data("t")
dataset = gate["train"].to_xarray()
dataset["x"].mean().compute()
stop = threading.Event()

def keep_reading():
    while not stop.is_set():
        gate.get_data("x", index=(0, 100))

readers = [threading.Thread(target=keep_reading) for _ in range(3)]
for reader in readers:
    reader.start()

def child():
    np.testing.assert_array_equal(gate.get_data("x"), expected)
    np.testing.assert_array_equal(gate.get_data("t"), text)
    gate.add_data("z", [os.getpid()])
    gate.shuffle("train", 1) if len({len(v) for v in gate.table["train"].values()}) == 1 else None

statuses = [forked(child) for _ in range(6)]
stop.set()
for reader in readers:
    reader.join()
assert statuses == [0] * 6, statuses
assert len(set(gate.get_data("z"))) == 6
np.testing.assert_array_equal(gate.get_data("x"), expected)
assert gate.verify().problems == ()
"""


@pytest.mark.slow
def test_forks_of_a_process_with_an_open_gate_and_busy_threads(tmp_path):
    arguments = [sys.executable, "-c", FORKING, tmp_path / "store", os.path.dirname(__file__)]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment(), timeout=120)
    assert done.returncode == 0, done.stderr


def work_on(gate, number):
    gate.add_data("x", np.full((3, 2), number))
    return gate.get_data("x", index=(0, 3)), gate["train"].to_xarray()["x"].sum().compute(scheduler="sync").item()


@pytest.mark.slow
@pytest.mark.parametrize("method", [pytest.param("spawn", marks=pytest.mark.slow), "forkserver"])
def test_processes_that_get_an_open_gate(stored, method):
    stored.add_data("x", np.full((3, 2), 100))
    stored.get_data("x")
    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.starmap(work_on, [(stored, number) for number in range(6)])
    for first, total in results:
        np.testing.assert_array_equal(first, np.full((3, 2), 100))
        assert total >= 600
    assert sorted(stored.get_data("x")[::3, 0]) == [0, 1, 2, 3, 4, 5, 100]


def shuffle_again_and_again(gate, seed):
    """Do what the error says: an append came first, try again."""
    while True:
        with contextlib.suppress(ConflictError):
            gate.shuffle("train", seed)
            return


def test_threads_share_a_gate_for_everything(gate):
    """Appends, reads, lazy reads and a compaction at the same time: nothing is lost, and nobody waits for ever."""
    gate.add_data("x", np.full((3, 2), -1))
    barrier = threading.Barrier(6)

    def work(worker):
        barrier.wait()
        for number in range(8):
            if worker == 0:
                shuffle_again_and_again(gate, number)
            elif worker == 1:
                rows = gate.get_data("x")
                assert len(rows) % 3 == 0
            elif worker == 2:
                total = gate["train"].to_xarray()["x"].sum().compute().item()
                assert total % 3 == 0
            else:
                gate.add_data("x", np.full((3, 2), worker * 100 + number))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    found = gate.get_data("x")[:, 0]
    expected = [-1, *(worker * 100 + number for worker in (3, 4, 5) for number in range(8))]
    assert sorted(found) == sorted(np.repeat(expected, 3))


# Long use


@pytest.mark.slow
def test_thousands_of_small_changes(tmp_path):
    """Files stay bounded by vacuum, opening stays quick, and the rows are those of the model."""
    args = {"output_dir": tmp_path / "store"}
    gate = open_gate(args)
    rng = np.random.default_rng(0)
    model = np.empty((0, 2), "i4")
    most = 0
    for number in range(10_000):
        if number % 4 == 3:
            lo = int(rng.integers(0, len(model) - 2))
            gate.update_data("x", np.full((2, 2), -number, "i4"), index=(lo, lo + 2), do_compile=False)
            model[lo : lo + 2] = -number
        else:
            gate.add_data("x", np.full((2, 2), number, "i4"))
            model = np.concatenate([model, np.full((2, 2), number, "i4")])
        if number % 250 == 249:
            gate.vacuum(older_than=0)
            most = max(most, sum(len(files) for _, _, files in os.walk(tmp_path)))
    np.testing.assert_array_equal(gate.get_data("x"), model)
    assert most < 1000
    started = time.perf_counter()
    again = open_gate({**args, "mode": "r"})
    assert time.perf_counter() - started < 0.5
    np.testing.assert_array_equal(again.get_data("x"), model)
