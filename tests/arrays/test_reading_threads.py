"""Reading threads: tasks of tasks end, errors stop what was not begun."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays import run_tasks
from storegate_engine.arrays.reading_threads import N_CORES


def within(seconds, function):
    """Run a function in a thread of its own, and require that it ends."""
    done = []
    thread = threading.Thread(target=lambda: done.append(function()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert done, "it waits forever"
    return done[0]


def test_tasks_of_tasks_end():
    n_run = []

    def task():
        run_tasks([lambda: n_run.append(1) for _ in range(8)])

    within(60, lambda: run_tasks([task] * (4 * N_CORES)))
    assert len(n_run) == 8 * 4 * N_CORES


def test_rows_through_a_list_of_rows_through_a_long_list(tmp_path):
    n_rows = 400_000  # a stored list of more rows than are kept in memory is read by the pool, too
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data("x", np.arange(n_rows))
        kept = np.random.default_rng(0).random(n_rows) < 0.84
        gate.filter(kept)
        view = gate["train"].subset(np.arange(int(kept.sum())) % 5 > 0)
        found = within(120, lambda: next(iter(view["x"].batches(256, shuffle=False))))
    np.testing.assert_array_equal(found, np.flatnonzero(kept)[np.arange(kept.sum()) % 5 > 0][:256])


def test_an_error_is_raised_and_what_waits_is_not_begun():
    begun = []

    def fail():
        begun.append(1)
        raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        run_tasks([fail] * 100)
    assert len(begun) <= N_CORES
    run_tasks([lambda: begun.append(2)] * 3)
    assert begun.count(2) == 3
