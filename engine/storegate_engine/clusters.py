"""Clusters: the memory and threads of a dask cluster's workers, running or promised, and waiting for its tasks."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass
from typing import Any

from storegate_engine import settings
from storegate_engine.budget import available_nbytes
from storegate_engine.errors import ClusterError, StoreGateError, WorkerTimeoutError

__all__ = [
    "Capacity",
    "WorkerLimits",
    "active_client",
    "asking",
    "capacity",
    "raise_failed",
    "thread_given_back",
    "unseen_by",
    "worker_limits",
]


@dataclass(frozen=True, slots=True)
class WorkerLimits:
    """The memory and threads of one worker."""

    memory_nbytes: int | None
    """Memory limit of the worker, None if it has none."""
    threads: int
    """Number of tasks that it runs at the same time."""


def active_client() -> Any | None:
    """Return the ``distributed.Client`` that is active in this process, None if there is none or it was closed.

    In a task of a worker it is the worker's own client, as in dask.
    """
    if "distributed" not in sys.modules:  # then there is no client
        return None
    from distributed import get_client  # optional, deferred on purpose

    try:
        client = get_client()
    except ValueError:
        return None
    return None if client.status == "closed" else client  # one that was closed within its own ``with``


@contextlib.contextmanager
def asking(client: Any) -> Iterator[None]:
    """Wait for tasks of a cluster inside this context; in a task, its thread goes back to the worker meanwhile.

    Raises
    ------
    ClusterError
        The cluster was closed, or its scheduler was lost, before the tasks were done.
    """
    from distributed.comm.core import CommClosedError  # optional, deferred on purpose

    _require_running(client)
    address = _address(client)  # later it may be unknown
    with thread_given_back():
        try:
            yield
        except Exception as err:
            lost = client.status != "running" or isinstance(err, (CancelledError, CommClosedError))
            if isinstance(err, StoreGateError) or not lost:
                raise
            cause = f"{type(err).__name__}: {err}".splitlines()[0]  # dask appends details of each task
            raise ClusterError(
                f"the cluster at {address} was closed or lost before its tasks were done ({cause}); nothing was "
                "committed: make the call again with a running cluster"
            ) from err


@contextlib.contextmanager
def thread_given_back() -> Iterator[None]:
    """Let the worker run other tasks in place of this thread; does nothing outside a worker's threads."""
    from distributed import rejoin, secede  # optional, deferred on purpose

    try:
        secede()  # type: ignore[no-untyped-call]
    except (AttributeError, KeyError, ValueError):  # not in a task, or given back already
        yield
        return
    try:
        yield
    finally:
        rejoin()  # type: ignore[no-untyped-call]


def raise_failed(futures: list[Any]) -> None:
    """Raise the error of the first failed future; results of the others are not fetched."""
    for future in futures:
        if future.status != "finished":
            future.result()


def unseen_by(client: Any, path: os.PathLike[str]) -> list[str]:
    """Return the addresses of the workers that cannot see a file of this process."""
    with asking(client):
        found = client.run(os.path.isfile, os.fspath(path), on_error="return")
    return sorted(address for address, sees in found.items() if sees is False)


def _address(client: Any) -> str:
    return str(getattr(client.scheduler, "address", "an unknown address"))


def _require_running(client: Any) -> None:
    if client.status != "running":
        raise ClusterError(
            f"the scheduler at {_address(client)} does not answer: it was closed or lost (the client is "
            f"{client.status!r}); close the client to go on without a cluster, or connect to a running one"
        )


def worker_limits(client: Any) -> list[WorkerLimits]:
    """Return the limits of all workers: those that run, and those that the cluster will start.

    Raises
    ------
    WorkerTimeoutError
        There is no worker, its limits are unknown, and none came within ``storegate.worker-timeout``.
    ClusterError
        The scheduler was lost.
    """
    found = _present(client) + _promised(client.cluster)
    if found:
        return found
    seconds = settings.worker_timeout()
    try:
        if seconds > 0:  # distributed takes 0 as no limit
            client.wait_for_workers(1, timeout=seconds)
            found = _present(client)
    except TimeoutError as err:
        raise _no_workers(client, seconds) from err
    if not found:
        raise _no_workers(client, seconds)
    return found


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory and threads to plan with: this process's, or one worker's of the active cluster."""

    budget_nbytes: int
    """The memory limit."""
    workers: int
    """Number of tasks that run at the same time within it."""


def capacity(budget_nbytes: int) -> Capacity:
    """Return the memory and threads to plan with, within ``budget_nbytes``; on a cluster, the smallest worker's."""
    client = active_client()
    if client is None:
        return Capacity(budget_nbytes, _n_cores())
    limits = [
        (min(budget_nbytes, worker.memory_nbytes or budget_nbytes), worker.threads) for worker in worker_limits(client)
    ]
    return Capacity(*min(limits, key=lambda limit: limit[0] / limit[1]))


def _n_cores() -> int:
    """Return the number of threads in which dask runs tasks: the cores that the process may use."""
    from dask.system import CPU_COUNT  # deferred on purpose: importing StoreGate is quick

    return CPU_COUNT


def _no_workers(client: Any, seconds: float) -> WorkerTimeoutError:
    return WorkerTimeoutError(
        f"plans are made for the smallest worker, and the cluster at {_address(client)} has none after {seconds:g} s; "
        "start workers first, raise storegate.worker-timeout, or close the client to go on without a cluster"
    )


def _present(client: Any) -> list[WorkerLimits]:
    _require_running(client)
    info: Mapping[str, Any] = client.scheduler_info(n_workers=-1)
    if "workers" not in info:  # the connection was lost, and the client's information with it
        raise ClusterError(f"the scheduler at {_address(client)} was lost; connect to a running one")
    return [WorkerLimits(worker["memory_limit"] or None, worker["nthreads"]) for worker in info["workers"].values()]


def _promised(cluster: Any | None) -> list[WorkerLimits]:
    """Return the limits of the workers that a cluster was told to start, or of those it starts when it scales.

    Empty if the cluster has no specification, or one without limits.
    """
    specified = getattr(cluster, "worker_spec", None)
    if not isinstance(specified, Mapping):
        return []
    specs = list(specified.values())
    template = getattr(cluster, "new_spec", None)
    if template and (not specs or getattr(cluster, "_adaptive", None) is not None):
        specs.append(template)
    limits = [_limits_of(spec.get("options", {})) for spec in specs]
    return [limit for limit in limits if limit is not None]


def _limits_of(options: Mapping[str, Any]) -> WorkerLimits | None:
    """Return the limits in the options of a specification, None if they are not known."""
    if isinstance(options.get("kwargs"), Mapping):  # of a worker that is started over SSH
        options = options["kwargs"]
    if "config_name" in options:
        return _limits_of_job(options)
    if "nthreads" not in options and "memory_limit" not in options:
        return None
    threads = int(options.get("nthreads") or _n_cores())
    return WorkerLimits(_memory_nbytes(options.get("memory_limit", "auto"), threads), threads)


def _limits_of_job(options: Mapping[str, Any]) -> WorkerLimits | None:
    """Return the limits of one of the workers of a job of dask-jobqueue."""
    import dask  # deferred on purpose, as all of dask
    from dask.utils import format_bytes, parse_bytes
    from distributed.deploy.utils import nprocesses_nthreads  # optional, too

    def option(key: str) -> Any:
        given = options.get(key)
        return dask.config.get(f"jobqueue.{options['config_name']}.{key}", None) if given is None else given

    cores, memory = option("cores"), option("memory")
    if cores is None or memory is None:
        return None
    processes = option("processes") or nprocesses_nthreads(cores)[0]  # type: ignore[no-untyped-call]
    written = format_bytes(parse_bytes(memory) / processes)  # in the job's script, rounded
    return WorkerLimits(parse_bytes(written.replace(" ", "")), max(1, int(cores) // processes))


def _memory_nbytes(limit: Any, threads: int) -> int | None:
    """Return the bytes of a worker's ``memory_limit``: bytes, a text, a share of the machine's memory, or ``auto``."""
    from dask.utils import parse_bytes  # deferred on purpose, as all of dask

    if limit == "auto":
        return int(available_nbytes() * min(1, threads / _n_cores()))
    if isinstance(limit, float) and limit <= 1:
        return int(available_nbytes() * limit) or None
    return parse_bytes(limit) or None if limit else None
