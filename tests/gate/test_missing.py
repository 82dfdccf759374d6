"""Missing values: refused with the remedy wherever they come from; what could miss and does not is its native dtype."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from storegate import StoreGate
from storegate_engine.errors import DtypeError, MissingValueError, StoreGateError

TEXT = np.dtypes.StringDType()
BIG = 2**53 + 1


def masked(mask):
    return np.ma.array([1, BIG, 3], mask=mask)


def arrow(values, dtype):
    return pd.array(values, dtype=pd.ArrowDtype(getattr(pa, dtype)()))


def arrow_array(values):
    return pa.array(values)


def optional_text(missing, last):
    return np.array(["a", "b", last], np.dtypes.StringDType(na_object=missing))


MISSING = {
    "masked": lambda: masked([0, 1, 0]),
    "masked floats": lambda: np.ma.array([1.0, 2.0, 3.0], mask=[0, 0, 1]),
    "dask's masked": lambda: da.from_array(masked([0, 1, 0]), chunks=2),
    "dask masked_where": lambda: da.ma.masked_where(da.arange(3, chunks=1) == 1, da.arange(3, chunks=1)),
    "iterator": lambda: iter([masked([0, 0, 0]), masked([0, 1, 0])]),
    "iterator, first": lambda: iter([masked([0, 1, 0])]),
    "list of masked": lambda: [masked([0, 1, 0]), np.arange(3)],
    "list with masked": lambda: [1, np.ma.masked, 3],
    "nested list with masked": lambda: [[1, 2], [np.ma.masked, 3]],
    "Int64": lambda: pd.Series([1, None, BIG], dtype="Int64"),
    "Int64 array": lambda: pd.array([1, None, BIG], dtype="Int64"),
    "boolean": lambda: pd.Series([True, None], dtype="boolean"),
    "Float64": lambda: pd.Series([1.5, None], dtype="Float64"),
    "string": lambda: pd.Series(["a", None], dtype="string"),
    "categorical": lambda: pd.Series([1, None], dtype="category"),
    "frame": lambda: pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [1, 2]}),
    "iterator of columns": lambda: iter([pd.array([1], dtype="Int64"), pd.array([None], dtype="Int64")]),
    "list of columns": lambda: [pd.Series([1, None], dtype="Int64"), pd.Series([1, 2], dtype="Int64")],
    "arrow int64": lambda: pd.Series(arrow([1, None, BIG], "int64")),
    "arrow string": lambda: pd.Series(arrow(["a", None], "string")),
    "arrow's own": lambda: arrow_array([1, None, BIG]),
    "optional text": lambda: optional_text(np.nan, np.nan),
    "optional text, None": lambda: optional_text(None, None),
}

NATIVE = {
    "masked": lambda: (masked([0, 0, 0]), np.array([1, BIG, 3])),
    "unmasked": lambda: (np.ma.array([1, BIG]), np.array([1, BIG])),
    "dask's masked": lambda: (da.from_array(masked([0, 0, 0]), chunks=2), np.array([1, BIG, 3])),
    "Int64": lambda: (pd.Series([1, BIG, 3], dtype="Int64", index=[7, 1, 0]), np.array([1, BIG, 3])),
    "UInt8": lambda: (pd.array([1, 2], dtype="UInt8"), np.array([1, 2], "u1")),
    "boolean": lambda: (pd.Series([True, False], dtype="boolean"), np.array([True, False])),
    "Float32": lambda: (pd.Series([1.5, 2], dtype="Float32"), np.array([1.5, 2], "f4")),
    "string": lambda: (pd.Series(["a", "bé"], dtype="string"), np.array(["a", "bé"], TEXT)),
    "str": lambda: (pd.Series(["a", "bé"], dtype="str"), np.array(["a", "bé"], TEXT)),
    "plain column": lambda: (pd.Series([1.5, np.nan], index=[1.0, 0.0]), np.array([1.5, np.nan])),
    "dates": lambda: (
        pd.Series(np.array(["2020-01-01", "NaT"], "M8[ns]")),
        np.array(["2020-01-01", "NaT"], "M8[ns]"),
    ),
    "frame": lambda: (
        pd.DataFrame({"a": pd.array([1, BIG], dtype="Int64"), "b": [1, 2]}),
        np.array([[1, 1], [BIG, 2]]),
    ),
    "iterator": lambda: (iter([pd.array([1], dtype="Int64"), masked([0, 0, 0])]), np.array([1, 1, BIG, 3])),
    "arrow int64": lambda: (pd.Series(arrow([1, BIG], "int64")), np.array([1, BIG])),
    "arrow string": lambda: (pd.Series(arrow(["a", "b"], "string")), np.array(["a", "b"], TEXT)),
    "arrow's own": lambda: (arrow_array([1, BIG]), np.array([1, BIG])),
    "optional text": lambda: (optional_text(np.nan, "c"), np.array(["a", "b", "c"], TEXT)),
    "a word for it": lambda: (optional_text("c", "c"), np.array(["a", "b", "c"], TEXT)),
}


@pytest.mark.parametrize("kind", MISSING)
def test_missing_values_are_refused_with_the_remedy(gate, kind):
    data = MISSING[kind]
    gate.add_data("old", [1, 2, 3])
    version = gate.repository().version
    with pytest.raises(MissingValueError, match=r"filled|fillna|isnan|fill") as caught:
        gate.add_data("x", data())
    assert isinstance(caught.value, (TypeError, ValueError))
    with pytest.raises(MissingValueError):
        gate.add_data(["x", "y"], [data(), data()])
    assert gate.get_var_names() == ["old"]
    assert gate.repository().version == version


@pytest.mark.parametrize("kind", [kind for kind in MISSING if "list" not in kind and "frame" not in kind])
def test_an_update_refuses_missing_values_too(gate, kind):
    gate.add_data("x", np.arange(3))
    version = gate.repository().version
    for index in (-1, [0, 1], (0, 2)):
        with pytest.raises((StoreGateError, ValueError)):
            gate.update_data("x", MISSING[kind](), index=index)
    assert gate.repository().version == version
    assert gate.get_data("x").tolist() == [0, 1, 2]


def test_one_masked_row(gate):
    gate.add_data("x", np.arange(3))
    with pytest.raises(MissingValueError, match="filled"):
        gate["train"]["x"][0] = np.ma.masked
    with pytest.raises(TypeError, match="object"):
        gate["train"]["x"][0] = None
    assert gate.get_data("x").tolist() == [0, 1, 2]


@pytest.mark.parametrize("kind", NATIVE)
def test_columns_without_missing_values_are_native(gate, kind):
    data, wanted = NATIVE[kind]()
    gate.add_data("x", data)
    got = gate.get_data("x")
    assert got.dtype == wanted.dtype
    assert got.tolist() == wanted.tolist() or np.array_equal(got, wanted, equal_nan=True)
    if not isinstance(data, type(iter([]))):
        gate.update_data("x", data)
        assert gate.get_data("x").dtype == wanted.dtype


def test_an_index_with_missing_values_is_refused(gate):
    gate.add_data("x", np.arange(3))
    for index in (pd.array([True, None, False], dtype="boolean"), np.ma.array([0, 1], mask=[0, 1])):
        with pytest.raises(MissingValueError):
            gate.get_data("x", index=index)
    assert gate.get_data("x", index=pd.Series([True, False, True], dtype="boolean")).tolist() == [0, 2]


@pytest.mark.parametrize(
    "data",
    [
        [2**63, -1],
        [[2**63], [-1]],
        [1, 2.5, BIG],
        [np.array([BIG]), np.array([0.5])],
        [1, "a"],
        [b"a", "a"],
        [np.array([1]), np.array(["a"])],
        [np.datetime64("3000-01-01", "D"), np.datetime64(1, "ns")],
    ],
    ids=str,
)
def test_lists_that_numpy_would_change_are_refused(gate, data):
    with pytest.raises(DtypeError, match="variable 'x'"):
        gate.add_data("x", data)
    assert gate.get_var_names() == []


def test_times_with_a_zone_are_refused_with_the_remedy(gate):
    with pytest.raises(DtypeError, match="tz_localize"):
        gate.add_data("x", pd.Series(pd.date_range("2020", periods=2, tz="Europe/Paris")))


def test_a_frame_for_a_tuple_of_names(tmp_path):
    frame = pd.DataFrame({"a": [1, 2, 3], "b": [4, 5, 6]}, index=[9, 8, 7])
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data(("a", "b"), frame)
        assert gate.get_data("b").tolist() == [4, 5, 6]
