"""Every operation on storage fails once, in every change: before it, after it, or half done; and full disks."""

from __future__ import annotations

import contextlib
import errno
import shutil
import threading
from pathlib import Path

import dask
import numpy as np
import pytest
from zarr.storage import LocalStore

from storegate import StoreGate
from storegate_engine.arrays.shards import Shards
from storegate_engine.errors import WriteError
from storegate_engine.locations import Location
from tests.examples import in_turns
from tests.store.fault_cases import T, X


class Faults:
    """Counts the operations on storage and breaks one of them: the seam through which all of them go."""

    def __init__(self, monkeypatch):
        self.count, self.at, self.how, self.seen = 0, None, "before", []
        self._lock = threading.Lock()
        for kind, name, torn in (
            (Location, "_put", self._torn_put),
            (Location, "delete", self._torn_delete),
            (Location, "read", None),
            (Location, "children", None),
            (Location, "entries", None),
            (Location, "entry", None),
            (Location, "sync", None),
            (Shards, "write", self._torn_write),
            (Shards, "read_into", None),
            (Shards, "take_into", None),
        ):
            monkeypatch.setattr(kind, name, self._wrapped(getattr(kind, name), name, torn))
        for name in ("set", "set_if_not_exists"):
            monkeypatch.setattr(LocalStore, name, self._wrapped_async(getattr(LocalStore, name), name))

    def arm(self, at, how):
        self.count, self.at, self.how, self.seen = 0, at, how, []

    def strikes(self, name):
        with self._lock:
            self.count += 1
            self.seen.append(name)
            return self.count == self.at

    def _wrapped(self, method, name, torn):
        def wrapper(location, *args, **kwargs):
            if not self.strikes(name):
                return method(location, *args, **kwargs)
            if self.how == "after":
                method(location, *args, **kwargs)
            elif self.how == "torn" and torn is not None:
                torn(location, *args)
            raise OSError(errno.EIO, f"injected {self.how} {name}")

        return wrapper

    def _wrapped_async(self, method, name):
        async def wrapper(store, key, value, *args):
            if not self.strikes(name):
                return await method(store, key, value, *args)
            if self.how == "after":
                await method(store, key, value, *args)
            elif self.how == "torn":
                self._leave_partial(Path(store.root, key), value.to_bytes())
            raise OSError(errno.EIO, f"injected {self.how} {name}")

        return wrapper

    @staticmethod
    def _leave_partial(path, content):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.with_name(f"{path.name}.{'e' * 32}.partial").write_bytes(content[: len(content) // 2])

    def _torn_put(self, location, key, content):
        self._leave_partial(location.path / key, content)

    @staticmethod
    def _torn_delete(location, key=""):
        files = sorted(path for path in (location.path / key).rglob("*") if path.is_file())
        for path in files[: len(files) // 2]:
            path.unlink()

    def _torn_write(self, shards, number, rows, **kwargs):
        self._leave_partial(Path(shards.files.path(shards.key(number))), rows.tobytes())


@pytest.fixture
def faults(monkeypatch):
    return Faults(monkeypatch)


def exchange(gate):
    with dask.config.set({"storegate.shuffle": "exchange"}):
        gate.compact()


CHANGES = {
    "add_data": lambda gate: gate.add_data(["x", "t"], [X[:5], T[:5]], phase=(3, 1, 1), shuffle=2),
    "a new variable": lambda gate: gate.add_data("z", X[:, 0]),
    "update_data": lambda gate: gate.update_data("x", X[:4] + 1, index=(3, 7), do_compile=False),
    "a scattered update": lambda gate: gate["train"]["x"].__setitem__([1, 5, 9], X[:3] + 2),
    "shuffle": lambda gate: gate.shuffle("train", 5),
    "astype": lambda gate: gate.astype("x", "f4"),
    "delete_data": lambda gate: gate.delete_data("x"),
    "clear_data": lambda gate: gate.clear_data(),
    "create_empty": lambda gate: gate.create_empty("z", (48, 2)),
    "compile": lambda gate: gate.compile(reset=True),
    "compact": lambda gate: gate.compact(),
    "compact by an exchange": exchange,
    "rollback": lambda gate: gate.rollback(1),
    "vacuum": lambda gate: gate.vacuum(older_than=0),
    "fingerprint": lambda gate: gate.fingerprint("x"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A store with a past: versions, pieces, an index and an order."""
    path = tmp_path_factory.mktemp("faults") / "store"
    with StoreGate("zarr", {"output_dir": path}, "a") as gate:
        gate.add_data(["x", "t"], [X, T])
        gate["train"]["x"][[2, 3, 30]] = X[:3]
        gate.shuffle("train", 1)
    return path


def open_gate(path, durability):
    return StoreGate("zarr", {"output_dir": path, "durability": durability}, "a")


def contents(path):
    """Everything that a new process sees, checked against the checksums too."""
    gate = StoreGate("zarr", {"output_dir": path, "mode": "r"}, "a")
    assert gate.verify().problems == ()
    table = gate.table
    return {(phase, v.name): gate.get_data(v.name, phase) for phase, v in table}


def same(first, second):
    return first.keys() == second.keys() and all(
        first[key].dtype == second[key].dtype and np.array_equal(first[key], second[key]) for key in first
    )


def expected_states(original, tmp_path, change):
    done = tmp_path / "done"
    shutil.copytree(original, done)
    change(open_gate(done, "process"))
    return contents(original), contents(done)


HOWS = ("before", "after", "torn")


def break_every_operation(faults, original, tmp_path, change, durability, *, each_way):
    """Break each operation of a change in each way, or in the one whose turn it is."""
    old, new = expected_states(original, tmp_path, change)
    struck = 0
    for number, how in enumerate(HOWS):
        at = 0 if each_way else number - len(HOWS) + 1
        while True:
            at += 1 if each_way else len(HOWS)
            path = tmp_path / f"{how}{at}"
            shutil.copytree(original, path)
            gate = open_gate(path, durability)
            faults.arm(at, how)
            failed = False
            try:
                change(gate)
            except OSError:
                failed = True
            finally:
                was_struck = faults.count >= at
                faults.arm(None, how)
            found = contents(path)
            assert same(found, new) or (failed and same(found, old)), (how, at, faults.seen)
            if not same(found, new):
                change(gate)  # the same gate goes on
                assert same(contents(path), new), (how, at)
            shutil.rmtree(path)
            if not was_struck:
                break
            struck += 1
    return struck


@pytest.mark.parametrize(
    ("name", "each_way"),
    [*in_turns(CHANGES, [False], every=5), *(pytest.param(name, True, marks=pytest.mark.slow) for name in CHANGES)],
)
def test_a_failed_operation_leaves_the_old_or_the_new_state(faults, original, tmp_path, name, each_way):
    struck = break_every_operation(faults, original, tmp_path, CHANGES[name], "process", each_way=each_way)
    assert struck >= (3 if each_way else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add_data", "compact", "rollback"])
def test_a_failed_operation_of_durable_changes(faults, original, tmp_path, name):
    assert break_every_operation(faults, original, tmp_path, CHANGES[name], "power", each_way=True) >= 9


def test_a_commit_whose_answer_is_lost_is_not_made_twice(faults, original, tmp_path):
    """Every operation fails after it was done; where that was the manifest's, the call succeeds."""
    lost = 0
    at = 0
    while True:
        at += 1
        path = tmp_path / f"store{at}"
        shutil.copytree(original, path)
        gate = open_gate(path, "process")
        faults.arm(at, "after")
        with contextlib.suppress(OSError):
            gate.add_data("x", X[:1])
            lost += faults.count >= at
        struck = faults.count >= at
        faults.arm(None, "after")
        if not struck:
            break
        assert len(gate.get_data("x")) in (48, 49)
    assert lost == 1


@pytest.mark.parametrize("operation", ["write_if_absent", "sync"])
def test_rows_whose_manifest_does_not_fit_take_no_space(stored, tmp_path, monkeypatch, operation):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "durability": "power"}, "test_id")
    gate.add_data("x", X)

    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Location, operation, full)
        with pytest.raises(WriteError, match="free space there"):
            gate.add_data("y", X)
    arrays = [path.name for path in gate.repository().segments.path.glob("*/*") if path.is_dir()]
    assert arrays == ["x"]
    gate.add_data("y", X)
    np.testing.assert_array_equal(gate.get_data("y"), X)


def test_opening_a_new_root_fails_and_is_tried_again(faults, tmp_path):
    for how in HOWS:
        for at in range(1, 8):
            path = tmp_path / f"{how}{at}"
            faults.arm(at, how)
            with contextlib.suppress(OSError):
                StoreGate("zarr", {"output_dir": path}, "a")
            faults.arm(None, how)
            gate = StoreGate("zarr", {"output_dir": path}, "a")
            gate.add_data("x", [1])
            np.testing.assert_array_equal(gate.get_data("x"), [1])
