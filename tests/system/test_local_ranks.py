"""How many ranks a machine has: as their launcher says, where it has started them."""

from __future__ import annotations

import pytest

from storegate_engine.settings import LAUNCHERS, local_ranks

SLURM = {"SLURM_STEP_NUM_TASKS": "10", "SLURM_STEP_TASKS_PER_NODE": "4(x2),2"}


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch):
    for name in [*LAUNCHERS, *filter(None, LAUNCHERS.values()), "SLURM_NODEID"]:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, 10),
        ({"LOCAL_WORLD_SIZE": "5"}, 5),
        ({"LOCAL_WORLD_SIZE": "50"}, 10),
        ({"LOCAL_WORLD_SIZE": "0"}, 1),
        ({"LOCAL_WORLD_SIZE": "many"}, 10),
        ({"LOCAL_WORLD_SIZE": "2", **SLURM}, 2),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "5", "OMPI_COMM_WORLD_SIZE": "10"}, 5),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "1", "OMPI_COMM_WORLD_SIZE": "1"}, 10),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "5"}, 10),
        ({"MPI_LOCALNRANKS": "2", "PMI_SIZE": "10"}, 2),
        (SLURM, 4),
        ({**SLURM, "SLURM_NODEID": "1"}, 4),
        ({**SLURM, "SLURM_NODEID": "2"}, 2),
        ({**SLURM, "SLURM_NODEID": "3"}, 10),
        ({**SLURM, "SLURM_NODEID": "first"}, 4),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "5", "SLURM_NODEID": "1"}, 5),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "5(x2", "SLURM_NODEID": "1"}, 10),
        # one task that starts ten ranks on its machine
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_TASKS_PER_NODE": "1", "SLURM_NODEID": "0"}, 10),
    ],
)
def test_ten_ranks(monkeypatch, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert local_ranks(10) == expected


def test_one_rank(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert local_ranks(1) == local_ranks(0) == 1
