"""Rows of text, which zarr-python reads: equal to numpy's, and never held twice beyond a few MiB."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storegate import StoreGate

TEXT = np.dtypes.StringDType()
MIB = 2**20


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """2,000 texts of 9 kB, and the array that stores them."""
    letters = np.random.default_rng(0).integers(97, 123, (2000, 9000), dtype="u1")
    texts = letters.view("S9000").ravel().astype(str).astype(TEXT)
    gate = StoreGate("zarr", {"output_dir": tmp_path_factory.mktemp("texts")}, "a")
    gate.add_data("x", texts, phase="train")
    return texts, gate.table["train"]["x"].pieces[0].array


@pytest.mark.parametrize("n_rows", [200, 1500])
@pytest.mark.parametrize("way", ["take", "spans", "range"])
def test_texts_are_not_in_memory_twice(wide, way, n_rows):
    texts, array = wide
    rows = np.sort(np.random.default_rng(1).choice(len(texts), n_rows, replace=False))
    rows = np.arange(n_rows) if way == "range" else rows
    out = np.empty(n_rows, TEXT)
    tracemalloc.start()
    if way == "take":
        array.take_into(rows, out)
    elif way == "spans":
        array.read_spans([(int(row), int(row) + 1, at) for at, row in enumerate(rows)], out)
    else:
        array.read_into(0, n_rows, out)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    np.testing.assert_array_equal(out, texts[rows])
    assert held > 0.9 * n_rows * 9000, "the texts were not counted"
    # a part in both places, its chunks encoded and decoded, and two spans' rows
    assert peak < held + 9 * MIB


@pytest.fixture(scope="module")
def short(tmp_path_factory):
    texts = np.array([f"{'é' * (at % 5)}{at}" for at in range(1000)], TEXT)
    gate = StoreGate("zarr", {"output_dir": tmp_path_factory.mktemp("texts"), "chunk": 3}, "a")
    gate.add_data("x", texts, phase="train")
    return texts, gate.table["train"]["x"].pieces[0].array


@given(st.lists(st.integers(0, 999), max_size=300), st.integers(0, 999), st.integers(1, 1000))
def test_texts_are_those_of_numpy(short, rows, start, n_rows):
    texts, array = short
    out = np.empty(len(rows), TEXT)
    array.take_into(np.array(rows, np.int64), out)
    np.testing.assert_array_equal(out, texts[rows])
    out = np.empty(len(texts[start : start + n_rows]), TEXT)
    array.read_into(start, start + len(out), out)
    np.testing.assert_array_equal(out, texts[start : start + n_rows])
