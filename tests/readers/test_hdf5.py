"""HDF5 and NetCDF4: groups and globs of files that h5py and netCDF4 wrote come in as numpy joins them."""

from __future__ import annotations

import h5py
import netCDF4
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import (
    ArgumentError,
    DtypeError,
    FilesNotFoundError,
    ShapeError,
    UnreadableFileError,
    VariableNotFoundError,
)


def write(path, n_rows, group="/", seed=0, **more):
    rng = np.random.default_rng(seed)
    columns = {"x": rng.random((n_rows, 3), dtype="f4"), "y": rng.integers(0, 9, n_rows), **more}
    with h5py.File(path, "a") as file:
        for name, rows in columns.items():
            file.require_group(group).create_dataset(name, data=rows, chunks=True if len(rows) else None)
    return columns


def assert_rows(gate, expected, phase="train"):
    assert gate.get_var_names(phase) == list(expected)
    for name, rows in expected.items():
        found = gate.get_data(name, phase)
        assert found.dtype == rows.dtype
        np.testing.assert_array_equal(found, rows)


def joined(*parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def test_globs_are_read_in_the_order_of_their_numbers(gate, tmp_path):
    parts = [write(tmp_path / f"run{at}.h5", n_rows, seed=at) for at, n_rows in ((1, 10), (2, 1), (3, 0), (10, 700))]
    gate.read(tmp_path / "run*.h5")
    assert_rows(gate, joined(*parts))


def test_a_read_splits_and_shuffles_as_add_data_does(gate, tmp_path):
    parts = [write(tmp_path / f"{at}.h5", 50, seed=at) for at in range(2)]
    gate.read(tmp_path / "*.h5", phase=(0.5, 0.25, 0.25), shuffle=3)
    with StoreGate(data_id="b") as other:
        other.add_data(joined(*parts), phase=(0.5, 0.25, 0.25), shuffle=3)
        for phase in ("train", "valid", "test"):
            assert gate.fingerprint(None, phase) == other.fingerprint(None, phase)


def test_reads_append_and_take_some_columns_in_any_order(gate, tmp_path):
    first = write(tmp_path / "a.h5", 4)
    with h5py.File(tmp_path / "b.h5", "w", track_order=True) as file:  # other columns first
        file["z"], file["y"], file["x"] = np.zeros(6), np.arange(6), np.ones((6, 3), "f4")
    gate.read([tmp_path / "a.h5", tmp_path / "b.h5"], ["y", "x"])
    gate.read(tmp_path / "a.h5", ["y", "x"])
    expected = joined(first, {"x": np.ones((6, 3), "f4"), "y": np.arange(6)}, first)
    assert_rows(gate, {name: expected[name] for name in ("y", "x")})


@pytest.mark.parametrize("given", [("run.h5:deep/events", {}), ("run.h5", {"group": "deep/events"})])
def test_groups(gate, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    write("run.h5", 3)
    expected = write("run.h5", 5, "deep/events")
    path, options = given
    gate.read(path, **options)
    assert_rows(gate, expected)
    gate.read(f"{tmp_path}/run.h5:deep/events/y", phase="test")
    assert_rows(gate, {"y": expected["y"]}, "test")


def test_groups_are_named_where_one_must_be_chosen(gate, tmp_path, unchanged):
    write(tmp_path / "run.h5", 3)
    write(tmp_path / "run.h5", 5, "deep/events")
    with unchanged(gate):
        with pytest.raises(DtypeError, match=r"run\.h5: 'deep' of '/' are groups; choose one, as in group='deep'"):
            gate.read(tmp_path / "run.h5")
        with pytest.raises(VariableNotFoundError, match="no group or array .*did you mean .deep/events."):
            gate.read(tmp_path / "run.h5", group="deep/event")
        with pytest.raises(ArgumentError, match="names a group"):
            gate.read(f"{tmp_path}/run.h5:deep", group="deep/events")
    gate.read(tmp_path / "run.h5", ["x", "y"])


def test_every_dtype_that_h5py_has_for_rows(gate, tmp_path):
    kinds = ["i1", "u2", ">i4", "u8", "f2", ">f8", "c8", "?", "S5"]
    columns = {f"v{at}": np.arange(12).astype(kind) for at, kind in enumerate(kinds)}
    columns["text"] = np.array([f"é{at}" * at for at in range(12)], object)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for name, rows in columns.items():
            file.create_dataset(name, data=rows, dtype=h5py.string_dtype() if name == "text" else rows.dtype)
    gate.read(tmp_path / "a.h5")
    for name, rows in columns.items():
        np.testing.assert_array_equal(gate.get_data(name), rows)
    assert gate.get_data("v2").dtype == np.dtype("i4")
    assert gate.get_data("text").dtype == np.dtypes.StringDType()


def test_fields_of_a_structured_dataset_are_columns(gate, tmp_path):
    rows = np.zeros(30, [("x", "f4", 2), ("id", "i8")])
    rows["id"] = np.arange(30)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["events"] = rows
    gate.read(f"{tmp_path}/a.h5:events")
    assert_rows(gate, {"x": rows["x"], "id": rows["id"]})


def test_texts_of_several_widths_become_the_widest(gate, tmp_path):
    for name, dtype in (("a", "S3"), ("b", "S7"), ("c", "S2")):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file["t"] = np.array([name.encode() * 2] * 2, dtype)
    gate.read(tmp_path / "*.h5")
    np.testing.assert_array_equal(gate.get_data("t"), np.array([b"aa", b"aa", b"bb", b"bb", b"cc", b"cc"], "S7"))


BAD = {
    "another dtype": ({"x": np.zeros((4, 3), "f4"), "y": np.zeros(4, "f8")}, DtypeError, "'y' is of float64.*int64"),
    "rows of another shape": ({"x": np.zeros((4, 2), "f4"), "y": np.zeros(4, "i8")}, ShapeError, r"shape \(2,\)"),
    "a column less": ({"x": np.zeros((4, 3), "f4")}, VariableNotFoundError, "not have 'y'.*by var_names"),
    "another column": (
        {"x": np.zeros((4, 3), "f4"), "z": np.zeros(4)},
        VariableNotFoundError,
        "does not have 'y' and has also 'z'",
    ),
    "columns of unequal lengths": ({"x": np.zeros((4, 3), "f4"), "y": np.zeros(5, "i8")}, ShapeError, "x.*4.*y.*5"),
    "a number": ({"x": np.zeros((4, 3), "f4"), "y": np.int64(3)}, DtypeError, "'y'.*sample axis"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_differs_is_named_and_nothing_is_stored(gate, tmp_path, unchanged, case):
    columns, kind, message = BAD[case]
    write(tmp_path / "1.h5", 10)
    with h5py.File(tmp_path / "2.h5", "w") as file:
        for name, rows in columns.items():
            file[name] = rows
    write(tmp_path / "3.h5", 10)
    with unchanged(gate), pytest.raises(kind, match=f"^{tmp_path}/2.h5.*{message}"):
        gate.read(tmp_path / "*.h5")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named_and_nothing_is_stored(gate, tmp_path, unchanged, share):
    parts = [write(tmp_path / f"{at}.h5", 5000, seed=at) for at in range(3)]
    whole = (tmp_path / "1.h5").read_bytes()
    (tmp_path / "1.h5").write_bytes(whole[: int(share * len(whole))])
    with unchanged(gate), pytest.raises(UnreadableFileError, match=r"^\S*/1\.h5 .*truncated"):
        gate.read(tmp_path / "*.h5")
    (tmp_path / "1.h5").write_bytes(whole)
    gate.read(tmp_path / "*.h5")
    assert_rows(gate, joined(*parts))


def test_a_damaged_chunk_is_found_while_it_is_read_and_nothing_is_stored(gate, tmp_path, unchanged):
    for at in range(3):
        with h5py.File(tmp_path / f"{at}.h5", "w") as file:
            file.create_dataset("x", data=np.arange(1000) % 7, compression="gzip", chunks=(100,))
    with h5py.File(tmp_path / "1.h5") as file:
        begin = file["x"].id.get_chunk_info(4).byte_offset
    with open(tmp_path / "1.h5", "r+b") as file:
        file.seek(begin)
        file.write(b"\xff" * 20)
    with unchanged(gate), pytest.raises(UnreadableFileError, match=r"^\S*/1\.h5 "):
        gate.read(tmp_path / "*.h5")


def test_no_file_and_wrong_options_are_refused(gate, tmp_path):
    with pytest.raises(FilesNotFoundError, match="there is no file"):
        gate.read(tmp_path / "*.h5")
    with pytest.raises(FilesNotFoundError, match="list of paths is empty"):
        gate.read([])
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(ArgumentError, match=r"notes\.txt: neither its suffix nor.*give format=, one of"):
        gate.read(tmp_path / "notes.txt")
    write(tmp_path / "a.h5", 2)
    with pytest.raises(ArgumentError, match="no option 'groupx'; did you mean 'group'"):
        gate.read(tmp_path / "a.h5", groupx="x")
    with pytest.raises(ArgumentError, match="no format 'hdf6'; did you mean 'hdf5'"):
        gate.read(tmp_path / "a.h5", format="hdf6")


def test_the_first_bytes_tell_the_format_of_a_file_without_suffix(gate, tmp_path):
    expected = write(tmp_path / "events", 3)
    gate.read(tmp_path / "events")
    assert_rows(gate, expected)


def test_netcdf(gate, tmp_path):
    for at in range(2):
        with netCDF4.Dataset(tmp_path / f"{at}.nc", "w") as file:
            file.createDimension("time", None)
            file.createDimension("lat", 4)
            file.createVariable("time", "f8", ("time",))[:] = np.arange(3.0) + at * 3
            file.createVariable("t", "f4", ("time", "lat"), zlib=True)[:] = np.arange(12).reshape(3, 4) + at * 12
    gate.read(tmp_path / "*.nc", phase="valid")
    assert_rows(gate, {"time": np.arange(6.0), "t": np.arange(24, dtype="f4").reshape(6, 4)}, "valid")


def test_packed_variables_and_netcdf_3_are_refused(gate, tmp_path, unchanged):
    with netCDF4.Dataset(tmp_path / "packed.nc", "w") as file:
        file.createDimension("time", 3)
        variable = file.createVariable("t", "i2", ("time",))
        variable.scale_factor, variable.add_offset = 0.5, 10.0
        variable[:] = [10.0, 11.0, 12.5]
    with netCDF4.Dataset(tmp_path / "old.nc", "w", format="NETCDF3_CLASSIC") as file:
        file.createDimension("time", 3)
        file.createVariable("t", "i2", ("time",))[:] = [1, 2, 3]
    with unchanged(gate):
        with pytest.raises(DtypeError, match=r"packed\.nc: variable 't' is packed.*xarray\.open_dataset"):
            gate.read(tmp_path / "packed.nc")
        with pytest.raises(UnreadableFileError, match=r"old\.nc: it is of NetCDF 3.*xarray\.open_dataset"):
            gate.read(tmp_path / "old.nc")


def test_rows_of_nothing_are_exported_and_read(gate, tmp_path):
    with StoreGate(data_id="a") as other:
        other.add_data({"x": np.zeros((4, 0, 2)), "y": np.arange(4)})
        other.export(tmp_path / "a.h5")
    gate.read(tmp_path / "a.h5")
    assert gate["train"]["x"][:].shape == (4, 0, 2)
    assert gate["train"]["y"][:].tolist() == [0, 1, 2, 3]
