"""Streams whose processes are killed again and again, and go on with other numbers of ranks: each row comes once."""

from __future__ import annotations

import json
import os
import random
import signal
import traceback

import dask
import numpy as np
import pytest

from storegate import StoreGate

N_ROWS, BATCH_ROWS, KILLS = 2000, 50, 160
FORMS = {
    "in order": {"shuffle": False},
    "uniform": {"shuffle": True},
    "spilled": {"shuffle": True, "budget": "300KB"},
    "blocks": {"shuffle": "blocks", "block_rows": 10, "buffer_blocks": 70, "label": "x"},
}


def give(view, options, state, rank, world, pipe):
    """Write the rows of every step of this rank, and the state after it, until somebody kills this process."""
    stream = view.batches(BATCH_ROWS, seed=3, rank=rank, world=world, **options)
    if state is not None:
        stream.load_state_dict(state)
    with os.fdopen(pipe, "w") as file:
        while True:
            for batch in stream:
                print(json.dumps([batch.tolist(), stream.state_dict()]), file=file, flush=True)


def run_until_killed(view, options, state, world, n_steps):
    """Run all ranks in processes, kill them after some steps; return the rows of each step, and the last state."""
    children, files, steps = [], [], []
    for rank in range(world):
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reading)
                give(view, options, state, rank, world, writing)
            except BaseException:
                traceback.print_exc()
                raise
            finally:
                os._exit(1)
        os.close(writing)
        children.append(child)
        files.append(os.fdopen(reading))
    try:
        for _ in range(n_steps):
            parts = [json.loads(file.readline()) for file in files]
            assert all(part[1] == parts[0][1] for part in parts), "the state does not depend on the rank"
            steps.append(sorted(row for rows, _ in parts for row in rows))
            state = parts[0][1]
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        for file in files:
            file.close()
    return steps, state


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked, so that many start soon")
@pytest.mark.parametrize("form", FORMS)
def test_streams_of_killed_ranks_lose_no_row_and_give_none_twice(tmp_path, form):
    chance = random.Random(form)
    scratch = tmp_path / "scratch"
    context = {"storegate.scratch-directory": scratch, "storegate.shuffle": "exchange" if form == "spilled" else "auto"}
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 10}, data_id="a") as gate:
        gate.add_data("x", np.arange(N_ROWS))
    with (
        dask.config.set(context),
        StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, data_id="a") as gate,
    ):
        view, state, steps = gate["train"]["x"], None, []
        for _ in range(KILLS // len(FORMS)):
            found, state = run_until_killed(view, FORMS[form], state, chance.randint(1, 4), chance.randint(1, 30))
            steps += found
        per_epoch = N_ROWS // BATCH_ROWS
        assert len(steps) > 10 * per_epoch
        whole = view.batches(BATCH_ROWS, seed=3, **FORMS[form])
        for epoch in range(len(steps) // per_epoch):
            expected = [sorted(batch.tolist()) for batch in whole]
            assert steps[epoch * per_epoch : (epoch + 1) * per_epoch] == expected
            assert sorted(row for step in expected for row in step) == list(range(N_ROWS))
        whole.close()
    assert not scratch.exists(), "what killed processes had spilled goes with the next one"
