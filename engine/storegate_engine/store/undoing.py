"""Undoing: which change was the last, and the table before it; former tables in memory are kept within a limit.

A change is a call of a user's, also one that happened to change nothing, such as a filter that kept all rows.
Compiling, merging pieces, removing old versions and deleting what is not there are none, and an undo takes back one
more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from storegate_engine.arrays import RowArray
from storegate_engine.budget import format_nbytes
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import CorruptStoreError, SnapshotExpired, VersionNotFoundError
from storegate_engine.orders import RowOrder
from storegate_engine.store.logs import StoredLog
from storegate_engine.store.manifests import Manifest
from storegate_engine.table import Table, Variable, table_to_state
from storegate_engine.texts import sampled_nbytes

__all__ = ["UNDO", "Former", "FormerTables", "is_change", "last_change"]

UNDO = "undo"
"""The operation of a commit that takes a change back."""
UNSEEN = ("tidy", UNDO)
"""Operations that are no changes."""
CHECKS = ("compile", "vacuum", "delete_data", "clear_data")
"""Operations that are changes only if the table shows something else afterwards: there was something to delete."""
SHARE = 16
"""Share of a memory limit for what only former tables hold."""
MOST_NBYTES = 256 * 2**20
"""Most bytes of it, whatever the limit: nobody expects a deletion to keep more."""
MOST = 32
"""Most former tables in memory."""
VARIABLE_NBYTES = 1024
"""Bytes of the description of a variable of a former table: more than most take."""


class Former(NamedTuple):
    """The table before the last change."""

    table: Table
    """The table."""
    version: int
    """Its version."""
    changed: int
    """The version that is taken back."""
    operation: str
    """The call that made it."""


def is_change(operation: str, before: Table, after: Table) -> bool:
    """Return whether a commit is what a user calls a change: one that `undo` takes back.

    That is also a call that happened to change nothing, such as a filter that kept all rows: its undo must not take
    the rows themselves away.
    """
    if operation in UNSEEN:
        return False
    return operation not in CHECKS or replace(before, compiled=False) != replace(after, compiled=False)


def last_change(log: StoredLog, version: int, require_own: Callable[[Manifest], None]) -> Manifest | None:
    """Return the last change up to a version that was not taken back; None if there is none.

    ``require_own`` refuses changes, and undos, that must not be taken back.
    """
    while version:
        manifest = log.read(version)
        if manifest.operation == UNDO:
            require_own(manifest)
            version = _restored_by(manifest)
        elif manifest.operation not in UNSEEN and (manifest.operation not in CHECKS or _differs(log, manifest)):
            require_own(manifest)
            return manifest
        else:
            version -= 1
    return None


def _differs(log: StoredLog, manifest: Manifest) -> bool:
    """Return whether a version shows something else than the one before; yes if that was vacuumed."""
    try:
        before = log.read(manifest.version - 1).state or table_to_state(Table())
    except SnapshotExpired:
        return True
    return bool({**before, "compiled": None} != {**manifest.state, "compiled": None})


def _restored_by(undo: Manifest) -> int:
    """Return the version that an undo restored."""
    version = undo.arguments.get("version")
    if type(version) is not int or not 0 <= version < undo.version:
        raise CorruptStoreError(f"version {undo.version} is an undo that does not say what it restored")
    return version


@dataclass(slots=True)
class _Kept:
    """A table before a change."""

    former: Former
    nbytes: int
    """Bytes that are held for it, and not for a later table."""


class FormerTables:
    """Tables in memory before the last changes, while what only they hold fits a share of a memory limit."""

    def __init__(self, budget_nbytes: int) -> None:
        self.limit_nbytes = min(budget_nbytes // SHARE, MOST_NBYTES)
        """Most bytes that are held for former tables alone."""
        self._kept: list[_Kept] = []
        self._forgotten = ""

    def __iter__(self) -> Iterator[Former]:
        """Iterate over the former tables, the oldest first."""
        return (kept.former for kept in self._kept)

    def committed(self, operation: str, version: int, before: Table, after: Table) -> None:
        """Remember the table before a commit of this version, or forget the one that an undo restored."""
        if operation == UNDO:
            self._kept.pop()
            return
        if is_change(operation, before, after):
            nbytes = VARIABLE_NBYTES * sum(1 for _ in before)
            self._kept.append(_Kept(Former(before, version - 1, version, operation), nbytes))
        if not self._kept:
            return
        self._kept[-1].nbytes += _lost_nbytes(before, after)
        while self._kept and (len(self._kept) > MOST or self.nbytes > self.limit_nbytes):
            gone = self._kept.pop(0)
            self._forgotten = (
                f"the rows of before {gone.former.operation} were not kept: they would hold "
                f"{format_nbytes(gone.nbytes)} of memory, and at most {format_nbytes(self.limit_nbytes)} (a sixteenth "
                f"of the budget, up to {format_nbytes(MOST_NBYTES)}) and {MOST} changes are; use the zarr backend, "
                "which keeps every version, or raise backend_args['budget'] or storegate.memory-limit"
            )

    def released(self, operation: str, version: int, stand_in: Table | None) -> None:
        """Let go of all former tables for a commit that releases memory; remember one whose rows are in storage."""
        self._kept.clear()
        self._forgotten = f"{operation} has released the rows from memory; take them back with to_memory"
        if stand_in is not None:
            self._kept.append(_Kept(Former(stand_in, version - 1, version, operation), 0))

    @property
    def nbytes(self) -> int:
        """Bytes that are held for former tables alone."""
        return sum(kept.nbytes for kept in self._kept)

    def last(self) -> Former:
        """Return the table before the last change.

        Raises
        ------
        VersionNotFoundError
            There was no change, or the table before it was not kept.
        """
        if not self._kept:
            reason = self._forgotten or "this gate has changed nothing in memory that is not taken back already"
            raise VersionNotFoundError(f"undo: there is no change to take back: {reason}")
        return self._kept[-1].former


def _lost_nbytes(before: Table, after: Table) -> int:
    """Return the bytes in memory that a table holds, and the next one does not."""
    lost: set[RowArray] = set()
    orders = 0
    for phases, olds in ((after.phases[at], before.phases[at]) for at in before.phases):
        for name, old in olds.items():
            new = phases.get(name)
            if new is old:
                continue
            lost |= set(_arrays(old)).difference(_arrays(new) if new is not None else ())
            orders += _order_nbytes(old.order, new)
    lost |= {array for old in before.shared.values() for array in _arrays(old)}
    if lost:
        lost.difference_update(array for _, variable in after for array in _arrays(variable))
        lost.difference_update(array for variable in after.shared.values() for array in _arrays(variable))
    return orders + sum(_nbytes(array) for array in lost)


def _arrays(variable: Variable) -> Iterator[RowArray]:
    arrays = (part for piece in variable.pieces for part in piece.arrays)
    return (array for array in arrays if not array.is_stored)


def _nbytes(array: RowArray) -> int:
    """Return the bytes of an array in memory; those of variable-length texts are estimated from some of them."""
    values = getattr(array, "values", None)
    texts = sampled_nbytes(values) if array.dtype.kind == "T" and array.is_random_access and values is not None else 0.0
    return int(array.n_rows * (row_nbytes(array.dtype, array.row_shape) + texts))


def _order_nbytes(order: RowOrder, new: Variable | None) -> int:
    """Return the bytes of the tables of an order that is not part of the next one."""
    if order.form == "range" or (new is not None and any(part is order for part in _parts(new.order))):
        return 0
    return 8 * len(order)


def _parts(order: RowOrder) -> Iterator[RowOrder]:
    yield order
    for child in order.children:
        yield from _parts(child)
