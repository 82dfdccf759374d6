"""Every operation on storage fails once, in every change: before it, after it, or half done; and full disks."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import threading
import urllib.request
from pathlib import Path

import dask
import numpy as np
import pytest
from moto.server import ThreadedMotoServer
from zarr.storage import LocalStore

from storegate import StoreGate
from storegate_engine.arrays.shards import Shards
from storegate_engine.errors import SpillError, StoreError, WriteError
from storegate_engine.locations import Location
from tests.processes import environment

X = np.random.default_rng(0).random((48, 3))
T = np.array(["a", "bc"] * 24)


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
        self._leave_partial(Path(shards.path(number)), rows.tobytes())


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


def break_every_operation(faults, original, tmp_path, change, durability, kind=None):
    old, new = expected_states(original, tmp_path, change)
    struck = 0
    for how in ("before", "after", "torn"):
        at = 0
        while True:
            at += 1
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


@pytest.mark.parametrize("name", CHANGES)
def test_a_failed_operation_leaves_the_old_or_the_new_state(faults, original, tmp_path, name):
    assert break_every_operation(faults, original, tmp_path, CHANGES[name], "process") >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["add_data", "compact", "rollback"])
def test_a_failed_operation_of_durable_changes(faults, original, tmp_path, name):
    assert break_every_operation(faults, original, tmp_path, CHANGES[name], "power") >= 9


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
    for how in ("before", "after", "torn"):
        for at in range(1, 8):
            path = tmp_path / f"{how}{at}"
            faults.arm(at, how)
            with contextlib.suppress(OSError):
                StoreGate("zarr", {"output_dir": path}, "a")
            faults.arm(None, how)
            gate = StoreGate("zarr", {"output_dir": path}, "a")
            gate.add_data("x", [1])
            np.testing.assert_array_equal(gate.get_data("x"), [1])


# Full disks


def can_mount(directory):
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", directory]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 3 MB."""
    directory = tmp_path / "disk"
    directory.mkdir()
    if not can_mount(directory):
        pytest.skip("no file system can be mounted here; see the test with a limited file size")
    yield directory
    subprocess.run(["umount", "-l", directory], check=True)


def fill(directory, leave_nbytes):
    """Fill a disk but for some bytes; return the file that does."""
    filler = directory / "filler"
    free = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    with open(filler, "wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave_nbytes))
    return filler


BIG = np.random.default_rng(1).random((200, 1000))


@pytest.mark.parametrize("durability", ["process", "power"])
@pytest.mark.parametrize("leave_kib", [0, 4, 8, 16, 32, 64, 256, 1024])
def test_a_full_disk_is_a_typed_error_and_no_loss(small_disk, durability, leave_kib):
    """In data, in metadata or in the manifest, as the space that is left wants it."""
    args = {"output_dir": small_disk / "store", "durability": durability}
    gate = StoreGate("zarr", args, "a")
    gate.add_data("x", X)
    filler = fill(small_disk, leave_kib * 1024)
    with pytest.raises(WriteError, match=r"cannot be written.*free space there"):
        gate.add_data("y", BIG)
    np.testing.assert_array_equal(gate.get_data("x"), X)
    assert gate.get_var_names() == ["x"]
    arrays = [path.name for path in gate.repository().segments.path.glob("*/*") if path.is_dir()]
    assert arrays == ["x"]  # what did not fit takes no space
    assert StoreGate("zarr", args, "a").verify().problems == ()
    filler.unlink()
    gate.add_data("y", BIG)
    np.testing.assert_array_equal(gate.get_data("y"), BIG)


def test_a_disk_that_is_full_for_the_manifest(small_disk):
    """No data are written by ``astype``: the manifest alone does not fit."""
    gate = StoreGate("zarr", {"output_dir": small_disk / "store"}, "a")
    gate.add_data("x", X)
    filler = fill(small_disk, 0)
    with pytest.raises(WriteError, match=r"manifests/00000002\.json cannot be written.*free space"):
        gate.astype("x", "f4")
    assert gate.get_data("x").dtype == np.float64
    filler.unlink()
    gate.astype("x", "f4")
    assert gate.get_data("x").dtype == np.float32


def test_a_disk_that_is_full_for_the_spill(small_disk, tmp_path):
    gate = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "a")
    gate.add_data("y", BIG, shuffle=1)
    expected = gate.get_data("y")
    filler = fill(small_disk, 100 * 1024)
    with dask.config.set({"storegate.shuffle": "exchange", "storegate.scratch-directory": str(small_disk / "spill")}):
        with pytest.raises(SpillError, match="free space"):
            gate.compact()
        np.testing.assert_array_equal(gate.get_data("y"), expected)
        assert gate.repository().version == 1
        filler.unlink()
        gate.compact()
    np.testing.assert_array_equal(gate.get_data("y"), expected)


LIMITED = """
import resource, signal, sys
import numpy as np
from storegate import StoreGate
from storegate_engine.errors import StoreError

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
big = np.random.default_rng(1).random((200, 1000))
for limit in sys.argv[2:]:
    gate = StoreGate("zarr", {"output_dir": f"{sys.argv[1]}/{limit}"}, "a")
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
    try:
        gate.add_data("y", big)
    except StoreError as err:
        assert "cannot be written" in str(err), err
    else:
        raise SystemExit(f"was written with a limit of {limit}")
    assert gate.get_var_names() == ["x"]
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    gate.add_data("y", big)
    np.testing.assert_array_equal(gate.get_data("y"), big)
"""


def test_a_limited_file_size_is_a_typed_error_and_no_loss(tmp_path):
    """The same where nothing can be mounted."""
    limits = ["0", "500", "1200", "100000"]
    gates = [StoreGate("zarr", {"output_dir": tmp_path / limit}, "a") for limit in limits]
    for gate in gates:
        gate.add_data("x", X)
    arguments = [sys.executable, "-c", LIMITED, tmp_path, *limits]
    done = subprocess.run(arguments, check=False, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    for gate in gates:
        np.testing.assert_array_equal(gate.get_data("x"), X)


def test_an_object_store_that_goes_away_is_a_write_error_and_changes_nothing():
    """obstore's errors are of no kind that Python knows."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    options = {
        "endpoint": endpoint,
        "access_key_id": "testing",
        "secret_access_key": "secret-key",
        "region": "us-east-1",
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": True},
        "retry_config": {"max_retries": 0},
    }
    urllib.request.urlopen(urllib.request.Request(f"{endpoint}/bucket", method="PUT")).close()
    gate = StoreGate("zarr", {"output_dir": "s3://bucket/store", "storage_options": options}, "a")
    gate.add_data("x", np.arange(10))

    def rows():
        yield np.zeros((1000, 64))
        server.stop()
        yield np.zeros((200_000, 64))

    with pytest.raises(StoreError):
        gate.add_data("y", rows())
    assert gate.get_var_names() == ["x"]
    with pytest.raises(StoreError):
        gate.add_data("z", np.arange(10))
    assert gate.get_var_names() == ["x"]
