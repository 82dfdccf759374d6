"""Datasets of xarray go in and come out identical; xarray says whether they are."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from tests.examples import examples

RNG = np.random.default_rng(0)
N = 12


def weather(n: int = N, start: str = "2020-01-01") -> xr.Dataset:
    grid = ("time", "lat", "lon")
    return xr.Dataset(
        {
            "t2m": (grid, RNG.random((n, 3, 4)), {"units": "K", "valid_range": np.array([0.0, np.nan], "f4")}),
            "u10": (grid, RNG.random((n, 3, 4)).astype("f4"), {"units": "m s-1"}),
            "rain": ("time", RNG.integers(0, 2, n).astype(bool)),
        },
        coords={
            "time": ("time", pd.date_range(start, periods=n), {"standard_name": "time"}),
            "lat": ("lat", [1.0, 2.0, 3.0], {"units": "degrees_north"}),
            "lon": [1, 2, 3, 4],
            "height": ((), 2.0, {"units": "m"}),
            "station": ("lat", np.array(["a", "bé", "c" * 50], object)),
            "area": (("lat", "lon"), np.arange(12.0).reshape(3, 4)),
            "day": ("time", np.arange(n)),
        },
        attrs={"title": "weather", "n": np.int32(4), "levels": [1, 2], "pair": (1, "a"), "nested": {"a": [np.inf]}},
    )


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


class TestRoundTrip:
    def test_nothing_is_lost(self, gate):
        data = weather()
        gate.add_data(data)
        found = gate.to_xarray()
        xr.testing.assert_identical(found.compute(), data)
        assert dict(found.xindexes.items()).keys() == data.xindexes.keys()
        assert found["t2m"].chunks is not None

    def test_every_phase_has_its_own(self, gate):
        first, second = weather(), weather(5, "2021-01-01").assign_attrs(title="another")
        gate.add_data(first)
        gate.add_data(second, phase="valid")
        xr.testing.assert_identical(gate.to_xarray("train").compute(), first)
        xr.testing.assert_identical(gate.to_xarray("valid").compute(), second)
        gate.compile()
        joined = xr.concat(
            [first, second], "time", data_vars="minimal", coords="minimal", compat="override", join="override"
        )
        xr.testing.assert_identical(gate.to_xarray("all").compute(), joined)
        assert gate.to_datatree()["valid"].attrs == second.attrs

    def test_appended_rows_go_on(self, gate):
        first, second = weather(), weather(5, "2020-02-01")
        gate.add_data(first)
        gate.add_data(second)
        joined = xr.concat(
            [first, second], "time", data_vars="minimal", coords="minimal", compat="override", join="override"
        )
        xr.testing.assert_identical(gate.to_xarray().compute(), joined)

    def test_another_process_reads_it(self, tmp_path):
        data = weather()
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.add_data(data)
            assert not gate.verify().problems
        with StoreGate.open(tmp_path / "store", mode="a") as again:
            xr.testing.assert_identical(again.to_xarray().compute(), data)
            again.compact()
            again.vacuum(keep_versions=1, older_than=0)
            xr.testing.assert_identical(again.to_xarray().compute(), data)

    def test_views_and_lazy_datasets_of_a_gate_carry_it_on(self, gate, tmp_path):
        data = weather()
        gate.add_data(data)
        for rows in (gate["train"], gate.to_xarray(), gate["train"].subset(slice(None))):
            other = StoreGate("zarr", {"output_dir": tmp_path / "other", "mode": "w"}, data_id="b")
            other.add_data(rows)
            xr.testing.assert_identical(other.to_xarray().compute(), data)
            other.close()

    def test_it_moves_between_memory_and_storage(self, tmp_path):
        data = weather()
        with StoreGate("hybrid", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
            gate.set_mode("numpy")
            gate.add_data(data)
            gate.to_storage(list(gate.variables), phase="all")
            gate.set_mode("zarr")
            xr.testing.assert_identical(gate.to_xarray().compute(), data)
            gate.to_memory(["t2m", "time"], phase="train")
            gate.set_mode("numpy")
            xr.testing.assert_identical(gate.to_xarray().compute(), data[["t2m"]].drop_vars("day"))

    def test_rows_are_shuffled_with_their_coordinates(self, gate):
        data = weather()
        gate.add_data(data, shuffle=3)
        order = np.random.RandomState(3).permutation(N)
        xr.testing.assert_identical(gate.to_xarray().compute(), data.isel(time=order))
        chosen = gate["train"].subset([1, 5])
        xr.testing.assert_identical(chosen.to_xarray().compute(), data.isel(time=order[[1, 5]]))
        day = data["time"].values[4]
        xr.testing.assert_identical(gate.to_xarray().sel(time=day).compute(), data.sel(time=day))

    def test_variables_on_one_grid_share_dimensions(self, gate):
        data = weather()
        gate.add_data(data)
        total = gate.to_xarray().t2m + gate.to_xarray().u10
        assert total.dims == ("time", "lat", "lon")
        xr.testing.assert_allclose(total.compute(), data.t2m + data.u10)
        assert gate["train"]["t2m"].dims == gate["train"][["t2m"]].to_xarray()["t2m"].dims == total.dims

    def test_a_long_coordinate_along_samples_stays_lazy(self):
        n = 2**17 + 1
        with StoreGate(backend_args={"budget": "16 MiB"}, data_id="a") as gate:
            gate.add_data(xr.Dataset({"x": ("t", np.arange(n))}, coords={"t": ("t", np.arange(n) / 2)}))
            found = gate.to_xarray()
            assert "t" in found.coords
            assert not found.xindexes
            assert found["t"].chunks is not None

    @given(data=st.data())
    @settings(max_examples=examples(100))
    def test_any_dataset_comes_back_identical(self, data):
        n, height, width = data.draw(st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)))
        sizes = {"t": n, "y": height, "x": width}
        texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
        plain = st.one_of(
            st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts, st.binary(max_size=3)
        )
        arrays = st.sampled_from(
            [np.float32(1.5), np.array(["a", "bé"]), np.array([[1, np.nan]], "f4"), np.bool_(True)]
        )
        nested = st.recursive(
            plain, lambda inner: st.lists(inner, max_size=2) | st.dictionaries(texts, inner, max_size=2), max_leaves=4
        )
        values = nested | arrays | st.just(np.nan) | st.tuples(plain)
        attrs = st.dictionaries(texts, values, max_size=3)

        def variable(dims):
            shape = tuple(sizes[dim] for dim in dims)
            kind = data.draw(st.sampled_from(["f8", "f4", "i8", "u1", "?", "M8[ns]", "m8[s]", "U3", "c8"]))
            raw = np.frombuffer(data.draw(st.binary(min_size=8, max_size=8)) * int(np.prod(shape) + 1), "u1")
            rows = raw[: int(np.prod(shape))].astype("i8").astype(kind).reshape(shape)
            return xr.Variable(dims, rows, data.draw(attrs))

        free = st.sampled_from([(), ("y",), ("x", "y"), ("y", "x")])
        names = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True))
        variables = {name: variable(("t", *data.draw(free))) for name in names}
        coords = {f"along_{at}": variable(("t", *data.draw(free))) for at in range(data.draw(st.integers(0, 2)))}
        coords |= {f"beside_{at}": variable(data.draw(free)) for at in range(data.draw(st.integers(0, 2)))}
        coords |= {dim: np.arange(size) for dim, size in sizes.items() if data.draw(st.booleans())}
        constants = {f"fixed_{at}": variable(data.draw(free)) for at in range(data.draw(st.integers(0, 1)))}
        dataset = xr.Dataset({**variables, **constants}, coords, data.draw(attrs))
        with StoreGate(data.draw(st.sampled_from(["numpy", "zarr"])), data_id="a") as gate:
            gate.add_data(dataset, sample_dim="t")
            xr.testing.assert_identical(gate.to_xarray().compute(), dataset)
            other = StoreGate(data_id="b")
            other.add_data(gate["train"])
            xr.testing.assert_identical(other.to_xarray().compute(), dataset)


class TestArrays:
    def test_a_dataarray_keeps_its_labels(self, gate):
        data = weather()
        gate.add_data("t2m", data.t2m)
        expected = data.t2m.drop_vars(["time", "day"])
        xr.testing.assert_identical(gate.to_xarray().t2m.compute(), expected)

    def test_a_dataarray_with_a_name_brings_its_coordinates(self, gate):
        data = weather()
        gate.add_data(data.t2m)
        xr.testing.assert_identical(gate.to_xarray().t2m.compute(), data.t2m)

    def test_one_without_a_name_is_refused(self, gate):
        with pytest.raises(errors.ArgumentTypeError, match=r"the DataArray has no name; give one: gate\.add_data\('x'"):
            gate.add_data(xr.DataArray([1, 2]))

    def test_names_pick_variables_with_the_coordinates_of_their_grid(self, gate):
        data = weather()
        gate.add_data(["t2m"], data)
        xr.testing.assert_identical(gate.to_xarray().compute(), data[["t2m"]].drop_vars(["time", "day"]))

    def test_a_mapping_of_arrays(self, gate):
        data = weather()
        gate.add_data({"t2m": data.t2m, "u10": data.u10})
        expected = data[["t2m", "u10"]].drop_vars(["time", "day"]).drop_attrs(deep=False)
        xr.testing.assert_identical(gate.to_xarray().compute(), expected)

    def test_new_values_keep_labels(self, gate):
        data = weather()
        gate.add_data(data)
        gate["train"]["t2m"][:] = data.t2m.values * 2
        gate["train"]["u10"][2:4] = data.u10.values[2:4] * 2
        found = gate.to_xarray()
        assert (found.t2m.dims, found.t2m.attrs["units"], found.u10.attrs) == (data.t2m.dims, "K", data.u10.attrs)
        gate.update_data("t2m", data.t2m.assign_attrs(units="degC"))
        assert gate.to_xarray().t2m.attrs["units"] == "degC"

    def test_transforms_change_dimensions(self, gate):
        gate.add_data(weather())
        gate.onehot("rain", 2)
        gate.argmax("t2m", 1)
        gate.astype("u10", "f8")
        found = gate.to_xarray()
        assert (found.rain.dims, found.t2m.dims) == (("time", "rain_1"), ("time", "lon"))
        assert found.u10.attrs == {"units": "m s-1"}

    def test_rows_of_other_origin_share_the_sample_axis(self, gate):
        gate.add_data("label", np.arange(N))
        gate.add_data(weather())
        assert gate.to_xarray().label.dims == ("time",)
        assert gate["train"]["label"].dims == ("time",)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (
                lambda ds: ds.assign_coords(lat=[4.0, 5, 6]),
                errors.ArgumentError,
                r"'lat' .* differs from what is stored",
            ),
            (
                lambda ds: ds.assign_coords(height=3.0),
                errors.ArgumentError,
                r"'height' .*drop_vars\('height'",
            ),
            (
                lambda ds: ds.rename(time="when"),
                errors.ShapeError,
                r"along 'when', .* along 'time'; rename .*'when': 'time'",
            ),
            (lambda ds: ds.rename(lon="x"), errors.ShapeError, r"ds\.rename\(\{'x': 'lon'\}\)"),
            (
                lambda ds: ds.assign(t2m=ds.t2m.assign_attrs(units="degC")),
                errors.DtypeError,
                "units 'K', .*'degC'; convert",
            ),
            (
                lambda ds: ds.assign(mask=("lat", [1, 2, 3])),
                errors.ShapeError,
                r"mask: \('lat',\)\); say .*sample_dim='time'",
            ),
            (lambda ds: ds.assign(z=(("lat", "time"), np.ones((3, N)))), errors.ShapeError, "do not all begin"),
            (
                lambda ds: ds.assign(z=(("time", "lat"), np.ones((N, 3)))).isel(lat=[0]),
                errors.ShapeError,
                "samples of shape",
            ),
            (
                lambda ds: ds.assign_attrs(made=object()),
                errors.DtypeError,
                r"attribute 'made' cannot be stored .* remove it",
            ),
            (lambda ds: ds.assign_attrs({1: 2}), errors.DtypeError, "name of an attribute is text, found 1"),
            (lambda ds: ds.assign_attrs(a="\ud800"), errors.DtypeError, "attribute 'a' cannot be stored"),
            (lambda ds: ds.stack(at=("time", "lat")), errors.ShapeError, "."),
        ],
    )
    def test_the_error_says_what_to_do_and_nothing_changes(self, gate, change, error, message):
        data = weather()
        gate.add_data(data)
        version = gate.repository().version
        with pytest.raises(error, match=message):
            gate.add_data(change(data))
        assert gate.repository().version == version
        xr.testing.assert_identical(gate.to_xarray().compute(), data)

    def test_a_name_is_rows_or_shared(self, gate):
        gate.add_data(weather())
        with pytest.raises(errors.VariableExistsError, match="'lat' is stored for all phases, without samples"):
            gate.add_data("lat", np.arange(N))

    def test_a_dimension_has_one_size(self, gate):
        gate.add_data(weather())
        with pytest.raises(errors.ShapeError, match="dimension 'lat' has 2 entries in variable 'z', and 3 in 'area'"):
            gate.add_data("z", xr.DataArray(np.ones((N, 2)), dims=("time", "lat")))

    def test_sample_dim_is_one_of_the_data(self, gate):
        data = weather()
        with pytest.raises(
            errors.ShapeError, match=r"no dimension 'tim'; did you mean 'time'\? .*dimensions: time, lat"
        ):
            gate.add_data(data, sample_dim="tim")
        with pytest.raises(
            errors.ShapeError, match=r"samples lie along 'lat'; put that first, as in ds.transpose\('lat'"
        ):
            gate.add_data(data, sample_dim="lat")
        with pytest.raises(errors.ShapeError, match="the array has dimensions .* samples lie along 'lat'"):
            gate.add_data("t2m", data.t2m, sample_dim="lat")
        with pytest.raises(errors.ArgumentError, match="names a dimension of xarray, and the data are ndarray"):
            gate.add_data("x", np.ones(3), sample_dim="time")
        assert gate.variables == ()

    def test_replaced_variables_may_have_another_grid(self, gate):
        data = weather()
        gate.add_data(["t2m", "u10"], data)
        moved = data.assign_coords(lat=[7.0, 8.0, 9.0])
        with pytest.raises(errors.ArgumentError, match="'lat'"):
            gate.update_data(["t2m"], moved)
        gate.update_data(["t2m", "u10"], moved)
        assert gate.to_xarray().lat.values.tolist() == [7.0, 8.0, 9.0]

    def test_what_nobody_uses_goes_with_the_last_variable(self, gate):
        gate.add_data(weather())
        gate.delete_data(list(gate.variables))
        assert not gate.table.shared
        other = weather().assign_coords(lat=[7.0, 8.0, 9.0])
        gate.add_data(other)
        xr.testing.assert_identical(gate.to_xarray().compute(), other)
