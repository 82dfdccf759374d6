"""Commits under SIGKILL and concurrent writers: real processes, really killed."""

from __future__ import annotations

import os
import random
import signal

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import ConflictError
from storegate_engine.locations import parse_location
from storegate_engine.store import Manifest
from storegate_engine.store.logs import StoredLog
from storegate_engine.store.manifests import committed

ROWS = 2000


def open_gate(directory):
    return StoreGate("zarr", {"output_dir": directory}, "test_id")


def change(gate, number):
    """Change number ``number``: two appends, then an update of rows in the middle; always of two variables."""
    rows = np.full((ROWS, 8), number, "f4")
    if number % 3 == 2:
        gate.update_data(["x", "y"], [rows[:700], rows[:700, 0]], index=(500, 1200))
    else:
        gate.add_data(["x", "y"], [rows, rows[:, 0]])


def expected(n_changes):
    """What the variable ``y`` holds after the first changes."""
    y = np.empty(0, "f4")
    for number in range(n_changes):
        if number % 3 == 2:
            y[500:1200] = number
        else:
            y = np.concatenate([y, np.full(ROWS, number, "f4")])
    return y


def change_until_killed(directory, first, acknowledged):
    gate = open_gate(directory)
    for number in range(first, first + 1000):
        change(gate, number)
        acknowledged.send(number + 1)


def kill_and_check(processes, directory, n_kills, seed):
    rng = random.Random(seed)
    done = 0
    for _ in range(n_kills):
        receiver, sender = processes.Pipe(duplex=False)
        writer = processes.Process(target=change_until_killed, args=(directory, done, sender))
        writer.start()
        sender.close()
        acknowledged = done
        for _ in range(rng.randrange(3)):
            acknowledged = receiver.recv()
        receiver.poll(rng.uniform(0, 0.03))  # a random moment, or the next acknowledgement
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        try:
            while receiver.poll():
                acknowledged = receiver.recv()
        except EOFError:
            pass
        gate = open_gate(directory)
        version = gate.repository().version
        y = gate.get_data("y") if version else np.empty(0, "f4")
        x = gate.get_data("x") if version else np.empty((0, 8), "f4")
        states = {n: expected(n) for n in (acknowledged, acknowledged + 1)}
        found = [n for n, state in states.items() if np.array_equal(state, y)]
        assert found, f"not the state after {acknowledged} or {acknowledged + 1} changes (seed {seed})"
        np.testing.assert_array_equal(x, np.repeat(y[:, np.newaxis], 8, axis=1))
        done = found[0]
        if done > 30:
            gate.clear_data()
            gate.compile()
            directory, done = directory.with_name(f"{directory.name}_"), 0
    return done


def test_killed_writers_leave_a_committed_state(processes, tmp_path):
    kill_and_check(processes, tmp_path / "store", 10, seed=1)


@pytest.mark.slow
def test_many_killed_writers_leave_committed_states(processes, tmp_path):
    kill_and_check(processes, tmp_path / "store", 40, seed=2)


def append_many(directory, worker, count):
    gate = open_gate(directory)
    for number in range(count):
        gate.add_data(["x", "y"], [np.full((3, 2), worker * 1000 + number), np.full(3, worker * 1000 + number)])


def test_appends_of_several_processes_all_land_exactly_once(processes, tmp_path):
    workers = [processes.Process(target=append_many, args=(tmp_path, worker, 20)) for worker in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 4
    y = open_gate(tmp_path).get_data("y").reshape(-1, 3)
    assert (y == y[:, :1]).all()
    assert sorted(y[:, 0]) == sorted(worker * 1000 + number for worker in range(4) for number in range(20))
    np.testing.assert_array_equal(open_gate(tmp_path).get_data("x")[:, 0], y.ravel())


def test_conflicting_changes_are_refused(stored, tmp_path):
    stored.add_data(["x", "y"], [np.arange(4), np.arange(4)])
    other = open_gate(tmp_path / "store")

    def conflicting():
        with stored.repository().begin("astype") as change:
            cast = change.table["train"]["x"].cast(np.dtype("f4"))
            change.edit(lambda head: head.with_variables("train", [cast]), reads=[("train", "x")])
            other.astype("x", "f8")

    with pytest.raises(ConflictError, match=r"astype: variable 'x' .* by astype \(version 2\) of another writer"):
        conflicting()
    assert stored.get_data("x").dtype == np.float64


def test_changes_of_other_variables_are_made_again(stored, tmp_path):
    stored.add_data(["x", "y"], [np.arange(4), np.arange(4)])
    other = open_gate(tmp_path / "store")
    with stored.repository().begin("astype") as change:
        cast = change.table["train"]["x"].cast(np.dtype("f4"))
        change.edit(lambda head: head.with_variables("train", [cast]), reads=[("train", "x")])
        other.delete_data("y")
    assert stored.get_data("x").dtype == np.float32
    assert stored.get_var_names() == ["x"]


def test_a_failed_transaction_leaves_nothing(stored, tmp_path):
    stored.add_data("x", np.arange(4))
    before = sorted(tmp_path.rglob("*"))

    def breaks():
        yield np.arange(4)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        stored.add_data("y", breaks())
    with pytest.raises(ValueError, match="different numbers"):
        stored.add_data(["y", "z"], [iter([np.arange(4)]), iter([np.arange(5)])])
    assert sorted(tmp_path.rglob("*")) == before
    assert stored.get_var_names() == ["x"]


def test_pieces_are_merged(stored):
    for number in range(130):
        stored.add_data("x", np.full((5, 3), number))
    variable = stored.table["train"]["x"]
    assert len(variable.pieces) <= 52
    np.testing.assert_array_equal(stored.get_data("x")[:, 0], np.repeat(np.arange(130), 5))


def test_memory_pieces_are_merged():
    gate = StoreGate("numpy", data_id="a")
    for number in range(60):
        gate.add_data("x", [number])
    assert len(gate.table["train"]["x"].pieces) <= 52
    np.testing.assert_array_equal(gate.get_data("x"), np.arange(60))


def test_a_version_is_put_once(tmp_path):
    log = StoredLog(parse_location(tmp_path))
    empty = Manifest(0, None)
    first, second = (committed(empty, operation=name, arguments={}, state=None) for name in ("first", "second"))
    log.commit(first)
    with pytest.raises(ConflictError, match="second: version 1 .* is first of another writer"):
        log.commit(second)
    assert log.read(1) == first
