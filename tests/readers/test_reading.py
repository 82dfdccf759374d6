"""Reading of any format: readers of other packages, memory within the budget, and reads that are killed."""

from __future__ import annotations

import gc
import signal
import subprocess
import sys
import textwrap

import dask
import h5py
import numpy as np
import pytest

from storegate import StoreGate
from storegate.readers import formats
from storegate_engine.errors import (
    ArgumentError,
    DtypeError,
    FilesNotFoundError,
    MemoryBudgetError,
    UnreadableFileError,
    VariableNotFoundError,
)
from tests.processes import environment
from tests.readers.measuring import MIB, grown


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Return a function that installs a package with a reader, for this process."""
    formats.installed.cache_clear()

    def install(source):
        site = tmp_path / "site"
        info = site / "dumps-1.0.dist-info"
        info.mkdir(parents=True)
        (site / "dumps_for_storegate.py").write_text(textwrap.dedent(source))
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: dumps\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[storegate.readers]\ndump = dumps_for_storegate:reader\n")
        monkeypatch.syspath_prepend(site)

    yield install
    formats.installed.cache_clear()
    sys.modules.pop("dumps_for_storegate", None)


def test_other_packages_have_readers(package, tmp_path, gate):
    package(
        """
        import contextlib
        import numpy as np

        class Reader:
            suffixes = (".dump",)
            options = ("width",)

            def holds(self, path):
                return path.read_bytes()[:4] == b"DUMP"

            @contextlib.contextmanager
            def open(self, path, names, options):
                rows = np.frombuffer(path.read_bytes()[4:], "f4").reshape(-1, options.get("width", 1))
                yield {"x": rows, "kind": [path.stem[:1]] * len(rows)}

        reader = Reader()
        """
    )
    rows = np.arange(24, dtype="f4")
    for name, part in (("a1.dump", rows[:12]), ("a2.dump", rows[12:]), ("other", rows)):
        (tmp_path / name).write_bytes(b"DUMP" + part.tobytes())
    gate.read(tmp_path / "*.dump", width=3)
    gate.read(tmp_path / "other", width=3)
    gate.read(tmp_path / "other", "x", "test", format="dump", width=4)
    np.testing.assert_array_equal(gate.get_data("x"), np.concatenate([rows, rows]).reshape(-1, 3))
    assert gate.get_data("kind").tolist() == ["a"] * 8 + ["o"] * 8
    assert gate.get_data("x", "test").shape == (6, 4)
    with pytest.raises(ArgumentError, match="'dump' has no option 'widt'; did you mean 'width'"):
        gate.read(tmp_path / "*.dump", widt=3)
    with h5py.File(tmp_path / "a3.h5", "w") as file:
        file["x"] = rows
    with pytest.raises(ArgumentError, match=r"a3\.h5 is of the format 'hdf5', and .*a2\.dump of 'dump'"):
        gate.read([tmp_path / "a2.dump", tmp_path / "a3.h5"], width=3)


def test_a_file_that_changes_while_it_is_read_is_named(package, tmp_path, gate, unchanged):
    package(
        """
        import contextlib
        import numpy as np

        class Reader:
            suffixes, options, opened = (".dump",), (), 0

            def holds(self, path):
                return False

            @contextlib.contextmanager
            def open(self, path, names, options):
                Reader.opened += 1
                yield {"x": np.arange(10 if Reader.opened == 1 else 7)}

        reader = Reader()
        """
    )
    (tmp_path / "a.dump").touch()
    with unchanged(gate), pytest.raises(UnreadableFileError, match=r"a\.dump: it had 10 rows, and 7 were read"):
        gate.read(tmp_path / "*.dump")


def test_names_are_those_of_variables(tmp_path, gate):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"], file["y"] = np.arange(3), np.arange(3.0)
    gate.read(tmp_path / "a.h5", "y")
    gate.read(tmp_path / "a.h5", ("y", "x"), "test")
    assert (gate.get_var_names("train"), gate.get_var_names("test")) == (["y"], ["y", "x"])
    with pytest.raises(DtypeError):
        gate.read(tmp_path / "a.h5", 3)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a single call is known on Linux alone")
def test_hdf5_is_read_within_the_budget(tmp_path):
    rng = np.random.default_rng(1)
    with h5py.File(tmp_path / "warm.h5", "w") as file:
        file["x"], file["y"] = np.zeros((10, 64), "f4"), np.zeros(10)
    for at in range(2):
        with h5py.File(tmp_path / f"large{at}.h5", "w") as file:
            x = file.create_dataset("x", (500_000, 64), "f4", chunks=(1000, 64))
            for lo in range(0, len(x), 50_000):
                x[lo : lo + 50_000] = rng.random((50_000, 64), dtype="f4")
            file["y"] = rng.random(500_000)
    assert grown(tmp_path, tmp_path / "large*.h5", tmp_path / "warm.h5", 64 * MIB) <= 64 * MIB
    with StoreGate.open(tmp_path / "store") as gate:
        assert gate.sizes["train"] == 1_000_000


KILLED = """
import os, signal, sys
import h5py
from storegate import StoreGate
from storegate.readers import hdf5

opened = 0
whole = hdf5.variables_in

def until_the_last(items, group, names):
    global opened
    opened += 1
    if opened == 6:  # two files of two columns: both are looked at, x of both is read, y of the first is
        os.kill(os.getpid(), signal.SIGKILL)
    return whole(items, group, names)

hdf5.variables_in = until_the_last
with StoreGate("zarr", {{"output_dir": {store!r}, "mode": "a"}}, data_id="a") as gate:
    gate.read({path!r})
"""


def test_a_killed_read_can_be_made_again(tmp_path):
    parts = [np.random.default_rng(at).random((20_000, 8)) for at in range(2)]
    for at, x in enumerate(parts):
        with h5py.File(tmp_path / f"{at}.h5", "w") as file:
            file["x"], file["y"] = x, x[:, 0]
    with StoreGate.open(tmp_path / "store", "a", mode="w") as gate:
        gate.add_data("x", np.zeros((1, 8)))
        gate.add_data("y", np.zeros(1))
    program = KILLED.format(store=str(tmp_path / "store"), path=str(tmp_path / "*.h5"))
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with StoreGate.open(tmp_path / "store", mode="r+") as gate:
        assert gate.sizes["train"] == 1
        gate.read(tmp_path / "*.h5")
        np.testing.assert_array_equal(gate.get_data("x"), np.concatenate([np.zeros((1, 8)), *parts]))
        np.testing.assert_array_equal(gate.get_data("y"), gate.get_data("x")[:, 0])
        assert gate.history()[-1].operation == "read"
        gate.vacuum(older_than=0)
        assert not gate.verify().problems


@pytest.fixture
def remote(tmp_path):
    """Return a directory of fsspec's memory with two files, their rows, and the scratch directory."""
    fsspec = pytest.importorskip("fsspec")
    files = fsspec.filesystem("memory")
    parts = [np.random.default_rng(at).random((50, 2)) for at in range(2)]
    for at, rows in enumerate(parts):
        with h5py.File(tmp_path / f"{at}.h5", "w") as file:
            file["deep/x"], file["deep/y"] = rows, rows[:, 0]
        files.put(str(tmp_path / f"{at}.h5"), f"/of-this-test/{at}.h5")
    (tmp_path / "scratch").mkdir()
    with dask.config.set({"storegate.scratch-directory": str(tmp_path / "scratch")}):
        yield "memory://of-this-test", np.concatenate(parts), tmp_path / "scratch"
    files.rm("/of-this-test", recursive=True)


def test_urls_of_fsspec(remote, gate):
    url, rows, scratch = remote
    gate.read(f"{url}/*.h5:deep")
    gate.read(f"{url}/1.h5", group="deep", phase="test", storage_options={})
    np.testing.assert_array_equal(gate.get_data("x"), rows)
    np.testing.assert_array_equal(gate.get_data("y", "test"), rows[50:, 0])
    gc.collect()
    assert not list(scratch.iterdir())


def test_urls_that_cannot_be_read(remote, gate, unchanged, monkeypatch, tmp_path):
    url, _, scratch = remote
    with unchanged(gate):
        with pytest.raises(FilesNotFoundError, match="there is no file 'memory://of-this-test/2.h5'"):
            gate.read(f"{url}/2.h5")
        with pytest.raises(ArgumentError, match="'nothing://x.h5' is of a kind that fsspec does not know"):
            gate.read("nothing://x.h5")
        with pytest.raises(ArgumentError, match="storage_options are those of URLs"):
            gate.read(tmp_path / "0.h5", storage_options={})
        with pytest.raises(VariableNotFoundError, match=r"memory://\S*/0\.h5: it has no group or array 'dep'"):
            gate.read(f"{url}/*.h5", group="dep")
        monkeypatch.setitem(sys.modules, "fsspec.core", None)
        with pytest.raises(ModuleNotFoundError, match=r"needs fsspec.core.*storegate\[urls\]"):
            gate.read(f"{url}/0.h5")


@pytest.mark.parametrize(
    ("name", "package", "extra"),
    [
        ("a.h5", "h5py", "hdf5"),
        ("a.parquet", "pyarrow", "parquet"),
        ("a.feather", "pyarrow", "arrow"),
        ("a.csv", "pyarrow", "arrow"),
        ("a.root", "uproot", "root"),
        ("a.h5ad", "anndata.io", "anndata"),
        ("a.png", "PIL.Image", "images"),
    ],
)
def test_a_missing_library_is_named_with_its_extra(tmp_path, gate, unchanged, monkeypatch, name, package, extra):
    (tmp_path / name).touch()
    monkeypatch.setitem(sys.modules, package, None)
    with unchanged(gate), pytest.raises(ModuleNotFoundError, match=rf"a\.\w+ needs {package}.*storegate\[{extra}\]"):
        gate.read(tmp_path / name)


def test_chunks_beyond_the_budget_are_refused_before_anything_is_read(tmp_path, unchanged):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("x", (12 * MIB,), "f8", chunks=(12 * MIB,))  # a chunk of 96 MiB, which is decoded whole
    args = {"output_dir": tmp_path / "store", "budget": "64MiB"}
    refused = pytest.raises(MemoryBudgetError, match="'x'.*given in chunks of 96")
    with StoreGate("zarr", args, data_id="a") as gate, unchanged(gate), refused:
        gate.read(tmp_path / "a.h5")


def test_a_read_is_one_change(tmp_path, gate):
    for at in range(3):
        with h5py.File(tmp_path / f"{at}.h5", "w") as file:
            file["x"], file["y"] = np.arange(4), np.arange(4.0)
    gate.read(tmp_path / "0.h5")
    before = gate.table
    gate.read(tmp_path / "*.h5", shuffle=1, do_compile=True)
    assert gate.table.compiled
    assert gate.sizes["train"] == 16
    gate.undo()
    assert gate.table == before


def test_a_real_file_of_a_neutrino_telescope(gate):
    uproot = pytest.importorskip("uproot")
    testdata = pytest.importorskip("km3net_testdata")
    path = testdata.data_path("oscillations/ORCA6_433kt-y_opendata_v0.5_testdata.root")
    with uproot.open(path) as file:
        expected = file["binned_nu_response"].arrays(library="np")
    gate.read(path, group="binned_nu_response")
    gate.read(path, ["W", "Pdg"], "test", group="binned_nu_response", cut="(AnaClass == 2) & (W > 0)")
    passing = (expected["AnaClass"] == 2) & (expected["W"] > 0)
    assert 0 < passing.sum() < len(passing)
    for name, rows in expected.items():
        assert gate.get_data(name).dtype == rows.dtype
        np.testing.assert_array_equal(gate.get_data(name), rows)
    for name in ("W", "Pdg"):
        np.testing.assert_array_equal(gate.get_data(name, "test"), expected[name][passing])
