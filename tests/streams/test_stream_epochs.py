"""Streams that are told how many epochs will be read: the same batches, an end, and nothing for an epoch after it."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate, errors
from tests.listings import inodes_below
from tests.replays import KINDS, SMALL, SOURCES, budget_of, exchanging

pytestmark = pytest.mark.usefixtures("scratch")

IO = Path("/proc/self/io")
"""What this process has read and written, in system calls."""
N_ROWS, ROW_NBYTES = 2000, 1024
NBYTES = N_ROWS * ROW_NBYTES
BUDGET = "1MiB"


def moved():
    """Return the bytes that this process has read and written so far."""
    counted = dict(line.split(": ") for line in IO.read_text().splitlines())
    return np.array([int(counted["rchar"]), int(counted["wchar"])])


@pytest.fixture
def view(tmp_path):
    """Rows of 1 kB in chunks of 10, which are never read in part."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 10}, data_id="a") as gate:
        rows = np.random.default_rng(0).integers(0, 2**60, (N_ROWS, ROW_NBYTES // 8))
        rows[:, 0] = np.arange(N_ROWS)
        gate.add_data("x", rows)
        yield gate["train"]["x"]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("kind", sorted(KINDS))
@pytest.mark.filterwarnings("ignore:shuffle=.blocks.:UserWarning")
def test_a_stream_of_so_many_epochs_gives_these_and_then_refuses(opened, kind, source):
    options = {"block_rows": 7, "buffer_blocks": 9} if kind == "blocks" else {}
    options |= {"shuffle": KINDS[kind], "seed": 3, "budget": budget_of(source)}
    view = opened(300, 10)["train"]["x"]
    with exchanging(source), view.batches(32, **options) as endless, view.batches(32, epochs=3, **options) as stream:
        for epoch in range(3):
            assert stream.state_dict() == endless.state_dict(), "the end is no part of the order"
            np.testing.assert_array_equal(np.concatenate(list(stream)), np.concatenate(list(endless)))
            assert stream.epoch == epoch + 1
        for loop in (stream, copy.copy(stream), stream.on_rank(1, 2)):
            with pytest.raises(errors.IterationError, match=r"epochs=3.*seek\(0\)"):
                iter(loop)
        stream.seek(2)
        assert len(list(stream)) == len(stream)


def test_an_end_counts_the_epochs_before_a_resumed_state(opened):
    view = opened(300, 10)["train"]["x"]
    before = view.batches(100, seed=1, epochs=5)
    before.seek(1, 2)
    state = json.loads(json.dumps(before.state_dict()))
    after = view.batches(100, seed=1, epochs=2)
    after.load_state_dict(state)
    assert len(list(after)) == 1
    after.load_state_dict({**state, "step": 3})  # a training that has ended, begun again
    with pytest.raises(errors.IterationError):
        iter(after)
    for late in ({"epoch": 2, "step": 1}, {"epoch": 3, "step": 0}):
        with pytest.raises(errors.StreamStateError, match=r"epoch [23].*epochs=2.*more"):
            after.load_state_dict({**state, **late})
        with pytest.raises(errors.ArgumentError, match="epochs=2"):
            after.seek(**late)
    assert (after.epoch, after.step) == (2, 0)


@pytest.mark.parametrize(("epoch", "epochs"), [(0, 0), (0, -1), (3, 2)])
def test_an_end_that_is_no_number_of_epochs_is_refused(opened, epoch, epochs):
    with pytest.raises(errors.ArgumentError, match=f"epochs={epochs}.*epoch {epoch}.*at least 1"):
        opened(300, 10)["train"]["x"].batches(100, epoch=epoch, epochs=epochs)


@pytest.mark.skipif(not IO.exists(), reason="bytes are counted on Linux")
def test_the_last_epoch_reads_and_spills_nothing_for_another(view, scratch):
    with exchanging("exchange"), view.batches(50, seed=1, epochs=2, budget=BUDGET) as stream:
        bytes_of, n_directories = [moved()], []
        for _ in range(2):
            for at, _ in enumerate(stream):
                if at == 10:
                    n_directories.append(len(list(scratch.iterdir())))
            bytes_of.append(moved())
    (first_read, first_written), (last_read, last_written) = np.diff(bytes_of, axis=0) / NBYTES
    assert n_directories == [2, 1]
    assert first_read == pytest.approx(2, abs=0.3), "one epoch scattered and collected, the next one from its buckets"
    assert first_written == pytest.approx(2, abs=0.2)
    assert last_read == pytest.approx(1, abs=0.3)
    assert last_written < 0.01


@pytest.mark.skipif(not IO.exists(), reason="bytes are counted on Linux")
def test_a_loop_over_a_shuffled_view_reads_its_rows_once(tmp_path, view):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "budget": BUDGET}, data_id="a") as gate:
        gate.shuffle("train", seed=2)
        before = moved()
        with dask.config.set({"storegate.shuffle": "exchange"}):
            found = [row[0] for row in gate["train"]["x"]]
        read, written = (moved() - before) / NBYTES
        expected = gate["train"]["x"][:][:, 0].tolist()
    assert found == expected
    assert read == pytest.approx(2, abs=0.3), "the rows and their spill"
    assert written == pytest.approx(1, abs=0.2)


def test_a_spill_is_used_by_streams_with_another_end(tmp_path, scratch):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 100}, data_id="a") as gate:
        gate.add_data("x", np.arange(20_000))
        view = gate["train"]["x"]
        expected = np.concatenate(list(view.batches(100, seed=3, budget="64MiB")))
        with exchanging("exchange"):
            stream = view.batches(100, seed=3, epochs=1, budget=SMALL)
            first = [batch for _, batch in zip(range(50), stream, strict=False)]
            state = stream.state_dict()
            stream.close(keep_spill=True)
            kept = inodes_below(scratch, "*-map-*").keys()
            assert kept
            with view.batches(100, seed=3, epochs=2, budget=SMALL) as resumed:
                resumed.load_state_dict(state)
                batches = iter(resumed)
                rest = [next(batches)]
                assert kept <= inodes_below(scratch, "*-map-*").keys(), "read, not written again"
                np.testing.assert_array_equal(np.concatenate([*first, *rest, *batches]), expected)
    assert not scratch.exists()


def numbers(batches):
    return np.concatenate([np.empty(0, np.int64), *(batch[:, 0] for batch in batches)])


@pytest.mark.parametrize(
    ("world", "options"),
    [(1, {}), (3, {}), (3, {"drop_last": "pad"}), (1, {"weights": np.arange(N_ROWS)})],
    ids=["uniform", "ranks", "pad", "drawn"],
)
def test_steps_that_are_picked_before_the_spill_is_there_are_the_same(view, options, world):
    whole = view.batches(10, seed=2, rank=world - 1, world=world, budget="64MiB", **options)
    expected = [numbers([batch]) for batch in whole]
    for step in (0, len(whole) - 7):
        with exchanging("exchange"):
            stream = view.batches(10, seed=2, rank=world - 1, world=world, epochs=1, budget=BUDGET, **options)
        with stream:
            stream.seek(0, step)
            np.testing.assert_array_equal(numbers(stream), np.concatenate(expected[step:]))


@pytest.mark.parametrize("transform", [None, lambda batch, rng: batch], ids=["", "transformed"])
def test_the_first_batch_does_not_wait_for_the_spill(tmp_path, view, transform):
    with exchanging("exchange"):
        stream = view.batches(8, seed=1, budget=BUDGET, transform=transform)
    assert min(stream.rows()[:8]) >= 10, "the first chunk is damaged, and not needed yet"
    (shard,) = tmp_path.glob("store/a/segments/*/x/c/0/0")
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    with stream:
        batches = iter(stream)
        np.testing.assert_array_equal(next(batches)[:, 0], stream.rows()[:8])
        with pytest.raises(errors.CorruptStoreError):
            list(batches)


def test_an_epoch_that_is_nearly_done_is_resumed_without_a_spill(view, scratch):
    with exchanging("exchange"), view.batches(8, seed=1, epochs=1, budget=BUDGET) as stream:
        stream.seek(0, len(stream) - 2)
        expected = stream.rows()[-2 * 8 :]
        np.testing.assert_array_equal(numbers(stream), expected)
        assert inodes_below(scratch, "*-map-*") == {}
