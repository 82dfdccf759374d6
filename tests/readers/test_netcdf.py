"""NetCDF4 and zarr of xarray: dimensions, coordinates, attributes and missing values, as xarray has them."""

from __future__ import annotations

import functools

import netCDF4
import numpy as np
import pytest
import xarray as xr

from storegate import StoreGate, errors
from tests.examples import in_turns

TIMES, LATITUDES = 6, 4
HOURS = {"units": "hours since 2000-01-01", "calendar": "noleap"}


def dataset(first=0, **attrs):
    rng = np.random.default_rng(first)
    return xr.Dataset(
        {
            "t": (("time", "lat"), rng.random((TIMES, LATITUDES), "f4"), {"units": "K", "long_name": "temperature"}),
            "n": (("time",), np.arange(TIMES) + first, {"flags": np.array([1, 2], "i2")}),
            "quality": (("time",), rng.random(TIMES), {"units": "1"}),
        },
        {
            "time": (
                "time",
                np.arange(TIMES, dtype="f8") + first,
                HOURS,
            ),
            "lat": ("lat", np.linspace(-60, 60, LATITUDES), {"units": "degrees_north"}),
            "area": ("lat", np.ones(LATITUDES)),
            "station": ((), 7),
        },
        {"title": "a run", "version": 3, **attrs},
    ).set_coords("quality")


@pytest.fixture(params=["read", "attach"])
def take(request, gate):
    def call(*args, **options):
        getattr(gate, request.param)(*args, **options)

    call.way = request.param
    return call


@pytest.fixture(params=["nc", "zarr v2", "zarr v3"])
def kind(request):
    return request.param


def write(path, data, kind="nc", engine="netcdf4"):
    """Write a file; return its path with the suffix of its kind."""
    path = path.with_suffix(f".{kind.split()[0]}")
    if kind == "nc":
        data.to_netcdf(path, unlimited_dims=["time"], engine=engine)
    else:
        data.to_zarr(path, zarr_format=int(kind[-1]), consolidated=False)
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a function that writes two files of a kind beside each other, the second one changed, once for all."""

    @functools.cache
    def write_both(kind, change):
        directory = tmp_path_factory.mktemp("files")
        write(directory / "1", dataset(), kind)
        return write(directory / "2", change(dataset(TIMES)), kind)

    return write_both


def opened(path, engine=None):
    options = {"engine": "zarr", "consolidated": False} if path.suffix == ".zarr" else {"engine": engine}
    return xr.open_dataset(path, decode_times=False, **options)


def expected(*parts):
    return xr.concat(parts, "time", data_vars="minimal", coords="minimal", compat="override", join="override")


@pytest.mark.parametrize(
    ("gate", "take", "written_as"),
    in_turns(
        ["numpy", "zarr"],
        ["read", "attach"],
        [("nc", "netcdf4"), ("nc", "h5netcdf"), ("zarr v2", None), ("zarr v3", None)],
    ),
    indirect=["gate", "take"],
)
def test_datasets_come_back_with_all_that_xarray_says(gate, take, tmp_path, written_as):
    kind, engine = written_as
    paths = [write(tmp_path / str(at), dataset(at * TIMES), kind, engine) for at in range(3)]
    take(tmp_path / f"*{paths[0].suffix}")
    gate.compile()
    found = gate["train"].to_xarray().load()
    oracle = expected(*(opened(path, engine) for path in paths))
    xr.testing.assert_identical(found[sorted(found.variables)], oracle[sorted(oracle.variables)].load())
    assert set(found.coords) == {"time", "lat", "area", "station", "quality"}
    assert found.t.attrs == {"units": "K", "long_name": "temperature"}


def test_some_variables_bring_the_coordinates_of_their_dimensions(gate, take, tmp_path, kind):
    path = write(tmp_path / "a", dataset(), kind)
    take(path, ["n"])
    assert set(gate["train"].to_xarray().variables) == {"n", "station"}
    take(path, ["t"], phase="valid")
    assert set(gate["valid"].to_xarray().variables) == {"t", "lat", "area", "station"}


def test_dimensions_without_a_variable_and_variables_of_fixed_size(gate, take, tmp_path):
    with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
        file.createDimension("time", None)
        file.createDimension("lat", 4)
        file.createDimension("corner", 2)
        file.createVariable("t", "f4", ("time", "lat"))[:] = np.arange(12).reshape(3, 4)
        file.createVariable("mask", "i1", ("lat", "corner"))[:] = np.arange(8).reshape(4, 2)
        file.createVariable("crs", "i4", ())[...] = 5
    take(tmp_path / "a.nc")
    found = gate["train"].to_xarray()
    oracle = xr.open_dataset(tmp_path / "a.nc")
    assert found.t.dims == ("time", "lat")
    np.testing.assert_array_equal(found.t, oracle.t)
    np.testing.assert_array_equal(found.mask, oracle.mask)
    assert int(found.crs) == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ds: ds.assign(t=ds.t.assign_attrs(units="C")), r'units "C".*units "K"'),
        (lambda ds: ds.assign_coords(time=ds.time.assign_attrs(units="hours since 2001-01-01")), "2001.*2000"),
        (lambda ds: ds.rename(lat="latitude"), "dimensions .*'latitude'.*'lat'"),
    ],
)
@pytest.mark.parametrize("names", [["t", "time"], ["time", "t"]], ids="-".join)
def test_files_that_mean_other_things_are_refused(gate, take, files, kind, change, message, names):
    path = files(kind, change)
    with pytest.raises(errors.DtypeError, match=message):
        take(path.parent / f"*{path.suffix}", names)
    assert gate.variables == ()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.assign_coords(lat=data.lat + 1),
        lambda data: data.isel(lat=slice(None, None, -1)),
        lambda data: data.assign_coords(area=data.area * 2),
    ],
    ids=["values", "order", "no index"],
)
def test_files_on_other_grids_are_refused(gate, take, files, kind, change):
    path = files(kind, change)
    with pytest.raises(errors.ArgumentError, match=r"2\.\w+: coordinate .* has other values than in .*1\.\w+"):
        take(path.parent / f"*{path.suffix}", ["t"])
    assert gate.sizes == {}


class TestMissingValues:
    def written(self, path, dtype, fill, values, attribute="_FillValue"):
        with netCDF4.Dataset(path, "w") as file:
            file.createDimension("time", None)
            given = {"fill_value": fill} if attribute == "_FillValue" else {}
            variable = file.createVariable("t", dtype, ("time",), **given)
            variable.set_auto_mask(False)
            if attribute != "_FillValue":
                variable.setncattr(attribute, np.array(fill, dtype))
            variable[:] = values
        return path

    @pytest.mark.parametrize("attribute", ["_FillValue", "missing_value"])
    def test_those_of_floats_are_nan(self, gate, tmp_path, attribute):
        path = self.written(tmp_path / "a.nc", "f4", 1e20, [1, 1e20, 3], attribute)
        gate.read(path)
        np.testing.assert_array_equal(gate["train"]["t"][:], xr.open_dataset(path).t)
        assert np.isnan(gate["train"]["t"][1])
        assert attribute not in gate["train"].to_xarray().t.attrs

    def test_those_of_integers_are_refused_where_there_are_some(self, gate, tmp_path):
        gate.read(self.written(tmp_path / "a.nc", "i4", -99, [1, 2, 3]))
        assert gate["train"]["t"][:].tolist() == [1, 2, 3]
        path = self.written(tmp_path / "b.nc", "i4", -99, [1, -99, -99])
        with pytest.raises(errors.MissingValueError, match=r"b\.nc: variable 't': 2 values are -99, .*fillna"):
            gate.read(path)

    @pytest.mark.parametrize("dtype", ["f4", "i4"])
    def test_they_are_not_attached(self, gate, tmp_path, dtype):
        path = self.written(tmp_path / "a.nc", dtype, -99, [1, 2, 3])
        with pytest.raises(errors.DtypeError, match=r"'t' of .*a\.nc has -99.* for missing .*copy it with gate\.read"):
            gate.attach(path)
        gate.attach(self.written(tmp_path / "nan.nc", "f4", np.nan, [1, np.nan, 3]))
        np.testing.assert_array_equal(gate["train"]["t"][:], np.array([1, np.nan, 3], "f4"))

    @pytest.mark.parametrize("attribute", ["scale_factor", "add_offset", "_Unsigned"])
    def test_packed_variables_are_refused(self, gate, take, tmp_path, attribute):
        with netCDF4.Dataset(tmp_path / "a.nc", "w") as file:
            file.createDimension("time", None)
            variable = file.createVariable("t", "i2", ("time",))
            variable.set_auto_maskandscale(False)
            variable.setncattr(attribute, "true" if attribute == "_Unsigned" else 0.5)
            variable[:] = [1, 2]
        with pytest.raises(errors.DtypeError, match=f"'t' is packed, with {attribute}; unpack it"):
            take(tmp_path / "a.nc")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_numbers_of_zarr_that_mean_others_are_not_attached(gate, tmp_path, zarr_format):
    for name, coding in {
        "packed": {"scale_factor": 0.5, "_FillValue": -1},
        "gaps": {"_FillValue": -99},
    }.items():
        path = tmp_path / f"{name}.zarr"
        data = xr.Dataset({"t": ("x", [1.0, 2.0, 3.0], {}, {"dtype": "i4", **coding})})
        data.to_zarr(path, zarr_format=zarr_format, consolidated=False)
    with pytest.raises(errors.DtypeError, match="'t' is packed, with scale_factor; unpack it"):
        gate.attach(tmp_path / "packed.zarr")
    with pytest.raises(errors.DtypeError, match=r"'t' of .*gaps\.zarr has -99.* for missing .*copy it with gate\.read"):
        gate.attach(tmp_path / "gaps.zarr")
    gate.read(tmp_path / "gaps.zarr")
    assert gate["train"]["t"][:].tolist() == [1, 2, 3]


def test_the_sample_axis_is_one_and_comes_first(gate, take, tmp_path):
    xr.Dataset({"a": ("x", [1, 2]), "b": ("y", [1, 2, 3])}).to_netcdf(tmp_path / "a.nc")
    with pytest.raises(errors.ShapeError, match=r"do not all begin with the same dimension \(a.*b.*by var_names"):
        take(tmp_path / "a.nc")
    take(tmp_path / "a.nc", "b")
    assert gate["train"].to_xarray().b.dims == ("y",)
    xr.Dataset({"a": ("x", [1, 2]), "b": (("y", "x"), np.ones((3, 2)))}).to_netcdf(
        tmp_path / "b.nc", unlimited_dims=["x"]
    )
    with pytest.raises(errors.ShapeError, match=r"'b' has dimensions \('y', 'x'\), and samples lie along 'x'"):
        take(tmp_path / "b.nc", phase="test")


@pytest.mark.parametrize("kind", ["nc", "zarr v2"])
def test_characters_are_texts(gate, tmp_path, kind):
    stations = np.array([b"a", b"bc", b""])
    data = xr.Dataset({"s": ("time", stations), "pair": (("time", "at"), np.stack([stations, stations[::-1]], axis=1))})
    data = data.assign_coords(at=("at", stations[:2]))
    if kind == "nc":
        data["name"] = "time", np.array(["é", "bc", ""]), {"long_name": "a name"}
        data["name"].encoding["dtype"] = "S1"
    gate.read(write(tmp_path / "a", data, kind))
    gate.compile()
    found = gate["train"].to_xarray().load()
    assert found.sizes == data.sizes
    for name in data.variables:
        np.testing.assert_array_equal(found[name].values, data[name].values, strict=True)
        assert found[name].attrs == data[name].attrs


def test_complex_numbers_that_were_exported_are_read_again(gate, tmp_path):
    numbers = np.array([1, 2, 3j], "c8")
    with StoreGate(data_id="a") as other:
        other.add_data({"x": numbers, "s": np.array([b"a", b"bc", b""])})
        other.export(tmp_path / "a.nc")
    gate.read(tmp_path / "a.nc")
    np.testing.assert_array_equal(gate["train"]["x"][:], numbers, strict=True)
    assert gate["train"]["s"][:].tolist() == [b"a", b"bc", b""]
