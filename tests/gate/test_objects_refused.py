"""Objects that are no values, and data that are no table: the error says what was given and what to do."""

from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storegate import StoreGate, errors

GRID = xr.Dataset({"x": (("t", "lat", "lon"), np.ones((3, 2, 2)))}, {"lat": [1, 2], "lon": [3, 4]})


def _cftimes():
    return xr.date_range("2001-01-01", periods=3, calendar="noleap", use_cftime=True)


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: GRID.assign_coords(t=_cftimes()), r"'t'.*Datetime.*another calendar.*use_cftime=False"),
        (lambda: GRID.isel(t=0).expand_dims(s=4).assign_coords(lat=_cftimes()[:2]), "'lat'.*another calendar"),
        (lambda: GRID.stack(s=("lat", "lon")).transpose("s", ...), r"'s'.*\(tuple\).*call reset_index\(\) first"),
        (lambda: GRID.stack(s=("lat", "lon")), r"'s'.*\(tuple\).*call reset_index\(\) first"),
        (lambda: GRID.assign_coords(t=pd.interval_range(0, 3)), r"'t'.*interval.*store its ends"),
        (lambda: {"x": [datetime(2020, 1, 1), datetime(2020, 1, 2)]}, r"datetime\).*dtype='M8\[us\]'\)$"),
        (lambda: {"x": [pd.Timestamp("2020"), pd.NaT]}, r"Timestamp\).*dtype='M8\[us\]'\)$"),
        (lambda: {"x": [date(2020, 1, 1)]}, r"date\).*dtype='M8\[us\]'\)$"),
        (lambda: {"x": [datetime(2020, 1, 1, tzinfo=UTC)]}, "those with a zone to UTC, and take it away"),
        (lambda: {"x": [1, None]}, r"\(int, NoneType\).*None is no value"),
        (lambda: {"x": ["a", None]}, r"\(str, NoneType\).*None is no value"),
    ],
)
def test_objects_are_named_with_their_remedy(tmp_path, backend, data, message):
    args = {} if backend == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(backend, args, data_id="a") as gate:
        with pytest.raises(errors.DtypeError, match=message):
            gate.add_data(data())
        assert gate.variables == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            lambda: [xr.DataTree.from_dict({"a": GRID, "b": GRID})],
            r"children \['a', 'b'\]; .*tree\['a'\].to_dataset\(\)",
        ),
        (lambda: ["x", xr.DataTree.from_dict({"a": GRID})], r"children \['a'\]"),
        (lambda: ["file.csv"], r"variable 'file.csv'.* found the scalar None; a file is opened first"),
        (lambda: [{"train": pd.DataFrame({"x": [1]})}], r"'train' is itself a table; .*data\['train'\], phase='train'"),
        (lambda: [{"x": [1], "test": {"x": [1]}}], r"'test' is itself a mapping, of x; .*phase='test'"),
    ],
)
def test_what_is_no_table_is_named_with_its_remedy(arguments, message):
    with StoreGate(data_id="a") as gate:
        with pytest.raises(TypeError, match=message):
            gate.add_data(*arguments())
        assert gate.variables == ()


def test_a_node_without_children_is_its_dataset():
    with StoreGate(data_id="a") as gate:
        gate.add_data(xr.DataTree.from_dict({"/": GRID.drop_vars("x"), "a": GRID[["x"]]})["a"])
        xr.testing.assert_identical(gate.to_xarray().compute(), GRID)


def test_a_coordinate_comes_alone():
    data = GRID.assign_coords(t=("t", [3, 1, 2], {"units": "m"}), age=("t", [1.0, 2.0, 3.0]))
    with StoreGate(data_id="a") as gate:
        gate.add_data(data.t)
        xr.testing.assert_identical(gate.to_xarray().compute(), data.drop_vars(["x", "lat", "lon"]))
