"""Settings: the ``storegate.*`` keys of dask's configuration, and their defaults."""

from __future__ import annotations

import functools
import os
import re
import site
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from storegate_engine.budget import default_budget_nbytes, parse_nbytes
from storegate_engine.errors import ArgumentError, shown

__all__ = [
    "cache_directory",
    "cache_limit_nbytes",
    "direct_spill",
    "fingerprints_at_commit",
    "local_ranks",
    "memory_limit_nbytes",
    "progress_bar",
    "scratch_directory",
    "shuffle_plan",
    "worker_timeout",
]


LAUNCHERS = {
    "LOCAL_WORLD_SIZE": None,
    "OMPI_COMM_WORLD_LOCAL_SIZE": "OMPI_COMM_WORLD_SIZE",
    "MPI_LOCALNRANKS": "PMI_SIZE",
    "SLURM_STEP_TASKS_PER_NODE": "SLURM_STEP_NUM_TASKS",
}
"""Variables that tell the number of tasks on a machine, and those that tell it for all machines."""


def _configured(key: str, default: object = None) -> Any:
    """Return the value of ``storegate.key`` in dask's configuration."""
    if "dask" not in sys.modules and not _may_be_configured():
        return default
    import dask  # deferred on purpose: it takes a tenth of a second

    return dask.config.get(f"storegate.{key}", default)


@functools.cache
def _may_be_configured() -> bool:
    """Return whether dask would find settings of StoreGate when it is imported: in the environment or a file."""
    if any(name.startswith("DASK_") for name in os.environ):
        return True
    try:
        return any(b"storegate" in file.read_bytes() for file in _config_files())
    except OSError:  # dask says what is wrong
        return True


def _config_files() -> Iterator[Path]:
    """Yield the files that dask reads its configuration from, if no environment variable names others."""
    own = Path(os.path.expanduser("~"), ".config", "dask")
    for place in (Path("/etc/dask"), *(Path(at, "etc", "dask") for at in (sys.prefix, *site.PREFIXES)), own):
        try:
            names = os.listdir(place)
        except FileNotFoundError:
            continue
        except NotADirectoryError:
            yield place
        else:
            yield from (place / name for name in names if name.lower().endswith((".json", ".yaml", ".yml")))


def memory_limit_nbytes(budget: int | str | None = None, *, processes: int = 1) -> int:
    """Return the memory limit in bytes: ``budget``, else ``storegate.memory-limit``, else a share of the machine's.

    The last one is divided among ``processes`` equal processes; a configured limit applies to each process.

    >>> import dask
    >>> with dask.config.set({"storegate.memory-limit": "1GiB"}):
    ...     memory_limit_nbytes()
    1073741824
    """
    configured = budget if budget is not None else _configured("memory-limit")
    return default_budget_nbytes() // processes if configured is None else parse_nbytes(configured)


def local_ranks(world: int) -> int:
    """Return how many of ``world`` ranks run on this machine, as their launcher says; all of them if none does.

    ``LOCAL_WORLD_SIZE``, which torchrun sets, always counts. What Open MPI, MPICH and Slurm say counts only where they
    started ``world`` tasks, since one task may start ranks of its own.
    """
    n_ranks = max(1, world)
    for local, everywhere in LAUNCHERS.items():
        told = _on_this_node(os.environ.get(local, ""))
        if told is not None and (everywhere is None or os.environ.get(everywhere) == str(n_ranks)):
            return min(n_ranks, max(1, told))
    return n_ranks


def _on_this_node(told: str) -> int | None:
    """Return a number of tasks, of several that of Slurm's node: ``4(x2),2`` are 4, 4 and 2; None if it is none."""
    node = os.environ.get("SLURM_NODEID", "")
    at = int(node) if node.isdecimal() and not told.isdecimal() else 0
    for part in told.split(","):
        if (found := re.fullmatch(r"([0-9]+)(?:\(x([0-9]+)\))?", part)) is None:
            return None
        n_nodes = int(found[2] or 1)
        if at < n_nodes:
            return int(found[1])
        at -= n_nodes
    return None


def progress_bar(what: str, total_nbytes: int | None) -> Any:
    """Return a tqdm bar over bytes, shown after 2 s in a terminal or notebook unless ``storegate.progress: false``."""
    with warnings.catch_warnings():
        # in a notebook without widgets tqdm asks for them, and then shows plain bars
        warnings.filterwarnings("ignore", "IProgress not found")
        from tqdm.auto import tqdm  # deferred on purpose: in a notebook its import starts widgets

    shown = _configured("progress", True) and (sys.stderr.isatty() or "ipykernel" in sys.modules)
    return tqdm(
        desc=what,
        total=total_nbytes,
        unit="B",
        unit_scale=True,
        unit_divisor=1024,
        delay=2,
        disable=not shown,
    )


def shuffle_plan() -> str:
    """Return ``storegate.shuffle``: ``auto``, ``gather`` or ``exchange``."""
    return str(_configured("shuffle", "auto"))


def direct_spill() -> bool | None:
    """Return ``storegate.direct-spill``: whether spill is written past the page cache; None does what is faster."""
    configured = _configured("direct-spill", "auto")
    if not (configured == "auto" or isinstance(configured, bool)):
        raise ArgumentError(f"storegate.direct-spill is 'auto', true or false, found {shown(configured)}")
    return None if configured == "auto" else configured


def fingerprints_at_commit() -> bool:
    """Return ``storegate.fingerprints``: whether each commit computes those of all variables."""
    return bool(_configured("fingerprints", False))


def scratch_directory() -> Path | None:
    """Return ``storegate.scratch-directory``, None if not set; a relative path starts at the working directory."""
    return _directory("scratch-directory")


def cache_directory() -> Path | None:
    """Return ``storegate.cache-directory``, None if not set; a relative path starts at the working directory."""
    return _directory("cache-directory")


def _directory(name: str) -> Path | None:
    configured = _configured(name)
    if configured is None:
        return None
    if not isinstance(configured, str | os.PathLike):
        raise ArgumentError(f"storegate.{name} is a path, found {shown(configured)}")
    return Path(configured).expanduser().absolute()


def cache_limit_nbytes() -> int:
    """Return ``storegate.cache-limit`` in bytes.

    Raises
    ------
    ArgumentError
        The setting is not a number of bytes.

    Examples
    --------
    >>> import dask
    >>> with dask.config.set({"storegate.cache-limit": "2GB"}):
    ...     cache_limit_nbytes()
    2000000000
    """
    return parse_nbytes(_configured("cache-limit", "16GiB"))


def worker_timeout() -> float:
    """Return ``storegate.worker-timeout`` in seconds: how long a plan waits for a cluster's first worker.

    Raises
    ------
    ArgumentError
        The setting is not a duration.

    Examples
    --------
    >>> import dask
    >>> with dask.config.set({"storegate.worker-timeout": "5 minutes"}):
    ...     worker_timeout()
    300.0
    """
    from dask.utils import parse_timedelta  # deferred on purpose, as all of dask

    configured = _configured("worker-timeout", "60s")
    try:
        return float(parse_timedelta(configured))
    except (KeyError, TypeError, ValueError) as err:
        raise ArgumentError(
            f"storegate.worker-timeout is a time like '60s' or '5 minutes', or seconds; found {shown(configured)}"
        ) from err
