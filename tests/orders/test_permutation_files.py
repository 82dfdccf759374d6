"""Permutations on disk: exactly numpy's, whatever the blocks, read by range, and gone with their users."""

from __future__ import annotations

import errno
import gc
import os

import dask
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine.errors import SpillError
from storegate_engine.orders import (
    Concat,
    Range,
    Slice,
    disk_shuffles,
    permutation_files,
    permutation_tables,
    permute,
)
from storegate_engine.orders.permutation_files import PermutationFile
from tests.examples import examples


@pytest.fixture(autouse=True)
def scratch(tmp_path):
    """Every file of the test's own goes here, and is gone at its end."""
    with dask.config.set({"storegate.scratch-directory": str(tmp_path / "scratch")}):
        yield tmp_path / "scratch"
    permutation_tables.file_tables.clear()


@pytest.fixture
def small_blocks(monkeypatch):
    for name, value in (("BLOCK_ROWS", 8), ("FEWEST_MESSAGES", 1), ("DRAWN", 64), ("APPLIED", 16)):
        monkeypatch.setattr(disk_shuffles, name, value)
    monkeypatch.setattr(permutation_files, "PART_ROWS", 64)
    monkeypatch.setattr(permutation_files, "FEW", 4)


@given(st.integers(1, 3000), st.integers(0, 2**32 - 1), st.data())
@settings(max_examples=examples(60), deadline=None)
def test_a_file_is_numpys_permutation(n, seed, data):
    with pytest.MonkeyPatch.context() as patch:
        for name, high in (("BLOCK_ROWS", 10), ("DRAWN", 10), ("APPLIED", 8)):
            patch.setattr(disk_shuffles, name, 2 ** data.draw(st.integers(2, high), name))
        patch.setattr(disk_shuffles, "FEWEST_MESSAGES", 1)
        patch.setattr(permutation_files, "PART_ROWS", 64)
        forward = PermutationFile.forward(n, seed)
        inverse = forward.inverse()
        expected = np.random.RandomState(seed).permutation(n)
        np.testing.assert_array_equal(forward.span(0, n), expected)
        np.testing.assert_array_equal(inverse.span(0, n)[expected], np.arange(n))
        rows = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=200), "rows"), np.int64)
        np.testing.assert_array_equal(forward.take(rows), expected[rows])


@pytest.mark.parametrize(("n", "seed"), [(2**16 - 1, 0), (2**16 + 1, 1), (300_000, 2**32 - 1), (2**20, 7)])
def test_blocks_as_they_are(n, seed, monkeypatch):
    monkeypatch.setattr(disk_shuffles, "BLOCK_ROWS", 2**14)
    monkeypatch.setattr(disk_shuffles, "FEWEST_MESSAGES", 64)
    forward = PermutationFile.forward(n, seed)
    expected = np.random.RandomState(seed).permutation(n)
    np.testing.assert_array_equal(forward.span(0, n), expected)
    np.testing.assert_array_equal(forward.inverse().span(0, n)[expected], np.arange(n))


def test_orders_read_the_same_from_disk_as_from_memory(small_blocks):
    inner = Concat((Range(50, 400), permute(Range(1000, 1700), 3)))
    order = Slice(permute(permute(inner, 5), 6), 17, 900)
    limited = order.within(100)
    assert limited == order
    assert hash(limited) == hash(order)
    np.testing.assert_array_equal(limited.rows(0, len(order)), order.rows(0, len(order)))
    picked = np.random.default_rng(0).integers(0, len(order), 300)
    np.testing.assert_array_equal(limited.take(picked), order.take(picked))
    np.testing.assert_array_equal(limited.positions(0, 1800), order.positions(0, 1800))
    assert limited.shifted(7).within(100) == order.shifted(7)
    np.testing.assert_array_equal(limited.shifted(7).rows(3, 80), order.rows(3, 80) + 7)


def test_a_small_limit_keeps_no_table_in_memory(small_blocks, monkeypatch):
    monkeypatch.setattr(permutation_tables, "build_forward", lambda *args: pytest.fail("a table in memory"))
    order = permute(Range(0, 5000), 11).within(8 * 5000 - 1)
    expected = np.random.RandomState(11).permutation(5000)
    np.testing.assert_array_equal(order.rows(10, 20), expected[10:20])
    np.testing.assert_array_equal(order.take([4999, 7]), expected[[4999, 7]])
    np.testing.assert_array_equal(order.find(expected[10:20]), np.arange(10, 20))


def test_tables_in_memory_make_room_for_one_another():
    permutation_tables.memory_tables.clear()
    for seed in range(6):
        order = permute(Range(0, 10_000), seed).within(2 * 8 * 10_000)
        order.rows(0, 10)
        order.positions(0, 10)
        assert permutation_tables.memory_tables.nbytes <= 2 * 8 * 10_000


def test_files_go_with_their_last_user(scratch):
    forward = PermutationFile.forward(1000, 1)
    inverse = forward.inverse()
    assert len(list(scratch.rglob("permutation"))) == 2
    del forward
    gc.collect()
    assert len(list(scratch.rglob("permutation"))) == 1
    inverse.span(0, 10)
    del inverse
    gc.collect()
    assert not list(scratch.rglob("permutation*"))


def test_a_scratch_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    inside = {"storegate.scratch-directory": str(tmp_path / "file" / "scratch")}
    with dask.config.set(inside), pytest.raises(SpillError, match="scratch-directory"):
        PermutationFile.forward(1000, 1)


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), OSError("it is too short")])
def test_a_file_that_cannot_be_written_is_named_with_its_size_and_the_reason(scratch, error):
    asked = []

    def fail(path):
        asked.append(path)
        raise error

    with pytest.raises(SpillError) as caught:
        PermutationFile(1000, fail)
    assert asked[0].is_relative_to(scratch)
    assert str(caught.value) == (
        f"the permutation of 1000 rows, 4000 bytes, cannot be written to {asked[0].parent}: "
        f"{error.strerror or error}; free space there, or set storegate.scratch-directory to a larger disk"
    )


@pytest.mark.parametrize(
    ("rows", "reads"),
    [
        ([], []),
        ([5, 1, 70], [(5, 1), (1, 1), (70, 1)]),
        ([9, 9, 9], [(9, 1)] * 3),
        ([9, 9, 9, 9], [(0, 64)]),
        ([149, 63, 128, 0, 140, 148, 7], [(63, 1), (0, 1), (7, 1), (128, 22)]),
    ],
)
def test_few_entries_of_a_part_are_read_alone_and_many_together(small_blocks, monkeypatch, rows, reads):
    forward, read, found = PermutationFile.forward(150, 1), permutation_files.read_entries, []
    monkeypatch.setattr(permutation_files, "read_entries", lambda *args: found.append(args[1:]) or read(*args))
    expected = np.random.RandomState(1).permutation(150)
    np.testing.assert_array_equal(forward.take(np.array(rows, np.int64)), expected[rows] if rows else [])
    assert found == reads


def test_a_file_that_cannot_be_closed_goes_without_a_word():
    forward = PermutationFile.forward(10, 1)
    os.close(forward.descriptor)
    forward.__del__()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_reads_its_parents_file(tmp_path):
    forward = PermutationFile.forward(1000, 1)
    child = os.fork()
    if not child:
        same = np.array_equal(forward.span(0, 1000), np.random.RandomState(1).permutation(1000))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    np.testing.assert_array_equal(forward.span(0, 5), np.random.RandomState(1).permutation(1000)[:5])


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_a_gate_of_a_small_budget_reads_from_disk(tmp_path, backend, monkeypatch):
    monkeypatch.setattr(permutation_tables, "build_forward", lambda *args: pytest.fail("a table in memory"))
    rows = np.random.default_rng(0).integers(0, 2**31, 200_000)
    args = {"budget": "8MiB"} | ({} if backend == "numpy" else {"output_dir": tmp_path / "store"})
    with StoreGate(backend, args, data_id="a") as gate:
        gate.add_data("x", rows, phase=(0.7, 0.3, 0.0), shuffle=4)
        gate.shuffle("train", seed=9)
        expected = rows[np.random.RandomState(4).permutation(200_000)][:140_000]
        expected = expected[np.random.RandomState(9).permutation(140_000)]
        np.testing.assert_array_equal(gate["train"]["x"][:], expected)
        np.testing.assert_array_equal(gate["train"]["x"][[5, 90_000, 5]], expected[[5, 90_000, 5]])
        np.testing.assert_array_equal(gate["train"].to_xarray()["x"][7:5000].values, expected[7:5000])
        gate.compact()
        np.testing.assert_array_equal(gate["train"]["x"][:], expected)


@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_the_order_of_equal_rows_is_not_worked_out(tmp_path, backend, monkeypatch):
    """A manifest of 2 kB can ask for a permutation of 2**30 rows of zeros."""
    monkeypatch.setattr(permutation_tables, "build_forward", lambda *args: pytest.fail("a table in memory"))
    monkeypatch.setattr(PermutationFile, "forward", lambda *args: pytest.fail("a table on disk"))
    with StoreGate(backend, None if backend == "numpy" else {"output_dir": tmp_path / "store"}, "a") as gate:
        gate.create_empty("x", (2**30, 2), dtype="i2")
        gate.shuffle("train", seed=1)
        gate.onehot("x", 3)
        one = np.identity(3)[[0, 0]]
        np.testing.assert_array_equal(gate["train"]["x"][2**29], one)
        np.testing.assert_array_equal(gate["train"]["x"][5:7], [one, one])
        np.testing.assert_array_equal(gate["train"]["x"][[9, 2**30 - 1]], [one, one])
        np.testing.assert_array_equal(gate["train"].to_xarray()["x"].isel(sample=[7]).values, [one])
