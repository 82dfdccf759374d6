"""Repositories: one data_id's committed table, and the transactions on it.

A transaction writes new segments, then commits one edit of the table. If another writer was first, the edit is
repeated on that writer's table if the variables it read are unchanged; otherwise it is a conflict.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from storegate_engine.arrays import ArraySpec, RowArray, Segment
from storegate_engine.contents import FINGERPRINTS
from storegate_engine.errors import ConflictError, LabelError, ReadOnlyError, TransactionError
from storegate_engine.locations import Location, writing
from storegate_engine.orders import NewIndex, RowIndex, RowOrder, flatten
from storegate_engine.store.logs import StoredLog
from storegate_engine.store.sources import Source
from storegate_engine.store.table_sources import VariableSource
from storegate_engine.store.tidiness import is_nested, is_untidy, max_parts, to_merge
from storegate_engine.store.undoing import UNDO, Former
from storegate_engine.table import Piece, Table, Variable

__all__ = ["Edit", "Repository", "Target", "Transaction", "VersionedRepository"]

Array: TypeAlias = np.ndarray[Any, Any]
Edit: TypeAlias = Callable[[Table], Table]
Target: TypeAlias = tuple[str, str]
"""A phase and the name of a variable."""

_log = logging.getLogger("storegate")
COMMIT_LOCK = threading.RLock()  # threads that share a repository commit one after the other


def _renew_lock() -> None:
    global COMMIT_LOCK
    COMMIT_LOCK = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Repository:
    """The committed table of one data_id, and how to write rows to it."""

    backend: str
    """``numpy`` if rows are in memory, ``zarr`` if they are in storage."""
    in_memory = False
    """Whether rows take memory, of this process or of a cluster's workers, until they are released."""
    writable = True
    durable = False
    """Whether a commit is on the disk before it is acknowledged."""
    budget_nbytes: int
    last_change: int = 0
    """The version of the last change that was made here, 0 before the first."""
    fingerprints: Location | None = None
    """Where fingerprints are kept; None if they are not."""

    @property
    def table(self) -> Table:
        """The newest committed table."""
        raise NotImplementedError

    @property
    def version(self) -> int:
        """The number of the newest committed table."""
        raise NotImplementedError

    def begin(self, operation: str, **arguments: Any) -> Transaction:
        """Return a new transaction on the newest table.

        Raises
        ------
        ReadOnlyError
            The repository was opened with ``mode="r"``.
        """
        self.require_writable(operation)
        return Transaction(self, operation, arguments)

    def require_writable(self, operation: str) -> None:
        """Raise ReadOnlyError unless the table may change."""
        if not self.writable:
            raise ReadOnlyError(f"{operation}: the store is open with mode='r'; open it with mode='a' to change it")

    def refresh(self) -> None:
        """Load what other writers have committed."""

    def table_at(self, version: int) -> Table:
        """Return the table of an earlier version.

        Raises
        ------
        VersionNotFoundError
            The version never existed, or the repository keeps only the newest one.
        SnapshotExpired
            The version was vacuumed.
        """
        raise NotImplementedError

    def former(self) -> Former:
        """Return the table before the last change.

        Raises
        ------
        VersionNotFoundError
            There is no change to take back, or the table before it was not kept.
        SnapshotExpired
            The version before it was vacuumed.
        ConflictError
            The last change is that of another writer.
        """
        raise NotImplementedError

    def undo(self) -> Former:
        """Take the last change back, as a new version; return what was restored. Raises as :meth:`former` does."""
        with self.begin(UNDO) as change:
            former = self.former()
            change.arguments = {"version": former.version}
            table_before = self._in_place(change, former.table)

            def restored(table: Table) -> Table:
                if table is not change.table:
                    raise ConflictError(
                        "undo: another writer committed meanwhile; nothing was changed, look at it first"
                    )
                return table_before

            change.edit(restored)
        return former

    def _in_place(self, change: Transaction, table: Table) -> Table:
        """Return a former table with its rows where those of this repository are."""
        return table

    def require_versions(self, operation: str) -> VersionedRepository:
        """Return this repository, if its versions are kept.

        Raises
        ------
        VersionNotFoundError
            The repository keeps only the newest version; the message names the operation.
        """
        raise NotImplementedError

    def compile_here(self) -> None:
        """Compile the table for this process only; for a repository that must not change."""
        raise NotImplementedError

    def tidy(self, targets: Iterable[Target]) -> None:
        """Merge the pieces of variables that have too many, and flatten orders that are too deep.

        The rows do not change. After a conflict, the next call does it.
        """
        table = self.table  # another process may commit at any moment
        most = max_parts(table)
        untidy = [
            (phase, name) for phase, name in targets if name in table[phase] and is_untidy(table[phase][name], most)
        ]
        if not untidy:
            return
        try:
            with self.begin("tidy", variables=sorted({name for _, name in untidy})) as transaction:
                flat: dict[RowOrder, RowOrder] = {}  # variables of a phase share an order, and so its index
                merged: dict[tuple[Piece, ...], tuple[Piece, ...]] = {}  # phases share pieces, once rows were dealt
                for phase, name in untidy:
                    if name not in transaction.table[phase]:
                        continue
                    tidied = _merged(transaction, transaction.table[phase][name], merged)
                    if is_nested(tidied.order, most):
                        if tidied.order not in flat:
                            flat[tidied.order] = flatten(tidied.order, transaction.store_index)
                        tidied = replace(tidied, order=flat[tidied.order])
                    transaction.edit(_put(phase, tidied), reads=[(phase, name)])
        except (ConflictError, LabelError):
            return  # rows do not change, so it can wait
        except OSError as err:  # the change itself is committed, and must not seem to have failed
            _log.warning("the pieces of %s are not merged yet: %s", sorted({name for _, name in untidy}), err)

    def store_arrays(self, sources: Mapping[str, Source], written: list[Segment]) -> dict[str, RowArray]:
        """Write sources as arrays of one new segment, and add that to ``written``."""
        raise NotImplementedError

    def _store_index(self, new: NewIndex, written: list[Segment]) -> RowIndex:
        raise NotImplementedError

    def _new_segment(self, written: list[Segment]) -> Segment:
        raise NotImplementedError

    def spec(self, name: str, source: Source, n_together: int = 1) -> ArraySpec:
        """Return how rows would be stored as a new array of a segment, written together with others."""
        raise NotImplementedError

    def commit_changes(self, transaction: Transaction) -> None:
        """Commit a transaction as the newest state."""
        raise NotImplementedError

    def _changed_by(self, transaction: Transaction, target: Target) -> str:
        """Return the operation that has changed a variable since the transaction began."""
        raise NotImplementedError


class VersionedRepository(Repository):
    """A repository that keeps its versions, with their rows and fingerprints, in a store."""

    def __init__(self, location: Location) -> None:
        self.location = location
        """The directory of the data_id."""
        self.segments = location / "segments"
        """The directory of the segments."""
        self.fingerprints: Location = location / FINGERPRINTS
        self.log = StoredLog(location)
        """The manifests."""

    def require_versions(self, operation: str) -> VersionedRepository:
        """Return this repository."""
        return self


def _put(phase: str, variable: Variable) -> Edit:
    def edit(table: Table) -> Table:
        compiled = table.compiled
        table = table.with_variables(phase, [variable])
        return table.with_compiled() if compiled else table

    return edit


def _merged(transaction: Transaction, old: Variable, known: dict[tuple[Piece, ...], tuple[Piece, ...]]) -> Variable:
    """Return a variable with pieces merged where it has too many; what was merged before is ``known``."""
    if old.pieces not in known:
        pieces = list(old.pieces)
        for first, end in reversed(to_merge(old)):
            array = transaction.store({old.name: VariableSource(old.stored_rows(first, end))})[old.name]
            is_update = all(piece.is_update for piece in pieces[first:end])
            pieces[first:end] = [Piece(array, 0, array.n_rows, is_update=is_update)]
        known[old.pieces] = tuple(pieces)
    return replace(old, pieces=known[old.pieces]) if len(known[old.pieces]) < len(old.pieces) else old


class Transaction:
    """One all-or-nothing change: segments are written first, then one commit makes them part of the table.

    Used as a context manager. An exception inside removes what was written; the table stays as it was.
    """

    def __init__(self, repository: Repository, operation: str, arguments: Mapping[str, Any]) -> None:
        repository.refresh()
        self.table = repository.table
        """The table on which the transaction began."""
        self.version = repository.version
        """The version of that table."""
        self.operation = operation
        self.arguments = arguments
        self.repository = repository
        """The repository of the table."""
        self._edits: list[Edit] = []
        self._reads: list[Target] = []
        self._touched: list[Target] = []
        self._written: list[Segment] = []
        self._open = True
        self.is_release = False
        """Whether the commit is to release memory, so that nothing may be held for an undo."""
        self.stand_in: Table | None = None
        """The table that an undo of a release restores, with rows that are in storage; None if there is none."""
        self.kept_from = 1
        """The oldest version to keep; earlier ones are removed after the commit."""
        self.removed: tuple[str, ...] = ()
        """Segments to remove after the commit."""

    @property
    def written(self) -> list[str]:
        """The segments written by this transaction."""
        return [segment.identifier for segment in self._written]

    def store(self, sources: Mapping[str, Source]) -> dict[str, RowArray]:
        """Write rows block by block into one new segment, and return its arrays."""
        self._require_open()
        return self.repository.store_arrays(sources, self._written)

    def store_index(self, new: NewIndex) -> RowIndex:
        """Write an index of an order, part by part."""
        self._require_open()
        return self.repository._store_index(new, self._written)

    def new_segment(self) -> Segment:
        """Return a new segment of a stored table, for callers that write its arrays themselves."""
        self._require_open()
        return self.repository._new_segment(self._written)

    def edit(self, edit: Edit, *, reads: Iterable[Target] = (), touches: Iterable[Target] = ()) -> None:
        """Add an edit of the table.

        Parameters
        ----------
        edit : callable
            Makes the new table from the newest one; called again if another writer was first.
        reads : iterable of (phase, name)
            Variables that must then be unchanged.
        touches : iterable of (phase, name)
            Variables that get more pieces or a deeper order.
        """
        self._require_open()
        self._edits.append(edit)
        self._reads.extend(reads)
        self._touched.extend(touches)

    def apply(self, table: Table) -> Table:
        """Return the result of the edits on a table.

        Raises
        ------
        ConflictError
            A variable that an edit read has changed since the transaction began.
        """
        if table is not self.table:
            for phase, name in self._reads:
                if table[phase].get(name) != self.table[phase].get(name):
                    other = self.repository._changed_by(self, (phase, name))
                    raise ConflictError(
                        f"{self.operation}: variable {name!r} in phase {phase!r} was changed by {other} of another "
                        "writer meanwhile; nothing was changed, try again"
                    )
        for edit in self._edits:
            table = edit(table)
        return table

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commit, or remove what was written if an exception was raised."""
        self._require_open()
        self._open = False
        if kind is not None:
            self.discard()
            return
        try:
            with COMMIT_LOCK:
                self.repository.commit_changes(self)
        except _CERTAINLY_NOT_COMMITTED:
            self.discard()
            raise
        self.repository.tidy(dict.fromkeys(self._touched))

    def discard(self) -> None:
        """Remove what was written; for a transaction that is certainly not committed."""
        for segment in self._written:
            try:
                segment.remove()
            except OSError as err:  # vacuum will find it; the error of the transaction matters more
                _log.warning("segment %s is left behind: %s", segment.location, err)

    def sync(self) -> None:
        """Flush everything that was written to the disk."""
        for segment in self._written:
            with writing(segment.location):
                segment.location.sync()

    def _require_open(self) -> None:
        if not self._open:
            raise TransactionError(f"the transaction of {self.operation} has ended; begin a new one")


# An OSError may come after the manifest was written; then its segments must stay.
_CERTAINLY_NOT_COMMITTED = (ValueError, TypeError, ConflictError)
