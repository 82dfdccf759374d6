"""Transforms against numpy."""

from __future__ import annotations

import json
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storegate import StoreGate
from storegate_engine.errors import CorruptStoreError, DtypeError, LabelError, ShapeError
from storegate_engine.table import ArgMax, Cast, OneHot, Transform, apply_all
from storegate_engine.table.json import transform_from_json
from storegate_engine.table.transforms import fold
from tests import unchecked

TEXT: Any = np.dtypes.StringDType()  # type: ignore[attr-defined,unused-ignore]


def cast(dtype: Any) -> Cast:
    return Cast(np.dtype(dtype))


def check(transform: Transform, values: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """The result equals numpy's, the plan agrees with it, and the input is as it was."""
    before = values.copy()
    values.setflags(write=False)
    found = transform.apply(values)
    np.testing.assert_array_equal(values, before)
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype == transform.out_dtype(values.dtype)
    assert found.shape == (len(values), *transform.out_row_shape(values.shape[1:]))


# --------------------------------------------------------------------------------------------- cast


@pytest.mark.parametrize("target", ["i1", "i8", "u2", "f2", "f4", "f8", ">f4", "?", "c8", "U", "U4", "S", "S3", TEXT])
@pytest.mark.parametrize("source", ["i8", "u1", "f4", "?"])
def test_cast_of_numbers_equals_astype(source: Any, target: Any) -> None:
    values = np.array([[0, 1], [100, 7], [3, 3]]).astype(source)
    expected = values.astype(target)
    check(cast(target), values, expected.astype(expected.dtype.newbyteorder("=") if target != TEXT else TEXT))


@pytest.mark.parametrize("source", ["U", "S", TEXT])
@pytest.mark.parametrize("target", ["i4", "f8", "U9", "S9", TEXT])
def test_cast_of_text_equals_astype(source: Any, target: Any) -> None:
    values = np.array(["12", "-3", "400"]).astype(source)
    check(cast(target), values, values.astype(target))


@pytest.mark.parametrize("target", ["i8", "M8[ns]", "M8[D]", "M8", "U"])
def test_cast_of_times_equals_astype(target: Any) -> None:
    values = np.array(["2020-01-02", "1969-12-31"], dtype="M8[s]")
    check(cast(target), values, values.astype(target))


def test_cast_to_the_same_dtype_is_the_input() -> None:
    values = np.arange(3.0)
    assert cast("f8").apply(values) is values
    assert cast("f4").apply(values) is not values


def test_cast_of_text_that_is_no_number_raises_as_numpy() -> None:
    with pytest.raises(ValueError, match="could not convert"):
        cast("f8").apply(np.array(["x"]))


@pytest.mark.parametrize(
    ("dtype", "remedy"),
    [
        ("O", "text dtype"),
        (object, "text dtype"),
        ([("a", "i4")], "each field"),
        ("V4", "each field"),
        ("no", "not a dtype"),
    ],
)
def test_cast_refuses_what_cannot_be_stored(dtype: Any, remedy: str) -> None:
    with pytest.raises(DtypeError, match=remedy):
        Cast(dtype)


def test_cast_refuses_objects_and_widths_that_depend_on_values() -> None:
    with pytest.raises(DtypeError, match="text dtype"):
        cast("f4").apply(np.array([1, "x"], dtype=object))
    with pytest.raises(DtypeError, match="'U32'"):
        cast("U").out_dtype(TEXT)
    with pytest.raises(DtypeError, match=r"'M8\[ns\]'"):
        cast("M8").out_dtype(np.dtype("U10"))
    with pytest.raises(DtypeError, match="options"):
        Cast(np.dtypes.StringDType(na_object=None))  # type: ignore[attr-defined,arg-type,unused-ignore]


def test_cast_takes_names_and_types() -> None:
    assert Cast("float32") == Cast(np.float32) == cast("f4")  # type: ignore[arg-type]
    assert hash(Cast("float32")) == hash(cast("f4"))  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- onehot


@given(
    hnp.arrays(
        st.sampled_from(["i1", "i8", "u1", "u8", ">i4"]),
        hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=5),
        elements=st.integers(0, 6),
    ),
    st.integers(7, 9),
)
def test_onehot_equals_rows_of_the_identity(labels: npt.NDArray[Any], num_classes: int) -> None:
    check(OneHot(num_classes), labels, np.identity(num_classes)[labels])


def test_onehot_of_booleans_and_of_strided_labels() -> None:
    labels = np.array([True, False, True])
    check(OneHot(2), labels, np.identity(2)[labels.astype(int)])
    strided = np.arange(12).reshape(3, 4).T[::2]
    check(OneHot(12), strided, np.identity(12)[strided])


@pytest.mark.parametrize(
    ("labels", "row", "label"),
    [
        (np.array([0, 1, 5, -1]), 2, 5),
        (np.array([0, -1, 5]), 1, -1),
        (np.array([[0, 1], [1, 0], [2, 3]]), 2, 3),
        (np.array([0, 2**64 - 1], np.uint64), 1, 2**64 - 1),
        (np.array([3], np.int8), 0, 3),
    ],
)
def test_onehot_names_the_first_bad_label(labels: npt.NDArray[Any], row: int, label: int) -> None:
    with pytest.raises(LabelError, match=rf"row {row}: .* found {label};") as info:
        OneHot(3).apply(labels)
    for error in (info.value, pickle.loads(pickle.dumps(info.value))):
        assert (error.row, error.label) == (row, label)
        assert str(error) == str(info.value)
        assert type(error.row) is type(error.label) is int
    assert isinstance(info.value, ValueError)


def test_onehot_with_more_classes_than_the_label_type_counts() -> None:
    labels = np.array([0, 127], np.int8)
    check(OneHot(300), labels, np.identity(300)[labels])
    with pytest.raises(LabelError, match="row 0: .* found -1"):
        OneHot(300).apply(np.array([-1], np.int8))


@pytest.mark.parametrize("dtype", ["f4", "f8", "c8", "U3", "M8[s]", "O"])
def test_onehot_takes_integers(dtype: str) -> None:
    with pytest.raises(DtypeError, match="integers"):
        OneHot(3).out_dtype(np.dtype(dtype))
    with pytest.raises(DtypeError, match="integers"):
        OneHot(3).apply(np.zeros(2).astype(dtype))


@pytest.mark.parametrize(("number", "error"), [(0, ValueError), (-1, ValueError), (2.0, TypeError), (True, TypeError)])
def test_num_classes_is_a_positive_integer(number: Any, error: type[Exception]) -> None:
    with pytest.raises(error):
        OneHot(number)
    assert OneHot(np.int64(3)) == OneHot(3)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------- argmax


@given(
    hnp.arrays(
        st.sampled_from(["i2", "f4", "u1", "?"]),
        hnp.array_shapes(min_dims=2, max_dims=4, min_side=1, max_side=4),
    ),
    st.data(),
)
def test_argmax_equals_numpy(values: npt.NDArray[Any], data: st.DataObject) -> None:
    axis = data.draw(st.integers(1, values.ndim - 1).flatmap(lambda k: st.sampled_from([k, k - values.ndim])))
    check(ArgMax(axis), values, np.asarray(np.argmax(values, axis)))


def test_argmax_of_no_samples() -> None:
    check(ArgMax(1), np.zeros((0, 3)), np.zeros(0, np.int64))


@pytest.mark.parametrize("axis", [0, None])
def test_argmax_must_leave_the_samples(axis: Any) -> None:
    with pytest.raises(ShapeError, match="no samples"):
        ArgMax(axis)


@pytest.mark.parametrize(
    ("axis", "row_shape", "why"),
    [
        (-2, (3,), "no samples"),
        (-1, (), "no samples"),
        (1, (), "no such axis"),
        (3, (2, 2), r"axis 3 of an array of shape \(n_samples, 2, 2\): there is no such axis"),
        (-4, (2, 2), "no such axis"),
        (1, (0, 2), "empty"),
    ],
)
def test_argmax_needs_its_axis(axis: int, row_shape: tuple[int, ...], why: str) -> None:
    with pytest.raises(ShapeError, match=why):
        ArgMax(axis).out_row_shape(row_shape)
    with pytest.raises(ShapeError, match=why) as info:
        ArgMax(axis).apply(np.zeros((4, *row_shape)))
    assert isinstance(info.value, ValueError)


def test_argmax_refuses_other_axes_and_objects() -> None:
    for axis in (1.0, True, "1"):
        with pytest.raises(TypeError):
            ArgMax(axis)  # type: ignore[arg-type]
    with pytest.raises(DtypeError):
        ArgMax(1).apply(np.zeros((2, 2), dtype=object))


# ------------------------------------------------------------------------------------------ several


def test_fold_plans_what_apply_all_does() -> None:
    transforms = [cast("i8"), OneHot(4), cast("f4"), ArgMax(-1), OneHot(5)]
    values = np.array([[0.2, 3.9], [1.0, 2.5]])
    found = apply_all(transforms, values)
    np.testing.assert_array_equal(found, np.identity(5)[values.astype(int)])
    assert fold(transforms, values.dtype, values.shape[1:]) == (found.dtype, found.shape[1:])
    assert fold([], np.dtype("f4"), (2,)) == (np.dtype("f4"), (2,))
    assert apply_all([], values) is values
    with pytest.raises(DtypeError):
        fold([OneHot(4), OneHot(4)], np.dtype("i8"), ())
    with pytest.raises(ShapeError):
        fold([ArgMax(1), ArgMax(1)], np.dtype("i8"), (3,))


@pytest.mark.parametrize(
    "transform",
    [cast(dtype) for dtype in ("?", "i1", "<i8", ">f4", "c16", "U", "U7", "S3", "M8[25s]", "M8", "m8[ns]", TEXT)]
    + [OneHot(3), ArgMax(-2)],
)
def test_json_and_pickle_round_trip(transform: Transform) -> None:
    assert transform_from_json(json.loads(json.dumps(transform.to_json()))) == transform
    assert pickle.loads(pickle.dumps(transform)) == transform
    assert hash(pickle.loads(pickle.dumps(transform))) == hash(transform)


def test_json_form_never_changes() -> None:
    assert cast("<f4").to_json() == ["cast", "<f4"]
    assert Cast(TEXT).to_json() == ["cast", "string"]
    assert OneHot(3).to_json() == ["onehot", 3]
    assert ArgMax(-1).to_json() == ["argmax", -1]


@pytest.mark.parametrize(
    "obj",
    [
        None,
        [],
        ["cast"],
        ("cast", "<f4"),
        ["cast", "<f4", 1],
        ["cast", 4],
        ["cast", None],
        ["cast", "O"],
        ["cast", "|O8"],
        ["cast", "float32"],
        ["cast", "f4"],
        ["cast", "<i4,<i4"],
        ["cast", "<f3"],
        ["cast", "<i1"],
        ["cast", "|V4"],
        ["cast", "<M8[xx]"],
        ["cast", "<U" + "9" * 9],
        ["cast", "x" * 10**6],
        ["onehot", 0],
        ["onehot", True],
        ["onehot", 3.0],
        ["onehot", "3"],
        ["argmax", 0],
        ["argmax", None],
        ["argmax", True],
        ["unknown", 1],
        [["cast"], "<f4"],
        [None, 10**5000],
    ],
)
def test_hostile_json_is_a_corrupt_store(obj: object) -> None:
    with pytest.raises(CorruptStoreError, match="a stored transform") as info:
        transform_from_json(obj)
    assert len(str(info.value)) < 500


@pytest.mark.parametrize("window", [2**8, 2**10, 2**24])
class TestFewRowsOfMany:
    """They are read and transformed in windows of neighbours, and come in the order in which they were asked for."""

    INDEX = np.random.default_rng(0).integers(0, 5000, 200)

    @pytest.fixture
    def gate(self, tmp_path, monkeypatch, window):
        monkeypatch.setattr("storegate_engine.table.pieces.WINDOW_NBYTES", window)
        with StoreGate("zarr", {"output_dir": tmp_path, "chunk": 100}, "a") as gate:
            yield gate

    def test_equal_numpy(self, gate):
        rows = np.random.default_rng(1).random((5000, 8))
        gate.add_data({"x": rows, "y": np.arange(5000) % 9})
        gate.astype("x", "f4")
        gate.onehot("y", 9)
        np.testing.assert_array_equal(gate["train"]["x"][self.INDEX], rows[self.INDEX].astype("f4"))
        np.testing.assert_array_equal(gate["train"]["y"][self.INDEX], np.identity(9)[self.INDEX % 9])

    def test_the_first_bad_label_is_named(self, gate):
        labels = np.zeros(5000, int)
        labels[self.INDEX[[7, 150, 190]]] = 5
        gate.add_data("y", labels)
        unchecked.onehot(gate, "y", 3)
        with pytest.raises(LabelError, match=f"variable 'y', row {self.INDEX[7]}:"):
            gate["train"]["y"][self.INDEX]
