"""Disks that are full, files whose size is limited, a server that goes: a typed error, and nothing is lost."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request

import dask
import numpy as np
import pytest
from moto.server import ThreadedMotoServer

from storegate import StoreGate
from storegate_engine.errors import SpillError, StoreError, WriteError
from tests.processes import environment
from tests.store.fault_cases import X


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


@pytest.mark.parametrize("durability", ["process", "power"])
def test_a_disk_that_is_full_for_some_of_many_variables(small_disk, durability):
    """The last rows of several variables are written at a time."""
    args = {"output_dir": small_disk / "store", "durability": durability}
    gate = StoreGate("zarr", args, "a")
    gate.add_data("x", X)
    columns = {f"c{at}": np.random.default_rng(at).random(50_000) for at in range(10)}
    used = set((small_disk / "store").rglob("*"))
    with pytest.raises(WriteError, match=r"c\d cannot be written.*free space there"):
        gate.add_data(columns)
    assert set((small_disk / "store").rglob("*")) - used == set()
    assert list(gate.variables) == ["x"]
    gate.add_data({name: rows[:100] for name, rows in columns.items()}, phase="test")
    assert np.array_equal(gate["test"]["c7"][:], columns["c7"][:100])


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
