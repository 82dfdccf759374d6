"""Rows of xarray that replace some rows mean the same as those: dimensions, units and coordinates are compared."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from storegate import StoreGate, errors
from tests.examples import in_turns

N = 10


def squares() -> xr.DataArray:
    """Return rows on a grid of equal sides, whose transposed rows have the same shape."""
    rows = np.random.default_rng(0).random((N, 3, 3))
    return xr.DataArray(rows, {"x": [1, 2, 3]}, ("time", "x", "y"), "a", {"units": "K"})


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data(squares())
        yield gate


def _by_range(gate, new):
    gate.update_data("a", new[2:5], index=(2, 5))
    return [2, 3, 4]


def _by_list_of_names(gate, new):
    gate["train"][["a"]][2:5] = [new[2:5]]
    return [2, 3, 4]


def _by_dataset(gate, new):
    gate.update_data(new[:4].to_dataset(), index=(0, 4))
    return [0, 1, 2, 3]


def _by_numbers(gate, new):
    gate["train"]["a"][[7, 3]] = new[[7, 3]]
    return [3, 7]


def _by_row(gate, new):
    gate["train"]["a"][2] = new[2]
    return [2]


def _by_rows_of_one(gate, new):
    gate.update_data("a", new[2:3], index=2)
    return [2]


def _in_all_phases(gate, new):
    gate.compile()
    gate.update_data("a", new[2:5], phase="all", index=(2, 5))
    return [2, 3, 4]


WAYS = [_by_range, _by_list_of_names, _by_dataset, _by_numbers, _by_row, _by_rows_of_one, _in_all_phases]


@pytest.mark.parametrize("update", WAYS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda a: a.transpose("time", "y", "x"), errors.ShapeError, "transpose them, as in ds.transpose"),
        (lambda a: a.rename(y="z"), errors.ShapeError, r"rename them, as in ds.rename\({'z': 'y'}\)"),
        (lambda a: a.assign_attrs(units="degC"), errors.DtypeError, "units 'K', and the new rows 'degC'"),
        (lambda a: a.isel(x=slice(None, None, -1)), errors.ArgumentError, "'x' .* differs from what is stored"),
    ],
    ids=["transposed", "renamed", "units", "coordinates"],
)
def test_rows_that_mean_something_else_are_refused(gate, update, change, error, message):
    with pytest.raises(error, match=message):
        update(gate, change(squares()))
    xr.testing.assert_identical(gate.to_xarray().compute().a, squares())


@pytest.mark.parametrize("update", WAYS)
def test_rows_that_mean_the_same_are_taken(gate, update):
    new = (squares() + 1).assign_attrs(units="K").assign_coords(time=np.arange(N))
    new = new.drop_vars("time") if update is _by_dataset else new
    expected = squares()
    rows = update(gate, new)
    expected[rows] = new.values[rows]
    xr.testing.assert_identical(gate.to_xarray().compute().a, expected)


def test_a_variable_without_names_of_dimensions_takes_any():
    gate = StoreGate(data_id="a")
    gate.add_data("a", np.zeros((N, 3, 3)))
    gate.update_data("a", squares()[2:5], index=(2, 5))
    gate["train"]["a"][7] = squares()[7]
    np.testing.assert_array_equal(gate["train"]["a"][2:5], squares()[2:5])
    np.testing.assert_array_equal(gate["train"]["a"][7], squares()[7])


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def timed(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data(TIMED, phase=(0.5, 0.5, 0))
        gate.shuffle("train", seed=1)
        gate.compile()
        yield gate


TIMED = squares().assign_coords(time=np.arange(N) * 3)


@pytest.mark.parametrize(
    "change",
    [
        lambda gate: gate.update_data("a", TIMED[:5] + 1),
        lambda gate: gate.add_data("new", TIMED[:5]),
        lambda gate: gate.add_data("new", TIMED, phase="all"),
        lambda gate: gate.update_data(["a"], TIMED[:5].to_dataset()),
        lambda gate: gate.update_data("a", TIMED[4::-1], phase="valid"),
    ],
)
def test_whole_variables_of_other_samples_are_refused(timed, change):
    before = timed.to_xarray("all").compute()
    with pytest.raises(errors.ArgumentError, match="has another coordinate 'time' .*as in x.sel"):
        change(timed)
    xr.testing.assert_identical(timed.to_xarray("all").compute(), before)


def test_whole_variables_of_the_same_samples_are_taken(timed):
    in_order = TIMED.sel(time=timed.to_xarray("train").time)
    timed.update_data("a", in_order + 1)
    timed.add_data("new", in_order * 2)
    timed.add_data("by_position", TIMED[:5].drop_vars("time"))
    found = timed.to_xarray("train").compute()
    np.testing.assert_array_equal(found.sortby("time").a, TIMED[:5] + 1)
    np.testing.assert_array_equal(found.sortby("time").new, TIMED[:5] * 2)
    np.testing.assert_array_equal(found.by_position, TIMED[:5])


def test_the_coordinate_itself_may_come_along(timed):
    timed.update_data((TIMED[:5] + 1).to_dataset())
    xr.testing.assert_equal(timed.to_xarray("train").compute().a, TIMED[:5] + 1)


WHICH = {
    "slice": (lambda gate, rows: gate["train"]["a"].__setitem__(slice(1, 4), rows), slice(1, 4), "train"),
    "numbers": (lambda gate, rows: gate["train"]["a"].__setitem__([3, 0, 4], rows), [3, 0, 4], "train"),
    "mask": (lambda gate, rows: gate["valid"]["a"].__setitem__(np.arange(5) % 2 == 0, rows), [0, 2, 4], "valid"),
    "range": (lambda gate, rows: gate.update_data("a", rows, phase="valid", index=(2, None)), slice(2, 5), "valid"),
    "names": (lambda gate, rows: gate["train"][["a"]].__setitem__(slice(1, 4), [rows]), slice(1, 4), "train"),
    "all": (lambda gate, rows: gate.update_data("a", rows, phase="all", index=(3, 6)), slice(3, 6), "all"),
    "row": (lambda gate, row: gate["train"]["a"].__setitem__(2, row), 2, "train"),
    "row of all": (lambda gate, row: gate.update_data("a", row, phase="all", index=7), 7, "all"),
}


@pytest.mark.parametrize(("update", "index"), in_turns(WHICH, [True, False]))
def test_rows_go_only_where_their_coordinate_is(timed, update, index):
    put, where, phase = WHICH[update]
    there = timed.to_xarray(phase).time.values[where]
    rows = TIMED.sel(time=there) + 1
    before = timed.to_xarray("all").compute()
    others = TIMED.isel(time=TIMED.time.values == (there + 3) % 30) if np.ndim(there) == 0 else rows[::-1]
    others = others.squeeze() if np.ndim(there) == 0 else others
    with pytest.raises(errors.ArgumentError, match="has another coordinate 'time' than the selected rows of phase"):
        put(timed, others if index or others.ndim == 2 else others.drop_indexes("time"))
    xr.testing.assert_identical(timed.to_xarray("all").compute(), before)
    put(timed, rows if index or rows.ndim == 2 else rows.drop_indexes("time"))
    changed = np.isin(before.time, there)
    np.testing.assert_array_equal(timed.to_xarray("all").a, np.where(changed[:, None, None], before.a + 1, before.a))


def test_shuffled_rows_are_taken_where_the_same_shuffle_brought_the_coordinate(tmp_path):
    for backend in ("numpy", "zarr"):
        gate = StoreGate(backend, {"output_dir": tmp_path} if backend == "zarr" else {}, data_id="a")
        gate.add_data(TIMED, phase=(0.6, 0.4, 0), shuffle=3)
        gate.compile()
        before = gate.to_xarray("all").compute()
        for seed in (False, 4):
            with pytest.raises(errors.ArgumentError, match="has another coordinate 'time'"):
                gate.add_data("b", TIMED * 2, phase=(0.6, 0.4, 0), shuffle=seed)
        xr.testing.assert_identical(gate.to_xarray("all").compute(), before)
        gate.add_data("b", TIMED * 2, phase=(0.6, 0.4, 0), shuffle=3)
        gate.compile()
        after = gate.to_xarray("all").compute()
        np.testing.assert_array_equal(after.b, after.a * 2)
        gate.close()


def test_a_coordinate_of_text_is_compared_as_text():
    gate = StoreGate(data_id="a")
    rows = xr.DataArray(np.arange(4.0), {"run": ["a", "bb", "c", "d"]}, ("run",), "x")
    gate.add_data(rows)
    gate["train"]["x"][1:3] = rows[1:3] + 1
    with pytest.raises(errors.ArgumentError, match=r"as in x.sel\(run=gate.to_xarray\('train'\).run\[rows\]\)"):
        gate["train"]["x"][1:3] = rows[2:4]
    np.testing.assert_array_equal(gate["train"]["x"][:], [0, 2, 3, 3])
