"""Tiers: rows persisted in memory, here or on the workers of a cluster; spilled rows are ordinary segments."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
from dask.base import compute
from dask.base import persist as persist_collections
from dask.delayed import delayed
from dask.system import CPU_COUNT

__all__ = ["Capacity", "PersistedArray", "active_client", "capacity", "persist"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class PersistedArray:
    """Rows in the memory of a cluster's workers; lives as long as the cluster does."""

    values: da.Array
    """A persisted dask array."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        dtype: np.dtype[Any] = np.dtype(self.values.dtype)
        return dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return tuple(int(size) for size in self.values.shape[1:])

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return int(self.values.shape[0])

    @property
    def chunk_rows(self) -> int:
        """Rows of one block."""
        return int(max(self.values.chunks[0], default=1)) or 1

    def read_into(self, start: int, stop: int, out: Array, /) -> None:
        """Fetch rows ``start..stop``."""
        out[...] = self.values[start:stop].compute()

    def take_into(self, rows: Array, out: Array, /) -> None:
        """Fetch ``rows``; every block that they touch is asked once."""
        starts = np.cumsum((0, *self.values.chunks[0]))
        block_of = np.searchsorted(starts, rows, side="right") - 1
        wanted = [np.flatnonzero(block_of == block) for block in np.unique(block_of)]
        blocks = self.values.to_delayed().reshape(len(self.values.chunks[0]), -1)[:, 0]
        parts = [
            delayed(np.take)(blocks[block_of[where[0]]], rows[where] - starts[block_of[where[0]]], axis=0)
            for where in wanted
        ]
        for where, part in zip(wanted, compute(*parts), strict=True):
            out[where] = part


@dataclass(frozen=True, slots=True)
class Capacity:
    """Memory and threads that a plan may count on: this process's, or one worker's of the active cluster."""

    budget_nbytes: int
    """The memory limit."""
    workers: int
    """Tasks that run at the same time within it."""


def capacity(budget_nbytes: int) -> Capacity:
    """Return what there is to plan with, within ``budget_nbytes``; the smallest worker's share on a cluster."""
    client = active_client()
    if client is None:
        return Capacity(budget_nbytes, CPU_COUNT)
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    limits = [(worker["memory_limit"] or budget_nbytes, worker["nthreads"]) for worker in workers]
    memory, threads = min(limits, key=lambda limit: limit[0] / limit[1], default=(budget_nbytes, CPU_COUNT))
    return Capacity(min(budget_nbytes, int(memory)), int(threads))


def active_client() -> Any | None:
    """Return the ``distributed.Client`` that is active in this process, None where there is none."""
    if "distributed" not in sys.modules:  # nobody can have made a client
        return None
    from distributed import default_client  # optional, deferred on purpose

    try:
        return default_client()  # type: ignore[no-untyped-call]
    except ValueError:
        return None


def persist(arrays: Mapping[str, da.Array]) -> dict[str, PersistedArray]:
    """Compute dask arrays on the workers of the active cluster and keep them there."""
    whole = [array.rechunk(dict.fromkeys(range(1, array.ndim), -1)) for array in arrays.values()]
    persisted = persist_collections(*whole)
    for array in persisted:
        _wait(array)
    return {name: PersistedArray(array) for name, array in zip(arrays, persisted, strict=True)}


def _wait(array: da.Array) -> None:
    from distributed import wait  # optional, deferred on purpose

    wait(array)  # type: ignore[no-untyped-call]
