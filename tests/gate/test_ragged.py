"""Rows of various lengths and of sparse matrices through every operation, on every backend; lists are the oracle."""

from __future__ import annotations

import tempfile

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from storegate import Ragged, StoreGate, errors, pad
from tests.gate.list_cases import LISTS, MATRIX, N, require_lists, require_matrix

LENGTHS = np.vectorize(len, otypes=[int])


@pytest.fixture
def filled(gate):
    """A gate with lists, a sparse matrix and row numbers."""
    gate.add_data({"t": LISTS, "m": MATRIX, "row": np.arange(N)})
    gate.compile()
    return gate


def require(gate, phase, rows):
    """Require rows of all variables, read in every way."""
    view, rows = gate[phase], np.asarray(rows, np.int64)
    np.testing.assert_array_equal(view["row"][:], rows)
    require_lists(view["t"][:], [LISTS[row] for row in rows])
    require_matrix(view["m"][:], MATRIX[rows])
    if len(rows):
        last = int(rows[-1])
        np.testing.assert_array_equal(view["t"][-1], LISTS[last])
        np.testing.assert_array_equal(view["m"][-1], MATRIX[[last]].toarray()[0])
        some = [0, len(rows) // 2, 0]
        require_lists(view["t"][some], [LISTS[rows[at]] for at in some])
        require_matrix(view["m"][some], MATRIX[rows[some]])


def test_lists_go_through_every_operation(filled):
    rows = np.arange(N)
    require(filled, "train", rows)
    filled.shuffle(seed=5)
    rows = np.random.RandomState(5).permutation(N)
    require(filled, "train", rows)
    filled.filter(lambda ds: ds.row % 3 != 0)
    rows = rows[rows % 3 != 0]
    require(filled, "train", rows)
    filled.split((0.5, 0.3, 0.2), seed=1)
    dealt = {phase: filled[phase]["row"][:] for phase in ("train", "valid", "test")}
    assert sorted(np.concatenate(list(dealt.values()))) == sorted(rows)
    for phase, own in dealt.items():
        require(filled, phase, own)
    filled.sort("row")
    require(filled, "train", np.sort(dealt["train"]))
    filled.compact()
    for phase, own in dealt.items():
        require(filled, phase, np.sort(own))
    filled.undo()
    require(filled, "valid", np.sort(dealt["valid"]))


def test_lists_are_appended_updated_and_cast(filled):
    filled.add_data({"t": [[7, 8], []], "m": MATRIX[[3, 4]], "row": [3, 4]}, phase="valid")
    filled.add_data({"t": np.array([[1, 2, 3]]), "m": MATRIX[[5]], "row": [5]}, phase="valid")
    assert filled["valid"]["t"][:].tolist() == [[7, 8], [], [1, 2, 3]]
    filled.update_data("t", [9], phase="valid", index=1)
    filled.update_data("t", [[5, 5, 5], [6]], phase="valid", index=(0, 2))
    assert filled["valid"]["t"][:].tolist() == [[5, 5, 5], [6], [1, 2, 3]]
    filled["train"]["m"][1] = MATRIX[[8]]
    np.testing.assert_array_equal(filled["train"]["m"][1], MATRIX[[8]].toarray()[0])
    filled.astype("t", "float32", phase="valid")
    found = filled["valid"]["t"][:]
    assert found.dtype == np.float32
    assert found.tolist() == [[5.0, 5.0, 5.0], [6.0], [1.0, 2.0, 3.0]]
    filled.add_data(
        {"t": [[0.5], []], "m": MATRIX[:2], "row": [0, 1]}, phase="train"
    )  # int64 beside float64 of the same values
    assert filled["train"]["t"].dtype == np.float64
    require_lists(filled["train"]["t"][:N], LISTS)
    assert filled["train"]["t"][-2].tolist() == [0.5]


def test_casts_of_items_follow_one_another(gate):
    gate.add_data("t", [[300], [-1, 2]])
    gate.astype("t", "int8")
    gate.astype("t", "int64")
    assert gate["train"]["t"][:].tolist() == [[44], [-1, 2]]
    gate.add_data("t", [[1000]])
    gate.compact("train")
    assert gate["train"]["t"][:].tolist() == [[44], [-1, 2], [1000]]


def test_many_appends_are_merged(gate):
    expected = []
    for number in range(60):
        rows = [list(range(number % 4)), [number]]
        gate.add_data("t", [*rows, []])
        expected += [*rows, []]
    assert gate["train"]["t"][:].tolist() == expected
    gate.shuffle(seed=2, phase="train")
    order = np.random.RandomState(2).permutation(len(expected))
    assert gate["train"]["t"][:].tolist() == [expected[at] for at in order]


@pytest.mark.parametrize("shuffle", [True, False, "blocks", "shuffled", "shuffled in order"])
def test_batches_have_the_rows_of_their_numbers(filled, shuffle):
    if str(shuffle).startswith("shuffled"):
        filled.shuffle(seed=9, phase="train")
        shuffle = shuffle == "shuffled"
    for world in (1, 3):
        seen = []
        for rank in range(world):
            view = filled["train"][["t", "m", "row"]]
            for lists, matrix, rows in view.batches(32, shuffle=shuffle, seed=4, rank=rank, world=world):
                assert isinstance(lists, Ragged)
                require_lists(lists, [LISTS[row] for row in rows])
                require_matrix(matrix, MATRIX[rows])
                seen.extend(rows.tolist())
        assert sorted(seen) == list(range(N))


@pytest.mark.parametrize("shuffle", [True, "blocks"])
def test_resumed_batches_of_lists_go_on(filled, shuffle):
    view = filled["train"][["t", "row"]]
    stream = view.batches(16, shuffle=shuffle, seed=1, block_rows=8 if shuffle == "blocks" else None)
    loop = iter(stream)
    for _ in range(5):
        next(loop)
    state = stream.state_dict()
    expected = [(lists.tolist(), rows.tolist()) for lists, rows in loop]
    again = view.batches(16, shuffle=shuffle, seed=1, block_rows=8 if shuffle == "blocks" else None)
    again.load_state_dict(state)
    assert [(lists.tolist(), rows.tolist()) for lists, rows in again] == expected


def test_batches_are_padded(filled):
    view = filled["train"][["t", "row"]]
    for padded, rows in view.batches(25, collate=pad(-1, multiple_of=8), seed=2):
        longest = max(len(LISTS[row]) for row in rows)
        assert padded.shape == (len(rows), -(-longest // 8) * 8)
        assert padded.dtype == np.int64
        for row, number in zip(padded, rows, strict=True):
            np.testing.assert_array_equal(row[: len(LISTS[number])], LISTS[number])
            assert (row[len(LISTS[number]) :] == -1).all()
    batch = next(iter(filled["train"].batches(10, shuffle=False, collate={"t": pad(0, length=20)})))
    assert batch["t"].shape == (10, 20)
    assert isinstance(batch["m"], sparse.csr_array)


def test_batches_of_more_than_fits_are_the_same(tmp_path):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 600, 6000)
    items = rng.integers(0, 2**31, lengths.sum())
    rows = Ragged(np.concatenate([[0], np.cumsum(lengths)]), items)
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "budget": "64MB"}, data_id="a") as gate:
        gate.add_data({"t": rows, "row": np.arange(6000)})
        gate.compile()
        seen = 0
        for lists, numbers in gate["train"][["t", "row"]].batches(500, seed=3, budget="24MB"):
            require_lists(lists, [rows[at] for at in numbers.tolist()])
            seen += len(numbers)
        assert seen == 6000
        gate.shuffle(seed=1, phase="train")
        before = gate.fingerprint("t")
        gate.compact("train")
        order = np.random.RandomState(1).permutation(6000)
        require_lists(gate["train"]["t"][:], [rows[at] for at in order.tolist()])
        assert gate.fingerprint("t") == before


ITEMS = st.sampled_from(["i1", "f8", "U", "u2", "c8", "?", "M8[s]"])


@given(st.lists(st.lists(st.integers(0, 99), max_size=5), min_size=1, max_size=30), ITEMS, st.integers(0, 2**31))
def test_any_lists_come_back(rows, dtype, seed):
    arrays = [np.array(row, "i8").astype(dtype) for row in rows]
    order = np.random.RandomState(seed).permutation(len(rows))
    with tempfile.TemporaryDirectory() as place:
        for backend, args in (("numpy", {}), ("zarr", {"output_dir": place, "chunk": 3})):
            with StoreGate(backend, args, data_id="a") as gate:
                gate.add_data("t", Ragged.of(arrays), phase="train")
                require_lists(gate["train"]["t"][:], arrays)
                gate.shuffle(seed=seed, phase="train")
                require_lists(gate["train"]["t"][:], [arrays[at] for at in order])
                gate.compact("train")
                require_lists(gate["train"]["t"][:], [arrays[at] for at in order])


def test_equal_lists_have_equal_fingerprints(tmp_path):
    found = set()
    for chunk, step in ((3, 7), (50, N)):
        with StoreGate("zarr", {"output_dir": tmp_path / str(chunk), "chunk": chunk}, data_id="a") as gate:
            for lo in range(0, N, step):
                gate.add_data({"t": Ragged.of(LISTS[lo : lo + step]), "m": MATRIX[lo : lo + step]})
            found.add((gate.fingerprint("t"), gate.fingerprint("m")))
    with StoreGate(data_id="a") as gate:
        gate.add_data({"t": LISTS, "m": MATRIX})
        found.add((gate.fingerprint("t"), gate.fingerprint("m")))
        gate.update_data("t", [1], index=0)
        assert gate.fingerprint("t") not in {first for first, _ in found}
    assert len(found) == 1


def test_lists_survive_reopening_verify_and_vacuum(tmp_path):
    place = tmp_path / "store"
    with StoreGate("zarr", {"output_dir": place}, data_id="a") as gate:
        gate.add_data({"t": LISTS, "m": MATRIX})
        gate.shuffle(seed=7, phase="train")
        gate.compact("train")
        gate.vacuum()
        assert all(not result.problem for result in gate.verify())
    with StoreGate.open(place) as gate:
        order = np.random.RandomState(7).permutation(N)
        require_lists(gate["train"]["t"][:], [LISTS[at] for at in order])
        require_matrix(gate["train"]["m"][:], MATRIX[order])


REFUSED = {
    "onehot": (lambda gate: gate.onehot("t", num_classes=3), errors.ShapeError, "lists of various lengths"),
    "argmax": (lambda gate: gate.argmax("m", axis=1), errors.ShapeError, "sparse matrix"),
    "standardize": (lambda gate: gate.standardize("t"), errors.ShapeError, "not scaled"),
    "sort": (lambda gate: gate.sort("t"), errors.ShapeError, "one value for each row"),
    "stratify": (lambda gate: gate.split((0.5, 0.5, 0.0), stratify="t"), errors.ShapeError, "one value for each row"),
    "windows": (lambda gate: gate["train"]["t"].windows(input=2), errors.ShapeError, "no windows"),
    "stack": (lambda gate: gate["train"]["t", "row"][:], errors.ShapeError, "cannot be stacked"),
    "append dense": (lambda gate: gate.add_data("t", np.arange(3)), errors.ShapeError, "lists of various lengths"),
    "append lists": (lambda gate: gate.add_data("row", [[1], []]), errors.ShapeError, "are lists of various"),
    "other columns": (lambda gate: gate.add_data("m", MATRIX[:, :7]), errors.ShapeError, "40"),
    "two levels": (lambda gate: gate.add_data("q", [[[1], [2, 3]], [[4]]]), errors.ShapeError, "one level"),
    "objects": (lambda gate: gate.add_data("q", [[object()], []]), errors.DtypeError, "object"),
    "no list": (
        lambda gate: gate.add_data("q", np.array([[1], [2, 3], None], object)),
        errors.MissingValueError,
        "no lists",
    ),
    "label": (lambda gate: gate["train"]["t"].batches(4, shuffle="blocks", label="t"), errors.ArgumentError, "label="),
    "balance": (lambda gate: gate["train"]["t"].batches(4, balance="t"), errors.ArgumentError, "balance="),
    "weights": (lambda gate: gate["train"]["row"].batches(4, weights="t"), errors.ShapeError, "weights="),
    "collate": (lambda gate: gate["train"]["row"].batches(4, collate=pad(0)), errors.ArgumentError, "no variable"),
    "collate name": (lambda gate: gate["train"]["t"].batches(4, collate={"x": pad(0)}), errors.ArgumentError, "'x'"),
    "collate what": (lambda gate: gate["train"]["t"].batches(4, collate=3), errors.ArgumentTypeError, "collate="),
    "update": (lambda gate: gate.update_data("m", [1, 2], index=0), errors.ShapeError, "one row of a sparse"),
}


@pytest.mark.parametrize("call", REFUSED)
def test_what_lists_cannot_do_is_refused_and_changes_nothing(filled, call):
    act, kind, message = REFUSED[call]
    before = repr(filled)
    with pytest.raises(kind, match=message):
        act(filled)
    assert repr(filled) == before
    require(filled, "train", np.arange(N))


def test_padding_says_what_does_not_fit():
    rows = Ragged.of([[1, 2, 3], []])
    with pytest.raises(errors.ArgumentError, match="3 items, and length=2"):
        rows.padded(length=2)
    with pytest.raises(errors.ArgumentError, match="cannot hold the value -1.5"):
        rows.padded(-1.5)
    assert np.isnan(Ragged.of([[1.0], []]).padded(np.nan)[1, 0])
    assert rows[:0].padded().shape == (0, 0)


def test_ragged_refuses_offsets_that_are_none():
    for offsets in ([0, 3, 2], [-1, 2], [0, 9], []):
        with pytest.raises(errors.ShapeError, match="offsets"):
            Ragged(np.array(offsets, np.int64), np.arange(5))


def test_lists_are_shown_described_and_compared(filled):
    assert "(var,)" in repr(filled)
    assert "sparse" in repr(filled)
    view = filled["train"]["t"]
    assert (view.shape, view.dims) == ((N,), ("sample",))
    line = filled["train"].describe().loc["t"]
    items = np.concatenate(LISTS)
    assert (line["count"], line["min"], line["max"]) == (len(items), items.min(), items.max())
    dense = MATRIX.toarray()
    line = filled["train"].describe().loc["m"]
    assert line["count"] == dense.size
    assert line["mean"] == pytest.approx(dense.mean(), rel=1e-6)
    filled.add_data({"t": LISTS[:3], "m": MATRIX[:3], "row": [0, 1, 2]}, phase="valid")
    assert filled.check().equal_rows["train", "valid"] == 3


def test_lists_in_xarray_are_objects_and_sparse_rows_have_their_zeros(filled):
    found = filled["train"].to_xarray()
    require_lists(found.t.values, LISTS)
    np.testing.assert_array_equal(found.m, MATRIX.toarray())
    assert (found.m.dims, found.t.dtype) == (("sample", "m_1"), object)
    np.testing.assert_array_equal(filled["train"]["m"].data[5:9].compute(), MATRIX[5:9].toarray())


@pytest.mark.slow
def test_lists_go_to_clusters_and_back(tmp_path, cluster):
    with StoreGate("hybrid", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.set_mode("zarr")
        gate.add_data({"t": LISTS, "m": MATRIX, "row": np.arange(N)})
        gate.compile()
        gate.shuffle(seed=1, phase="train")
        order = np.random.RandomState(1).permutation(N)
        require_lists(gate["train"].to_xarray().t.values, [LISTS[at] for at in order])
        gate.compact("train")
        for move in (gate.to_memory, gate.to_storage):
            move(["t", "m", "row"], phase="train")
            require(gate, "train", order)


def test_datasets_with_lists_come_back(filled, tmp_path):
    filled.shuffle(seed=3, phase="train")
    order = np.random.RandomState(3).permutation(N)
    data = filled["train"].to_xarray()
    filled.add_data(data[["t", "row", "m"]].drop_vars("m"), phase="valid")
    filled.add_data("m", filled["train"]["m"][:], phase="valid")
    require(filled, "valid", order)
    filled.assign(n=lambda ds: xr.apply_ufunc(LENGTHS, ds.t, dask="parallelized", output_dtypes=[int]))
    assert filled["train"]["n"][:].tolist() == [len(LISTS[at]) for at in order]


def test_orders_of_lists_read_nothing(tmp_path, counted_reads):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "chunk": 10}, data_id="a") as gate:
        gate.add_data({"t": LISTS, "m": MATRIX, "row": np.arange(N)})
        gate.compile()
        counted_reads.clear()
        gate.shuffle(seed=1, phase="train")
        gate.split((0.5, 0.3, 0.2), seed=2)
        gate.select(np.arange(0, 100, 3))
        gate.sample(0.5, seed=3)
        gate.astype("t", "int32", phase="all")
        gate.undo()
        assert repr(gate)
        assert counted_reads == []


def test_narrow_columns_make_a_whole_matrix():
    entries = MATRIX.tocsr()
    rows = Ragged(entries.indptr.astype("i8"), entries.data, entries.indices.astype("u1"), entries.shape[1])
    assert len(entries.data) > 255
    require_matrix(rows.to_csr(), MATRIX)


@pytest.mark.parametrize("column", [-1, 3, 2**40])
def test_columns_that_a_matrix_has_not_are_refused_before_scipy_gets_them(column):
    offsets = np.array([0, 2, 3])
    with pytest.raises(errors.ShapeError, match=f"columns of 3 are 0 to 2, found .*{column}"):
        Ragged(offsets, np.arange(3.0), np.array([0, column, 1]), 3)
    outside = Ragged(offsets[:2] - [0, 1], np.arange(3.0), np.array([0, column, 1]), 3)  # of no row
    assert outside.to_csr().toarray().tolist() == [[0.0, 0.0, 0.0]]


def test_stored_columns_that_a_matrix_has_not_are_refused_when_rows_are_read(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data("m", MATRIX)
    (columns,) = tmp_path.glob("s/a/segments/*/m.columns")
    zarr.open_array(columns, mode="r+")[0] = MATRIX.shape[1]
    with StoreGate.open(tmp_path / "s") as gate:
        for shuffle in (False, True, "blocks"):
            with pytest.raises(errors.ShapeError, match=f"columns of {MATRIX.shape[1]} are 0 to"):
                list(gate["train"]["m"].batches(7, shuffle=shuffle))
        with pytest.raises(errors.ShapeError, match="columns"):
            gate["train"]["m"][:]
