"""The programs of docs/examples run as they stand, in an empty directory, without a warning."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.processes import environment

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
LOOPBACK = next(
    name for name, addresses in psutil.net_if_addrs().items() if "127.0.0.1" in [each.address for each in addresses]
)
TRAINING = {  # needs an environment with the package, which .ci/run has, and saves to the file
    "training": ("torch", "checkpoint.pt"),
    "training_jax": ("jax", "checkpoint.pickle"),
    "training_lightning": ("lightning", "checkpoints/last.ckpt"),
}


@pytest.mark.slow
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.stem)
def test_it_runs_and_says_what_it_found(program: Path, tmp_path: Path) -> None:
    if program.stem in TRAINING:
        pytest.importorskip(TRAINING[program.stem][0])
    of_lightning = "ignore:`isinstance(treespec, LeafSpec)` is deprecated:FutureWarning"  # with the newest torch
    of_flox = "ignore:The 'generic' unit for NumPy timedelta:DeprecationWarning"  # its import, with numpy 2.5
    command = [sys.executable, "-W", "error", "-W", of_lightning, "-W", of_flox, str(program)]
    run = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip()
    assert "Warning" not in run.stderr


@pytest.mark.slow
@pytest.mark.parametrize("program", TRAINING)
def test_training_that_is_killed_ends_with_the_same_weights(program: str, tmp_path: Path) -> None:
    package, name = TRAINING[program]
    pytest.importorskip(package)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    checkpoint = killed / name
    command = [sys.executable, str(EXAMPLES / f"{program}.py")]
    for directory in (whole, killed):
        directory.mkdir()
    expected = subprocess.run(command, cwd=whole, env=environment(), capture_output=True, text=True, check=True).stdout
    for _ in range(2):
        before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
        with subprocess.Popen(command, cwd=killed, env=environment(), stdout=subprocess.DEVNULL) as running:
            while not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before:
                assert running.poll() is None, "it ended before it could be killed"
            running.kill()
    found = subprocess.run(command, cwd=killed, env=environment(), capture_output=True, text=True, check=True).stdout
    assert found.startswith("going on")
    assert found.splitlines()[-1] == expected.splitlines()[-1]


SRUN = """#!/bin/bash
for _ in $(seq "$SLURM_NTASKS"); do "$@" & done
trap 'kill $(jobs -p); wait; exit 143' TERM
wait
"""


@pytest.mark.slow
def test_the_job_of_slurm_runs_and_leaves_only_what_it_made(tmp_path: Path) -> None:
    """With a stand-in for `srun`, on this machine alone."""
    if shutil.which("openssl") is None and "STOREGATE_CI" not in os.environ:  # .ci/run must not skip it
        pytest.skip("the job needs openssl")
    for name in ("cluster.py", "cluster.sbatch"):
        shutil.copy(EXAMPLES / name, tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    programs = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])
    job = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "2", "SLURM_MEM_PER_CPU": "700", "INTERFACE": LOOPBACK}
    run = subprocess.run(
        ["bash", "cluster.sbatch"],
        cwd=tmp_path,
        env=environment() | job | {"PATH": programs, "TMPDIR": str(tmp_path / "bin")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    logs = {path.name: path.read_text() for path in tmp_path.glob("*-1.log")}
    assert run.returncode == 0, (run.stderr, logs)
    assert "200,000 samples" in run.stdout
    assert logs["scheduler-1.log"].count("Register worker") == 2
    assert "tls://127.0.0.1" in logs["workers-1.log"]
    assert {path.name for path in tmp_path.iterdir()} == {
        "bin", "cluster.py", "cluster.sbatch", "events.zarr", "scheduler-1.log", "workers-1.log"
    }  # fmt: skip


def test_the_page_names_all_of_them() -> None:
    page = (EXAMPLES / "index.md").read_text("utf-8")
    assert all(f"]({program.name})" in page for program in [*PROGRAMS, *EXAMPLES.glob("*.sbatch")])
