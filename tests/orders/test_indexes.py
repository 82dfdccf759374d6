"""Indexes: lists of rows in memory and on disk, read in parts, with numpy as oracle."""

from __future__ import annotations

import hashlib
import json
import pickle
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine.arrays import StoredIndex
from storegate_engine.arrays import stored as arrays
from storegate_engine.orders import (
    ArrayIndex,
    MaskIndex,
    NewIndex,
    Range,
    RangeIndex,
    Take,
    find_last,
    in_memory,
    indexes,
    runs_of,
)


@st.composite
def ranges(draw):
    start, step = draw(st.integers(0, 40)), draw(st.integers(-5, 5).filter(bool))
    length = draw(st.integers(1, 20 if step > 0 else start // -step + 1))
    return range(start, start + step * length, step)


@st.composite
def lists_of_rows(draw):
    """An index of any kind, and its entries."""
    kind = draw(st.sampled_from(["array", "mask", "range"]))
    if kind == "range":
        numbers = draw(ranges())
        return RangeIndex(numbers), list(numbers)
    if kind == "mask":
        mask = np.array(draw(st.lists(st.booleans(), max_size=300)), bool)
        return MaskIndex(mask), np.flatnonzero(mask).tolist()
    rows = draw(st.lists(st.integers(0, 60), max_size=100))
    return ArrayIndex(np.array(rows, np.int64)), rows


@pytest.fixture(autouse=True)
def short_parts(monkeypatch):
    """Parts so short that every index has many."""
    monkeypatch.setattr(MaskIndex, "BLOCK_ROWS", 64)
    monkeypatch.setattr(indexes, "STEP_ROWS", 16)


@given(lists_of_rows(), st.data())
def test_every_index_reads_as_its_list(case, data):
    index, rows = case
    n = len(rows)
    assert len(index) == n
    lo = data.draw(st.integers(0, n), "lo")
    hi = data.draw(st.integers(lo, n), "hi")
    assert index.slice(lo, hi).tolist() == rows[lo:hi]
    picked = data.draw(st.lists(st.integers(0, max(0, n - 1)), max_size=30 if n else 0), "picked")
    assert index.take(np.array(picked, np.int64)).tolist() == [rows[at] for at in picked]
    assert index.slice(0, n).dtype == index.take(np.arange(n)).dtype == np.int64
    other = pickle.loads(pickle.dumps(index))
    assert other.slice(0, n).tolist() == rows
    assert json.dumps(other.token()) == json.dumps(index.token())
    if n:
        assert Take(Range(0, 400), index).rows(0, n).tolist() == rows


@given(lists_of_rows(), st.lists(st.integers(-1, 400), max_size=60))
def test_every_index_finds_as_a_dictionary(case, wanted):
    index, rows = case
    places = {row: at for at, row in enumerate(rows)}
    if len(places) == len(rows):
        assert index.find(np.array(wanted, np.int64)).tolist() == [places.get(row, -1) for row in wanted]
    assert find_last(index, 5, 50).tolist() == [places.get(row, -1) for row in range(5, 50)]


@given(lists_of_rows(), st.integers(1, 12))
def test_runs_spell_the_rows(case, most):
    index, rows = case
    runs = runs_of(index, most)
    breaks = sum(1 for a, b in pairwise(rows) if b != a + 1) + bool(rows)
    if runs is None:
        assert breaks > most
    else:
        assert [row for start, stop in runs for row in range(start, stop)] == rows
        assert len(runs) == breaks <= most


def test_spans_of_work_leave_no_seam():
    rows = np.random.default_rng(0).integers(0, 60, 100)
    places = {row: at for at, row in enumerate(rows.tolist())}
    assert find_last(ArrayIndex(rows), 5, 50).tolist() == [places.get(row, -1) for row in range(5, 50)]
    runs = ArrayIndex([*range(10, 40), 7, 8])
    assert runs_of(runs, 2) == [(10, 40), (7, 9)]
    assert runs_of(runs, 1) is None


def test_tokens_differ_where_the_rows_do():
    mask = np.zeros(100, bool)
    mask[[3, 7]] = True
    tokens = [
        index.token()
        for index in (
            ArrayIndex([3, 7]),
            ArrayIndex([7, 3]),
            ArrayIndex([2**60]),
            ArrayIndex([2**60 + 1]),
            MaskIndex(mask),
            MaskIndex(mask[:90]),
            MaskIndex(~mask),
            RangeIndex(range(3, 8, 4)),
            RangeIndex(range(3, 12, 4)),
        )
    ]
    assert len({json.dumps(token) for token in tokens}) == len(tokens)
    rows = np.arange(100)[::-1]
    assert ArrayIndex(rows).token() == ["rows", 100, hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()]
    assert MaskIndex(mask[:0]).token() == ["mask", 0, hashlib.sha256(b"").hexdigest()]
    assert MaskIndex(mask).token() == ["mask", 100, hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()]


def test_a_new_index_is_as_narrow_as_its_rows():
    for stop, dtype in ((2**32, np.uint32), (2**32 + 1, np.int64)):
        new = NewIndex(40, stop, lambda lo, hi, stop=stop: np.arange(lo, hi) + stop - 40)
        assert in_memory(new).values.dtype == dtype
        assert in_memory(new).slice(38, 40).tolist() == [stop - 2, stop - 1]


@pytest.mark.parametrize("is_long", [False, True])
def test_an_index_on_disk_reads_as_its_list(tmp_path, monkeypatch, is_long):
    monkeypatch.setattr(arrays, "INDEX_ROWS", 100 if is_long else 10_000)
    rng = np.random.default_rng(0)
    rows = np.arange(5000)
    where = rng.permutation(5000)[:2000]
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.add_data("x", rows)
        gate.update_data("x", -np.arange(2000), index=where)
        rows[where] = -np.arange(2000)
        order = gate.table["train"]["x"].order
        assert isinstance(order, Take)
        assert isinstance(order.index, StoredIndex)
        assert not order.is_injective
        loaded = arrays.load_index.cache_info().misses
        np.testing.assert_array_equal(gate["train"]["x"][:], rows)
        picked = rng.integers(0, 5000, 700)
        np.testing.assert_array_equal(gate["train"]["x"][picked], rows[picked])
        gate.shuffle("train", seed=5)
        expected = rows[np.random.RandomState(5).permutation(5000)]
        np.testing.assert_array_equal(gate["train"]["x"][17:900], expected[17:900])
        assert (arrays.load_index.cache_info().misses > loaded) != is_long
        found = order.find([0, 4999])
        np.testing.assert_array_equal(order.take(found[found >= 0]), np.array([0, 4999])[found >= 0])


# ------------------------------------------------------------------------------- as selections of views


def selections(rng, n_rows):
    """Selections that are many runs, so that an index is stored, and few of them."""
    mask = rng.random(n_rows) < 0.4
    block = np.zeros(n_rows, bool)
    block[n_rows // 4 : n_rows // 2] = True
    repeated = rng.integers(0, n_rows, n_rows)
    return [
        mask,
        block,
        ~block,
        np.zeros(n_rows, bool),
        repeated,
        repeated - n_rows,
        rng.permutation(n_rows)[: n_rows // 3].astype("u2"),
        slice(None, None, 3),
        slice(None, None, -1),
        slice(n_rows - 2, 3, -7),
        [5, 6, 7, 2, 3, 5, 1],
    ]


@pytest.mark.parametrize("phase", ["train", "all"])
def test_updates_of_any_selection_equal_numpys(gate, phase):
    rng = np.random.default_rng(3)
    rows = rng.random((1200, 3))
    gate.add_data("x", rows, phase=(1200, 0, 0) if phase == "train" else (700, 100, 400))
    gate.compile()
    for at, selection in enumerate(selections(rng, 1200)):
        new = rng.random(rows[selection].shape)
        gate.update_data("x", new, phase, index=selection)
        rows[selection] = new
        np.testing.assert_array_equal(gate.get_data("x", phase), rows, err_msg=f"selection {at}")
        np.testing.assert_array_equal(gate.get_data("x", phase, index=selection), rows[selection])
        lazy = gate.get_data("x", phase, index=selection, compute=False)
        np.testing.assert_array_equal(lazy.compute(), rows[selection])
    gate.compact()
    np.testing.assert_array_equal(gate.get_data("x", phase), rows)


@pytest.mark.parametrize("shuffled", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_large_lazy_selection_is_stored_within_the_budget(tmp_path, shuffled):
    rng = np.random.default_rng(0)
    rows = rng.random((60_000, 32), dtype="f4")
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": "3MiB"}, data_id="a") as gate:
        gate.add_data("x", rows)
        if shuffled:
            gate.shuffle("train", 4)
            rows = rows[np.random.RandomState(4).permutation(len(rows))]
        for at, index in enumerate((rng.random(60_000) < 0.6, rng.integers(0, 60_000, 50_000), slice(None, None, -2))):
            lazy = gate.get_data("x", index=index, compute=False)
            gate.add_data(f"half{at}", lazy, "test")
            np.testing.assert_array_equal(gate.get_data(f"half{at}", "test"), rows[index])
            gate.delete_data(f"half{at}", "test")
