"""Transforms that some row would refuse: they are refused at the call, and nothing is read where nothing can fail."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine import arrays
from storegate_engine.errors import ConversionError, DtypeError, LabelError, ShapeError
from storegate_engine.table import Cast, OneHot
from tests.examples import examples, in_turns

BACKENDS = ("numpy", "zarr", "hybrid", "memory of hybrid", "kept arrays")


@pytest.fixture(params=BACKENDS)
def gate(request, tmp_path):
    return made(request.param, tmp_path)


def made(backend, path):
    if backend == "kept arrays":
        return StoreGate("numpy", {"copy": False}, "a")
    if backend == "numpy":
        return StoreGate("numpy", None, "a")
    gate = StoreGate("zarr" if backend == "zarr" else "hybrid", {"output_dir": path, "chunk": 7}, "a")
    if backend == "memory of hybrid":
        gate.set_mode("numpy")
    return gate


@pytest.fixture
def read_nbytes(monkeypatch):
    """Count the bytes of rows that are read."""
    counted = []

    def count(kind, name):
        read = getattr(kind, name)

        def counting(self, *args, **options):
            counted.append(next(arg.nbytes for arg in reversed(args) if isinstance(arg, np.ndarray)))
            return read(self, *args, **options)

        monkeypatch.setattr(kind, name, counting)

    for kind in (arrays.StoredArray, arrays.MemoryArray, arrays.ConstantArray):
        for name in ("read_into", "take_into", "read_spans"):
            count(kind, name)
    return counted


def state(gate):
    table = gate.table
    return table, {(at, variable.name): variable.read(0, len(variable)).tolist() for at, variable in table}


def refused(gate, call, error, *words):
    before = state(gate)
    with pytest.raises(error) as caught:
        call()
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)
    after = state(gate)
    assert (before[0].phases, before[0].compiled, before[1]) == (after[0].phases, after[0].compiled, after[1])
    return caught.value


@pytest.mark.parametrize("dtype", ["i1", "i4", "i8", "u1", "u8"])
def test_a_label_too_large(gate, dtype):
    gate.add_data("y", np.array([0, 1, 9, 4, 1], dtype), phase="valid")
    error = refused(
        gate, lambda: gate.onehot("y", 3, "valid"), LabelError, "'y'", "'valid'", "row 2", "found 9",
        "the largest label is 9", "labels 0..2", "num_classes=10", "nothing was changed",
    )  # fmt: skip
    assert (error.row, error.label, error.variable) == (2, 9, "y")


def test_a_negative_label(gate):
    gate.add_data("y", np.array([0, -3, 1, 7, -5]))
    error = refused(gate, lambda: gate.onehot("y", 8), LabelError, "the smallest label is -5", "correct the labels")
    assert (error.row, error.label) == (1, -3)
    assert "largest" not in str(error)
    refused(gate, lambda: gate.onehot("y", 2), LabelError, "smallest label is -5 and the largest label is 7")


def test_bools_and_extremes(gate):
    gate.add_data("b", np.array([False, True]))
    gate.add_data("u", np.array([2**64 - 1, 0], "u8"))
    gate.add_data("i", np.array([-(2**63), 0], "i8"))
    refused(gate, lambda: gate.onehot("b", 1), LabelError, "found 1")
    refused(gate, lambda: gate.onehot("u", 5), LabelError, str(2**64 - 1))
    refused(gate, lambda: gate.onehot("i", 5), LabelError, str(-(2**63)))
    gate.onehot("b", 2)
    np.testing.assert_array_equal(gate.get_data("b"), np.identity(2))


@pytest.mark.parametrize("values", [[0.0, 1.0], [0.5], [np.nan], ["0", "1"], [1j]])
def test_values_that_are_no_integers(gate, values):
    gate.add_data("y", np.array(values))
    before = state(gate)
    with pytest.raises(DtypeError, match="variable 'y' of phase 'train': labels for onehot are integers.*cast them"):
        gate.onehot("y", 3)
    assert state(gate)[0].phases == before[0].phases


def test_one_bad_variable_or_phase_changes_none(gate):
    gate.add_data(["y", "z"], [np.arange(10) % 3, np.arange(10) % 4], phase=(0.5, 0.3, 0.2), do_compile=True)
    refused(gate, lambda: gate.onehot(["y", "z"], 3, "all"), LabelError, "'z'", "'train'")
    gate.update_data("y", [5], phase="test", index=1)
    error = refused(gate, lambda: gate.onehot("y", 3, "all"), LabelError, "'test'", "found 5")
    assert error.row == 1
    gate.onehot("y", 3, "train")
    assert gate.get_data("y", "train").shape == (5, 3)


def test_after_a_cast_the_cast_labels_count(gate):
    gate.add_data("y", np.array([0.2, 1.9, 2.5]))
    gate.astype("y", "i4")
    refused(gate, lambda: gate.onehot("y", 2), LabelError, "found 2")
    gate.onehot("y", 3)
    np.testing.assert_array_equal(gate.get_data("y"), np.identity(3))


def test_after_a_cast_that_wraps_around(gate):
    gate.add_data("y", np.array([256, 1, 258]))
    gate.astype("y", "u1")
    refused(gate, lambda: gate.onehot("y", 2), LabelError, "found 2")
    gate.onehot("y", 3)
    np.testing.assert_array_equal(gate.get_data("y"), np.identity(3)[[0, 1, 2]])


def test_rows_that_are_gone_do_not_count(gate):
    gate.add_data("y", np.array([0, 99, 1, -7]))
    gate.update_data("y", [2, 2], index=[1, 3])
    gate.onehot("y", 3)
    np.testing.assert_array_equal(gate.get_data("y"), np.identity(3)[[0, 2, 1, 2]])


def test_the_first_bad_row_in_the_order_that_is_shown(gate):
    labels = np.zeros(400, int)
    labels[[17, 123, 300]] = 7, 8, 9
    gate.add_data("y", labels, phase=(0.5, 0.25, 0.25), shuffle=5)
    for at in gate.phases:
        shown = gate.get_data("y", at)
        if (bad := np.flatnonzero(shown)).size:
            error = refused(gate, lambda: gate.onehot("y", 2, at), LabelError, f"largest label is {shown.max()}")  # noqa: B023
            assert (error.row, error.label) == (bad[0], shown[bad[0]])
        else:
            gate.onehot("y", 2, at)


def test_labels_of_several_values(gate):
    labels = np.zeros((20, 3), int)
    labels[4] = 0, 8, 9
    gate.add_data("y", labels)
    error = refused(gate, lambda: gate.onehot("y", 4), LabelError, "largest label is 9")
    assert (error.row, error.label) == (4, 8)


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "kept arrays"])
def test_good_labels_are_known_without_reading(tmp_path, read_nbytes, backend):
    gate = made(backend, tmp_path)
    labels = np.random.default_rng(0).integers(0, 5, 1000)
    gate.add_data("y", labels, phase=(0.6, 0.2, 0.2), shuffle=3)
    gate.add_data("y", labels)
    gate.update_data("y", labels[:7], index=(3, 10))
    gate.create_empty("zeros", 1600, dtype="i8")
    gate.astype("y", "i2", "all")
    gate.shuffle("all", 1)
    read_nbytes.clear()
    gate.onehot("y", 5, "all")
    gate.onehot("zeros", 1)
    assert sum(read_nbytes) <= 8  # the one value of the zeros
    gate.argmax("y", 1, "all")
    gate.astype("y", "u1", "all")
    gate.onehot("y", 5, "all")
    assert sum(read_nbytes) <= 8
    assert gate.get_data("y", "train").shape == (1600, 5)


def test_bounds_decide_by_one_scan_within_the_budget(tmp_path, read_nbytes):
    labels = np.zeros(100_000, int)
    labels[-1] = 50
    with StoreGate("zarr", {"output_dir": tmp_path}, "a") as gate:
        gate.add_data("y", labels, phase=(0.5, 0.5, 0.0))  # without a shuffle: the pieces are known only by bounds
        read_nbytes.clear()
        gate.onehot("y", 2, "train")
        assert sum(read_nbytes) == labels.nbytes // 2
        refused(gate, lambda: gate.onehot("y", 2, "valid"), LabelError, "row 49999", "found 50")


def test_labels_of_earlier_stores_are_read(tmp_path, monkeypatch):
    with StoreGate("zarr", {"output_dir": tmp_path}, "a") as gate, monkeypatch.context() as patched:
        patched.setattr(arrays.StoredArray, "from_json", classmethod(without_statistics))
        gate.add_data("y", [0, 1, 2, 9])
        old = StoreGate("zarr", {"output_dir": tmp_path}, "a")
        assert old.table["train"]["y"].pieces[0].array.statistics is None
        refused(old, lambda: old.onehot("y", 9), LabelError, "found 9")
        old.onehot("y", 10)
        assert old.get_data("y").shape == (4, 10)


def without_statistics(cls, document, segments, read=arrays.StoredArray.from_json.__func__):
    return read(cls, {key: value for key, value in document.items() if key != "statistics"}, segments)


@settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_refused_exactly_if_a_shown_label_is_no_class(tmp_path_factory, data):
    backend = data.draw(st.sampled_from(["numpy", "zarr"]))
    gate = made(backend, tmp_path_factory.mktemp("store"))
    dtype = data.draw(st.sampled_from(["i1", "i8", "u8", "f4", "b1"]))
    for _ in range(data.draw(st.integers(1, 3))):
        values = data.draw(st.lists(st.integers(0 if dtype in ("u8", "b1") else -2, 6), min_size=3, max_size=12))
        split = data.draw(st.sampled_from(["train", (1, 1, len(values) - 2)]))
        gate.add_data("y", np.array(values).astype(dtype), phase=split, shuffle=data.draw(st.booleans()))
    if data.draw(st.booleans()):
        gate.update_data("y", np.zeros(1, dtype), index=(0, 1))
    if dtype == "f4" or data.draw(st.booleans()):
        gate.astype("y", data.draw(st.sampled_from(["i8", "u1", "i2"])), "all" if "valid" in gate.phases else "train")
    if data.draw(st.booleans()):
        gate.shuffle("train", 1)
    classes = data.draw(st.integers(1, 8))
    for phase in gate.phases:
        shown = gate.get_data("y", phase)
        if ((shown >= 0) & (shown < classes)).all():
            gate.onehot("y", classes, phase)
            np.testing.assert_array_equal(gate.get_data("y", phase), np.identity(classes)[shown.astype(int)])
        else:
            error = refused(gate, lambda: gate.onehot("y", classes, phase), LabelError)  # noqa: B023
            first = np.flatnonzero((shown < 0) | (shown >= classes))[0]
            assert (error.row, error.label) == (first, shown[first])


CASTS = {
    "text that is no number": (np.array(["1", "x"]), "f8"),
    "empty text": (np.array(["1", ""]), "i8"),
    "text that is no complex number": (np.array(["1", "x"]), "c16"),
    "bytes that are no number": (np.array([b"1", b"\xe9"]), "i4"),
    "text that is no date": (np.array(["2020-01-01", "soon"]), "M8[D]"),
    "text that is no duration": (np.array(["1", "long"]), "m8[s]"),
    "text that is not ASCII": (np.array(["a", "é"]), "S4"),
    "bytes that are not ASCII": (np.array([b"a", b"\xe9"]), "U4"),
    "variable-length text": (np.array(["1", "x"], np.dtypes.StringDType()), "f4"),
    "a date out of range": (np.array(["2020-01-01", "9999-01-01"], "M8[D]"), "M8[ns]"),
    "a duration out of range": (np.array([1, 2**40], "m8[D]"), "m8[ns]"),
    "a date longer than the text": (np.array(["2020-01-01"], "M8[D]"), "U3"),
}


@pytest.mark.parametrize(("gate", "what"), in_turns(BACKENDS, CASTS), indirect=["gate"])
def test_casts_that_no_row_may_refuse_later(gate, what):
    values, dtype = CASTS[what]
    gate.add_data("x", np.concatenate([values, values[:1]]))
    words = ["variable 'x' of phase 'train' cannot be cast to", "nothing was changed"]
    refused(gate, lambda: gate.astype("x", dtype), ConversionError, *words)
    if len(values) > 1:
        gate.update_data("x", values[:1], index=[1])
        gate.astype("x", dtype)
        expected = np.concatenate([values[:1]] * 3).astype(dtype)
        np.testing.assert_array_equal(gate.get_data("x"), expected)


def test_casts_of_numbers_and_dates_in_range_read_nothing(tmp_path, read_nbytes):
    with StoreGate("zarr", {"output_dir": tmp_path}, "a") as gate:
        gate.add_data("x", np.array([1.5, np.nan, np.inf]))
        gate.add_data("t", np.array(["2020-01-01", "NaT", "1970-01-01"], "M8[D]"))
        gate.astype("x", "f2")
        gate.astype("t", "M8[ns]")
        assert not read_nbytes


def test_an_axis_that_is_not_there_is_refused_with_the_variable(gate):
    gate.add_data("x", np.zeros((4, 3)))
    for axis in (0, 2, -2, None):
        with pytest.raises(ShapeError):
            gate.argmax("x", axis)
    with pytest.raises(ShapeError, match="variable 'x' of phase 'train'"):
        gate.argmax("x", 2)
    assert gate.get_data("x").shape == (4, 3)


def test_a_store_with_bad_labels_still_says_so_when_it_is_read(tmp_path):
    """Earlier versions accepted them."""
    with StoreGate("zarr", {"output_dir": tmp_path}, "a") as gate:
        gate.add_data("y", [0, 5])
        with gate.repository().begin("onehot") as change:
            change.edit(lambda table: table.mapped("train", ["y"], lambda old: old.transformed(OneHot(3))))
        with pytest.raises(LabelError, match="row 1"):
            gate.get_data("y")
        with pytest.raises(LabelError, match="row 1"):
            gate["train"]["y"].describe()
        gate.astype("y", "f4")
        assert gate.table["train"]["y"].pieces[0].transforms == (OneHot(3), Cast(np.dtype("f4")))
