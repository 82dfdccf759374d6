"""Stored: one data_id's table in storage: segments, manifests and the commit of a transaction."""

from __future__ import annotations

import contextlib
import logging
import random
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from storegate_engine import settings
from storegate_engine.arrays import ArraySpec, Compressor, RowArray, Segment, StoredIndex
from storegate_engine.contents import MARKER, SCRATCH
from storegate_engine.errors import (
    ConflictError,
    CorruptStoreError,
    ReadOnlyError,
    SnapshotExpired,
    StoreError,
    VersionNotFoundError,
    WriteError,
)
from storegate_engine.holds import user_scratch
from storegate_engine.locations import Location, writing
from storegate_engine.orders import NewIndex, RowIndex
from storegate_engine.store.ingest import Ingest
from storegate_engine.store.manifests import Manifest, committed
from storegate_engine.store.repository import Target, Transaction, VersionedRepository
from storegate_engine.store.sources import Source
from storegate_engine.store.table_sources import IndexSource
from storegate_engine.store.undoing import Former, is_change, last_change
from storegate_engine.table import Known, Table, added, stored_arrays, table_from_state, table_to_state

__all__ = ["StoredRepository"]

Array: TypeAlias = np.ndarray[Any, Any]

MAX_TRIES = 1000
_random = random.SystemRandom()  # waits differ between processes, and no seeded state moves
_log = logging.getLogger("storegate")


class _Overtaken(ConflictError):
    """Rows of a change were vacuumed before its commit: no later version can have them."""


class StoredRepository(VersionedRepository):
    """A table in storage; pickled as its location and version.

    Parameters
    ----------
    location : Location
        The directory of the data_id.
    budget_nbytes : int
        Memory limit of long operations.
    writable : bool
        Whether the table may change.
    compressor : tuple of zarr codecs, optional
        How new chunks are compressed.
    chunk_rows : int or None
        Rows of new chunks; chosen by bytes if None.
    durable : bool
        Whether a commit is on the disk before it is acknowledged.
    pinned : int or None
        A version to show, read-only; None for the newest.
    references : sequence of str
        Directories below which files of other formats may be read, if the table refers to any.
    """

    backend = "zarr"

    def __init__(
        self,
        location: Location,
        *,
        budget_nbytes: int,
        writable: bool = True,
        compressor: Compressor | None = None,
        chunk_rows: int | None = None,
        durable: bool = False,
        pinned: int | None = None,
        references: Sequence[str] = (),
    ) -> None:
        super().__init__(location)
        self.references = references
        self.durable = durable
        self._pinned = pinned
        self.writable = writable and pinned is None
        self.budget_nbytes = budget_nbytes
        self._compressor = compressor
        self._chunk_rows = chunk_rows
        self._synced: set[str] = set()
        self._known: Known = {}
        self._unchanged_since: int | None = None  # last change of the manifests while the table was the newest
        self._has_synced_manifests = False
        self._began = self._generation()
        if pinned is not None:
            self._require_known(pinned)
            self._head = self._load(self.log.read(pinned))
        else:
            self._head = self._open_newest()
        self._opened_at = self.version
        self._own: set[int] = set()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the table: the receiver reads it."""
        state = {key: value for key, value in self.__dict__.items() if key != "_head"}
        return {**state, "_known": {}, "_version": self.version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the table of the pickled version."""
        version = state.pop("_version")
        self.__dict__.update(state)
        self._head = self._load(self.log.read(version))

    @property
    def table(self) -> Table:
        """The newest committed table; on a file system, commits of other processes are seen at once."""
        if self._pinned is None and self.log.changed_since(self.version):
            self.refresh()
        return self._head[1]

    @property
    def version(self) -> int:
        """The number of the newest committed table that was seen."""
        return self._head[0].version

    def refresh(self) -> None:
        """Load what other writers have committed; a pinned version stays."""
        if self._pinned is None and not self._is_newest():
            self._head = self._load(self.log.newest())

    def _is_newest(self) -> bool:
        """Return whether the table is that of the newest version; manifests are listed only after a change.

        A missing next version is not enough: a damaged store may have later ones.
        """
        changed = self.log.changed_at()
        if changed is not None and changed == self._unchanged_since and self.log.is_head(self.version):
            return True
        is_newest = self.log.head() == self.version
        self._unchanged_since = changed if is_newest else None
        return is_newest

    def require_writable(self, operation: str) -> None:
        """Raise ReadOnlyError if the table is pinned to a version or was opened with ``mode="r"``."""
        if self._pinned is not None:
            raise ReadOnlyError(
                f"{operation}: this is version {self._pinned}, which cannot change; open the store without version=, "
                f"and make it the newest with rollback({self._pinned})"
            )
        super().require_writable(operation)

    def table_at(self, version: int) -> Table:
        """Return the table of an earlier version."""
        self._require_known(version)
        return self._load(self.log.read(version))[1]

    def _require_known(self, version: int) -> None:
        head = self.log.head()
        if not 0 <= version <= head:
            raise VersionNotFoundError(
                f"version {version} is not there: {self.location}/{self.log.key(version)}; the newest is {head}"
            )
        newest = self._head[0] if hasattr(self, "_head") and self.version == head else self.log.newest_readable()
        if 0 < version < (kept_from := newest.kept_from):  # its file may still exist, but not its rows
            raise SnapshotExpired(
                f"version {version} is not there: {self.location}/{self.log.key(version)}; "
                f"kept are {kept_from}..{head}, vacuum removed the others"
            )

    def former(self) -> Former:
        """Return the version before the last change, which this repository made, or found when it was opened."""
        changed = last_change(self.log, self.version, self._require_own)
        if changed is None:
            raise VersionNotFoundError(f"undo: there is no change to take back: {self.location} is as it was at first")
        try:
            return Former(self.table_at(changed.version - 1), changed.version - 1, changed.version, changed.operation)
        except SnapshotExpired as err:
            raise SnapshotExpired(f"undo: {changed.operation} cannot be taken back: {err}") from err

    def _require_own(self, manifest: Manifest) -> None:
        if manifest.version > self._opened_at and manifest.version not in self._own:
            raise ConflictError(
                f"undo: the last change is {manifest.operation} (version {manifest.version}) of another writer, which "
                "would be lost; nothing was changed: look at history(), and restore a version with rollback(version)"
            )

    def compile_here(self) -> None:
        """Compile the table for this process only."""
        manifest, table = self._head
        self._head = manifest, table.with_compiled()

    def _open_newest(self) -> tuple[Manifest, Table]:
        """Return the newest version; if it cannot be opened, the error names one that can."""
        try:
            return self._load(self.log.newest())
        except CorruptStoreError as err:
            found = self.last_that_opens()
            if found is None:
                raise
            raise CorruptStoreError(
                f"{err}; version {found} can be opened: look at it with version={found}, or make it the newest with "
                f"gate.repair(data_id) or `storegate repair`"
            ) from err

    def last_that_opens(self) -> int | None:
        """Return the number of the last version that opens, None if there is none."""
        for version in reversed(self.log.versions()):
            with contextlib.suppress(StoreError):
                self._load(self.log.read(version))
                return version
        return None

    def _load(self, manifest: Manifest) -> tuple[Manifest, Table]:
        where = f"{self.location}/{self.log.key(manifest.version)}"
        table = table_from_state(manifest.state, self.segments, where, self._known, self.references)
        return manifest, table.within(self.budget_nbytes)

    @property
    def _ingest(self) -> Ingest:
        return Ingest(self.budget_nbytes, self._chunk_rows, self._scratch)

    def _scratch(self) -> Path:
        """Return the scratch directory: the configured one, one in the store, or the user's."""
        if (configured := settings.scratch_directory()) is not None:
            return configured
        path = self.location.path
        return user_scratch() if path is None else path / SCRATCH

    def store_arrays(self, sources: Mapping[str, Source], written: list[Segment]) -> dict[str, RowArray]:
        """Write sources as arrays of one new segment, and add that to ``written``."""
        return self._ingest.write(sources, self._new_segment(written))

    def spec(self, name: str, source: Source, n_together: int = 1) -> ArraySpec:
        """Return how rows would be stored as a new array of a segment; see :meth:`Ingest.spec`."""
        return self._ingest.spec(name, source, n_together)

    def _new_segment(self, written: list[Segment]) -> Segment:
        segment = Segment(
            self.segments, self._compressor, durable=self.durable, renew=lambda: self._new_segment(written)
        )
        written.append(segment)
        return segment

    def _store_index(self, new: NewIndex, written: list[Segment]) -> RowIndex:
        array = self.store_arrays({"index": IndexSource(new)}, written)["index"]
        return StoredIndex(array)  # type: ignore[arg-type]

    def commit_changes(self, transaction: Transaction) -> None:
        """Commit a transaction as the newest state."""
        try:
            if self.durable:
                transaction.sync()
                self._synced.update(transaction.written)
            self._commit_first_free(transaction)
        except WriteError:
            if self.location.is_local:  # elsewhere, an abandoned write may still arrive
                transaction.discard()
            raise

    def _commit_first_free(self, transaction: Transaction) -> None:
        # The edits are made on the newest table, and the result takes the next number. If another writer took that
        # number first, they are repeated on that writer's table, and refused only if it changed what they had read.
        # Rows are never written again: segments do not depend on the number.
        for attempt in range(MAX_TRIES):
            parent, before = self._head
            table = transaction.apply(before)
            self._require_kept(transaction, parent, table)
            unsynced = self._unsynced(parent, before, table, [] if self.durable else transaction.written)
            if self.durable:
                self._sync(parent, unsynced)
            rows, nbytes = added(before, table)
            manifest = committed(
                parent,
                operation=transaction.operation,
                arguments=transaction.arguments,
                state=table_to_state(table),
                rows_added=rows,
                nbytes_added=nbytes,
                kept_from=transaction.kept_from,
                removed=transaction.removed,
                unsynced=() if self.durable else unsynced,
                is_durable=self.durable,
            )
            try:
                with self.location.locked(shared=True):
                    generation = self._generation()
                    if generation == self._began:
                        check = partial(self._require_readable, before, transaction.written)
                        self.log.commit(manifest, sync=self.durable, check=check)
            except ConflictError as err:
                if attempt == MAX_TRIES - 1 or isinstance(err, _Overtaken):
                    raise
                time.sleep(_random.uniform(0, 0.002 * min(attempt, 10)))  # other writers: let one of us win
                self.refresh()
                continue
            if generation != self._began:
                self._began, self._head = generation, self._load(self.log.newest())
                raise ConflictError(
                    f"{transaction.operation}: another opening of {self.location.url} with mode='w' has removed this "
                    "table meanwhile; nothing was changed: the gate now shows the new table, try again on that"
                )
            self._head = manifest, table.within(self.budget_nbytes)
            self._own.add(manifest.version)
            if is_change(transaction.operation, before, table):
                self.last_change = manifest.version
            self._unchanged_since = self.log.changed_at()
            return

    def _generation(self) -> tuple[int, int] | None:
        """Return an id of the marker, which ``mode="w"`` writes anew when it clears the root."""
        entry = Location(self.location.url).status(MARKER) if self.location.is_local else None
        return None if entry is None else (entry.st_ino, entry.st_mtime_ns)

    def _require_readable(self, before: Table, written: Sequence[str], parsed: Manifest) -> None:
        """Read a state as readers will, before it is put in place: a state that cannot be opened cannot be repaired.

        The metadata of arrays written here was checked then; that of other arrays, such as those of an earlier version,
        is read now.

        Raises
        ------
        CorruptStoreError
            The state, or an array new in it, cannot be read.
        ConflictError
            An array new in the state was vacuumed meanwhile.
        """
        table = self._load(parsed)[1]
        new = stored_arrays(table).keys() - stored_arrays(before).keys()
        looked_at = set()
        for array in new:
            try:
                if array.segment not in written:
                    array.inspect()
                elif array.segment not in looked_at:
                    array.require_segment()
                    looked_at.add(array.segment)
            except SnapshotExpired as err:
                raise _Overtaken(
                    f"segment {array.location} was vacuumed while it was written; nothing was changed: try again, and "
                    "vacuum with an age that exceeds the longest change"
                ) from err

    def _unsynced(self, parent: Manifest, before: Table, table: Table, written: Sequence[str]) -> list[str]:
        """Return the segments of a new table that may not be on the disk, including this transaction's, as given."""
        used, known = ({array.segment for array in stored_arrays(of)} for of in (table, before))
        known = set() if parent.unsynced is None else known.difference(parent.unsynced)
        return sorted(used.difference(known, self._synced) | used.intersection(written))

    def _sync(self, parent: Manifest, unsynced: Sequence[str]) -> None:
        """Flush to the disk, once, what commits without durability have left in the system's memory."""
        for identifier in unsynced:
            with writing(self.segments / identifier):
                (self.segments / identifier).sync()
            self._synced.add(identifier)
        if parent.version and not parent.is_durable and not self._has_synced_manifests:
            with writing(self.location / "manifests"):
                (self.location / "manifests").sync()
            self._has_synced_manifests = True

    def _require_kept(self, transaction: Transaction, parent: Manifest, table: Table) -> None:
        """Refuse segments that a vacuum removed meanwhile: of this transaction, or of the version it goes back to.

        Raises
        ------
        ConflictError
            Some segments were removed, or the versions that would show it.
        """
        if parent.version == transaction.version:
            return
        removed: set[str] = set()
        for version in range(transaction.version + 1, parent.version + 1):
            try:
                removed.update(self.log.read(version).removed)
            except SnapshotExpired:  # with the segments that a vacuum listed there
                removed.update(transaction.written)
        lost = removed.intersection(array.segment for array in stored_arrays(table))
        if lost or parent.version < transaction.version:
            raise ConflictError(
                f"{transaction.operation}: vacuum (or mode='w') of another process has removed what was written for it "
                f"meanwhile, in {self.segments}; nothing was changed, try again, and vacuum with an age that exceeds "
                "the longest change"
            )

    def _changed_by(self, transaction: Transaction, target: Target) -> str:
        phase, name = target
        before = transaction.table[phase].get(name)
        for version in range(transaction.version + 1, self.version + 1):
            try:
                manifest, table = self._load(self.log.read(version))
            except (SnapshotExpired, StoreError):
                continue
            if table[phase].get(name) != before:
                return f"{manifest.operation} (version {version})"
        return "an operation"
