"""Leaks: equal rows and groups in several phases are found, exactly those, in memory and in scratch files."""

from __future__ import annotations

from itertools import combinations

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
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
    if kind in ("b1", "c16"):
        expected = 5 if kind == "b1" else None
        if expected is None:
            with pytest.raises(errors.DtypeError, match="complex128 have no hash"):
                gate.check()
            return
        assert gate.check().equal_rows == {("train", "test"): expected}
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
    with pytest.raises(ValueError, match="width of more than 0"):
        gate.check(near=0)


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
