"""Uniform windows of more rows than fit in memory: read from a copy of the rows; numpy is the oracle."""

from __future__ import annotations

import numpy as np
import pytest

from storegate import StoreGate, errors
from storegate_engine.exchange import RowFile

N, LENGTH, STRIDE, BUDGET = 80_000, 24, 16, "16MiB"
ROWS = np.random.default_rng(0).random((N, 64), "f4")
STARTS = np.arange(0, N - LENGTH + 1, STRIDE)
OPTIONS = {"shuffle": True, "seed": 1, "budget": BUDGET}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("copied") / "s"
    with StoreGate("zarr", {"output_dir": path}, data_id="a") as gate:
        gate.add_data("x", ROWS)
        gate.clip("x", high=0.9)
    return path


@pytest.fixture
def windows(store):
    with StoreGate.open(store) as gate:
        yield gate["train"]["x"].windows(input=LENGTH - 1, target=1, stride=STRIDE)


def require_windows(stream, epoch, first=0):
    """Require the rest of an epoch: windows of the rows in the order that the stream says."""
    order, done = stream.rows(epoch), first
    for given, wanted in stream:
        rows = STARTS[order[done : done + len(given)]][:, None] + np.arange(LENGTH)
        expected = np.minimum(ROWS[rows], np.float32(0.9))
        np.testing.assert_array_equal(given, expected[:, :-1])
        np.testing.assert_array_equal(wanted, expected[:, -1:])
        done += len(given)
    assert done == len(order)


def files_in(scratch):
    return [path for path in scratch.rglob("*-*") if path.is_file()]


def test_windows_are_those_of_the_order_and_later_epochs_read_no_stored_rows(windows, scratch, counted_reads):
    stream = windows.batches(64, **OPTIONS)
    require_windows(stream, 0)
    assert sum(path.stat().st_size for path in files_in(scratch)) <= 1.01 * ROWS.nbytes
    counted_reads.clear()
    require_windows(stream, 1)
    assert not counted_reads
    stream.close()
    assert not files_in(scratch)


def test_ranks_and_resumed_loops_give_the_rest(windows, scratch):
    own = windows.batches(64, rank=1, world=2, **OPTIONS)
    for _ in own:
        break
    own.seek(0, 10)
    require_windows(own, 0, first=320)
    other = windows.batches(64, **OPTIONS)
    for at, _ in enumerate(other):
        if at == 40:
            break
    assert other.step == 41
    require_windows(other, 0, first=41 * 64)
    own.close()
    other.close()
    assert not files_in(scratch)


def test_damaged_copies_are_noticed(windows, scratch):
    stream = windows.batches(64, **OPTIONS)
    require_windows(stream, 0)
    for path in files_in(scratch):
        if not path.name.endswith("-checks"):
            content = bytearray(path.read_bytes())
            content[1000::5000] = bytes(len(content[1000::5000]))
            path.write_bytes(content)
    with pytest.raises(errors.CorruptStoreError, match=r"spill file .*rows \d+ to \d+ are not what was written"):
        list(stream)
    stream.close()


def test_few_windows_are_read_where_they_are(windows, scratch):
    stream = windows.batches(64, epoch=0, **OPTIONS)
    stream.seek(0, len(stream) - 5)
    require_windows(stream, 0, first=(len(stream) - 5) * 64)
    assert not files_in(scratch)
    stream.close()


def test_loops_that_are_left_leave_no_part_of_a_copy(tmp_path, scratch):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data({"x": ROWS, "y": ROWS})
        stream = gate["train"][["x", "y"]].windows(input=LENGTH - 1, target=1, stride=STRIDE).batches(64, **OPTIONS)
        for _ in range(4):
            for _ in stream:
                if len(files_in(scratch)) > 2:  # those of y
                    break
        assert sum(path.stat().st_size for path in files_in(scratch)) <= 2.02 * ROWS.nbytes
        stream.close()
    assert not files_in(scratch)


def test_without_space_for_a_copy_windows_are_read_where_they_are(windows, scratch, monkeypatch):
    def write(self, blocks):
        raise errors.SpillError(f"spill file of {self.checked_rows} rows cannot be written")

    monkeypatch.setattr(RowFile, "write", write)
    stream = windows.batches(64, **OPTIONS)
    with pytest.warns(UserWarning, match="windows could not be copied, so each epoch reads them many times"):
        require_windows(stream, 0)
    first = next(iter(stream))
    assert len(first[0]) == 64
    stream.close()


def test_large_chunks_count(tmp_path):
    projected = []
    for chunk in (100, 20_000):
        with StoreGate("zarr", {"output_dir": tmp_path / str(chunk), "chunk": chunk}, data_id="a") as gate:
            gate.add_data("x", ROWS)
            pairs = gate["train"]["x"].windows(input=LENGTH - 1, target=1, stride=STRIDE)
            if chunk == 20_000:  # 4.9 MiB, of which four do not fit beside the rest
                with pytest.raises(errors.MemoryBudgetError):
                    pairs.batches(64, shuffle=True, budget="12MiB")
            projected.append(pairs.batches(64, **OPTIONS | {"budget": "40MiB"}).projected_nbytes)
    assert max(projected) <= 40 * 2**20


@pytest.mark.parametrize("dtype", ["i1", "f8", "M8[s]", "S7"])
@pytest.mark.parametrize("row_shape", [(), (3,), (900,)])
def test_any_run_of_a_file_comes_back(tmp_path, dtype, row_shape):
    n_rows = 5000 if row_shape != (900,) else 50
    rows = np.random.default_rng(2).integers(0, 100, (n_rows, *row_shape)).astype(dtype)
    file = RowFile(tmp_path / "rows", rows.dtype, row_shape, n_rows)
    step = 3 * file.checked_rows
    assert file.write(rows[lo : lo + step] for lo in range(0, n_rows, step))
    with file.opened() as copy:
        for start, stop in np.sort(np.random.default_rng(3).integers(0, n_rows + 1, (40, 2)), axis=1).tolist():
            out = np.empty_like(rows[start:stop])
            copy.read_into(start, stop, out)
            np.testing.assert_array_equal(out, rows[start:stop])


def test_files_without_all_rows_are_not_there(tmp_path):
    rows = np.zeros((5000, 3))
    file = RowFile(tmp_path / "rows", rows.dtype, (3,), len(rows))
    assert not file.write([rows[: file.checked_rows]])
    assert not list(tmp_path.iterdir())
    with pytest.raises(errors.CorruptStoreError, match="missing"), file.opened():
        pass
    gone = RowFile(tmp_path / "gone" / "rows", rows.dtype, (3,), len(rows))
    with pytest.raises(errors.SpillError, match="storegate.scratch-directory"):
        gone.write([rows])
