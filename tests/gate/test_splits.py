"""Splits: rows dealt anew, with every variable beside the others, on every backend, and what follows a split."""

from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from storegate import StoreGate, errors
from tests.examples import in_turns

N = 200
RNG = np.random.default_rng(0)
ROWS = {
    "x": np.arange(N),
    "y": RNG.integers(0, 3, N),
    "run": np.repeat(np.arange(20), 10),
    "time": np.datetime64("2020-01-01") + np.arange(N) // 2,
    "name": np.array([f"event {number}" for number in range(N)], np.dtypes.StringDType()),
}
PHASES = ("train", "valid", "test")


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 16}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data({name: rows[:150] for name, rows in ROWS.items()})
        gate.add_data({name: rows[150:] for name, rows in ROWS.items()}, phase="test")
        yield gate


def rows_of(gate):
    """Return the row numbers of each phase, and require that all variables go with them."""
    found = {}
    for phase in PHASES:
        if not gate[phase].var_names:
            found[phase] = np.empty(0, int)
            continue
        found[phase] = gate[phase]["x"][:]
        for name, rows in ROWS.items():
            np.testing.assert_array_equal(gate[phase][name][:], rows[found[phase]])
    return found


def test_rows_are_shuffled_and_cut(gate):
    gate.split((0.7, 0.2, 0.1), seed=3)
    everything = np.random.RandomState(3).permutation(N)
    found = rows_of(gate)
    np.testing.assert_array_equal(np.concatenate([found[phase] for phase in PHASES]), everything)
    assert [len(found[phase]) for phase in PHASES] == [140, 40, 20]


def test_rows_are_cut_in_their_order_without_a_seed(gate):
    gate.split((20, 80, 100), seed=None)
    assert {phase: rows.tolist() for phase, rows in rows_of(gate).items()} == {
        "train": list(range(20)),
        "valid": list(range(20, 100)),
        "test": list(range(100, 200)),
    }


def test_classes_have_their_shares(gate):
    gate.split((0.8, 0.1, 0.1), stratify="y", seed=1)
    found = rows_of(gate)
    assert sorted(np.concatenate(list(found.values())).tolist()) == list(range(N))
    for one in range(3):
        n_rows = np.count_nonzero(ROWS["y"] == one)
        for phase, share in zip(PHASES, (0.8, 0.1, 0.1), strict=True):
            assert abs(np.count_nonzero(ROWS["y"][found[phase]] == one) - share * n_rows) < 1
            assert (np.diff(found[phase]) > 0).all()


def test_combinations_of_labels_are_classes(gate):
    gate.add_data("parity", np.arange(150) % 2)
    gate.add_data("parity", np.arange(150, N) % 2, phase="test")
    gate.split((0.5, 0.25, 0.25), stratify=["y", "parity"])
    found = rows_of(gate)
    for phase, share in zip(PHASES, (0.5, 0.25, 0.25), strict=True):
        for label in range(3):
            for parity in range(2):
                mask = (ROWS["y"] == label) & (np.arange(N) % 2 == parity)
                assert abs(np.count_nonzero(mask[found[phase]]) - share * mask.sum()) < 1


def test_groups_are_in_one_phase(gate):
    gate.split((0.6, 0.2, 0.2), groups="run", seed=2)
    found = rows_of(gate)
    runs = [set(ROWS["run"][found[phase]].tolist()) for phase in PHASES]
    assert [len(of) for of in runs] == [12, 4, 4]
    assert len(set.union(*runs)) == 20


def test_values_are_split_by_their_rank_and_equal_ones_stay_together(gate):
    gate.split((0.505, 0.25, 0.245), by="time")
    found = rows_of(gate)
    days = [set(ROWS["time"][found[phase]].tolist()) for phase in PHASES]
    assert not days[0] & days[1]
    assert not days[1] & days[2]
    assert [len(found[phase]) for phase in PHASES] == [100, 50, 50]


def test_values_between_thresholds_and_purged_ones(gate):
    gate.split((np.datetime64("2020-02-01"), "2020-03-01"), by="time", purge=4)
    found = rows_of(gate)
    days = {phase: ROWS["time"][rows] for phase, rows in found.items()}
    assert days["train"].max() == np.datetime64("2020-01-27")
    assert days["valid"].min() == np.datetime64("2020-02-01")
    assert days["valid"].max() == np.datetime64("2020-02-25")
    assert days["test"].min() == np.datetime64("2020-03-01")
    assert sum(map(len, found.values())) == N - 2 * 4 * 2


@pytest.mark.parametrize(
    ("values", "thresholds"),
    [
        (2**60 + np.arange(10, dtype="u8"), (2**60 + 3, 2**60 + 6)),
        (np.arange(10, dtype="f4") / np.float32(10), (0.3, 0.7)),
        (np.arange(10, dtype="f2") / np.float16(10), (np.float64(0.3), 0.7)),
    ],
    ids=["large integers", "short floats", "shorter ones"],
)
def test_a_purge_leaves_out_what_lies_before_a_threshold_that_float64_does_not_tell_apart(values, thresholds):
    gate = StoreGate(data_id="a")
    gate.add_data({"x": values, "row": np.arange(10)})
    gate.split(thresholds, by="x", purge=1)
    reached = [np.flatnonzero(values >= threshold) for threshold in thresholds]
    kept = set(range(10)) - {rows[0] - 1 for rows in reached}
    found = [gate[phase]["row"][:].tolist() for phase in PHASES]
    assert {row for rows in found for row in rows} == kept
    assert [rows[0] for rows in found[1:]] == [rows[0] for rows in reached]  # rows keep their order


def test_a_hash_keeps_rows_where_they_are_when_data_grow(gate):
    gate.split((0.6, 0.2, 0.2), hash="name", seed=5)
    before = rows_of(gate)
    assert all(len(rows) > 20 for rows in before.values())
    gate.add_data({name: rows[:0] for name, rows in ROWS.items()})
    other = StoreGate(data_id="b")
    mixed = RNG.permutation(N)
    other.add_data({name: np.concatenate([rows, rows])[np.concatenate([mixed, mixed])] for name, rows in ROWS.items()})
    other.split((0.6, 0.2, 0.2), hash="name", seed=5)
    for phase, rows in before.items():
        assert sorted(other[phase]["x"][:].tolist()) == sorted([*rows.tolist()] * 2)


def test_a_split_again_begins_with_all_rows(gate):
    gate.split((1.0, 0.0, 0.0), seed=1)
    assert gate.sizes == {"train": N}
    gate.split((0.5, 0.25, 0.25), stratify="y")
    assert sorted(np.concatenate(list(rows_of(gate).values())).tolist()) == list(range(N))


@pytest.mark.parametrize(
    ("gate", "options"),
    in_turns(
        ["numpy", "zarr", "hybrid"], [{}, {"stratify": "y"}, {"groups": "run"}, {"by": "time"}, {"hash": "x"}], every=4
    ),
    indirect=["gate"],
    ids=str,
)
def test_what_follows_a_split(gate, options):
    gate.split((0.6, 0.2, 0.2), seed=4, **options)
    split = rows_of(gate)
    batches = [batch["x"] for batch in gate["train"].batches(7, shuffle=False)]
    np.testing.assert_array_equal(np.concatenate(batches), split["train"])
    assert sorted(np.concatenate([b["x"] for b in gate["train"].batches(7, seed=1)]).tolist()) == sorted(split["train"])
    np.testing.assert_array_equal(gate.to_xarray("valid").x, split["valid"])
    gate.shuffle("train", seed=9)
    shuffled = split["train"][np.random.RandomState(9).permutation(len(split["train"]))]
    np.testing.assert_array_equal(rows_of(gate)["train"], shuffled)
    gate.compact()
    np.testing.assert_array_equal(rows_of(gate)["train"], shuffled)
    gate.add_data({name: rows[:3] for name, rows in ROWS.items()}, phase="valid")
    np.testing.assert_array_equal(rows_of(gate)["valid"], [*split["valid"], 0, 1, 2])
    for _ in range(4):  # the rows, the compaction, the shuffle and the split
        gate.undo()
    assert gate.sizes == {"train": 150, "test": 50}
    np.testing.assert_array_equal(rows_of(gate)["train"], np.arange(150))


def test_a_split_is_there_when_the_store_is_opened_again_and_is_made_again_from_its_record(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data(ROWS)
        gate.split((0.5, 0.3, 0.2), stratify="y", seed=11)
        before = rows_of(gate)
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        for phase, rows in rows_of(gate).items():
            np.testing.assert_array_equal(rows, before[phase])
        record = gate.history()[-1]
        assert record.operation == "split"
        gate.undo()
        said = dict(record.arguments)
        gate.split(said["shares"], stratify=said["stratify"], seed=said["seed"])
        for phase, rows in rows_of(gate).items():
            np.testing.assert_array_equal(rows, before[phase])


@pytest.mark.parametrize("name", ["x", "name"])
def test_rows_of_many_runs_are_read_in_one_call(tmp_path, counted_reads, name):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "chunk": 16}, data_id="a") as gate:
        gate.add_data(ROWS)
        gate.split((0.5, 0.3, 0.2), stratify="y", seed=11)
        rows = gate["train"]["x"][:]
        assert len(gate.table["train"]["x"].order.runs(0, len(rows))) > 30
        counted_reads.clear()
        np.testing.assert_array_equal(gate["train"][name][:], ROWS[name][rows])
    assert len(counted_reads) <= 2, "in zarr-python's own thread, if it is text"


def test_no_rows_are_copied(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "compressor": "none"}, data_id="a") as gate:
        gate.add_data("x", RNG.random((10_000, 100)))
        gate.add_data("y", RNG.integers(0, 10, 10_000))

        def stored():
            return sum(path.stat().st_size for path in (tmp_path / "s").rglob("*") if path.is_file())

        before = stored()
        gate.split((0.8, 0.1, 0.1), seed=1)
        assert stored() - before < 10_000
        gate.split((0.8, 0.1, 0.1), stratify="y")
        assert stored() - before < 100_000  # 8 MB of rows, and a list of 4 bytes each


REFUSED = [
    ({"shares": "train"}, TypeError, "a split takes the shares"),
    ({"shares": (0.5, 0.2)}, ValueError, "three shares"),
    ({"shares": (0.5, 0.2, 0.2)}, ValueError, "must sum to 1"),
    ({"shares": (100, 50, 20)}, ValueError, "sum to 170, and the data have 200 rows"),
    ({"stratify": "y", "groups": "run"}, ValueError, "one rule, found stratify and groups"),
    ({"purge": 2}, ValueError, "without by there are none"),
    ({"by": "time", "purge": -1}, ValueError, "from 0 on, found -1"),
    ({"stratify": "z"}, KeyError, "no variable 'z' to deal rows by"),
    ({"shares": (100, 50, 50), "groups": "run"}, ValueError, "groups are dealt whole"),
    ({"shares": (100, 50, 50), "hash": "x"}, ValueError, "dealt by chance"),
    ({"shares": (101, 50, 49), "by": "time"}, ValueError, "equal values stay together; give fractions"),
    ({"shares": ("2021", "2020"), "by": "time"}, ValueError, "not in ascending order"),
    ({"shares": ("a", "b"), "by": "x"}, TypeError, "int64 values of variable 'x' are two numbers, found"),
    ({"shares": ("a", "b"), "by": "time"}, TypeError, "values of variable 'time' are two times, as in"),
    ({"shares": (1, 2), "by": "name"}, TypeError, "values of variable 'name' are two texts, found"),
    ({"by": ["x", "y"]}, ValueError, "by takes one variable"),
    ({"by": "wide"}, ValueError, "^by= needs one value for each row, and variable 'wide' has"),
    ({"stratify": "y", "seed": None}, ValueError, "give a seed"),
    ({"seed": -1}, ValueError, "a seed is 0"),
    ({"stratify": "wide"}, ValueError, r"variable 'wide' has samples of shape \(2,\)"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_what_is_refused_changes_nothing(gate, options, error, message):
    for phase, n_rows in (("train", 150), ("test", 50)):
        gate.add_data("wide", np.zeros((n_rows, 2)), phase=phase)
    with pytest.raises(error, match=message):
        gate.split(**options)
    assert gate.sizes == {"train": 150, "test": 50}
    np.testing.assert_array_equal(rows_of(gate)["train"], np.arange(150))


def test_missing_values_and_variables_are_refused(gate):
    gate.add_data("z", np.where(np.arange(150) == 7, np.nan, 1.0))
    with pytest.raises(errors.VariableNotFoundError, match="variable 'z' of phase 'train' is not in all phases"):
        gate.split(by="z")
    gate.add_data("z", np.zeros(50), phase="test")
    with pytest.raises(errors.MissingValueError, match="'z' has missing values"):
        gate.split(by="z")
    with pytest.raises(errors.VariableNotFoundError, match="no rows to split"):
        StoreGate(data_id="empty").split()
    gate.select(slice(0, 0))
    gate.select(slice(0, 0), phase="test")
    with pytest.raises(errors.ShapeError, match="the phases have no rows"):
        gate.split()


def test_a_purge_that_leaves_nothing_is_refused(gate):
    with pytest.raises(errors.ShapeError, match="purge=500 leaves none of 200 rows"):
        gate.split((0, 10**6), by="x", purge=500)
    assert gate.sizes == {"train": 150, "test": 50}


@pytest.mark.parametrize(
    ("shares", "options", "left"),
    [
        ((0.5, 0.3, 0.2), {"by": "x", "purge": 60}, "the split with purge=60 leaves phase 'valid' without rows"),
        ((20, 20), {"by": "x"}, "the split leaves phase 'valid' without rows, of 200 in all"),
        ((0.5, 0.001, 0.499), {}, "'valid' without rows"),
        ((0.5, 0.001, 0.499), {"stratify": "y"}, "'valid' without rows"),
        ((0.5, 0.001, 0.499), {"groups": "run"}, "'valid' without rows"),
        ((0.5, 1e-6, 0.499999), {"hash": "x"}, "'valid' without rows"),
    ],
    ids=str,
)
def test_a_phase_that_a_split_leaves_empty_is_told_and_keeps_its_variables(gate, shares, options, left):
    with pytest.warns(UserWarning, match=left) as told:
        gate.split(shares, **options)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert gate.sizes["valid"] == 0
    assert gate["valid"].var_names == gate["train"].var_names
    gate.add_data({name: rows[:3] for name, rows in ROWS.items()}, phase="valid")
    assert rows_of(gate)["valid"].tolist() == [0, 1, 2]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gate.split((0.5, 0.0, 0.5), seed=1)
    assert list(gate.sizes) == ["train", "test"], "a share of nothing is no surprise"


def test_thresholds_of_categories_are_their_values():
    gate = StoreGate(data_id="a")
    sizes = pd.Categorical(["L", "S", "M", "S", "L"], categories=["S", "M", "L"], ordered=True)
    colours = pd.Categorical(["red", "blue", "red", "red", "blue"])
    gate.add_data(pd.DataFrame({"size": sizes, "colour": colours, "x": range(5)}))
    for shares, options, error, message in (
        (("red", "blue"), {"by": "colour"}, errors.ArgumentError, "categories without an order.*groups='colour'"),
        (("M", "XL"), {"by": "size"}, errors.ArgumentError, "'XL' is no category of variable 'size'"),
        (("L", "M"), {"by": "size"}, errors.ArgumentError, "not in ascending order"),
    ):
        with pytest.raises(error, match=message):
            gate.split(shares, **options)
    gate.split(("M", "L"), by="size")
    assert {phase: gate[phase]["x"][:].tolist() for phase in PHASES} == {"train": [1, 3], "valid": [2], "test": [0, 4]}


def test_hashes_of_times_stay_when_their_unit_widens():
    gate = StoreGate(data_id="a")
    days = np.datetime64("2020-01-01") + np.arange(100)
    gate.add_data({"t": days, "x": np.arange(100)})
    gate.split((0.6, 0.2, 0.2), hash="t")
    before = {phase: set(gate[phase]["x"][:].tolist()) for phase in PHASES}
    for unit, added in (("s", 100), ("ns", 101)):
        gate.add_data({"t": days[-1:].astype(f"M8[{unit}]") + np.timedelta64(1, unit), "x": [added]})
        gate.split((0.6, 0.2, 0.2), hash="t")
        assert gate["train"]["t"].dtype == f"M8[{unit}]"
        assert {phase: {one for one in gate[phase]["x"][:].tolist() if one < 100} for phase in PHASES} == before


def test_lists_sparse_rows_and_complex_numbers_are_split_by_their_hash():
    numbers = np.arange(60) % 30
    gate = StoreGate(data_id="a")
    gate.add_data(
        {
            "x": numbers,
            "list": [list(range(number)) for number in numbers],
            "sparse": sp.csr_array(np.eye(30)[numbers]),
            "complex": numbers + 1j * (numbers % 3),
            "wide": np.repeat(numbers[:, None], 300, axis=1),
        }
    )
    found = []
    for name in ("list", "sparse", "complex", "wide", ["list", "sparse"]):
        gate.split((0.5, 0.25, 0.25), hash=name, seed=1)
        rows = {phase: gate[phase]["x"][:].tolist() for phase in PHASES}
        assert sorted(np.concatenate(list(rows.values())).tolist()) == sorted(numbers.tolist())
        assert sum(len(set(of)) for of in rows.values()) == 30, "equal rows are in one phase"
        found.append(str({phase: sorted(of) for phase, of in rows.items()}))
    assert len(set(found)) == len(found)


def test_groups_are_dealt_where_they_can_be_and_folds_of_few_are_made():
    gate = StoreGate(data_id="a")
    gate.add_data({"run": np.repeat(np.arange(10), [40, *[5] * 8, 20])})
    for seed in range(10):
        gate.split((0.8, 0.1, 0.1), groups="run", seed=seed)
        assert gate.sizes == {"train": 80, "valid": 10, "test": 10}
    few = StoreGate(data_id="a")
    few.add_data("y", [0, 1, 1, 2, 2, 2])
    for seed in range(10):
        folds = few["train"].folds(3, groups="y", seed=seed)
        assert sorted(set(fold.valid["y"][:].tolist()).pop() for fold in folds) == [0, 1, 2]


def test_a_rule_beyond_the_budget_is_refused(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "budget": "1MiB"}, data_id="a") as gate:
        gate.add_data("x", np.arange(100_000))
        with pytest.raises(errors.MemoryBudgetError, match="stratify= with variable 'x' of 100000 rows"):
            gate.split(stratify="x")
        gate.split((0.5, 0.25, 0.25), hash="x")
        assert sum(gate.sizes.values()) == 100_000


def test_hashes_of_categories_are_those_of_their_values():
    names = np.array([f"event {number}" for number in range(100)])
    found = []
    for values in (names, names[::-1]):
        gate = StoreGate(data_id="a")
        gate.add_data(
            pd.DataFrame({"id": pd.Categorical(values, categories=np.unique(values)[:: 1 if len(found) else -1])})
        )
        gate.split((0.5, 0.3, 0.2), hash="id", seed=1)
        found.append({phase: set(gate[phase].to_pandas()["id"].astype(str)) for phase in PHASES})
    plain = StoreGate(data_id="a")
    plain.add_data("id", names)
    plain.split((0.5, 0.3, 0.2), hash="id", seed=1)
    found.append({phase: set(plain[phase]["id"][:].tolist()) for phase in PHASES})
    assert found[0] == found[1] == found[2]
