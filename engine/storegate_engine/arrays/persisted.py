"""Persisted rows: in the memory of a cluster's workers, for as long as the cluster lives."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from storegate_engine.arrays.rows import Fileless
from storegate_engine.clusters import active_client, asking, raise_failed
from storegate_engine.errors import ClusterError

if TYPE_CHECKING:
    import dask.array as da

__all__ = ["PersistedArray", "persist"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class PersistedArray(Fileless):
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

    def on_workers(self) -> da.Array:
        """Return the persisted dask array.

        Raises
        ------
        ClusterError
            The client of the cluster was closed, so that the rows are gone, or the scheduler was lost.
        """
        from distributed import futures_of  # optional, deferred on purpose

        gone = next((f for f in futures_of(self.values) if f.status in ("cancelled", "lost")), None)  # type: ignore[no-untyped-call]
        if gone is not None:
            raise ClusterError(
                "the rows were in the memory of a cluster's workers, and went with its client, which was closed or "
                "lost; next time move them with to_storage first, or take them to memory again from where they came"
            )
        return self.values

    def read_into(self, start: int, stop: int, out: Array, /, *, alone: bool = False) -> None:
        """Fetch rows ``start..stop``."""
        out[...] = _computed(self.on_workers()[start:stop])[0]

    def take_into(self, rows: Array, out: Array, /, *, alone: bool = False) -> None:
        """Fetch ``rows``; every block that they touch is read once."""
        from dask.delayed import delayed  # deferred on purpose: it takes a tenth of a second

        values = self.on_workers()
        starts = np.cumsum((0, *values.chunks[0]))
        block_of = np.searchsorted(starts, rows, side="right") - 1
        wanted = [np.flatnonzero(block_of == block) for block in np.unique(block_of)]
        parts = []
        for where in wanted:
            first, stop = starts[block_of[where[0]] :][:2].tolist()
            parts.append(delayed(np.take)(values[first:stop], rows[where] - first, axis=0))
        for where, part in zip(wanted, _computed(*parts), strict=True):
            out[where] = part


def _computed(*collections: Any) -> tuple[Any, ...]:
    from dask.base import compute  # deferred on purpose, as all of dask

    client = active_client()
    with asking(client) if client is not None else contextlib.nullcontext():
        computed: tuple[Any, ...] = compute(*collections)
    return computed


def persist(arrays: Mapping[str, da.Array]) -> dict[str, PersistedArray]:
    """Compute dask arrays on the workers of the active cluster and keep them there: all of their rows, or none.

    Raises
    ------
    ClusterError
        The cluster was closed, or its scheduler was lost.
    Exception
        The error of the first task that failed.
    """
    from dask.base import persist as persist_collections  # deferred on purpose, as all of dask
    from distributed import futures_of, wait  # optional, too

    client = active_client()
    assert client is not None
    whole = [array.rechunk(dict.fromkeys(range(1, array.ndim), -1)) for array in arrays.values()]
    with asking(client):
        persisted = persist_collections(*whole)
        futures = futures_of(persisted, client=client)  # type: ignore[no-untyped-call]
        wait(futures)  # type: ignore[no-untyped-call]
        raise_failed(futures)
    return {name: PersistedArray(array) for name, array in zip(arrays, persisted, strict=True)}
