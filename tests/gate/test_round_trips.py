"""What leaves comes back: names, shapes and kinds of values, through files of other libraries and xarray."""

from __future__ import annotations

import datetime

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import xarray as xr

from storegate import Ragged, StoreGate, errors


def gate_of(data):
    gate = StoreGate(data_id="a")
    gate.add_data(data if isinstance(data, dict) else {"x": data})
    return gate


def read_back(path, **options):
    gate = StoreGate(data_id="b")
    gate.read(path, **options)
    return gate


class TestNetcdf:
    def test_a_variable_with_the_name_of_a_dimension_keeps_it(self, tmp_path):
        data = {"x": np.ones((3, 2)), "x_1": np.arange(3)}
        gate_of(data).export(tmp_path / "x.nc")
        with h5py.File(tmp_path / "x.nc") as file:  # so that this is what is tested
            assert "_nc4_non_coord_x_1" in file
        for how in ("read", "attach"):
            back = StoreGate(data_id="b")
            getattr(back, how)(tmp_path / "x.nc")
            assert sorted(back.get_var_names("train")) == ["x", "x_1"]
            np.testing.assert_array_equal(back["train"]["x_1"][:], data["x_1"])
        one = StoreGate(data_id="c")
        one.attach(tmp_path / "x.nc", "x_1")
        np.testing.assert_array_equal(one["train"]["x_1"][:], data["x_1"])

    @pytest.mark.parametrize(
        ("values", "kind"),
        [
            (np.array([b"ab", b"c"]), "text, stored as single characters"),
            (np.array([True, False]), "truths, stored as int8"),
        ],
    )
    @pytest.mark.parametrize("others", [[], ["y"]])
    def test_what_is_stored_as_something_else_is_not_taken_in_place(self, tmp_path, values, kind, others):
        dataset = xr.Dataset({"x": ("n", values), "y": ("n", np.arange(2.0))})
        dataset.to_netcdf(tmp_path / "x.nc", engine="h5netcdf")
        gate = StoreGate(data_id="a")
        with pytest.raises(errors.DtypeError, match=f"'x' holds {kind}.*gate.read"):
            gate.attach(tmp_path / "x.nc", ["x", *others])
        assert gate.variables == ()
        gate.attach(tmp_path / "x.nc", ["y"])
        back = read_back(tmp_path / "x.nc")["train"]["x"]
        assert back.dtype == values.dtype
        np.testing.assert_array_equal(back[:], values)


@pytest.mark.parametrize("write", [pyarrow.parquet.write_table, pyarrow.feather.write_feather])
class TestIndexOfPandas:
    def test_one_that_numbers_rows_is_left_out(self, tmp_path, write):
        frame = pd.DataFrame({"x": np.arange(5.0)})
        for name, part in {"1": frame, "2": frame[frame.x > 2]}.items():
            write(pa.Table.from_pandas(part), tmp_path / name)
        back = read_back([tmp_path / "1", tmp_path / "2"])
        assert back.get_var_names("train") == ["x"]
        np.testing.assert_array_equal(back["train"]["x"][:], [0, 1, 2, 3, 4, 3, 4])
        direct = gate_of({"y": np.zeros(2)})
        direct.add_data(pa.Table.from_pandas(frame[frame.x > 2]))
        assert sorted(direct.get_var_names("train")) == ["x", "y"]

    def test_one_of_texts_is_called_index(self, tmp_path, write):
        frame = pd.DataFrame({"x": [1.0, 2.0]}, index=["a", "b"])
        write(pa.Table.from_pandas(frame), tmp_path / "1")
        back = read_back(tmp_path / "1")
        direct = StoreGate(data_id="c")
        direct.add_data(frame)
        for gate in (back, direct):
            assert gate["train"]["index"][:].tolist() == ["a", "b"]

    def test_one_with_a_name_keeps_it(self, tmp_path, write):
        frame = pd.DataFrame({"x": [1.0, 2.0]}, index=pd.Index([7, 8], name="id"))
        write(pa.Table.from_pandas(frame), tmp_path / "1")
        assert read_back(tmp_path / "1")["train"]["id"][:].tolist() == [7, 8]


class TestParquetInPlace:
    @pytest.mark.parametrize(
        "values",
        [
            np.arange(12, dtype="f4").reshape(3, 2, 2),
            np.arange(6, dtype="i8").reshape(3, 2),
            np.array(["2020-01-01", "NaT", "1900-05-05"], "M8[D]"),
            np.array(["2020-01-01T12", "NaT"], "M8[us]"),
            np.array([["a", "b\0"], ["é", ""]], np.dtypes.StringDType()),
        ],
        ids=lambda values: f"{values.dtype}{values.shape}",
    )
    def test_rows_are_those_that_read_copies(self, tmp_path, values):
        gate_of(values).export(tmp_path / "x.parquet")
        attached = StoreGate(data_id="b")
        attached.attach(tmp_path / "x.parquet")
        copied = read_back(tmp_path / "x.parquet")
        for gate in (attached, copied):
            assert (gate["train"]["x"].dtype, gate["train"]["x"].shape) == (values.dtype, values.shape)
            np.testing.assert_array_equal(gate["train"]["x"][:], values)
        np.testing.assert_array_equal(attached["train"]["x"][[1, 0]], values[[1, 0]])

    @pytest.mark.parametrize("column", [pa.array([b"a", b"bcd"]), pa.array(["a", "b"]).dictionary_encode()])
    def test_what_rows_alone_do_not_tell_is_copied(self, tmp_path, column):
        pyarrow.parquet.write_table(pa.table({"x": column}), tmp_path / "x.parquet")
        with pytest.raises(errors.DtypeError, match="not read in place; copy it into the store with gate.read"):
            StoreGate(data_id="b").attach(tmp_path / "x.parquet")
        assert read_back(tmp_path / "x.parquet").sizes == {"train": 2}

    def test_an_index_of_pandas_is_as_in_copies(self, tmp_path):
        frame = pd.DataFrame({"x": np.arange(5.0)})
        frame[frame.x > 2].to_parquet(tmp_path / "x.parquet")
        gate = StoreGate(data_id="b")
        gate.attach(tmp_path / "x.parquet")
        assert gate.get_var_names("train") == ["x"]


class TestCsv:
    def test_bytes_are_bytes_if_asked_for(self, tmp_path):
        (tmp_path / "x.csv").write_text("x\nab\ncde\n")
        assert read_back(tmp_path / "x.csv", dtypes={"x": "S"})["train"]["x"][:].tolist() == [b"ab", b"cde"]

    @pytest.mark.parametrize("dtype", ["int32", "float16"])
    def test_a_dtype_that_does_not_fit_is_named_so(self, tmp_path, dtype):
        (tmp_path / "x.csv").write_text("x\nab\n")
        with pytest.raises(errors.DtypeError, match=r"x\.csv: .*conversion.*dtypes="):
            read_back(tmp_path / "x.csv", dtypes={"x": dtype})

    def test_two_columns_of_one_name_are_named_so(self, tmp_path):
        (tmp_path / "x.csv").write_text("x,x\n1,2\n")
        with pytest.raises(errors.DtypeError, match="several columns of one name: x, x"):
            read_back(tmp_path / "x.csv")


@pytest.mark.parametrize(
    ("values", "form"),
    [
        (np.array(["a\0b"], np.dtypes.StringDType()), "hdf5"),
        (np.array(["a\0b"], np.dtypes.StringDType()), "netcdf"),
        (np.array([2**62], "M8[s]"), "netcdf"),
        (np.array([2**62], "M8[s]"), "zarr"),
    ],
)
def test_what_a_format_has_no_place_for_is_refused(tmp_path, values, form):
    with pytest.raises(errors.DtypeError, match=f"cannot be written as {form}"):
        gate_of(values).export(tmp_path / "x", format=form)
    assert not list(tmp_path.iterdir())


def test_lists_of_rows_come_back_from_xarray():
    rows = Ragged.of([np.ones((2, 3)), np.zeros((0, 3)), np.full((1, 3), 2.0)])
    back = StoreGate(data_id="b")
    back.add_data(gate_of(rows)["train"].to_xarray())
    assert [row.tolist() for row in back["train"]["x"][:]] == [row.tolist() for row in rows]


def test_one_row_may_be_a_category():
    gate = gate_of({"c": pd.Categorical(["a", "b"])})
    gate.update_data("c", pd.Categorical(["b"]), "train", index=0)
    gate["train"]["c"][1] = pd.Categorical(["a"])
    assert gate["train"].to_pandas()["c"].tolist() == ["b", "a"]


def test_dates_of_python_say_how_they_become_times():
    with pytest.raises(errors.DtypeError, match="make them times, as in .astype"):
        gate_of(pd.Series([datetime.date(2020, 1, 1)]))


def test_lists_whose_bytes_h5py_swaps_wrongly_are_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        made = file.create_dataset("x", (1,), h5py.vlen_dtype(np.dtype(">i4")))
        made[0] = np.array([1, 2], ">i4")
    with pytest.raises(errors.DtypeError, match="'x': its lists hold >i4"):
        read_back(tmp_path / "x.h5")
