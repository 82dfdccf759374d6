"""What a gate exports, other tools open: each format is read by its own library alone."""

from __future__ import annotations

import sys

import h5py
import netCDF4
import numpy as np
import pyarrow.parquet
import pytest
import xarray as xr
import zarr

from storegate import StoreGate, errors
from tests.examples import in_turns
from tests.gate.test_datasets import N, weather

COLUMNS = {
    "x": np.random.default_rng(0).normal(size=(N, 3)).astype("f4"),
    "y": np.arange(N),
    "b": np.arange(N) % 2 == 0,
    "t": np.arange(N).astype("M8[ms]"),
    "d": np.arange(N).astype("m8[s]"),
    "s": np.array(["a", "bé", "x" * 90] * 4).astype(np.dtypes.StringDType()),
    "u": np.array(["a", "bé", "xy"] * 4),
}


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data(COLUMNS, shuffle=3)
        gate.add_data(COLUMNS, phase="valid")
        gate.compile()
        yield gate


def expected(name: str) -> np.ndarray:
    return COLUMNS[name][np.random.RandomState(3).permutation(N)]


def same(found, name: str) -> None:
    values = expected(name)
    if values.dtype.kind in "UT":
        assert [getattr(text, "decode", lambda t=text: t)() for text in found.tolist()] == values.tolist()
    else:
        np.testing.assert_array_equal(np.asarray(found).astype(values.dtype), values)


class TestFormats:
    def test_zarr_is_read_by_zarr_and_xarray(self, gate, tmp_path):
        gate.export(tmp_path / "out.zarr")
        group = zarr.open_group(tmp_path / "out.zarr", mode="r")
        for name in ("x", "y", "b"):
            same(group[name][:], name)
        opened = xr.open_zarr(tmp_path / "out.zarr", consolidated=False)
        for name in COLUMNS:
            same(opened[name].values, name)

    def test_netcdf_is_read_by_netcdf4(self, gate, tmp_path):
        gate.export(tmp_path / "out.nc")
        with netCDF4.Dataset(tmp_path / "out.nc") as file:
            for name in ("x", "y", "s", "u"):
                same(np.asarray(file[name][:]), name)
        with xr.open_dataset(tmp_path / "out.nc", decode_timedelta=True) as opened:
            for name in COLUMNS:
                same(opened[name].values, name)

    def test_parquet_is_read_by_pyarrow(self, gate, tmp_path):
        gate.export(tmp_path / "out.parquet")
        table = pyarrow.parquet.read_table(tmp_path / "out.parquet")
        np.testing.assert_array_equal(np.stack(table["x"].to_pylist()).reshape(N, 3), expected("x"))
        for name in ("y", "b", "t", "s", "u"):
            same(table[name].to_numpy(), name)

    def test_hdf5_is_read_by_h5py(self, gate, tmp_path):
        gate.export(tmp_path / "out.h5")
        with h5py.File(tmp_path / "out.h5") as file:
            assert list(file) == sorted(COLUMNS)
            for name in COLUMNS:
                same(file[name][:], name)

    @pytest.mark.parametrize("suffix", [".zarr", ".nc"])
    def test_labels_are_written(self, tmp_path, suffix):
        data = weather().drop_vars("rain")
        data.attrs = {"title": "weather", "n": np.int32(4)}
        with StoreGate(data_id="a") as gate:
            gate.add_data(data)
            gate.export(tmp_path / f"out{suffix}")
        with xr.open_dataset(
            tmp_path / f"out{suffix}", **({"consolidated": False} if suffix == ".zarr" else {})
        ) as out:
            xr.testing.assert_equal(out.compute(), data)
            assert out.t2m.attrs["units"] == "K"
            assert out.attrs["title"] == "weather"

    def test_all_phases_and_some_variables(self, gate, tmp_path):
        gate.export(tmp_path / "out", phase="all", format="hdf5", var_names=["y", "x"])
        with h5py.File(tmp_path / "out") as file:
            assert list(file) == ["x", "y"]
            np.testing.assert_array_equal(file["y"][:], np.concatenate([expected("y"), COLUMNS["y"]]))


ATTRIBUTES = [
    *(None, {"a": 1}, True, np.True_, [True, False], 2**62, 2**70, 1.5, np.float16(1), np.float32(2), (1, 2), [1, 2.5]),
    *("é", "", "a\0b", b"x", ["a", "b"], np.array(["a", "é"]), [1, "a"], [[1, 2], [3]], [None], np.zeros((2, 2))),
    *(np.datetime64("2020-01-01"), np.timedelta64(1, "s"), 1 + 2 * np.ones(1, "c8")),
]
"""Attributes that a gate keeps."""


class TestRefusals:
    def test_nothing_is_overwritten(self, gate, tmp_path):
        (tmp_path / "out.h5").write_text("precious")
        with pytest.raises(errors.StoreExistsError, match="there is something at .*out.h5 already; remove it"):
            gate.export(tmp_path / "out.h5")
        assert (tmp_path / "out.h5").read_text() == "precious"

    @pytest.mark.parametrize(
        ("path", "form", "message"),
        [
            ("out", None, "the suffix of .* names no format; give format=, one of zarr, netcdf, parquet, hdf5"),
            ("out.zarr", "parquett", r"no format 'parquett'; did you mean 'parquet'\?"),
            ("s3://bucket/out.zarr", None, "export writes to a local path"),
        ],
    )
    def test_formats_and_paths(self, gate, tmp_path, path, form, message):
        with pytest.raises(errors.ArgumentError, match=message):
            gate.export(path if "://" in path else tmp_path / path, format=form)

    @pytest.mark.parametrize("form", ["zarr", "netcdf", "parquet", "hdf5"])
    def test_a_file_that_fails_leaves_nothing(self, gate, tmp_path, form, monkeypatch):
        from storegate_engine.table import Variable

        def broken(*args, **options):
            raise OSError("no")

        monkeypatch.setattr(Variable, "read_into", broken)
        before = sorted(tmp_path.iterdir())
        with pytest.raises(OSError, match="no"):
            gate.export(tmp_path / "out", format=form)
        assert sorted(tmp_path.iterdir()) == before

    def test_what_a_format_lacks_is_named(self, tmp_path):
        with StoreGate(data_id="a") as gate:
            gate.add_data(weather().assign_attrs(nested={"a": 1}, pair="a"))
            with pytest.raises(errors.DtypeError, match="attribute 'nested' of the phase is .*, and NetCDF has texts"):
                gate.export(tmp_path / "out.nc")
            gate.add_data("c", np.ones(N, "c8"))
            with pytest.raises(errors.DtypeError, match="Arrow has no complex numbers"):
                gate.export(tmp_path / "out.parquet")
            assert list(tmp_path.iterdir()) == []

    def test_netcdf_has_no_half_precision(self, tmp_path):
        with StoreGate(data_id="a") as gate:
            gate.add_data(xr.Dataset({"x": ("t", np.ones(3, "f2")), "k": ("u", np.ones(2, "f2"))}), sample_dim="t")
            with pytest.raises(errors.DtypeError, match=r"float16, which NetCDF does not have; cast it first, as in"):
                gate.export(tmp_path / "out.nc")
            assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("suffix", "place", "value"),
        in_turns([".nc", ".zarr", ".h5"], ["x", "lat", None], ATTRIBUTES, every=5),
        ids=repr,
    )
    def test_attributes_are_written_or_named(self, tmp_path, place, suffix, value):
        data = xr.Dataset({"x": (("t", "lat"), np.ones((3, 2)))}, {"lat": [1, 2]})
        (data if place is None else data[place]).attrs["v"] = value
        path = tmp_path / f"out{suffix}"
        with StoreGate(data_id="a") as gate:
            gate.add_data(data)
            message = ""
            try:
                gate.export(path)
            except errors.DtypeError as err:
                message = str(err)
        if message:
            assert message.startswith(f"attribute 'v' of {place or 'the phase'} is ")
            assert list(tmp_path.iterdir()) == []
            return
        if suffix == ".h5":
            if place != "x":  # such a file has neither coordinates nor attributes of the phase
                return
            with h5py.File(path) as file:
                found = file["x"].attrs["v"]
        else:
            options = {"consolidated": False} if suffix == ".zarr" else {"engine": "netcdf4"}
            with xr.open_dataset(path, **options) as out:
                found = (out if place is None else out[place]).attrs["v"]
        expected = value.decode() if isinstance(value, bytes) else value  # files have texts alone
        assert_as_given = (
            np.testing.assert_equal if isinstance(expected, dict | list) else np.testing.assert_array_equal
        )
        found = found.tolist() if isinstance(found, np.ndarray) and isinstance(expected, list) else found
        assert_as_given(found, expected)

    def test_a_missing_library_names_its_extra(self, gate, tmp_path, monkeypatch):
        for package, form, extra in [
            ("h5netcdf", "netcdf", "netcdf"),
            ("pyarrow", "parquet", "arrow"),
            ("h5py", "hdf5", "hdf5"),
        ]:
            monkeypatch.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=rf'pip install "storegate\[{extra}\]"'):
                gate.export(tmp_path / "out", format=form)
