"""The programs of docs/examples run as they stand, in an empty directory, without a warning."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import environment

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
PROGRAMS = sorted(EXAMPLES.glob("*.py"))
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
    command = [sys.executable, "-W", "error", "-W", of_lightning, str(program)]
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


def test_the_page_names_all_of_them() -> None:
    page = (EXAMPLES / "index.md").read_text("utf-8")
    assert all(f"]({program.name})" in page for program in PROGRAMS)
