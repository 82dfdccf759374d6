"""Edges of orders that random examples seldom meet: several blocks, repeats, texts of errors, sizes of files."""

from __future__ import annotations

import errno
import os
import stat

import dask
import numpy as np
import pytest

from storegate_engine.errors import NotInvertibleError
from storegate_engine.orders import (
    STEP_ROWS,
    ArrayIndex,
    Concat,
    MaskIndex,
    Permute,
    Range,
    Slice,
    Take,
    concat,
    cut,
    disk_shuffles,
    flatten,
    permutation_tables,
    permute,
    replace_rows,
    replace_runs,
    runs_of,
)
from storegate_engine.orders.permutation_files import PermutationFile

SIZES = [(4, 2), (8, 64), (64, 8)]


@pytest.mark.parametrize(
    ("drawn", "applied", "lengths"),
    [
        *((*sizes, range(1 + at, 140, 3)) for at, sizes in enumerate(SIZES)),
        *(pytest.param(*sizes, range(1, 140), marks=pytest.mark.slow) for sizes in SIZES),
    ],
)
def test_files_of_every_small_size(tmp_path, monkeypatch, drawn, applied, lengths):
    sizes = {"BLOCK_ROWS": 4, "FEWEST_MESSAGES": 1, "DRAWN": drawn, "APPLIED": applied}
    for name, value in sizes.items():
        monkeypatch.setattr(disk_shuffles, name, value)
    for n in lengths:
        forward, inverse = tmp_path / f"{n}", tmp_path / f"{n}-inverse"
        disk_shuffles.write_permutation(forward, n, n)
        file = os.open(forward, os.O_RDONLY)
        disk_shuffles.write_inverse(inverse, file, n)
        os.close(file)
        expected = np.random.RandomState(n).permutation(n)
        np.testing.assert_array_equal(np.fromfile(forward, "u4"), expected)
        np.testing.assert_array_equal(np.fromfile(inverse, "u4"), np.argsort(expected))
        assert sorted(tmp_path.iterdir()) == [forward, inverse]
        assert {stat.S_IMODE(path.stat().st_mode) for path in (forward, inverse)} == {0o600}
        forward.unlink()
        inverse.unlink()


def test_messages_between_blocks_are_private(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_shuffles, "BLOCK_ROWS", 4)
    monkeypatch.setattr(disk_shuffles, "FEWEST_MESSAGES", 1)
    modes, close = [], os.close

    def noting_modes(file):
        mode = os.fstat(file).st_mode
        modes.extend([stat.S_IMODE(mode)] if stat.S_ISREG(mode) else [])
        close(file)

    monkeypatch.setattr(os, "close", noting_modes)
    with dask.config.set({"storegate.scratch-directory": str(tmp_path)}):
        PermutationFile.forward(100, 1).inverse()
    assert set(modes) == {0o600}
    assert len(modes) > 10


@pytest.mark.parametrize("write", [disk_shuffles.write_permutation, disk_shuffles.write_inverse])
def test_the_error_of_a_file_that_cannot_be_made_is_the_one_that_is_raised(tmp_path, monkeypatch, write):
    monkeypatch.setattr(disk_shuffles, "BLOCK_ROWS", 4)
    monkeypatch.setattr(disk_shuffles, "FEWEST_MESSAGES", 1)
    disk_shuffles.write_permutation(tmp_path / "permutation", 100, 1)
    open_file = os.open

    def full(path, *args):
        if str(path).endswith(".3"):  # the messages of a block
            raise OSError(errno.ENOSPC, "No space left on device")
        return open_file(path, *args)

    monkeypatch.setattr(os, "open", full)
    file = open_file(tmp_path / "permutation", os.O_RDONLY)
    arguments = (100, 1) if write is disk_shuffles.write_permutation else (file, 100)
    with pytest.raises(OSError, match="No space left") as caught:
        write(tmp_path / "new", *arguments)
    os.close(file)
    assert caught.value.errno == errno.ENOSPC
    assert {path.name for path in tmp_path.iterdir()} <= {"permutation", "new"}, "no messages are left"


def test_a_file_is_made_in_a_scratch_directory_that_is_not_there_yet(tmp_path):
    with dask.config.set({"storegate.scratch-directory": str(tmp_path / "a" / "b")}):
        made = PermutationFile(3, lambda path: path.write_bytes(np.array([2, 0, 1], "u4").tobytes()))
        np.testing.assert_array_equal(made.take(np.arange(3)), [2, 0, 1])


@pytest.mark.parametrize("n", [1, 1000, 2**20, 2**20 + 7])
def test_a_table_and_its_inverse_take_four_bytes_a_row(n):
    forward = permutation_tables.build_forward(n, 3)
    inverse = permutation_tables.build_inverse(forward)
    assert forward.dtype == inverse.dtype == np.uint32
    np.testing.assert_array_equal(inverse[forward], np.arange(n))
    assert not forward.flags.writeable
    assert not inverse.flags.writeable


def test_runs_go_on_from_one_slice_of_work_to_the_next():
    rows = np.concatenate([np.arange(7, 2 * STEP_ROWS + 9), [3]])
    assert runs_of(ArrayIndex(rows), 8) == [(7, 2 * STEP_ROWS + 9), (3, 4)]


def test_entries_of_masks_of_several_blocks(monkeypatch):
    monkeypatch.setattr(MaskIndex, "BLOCK_ROWS", 8)
    mask = np.random.default_rng(0).random(100) < 0.4
    mask[16:24] = False
    index, rows = MaskIndex(mask), np.flatnonzero(mask)
    order = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_array_equal(index.take(order), rows[order])
    np.testing.assert_array_equal(index.slice(0, len(rows)), rows)
    for lo in range(len(rows)):
        hi = lo + (len(rows) - lo) // 2
        np.testing.assert_array_equal(index.slice(lo, hi), rows[lo:hi])
    found = index.find(np.arange(-3, 110))
    expected = np.full(113, -1)
    expected[rows + 3] = np.arange(len(rows))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("values", [[5, 2, 7, 2, 2, 7], [9, 2**40, 7, 2**40]])
def test_an_index_without_an_inverse_names_the_row_and_its_places(values):
    with pytest.raises(NotInvertibleError) as caught:
        ArrayIndex(np.array(values)).find(np.array([2]))
    row = min(value for value in values if values.count(value) > 1)
    first, second = [at for at, value in enumerate(values) if value == row][:2]
    assert str(caught.value) == (
        f"row {row} stands at both {first} and {second} of an index of {len(values)} rows, so that stored rows have no "
        "single position; read it by logical rows, or compact the variable first"
    )


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("replace_rows", lambda: replace_rows(3, 0, 0, Range(0, 0))),
        ("flatten", lambda: flatten([1], print)),
        ("permute", lambda: permute("abc", 1)),
        ("cut", lambda: cut(None, 0, 0)),
        ("replace_runs", lambda: replace_runs(3, [(0, Range(0, 1))])),
        ("concat", lambda: concat([3])),
        ("Concat", lambda: Concat((Range(0, 1), 3))),
        ("Slice", lambda: Slice(3, 0, 1)),
        ("Permute", lambda: Permute(3, "numpy", 1)),
        ("Take", lambda: Take(3, ArrayIndex(np.array([0])))),
    ],
)
def test_what_is_no_order_is_refused_by_name(name, call):
    with pytest.raises(TypeError, match=rf"^{name} takes a RowOrder, not (int|list|str|NoneType)$"):
        call()


def test_a_flat_index_counts_from_the_first_stored_row():
    stored = []

    def store(new):
        stored.append(new)
        return ArrayIndex(new.slice(0, new.n_rows))

    order = permute(Range(1000, 1100), 3)
    flat = flatten(order, store)
    assert [(new.n_rows, new.stop) for new in stored] == [(100, 100)]
    np.testing.assert_array_equal(flat.rows(0, 100), order.rows(0, 100))


def test_rows_within_the_bounds_of_an_order_that_lacks_them_are_not_found():
    order = Concat((Range(0, 3), Take(Range(10, 20), ArrayIndex(np.array([2, 7, 4])))))
    np.testing.assert_array_equal(order.find(np.array([13, 12, 17, 19, 14, 2])), [-1, 3, 4, -1, 5, 2])


def test_rows_that_several_orders_have_are_found_at_their_first_place():
    order = Concat((Range(5, 8), Range(20, 22), Range(5, 9)))
    np.testing.assert_array_equal(order.find(np.array([5, 7, 8, 20, 22, 4])), [0, 2, 8, 3, -1, -1])
    taken = Take(Concat((Range(0, 3), Range(6, 9))), ArrayIndex(np.array([5, 0, 3])))
    np.testing.assert_array_equal(taken.find(np.array([8, 0, 6, 3, 1])), [0, 1, 2, -1, -1])
