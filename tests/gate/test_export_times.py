"""Times leave in the units of other libraries, or are refused; shapes and nulls stay what they are."""

from __future__ import annotations

import duckdb
import numpy as np
import polars as pl
import pytest

from storegate import StoreGate, errors


def gate_of(values):
    gate = StoreGate(data_id="a")
    gate.add_data("x", values)
    return gate


@pytest.mark.parametrize(
    "values",
    [
        np.array([2**40, 1], "M8[D]"),
        np.array([-(2**31) - 1], "M8[D]"),
        np.array([6_000_000], "M8[Y]"),
        np.array([2**62], "m8[D]"),
        np.array([2**62], "M8[h]"),
    ],
)
def test_what_arrow_has_no_unit_for_is_refused(values):
    with pytest.raises(errors.DtypeError, match="outside the range of Arrow"):
        gate_of(values)["train"].to_arrow()


def test_the_ends_of_the_range_are_kept():
    days = np.array([2**31 - 1, -(2**31), "NaT"], "M8[D]")
    assert gate_of(days)["train"].to_arrow()["x"].to_numpy().tolist() == days.tolist()
    seconds = np.array([2**62], "M8[s]")
    assert gate_of(seconds)["train"].to_arrow()["x"].to_numpy().tolist() == seconds.tolist()


def test_seconds_that_polars_cannot_hold_are_refused(tmp_path):
    gate = gate_of(np.array([2**62], "M8[s]"))
    with pytest.raises((errors.DtypeError, pl.exceptions.PolarsError), match="outside the range of Arrow"):
        gate["train"].to_polars()
    with pytest.raises(errors.DtypeError, match="outside the range of Arrow"):
        gate.export(tmp_path / "x.parquet")


@pytest.mark.parametrize("unit", ["D", "h", "m", "s", "ms", "us", "ns"])
@pytest.mark.parametrize("kind", "mM")
@pytest.mark.parametrize("shape", [(2,), (2, 2), (1, 3, 2)])
def test_parquet_keeps_the_axes_of_times(tmp_path, unit, kind, shape):
    values = np.arange(3 * np.prod(shape)).astype(f"{kind}8[{unit}]").reshape(3, *shape)
    gate_of(values).export(tmp_path / "x.parquet")
    back = StoreGate(data_id="b")
    back.read(tmp_path / "x.parquet")
    found = back["train"]["x"]
    assert found.shape == values.shape
    np.testing.assert_array_equal(found[:], values)


@pytest.mark.parametrize("dtype", ["m8[s]", "m8[ms]", "m8[us]", "M8[s]", "M8[ns]", "M8[D]"])
def test_null_times_reach_duckdb(dtype):
    rows = duckdb.connect().from_arrow(gate_of(np.array([86400, "NaT"], dtype))["train"].to_arrow())
    (first,), (second,) = rows.fetchall()
    assert first is not None
    assert second is None


@pytest.mark.filterwarnings("ignore:The 'generic' unit:DeprecationWarning")  # of numpy 2.5, for what is refused here
@pytest.mark.parametrize("dtype", ["M8[25s]", "m8", "M8[10us]", np.longdouble])
def test_files_are_attached_only_with_dtypes_that_can_be_stored(tmp_path, dtype):
    np.save(tmp_path / "x.npy", np.array([1, 2], dtype))
    with pytest.raises(errors.DtypeError, match=r"x\.npy.*cannot be stored"):
        StoreGate(data_id="a").attach(tmp_path / "x.npy", "x")


def test_ends_of_months_are_months():
    found = gate_of(np.array([5, 3], "m8[M]"))["train"].describe().loc["x", ["min", "max"]].tolist()
    assert found == [np.timedelta64(3, "M"), np.timedelta64(5, "M")]
