"""Clusters of dask as people run them, and what they leave."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from distributed import Client, Nanny, Scheduler, SpecCluster

from storegate_engine.holds import LOCK
from storegate_engine.submitted import drop_unwanted
from tests.listings import files_below

# `dask scheduler` listens on all interfaces with its web server unless it is told where.
LOOPBACK = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}

SCHEDULERS = ["in this process", pytest.param("of its own", marks=pytest.mark.slow)]
"""Where the scheduler of a cluster may run."""

StartWorker = Callable[..., None]


@contextlib.contextmanager
def started_processes(directory: Path) -> Iterator[tuple[Path, StartWorker]]:
    """Start a scheduler as people do; gives its file, and what starts a worker, each in a directory of its own."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, root / "engine")))}
    file = directory / "scheduler.json"
    running: list[subprocess.Popen[bytes]] = []

    def start(name: str, *options: str) -> None:
        (directory / name).mkdir(parents=True)
        loopback = (f"--{option.replace('_', '-')}={value}" for option, value in LOOPBACK.items())
        command = [sys.executable, "-m", "dask", *options, *loopback]
        with open(directory / f"{name}.log", "wb") as log:
            running.append(
                subprocess.Popen(
                    command,
                    cwd=directory / name,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    def start_worker(n_threads: int = 1, memory_limit: str = "700MB") -> None:
        limits = ("--nthreads", str(n_threads), "--memory-limit", memory_limit)
        start(f"worker-{len(running)}", "worker", "--scheduler-file", str(file), *limits)

    try:
        start("scheduler", "scheduler", "--port", "0", "--scheduler-file", str(file))
        yield file, start_worker
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)  # with the workers of nannies
            process.wait()


@contextlib.contextmanager
def scheduler_process(directory: Path) -> Iterator[tuple[Client, StartWorker]]:
    """Start a scheduler, and give its client, and what starts a worker."""
    with (
        started_processes(directory) as (file, start_worker),
        Client(scheduler_file=str(file), timeout=120) as client,  # waits for the file
    ):
        yield client, start_worker


@contextlib.contextmanager
def dask_processes(
    directory: Path, n_workers: int = 2, n_threads: int = 1, memory_limit: str = "700MB"
) -> Iterator[Client]:
    """Start a scheduler and workers that are all alike, and give their client."""
    with scheduler_process(directory) as (client, start_worker):
        for _ in range(n_workers):
            start_worker(n_threads, memory_limit)
        client.wait_for_workers(n_workers, timeout=120)
        yield client


@contextlib.contextmanager
def scheduler_here(directory: Path) -> Iterator[tuple[Client, StartWorker]]:
    """The same as `scheduler_process`, with the scheduler in this process."""
    scheduler = {"cls": Scheduler, "options": LOOPBACK}
    with SpecCluster(workers={}, scheduler=scheduler) as running, Client(running) as client:

        def start_worker(n_threads: int = 1, memory_limit: str = "700MB") -> None:
            options = {"nthreads": n_threads, "memory_limit": memory_limit, "local_directory": str(directory)}
            running.worker_spec[len(running.worker_spec)] = {"cls": Nanny, "options": {**LOOPBACK, **options}}
            running.sync(running._correct_state)  # as `scale` does, whose workers are all alike

        yield client, start_worker


def spill_below(directory: Path) -> list[Path]:
    """Return the spill directories below a directory, and what is in them."""
    found = [path.parent for path, _ in files_below(directory, LOCK)]
    return [*found, *(path for each in found for path, _ in files_below(each))]


def becomes_true(condition: Callable[[], bool], seconds: float = 60) -> bool:
    """Return whether a condition comes true, as it does once a busy client has noticed what nobody holds any more."""
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        gc.collect()
        drop_unwanted()
        time.sleep(0.01)
    return condition()


def gone(directory: Path) -> bool:
    """Return whether a directory goes."""
    return becomes_true(lambda: not directory.exists())
