"""Items of lists: each comes back as given, or is refused before anything is written; numpy is the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import Ragged, StoreGate, errors

LARGE = 2**60 + 1
NOT_HELD = {
    "integers beside floats": [np.array([LARGE]), np.array([0.5, 3])],
    "uint64 beside int64": [np.array([2**63 + 1], "u8"), np.array([-1])],
    "text beside numbers": [np.array(["a"]), np.array([1, 2])],
}
HELD = {
    "small integers beside floats": [np.array([2**53]), np.array([0.5, 3])],
    "narrow beside wide": [np.array([1], "i1"), np.array([300, 2], "u2"), np.array([], "f8")],
    "floats": [np.array([0.1], "f4"), np.array([0.1, np.nan])],
    "text of other widths": [np.array(["a"]), np.array(["bcd", ""])],
    "times of other units": [np.array(["2020-01-01"], "M8[D]"), np.array(["2020-01-01T00:00:01"], "M8[s]")[[0, 0]]],
}


@pytest.mark.parametrize("rows", NOT_HELD.values(), ids=NOT_HELD)
def test_items_that_no_dtype_holds_are_refused(rows):
    gate = StoreGate(data_id="a")
    with pytest.raises(errors.DtypeError, match="'x'"):
        gate.add_data("x", rows)
    with pytest.raises(errors.DtypeError, match="rows of various lengths"):
        Ragged.of(rows)
    with pytest.raises(errors.DtypeError):
        Ragged.of([row.tolist() for row in rows])
    assert "x" not in gate["train"]
    assert Ragged.of(rows, "U").dtype.kind == "U"  # the caller's own choice


@pytest.mark.parametrize("rows", HELD.values(), ids=HELD)
def test_items_of_several_dtypes_come_back(rows):
    gate = StoreGate(data_id="a")
    gate.add_data("x", rows)
    for found in (gate["train"]["x"][:], Ragged.of(rows)):
        assert len(found) == len(rows)
        for row, expected in zip(found, rows, strict=True):
            np.testing.assert_array_equal(row.astype(expected.dtype), expected)


def test_a_list_of_numbers_that_numpy_would_round_is_no_row():
    with pytest.raises(errors.DtypeError, match="may round them"):
        Ragged.of([[LARGE, 0.5], [1]])
    with pytest.raises(errors.MissingValueError, match="masked"):
        Ragged.of([np.ma.array([1, 2], mask=[True, False])])


@pytest.mark.parametrize("items", [[[LARGE], [2, 3]], [["a"], ["b", "cc"]], [[True], []], [[[1, 2]], [[3, 4], [5, 6]]]])
def test_lists_without_items_take_the_dtype_of_the_variable(gate, items):
    gate.add_data("t", items)
    dtype, first = gate["train"]["t"].dtype, gate["train"]["t"][:].tolist()
    gate.add_data("t", [[], []])
    gate.add_data("t", Ragged.of([[]]))
    gate.add_data("t", iter([Ragged.of([[], []]), Ragged.of(items)]))
    gate["train"]["t"][2:4] = [[], []]
    gate.update_data("t", [], index=1)
    assert gate["train"]["t"].dtype == dtype
    assert gate["train"]["t"][:].tolist() == [first[0], [], [], [], [], [], [], *first]


def test_blocks_without_items_take_the_dtype_of_the_first_items(gate):
    gate.add_data("t", iter([Ragged.of([[], []]), [[], []], Ragged.of([[LARGE]]), [[3], [4]]]))
    assert gate["train"]["t"].dtype == np.int64
    assert gate["train"]["t"][:].tolist() == [[], [], [], [], [LARGE], [3], [4]]
    gate.add_data("none", iter([Ragged.of([[]]), Ragged.of([[], []])]))
    assert gate["train"]["none"][:].tolist() == [[], [], []]


def test_items_of_another_shape_are_refused_though_there_are_none(gate):
    gate.add_data("t", [[1], [2, 3]])
    with pytest.raises(errors.ShapeError, match="lists of various lengths"):
        gate.add_data("t", np.empty((2, 0, 3)))
