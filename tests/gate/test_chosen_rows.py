"""Filtered, picked, sampled and sorted rows: all variables of a phase in the same way, as numpy does it."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr

from storegate import StoreGate, errors
from tests.examples import in_turns

N = 300
RNG = np.random.default_rng(1)
ROWS = {
    "x": np.arange(N),
    "pt": RNG.exponential(30, N),
    "label": RNG.integers(0, 4, N),
    "image": RNG.random((N, 2, 3)),
    "name": np.array([f"{number % 7}" * (number % 5) for number in range(N)], np.dtypes.StringDType()),
}
TRAIN = slice(0, 200)
VALID = slice(200, N)


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 16}
    with StoreGate(request.param, args, data_id="a") as gate:
        for phase, part in (("train", TRAIN), ("valid", VALID)):
            gate.add_data({name: rows[part] for name, rows in ROWS.items()}, phase=phase)
        gate.compile()
        yield gate


def require(gate, phase, expected):
    """Require rows of all variables, whole, in batches, as a Dataset, and after a compaction and an undo of it."""
    expected = np.asarray(expected)
    for name, rows in ROWS.items():
        np.testing.assert_array_equal(gate[phase][name][:], rows[expected])
    found = gate.to_xarray(phase)
    np.testing.assert_array_equal(found["pt"], ROWS["pt"][expected])
    np.testing.assert_array_equal(found["image"], ROWS["image"][expected])
    if len(expected):
        batches = [batch["x"] for batch in gate[phase].batches(7, seed=1)]
        assert sorted(np.concatenate(batches).tolist()) == sorted(expected.tolist())
    assert len(gate[phase]) == len(expected)
    gate.compact(phase)
    np.testing.assert_array_equal(gate[phase]["image"][:], ROWS["image"][expected])
    gate.undo()
    np.testing.assert_array_equal(gate[phase]["x"][:], expected)


CONDITIONS = [
    lambda ds: ds.pt > 20,
    lambda ds: (ds.pt > 20).data,
    lambda ds: (ds.pt > 20) & (ds.label != 2),
    lambda ds: (ds.image > 0.1).all(ds.image.dims[1:]),
    lambda ds: ds.pt > -1,
    lambda ds: ds.pt < -1,
    lambda ds: (ds.x >= 50) & (ds.x < 250),
]


@pytest.mark.parametrize(("gate", "condition"), in_turns(["numpy", "zarr"], CONDITIONS), indirect=["gate"])
@pytest.mark.filterwarnings("ignore:the condition keeps no row")
def test_a_condition_keeps_the_rows_of_each_phase(gate, condition):
    whole = xr.Dataset(
        {name: (("sample", *"bc"[: rows.ndim - 1]), rows) for name, rows in ROWS.items() if name != "name"}
    )
    kept = np.asarray(condition(whole))
    gate.filter(condition)
    require(gate, "train", np.flatnonzero(kept[TRAIN]))
    require(gate, "valid", 200 + np.flatnonzero(kept[VALID]))


@pytest.mark.parametrize(
    ("gate", "form"),
    in_turns(["numpy", "zarr"], [np.asarray, list, lambda mask: da.from_array(mask, 7), xr.DataArray]),
    indirect=["gate"],
)
def test_a_mask_of_all_rows_or_of_a_phase(gate, form):
    mask = RNG.random(N) > 0.5
    gate.filter(form(mask))
    require(gate, "train", np.flatnonzero(mask[TRAIN]))
    require(gate, "valid", 200 + np.flatnonzero(mask[VALID]))
    gate.undo()
    gate.filter(form(mask[TRAIN]), phase="train")
    require(gate, "train", np.flatnonzero(mask[TRAIN]))
    require(gate, "valid", np.arange(200, N))


def test_a_condition_after_a_shuffle_and_an_encoding(gate):
    gate.shuffle("train", seed=3)
    gate.onehot("label", 4)
    gate.filter(lambda ds: ds.pt > 20, phase="train")
    order = np.random.RandomState(3).permutation(200)
    expected = order[ROWS["pt"][order] > 20]
    np.testing.assert_array_equal(gate["train"]["x"][:], expected)
    np.testing.assert_array_equal(gate["train"]["label"][:], np.eye(4)[ROWS["label"][expected]])


@pytest.mark.parametrize(
    ("gate", "index"),
    in_turns(
        ["numpy", "zarr"], [slice(10, 50), slice(None, None, -3), [5, 3, 5, 199], np.arange(200) % 3 == 0, slice(0, 0)]
    ),
    indirect=["gate"],
)
def test_rows_of_an_index(gate, index):
    gate.select(index)
    require(gate, "train", np.arange(200)[index])
    require(gate, "valid", np.arange(200, N))


def test_a_sample(gate):
    gate.sample(30, seed=5)
    require(gate, "train", np.random.RandomState(5).permutation(200)[:30])
    gate.undo()
    gate.sample(0.1, seed=5, phase="all")
    require(gate, "train", np.random.RandomState(5).permutation(200)[:20])
    require(gate, "valid", 200 + np.random.RandomState(5).permutation(100)[:10])


@pytest.mark.parametrize(
    ("gate", "by", "descending"),
    in_turns(["numpy", "zarr"], ["pt", "label", "name", ["label", "pt"], ["name", "label"]], [False, True], every=4),
    indirect=["gate"],
)
def test_sorted_rows(gate, by, descending):
    gate.shuffle("all", seed=2)
    before = {phase: gate[phase]["x"][:] for phase in ("train", "valid")}
    gate.sort(by, descending=descending)
    for phase, rows in before.items():
        order = list(range(len(rows)))
        for name in reversed([by] if isinstance(by, str) else by):
            keys = ROWS[name][rows].tolist()
            order.sort(key=lambda at, keys=keys: keys[at], reverse=descending)
        require(gate, phase, rows[order])


@pytest.mark.parametrize("descending", [False, True])
def test_missing_values_come_last(descending):
    gate = StoreGate(data_id="a")
    gate.add_data({"x": [0, 1, 2, 3], "t": np.array(["2021", "NaT", "2020", "2022"], "M8[D]"), "f": [np.nan, 2, 1, 3]})
    gate.sort("t", descending=descending)
    assert gate["train"]["x"][:].tolist() == ([3, 0, 2, 1] if descending else [2, 0, 3, 1])
    gate.sort("f", descending=descending)
    assert gate["train"]["x"][:].tolist() == ([3, 1, 2, 0] if descending else [2, 1, 3, 0])


REFUSED = [
    (lambda gate: gate.filter(lambda ds: ds.pt), TypeError, "one boolean for each row"),
    (lambda gate: gate.filter(lambda ds: ds.image > 0), TypeError, "one boolean for each row"),
    (lambda gate: gate.filter(lambda ds: True), TypeError, "rows for all samples"),
    (lambda gate: gate.filter(lambda ds: ds.nothing > 3), AttributeError, "nothing"),
    (lambda gate: gate.filter(np.ones(5, bool)), ValueError, "one boolean for each of the 300 rows"),
    (lambda gate: gate.filter([1, 2, 3]), TypeError, r"row numbers go to select\(\)"),
    (lambda gate: gate.select([200]), IndexError, "row 200 is out of range"),
    (lambda gate: gate.select(3), TypeError, r"use a list, \[3\]"),
    (lambda gate: gate.select([0], phase="all"), ValueError, "one phase: train, valid or test"),
    (lambda gate: gate.sample(201), ValueError, "201 rows of phase 'train', which has 200"),
    (lambda gate: gate.sample(-1), ValueError, "sample of -1 rows"),
    (lambda gate: gate.sample(1.5), ValueError, "0.0 to 1.0, found 1.5"),
    (lambda gate: gate.sample(5, phase="all"), ValueError, "needs one phase"),
    (lambda gate: gate.sample("5"), TypeError, "n_rows"),
    (lambda gate: gate.sort("image"), ValueError, r"has samples of shape \(2, 3\)"),
    (lambda gate: gate.sort("nothing"), KeyError, "no variable 'nothing'"),
    (lambda gate: gate.select([0], phase="test"), IndexError, "there are 0 rows"),
    (lambda gate: gate.sample(0.5, phase="test"), ValueError, "phase 'test' has no variables"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSED)
def test_what_is_refused_changes_nothing(gate, call, error, message):
    with pytest.raises(error, match=message):
        call(gate)
    assert gate.sizes == {"train": 200, "valid": 100}
    np.testing.assert_array_equal(gate["train"]["x"][:], np.arange(200))


def test_rows_that_were_left_out_are_read_by_nobody(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "chunk": 10, "compressor": "none"}, data_id="a") as gate:
        gate.add_data({"x": np.arange(100_000), "keep": np.arange(100_000) % 10_000 < 10})
        gate.filter(lambda ds: ds.keep)
        before = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())
        assert gate.sizes == {"train": 100}
        gate.compact()
        gate.vacuum(older_than=0)
        after = sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())
        assert gate["train"]["x"][:].tolist() == [10_000 * ten + one for ten in range(10) for one in range(10)]
        assert after < before / 10


def test_another_writer_who_adds_a_variable_meanwhile_is_noticed(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data("x", np.arange(10))

        def condition(ds):
            with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as other:
                other.add_data("y", np.arange(10))
            return ds.x > 5

        with pytest.raises(errors.ConflictError, match="added variables meanwhile"):
            gate.filter(condition)
        assert gate.sizes == {"train": 10}


@pytest.mark.parametrize(
    "call",
    [
        lambda gate: gate.filter(lambda ds: ds.pt > -1),
        lambda gate: gate.sort("x"),
        lambda gate: gate.select(slice(None)),
        lambda gate: gate.filter(np.ones(200, bool), phase="train"),
    ],
)
def test_an_undo_of_what_changed_nothing_takes_nothing_else_back(gate, call):
    gate.onehot("label", 4)
    call(gate)
    gate.undo()
    assert gate["train"]["label"][:].shape == (200, 4)
    gate.undo()
    np.testing.assert_array_equal(gate["train"]["label"][:], ROWS["label"][TRAIN])


def test_a_condition_that_keeps_nothing_is_warned_of():
    gate = StoreGate(data_id="a")
    gate.add_data(pd.DataFrame({"size": pd.Categorical(["S", "M", "S"]), "x": [1, 2, 3]}))
    with pytest.warns(UserWarning, match="keeps no row of phase 'train'; size hold codes of categories"):
        gate.filter(lambda ds: ds["size"] == 7)
    assert gate.sizes == {"train": 0}
    gate.undo()
    gate.filter(lambda ds: ds["size"] == ds["size"].attrs["categories"].index("S"))
    assert gate["train"]["x"][:].tolist() == [1, 3]
