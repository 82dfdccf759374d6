"""Repair: restores the last version of a data_id that opens; removes and changes nothing."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from storegate_engine.errors import CorruptStoreError, SnapshotExpired
from storegate_engine.locations import Location
from storegate_engine.store.manifests import committed
from storegate_engine.store.stored import StoredRepository
from storegate_engine.table import stored_arrays, table_to_state

__all__ = ["repair"]


def repair(location: Location, budget_nbytes: int) -> int | None:
    """Commit the last version that opens again, after those that do not.

    Returns
    -------
    int or None
        The version that was restored; None if the newest one opens.

    Raises
    ------
    CorruptStoreError
        No version can be opened.
    ConflictError
        Another writer committed meanwhile.
    StoreError
        A later version has a newer format, which a newer library can read.
    """
    repository = StoredRepository(location, budget_nbytes=budget_nbytes, pinned=0)
    log, version = repository.log, repository.last_that_opens()
    if version is None:
        raise CorruptStoreError(f"no version of {location} can be opened; restore its manifests from a copy")
    head = log.head()
    if version == head:
        return None
    parent = replace(log.read(version), version=head)
    for later in log.versions():
        if later > version:
            with contextlib.suppress(CorruptStoreError, SnapshotExpired):  # a newer format is not damage
                parent = replace(log.read(later), version=head)
    table = repository.table_at(version)
    manifest = committed(
        parent,
        operation="repair",
        arguments={"version": version},
        state=table_to_state(table),
        unsynced=sorted({array.segment for array in stored_arrays(table)}),
    )
    log.commit(manifest, sync=True)
    return version
