"""Memory: one data_id's table whose rows are ndarrays of this process; writes no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.arrays import MemoryArray, RowArray, Segment
from storegate_engine.casts import holds_all
from storegate_engine.encodings import encoding_of, is_text, require_text, row_nbytes
from storegate_engine.errors import VersionNotFoundError
from storegate_engine.orders import NewIndex, RowIndex, in_memory
from storegate_engine.store.lists import RaggedWriter, column_dtype, kind_in
from storegate_engine.store.repository import Repository, Target, Transaction, VersionedRepository
from storegate_engine.store.sources import ArraySource, Source, blocks_of_group, grouped
from storegate_engine.store.table_sources import VariableSource
from storegate_engine.store.undoing import Former, FormerTables, is_change
from storegate_engine.table import Table, rows_of

__all__ = ["MemoryRepository"]

Array: TypeAlias = np.ndarray[Any, Any]

COPY_NBYTES = 4 * 2**20


class _Gathered:
    """Rows that are copied together: in place if their number is known, else joined at the end."""

    def __init__(self, name: str, dtype: np.dtype[Any], row_shape: tuple[int, ...], n_rows: int | None) -> None:
        self._name = name
        self._dtype = encoding_of(dtype).logical
        self._rows = np.empty((n_rows or 0, *row_shape), self._dtype)
        self._parts: list[Array] | None = [self._rows] if n_rows is None else None
        self._done = 0

    def append(self, rows: Array) -> None:
        if self._parts is not None:
            own = np.array(rows)
            self._parts.append(own)
        else:
            if is_text(self._dtype) and not holds_all(self._rows.dtype, rows.dtype):  # lazy text is wider than declared
                self._rows = self._rows.astype(np.result_type(self._rows.dtype, rows.dtype))
            own = self._rows[self._done : self._done + len(rows)]
            own[...] = rows
            self._done += len(rows)
        require_text(own, self._name)

    def close(self) -> MemoryArray:
        if self._parts is not None:  # text may have become wider
            self._rows = np.concatenate(self._parts, dtype=None if is_text(self._dtype) else self._dtype)
        self._rows.flags.writeable = False
        return MemoryArray(self._rows, is_ours=True)

    def put_rest(self) -> None:
        """Do nothing: rows are there."""

    def abandon(self) -> None:
        """Do nothing."""


def _gathered(name: str, source: Source) -> _Gathered | RaggedWriter:
    """Return what the rows of a source are appended to."""
    kind = kind_in(source)
    if kind == "dense":
        return _Gathered(name, source.dtype, source.row_shape, source.n_rows)

    def make(part: int) -> _Gathered:
        if part == 0:
            return _Gathered(name, np.dtype(np.int64), (2,), source.n_rows)
        if part == 2:
            return _Gathered(name, column_dtype(source.row_shape[0]), (), None)
        return _Gathered(name, source.dtype, source.row_shape if kind == "ragged" else (), None)

    return RaggedWriter(make, kind, source.row_shape[0] if kind == "sparse" else 0)


class MemoryRepository(Repository):
    """A table whose rows are ndarrays of this process; pickled with its rows."""

    backend = "numpy"
    in_memory = True

    def __init__(self, *, budget_nbytes: int, copy: bool = True) -> None:
        self.budget_nbytes = budget_nbytes
        self._copy = copy
        self._table = Table()
        self._version = 0
        self._operation = "empty"
        self.former_tables = FormerTables(budget_nbytes)
        """The tables before the last changes."""

    @property
    def table(self) -> Table:
        """The newest table."""
        return self._table

    @property
    def version(self) -> int:
        """The number of changes so far."""
        return self._version

    def table_at(self, version: int) -> Table:
        """Refuse: only the newest table is kept."""
        raise VersionNotFoundError(
            f"version {version}: rows in memory have no versions but the newest; use the zarr backend, or the hybrid "
            "one in mode 'zarr'"
        )

    def require_versions(self, operation: str) -> VersionedRepository:
        """Refuse: only the newest table is kept."""
        raise VersionNotFoundError(
            f"{operation}: rows in memory have no versions and no files; use the zarr backend, or the hybrid one in "
            "mode 'zarr'"
        )

    def store_arrays(self, sources: Mapping[str, Source], written: list[Segment]) -> dict[str, RowArray]:
        """Write sources as arrays of one new segment, and add that to ``written``."""
        arrays: dict[str, RowArray] = {}
        for group in grouped(sources):
            arrays |= self._gather(group)
        return {name: arrays[name] for name in sources}

    def _gather(self, group: Mapping[str, Source]) -> dict[str, RowArray]:
        """Return the rows of a group of sources as new arrays."""
        first = next(iter(group.values()))
        if isinstance(first, ArraySource) and not self._copy and first.dtype == encoding_of(first.dtype).logical:
            for rows in first.blocks(max(1, COPY_NBYTES // row_nbytes(first.dtype, first.row_shape))):
                require_text(rows, next(iter(group)))
            return {name: MemoryArray(first.values.view()) for name in group}  # the caller may change them
        if (
            isinstance(first, VariableSource) and kind_in(first) == "dense"
        ):  # as a whole, so that each stored chunk is read once in any order
            rows = first.variable.read(0, len(first.variable))
            rows.flags.writeable = False
            return dict.fromkeys(group, MemoryArray(rows, is_ours=True))
        block_rows = max(1, COPY_NBYTES // row_nbytes(first.dtype, first.row_shape))
        gathered = {name: _gathered(name, source) for name, source in group.items()}
        for blocks in blocks_of_group(group, block_rows):
            for name, rows in blocks.items():
                gathered[name].append(rows)
        return {name: rows.close() for name, rows in gathered.items()}

    def _store_index(self, new: NewIndex, written: list[Segment]) -> RowIndex:
        return in_memory(new)

    def commit_changes(self, transaction: Transaction) -> None:
        """Commit a transaction as the newest state."""
        before, self._table = self._table, transaction.apply(self._table).within(self.budget_nbytes)
        self._version += 1
        self._operation = transaction.operation
        if is_change(self._operation, before, self._table):
            self.last_change = self._version
        if transaction.is_release:
            self.former_tables.released(self._operation, self._version, transaction.stand_in)
        else:
            self.former_tables.committed(self._operation, self._version, before, self._table)

    def _in_place(self, change: Transaction, table: Table) -> Table:
        """Read the rows that are in storage into memory."""
        for phase, variable in list(table):
            if any(piece.array.location is not None for piece in variable.pieces):
                array = change.store({variable.name: VariableSource(variable)})[variable.name]
                own = replace(rows_of(variable.name, array), history=variable.history, about=variable.about)
                table = replace(table.with_variables(phase, [own]), compiled=table.compiled)
        return table

    def former(self) -> Former:
        """Return the table before the last change, if what only that holds is little enough to be kept."""
        return self.former_tables.last()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the newest table only."""
        return {**self.__dict__, "former_tables": FormerTables(self.budget_nbytes)}

    def _changed_by(self, transaction: Transaction, target: Target) -> str:
        return f"{self._operation} (version {self._version})"
