"""Leaks: equal rows and groups in several phases are found, exactly those, in memory and in scratch files."""

from __future__ import annotations

from fractions import Fraction
from itertools import combinations

import dask
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import Ragged, StoreGate, errors
from tests.examples import examples, in_turns

RNG = np.random.default_rng(0)
PHASES = ("train", "valid", "test")


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


def test_nothing_is_shared(gate):
    gate.add_data({"x": RNG.random((300, 4)), "run": np.repeat(np.arange(30), 10)}, phase=(0.6, 0.2, 0.2))
    found = gate.check(groups="run")
    assert found.ok
    assert set(found.equal_rows.values()) == {0}
    assert not any(found.shared_groups.values())
    assert "nothing is shared" in repr(found)


@pytest.mark.parametrize("kind", ["f8", "f4", "i2", "b1", "U", "T", "M8[s]", "c16", "image", "mixed"])
def test_equal_rows_are_found_and_only_they(gate, kind):
    train, test = rows_of(kind, np.arange(100)), rows_of(kind, np.array([200, 7, 201, 99, 7]))
    for phase, rows in (("train", train), ("test", test)):
        gate.add_data(rows, phase=phase)
    if kind == "b1":
        assert gate.check().equal_rows == {("train", "test"): 5}
        return
    found = gate.check()
    assert not found.ok
    assert found.equal_rows == {("train", "test"): 3}
    assert sorted(found.examples["train", "test"]) == [(7, 1), (99, 3)]
    assert found.repeated_rows == {"train": 0, "test": 1}
    assert "train, test" in repr(found)


def rows_of(kind, numbers):
    if kind == "image":
        return {"x": np.stack([np.random.default_rng(one).random((20, 20)) for one in numbers])}
    if kind == "mixed":
        return {"a": numbers.astype("f8"), "b": numbers.astype(str), "c": np.stack([numbers, numbers], axis=1)}
    if kind in ("U", "T"):
        texts = np.array([f"row {one}" for one in numbers])
        return {"x": texts if kind == "U" else texts.astype(np.dtypes.StringDType())}
    if kind == "b1":
        return {"x": numbers % 2 == 0}
    return {"x": numbers.astype(kind)}


def test_values_are_compared_and_not_their_bytes(gate):
    gate.add_data("x", np.array([0.0, np.nan, 1.0]))
    gate.add_data("x", np.array([-0.0, np.nan, 2.0]), phase="test")
    assert gate.check().equal_rows == {("train", "test"): 2}
    gate.add_data("wide", np.zeros((3, 300)))
    gate.add_data("wide", -np.zeros((3, 300)), phase="test")
    for phase in ("train", "test"):
        gate.add_data("time", np.array(["2020", "2021", "NaT"], "M8[Y]"), phase=phase)
    assert gate.check().equal_rows == {("train", "test"): 2}


def test_some_variables_decide(gate):
    gate.add_data({"x": [1, 2, 3], "y": [1, 2, 3]})
    gate.add_data({"x": [3, 4], "y": [9, 9]}, phase="valid")
    assert gate.check().ok
    assert gate.check(var_names="x").equal_rows == {("train", "valid"): 1}


def test_groups_of_two_phases(gate):
    gate.add_data({"run": [1, 1, 2, 3], "lumi": [1, 2, 1, 1], "x": range(4)})
    gate.add_data({"run": [3, 4, 1], "lumi": [2, 1, 2], "x": range(10, 13)}, phase="test")
    found = gate.check(groups="run")
    assert found.shared_groups == {("train", "test"): [1, 3]}
    assert not found.ok
    assert gate.check(groups=["run", "lumi"]).shared_groups == {("train", "test"): [(1, 2)]}


def test_nearly_equal_rows_on_request(gate):
    rows = RNG.random((200, 3)) * 100
    gate.add_data("x", rows)
    gate.add_data("x", np.concatenate([rows[:20] + 1e-5, RNG.random((30, 3)) * 100]), phase="test")
    assert gate.check().ok
    found = gate.check(near=0.1).equal_rows["train", "test"]
    assert 18 <= found <= 20
    for width in (np.float32(0.1), np.float64(0.1), Fraction(1, 10)):
        assert 18 <= gate.check(near=width).equal_rows["train", "test"] <= 20
    assert gate.check(near=np.int8(1)).equal_rows == gate.check(near=1).equal_rows
    for refused in (0, -1, True, np.True_, np.inf, np.nan, "0.1", 1j):
        with pytest.raises(ValueError, match="near is a finite width of more than 0, found"):
            gate.check(near=refused)


def test_rows_that_are_near_in_either_grid_are_counted_once(gate):
    gate.add_data("x", np.array([0.4, 100.9, 300.0, 300.1]))
    gate.add_data("x", np.array([0.6, 101.1, 500.0, 300.0]), phase="test")
    found = gate.check(near=1)
    assert found.equal_rows == {("train", "test"): 3}
    assert sorted(found.examples["train", "test"]) == [(0, 0), (1, 1), (2, 3)]
    assert found.repeated_rows == {"train": 1, "test": 0}
    assert "75.00%" in repr(found)


@given(st.lists(st.lists(st.floats(0, 20), min_size=1, max_size=15), min_size=2, max_size=2))
@settings(max_examples=examples(50), deadline=None)
def test_near_rows_are_those_of_two_grids(values):
    train, test = values
    gate = StoreGate(data_id="a")
    gate.add_data("x", train)
    gate.add_data("x", test, phase="test")
    grids = [(np.floor(np.array(train) / 0.5 + shift), np.floor(np.array(test) / 0.5 + shift)) for shift in (0, 0.5)]
    expected = np.logical_or.reduce([np.isin(second, first) for first, second in grids])
    assert gate.check(near=0.5).equal_rows == {("train", "test"): expected.sum()}


def test_near_rows_of_every_dtype_have_one_grid():
    gate = StoreGate(data_id="a")
    gate.add_data({"x": np.array([60000.0, 0.3], "f2"), "z": np.array([1 + 2j, 3])})
    gate.add_data({"x": np.array([60000.004, 0.3001]), "z": np.array([1.001 + 2.001j, 3 + 1j])}, phase="test")
    assert gate.check(var_names="x", near=0.01).equal_rows == {("train", "test"): 2}
    assert gate.check(var_names="z", near=0.01).equal_rows == {("train", "test"): 1}


def test_a_mask_of_near_rows_beyond_the_limit_is_refused(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "budget": "1MiB"}, data_id="a") as gate:
        gate.add_data("x", np.zeros(800_000, "u1"), phase=(0.5, 0.0, 0.5))
        with pytest.raises(errors.MemoryBudgetError, match="check without near="):
            gate.check(near=1)


def pair_of(train, test):
    gate = StoreGate(data_id="a")
    gate.add_data("x", train)
    gate.add_data("x", test, phase="test")
    return gate


def days_of(width):
    return np.datetime64("2020-01-01") + np.arange(2 * width).reshape(2, width)


EQUAL = {
    "f4, f8": lambda width: (np.ones((2, width), "f4"), np.ones((2, width))),
    "u1, c8": lambda width: (np.ones((2, width), "u1"), np.ones((2, width), "c8")),
    "days, seconds": lambda width: (days_of(width), days_of(width).astype("M8[s]")),
    "zeros": lambda width: (np.zeros((2, width)), -np.zeros((2, width))),
    "NaN": lambda width: (np.full((2, width), np.nan), np.full((2, width), -np.nan)),
    "NaT": lambda width: (np.full((2, width), "NaT", "M8[ns]"), np.full((2, width), "NaT", "M8[D]")),
    "text": lambda width: (np.full((2, width), "a"), np.full((2, width), "a", np.dtypes.StringDType())),
    "bytes": lambda width: (np.full((2, width), b"a", "S1"), np.full((2, width), b"a", "S3")),
}


@pytest.mark.parametrize("width", [1, 3, 300])
@pytest.mark.parametrize("kind", EQUAL)
def test_equal_values_are_equal_rows_whatever_their_dtype_and_width(kind, width):
    train, test = EQUAL[kind](width)
    assert pair_of(train, test).check(var_names="x").equal_rows == {("train", "test"): 2}
    lists = [Ragged.of([*rows, rows[0][:0]]) for rows in (train, test)]
    assert pair_of(*lists).check(var_names="x").equal_rows == {("train", "test"): 3}
    if kind not in ("NaN", "NaT"):
        other = test.copy()
        other[0, -1] = other.dtype.type("b") if other.dtype.kind in "SU" else (np.array([7]).astype(test.dtype)[0])
        assert pair_of(train, other).check(var_names="x").equal_rows == {("train", "test"): 1}


def test_sparse_rows_are_equal_if_their_matrices_are():
    dense = np.array([[0, 1.0, 2], [0, 0, 0], [3, 0, 0]])
    explicit = sp.csr_array((np.array([2.0, 0, 1, 0, 1, 2]), [2, 0, 1, 0, 0, 0], [0, 3, 4, 6]), (3, 3))
    assert (explicit.toarray() == dense).all()
    gate = pair_of(sp.csr_array(dense), explicit)
    assert gate.check().equal_rows == {("train", "test"): 3}
    assert pair_of(sp.csr_array(dense), sp.csr_array(2 * dense)).check().equal_rows == {("train", "test"): 1}


def test_missing_groups_are_one_group_and_times_have_no_unit():
    gate = StoreGate(data_id="a")
    days = np.array(["2020-01-02", "NaT", "2020-01-01", "2021-01-01"], "M8[D]")
    gate.add_data({"f": [np.nan, 2.0, 1.0, 7.0], "t": days, "c": [1j, np.nan, 2, 1], "x": range(4)})
    gate.add_data(
        {"f": np.array([2, 1, np.nan], "f4"), "t": days[:3].astype("M8[ns]"), "c": [np.nan, 1, 1j], "x": range(4, 7)},
        phase="test",
    )
    pair = "train", "test"
    assert repr(gate.check(groups="f").shared_groups[pair]) == "[1.0, 2.0, nan]"
    found = gate.check(groups="t").shared_groups[pair]
    assert [str(one) for one in found] == ["2020-01-01", "2020-01-02", "NaT"]
    assert all(isinstance(one, np.datetime64) for one in found)
    assert repr(gate.check(groups="c").shared_groups[pair][:2]) == "[1j, (1+0j)]"
    assert gate.check(groups=["f", "t"]).shared_groups[pair] == []
    gate.split((0.5, 0.0, 0.5), groups="f", seed=1)
    assert gate.check(groups="f").ok
    stamps = pair_of(np.array([5, 7], "M8[ns]"), np.array([7], "M8[ns]")).check(groups="x")
    assert stamps.shared_groups[pair] == [np.datetime64(7, "ns")]


@pytest.mark.parametrize(
    ("train", "test", "expected"),
    [
        (days_of(1)[:, 0], days_of(1)[:, 0].astype("M8[s]"), {("train", "test"): 2}),
        (np.array([0.5, 1], "f4"), np.array([0.5]), {("train", "test"): 1}),
        (np.zeros((2, 2)), np.zeros((2, 3)), {}),
    ],
    ids=["times", "floats", "shapes"],
)
def test_a_variable_of_several_forms_is_named_where_it_is_the_only_one(train, test, expected):
    found = pair_of(train, test).check()
    assert not found.ok
    assert [words.split("'")[1] for words in found.unequal_variables] == ["x"]
    assert found.equal_rows == expected
    assert ("not compared" in repr(found)) == (not expected)


def test_unequal_variables_are_named(gate):
    gate.add_data({"x": [1, 2], "only": [1, 2], "shape": np.zeros((2, 2)), "dtype": [1, 2]})
    gate.add_data({"x": [3], "shape": np.zeros((1, 3)), "dtype": [1.0]}, phase="test")
    found = gate.check()
    assert not found.ok
    assert [words.split("'")[1] for words in found.unequal_variables] == ["only", "shape", "dtype"]
    assert found.equal_rows == {("train", "test"): 0}
    with pytest.raises(errors.VariableNotFoundError, match="'only'"):
        gate.check(var_names="only")


def test_a_split_by_groups_has_none(gate):
    gate.add_data({"x": RNG.random(500), "run": RNG.integers(0, 40, 500)})
    gate.split((0.6, 0.2, 0.2), seed=1)
    assert not gate.check(groups="run").ok
    gate.split((0.6, 0.2, 0.2), groups="run", seed=1)
    assert gate.check(groups="run").ok


def test_an_empty_gate_has_no_leaks():
    assert StoreGate(data_id="a").check().ok


@given(st.lists(st.lists(st.integers(0, 12), max_size=15), min_size=3, max_size=3))
@settings(max_examples=examples(150), deadline=None)
def test_counts_are_those_of_sets(values):
    gate = StoreGate(data_id="a")
    for phase, rows in zip(PHASES, values, strict=True):
        if rows:
            gate.add_data("x", rows, phase=phase)
    filled = {phase: rows for phase, rows in zip(PHASES, values, strict=True) if rows}
    found = gate.check()
    for first, second in combinations(filled, 2):
        assert found.equal_rows[first, second] == sum(one in set(filled[first]) for one in filled[second])
    assert found.repeated_rows == {phase: len(rows) - len(set(rows)) for phase, rows in filled.items()}


def test_more_rows_than_fit_are_sorted_in_scratch_files(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with (
        dask.config.set({"storegate.scratch-directory": str(scratch)}),
        StoreGate("zarr", {"output_dir": tmp_path / "s", "budget": "4MiB"}, data_id="a") as gate,
    ):
        numbers = RNG.permutation(300_000)
        gate.add_data("x", np.concatenate([numbers[:200_000], numbers[150_000:]]), phase=(200_000, 0, 150_000))
        found = gate.check()
        assert found.equal_rows == {("train", "test"): 50_000}
        for one, other in found.examples["train", "test"]:
            assert gate["train"]["x"][one] == gate["test"]["x"][other]
    assert not list(scratch.iterdir())


CHANGES = {
    "a split": lambda gate: None,
    "a shuffle": lambda gate: gate.shuffle(seed=3),
    "a filter": lambda gate: gate.filter(np.arange(6000) % 7 != 0),
    "few rows": lambda gate: gate.filter(np.arange(6000) % 97 == 0),
    "one phase": lambda gate: gate.shuffle("valid", seed=1),
    "labels": lambda gate: gate.onehot("run", 30),
    "text": lambda gate: gate.add_data("name", np.array([f"n{at % 4000}" for at in range(len(gate["test"]))]), "test"),
}


@pytest.mark.parametrize(("change", "budget"), in_turns(CHANGES, ["8MiB", "1GiB"], every=4))
def test_rows_out_of_order_are_those_of_their_phases(tmp_path, change, budget):
    numbers = RNG.integers(0, 5500, 6000)
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": budget, "chunk": 100}, data_id="a") as gate:
        gate.add_data({"x": numbers[:, None] * np.arange(1.0, 40.0), "run": numbers % 30, "n": numbers.astype("i4")})
        gate.split((0.6, 0.2, 0.2), seed=5)
        CHANGES[change](gate)
        groups = "n" if change == "labels" else "run"
        found = gate.check(groups=groups)
        rows = {at: gate[at]["n"][:].tolist() for at in PHASES}
        for one, other in combinations(PHASES, 2):
            if change != "text":
                assert found.equal_rows[one, other] == sum(number in set(rows[one]) for number in rows[other])
            assert all(rows[one][at] == rows[other][of] for at, of in found.examples[one, other])
            values = [{number if groups == "n" else number % 30 for number in rows[at]} for at in (one, other)]
            assert found.shared_groups[one, other] == sorted(values[0] & values[1])
        gate.compact()
        assert gate.check(groups=groups) == found


def test_phases_that_share_rows_are_read_together_once(stored, counted_reads):
    stored.add_data({"x": RNG.random((5000, 8)), "y": np.arange(5000)})
    stored.split((0.6, 0.2, 0.2), seed=5)
    stored.shuffle(seed=1)
    counted_reads.clear()
    assert stored.check(groups="y").ok
    assert counted_reads.count("read_into") == 3  # of x and y, and of y for its groups
    assert len(counted_reads) == 3
