"""Items of lists: each comes back as given, or is refused before anything is written; numpy is the oracle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

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


TEXTS = Ragged.of([["a", "bé"], [], ["", "c"]])
OUTSIDE = {
    "a short mask": np.array([True]),
    "a long mask": np.ones(4, bool),
    "a mask of two axes": np.ones((3, 1), bool),
    "floats": [0.7],
    "a float": 0.7,
    "a bool": True,
    "texts": ["0"],
    "two axes": [[0]],
    "after the end": [3],
    "before the start": -4,
}


@pytest.mark.parametrize("index", OUTSIDE.values(), ids=OUTSIDE)
def test_what_is_no_index_of_rows_is_refused_as_by_numpy(index):
    rows = Ragged.of([[1], [2, 3], []])
    with pytest.raises(IndexError, match=r"row"):
        rows[index]


def test_indexes_of_rows_are_those_of_numpy():
    rows, array = Ragged.of([[1], [2, 3], []]), np.array([1, 2, 0])
    for index in ([], [2, -3], np.array([True, False, True]), [False, True, False], np.array([1], "u1"), slice(None)):
        assert rows[index].lengths.tolist() == array[index].tolist()
    assert rows[np.int8(-2)].tolist() == [2, 3]


PADDED = {
    "text": (TEXTS.astype(np.dtypes.StringDType()), "-", ["a", "bé"]),
    "narrow text": (TEXTS.astype("U2"), "-", ["a", "bé"]),
    "bytes": (Ragged.of([[b"ab", b"c"], []]), b"", [b"ab", b"c"]),
    "times": (Ragged.of([np.array(["2020", "2021"], "M8[D]"), []]), np.datetime64("2019", "D"), None),
    "durations": (Ragged.of([np.array([1, 2], "m8[s]"), []]), np.timedelta64(1, "m"), None),
    "rounded": (Ragged.of([np.array([0.5, 1], "f4"), []]), 0.1, [0.5, 1]),
    "complex": (Ragged.of([np.array([0.5, 1], "c8"), []]), 0.1j, [0.5, 1]),
    "bools": (Ragged.of([[True, True], []]), 0, [True, True]),
    "uint64": (Ragged.of([np.array([2**64 - 1, 0], "u8"), []]), 7, [2**64 - 1, 0]),
}


@pytest.mark.parametrize("name", PADDED)
def test_padding_is_of_the_kind_of_the_items(name):
    rows, value, first = PADDED[name]
    found = rows.padded(value)
    assert found.dtype == rows.dtype
    assert found[0].tolist() == (rows[0].tolist() if first is None else first)
    assert (found[1] == np.asarray(value).astype(rows.dtype)).all()


@pytest.mark.parametrize(
    ("rows", "value", "message"),
    [
        (TEXTS.astype(np.dtypes.StringDType()), 0, "value 0 to pad with is int64; give one of their kind"),
        (TEXTS.astype("U2"), 0, "of their kind"),
        (TEXTS.astype("U2"), "abc", "<U2 cannot hold the value 'abc'"),
        (PADDED["times"][0], 0, "of their kind"),
        (PADDED["durations"][0], 0, "of their kind"),
        (PADDED["uint64"][0], -1, "uint64 cannot hold the value -1"),
        (PADDED["rounded"][0], 1e300, "float32 cannot hold the value"),
        (Ragged.of([[1], []]), "0", "of their kind"),
        (Ragged.of([[1], []]), np.nan, "cannot hold the value nan"),
        (Ragged.of([[1], []]), None, "of their kind"),
        (Ragged.of([np.ones((1, 2)), np.ones((0, 2))]), [1, 2], r"a single value, found one of shape \(2,\)"),
    ],
)
def test_padding_of_another_kind_is_refused(rows, value, message):
    with pytest.raises(errors.ArgumentError, match=message):
        rows.padded(value)


@pytest.mark.parametrize("dtype", ["U2", np.dtypes.StringDType(), "S2"])
def test_lists_of_text_go_to_awkward_and_back(gate, dtype):
    awkward = pytest.importorskip("awkward")
    rows = Ragged.of([["a", "bc"], [], ["", "d"]]).astype(dtype)
    for some in (rows, rows[1:], rows[:0]):
        assert some.to_awkward().tolist() == some.tolist()
    assert rows[1:2].to_awkward().type == awkward.Array(rows.tolist())[1:2].type
    pairs = Ragged.of([np.array([["a", "b"], ["c", "d"]], dtype), np.empty((0, 2), dtype)])
    assert pairs.to_awkward().tolist() == pairs.tolist()
    if rows.dtype.kind != "S":
        gate.add_data("t", rows.to_awkward())
        assert gate["train"]["t"][:].tolist() == rows.tolist()


def test_sparse_rows_keep_their_columns_or_are_refused():
    rows = Ragged(np.array([0, 1, 2]), np.array([0.5, 1.5]), np.array([2, 0]), 3)
    for act in (rows.to_awkward, rows.padded):
        with pytest.raises(errors.DtypeError, match=r"to_csr\(\)"):
            act()


def test_an_array_of_a_view_is_its_data(gate):
    dense = np.array([[0, 1.5, 0], [0, 0, 0], [2, 0, 3]])
    gate.add_data({"m": sparse.csr_array(dense), "t": [[1], [2, 3], []], "x": [1, 2, 3]})
    for view in (gate["train"]["m"], gate["train"].subset([2, 0])["m"]):
        found = np.asarray(view)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, view.data.compute())
        np.testing.assert_array_equal(found, view[:].toarray())
        assert np.asarray(view, "f4").dtype == np.float32
    lists, lazy = np.asarray(gate["train"]["t"]), gate["train"]["t"].data.compute()
    assert lists.dtype == lazy.dtype == object
    assert [row.tolist() for row in lists] == [row.tolist() for row in lazy] == [[1], [2, 3], []]
    with pytest.raises(errors.DtypeError, match="pad them"):
        np.asarray(gate["train"]["t"], dtype="f8")


def test_zeros_of_sparse_rows_have_a_budget(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "budget": "16MiB"}, data_id="a") as gate:
        gate.add_data("m", sparse.csr_array((1000, 10**6)))
        with pytest.raises(errors.MemoryBudgetError, match="1000 rows of variable 'm' with their zeros"):
            np.asarray(gate["train"]["m"])


@pytest.mark.parametrize(
    "kind", ["dok_array", "lil_array", "coo_array", "bsr_array", "dia_array", "csc_matrix", "dok_matrix"]
)
def test_every_format_of_scipy_is_a_matrix(gate, kind):
    dense = np.array([[0, 1.5, 0], [2, 0, 3]])
    matrix = getattr(sparse, kind)(dense)
    gate.add_data({"m": matrix, "x": [1, 2]})
    gate.add_data("m", matrix)
    gate.add_data(["n", "k"], [matrix, matrix])
    for name in ("m", "n", "k"):
        np.testing.assert_array_equal(gate["train"][name][:].toarray()[:2], dense)


def test_dense_rows_for_a_sparse_variable_are_told_how_to_become_sparse(gate):
    gate.add_data("m", sparse.csr_array(np.eye(3)))
    with pytest.raises(errors.ShapeError, match=r"scipy.sparse.csr_array\(rows\)"):
        gate.add_data("m", np.eye(3))
    gate.add_data("m", sparse.csr_array(np.eye(3)))
    assert len(gate["train"]["m"][:].toarray()) == 6
