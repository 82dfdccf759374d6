"""What an import brings in: dask, xarray and pandas only when they are needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.processes import environment

HEAVY = ("dask", "distributed", "pandas", "xarray")

ADDED = """
import numpy as np
gate = StoreGate("zarr", {"output_dir": sys.argv[1], "budget": "64MiB"}, data_id="a")
gate.add_data(["x", "y"], [np.arange(10), np.zeros((10, 2))])
gate.shuffle("train", seed=1)
gate.compile()
next(iter(gate["train"]["x"].batches(5)))
gate.close()
"""


@pytest.mark.parametrize(
    ("what", "heavy"),
    [
        ("from storegate import StoreGate", HEAVY),
        ("from storegate import StoreGate" + ADDED, ("dask.array", "distributed", "pandas", "xarray")),
    ],
    ids=["imported", "used on arrays"],
)
def test_nobody_waits_for_libraries_that_are_not_used(what: str, heavy: tuple[str, ...], tmp_path) -> None:
    program = f"import sys\n{what}\nprint(*[name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "store")],
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == []
