"""Slices of items, gathered and side by side, whichever way they take; a loop over them is the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import Ragged
from storegate_engine.slices import first_of_run, gathered, side_by_side

ITEMS = {
    "int32": np.arange(400_000, dtype=np.int32),
    "big-endian": np.arange(400_000, dtype=">i2"),
    "bool": np.arange(400_000) % 3 == 0,
    "dates": np.arange(400_000).astype("M8[s]"),
    "bytes": np.arange(400_000).astype("S6"),
    "pairs": np.arange(800_000, dtype=np.float32).reshape(-1, 2),
    "every other": np.arange(800_000)[::2],
    "texts": np.arange(400_000).astype(np.dtypes.StringDType()),
    "nothing in each": np.empty((400_000, 0)),
}
LENGTHS = {"short": (0, 20), "some": (30, 90), "long": (0, 1200), "none": (0, 1), "equal": (7, 8)}


def slices(lengths, n_slices=40, n_items=400_000):
    """Return the starts and lengths of slices anywhere."""
    rng = np.random.default_rng(1)
    found = rng.integers(*LENGTHS[lengths], n_slices)
    return rng.integers(0, n_items - found), found


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ITEMS)
def test_slices_are_gathered_one_after_the_other(kind, lengths):
    items, (starts, sizes) = ITEMS[kind], slices(lengths)
    numbers = np.arange(len(items), dtype=np.int32)
    wanted = np.concatenate([numbers[lo : lo + n] for lo, n in zip(starts, sizes, strict=True)])
    found, columns = gathered(items, numbers, starts, sizes)
    np.testing.assert_array_equal(columns, wanted)
    np.testing.assert_array_equal(found, items[wanted])
    assert found.dtype == items.dtype
    assert not np.shares_memory(found, items)


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", ITEMS)
@pytest.mark.parametrize("spare", [0, 3])
def test_rows_are_filled_up_at_their_ends(kind, lengths, spare):
    items, (_, sizes) = ITEMS[kind], slices(lengths)
    items, value, length = items[: sizes.sum()], items[-1] if items.ndim == 1 else 0, int(sizes.max()) + spare
    rows = side_by_side(items, sizes, length, value)
    assert rows.shape == (len(sizes), length, *items.shape[1:])
    assert rows.dtype == items.dtype
    done = 0
    for row, size in zip(rows, sizes.tolist(), strict=True):
        np.testing.assert_array_equal(row[:size], items[done : done + size])
        assert (row[size:] == value).all()
        done += size
    rows[...] = value  # they can be written to, and are no part of the items
    assert not np.shares_memory(rows, items)


@pytest.mark.parametrize("n_rows", [3, 200])
def test_slices_that_follow_one_another_are_one(n_rows):
    lengths = np.arange(n_rows) % 3
    starts = 10 + np.cumsum(lengths) - lengths
    anywhere = np.where(lengths > 0, starts, -1)
    assert first_of_run(anywhere, lengths) == 10
    starts[-1] += 1  # after those that are looked at first
    assert first_of_run(starts, lengths) is None
    assert first_of_run(anywhere, lengths * 0) == 0


def test_matrices_of_batches_know_whether_their_columns_ascend():
    rows = Ragged(np.array([0, 3, 4]), np.arange(4.0), np.array([2, 0, 1, 1]), 3)
    assert not rows.to_csr().has_sorted_indices
    assert rows[1:].to_csr().has_sorted_indices
    np.testing.assert_array_equal(rows.to_csr().toarray(), [[1, 2, 0], [0, 3, 0]])
    assert rows.to_csr().indices.dtype == rows.to_csr().indptr.dtype


@pytest.mark.parametrize("dtype", ["u1", "i2", "u4", "i4", "i8", "u8"])
def test_matrices_have_columns_that_scipy_works_with(dtype):
    rows = Ragged(np.array([0, 2, 3]), np.array([1.0, 2, 3]), np.array([2, 0, 1], dtype), 3)
    matrix = rows.to_csr()
    assert matrix.indices.dtype == matrix.indptr.dtype == (np.int64 if dtype == "i8" else np.int32)
    matrix.sort_indices()
    np.testing.assert_array_equal((matrix + matrix).toarray(), [[4, 0, 2], [0, 6, 0]])
