"""Rows of sparse matrices are copied by scipy's loops where those know them, and by numpy's elsewhere: alike."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from storegate_engine.ragged import Ragged, compiled
from storegate_engine.table.ragged import HeldRagged

DTYPES = ["?", "i1", "u2", "i4", "u8", "f2", "f4", "f8", "c8", "c16", ">f4", ">i2"]
N_COLUMNS = {True: 50, False: 60}  # of matrices with and without scipy, which are not the same ones


def sparse_rows(scipy, dtype, columns="i4", n_rows=40):
    rng = np.random.default_rng(0)
    lengths = rng.integers(0, 5, n_rows)
    lengths[[0, -1]] = 0
    items = rng.integers(0, 3, lengths.sum()).astype(dtype)  # among them zeros that are stored
    return Ragged(
        np.concatenate([[0], np.cumsum(lengths)]), items, rng.integers(0, 50, len(items), columns), N_COLUMNS[scipy]
    )


class InMemory:
    """Items in memory, read as a store reads them."""

    def __init__(self, items):
        self.items, self.row_shape, self.dtype = items, (), items.dtype

    def read_spans(self, spans, out, *, alone=False):
        out[:] = np.concatenate([self.items[lo:hi] for lo, hi in spans])


def assert_rows(found, rows, chosen):
    assert (found.dtype, found.columns.dtype, found.n_columns) == (rows.dtype, rows.columns.dtype, rows.n_columns)
    assert found.offsets.dtype == np.int64
    assert len(found) == len(chosen)
    for (flo, fhi), at in zip(np.stack([found.offsets[:-1], found.offsets[1:]], 1), chosen, strict=True):
        lo, hi = rows.offsets[at : at + 2]
        assert found.items[flo:fhi].tobytes() == rows.items[lo:hi].tobytes()
        np.testing.assert_array_equal(found.columns[flo:fhi], rows.columns[lo:hi])


@pytest.fixture(params=["scipy", "no scipy"])
def scipy(request, monkeypatch):
    if request.param == "no scipy":
        monkeypatch.setitem(sys.modules, "scipy.sparse", None)
    return request.param == "scipy"


@pytest.mark.parametrize("columns", ["u2", "i4", "i8"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_come_back_bit_for_bit(scipy, dtype, columns):
    rows = sparse_rows(scipy, dtype, columns)
    is_known = scipy and columns != "u2" and dtype not in ("f2", ">f4", ">i2")
    assert (compiled(rows) is not None) == is_known
    for chosen in ([], [0], [3, 3, 0, 39, 7], np.random.default_rng(1).permutation(40)):
        assert_rows(rows.take(np.array(chosen, np.int64)), rows, chosen)
        assert_rows(rows[5:].take(np.array(chosen, np.int64) % 35), rows, 5 + np.array(chosen, np.int64) % 35)


@pytest.mark.parametrize("kind", ["in order", "with gaps", "at random", "with repeats"])
def test_rows_that_were_read_are_those_of_the_matrix(scipy, kind):
    rows = sparse_rows(scipy, "f4")
    rng = np.random.default_rng(2)
    asked = {
        "in order": np.arange(40),
        "with gaps": np.flatnonzero(rng.random(40) < 0.5),
        "at random": rng.permutation(40)[:30],
        "with repeats": rng.integers(0, 40, 60),
    }[kind]
    bounds = np.stack([rows.offsets[:-1], rows.offsets[1:]], axis=1)[asked]
    held = HeldRagged(bounds, [InMemory(rows.items), InMemory(rows.columns)], rows.n_columns)
    assert_rows(held.read(), rows, asked)
    chosen = rng.integers(0, len(asked), 25)
    assert_rows(held.take(chosen), rows, asked[chosen])
    assert_rows(held[3:9], rows, asked[3:9])


def test_columns_that_scipy_would_copy_are_left_to_numpy():
    n_items = 2**31 + 1  # of one number in memory
    items, columns = np.broadcast_to(np.float32(1), n_items), np.broadcast_to(np.int32(3), n_items)
    rows = Ragged(np.array([0, 2, 2]), items, columns, 5)
    assert compiled(rows) is not None
    for offsets, n_columns in (([0, 2, n_items], 5), ([0, 2, 2], 2**31)):
        wide = Ragged(np.array([0, 0, 1]), items, columns, n_columns)
        object.__setattr__(wide, "offsets", np.array(offsets))  # whose columns are not looked at one by one
        assert compiled(wide) is None
        assert_rows(wide.take(np.array([0])), wide, [0])
