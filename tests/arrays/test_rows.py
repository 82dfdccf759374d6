"""Arrays of rows: whatever kind one is, its answers agree with each other and with its rows."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import ConstantArray, MemoryArray, PersistedArray

ROWS = np.arange(60, dtype="i4").reshape(20, 3)


def stored(tmp_path):
    gate = StoreGate("zarr", {"output_dir": tmp_path, "chunk": 4}, "a")
    gate.add_data("x", ROWS, phase="train")
    return gate.repository().table["train"]["x"].pieces[0].array


KINDS = {
    "stored": stored,
    "memory": lambda tmp_path: MemoryArray(ROWS),
    "zeros": lambda tmp_path: ConstantArray(ROWS.dtype, (3,), 20),
    "ones": lambda tmp_path: ConstantArray(ROWS.dtype, (3,), 20, 1),
    "on workers": lambda tmp_path: PersistedArray(da.from_array(ROWS, chunks=(8, 3))),
}


@pytest.fixture(params=KINDS)
def array(request, tmp_path):
    return KINDS[request.param](tmp_path)


def whole(array):
    out = np.empty((array.n_rows, *array.row_shape), array.dtype)
    array.read_into(0, array.n_rows, out)
    return out


def test_rows_are_the_same_however_they_are_asked_for(array):
    rows = whole(array)
    np.testing.assert_array_equal(rows, ROWS if array.constant is None else np.full_like(ROWS, array.constant))
    picked = np.empty((4, 3), array.dtype)
    array.take_into(np.array([19, 3, 3, 0]), picked)
    np.testing.assert_array_equal(picked, rows[[19, 3, 3, 0]])
    spans = np.zeros((9, 3), array.dtype)
    array.read_spans([(1, 4, 0), (10, 16, 3)], spans)
    np.testing.assert_array_equal(spans, rows[[1, 2, 3, *range(10, 16)]])


def test_hints_change_nothing(array):
    before = whole(array)
    array.will_read([(0, 3), (5, 20)])
    array.drop(0, 20)
    np.testing.assert_array_equal(whole(array), before)


def test_an_array_is_stored_where_its_json_finds_it_again(array):
    if not array.is_stored:
        assert array.location is None
        with pytest.raises(TypeError, match="no stored form"):
            array.to_json()
    elif array.location is None:
        assert type(array).from_json(array.to_json()) == array
    else:
        segments = type(array.location)(array.location.url, array.location.prefix.rpartition("/")[0])
        assert type(array).from_json(array.to_json(), segments) == array


def test_one_place_has_the_rows(array):
    places = [array.location is not None, array.on_workers() is not None]
    assert sum(places) <= 1
    assert array.is_random_access == (not any(places))
    assert array.shard_rows >= 1
    assert array.shard_rows % array.chunk_rows == 0 or array.location is None
