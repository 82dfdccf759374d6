"""Tables that cannot be stored are refused whole, with what was found and the way out that fits it."""

from __future__ import annotations

import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import xarray as xr

from storegate import StoreGate, errors


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


REFUSED = {
    "samples that are not first": (
        lambda: xr.Dataset({"x": ("time", np.zeros(4)), "extra": (("lat", "time"), np.zeros((3, 4)))}),
        errors.ShapeError,
        "do not all begin with the same dimension",
    ),
    "decimals": (lambda: pa.table({"x": pa.array([1], pa.decimal128(5, 2))}), errors.DtypeError, "cast"),
    "structs": (lambda: pa.table({"x": [{"a": 1}]}), errors.DtypeError, r"flatten\(\)"),
    "lists": (lambda: pa.table({"x": [[[1]], [[2, 3]]]}), errors.DtypeError, "fixed_size_list"),
    "nothing": (lambda: pa.table({"x": pa.nulls(3)}), errors.DtypeError, "leave it out"),
    "zones": (lambda: pa.table({"x": pa.array([1], pa.timestamp("s", "UTC"))}), errors.DtypeError, "without a zone"),
    "nulls": (lambda: pa.table({"x": [1, None]}), errors.MissingValueError, "fill_null"),
    "null texts": (lambda: pa.table({"x": ["a", None]}), errors.MissingValueError, "fill_null"),
    "nulls in lists": (
        lambda: pa.table({"x": pa.array([[1, None]], pa.list_(pa.int64(), 2))}),
        errors.MissingValueError,
        "fill_null",
    ),
    "two of a name": (lambda: pa.table([[1], [2]], names=["x", "x"]), errors.DtypeError, "several columns of one name"),
    "two of a name in pandas": (
        lambda: pd.DataFrame([[1, 2]], columns=["x", "x"]),
        errors.DtypeError,
        "several columns of one name",
    ),
    "numbers for names": (lambda: pd.DataFrame([[1, 2]]), errors.ArgumentTypeError, r"rename\(columns=str\)"),
    "no columns": (dict, errors.ShapeError, "no columns"),
    "lengths": (lambda: {"x": [1, 2], "y": [1]}, errors.ShapeError, "different numbers of rows"),
    "keys": (lambda: [{"x": 1}, {"y": 1}], errors.ShapeError, "number 1 has 'y'"),
    "no names": (lambda: np.zeros(3), errors.ArgumentTypeError, "without names the data must have some"),
    "a number": (lambda: 3, errors.ArgumentTypeError, "without names the data must have some"),
    "bad names": (lambda: {"a/b": [1]}, errors.InvalidNameError, "a/b"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_stored_is_refused_whole(gate, kind):
    make, error, message = REFUSED[kind]
    gate.add_data("old", [1])
    version = gate.repository().version
    with pytest.raises(error, match=message):
        gate.add_data(make())
    assert gate.repository().version == version
    assert gate.variables == ("old",)


@pytest.mark.parametrize("name", ["train", "valid", "test", "all"])
def test_variables_called_like_phases(gate, name):
    for add in (
        lambda: gate.add_data(name, [1]),
        lambda: gate.add_data(pd.DataFrame({name: [1]})),
        lambda: gate.add_data(["x", name], [[1], [2]]),
        lambda: gate.create_empty(name, (1,)) if hasattr(gate, "create_empty") else gate.add_data({name: [1]}),
    ):
        with pytest.raises(errors.InvalidNameError, match=f"gate\\['{name}'\\] is the phase of that name; rename it"):
            add()
    assert gate.variables == ()


@pytest.mark.parametrize(
    ("column", "words"),
    [
        (pd.Series([1, "a", {}]), r"object \(int, str, dict\).*astype\(str\) for text"),
        (pd.Series(pd.date_range("2020", periods=3, tz="UTC")), r"\[[nu]s, UTC\].*tz_localize\(None\)"),
        (pd.Series(pd.period_range("2020", periods=3, freq="M")), r"period\[M\].*to_timestamp\(\)"),
        (pd.Series(pd.interval_range(0, 3)), r"interval.*\.array\.left"),
        (pl.Series([1, 2, 3], dtype=pl.Int128), "Int128 have no numpy dtype.*cast"),
        (h5py.Empty("f4"), "empty dataset of HDF5"),
    ],
    ids=lambda given: type(getattr(given, "dtype", given)).__name__,
)
def test_columns_that_numpy_has_no_dtype_for(gate, column, words):
    with pytest.raises(errors.DtypeError, match=f"'c'.*{words}") as caught:
        gate.add_data("c", column)
    assert ("tz_localize" in str(caught.value)) == ("tz_localize" in words)
    if isinstance(column, pd.Series):
        with pytest.raises(errors.DtypeError, match=words):
            gate.add_data(column.to_frame("c"))


def test_types_that_arrow_does_not_know(gate):
    with pytest.raises(errors.DtypeError, match="DataFrame has a column of a type that pyarrow does not know.*cast"):
        gate.add_data(pl.DataFrame({"i": pl.Series([1], dtype=pl.Int128)}))


def test_an_empty_dataset_among_others(gate, tmp_path):
    with h5py.File(tmp_path / "some.h5", "w") as file:
        file["nothing"], file["x"] = h5py.Empty("f4"), [1, 2]
        with pytest.raises(errors.DtypeError, match="'nothing': an empty dataset of HDF5"):
            gate.add_data(file)
        gate.add_data(["x"], file)
    assert gate["train"]["x"][:].tolist() == [1, 2]
