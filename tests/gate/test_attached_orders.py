"""Rows of attached files in any order, with repeats, are those of the files; h5py, zarr and pyarrow read them."""

from __future__ import annotations

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from tests.examples import examples

N, PARTS = 24, ((0, 10), (10, 24))
ROWS = np.arange(N) * 7


def write_zarr(path, rows):
    zarr.open_group(path, mode="w").create_array("v", shape=rows.shape, chunks=(6,), dtype="i8")[:] = rows


def write_parquet(path, rows):
    pyarrow.parquet.write_table(pa.table({"v": rows}), path, row_group_size=5)


def write_chunks(path, rows, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("v", data=rows, chunks=(4,), **options)


def write_contiguous(path, rows):
    with h5py.File(path, "w") as file:
        file["v"] = rows


WRITERS = {
    ".zarr": write_zarr,
    ".parquet": write_parquet,
    ".h5": write_chunks,
    ".gzip.h5": lambda path, rows: write_chunks(path, rows, compression="gzip"),
    ".lzf.h5": lambda path, rows: write_chunks(path, rows, compression="lzf"),
    ".contiguous.h5": write_contiguous,
}


@pytest.fixture(scope="module", params=WRITERS)
def files(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("files")
    for at, (lo, hi) in enumerate(PARTS):
        WRITERS[request.param](directory / f"{at}{request.param}", ROWS[lo:hi])
    return [str(directory / f"{at}{request.param}") for at in range(len(PARTS))]


def spans():
    ends = st.tuples(st.integers(0, N), st.integers(0, N)).map(sorted)
    return st.lists(ends, min_size=1, max_size=6).map(lambda found: [row for lo, hi in found for row in range(lo, hi)])


@given(data=st.data())
@settings(max_examples=examples(30), deadline=None)
def test_runs_of_rows_in_any_order(files, data):
    picked = np.array(data.draw(spans()), np.int64)
    gate = StoreGate(data_id="a")
    gate.attach(files)
    gate.select(picked)
    np.testing.assert_array_equal(gate["train"]["v"][:], ROWS[picked])
    if len(picked):
        lo = len(picked) // 3
        np.testing.assert_array_equal(gate["train"]["v"][lo:], ROWS[picked][lo:])
        batches = list(gate["train"]["v"].batches(5, shuffle=False))
        np.testing.assert_array_equal(np.concatenate(batches), ROWS[picked])
        np.testing.assert_array_equal(gate["train"].to_xarray()["v"].values, ROWS[picked])


def test_sorted_rows_are_compacted_as_they_are_shown(files, tmp_path):
    key = np.random.default_rng(0).integers(0, 3, N)
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="a") as gate:
        gate.attach(files)
        gate.assign(k=key)
        gate.sort("k")
        expected = ROWS[np.argsort(key, kind="stable")]
        np.testing.assert_array_equal(gate["train"]["v"][:], expected)
        gate.compact()
        np.testing.assert_array_equal(gate["train"]["v"][:], expected)
