"""Files of other programs are read where they are; numpy has the values to compare with."""

from __future__ import annotations

import itertools
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import h5py
import netCDF4
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from storegate_engine.arrays import ForeignArray, list_of, source_file
from storegate_engine.store import ArraySource
from tests.examples import examples
from tests.processes import environment

N = 1000
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(N, 3)).astype("f4"), RNG.integers(0, 5, N)
CUTS = [0, 100, 100, 101, 640, N]
"""Files of different lengths, one of which has no rows."""


def parts():
    return [(X[lo:hi], Y[lo:hi]) for lo, hi in itertools.pairwise(CUTS)]


def hdf5(directory):
    for at, (x, y) in enumerate(parts()):
        with h5py.File(directory / f"run{at * 7}.h5", "w") as file:
            chunks = {"chunks": (16, 3), "compression": "gzip"} if at % 2 and len(x) else {}
            file.create_dataset("x", data=x.astype(">f4") if at == 4 else x, **chunks)
            file["y"] = y
    return directory / "run*.h5"


def netcdf(directory):
    for at, (x, y) in enumerate(parts()):
        with netCDF4.Dataset(directory / f"run{at}.nc", "w") as file:
            file.createDimension("time", None)
            file.createDimension("axis", 3)
            file.createVariable("x", "f4", ("time", "axis"))[:] = x
            file.createVariable("y", "i8", ("time",))[:] = y
    return directory / "run*.nc"


def zarrs(version):
    def write(directory):
        for at, (x, y) in enumerate(parts()):
            group = zarr.open_group(directory / f"run{at}.zarr", mode="w", zarr_format=version)
            group.create_array("x", data=x, chunks=(max(1, min(50, len(x))), 3))
            group.create_array("y", data=y, chunks=(max(1, len(y)),))
        return directory / "run*.zarr"

    return write


FORMATS = {"hdf5": hdf5, "netcdf": netcdf, "zarr 2": zarrs(2), "zarr 3": zarrs(3)}


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


class TestFormats:
    @pytest.mark.parametrize("form", FORMATS)
    def test_files_are_one_array(self, gate, files, form):
        gate.attach(FORMATS[form](files), ["x", "y"], phase=(0.5, 0.3, 0.2), shuffle=3)
        gate.compile()
        order = np.random.RandomState(3).permutation(N)
        np.testing.assert_array_equal(gate["train"]["x"][:], X[order[:500]])
        np.testing.assert_array_equal(gate["valid"]["y"][:], Y[order[500:800]])
        np.testing.assert_array_equal(gate["test"]["x"][[5, 199, 0, 5]], X[order[800:]][[5, 199, 0, 5]])
        assert gate["test"]["x"].dtype == np.dtype("f4")

    def test_parquet_npy_and_raw_rows(self, gate, files):
        for at, (_, y) in enumerate(parts()):
            pyarrow.parquet.write_table(pa.table({"y": y, "z": y / 2}), files / f"{at}.parquet", row_group_size=70)
            np.save(files / f"{at}.npy", y)
            y.astype(">i4").tofile(files / f"{at}.bin")
        gate.attach(files / "*.parquet")
        gate.attach(files / "*.npy", "n")
        gate.attach([path for path in sorted(files.glob("*.bin")) if path.stat().st_size], "r", dtype=">i4")
        gate.attach(files / "4.bin", "rows", dtype=">i4", row_shape=(2, 2))
        for name, expected in {"y": Y, "z": Y / 2, "n": Y, "r": Y}.items():
            np.testing.assert_array_equal(gate["train"][name][:], expected)
            np.testing.assert_array_equal(gate["train"][name][99:642], expected[99:642])
        np.testing.assert_array_equal(gate["train"]["rows"][:], Y[640:].reshape(-1, 2, 2))

    def test_the_order_of_numbers_in_names_is_that_of_numbers(self, gate, files):
        for at in (1, 2, 10):
            np.save(files / f"run{at}.npy", [at])
        gate.attach(files / "run*.npy", "x")
        np.save(files / "run².npy", [3])  # a digit that is no number
        gate.attach(files / "run*.npy", "y")
        assert gate["train"]["x"][:].tolist() == [1, 2, 10]
        assert gate["train"]["y"][:].tolist() == [1, 2, 10, 3]

    def test_groups_and_single_arrays_inside_of_files(self, gate, files):
        for at in range(2):
            with h5py.File(files / f"{at}", "w") as file:  # without a suffix, as first bytes tell what it is
                file["deep/events/x"], file["deep/events/y"], file["other"] = X[at::2], Y[at::2], [1]
            group = zarr.open_group(files / f"{at}.zarr", mode="w")
            group.create_array("deep/x", data=X[at::2])
        gate.attach([f"{files}/0"], "other", phase="valid")
        with pytest.raises(errors.FilesNotFoundError):
            gate.attach([f"{files}/0:deep/events"])  # a name without a suffix may hold a colon
        for at in range(2):
            (files / f"{at}").rename(files / f"{at}.dat")
        gate.attach([f"{files}/{at}.dat:deep/events" for at in range(2)])
        np.testing.assert_array_equal(gate["train"]["x"][:], np.concatenate([X[::2], X[1::2]]))
        gate.attach(f"{files}/*.dat:deep/events/y", phase="test")
        np.testing.assert_array_equal(gate["test"]["y"][:], np.concatenate([Y[::2], Y[1::2]]))
        gate.attach(f"{files}/*.zarr:deep", phase="test")
        np.testing.assert_array_equal(gate["test"]["x"][:], np.concatenate([X[::2], X[1::2]]))


class TestUse:
    def test_all_that_stored_rows_can_do(self, gate, files):
        pattern = hdf5(files)
        gate.attach(pattern, shuffle=3)
        gate.attach(pattern)
        gate.attach(pattern, phase="valid")
        gate.compile()
        batches = list(gate["valid"]["x"].batches(64, shuffle="blocks"))
        assert sorted(np.concatenate(batches)[:, 0]) == sorted(X[:, 0])
        order = np.random.RandomState(3).permutation(N)
        x, y = np.concatenate([X[order], X]), np.concatenate([Y[order], Y])
        np.testing.assert_array_equal(gate["train"]["x"][:], x)
        gate.shuffle("train", seed=1)
        again = np.random.RandomState(1).permutation(2 * N)
        gate.onehot("y", 5)
        np.testing.assert_array_equal(gate["train"]["y"][:], np.eye(5)[y[again]])
        np.testing.assert_array_equal(gate.to_xarray().x.compute(), x[again])
        for shuffle in (True, False):
            batches = list(gate["train"]["x"].batches(64, shuffle=shuffle))
            assert sorted(np.concatenate(batches)[:, 0]) == sorted(x[:, 0])
        gate["train"]["x"][5] = np.zeros(3)
        assert not gate["train"]["x"][5].any()
        gate.add_data(["x"], [X[:7]])
        assert len(gate.table["train"]["x"]) == 2 * N + 7

    def test_a_store_of_files_is_small_and_compact_makes_it_whole(self, tmp_path, files):
        pattern = hdf5(files)
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.attach(pattern, phase=(0.5, 0.3, 0.2), shuffle=3)
            nbytes = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*") if path.is_file())
            assert nbytes < 20_000
            fingerprints = {phase: gate.fingerprint(["x", "y"], phase) for phase in gate.phases}
            direct = StoreGate(data_id="b")
            direct.add_data(["x", "y"], [X, Y], phase=(0.5, 0.3, 0.2), shuffle=3)
            assert fingerprints == {phase: direct.fingerprint(["x", "y"], phase) for phase in gate.phases}
            assert not gate.verify().problems
            gate.compact()
            for path in files.iterdir():
                path.unlink()
            assert fingerprints == {phase: gate.fingerprint(["x", "y"], phase) for phase in gate.phases}
        with StoreGate.open(tmp_path / "store") as again:
            np.testing.assert_array_equal(again["train"]["x"][:], direct["train"]["x"][:])

    def test_vacuum_keeps_the_list_of_files(self, tmp_path, files):
        pattern = hdf5(files)
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.attach(pattern)
            gate.shuffle("train", seed=1)
            gate.vacuum(older_than=0, keep_versions=1)
            np.testing.assert_array_equal(gate["train"]["y"][:], Y[np.random.RandomState(1).permutation(N)])

    def test_other_processes_read_them_too(self, tmp_path, files):
        pattern = hdf5(files)
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.attach(pattern)
            again = pickle.loads(pickle.dumps(gate))
            np.testing.assert_array_equal(again["train"]["y"][:], Y)
            script = (
                "import sys, numpy as np; from storegate import StoreGate;"
                "gate = StoreGate.open(sys.argv[1], references=[sys.argv[2]]); print(int(gate['train']['y'][:].sum()))"
            )
            command = [sys.executable, "-c", script, str(tmp_path / "store"), str(files)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment(), check=False)
            assert (done.stdout.strip(), done.stderr) == (str(Y.sum()), "")
            read, write = os.pipe()
            if not os.fork():  # handles of HDF5 files do not survive a fork; the child opens its own
                os.write(write, str(gate["train"]["y"][:].sum()).encode())
                os._exit(0)
            os.wait()
            assert int(os.read(read, 100)) == Y.sum()

    def test_xarray_opens_the_store(self, tmp_path, files):
        pattern = hdf5(files)
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.attach(pattern)
            np.testing.assert_array_equal(gate.to_xarray().y.values, Y)
            gate.compact()
        np.testing.assert_array_equal(xr.open_dataset(tmp_path / "store").y.values, Y)

    @given(data=st.data())
    @settings(max_examples=examples(60), deadline=None)
    def test_any_rows_of_any_files(self, tmp_path_factory, data):
        directory = tmp_path_factory.mktemp("files")
        sizes = data.draw(st.lists(st.integers(0, 30), min_size=1, max_size=6))
        rows = np.arange(2 * sum(sizes)).reshape(-1, 2)
        done = 0
        for at, size in enumerate(sizes):
            with h5py.File(directory / f"{at}.h5", "w") as file:
                chunked = size and data.draw(st.booleans())
                options = {"chunks": (data.draw(st.integers(1, size)), 2)} if chunked else {}
                file.create_dataset("x", data=rows[done : done + size], **options)
            done += size
        with StoreGate(data_id="a") as gate:
            gate.attach(directory / "*.h5")
            lo = data.draw(st.integers(0, len(rows)))
            hi = data.draw(st.integers(lo, len(rows)))
            np.testing.assert_array_equal(gate["train"]["x"][lo:hi], rows[lo:hi])
            if len(rows):
                picked = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=20))
                np.testing.assert_array_equal(gate["train"]["x"][picked], rows[picked])


class TestTrust:
    def test_a_store_opens_files_only_where_it_is_allowed(self, tmp_path, files):
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.attach(hdf5(files))
        with StoreGate.open(tmp_path / "store") as gate:
            assert len(gate.table["train"]["x"]) == N
            with pytest.raises(errors.SourceNotAllowedError, match=r"files in .*files, which nobody has allowed"):
                gate["train"]["x"][:]
            with pytest.raises(PermissionError):
                gate.to_xarray().x.mean().compute()
            assert gate.verify().problems
        for allowed in ([files], [tmp_path], [tmp_path / "nowhere", str(files) + "/"]):
            with StoreGate.open(tmp_path / "store", references=allowed) as gate:
                np.testing.assert_array_equal(gate["train"]["x"][:], X)
        (tmp_path / "files-2").mkdir()
        near = [tmp_path / "files-2", files / "run0.h5" / "x"]
        with StoreGate.open(tmp_path / "store", references=near) as gate, pytest.raises(errors.SourceNotAllowedError):
            gate["train"]["x"][:]

    def test_links_lead_nowhere_else(self, tmp_path, files):
        """A manifest that names a link below an allowed directory does not open what is behind it."""
        (tmp_path / "secret").mkdir()
        np.save(tmp_path / "secret" / "x.npy", Y)
        (files / "x.npy").symlink_to(tmp_path / "secret" / "x.npy")
        (files / "inner").symlink_to(tmp_path / "secret")
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.attach(files / "x.npy", "x")
        for path in (files / "x.npy", files / "inner" / "x.npy", files / ".." / "secret" / "x.npy"):
            forged = forge(tmp_path / "store", str(path))
            with StoreGate.open(forged, references=[files]) as gate, pytest.raises(errors.SourceNotAllowedError):
                gate["train"]["x"][:]

    @pytest.mark.parametrize("bad", ["", "[]", '["/etc/passwd"]', '["/etc/passwd", -1, 0, 0]', "[1, 2, 3, 4]", "{}"])
    def test_lists_that_are_not_ours_are_refused(self, tmp_path, files, bad):
        np.save(files / "x.npy", Y)
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.attach(files / "x.npy", "x")
        forged = forge(tmp_path / "store", bad, whole=True)
        with StoreGate.open(forged, references=[files]) as gate, pytest.raises(errors.StoreError):
            gate["train"]["x"][:]

    @pytest.mark.parametrize("change", ["replaced", "truncated", "touched", "removed", "a directory"])
    def test_a_file_that_changed_is_named(self, gate, files, change):
        gate.attach(hdf5(files))
        gate["train"]["x"][:]
        path = files / "run21.h5"
        match change:
            case "replaced":
                path.write_bytes((files / "run0.h5").read_bytes())
            case "truncated":
                os.truncate(path, path.stat().st_size - 10)
            case "touched":
                os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
            case "removed":
                path.unlink()
            case "a directory":
                path.unlink()
                path.mkdir()
        np.testing.assert_array_equal(gate["train"]["x"][:100], X[:100])
        with pytest.raises(errors.SourceChangedError, match=r"run21\.h5 is not as it was .* or attach it anew"):
            gate["train"]["x"][:]
        if gate.backend != "numpy":
            assert "run21.h5" in repr(gate.verify().problems)


def forge(store, path, *, whole=False):
    """Return a store that names another file, as someone could make it who may write there."""
    with StoreGate("zarr", {"output_dir": store}, data_id="a") as gate:
        old = gate.table["train"]["x"].pieces[0].array
        texts = np.array([path], dtype=np.dtypes.StringDType())
        if not whole:
            _, *facts = source_file(path, N)
            texts = list_of([(path, *facts)])
        with gate.repository().begin("forge") as change:
            files = change.store({"files": ArraySource(texts)})["files"]
            forged = ForeignArray(old.form, old.inside, files, old.dtype, old.row_shape, N, 1, ())

            def renamed(variable):
                return replace(variable, pieces=tuple(replace(piece, array=forged) for piece in variable.pieces))

            change.edit(lambda table: table.mapped("train", ["x"], renamed))
    return store


class TestRefusals:
    @pytest.mark.parametrize(
        ("call", "error", "message"),
        [
            (lambda g, d: g.attach(d / "nothing*.h5"), errors.FilesNotFoundError, "there is no file"),
            (lambda g, d: g.attach(d / "nothing.h5"), errors.FilesNotFoundError, "there is no file"),
            (lambda g, d: g.attach([d / "a.h5", d / "nothing.h5"]), errors.FilesNotFoundError, "there is no file"),
            (lambda g, d: g.attach(d / "x.npy"), errors.ArgumentError, r"have no names; give one, as in gate\.attach"),
            (lambda g, d: g.attach([d / "a.h5", d / "x.npy"], "x"), errors.ArgumentError, "the formats hdf5, npy"),
            (lambda g, d: g.attach(f"{d}/a.h5:deep"), errors.SourceError, "group 'deep' of .*a.h5 cannot be opened"),
            (lambda g, d: g.attach(d / "x.csv"), errors.ArgumentError, r"no format that can be attached; .*gate\.read"),
            (lambda g, d: g.attach(d / "x.npy", ["x", "y"]), errors.ArgumentError, "one array, and 2 names"),
            (lambda g, d: g.attach(d / "x.npy", "x", dtype="f4"), errors.ArgumentError, "describe raw rows"),
            (
                lambda g, d: g.attach(d / "x.txt", "x"),
                errors.ArgumentError,
                "can be attached; .* or dtype=",
            ),
            (lambda g, d: g.attach(d / "a.h5", format="hdf"), errors.ArgumentError, "did you mean 'hdf5'"),
            (lambda g, d: g.attach(d / "x.txt", "x", dtype="f8", row_shape=7), errors.SourceError, "not whole rows"),
            (lambda g, d: g.attach(d / "a.h5", "z"), errors.SourceError, r"no array 'z' \(arrays: t, x, y\)"),
            (lambda g, d: g.attach(d / "a.h5", "t"), errors.DtypeError, "not read in place; copy it into the store"),
            (lambda g, d: g.attach(d / "a.h5", ["x", "y"]), errors.ShapeError, "different numbers of rows"),
            (lambda g, d: g.attach([d / "a.h5", d / "b.h5"], "x"), errors.SourceError, r"b\.h5 has dtype int64"),
            (
                lambda g, d: g.attach([d / "a.h5", d / "c.h5"], "x"),
                errors.SourceError,
                r"c\.h5 cannot be opened",
            ),
            (lambda g, d: g.attach([d / "a.h5", d / "d.h5"], "x"), errors.SourceError, r"array 'x' of .*d\.h5 cannot"),
            (lambda g, d: g.attach(f"memory://{d}/x.h5"), errors.FilesNotFoundError, "there is no file"),
            (lambda g, d: g.attach(3), errors.ArgumentTypeError, "takes a path, a glob or a list of paths, found 3"),
        ],
    )
    def test_the_error_names_the_file_and_nothing_changes(self, gate, files, call, error, message):
        np.save(files / "x.npy", Y)
        (files / "x.txt").write_bytes(bytes(80))
        (files / "x.csv").write_text("x\n1\n")
        with h5py.File(files / "a.h5", "w") as file:
            file["x"], file["y"] = np.zeros(3), np.zeros(4)
            file.create_dataset("t", (3,), h5py.vlen_dtype("i4"))
        with h5py.File(files / "b.h5", "w") as file:
            file["x"] = [1, 2]
        (files / "c.h5").write_bytes((files / "a.h5").read_bytes()[:500])
        with h5py.File(files / "d.h5", "w") as file:
            file["other"] = [1.0]
        with pytest.raises(error, match=message):
            call(gate, files)
        assert gate.variables == ()
        assert gate.repository().version == 0

    def test_nulls_are_found_when_they_are_read(self, gate, files):
        pyarrow.parquet.write_table(pa.table({"n": pa.array([1, None])}), files / "n.parquet")
        gate.attach(files / "n.parquet")
        with pytest.raises(errors.SourceError, match=r"rows 0 to 2 of .*n\.parquet .* 1 values are null"):
            gate["train"]["n"][:]

    def test_rows_must_fit_those_there_are(self, gate, files):
        np.save(files / "x.npy", X)
        gate.add_data("x", Y)
        with pytest.raises(errors.ShapeError, match="samples of shape"):
            gate.attach(files / "x.npy", "x")

    def test_a_missing_library_names_its_extra(self, gate, files, monkeypatch):
        np.save(files / "x.npy", X)
        (files / "x.h5").touch()
        monkeypatch.setitem(sys.modules, "h5py", None)
        with pytest.raises(ImportError, match=r'pip install "storegate\[hdf5\]"'):
            gate.attach(files / "x.h5")

    def test_options(self, tmp_path):
        with pytest.raises(errors.ArgumentTypeError, match="references is a list of directories, found '/data'"):
            StoreGate("zarr", {"references": "/data"})
