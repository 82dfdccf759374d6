"""CF values: numbers of files that mean times, durations and truths come in as such, and as xarray has them."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storegate import StoreGate, errors
from tests.examples import in_turns

N = 60


def dataset(first="2000-01-01", freq="h"):
    rng = np.random.default_rng(0)
    when = pd.date_range("2001-02-28", periods=N, freq="37min", unit="ns").values.copy()  # as xarray reads them
    when[[3, 17]] = "NaT"
    return xr.Dataset(
        {
            "t": (("time", "lat"), rng.random((N, 3)), {"units": "K"}),
            "when": ("time", when, {"long_name": "when it was seen"}),
            "took": ("time", pd.to_timedelta(rng.integers(0, 10**6, N), "s")),
            "ok": ("time", rng.random(N) > 0.5),
        },
        {
            "time": pd.date_range(first, periods=N, freq=freq, unit="ns"),
            "lat": [1.0, 2.0, 3.0],
            "reference": np.datetime64("1999-12-31", "ns"),
        },
    )


def require_equal(found, expected):
    found, expected = found.load(), expected.load()
    xr.testing.assert_identical(found[sorted(found.variables)], expected[sorted(expected.variables)])
    assert {name: of.dtype for name, of in found.variables.items()} == {
        name: of.dtype for name, of in expected.variables.items()
    }


@pytest.mark.parametrize("engine", ["netcdf4", "h5netcdf"])
def test_files_of_other_reference_dates_are_one_series(gate, tmp_path, engine):
    for at, first in enumerate(["2000-01-01", "2004-02-29"]):
        dataset(first, "6h").to_netcdf(tmp_path / f"{at}.nc", engine=engine)
    gate.read(tmp_path / "*.nc")
    parts = [xr.open_dataset(tmp_path / f"{at}.nc") for at in range(2)]
    units = [part.time.encoding["units"] for part in parts]
    assert units[0] != units[1]
    require_equal(gate["train"].to_xarray(), xr.concat(parts, "time", data_vars="minimal", coords="minimal"))
    gate.split(("2000-01-05", "2004-03-01"), by="time")
    assert gate.sizes == {"train": 16, "valid": N - 16 + 4, "test": N - 4}


CODINGS = {
    "seconds": {"units": "seconds since 1970-01-01", "dtype": "f8"},
    "days of small floats": {"units": "days since 2000-01-01", "dtype": "f4"},
    "a far reference": {"units": "days since 0001-01-01", "calendar": "proleptic_gregorian", "dtype": "f8"},
    "minutes with a zone": {"units": "minutes since 2000-01-01 00:00:00 +01:00", "dtype": "i4"},
    "nanoseconds": {"units": "nanoseconds since 2000-01-01", "dtype": "i8"},
}


@pytest.mark.parametrize(("coding", "block"), in_turns(CODINGS, [1, 7, N]))
def test_every_coding_in_blocks_of_every_size(tmp_path, coding, block):
    data = xr.Dataset({"x": ("time", np.arange(N))}, {"time": pd.date_range("2000-03-01", periods=N, freq="h")})
    data.time.encoding = {**CODINGS[coding], "chunksizes": (block,)}
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": block}, data_id="a") as gate:
        gate.read(tmp_path / "a.nc")
        require_equal(gate["train"].to_xarray(), xr.open_dataset(tmp_path / "a.nc"))


@pytest.mark.parametrize(
    "attrs",
    [
        {"units": "hours since 2000-01-01", "calendar": "noleap"},
        {"units": "days since 2000-01-01", "calendar": "360_day"},
        {"units": "days since 0001-01-01"},
        {"units": "counts since the last reset"},
        {"units": "days"},
    ],
    ids=str,
)
def test_what_datetimes_do_not_have_stays_numbers_with_its_units(gate, tmp_path, attrs):
    data = xr.Dataset({"x": ("time", np.arange(5.0), attrs)}, {"time": ("time", np.arange(5), attrs)})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    gate.read(tmp_path / "a.nc")
    require_equal(
        gate["train"].to_xarray(), xr.open_dataset(tmp_path / "a.nc", decode_times=False, decode_timedelta=False)
    )


def test_times_in_place_are_the_numbers_of_the_file(gate, tmp_path):
    dataset().to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    gate.attach(tmp_path / "a.nc", ["t", "time", "took"])
    found = gate["train"].to_xarray()
    oracle = xr.open_dataset(tmp_path / "a.nc", decode_times=False, decode_timedelta=False)
    for name in ("time", "took"):
        np.testing.assert_array_equal(found[name], oracle[name])
        assert found[name].attrs == oracle[name].attrs


def test_missing_times_are_no_numbers_in_place(gate, tmp_path):
    data = dataset().drop_vars("took")
    data["when"].encoding = {"units": "minutes since 2001-01-01", "dtype": "i4", "_FillValue": -1}
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(errors.DtypeError, match="'when' of .* has -1 for missing values.*gate.read"):
        gate.attach(tmp_path / "a.nc", ["t", "when"])
    assert gate.variables == ()


@pytest.mark.parametrize("unit", ["D", "s", "ms", "us"])
@pytest.mark.parametrize("suffix", ["nc", "zarr"])
@pytest.mark.parametrize("texts", in_turns([["9999-12-31", "NaT", "2020-01-01"], ["2020-01-01", "NaT", "0001-01-01"]]))
def test_times_beyond_nanoseconds_come_back(tmp_path, texts, suffix, unit):
    times = np.array(texts, f"M8[{unit}]")
    gate = StoreGate(data_id="a")
    gate.add_data("t", times)
    gate.export(tmp_path / f"t.{suffix}")
    back = StoreGate(data_id="b")
    back.read(tmp_path / f"t.{suffix}")
    assert back["train"]["t"].dtype == "M8[us]"  # the same whichever row comes first
    np.testing.assert_array_equal(back["train"]["t"][:], times)


def test_floats_mean_times_of_the_unit_that_reaches_all(gate, tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        time = file.create_dataset("time", data=np.array([0.5, np.nan, 400_000.0]))
        time.attrs.update(units="days since 2000-01-01")
        time.make_scale("time")
        file.create_dataset("x", data=np.arange(3)).dims[0].attach_scale(time)
    gate.read(tmp_path / "a.nc")
    expected = np.array(["2000-01-01T12", "NaT", np.datetime64("2000-01-01") + np.timedelta64(400_000, "D")], "M8[us]")
    np.testing.assert_array_equal(gate["train"]["time"][:], expected)


def test_a_missing_truth_value_is_refused(gate, tmp_path):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        sample = file.create_dataset("sample", data=np.arange(3))
        sample.make_scale("sample")
        ok = file.create_dataset("ok", data=np.array([0, 1, -1], "i1"))
        ok.attrs.update(dtype="bool", _FillValue=np.int8(-1))
        ok.dims[0].attach_scale(sample)
    with pytest.raises(errors.MissingValueError, match="1 truth values are missing"):
        gate.read(tmp_path / "a.nc")


@pytest.mark.parametrize(
    ("n_missing", "fill", "kind"),
    in_turns([1, 30], [-9999, 2**31 - 1, 9.969209968386869e36], ["nc", "v2", "v3"], every=3),
)
def test_times_of_which_the_first_ones_are_missing(gate, tmp_path, kind, fill, n_missing):
    numbers = 1_000_000 + np.arange(40.0)
    numbers[[*range(n_missing), 35]] = fill
    attrs, coding = (
        {"units": "hours since 1900-01-01"},
        {"_FillValue": fill, "chunksizes" if kind == "nc" else "chunks": (8,)},
    )
    data = xr.Dataset(
        {"t": ("row", numbers.astype("i4" if fill < 2**31 else "f8"), attrs, coding), "x": ("row", np.arange(40))}
    )
    path = tmp_path / ("a.nc" if kind == "nc" else "a.zarr")
    if kind == "nc":
        data.to_netcdf(path, engine="h5netcdf")
    else:
        data.to_zarr(path, zarr_format=int(kind[1]), consolidated=False)
    options = {} if kind == "nc" else {"engine": "zarr", "consolidated": False}
    gate.read(path)
    np.testing.assert_array_equal(gate["train"]["t"][:], xr.open_dataset(path, **options)["t"])
    np.testing.assert_array_equal(gate["train"]["x"][:], np.arange(40))


def test_text_for_missing_values_is_refused_with_the_remedy(gate, tmp_path):
    data = xr.Dataset({"x": ("row", np.arange(3.0), {"missing_value": "-9999"})})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    with pytest.raises(errors.DtypeError, match=r"'x' has the text '-9999' for missing values.*open_dataset"):
        gate.read(tmp_path / "a.nc")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_xarray_wrote_to_zarr(gate, tmp_path, zarr_format):
    data = dataset().assign(gaps=("time", np.where(np.arange(N) % 5, 1.5, np.nan), {}, {"_FillValue": -9.0}))
    data.to_zarr(tmp_path / "a.zarr", zarr_format=zarr_format, consolidated=False)
    gate.read(tmp_path / "a.zarr")
    require_equal(gate["train"].to_xarray(), xr.open_dataset(tmp_path / "a.zarr", engine="zarr", consolidated=False))
    np.testing.assert_array_equal(gate["train"]["gaps"][:], data["gaps"])


@pytest.mark.parametrize("name", ["a.zarr", "a.nc"])
def test_what_is_exported_comes_back(gate, tmp_path, name):
    data = dataset()
    gate.add_data(data)
    gate.export(tmp_path / name)
    with StoreGate(data_id="other") as other:
        other.read(tmp_path / name)
        other.compile()
        require_equal(other["train"].to_xarray(), gate["train"].to_xarray())


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_keep_their_unit(gate, tmp_path, unit):
    data = xr.Dataset({"took": ("row", np.arange(-3, 40).astype(f"m8[{unit}]"))})
    data.to_netcdf(tmp_path / "a.nc", engine="h5netcdf")
    gate.read(tmp_path / "a.nc")
    expected = xr.open_dataset(tmp_path / "a.nc")["took"]
    found = gate["train"]["took"][:]
    assert found.dtype == expected.dtype == data["took"].dtype
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("values", [[], [-1, -1], [-1, 5]])
def test_what_only_sounds_like_times_stays_numbers(gate, tmp_path, values):
    with h5py.File(tmp_path / "a.nc", "w") as file:
        hits = file.create_dataset("hits", data=np.array(values, "f8"))
        hits.attrs.update(units="counts since the last reset", _FillValue=-1.0)
        hits.make_scale("hits")
        file.create_dataset("x", data=np.arange(float(len(values)))).dims[0].attach_scale(hits)
    gate.read(tmp_path / "a.nc")
    np.testing.assert_array_equal(gate["train"]["hits"][:], np.where(np.array(values) == -1, np.nan, values))
