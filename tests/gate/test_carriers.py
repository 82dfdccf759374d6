"""A column is stored in the same way, or refused, whoever carries it: pyarrow, polars, pandas, a table, or a file."""

from __future__ import annotations

import datetime
import decimal

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import xarray as xr

import storegate
from storegate import StoreGate, errors

TEXT = np.dtypes.StringDType()
NOON = datetime.datetime(2024, 1, 2, 12)


def array_of_pyarrow(column, tmp_path):
    return column


def chunks_of_pyarrow(column, tmp_path):
    return pa.chunked_array([column[:1], column[1:1], column[1:]], column.type)


def part_of_an_array(column, tmp_path):
    return pa.concat_arrays([column, column])[len(column) :]


def table(column, tmp_path):
    return pa.table({"x": column})


def parts_of_tables(column, tmp_path):
    return iter([column[:1], column[1:]])


def series_of_pandas(column, tmp_path):
    return pd.Series(column, dtype=pd.ArrowDtype(column.type))


def array_of_pandas(column, tmp_path):
    return pd.Series(column, dtype=pd.ArrowDtype(column.type)).array


def frame_of_pandas(column, tmp_path):
    return pd.DataFrame({"x": series_of_pandas(column, tmp_path)})


def series_of_polars(column, tmp_path):
    return pl.from_arrow(column)


def frame_of_polars(column, tmp_path):
    return pl.DataFrame({"x": pl.from_arrow(column)})


def duckdb_relation(column, tmp_path):
    return duckdb.connect().from_arrow(pa.table({"x": column}))


def feather_file(column, tmp_path):
    pyarrow.feather.write_feather(pa.table({"x": column}), tmp_path / "1.feather")
    return tmp_path / "1.feather"


def parquet_file(column, tmp_path):
    pyarrow.parquet.write_table(pa.table({"x": column}), tmp_path / "1.parquet")
    return tmp_path / "1.parquet"


CARRIERS = [
    array_of_pyarrow,
    chunks_of_pyarrow,
    part_of_an_array,
    table,
    parts_of_tables,
    series_of_pandas,
    array_of_pandas,
    frame_of_pandas,
    series_of_polars,
    frame_of_polars,
    duckdb_relation,
    feather_file,
    parquet_file,
]


def stored(data, tmp_path):
    with StoreGate("numpy", {}, data_id="a") as gate:
        if hasattr(data, "exists"):
            gate.read(data)
        else:
            gate.add_data("x", data)
        view = gate["train"]["x"]
        return view.dtype, view[:]


# what each column becomes; text ends with zeros, which arrays of fixed length would drop
KEPT = {
    "int": (pa.array([1, -2, 3], pa.int16()), np.array([1, -2, 3], "i2")),
    "half": (pa.array(np.array([1.5, -0.0], "f2")), np.array([1.5, -0.0], "f2")),
    "bool": (pa.array([True, False, True]), np.array([True, False, True])),
    "nan": (pa.array([1.0, float("nan")]), np.array([1.0, np.nan])),
    "text": (pa.array(["a\0", "bé", ""]), np.array(["a\0", "bé", ""], TEXT)),
    "large text": (pa.array(["a\0", "bé"], pa.large_string()), np.array(["a\0", "bé"], TEXT)),
    "no text": (pa.array([], pa.string()), np.array([], TEXT)),
    "bytes": (pa.array([b"a", b"", b"\0bc"]), np.array([b"a", b"", b"\0bc"])),
    "bytes of one length": (pa.array([b"ab", b"cd"], pa.binary(2)), np.array([b"ab", b"cd"])),
    "date": (pa.array([datetime.date(3000, 1, 1)]), np.array(["3000-01-01"], "M8[D]")),
    "time": (pa.array([NOON, None]), np.array(["2024-01-02T12", "NaT"], "M8[us]")),
    "duration": (pa.array([datetime.timedelta(1), None]), np.array([86_400_000_000, "NaT"], "m8[us]")),
    "rows": (pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)), np.array([[1, 2], [3, 4]], "i4")),
    "rows of rows": (pa.array([[[1], [2]]], pa.list_(pa.list_(pa.int8(), 1), 2)), np.array([[[1], [2]]], "i1")),
    "rows of texts": (pa.array([["a", "b\0"]], pa.list_(pa.string(), 2)), np.array([["a", "b\0"]], TEXT)),
    "rows of bytes": (pa.array([[b"a", b"bc"]], pa.list_(pa.binary(), 2)), np.array([[b"a", b"bc"]])),
}
LISTS = {
    "ints": (pa.array([[1, 2], [], [3]]), [np.array([1, 2]), np.array([], int), np.array([3])]),
    "texts": (pa.array([["a\0"], ["b", "c"]]), [np.array(["a\0"], TEXT), np.array(["b", "c"], TEXT)]),
    "bytes": (pa.array([[b"a"], [b"bc", b""]]), [np.array([b"a"], "S2"), np.array([b"bc", b""])]),
    "lists of one length": (pa.array([[1, 2], [3, 4]]), [np.array([1, 2]), np.array([3, 4])]),
}
REFUSED = {
    "zone": (pa.array([NOON], pa.timestamp("us", "Europe/Paris")), "zone"),
    "rows of zones": (pa.array([[NOON]], pa.list_(pa.timestamp("us", "UTC"), 1)), "zone"),
    "lists of zones": (pa.array([[NOON]], pa.list_(pa.timestamp("us", "UTC"))), "zone"),
    "zeros": (pa.array([b"a\0", b"bc"]), "zeros"),
    "lists of zeros": (pa.array([[b"a\0"], []]), "zeros"),
    "long and short": (pa.array([b"b", b"a" * 5000, *[b"b"] * 8]), "longest, of 5,000 bytes"),
    "struct": (pa.array([{"a": 1, "b": 2.5}]), "flatten|unnest"),
    "decimal": (pa.array([decimal.Decimal("0.1")]), "cast|convert"),
    "time of day": (pa.array([datetime.time(1)]), "cast|convert"),
    "null": (pa.array([1, None]), "null"),
    "null text": (pa.array(["a", None]), "null"),
    "lists with null": (pa.array([[1, None], []]), "null"),
    "lists of lists": (pa.array([[[1], [2, 3]]]), "each level|fixed_size_list"),
}


# duckdb has no half floats, and makes a duration an interval of months, days and microseconds
NOT_CARRIED = {("half", duckdb_relation), ("duration", duckdb_relation)}


@pytest.mark.parametrize(
    ("case", "carrier"),
    [(case, carrier) for case in KEPT for carrier in CARRIERS if (case, carrier) not in NOT_CARRIED],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_values_are_the_same_whoever_carries_them(case, carrier, tmp_path):
    column, expected = KEPT[case]
    dtype, values = stored(carrier(column, tmp_path), tmp_path)
    assert (dtype, values.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(values, expected)
    if expected.dtype.kind == "T":
        assert values.tolist() == expected.tolist()


@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda carrier: carrier.__name__)
@pytest.mark.parametrize("case", LISTS)
def test_lists_are_lists_whoever_carries_them(case, carrier, tmp_path):
    column, expected = LISTS[case]
    dtype, values = stored(carrier(column, tmp_path), tmp_path)
    assert isinstance(values, storegate.Ragged)
    assert dtype == expected[0].dtype
    assert [row.tolist() for row in values] == [row.tolist() for row in expected]


@pytest.mark.parametrize("carrier", CARRIERS, ids=lambda carrier: carrier.__name__)
@pytest.mark.parametrize("case", REFUSED)
def test_what_numpy_would_change_is_refused_whoever_carries_it(case, carrier, tmp_path):
    column, reason = REFUSED[case]
    with pytest.raises((errors.DtypeError, errors.MissingValueError), match=reason):
        stored(carrier(column, tmp_path), tmp_path)


def test_categories_of_arrow_are_categories_in_pandas_too():
    column = pa.array(["b", "a", "b"]).dictionary_encode()
    with StoreGate("numpy", {}, data_id="a") as gate:
        gate.add_data("x", pd.Series(column, dtype=pd.ArrowDtype(column.type)))
        assert gate.table["train"]["x"].about.categories == ("b", "a")
        np.testing.assert_array_equal(gate["train"]["x"][:], [0, 1, 0])


@pytest.mark.parametrize("dtype", [pl.Datetime("us", "UTC"), pl.Array(pl.Datetime("ms", "UTC"), 1)])
def test_zones_of_polars_are_refused_with_a_remedy(dtype):
    series = pl.Series([[NOON]] if "Array" in str(dtype) else [NOON], dtype=dtype)
    with pytest.raises(errors.DtypeError, match="replace_time_zone"):
        stored(series, None)


@pytest.mark.parametrize("chunks", [None, 1])
def test_bytes_of_xarray_are_bytes(chunks):
    rows = xr.DataArray(np.array([b"a", b"bcd"], object), dims="n")
    dtype, values = stored(rows if chunks is None else rows.chunk(chunks), None)
    assert dtype == "S3"
    assert values.tolist() == [b"a", b"bcd"]
    with pytest.raises(errors.DtypeError, match="give values of one kind"):
        stored(xr.DataArray(np.array([b"a", "b"], object), dims="n").chunk(1), None)


def test_bytes_come_back_from_files_and_grow(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data("x", np.array([b"ab", b""]))
        for name, rows in {"1.parquet": [b"a"], "2.parquet": [b"abcd", b""]}.items():
            pyarrow.parquet.write_table(pa.table({"x": pa.array(rows)}), tmp_path / name)
        gate.read(tmp_path / "*.parquet")
        pyarrow.parquet.write_table(gate["train"][["x"]].to_arrow(), tmp_path / "all.parquet")
        gate.read(tmp_path / "all.parquet", phase="test")
        for phase in ("train", "test"):
            assert gate[phase]["x"][:].tolist() == [b"ab", b"", b"a", b"abcd", b""]
