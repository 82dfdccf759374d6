"""Categories come back from files and from xarray, and codes in attached files stand for what they stood for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storegate import StoreGate, errors

CATEGORIES = {"texts": ["b", "a", "é"], "ints": [3, 1], "floats": [0.5, -1.0], "bools": [True, False], "one": ["b"]}


def categorical(categories, is_ordered=False):
    return pd.Categorical([categories[-1], categories[0], categories[0]], categories, ordered=is_ordered)


def gate_of(column):
    gate = StoreGate(data_id="a")
    gate.add_data({"c": column, "x": np.arange(float(len(column)))})
    return gate


def the_same(view, column):
    found = view.to_pandas()["c"]
    assert found.dtype == column.dtype
    assert found.tolist() == column.tolist()
    return True


@pytest.mark.parametrize("suffix", ["zarr", "nc", "h5"])
@pytest.mark.parametrize("is_ordered", [False, True])
@pytest.mark.parametrize("kind", CATEGORIES)
def test_categories_come_back_from_files(tmp_path, kind, is_ordered, suffix):
    column = categorical(CATEGORIES[kind], is_ordered)
    gate = gate_of(column)
    path = tmp_path / f"rows.{suffix}"
    if kind == "bools" and suffix == "nc":
        with pytest.raises(errors.DtypeError, match="categories.*NetCDF"):
            gate.export(path)
        return
    gate.export(path)
    back = StoreGate(data_id="b")
    back.read(path)
    assert the_same(back["train"], column)
    assert back["train"].to_xarray()["c"].attrs == gate["train"].to_xarray()["c"].attrs
    back.add_data({"c": column, "x": np.zeros(3)})  # codes go on
    assert back["train"].to_pandas()["c"].tolist() == [*column, *column]


@pytest.mark.parametrize("suffix", ["zarr", "nc", "h5"])
def test_codes_of_several_files_are_those_of_all(tmp_path, suffix):
    for at, values in enumerate((["b", "a"], ["c", "b"])):
        gate_of(pd.Categorical(values, values)).export(tmp_path / f"{at}.{suffix}")
    back = StoreGate(data_id="b")
    back.read(tmp_path / f"*.{suffix}")
    assert back["train"].to_pandas()["c"].tolist() == ["b", "a", "c", "b"]


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
@pytest.mark.parametrize("is_computed", [False, True])
@pytest.mark.parametrize("is_ordered", [False, True])
def test_categories_come_back_from_xarray(tmp_path, backend, is_computed, is_ordered):
    column = categorical(["b", "a"], is_ordered)
    dataset = gate_of(column)["train"].to_xarray()
    dataset = dataset.compute() if is_computed else dataset
    back = StoreGate(backend, {} if backend == "numpy" else {"output_dir": tmp_path / "store"}, data_id="b")
    back.add_data(dataset)
    assert the_same(back["train"], column)
    xr.testing.assert_identical(back["train"].to_xarray().compute(), dataset.compute())


def test_what_others_call_categories_stays_an_attribute():
    array = xr.DataArray(np.array([7, 8], "i4"), dims="n", attrs={"categories": ["land", "sea"]})
    gate = StoreGate(data_id="a")
    gate.add_data("c", array)
    assert gate["train"].to_xarray()["c"].attrs == {"categories": ["land", "sea"]}
    np.testing.assert_array_equal(gate["train"]["c"][:], [7, 8])


class TestAttached:
    @pytest.fixture(params=["zarr", "nc"])
    def files(self, request, tmp_path):
        gate_of(pd.Categorical(["b", "b", "a"], ["b", "a"])).export(tmp_path / f"0.{request.param}")
        gate_of(pd.Categorical(["a", "b", "b"], ["b", "a"])).export(tmp_path / f"1.{request.param}")
        gate_of(pd.Categorical(["a", "b", "b"], ["a", "b"])).export(tmp_path / f"other.{request.param}")
        return request.param, tmp_path

    def test_codes_keep_their_categories(self, files):
        suffix, directory = files
        gate = StoreGate(data_id="a")
        gate.attach(directory / f"[01].{suffix}")
        gate.attach(directory / f"0.{suffix}", phase="valid")
        assert gate["train"].to_pandas()["c"].tolist() == ["b", "b", "a", "a", "b", "b"]
        assert gate["valid"].to_pandas()["c"].tolist() == ["b", "b", "a"]

    def test_codes_are_not_mixed_with_others(self, files):
        suffix, directory = files
        gate = gate_of(pd.Categorical(["a", "b"]))
        for phase in ("train", "valid"):
            with pytest.raises(errors.DtypeError, match="codes in files stay as they are"):
                gate.attach(directory / f"0.{suffix}", phase=phase)
        gate.attach(directory / f"other.{suffix}")
        assert gate["train"].to_pandas()["c"].tolist() == ["a", "b", "a", "b", "b"]
        with pytest.raises(errors.DtypeError, match=r"other.*codes in files stay as they are"):
            StoreGate(data_id="b").attach([directory / f"0.{suffix}", directory / f"other.{suffix}"])

    def test_plain_codes_are_not_taken_for_categories(self, tmp_path):
        np.save(tmp_path / "c.npy", np.array([7, 8], "i4"))
        gate = gate_of(pd.Categorical(["a", "b"]))
        for phase in ("train", "valid"):
            with pytest.raises(errors.DtypeError, match="plain values.*codes in files stay as they are"):
                gate.attach(tmp_path / "c.npy", "c", phase=phase)
        plain = StoreGate(data_id="b")
        plain.attach(tmp_path / "c.npy", "c")
        with pytest.raises(errors.DtypeError):
            plain.add_data("c", pd.Categorical(["a", "b"]))


class TestComputed:
    """xarray keeps the attributes of codes for what is computed from them."""

    @pytest.mark.parametrize("backend", ["numpy", "zarr"])
    def test_what_is_computed_from_codes_is_plain(self, tmp_path, backend):
        with StoreGate(backend, {} if backend == "numpy" else {"output_dir": tmp_path / "s"}, data_id="a") as gate:
            gate.add_data({"c": categorical(["b", "a"])})
            gate.assign(
                same=lambda ds: ds.c,
                double=lambda ds: (ds.c * 2).assign_attrs(ds.c.attrs, units="m"),
                first=lambda ds: (ds.c == 0).assign_attrs(ds.c.attrs),
            )
            dataset = gate["train"].to_xarray()
            assert gate["train"].to_pandas()["same"].tolist() == ["a", "b", "b"]
            assert dataset["double"].attrs == {"units": "m"}
            assert dataset["first"].attrs == {}
            np.testing.assert_array_equal(dataset["double"], [2, 0, 0])

    def test_arrays_at_hand_are_codes_if_they_can_be(self):
        codes = gate_of(categorical(["b", "a"]))["train"].to_xarray()["c"]
        gate = StoreGate(data_id="a")
        gate.add_data({"same": codes.compute(), "double": (codes * 2).assign_attrs(codes.attrs).compute()})
        assert gate["train"].to_pandas()["same"].tolist() == ["a", "b", "b"]
        np.testing.assert_array_equal(gate["train"]["double"][:], [2, 0, 0])
        assert gate["train"].to_xarray()["double"].attrs == {}
        with pytest.raises(errors.DtypeError, match=r"if these are no codes, drop their attributes"):
            gate.add_data("lazy", (codes * 2).assign_attrs(codes.attrs))
        gate.add_data("lazy", (codes * 2).drop_attrs())
        np.testing.assert_array_equal(gate["train"]["lazy"][:], [2, 0, 0])
