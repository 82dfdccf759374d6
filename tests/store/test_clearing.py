"""Clearing: openers with ``mode="w"`` at once leave a whole store, whoever was last."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import ConflictError, StoreGateError

WRITER = """
import sys
import numpy as np
from storegate import StoreGate
from storegate_engine.errors import StoreGateError

root, number = sys.argv[1], int(sys.argv[2])
for _ in range(10):
    try:
        with StoreGate("zarr", {"output_dir": root, "mode": "w"}, data_id="a") as gate:
            for at in range(3):
                gate.add_data(f"x{number}_{at}", np.full(100, number))
    except StoreGateError:
        pass
"""


def _require_whole(root: Path) -> None:
    with StoreGate("zarr", {"output_dir": str(root)}, data_id="a") as gate:
        assert not gate.verify().problems
        for name in gate.get_var_names():
            np.testing.assert_array_equal(gate.get_data(name), np.full(100, int(name[1])))


def test_a_commit_to_a_table_that_was_cleared_is_refused_and_the_next_one_sees_the_new(tmp_path: Path) -> None:
    args = {"output_dir": str(tmp_path)}
    with StoreGate("zarr", {**args, "mode": "w"}, data_id="a") as first:
        first.add_data("x1", np.full(100, 1))
        with StoreGate("zarr", {**args, "mode": "w"}, data_id="a") as second:
            second.add_data("x2", np.full(100, 2))
            with pytest.raises(ConflictError, match="mode='w'"):
                first.add_data("x3", np.full(100, 3))
            assert first.get_var_names() == ["x2"]
            first.add_data("x4", np.full(100, 4))
            assert second.get_var_names() == ["x2", "x4"]
    _require_whole(tmp_path)


def test_threads_that_clear_at_once_leave_a_whole_store(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with (
            contextlib.suppress(StoreGateError),
            StoreGate("zarr", {"output_dir": str(tmp_path), "mode": "w"}, data_id="a") as gate,
        ):
            for at in range(3):
                gate.add_data(f"x{number}_{at}", np.full(100, number))

    with ThreadPoolExecutor(4) as threads:
        for _ in range(10):
            list(threads.map(write, range(4)))
            _require_whole(tmp_path)


@pytest.mark.slow
def test_processes_that_clear_at_once_leave_a_whole_store(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path / "s")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    writers = [subprocess.Popen([*command, str(number)], stderr=subprocess.PIPE, env=env) for number in range(3)]
    errors = [writer.communicate(timeout=120)[1] for writer in writers]
    assert [writer.returncode for writer in writers] == [0, 0, 0], errors
    _require_whole(tmp_path / "s")
