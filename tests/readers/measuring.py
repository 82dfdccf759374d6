"""How much memory a process needs to read files."""

from __future__ import annotations

import subprocess
import sys

from tests.processes import environment
from tests.system import test_budgets

MIB = 2**20

READ = """
import sys, json
sys.path.insert(0, {tests!r})
from budget_cases import peak_nbytes, settle
from storegate import StoreGate
with StoreGate("zarr", {{"output_dir": {store!r}, "budget": {budget}}}, data_id="a") as gate:
    gate.read({warm!r}, {names!r}, phase="test", **{options!r})
    settled = settle()
    gate.read({path!r}, {names!r}, **{options!r})
    print(peak_nbytes() - settled)
"""


def grown(tmp_path, path, warm, budget, names=None, **options):
    """Return by how much a process grows while it reads files, after a small file has loaded the libraries."""
    tests = str(test_budgets.PROGRAM.parent)
    program = READ.format(
        tests=tests,
        store=str(tmp_path / "store"),
        budget=budget,
        path=str(path),
        warm=str(warm),
        names=names,
        options=options,
    )
    done = subprocess.run([sys.executable, "-c", program], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])
