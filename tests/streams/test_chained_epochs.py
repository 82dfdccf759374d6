"""Epochs that are spilled from the one before instead of the stored rows: the same batches, and fewer bytes read."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.orders import Permute, Range
from storegate_engine.streams.shares import Chained
from tests.listings import inodes_below
from tests.processes import environment
from tests.replays import exchanging

pytestmark = pytest.mark.usefixtures("scratch")

IO = Path("/proc/self/io")
"""What this process has read and written, in system calls."""
N_ROWS, ROW_NBYTES, BUDGET = 1000, 1024, "2MiB"
"""Rows that make many buckets."""
FACTORS = np.random.default_rng(0).integers(0, 2**50, ROW_NBYTES // 8)


def moved():
    """Return the bytes that this process has read and written so far."""
    counted = dict(line.split(": ") for line in IO.read_text().splitlines())
    return np.array([int(counted["rchar"]), int(counted["wchar"])])


def store(directory):
    """Return a gate on rows of three widths, which tell their numbers; those of x cannot be compressed."""
    gate = StoreGate("zarr", {"output_dir": directory, "chunk": 10}, data_id="a")
    if "x" not in gate["train"]:
        numbers = np.arange(N_ROWS)
        gate.add_data("x", numbers[:, None] * FACTORS)
        gate.add_data(["y", "z"], [-numbers, np.repeat(numbers.astype("u2"), 200).reshape(N_ROWS, 200)])
        gate.astype("z", "float32")
    return gate


@pytest.fixture
def gate(tmp_path):
    with store(tmp_path / "store") as gate:
        yield gate


def spilling(gate, **options):
    with exchanging("exchange"):
        return gate["train"][["x", "y", "z"]].batches(40, budget=BUDGET, **options)


def whole(gate, **options):
    """Return the rows of an epoch, which come from memory."""
    return rows_in(gate["train"][["x", "y", "z"]].batches(40, budget="64MiB", **options))


def rows_in(batches):
    """Return the numbers of rows, which their variables agree on."""
    found = [np.empty(0, np.int64)]
    for x, y, z in batches:
        assert (x == -y[:, None] * FACTORS).all()
        assert (z == -y[:, None]).all()
        assert z.dtype == np.float32
        found.append(-y)
    return np.concatenate(found)


def test_an_order_by_the_places_of_another_one_works_in_both_directions():
    order, before = (Permute(Range(0, 1000), "feistel8-v1", seed) for seed in (1, 2))
    chained = Chained(order, before)
    stored, places = order.rows(0, 1000), chained.rows(0, 1000)
    np.testing.assert_array_equal(before.take(places), stored)
    np.testing.assert_array_equal(chained.take(np.arange(5, 900, 7)), places[5:900:7])
    np.testing.assert_array_equal(chained.positions(100, 300), np.argsort(places)[100:300])
    assert len(chained) == 1000
    assert chained.runs(0, 10) is None


@pytest.mark.parametrize(
    ("batch_rows", "options"),
    [(40, {}), (41, {"drop_last": True}), (80, {"rank": 1, "world": 2})],
    ids=["chained", "dropped", "ranks"],
)
def test_epochs_are_those_of_the_seed_whatever_they_are_spilled_from(gate, batch_rows, options):
    gate.shuffle("train", seed=9)
    view = gate["train"][["x", "y", "z"]]
    with exchanging("exchange"):
        stream = view.batches(batch_rows, seed=4, budget=BUDGET, **options)
    with stream:
        for epoch in range(3):
            np.testing.assert_array_equal(
                rows_in(stream), rows_in(view.batches(batch_rows, seed=4, epoch=epoch, budget="64MiB", **options))
            )


@pytest.mark.skipif(not IO.exists(), reason="bytes are counted on Linux")
def test_stored_rows_are_read_for_the_first_epoch_alone(gate):
    with exchanging("exchange"), gate["train"]["x"].batches(40, epochs=3, budget=BUDGET) as stream:
        counted = [moved()]
        for _ in range(3):
            assert len(list(stream)) == len(stream)
            counted.append(moved())
    passes = np.diff(counted, axis=0) / (N_ROWS * ROW_NBYTES)
    np.testing.assert_allclose(passes, [[2, 2], [1, 1], [1, 0]], atol=0.3)


def test_a_loop_that_is_left_goes_on_with_the_same_epochs(gate):
    expected = [whole(gate, seed=2, epoch=epoch) for epoch in range(3)]
    with spilling(gate, seed=2) as stream:
        for epoch, steps in enumerate([(3,), (1, 20), (24,)]):
            found = []
            for step in steps:
                batches = iter(stream)
                while stream.step < step:
                    found.append(next(batches))
            np.testing.assert_array_equal(rows_in([*found, *stream]), expected[epoch])
        for epoch, step in ((1, 20), (2, 0), (0, 23)):
            stream.seek(epoch, step)
            np.testing.assert_array_equal(rows_in(stream), expected[epoch][step * 40 :])


@pytest.mark.parametrize(
    ("end", "first"),
    [("killed", 0), ("killed", 1), ("kept", 0)],
)
@pytest.mark.slow
def test_a_spill_of_an_earlier_process_is_used_chained_or_not(tmp_path, scratch, end, first):
    program = f"""
    import json, signal, dask
    from tests.streams.test_chained_epochs import spilling, store
    with dask.config.set({{"storegate.scratch-directory": {str(scratch)!r}}}):
        stream = spilling(store({str(tmp_path / "store")!r}), seed=5, epoch={first})
        for _ in range(1 - {first}):
            list(stream)
        for batch in stream:
            if stream.step == 17:
                print(json.dumps(stream.state_dict()), flush=True)
                {"signal.pause()" if end == "killed" else "break"}
        stream.close(keep_spill=True)
    """
    with store(tmp_path / "store") as gate:
        expected = [whole(gate, seed=5, epoch=epoch) for epoch in (1, 2)]
        arguments = [sys.executable, "-c", textwrap.dedent(program)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment()) as process:
            state = json.loads(process.stdout.readline())
            if end == "killed":
                process.kill()
        assert process.returncode == (-signal.SIGKILL if end == "killed" else 0)
        spilled = inodes_below(scratch, "0000-map-*").keys()
        with spilling(gate, seed=5) as stream:
            stream.load_state_dict(state)
            batches = iter(stream)
            first = next(batches)
            kept = inodes_below(scratch, "0000-map-*").keys()
            assert spilled & kept, "read, not written again"
            np.testing.assert_array_equal(rows_in([first, *batches]), expected[0][17 * 40 :])
            np.testing.assert_array_equal(rows_in(stream), expected[1])
    assert not scratch.exists()
