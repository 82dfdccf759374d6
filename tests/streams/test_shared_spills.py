"""Ranks of one machine share a spill: the same batches as from memory, each stored row read once for all of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from itertools import zip_longest
from pathlib import Path

import dask
import numpy as np
import pytest

from storegate import StoreGate, errors
from tests import unchecked
from tests.listings import inodes_below, nbytes_below
from tests.processes import environment
from tests.replays import exchanging

pytestmark = [
    pytest.mark.usefixtures("scratch"),
    pytest.mark.skipif(os.name == "nt", reason="locks cannot be shared there: each rank has a spill of its own"),
]

IO = Path("/proc/self/io")
"""What this process has read and written, in system calls."""
N_ROWS, ROW_NBYTES, BUDGET = 1000, 1024, "2MiB"
FACTORS = np.random.default_rng(0).integers(0, 2**50, ROW_NBYTES // 8)
WORLD = 4


@pytest.fixture
def path(tmp_path):
    """A store of rows that tell their numbers."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 10}, data_id="a") as gate:
        gate.add_data("x", np.arange(N_ROWS)[:, None] * FACTORS)
        gate.add_data("y", -np.arange(N_ROWS))
    return tmp_path / "store"


def opened(path):
    return StoreGate("zarr", {"output_dir": path, "mode": "r"}, data_id="a")


def ranks_of(gate, world=WORLD, batch_rows=40, names="x", **options):
    with exchanging("exchange"):
        view = gate["train"][names]
        options = {"seed": 4, "budget": BUDGET, **options}
        return [view.batches(batch_rows, rank=rank, world=world, **options) for rank in range(world)]


def in_memory(gate, epoch, rank, world=WORLD, batch_rows=40, **options):
    options = {"seed": 4, "budget": "64MiB", **options}
    return numbers(gate["train"]["x"].batches(batch_rows, epoch=epoch, rank=rank, world=world, **options))


def numbers(batches):
    """Return the numbers of rows."""
    found = [np.empty(0, np.int64)]
    for batch in batches:
        found.append(batch[:, 0] // FACTORS[0])
        assert (batch == found[-1][:, None] * FACTORS).all()
    return np.concatenate(found)


def moved():
    """Return the bytes that this process has read and written so far."""
    counted = dict(line.split(": ") for line in IO.read_text().splitlines())
    return np.array([int(counted["rchar"]), int(counted["wchar"])])


def run_rank(path, scratch, rank, world, n_epochs, barrier, results):
    """Give all epochs of a rank in step with the others, as trainers do, and what was read and written for them."""
    with dask.config.set({"storegate.scratch-directory": scratch}), opened(path) as gate:
        stream = ranks_of(gate, world, epochs=n_epochs)[rank]
        barrier.wait(60)
        before = moved()
        rows = [numbers(in_step(stream, barrier)) for _ in range(n_epochs)]
        counted = moved() - before
        barrier.wait(60)
        stream.close()
        results.put((rank, rows, counted))


def in_step(batches, barrier):
    """Yield batches, each when all ranks have theirs."""
    for batch in batches:
        barrier.wait(60)
        yield batch


def run_ranks(processes, path, scratch, world, n_epochs):
    """Run ranks in processes; return the rows of each, and all that they read and wrote in passes over the rows."""
    barrier, results = processes.Barrier(world), processes.Queue()
    running = [
        processes.Process(target=run_rank, args=(path, scratch, rank, world, n_epochs, barrier, results))
        for rank in range(world)
    ]
    for process in running:
        process.start()
    found = sorted((results.get(timeout=120) for _ in running), key=lambda result: result[0])
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    return [rows for _, rows, _ in found], sum(counted for *_, counted in found) / (N_ROWS * ROW_NBYTES)


@pytest.mark.skipif(not IO.exists(), reason="bytes are counted on Linux")
@pytest.mark.parametrize("n_epochs", [1, 3])
def test_ranks_in_processes_read_as_much_as_one(path, scratch, processes, n_epochs):
    rows, passes = run_ranks(processes, path, scratch, WORLD, n_epochs)
    with opened(path) as gate:
        for rank in range(WORLD):
            for epoch in range(n_epochs):
                np.testing.assert_array_equal(rows[rank][epoch], in_memory(gate, epoch, rank))
    (_,), alone = run_ranks(processes, path, scratch, 1, n_epochs)
    assert (passes < 1.2 * alone + 0.3).all(), (passes, alone)
    assert not scratch.exists()


@pytest.mark.skipif(not IO.exists(), reason="bytes are counted on Linux")
def test_ranks_in_one_process_read_as_much_as_one(path, scratch):
    with opened(path) as gate:
        streams = ranks_of(gate, epochs=2)
        before = moved()
        for epoch in range(2):
            found = list(zip_longest(*streams))
            for rank, batches in enumerate(zip(*found, strict=True)):
                np.testing.assert_array_equal(numbers(batches), in_memory(gate, epoch, rank))
        for stream in streams:
            stream.close()
        memory = 2 * WORLD * N_ROWS * ROW_NBYTES  # of `in_memory`
        read, _ = (moved() - before - memory) / (N_ROWS * ROW_NBYTES)
        assert read < 4  # stored rows, two spills, and what is picked before
    assert not scratch.exists()


@pytest.mark.parametrize("batch_rows", [1, 2, 37, 41, 300])
@pytest.mark.parametrize("options", [{}, {"drop_last": True}, {"drop_last": "pad"}, {"weights": np.arange(N_ROWS) % 7}])
def test_steps_that_ranks_do_not_share_evenly_are_those_of_memory(path, batch_rows, options):
    """One rank after the other: each finds what those before it have left, or makes it anew."""
    world = 3
    with opened(path) as gate:
        streams = ranks_of(gate, world, batch_rows, **options)
        for epoch in range(2):
            for rank in (1, 0, 2):
                expected = in_memory(gate, epoch, rank, world, batch_rows, **options)
                np.testing.assert_array_equal(numbers(streams[rank]), expected)
        for stream in streams:
            stream.close()


def test_ranks_that_go_on_at_different_steps_and_of_several_variables(path):
    with opened(path) as gate:
        streams = ranks_of(gate, names=["x", "y"])
        for rank, stream in enumerate(streams):
            stream.seek(rank % 2, 5 * rank)
        for rank, stream in enumerate(streams):
            for epoch in range(rank % 2, 3):
                batches = list(stream)
                x = numbers(x for x, _ in batches)
                np.testing.assert_array_equal(np.concatenate([y for _, y in batches]), -x)
                expected = in_memory(gate, epoch, rank)
                np.testing.assert_array_equal(x, expected[len(expected) - len(x) :])
            stream.close()


@pytest.mark.parametrize("local", ["2", "1"])
def test_ranks_on_other_machines_are_not_spilled_for(path, scratch, monkeypatch, local):
    with opened(path) as gate:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", local)
        streams = ranks_of(gate, epochs=1)
        for rank in (2, 3):
            batches = iter(streams[rank])
            first = next(batches)
            list(batches)
            np.testing.assert_array_equal(numbers([first]), in_memory(gate, 0, rank)[:10])
            share = nbytes_below(scratch) / (N_ROWS * ROW_NBYTES)
            # of one machine with two ranks, or of two that do not know that they are on one
            assert share == pytest.approx(0.5 if local == "2" else 0.25 * (rank - 1), abs=0.1)


@pytest.mark.parametrize("end", ["killed", "kept"])
@pytest.mark.slow
def test_a_rank_that_ends_leaves_its_part_to_the_others(path, scratch, end):
    program = f"""
    import dask, json, signal
    from pathlib import Path
    from tests.streams.test_shared_spills import opened, ranks_of
    with dask.config.set({{"storegate.scratch-directory": {str(scratch)!r}}}):
        stream = ranks_of(opened(Path({str(path)!r})), budget={BUDGET!r})[1]
        for batch in stream:
            if stream.step == 9:
                print(json.dumps(stream.state_dict()), flush=True)
                {"signal.pause()" if end == "killed" else "break"}
        stream.close(keep_spill=True)
    """
    with opened(path) as gate:
        others = ranks_of(gate)
        batches = iter(others[0])
        found = [next(batches)]
        arguments = [sys.executable, "-c", textwrap.dedent(program)]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, env=environment()) as process:
            state = json.loads(process.stdout.readline())
            if end == "killed":
                process.kill()
        assert process.returncode == (-signal.SIGKILL if end == "killed" else 0)
        np.testing.assert_array_equal(numbers([*found, *batches]), in_memory(gate, 0, 0))
        for rank, stream in enumerate(others):
            if rank:
                stream.load_state_dict(state)
            for epoch in (0, 1)[not rank :]:
                rows = numbers(stream)
                expected = in_memory(gate, epoch, rank)
                np.testing.assert_array_equal(rows, expected[len(expected) - len(rows) :])
            stream.close()
    assert not scratch.exists()


def test_a_spill_that_all_ranks_keep_is_read_again(path, scratch):
    with opened(path) as gate:
        streams = ranks_of(gate)
        batches = [iter(stream) for stream in streams]
        for _ in range(5):
            for of_rank in batches:
                next(of_rank)
        states = [stream.state_dict() for stream in streams]
        assert all(state == states[0] for state in states)
        for stream in streams:
            stream.close(keep_spill=True)
        kept = inodes_below(scratch, "0000-map-*").keys()
        assert kept
        streams = ranks_of(gate)
        for stream in streams:
            stream.load_state_dict(states[0])
        batches = [iter(stream) for stream in streams]
        found = [[next(of_rank)] for of_rank in batches]
        assert kept <= inodes_below(scratch, "0000-map-*").keys(), "read, not written again"
        for rank, of_rank in enumerate(batches):
            np.testing.assert_array_equal(numbers([*found[rank], *of_rank]), in_memory(gate, 0, rank)[50:])
            streams[rank].close()
    assert not scratch.exists()


def test_a_bad_label_is_named_by_its_row(tmp_path):
    labels = np.arange(N_ROWS) % 5
    labels[123] = 7
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 10}, data_id="a") as gate:
        gate.add_data("y", labels)
        unchecked.onehot(gate, "y", 5)
        found = []
        for stream in ranks_of(gate, names="y", budget="300KB"):
            with stream:
                try:
                    list(stream)
                except errors.LabelError as err:
                    found.append(str(err).partition(":")[0])
        assert found == ["variable 'y', row 123"], "one rank has the row"
