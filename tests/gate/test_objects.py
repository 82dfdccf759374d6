"""Gates and views have what people expect of arrays and Datasets, from metadata alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from storegate_engine import arrays
from tests.examples import examples

N = 100


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    rng = np.random.default_rng(0)
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        data = [rng.normal(size=(N, 4)), rng.normal(size=(N, 4)).astype("f4"), rng.integers(0, 3, N)]
        gate.add_data(["x", "w", "y"], data, phase=(0.8, 0.2, 0.0))
        gate.shuffle("train", seed=3)
        gate.compile()
        yield gate


@pytest.fixture
def unreadable(monkeypatch):
    """Rows cannot be read while a test has this."""

    def refuse(*args, **kwargs):
        raise AssertionError("rows were read")

    for kind in (arrays.StoredArray, arrays.MemoryArray):
        monkeypatch.setattr(kind, "read_into", refuse)
        monkeypatch.setattr(kind, "take_into", refuse)


def test_what_a_gate_has(gate, unreadable):
    assert gate.sizes == {"train": 80, "valid": 20}
    assert gate.phases == ("train", "valid")
    assert gate.variables == ("x", "w", "y")
    assert gate._ipython_key_completions_() == ["train", "valid", "x", "w", "y"]


def test_an_empty_gate_has_nothing():
    gate = StoreGate(data_id="a")
    assert (gate.sizes, gate.phases, gate.variables) == ({}, (), ())
    assert StoreGate()._ipython_key_completions_() == []


def test_variables_of_different_lengths_have_no_size(gate):
    gate.add_data("x", np.zeros((1, 4)))
    with pytest.raises(errors.ShapeError, match="different numbers of rows"):
        _ = gate.sizes


@pytest.mark.parametrize("names", ["x", "y", ("x", "w")], ids=str)
def test_a_view_of_an_array_is_like_the_array(gate, names, unreadable, monkeypatch):
    view = gate["train"][names]
    facts = (view.shape, view.dtype, view.ndim, view.nbytes, view.chunks, view.dims)
    monkeypatch.undo()
    values = view[:]
    assert facts[:3] == (values.shape, values.dtype, values.ndim)
    assert facts[3] == sum(gate["train"][name][:].nbytes for name in ([names] if isinstance(names, str) else names))
    assert facts[4] == view.data.chunks
    assert len(facts[5]) == values.ndim
    if isinstance(names, str):
        assert facts[5] == view.to_xarray()[names].dims


@pytest.mark.parametrize("what", ["shape", "dtype", "ndim", "dims", "chunks", "plot"])
def test_a_view_of_several_arrays_has_no_one_shape(gate, what):
    for view in (gate["train"], gate["train"][["x", "y"]], gate["x"]):
        assert not hasattr(view, what)
        with pytest.raises(AttributeError, match="a view of one array"):
            getattr(view, what)


def test_bytes_of_a_phase_are_those_of_its_variables(gate, unreadable):
    assert gate["train"].nbytes == 80 * (4 * 8 + 4 * 4 + 8)
    assert gate["train"][["x", "y"]].nbytes == 80 * (4 * 8 + 8)


def test_the_first_rows(gate):
    train = gate["train"]
    np.testing.assert_array_equal(train["x"].head(), train["x"][:5])
    np.testing.assert_array_equal(train["x", "w"].head(3), train["x", "w"][:3])
    for one, other in zip(train[["x", "y"]].head(2), train[["x", "y"]][:2], strict=True):
        np.testing.assert_array_equal(one, other)
    rows = train.head(7)
    assert list(rows) == ["x", "w", "y"]
    for name, values in rows.items():
        np.testing.assert_array_equal(values, train[name][:7])
    assert len(train["y"].head(1000)) == 80
    assert len(train["y"].head(0)) == 0
    np.testing.assert_array_equal(train.subset([5, 3])["y"].head(1), train["y"][[5]])
    for wrong in (-1, 1.5, True, "3"):
        with pytest.raises((ValueError, TypeError), match="head"):
            train.head(wrong)


def test_a_phase_iterates_over_rows(gate):
    rows = list(gate["valid"])
    assert len(rows) == 20
    assert list(rows[0]) == ["x", "w", "y"]
    for name in rows[0]:
        np.testing.assert_array_equal(np.stack([row[name] for row in rows]), gate["valid"][name][:])


def test_what_may_be_completed(gate, unreadable):
    assert gate["train"]._ipython_key_completions_() == ["x", "w", "y"]
    assert gate["x"]._ipython_key_completions_() == ["train", "valid"]
    assert gate["train"]["x"]._ipython_key_completions_() == []


class TestDescribe:
    def test_it_is_numpys(self, gate):
        found = gate["train"].describe()
        assert list(found.index) == ["x", "w", "y"]
        for name in found.index:
            values = gate["train"][name][:]
            line = found.loc[name]
            assert (line["dtype"], line["shape"]) == (str(values.dtype), values.shape)
            assert (line["count"], line["missing"]) == (values.size, 0)
            assert (line["min"], line["max"]) == (values.min(), values.max())
            np.testing.assert_allclose([line["mean"], line["std"]], [values.mean(dtype="f8"), values.std(dtype="f8")])

    def test_what_is_known_is_not_read(self, tmp_path, unreadable):
        times = np.array(["2020-01-02", "NaT", "2019-05-05"], "M8[ns]")
        for args in (None, {"output_dir": tmp_path}):
            gate = StoreGate("numpy" if args is None else "zarr", args, "a")
            gate.add_data("t", times)
            gate.add_data("s", np.array(["a", "bc", "d"]))
            gate.add_data("c", np.array([1j, np.nan, np.inf]))
            gate.add_data("e", np.full(3, 7))
            gate.shuffle("train", 3)
            gate.astype("t", "M8[s]")
            found = gate["train"].describe()
            assert (found.loc["t", "min"], found.loc["t", "max"]) == (times[2], times[0])
            assert found["missing"].to_dict() == {"t": 1, "s": 0, "c": 1, "e": 0}
            assert found["infinite"].to_dict() == {"t": 0, "s": 0, "c": 1, "e": 0}
            assert (found.loc["e", "mean"], found.loc["e", "std"]) == (7.0, 0.0)

    def test_bounds_are_not_shown_as_values(self):
        gate = StoreGate(data_id="a")
        times = np.arange(10).astype("M8[D]")
        gate.add_data("t", times, phase=(0.5, 0.5, 0.0), shuffle=3)
        for phase in gate.phases:
            line, shown = gate[phase]["t"].describe().loc["t"], gate.get_data("t", phase)
            assert (line["min"], line["max"]) == (shown.min(), shown.max())

    def test_of_chosen_rows(self, gate):
        values = gate["valid"]["x"][3:9]
        line = gate["valid"].subset(slice(3, 9))["x"].describe().loc["x"]
        assert (line["count"], line["min"], line["max"]) == (values.size, values.min(), values.max())

    @settings(max_examples=examples(100), deadline=None)
    @given(st.lists(st.floats(width=32) | st.just(float("nan")), max_size=50), st.integers(1, 7))
    def test_missing_and_infinite_values(self, values, block_rows):
        given_values = np.array(values, "f4")
        gate = StoreGate(data_id="a")
        gate.add_data("x", given_values)
        line = gate["train"]["x"].describe().loc["x"]
        present = given_values[~np.isnan(given_values)]
        assert (line["count"], line["missing"]) == (len(present), len(values) - len(present))
        assert (line["min"], line["max"]) == ((present.min(), present.max()) if len(present) else (None, None))

    def test_every_kind(self):
        gate = StoreGate(data_id="a")
        times = np.array(["2020-01-02", "NaT", "2019-05-05"], "M8[ns]")
        gate.add_data("t", times)
        gate.add_data("s", np.array(["a", "bc", "d"]))
        gate.add_data("b", np.array([True, False, True]))
        gate.add_data("c", np.array([1j, np.nan, 2]))
        gate.add_data("u", np.array([2**64 - 1, 0, 1], "u8"))
        found = gate["train"].describe()
        assert (found.loc["t", "min"], found.loc["t", "max"]) == (times[2], times[0])
        assert found["count"].to_dict() == {"t": 2, "s": 3, "b": 3, "c": 2, "u": 3}
        assert found["missing"].to_dict() == {"t": 1, "s": 0, "b": 0, "c": 1, "u": 0}
        assert found.loc["b", "mean"] == pytest.approx(2 / 3)
        assert found.loc["u", "max"] == 2**64 - 1
        assert found.loc["s", "max"] is None

    def test_many_blocks_are_merged_exactly_enough(self, monkeypatch):
        monkeypatch.setattr("storegate.reading.BLOCK_NBYTES", 80)
        values = np.random.default_rng(0).normal(1e6, 1.0, 10_007)
        gate = StoreGate(data_id="a")
        gate.add_data("x", values)
        line = gate["train"].describe().loc["x"]
        np.testing.assert_allclose([line["mean"], line["std"]], [values.mean(), values.std()], rtol=1e-9)

    def test_shuffled_rows_are_read_as_they_lie(self, gate, monkeypatch):
        def refuse(*args, **kwargs):
            raise AssertionError("rows were gathered")

        for kind in (arrays.StoredArray, arrays.MemoryArray):
            monkeypatch.setattr(kind, "take_into", refuse)
        assert gate["train"].describe().loc["x", "count"] == 320
