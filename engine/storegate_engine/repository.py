"""Repositories: one data_id's committed table, and the transactions that make its next state.

A transaction writes new segments, then commits one edit of the table. Where another writer was first, the edit
is made again on that writer's table if the variables it read are still the same, else it is a conflict.
"""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import Any, Self, TypeAlias

import numpy as np

from storegate_engine import settings
from storegate_engine.arrays import MemoryArray, RowArray, StoredIndex
from storegate_engine.budget import format_nbytes, ingest_nbytes, plan_layout, require
from storegate_engine.encodings import encoding_of, is_text, row_nbytes
from storegate_engine.errors import (
    ConflictError,
    LabelError,
    ReadOnlyError,
    SnapshotExpired,
    StoreError,
    TransactionError,
    VersionNotFoundError,
    WriteError,
)
from storegate_engine.history import added
from storegate_engine.locations import Location, writing
from storegate_engine.manifests import Manifest, StoredLog, committed
from storegate_engine.orders import ArrayIndex, Concat, RowIndex, RowOrder, Take, flatten
from storegate_engine.segments import DEFAULT_COMPRESSOR, ArraySpec, Compressor, Segment
from storegate_engine.sources import (
    ArraySource,
    ColumnSource,
    SlicedSource,
    Source,
    VariableSource,
    blocks_of_group,
    grouped,
)
from storegate_engine.states import table_from_state, table_to_state
from storegate_engine.table import Piece, Table, Variable

__all__ = ["MemoryRepository", "Repository", "StoredRepository", "Transaction"]

Array: TypeAlias = np.ndarray[Any, Any]
Edit: TypeAlias = Callable[[Table], Table]
Target: TypeAlias = tuple[str, str]
"""A phase and a variable's name."""

MAX_PIECES = 50
"""A variable with more pieces is merged (208 pieces made a read 7 times slower)."""
MAX_DEPTH = 8
"""Permutations in a row that an order composes when it is read; a deeper one becomes an index array."""
MAX_PARTS = 1024
"""Parts of an order end to end; one with more becomes an index array."""
MAX_TRIES = 1000
COPY_NBYTES = 4 * 2**20

_log = logging.getLogger("storegate")
_random = random.SystemRandom()  # waits differ between processes, and no seeded state moves
_commit_lock = threading.RLock()  # threads that share a repository commit one after the other


def _renew_lock() -> None:
    global _commit_lock
    _commit_lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Repository:
    """The committed table of one data_id, and how rows are written beside it."""

    tier: str
    """``numpy`` where rows lie in memory, ``zarr`` where they lie in storage."""
    writable = True
    budget_nbytes: int

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
        """See what other writers have committed."""

    def table_at(self, version: int) -> Table:
        """Return the table of an earlier version.

        Raises
        ------
        VersionNotFoundError
            There was no such version, or the repository keeps only the newest.
        SnapshotExpired
            It was vacuumed.
        """
        raise VersionNotFoundError(
            f"version {version}: rows in memory have no versions but the newest; use the zarr backend, or the hybrid "
            "one in mode 'zarr'"
        )

    def compile_here(self) -> None:
        """Compile the table for this process only; for a repository that must not change."""
        raise NotImplementedError

    def tidy(self, targets: Iterable[Target]) -> None:
        """Merge the pieces of variables that have too many, and flatten orders that nest too deep.

        The rows read the same. A conflict leaves them for the next time.
        """
        untidy = [
            (phase, name)
            for phase, name in targets
            if name in self.table[phase] and _is_untidy(self.table[phase][name])
        ]
        if not untidy:
            return
        try:
            with self.begin("tidy", variables=sorted({name for _, name in untidy})) as transaction:
                flat: dict[RowOrder, RowOrder] = {}  # variables of a phase share their order, and its index
                for phase, name in untidy:
                    tidied = _merged(transaction, transaction.table[phase][name])
                    if _is_nested(tidied.order):
                        if tidied.order not in flat:
                            flat[tidied.order] = _flattened(transaction, tidied.order)
                        tidied = replace(tidied, order=flat[tidied.order])
                    transaction.edit(_put(phase, tidied), reads=[(phase, name)])
        except (ConflictError, LabelError):
            return  # the table reads the same without it
        except OSError as err:  # the change itself is committed: it must not look as if it had failed
            _log.warning("the pieces of %s are not merged yet: %s", sorted({name for _, name in untidy}), err)

    def _store(self, sources: Mapping[str, Source], written: list[Segment]) -> dict[str, RowArray]:
        raise NotImplementedError

    def _store_index(self, rows: Array, written: list[Segment]) -> RowIndex:
        raise NotImplementedError

    def _new_segment(self, written: list[Segment]) -> Segment:
        raise NotImplementedError

    def spec(self, name: str, source: Source, n_together: int = 1) -> ArraySpec:
        """Return how rows would be stored as a new array of a segment, written with others at the same time."""
        raise NotImplementedError

    def _commit(self, transaction: Transaction) -> None:
        raise NotImplementedError

    def _changed_by(self, transaction: Transaction, target: Target) -> str:
        """Return which operation has changed a variable since the transaction began."""
        raise NotImplementedError


def _put(phase: str, variable: Variable) -> Edit:
    def edit(table: Table) -> Table:
        compiled = table.compiled
        table = table.with_variables(phase, [variable])
        return table.with_compiled() if compiled else table

    return edit


def _is_untidy(variable: Variable) -> bool:
    return len(variable.pieces) > MAX_PIECES or _is_nested(variable.order)


def _is_nested(order: RowOrder) -> bool:
    return order.depth > MAX_DEPTH or (isinstance(order, Concat) and len(order.orders) > MAX_PARTS)


def _flattened(transaction: Transaction, order: RowOrder) -> RowOrder:
    """Return an order as one stored index array: 4 bytes a row."""
    flat = flatten(order)
    return Take(flat.order, transaction.store_index(flat.index.slice(0, len(order))))


def _merged(transaction: Transaction, old: Variable) -> Variable:
    """Return a variable with its last pieces as one, where it has too many."""
    if len(old.pieces) <= MAX_PIECES:
        return old
    first = _first_to_merge(old)
    array = transaction.store({old.name: VariableSource(old.stored_rows(first))})[old.name]
    return replace(old, pieces=(*old.pieces[:first], Piece(array, 0, array.n_rows)))


def _first_to_merge(variable: Variable) -> int:
    """Return where the run of pieces to merge starts: each piece in it is not much larger than all behind it.

    So every row is rewritten only when its piece at least grows by half, and n appends cost O(n log n).
    """
    sizes = [piece.n_rows for piece in variable.pieces]
    first, total = len(sizes) - 1, sizes[-1]
    while first > 0 and (sizes[first - 1] <= 2 * total or len(sizes) - first < 2):
        first -= 1
        total += sizes[first]
    return first


class Transaction:
    """One all-or-nothing change: segments are written first, then one commit makes them part of the table.

    Used as a context manager. An exception inside removes what was written; the table stays as it was.
    """

    def __init__(self, repository: Repository, operation: str, arguments: Mapping[str, Any]) -> None:
        repository.refresh()
        self.table = repository.table
        """The table on which the transaction began."""
        self.version = repository.version
        """Its version."""
        self.operation = operation
        self.arguments = arguments
        self.repository = repository
        """Whose table it is."""
        self._edits: list[Edit] = []
        self._reads: list[Target] = []
        self._touched: list[Target] = []
        self._written: list[Segment] = []
        self._open = True

    def store(self, sources: Mapping[str, Source]) -> dict[str, RowArray]:
        """Write rows block by block into one new segment and return its arrays."""
        self._require_open()
        return self.repository._store(sources, self._written)

    def store_index(self, rows: Array) -> RowIndex:
        """Write an index array of an order."""
        self._require_open()
        return self.repository._store_index(rows, self._written)

    def new_segment(self) -> Segment:
        """Return a new segment of a stored table, for those who write its arrays themselves."""
        self._require_open()
        return self.repository._new_segment(self._written)

    def edit(self, edit: Edit, *, reads: Iterable[Target] = (), touches: Iterable[Target] = ()) -> None:
        """Add an edit of the table.

        Parameters
        ----------
        edit : callable
            Makes the new table from the newest one; called again when another writer was first.
        reads : iterable of (phase, name)
            Variables that must still be the same then.
        touches : iterable of (phase, name)
            Variables that get more pieces or a deeper order.
        """
        self._require_open()
        self._edits.append(edit)
        self._reads.extend(reads)
        self._touched.extend(touches)

    def apply(self, table: Table) -> Table:
        """Return what the edits make of a table.

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
        """Commit, or remove what was written when something failed."""
        self._require_open()
        self._open = False
        if kind is not None:
            self.discard()
            return
        try:
            with _commit_lock:
                self.repository._commit(self)
        except _CERTAINLY_NOT_COMMITTED:
            self.discard()
            raise
        self.repository.tidy(dict.fromkeys(self._touched))

    def discard(self) -> None:
        """Remove what was written; for a transaction that is certainly not committed."""
        for segment in self._written:
            try:
                segment.remove()
            except OSError as err:  # vacuum finds it; what made the transaction fail matters more
                _log.warning("segment %s is left behind: %s", segment.location, err)

    def sync(self) -> None:
        """Bring all that was written to the disk."""
        for segment in self._written:
            with writing(segment.location):
                segment.location.sync()

    def _require_open(self) -> None:
        if not self._open:
            raise TransactionError(f"the transaction of {self.operation} has ended; begin a new one")


# An OSError may come after the manifest was written: then its segments must stay.
_CERTAINLY_NOT_COMMITTED = (ValueError, TypeError, ConflictError)


class _Gathered:
    """Rows that are copied together: in place where their number is known, else at the end."""

    def __init__(self, source: Source) -> None:
        self._dtype = encoding_of(source.dtype).logical
        self._rows = np.empty((source.n_rows or 0, *source.row_shape), self._dtype)
        self._parts: list[Array] | None = [self._rows] if source.n_rows is None else None
        self._done = 0

    def append(self, rows: Array) -> None:
        if self._parts is not None:
            self._parts.append(np.array(rows))
        else:
            self._rows[self._done : self._done + len(rows)] = rows
            self._done += len(rows)

    def close(self) -> Array:
        if self._parts is not None:  # text may have become wider
            self._rows = np.concatenate(self._parts, dtype=None if is_text(self._dtype) else self._dtype)
        self._rows.flags.writeable = False
        return self._rows


class MemoryRepository(Repository):
    """A table whose rows are ndarrays of this process; travels by value."""

    tier = "numpy"

    def __init__(self, *, budget_nbytes: int, copy: bool = True) -> None:
        self.budget_nbytes = budget_nbytes
        self._copy = copy
        self._table = Table()
        self._version = 0
        self._operation = "empty"

    @property
    def table(self) -> Table:
        """The newest table."""
        return self._table

    @property
    def version(self) -> int:
        """The number of changes so far."""
        return self._version

    def _store(self, sources: Mapping[str, Source], written: list[Segment]) -> dict[str, RowArray]:
        values: dict[str, Array] = {}
        for group in grouped(sources):
            values |= self._gather(group)
        return {name: MemoryArray(values[name]) for name in sources}

    def _gather(self, group: Mapping[str, Source]) -> dict[str, Array]:
        """Return the rows of a group of sources as arrays of this repository's own."""
        first = next(iter(group.values()))
        if isinstance(first, ArraySource) and not self._copy:
            return {name: first.values.view() for name in group}
        if isinstance(first, VariableSource):  # whole: each stored chunk is read once, whatever the order
            rows = first.variable.read(0, len(first.variable))
            rows.flags.writeable = False
            return dict.fromkeys(group, rows)
        if isinstance(first, VariableSource):  # whole: each stored chunk is read once, whatever the order
            rows = first.variable.read(0, len(first.variable))
            rows.flags.writeable = False
            return dict.fromkeys(group, rows)
        block_rows = max(1, COPY_NBYTES // row_nbytes(first.dtype, first.row_shape))
        gathered = {name: _Gathered(source) for name, source in group.items()}
        for blocks in blocks_of_group(group, block_rows):
            for name, rows in blocks.items():
                gathered[name].append(rows)
        return {name: rows.close() for name, rows in gathered.items()}

    def _store_index(self, rows: Array, written: list[Segment]) -> RowIndex:
        return ArrayIndex(rows)

    def _commit(self, transaction: Transaction) -> None:
        self._table = transaction.apply(self._table)
        self._version += 1
        self._operation = transaction.operation

    def _changed_by(self, transaction: Transaction, target: Target) -> str:
        return f"{self._operation} (version {self._version})"


class StoredRepository(Repository):
    """A table in storage; travels as its location and version.

    Parameters
    ----------
    location : Location
        The directory of the data_id.
    budget_nbytes : int
        Memory limit of long operations.
    writable : bool
        Whether the table may change.
    compressor : tuple of zarr codecs
        How new chunks are compressed.
    chunk_rows : int or None
        Rows of new chunks; by bytes when None.
    durable : bool
        Whether a commit is on the disk before it is acknowledged.
    pinned : int or None
        A version to show; it cannot change.
    """

    tier = "zarr"

    def __init__(
        self,
        location: Location,
        *,
        budget_nbytes: int,
        writable: bool = True,
        compressor: Compressor = DEFAULT_COMPRESSOR,
        chunk_rows: int | None = None,
        durable: bool = False,
        pinned: int | None = None,
    ) -> None:
        self.location = location
        self._durable = durable
        self._pinned = pinned
        self.writable = writable and pinned is None
        self.budget_nbytes = budget_nbytes
        self._compressor = compressor
        self._chunk_rows = chunk_rows
        self.log = StoredLog(location)
        if pinned is not None:
            self._require_known(pinned)
        self._head = self._load(self.log.head() if pinned is None else pinned)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the table: the receiver reads it."""
        state = {key: value for key, value in self.__dict__.items() if key != "_head"}
        return {**state, "_version": self.version}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Read the table of the version that travelled."""
        version = state.pop("_version")
        self.__dict__.update(state)
        self._head = self._load(version)

    @property
    def segments(self) -> Location:
        """Where the segments lie."""
        return self.location / "segments"

    @property
    def table(self) -> Table:
        """The newest committed table; on a file system what other processes commit is seen at once."""
        if self._pinned is None and self.log.changed_since(self.version):
            self.refresh()
        return self._head[1]

    @property
    def version(self) -> int:
        """The number of the newest committed table that was seen."""
        return self._head[0].version

    def refresh(self) -> None:
        """See what other writers have committed; a pinned version stays."""
        head = self.log.head() if self._pinned is None else self._pinned
        if head != self.version:
            self._head = self._load(head)

    def require_writable(self, operation: str) -> None:
        """Raise ReadOnlyError unless the table may change: it is not pinned, nor opened with ``mode="r"``."""
        if self._pinned is not None:
            raise ReadOnlyError(
                f"{operation}: this is version {self._pinned}, which cannot change; open the store without version=, "
                f"and make it the newest with rollback({self._pinned})"
            )
        super().require_writable(operation)

    def table_at(self, version: int) -> Table:
        """Return the table of an earlier version."""
        self._require_known(version)
        return self._load(version)[1]

    def _require_known(self, version: int) -> None:
        head = self.log.head()
        if not 0 <= version <= head:
            raise VersionNotFoundError(
                f"version {version} is not there: {self.location}/{self.log.key(version)}; the newest is {head}"
            )

    def compile_here(self) -> None:
        """Compile the table for this process only."""
        manifest, table = self._head
        self._head = manifest, table.with_compiled()

    def _load(self, version: int) -> tuple[Manifest, Table]:
        manifest = self.log.read(version)
        return manifest, table_from_state(manifest.state, self.segments)

    def _store(self, sources: Mapping[str, Source], written: list[Segment]) -> dict[str, RowArray]:
        segment = self._new_segment(written)
        known = [source.n_rows for source in sources.values()]
        sizes = [row_nbytes(source.dtype, source.row_shape) for source in sources.values()]
        total = None if None in known else sum(n * size for n, size in zip(known, sizes, strict=True) if n)
        groups = grouped(sources)
        specs = {name: self.spec(name, source, len(group)) for group in groups for name, source in group.items()}
        arrays: dict[str, RowArray] = {}
        with settings.progress_bar("store", total) as bar:
            for group in groups:
                arrays |= self._write(segment, group, specs, bar.update)
        return {name: arrays[name] for name in sources}

    def _write(
        self,
        segment: Segment,
        group: Mapping[str, Source],
        specs: Mapping[str, ArraySpec],
        progress: Callable[[int], object],
    ) -> dict[str, RowArray]:
        """Write a group of sources as arrays of a segment, in one pass over what they share."""
        writers = {name: segment.create(name, specs[name]) for name in group}
        try:
            for blocks in blocks_of_group(group, min(specs[name].layout.shard_rows for name in group)):
                for name, rows in blocks.items():
                    writers[name].append(rows)
                    progress(rows.nbytes)
            return {name: writer.close() for name, writer in writers.items()}
        except BaseException:
            for writer in writers.values():
                writer.abandon()
            raise

    def _new_segment(self, written: list[Segment]) -> Segment:
        segment = Segment(self.segments, self._compressor)
        written.append(segment)
        return segment

    def spec(self, name: str, source: Source, n_together: int = 1) -> ArraySpec:
        """Return how rows would be stored as a new array of a segment, written with others at the same time.

        Raises
        ------
        MemoryBudgetError
            Writing them does not fit the memory limit.
        """
        nbytes = row_nbytes(source.dtype, source.row_shape)
        limit = self.budget_nbytes // n_together
        layout = plan_layout(nbytes, source.n_rows, chunk_rows=self._chunk_rows, budget_nbytes=limit)
        whole = source.source if isinstance(source, ColumnSource) else source
        chunk_nbytes = whole.least_rows * nbytes * n_together if isinstance(whole, SlicedSource) else 0
        require(
            n_together * ingest_nbytes(nbytes, layout, limit) + chunk_nbytes,
            self.budget_nbytes,
            what=f"storing variable {name!r} (rows of {nbytes} bytes, in chunks of {format_nbytes(chunk_nbytes)})",
            remedy="raise storegate.memory-limit, or make rows or chunks smaller (rechunk the data)",
        )
        return ArraySpec(source.dtype, source.row_shape, layout, source.n_rows)

    def _store_index(self, rows: Array, written: list[Segment]) -> RowIndex:
        dtype = np.uint32 if len(rows) < 2**32 and (not len(rows) or rows.max() < 2**32) else np.int64
        array = self._store({"index": ArraySource(rows.astype(dtype))}, written)["index"]
        return StoredIndex(array)  # type: ignore[arg-type]

    def _commit(self, transaction: Transaction) -> None:
        try:
            if self._durable:
                transaction.sync()
            self._commit_first_free(transaction)
        except WriteError:
            if self.location.is_local:  # elsewhere, what was given up may still arrive
                transaction.discard()
            raise

    def _commit_first_free(self, transaction: Transaction) -> None:
        for attempt in range(MAX_TRIES):
            parent, before = self._head
            table = transaction.apply(before)
            rows, nbytes = added(before, table)
            manifest = committed(
                parent,
                operation=transaction.operation,
                arguments=transaction.arguments,
                state=table_to_state(table),
                rows_added=rows,
                nbytes_added=nbytes,
            )
            try:
                self.log.commit(manifest, sync=self._durable)
            except ConflictError:
                if attempt == MAX_TRIES - 1:
                    raise
                time.sleep(_random.uniform(0, 0.002 * min(attempt, 10)))  # other writers: let one of us win
                self.refresh()
                continue
            self._head = manifest, table
            return

    def _changed_by(self, transaction: Transaction, target: Target) -> str:
        phase, name = target
        before = transaction.table[phase].get(name)
        for version in range(transaction.version + 1, self.version + 1):
            try:
                manifest, table = self._load(version)
            except (SnapshotExpired, StoreError):
                continue
            if table[phase].get(name) != before:
                return f"{manifest.operation} (version {version})"
        return "an operation"
