"""Versions: results of calls about the history of a table, as records that print as tables; reads no rows itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from storegate.display import aligned, table_html
from storegate_engine.budget import format_nbytes
from storegate_engine.errors import ArgumentError, DataIdError, ReadOnlyError, VersionNotFoundError
from storegate_engine.names import validate_name
from storegate_engine.orders import as_int
from storegate_engine.store import (
    CheckResult,
    Manifest,
    Repository,
    Root,
    Unreadable,
    VacuumResult,
    VersionedRepository,
)
from storegate_engine.store import repair as make_newest
from storegate_engine.store import vacuum as remove_unused
from storegate_engine.store import verify as verify_store
from storegate_engine.table import Difference, compare

__all__ = ["Commit", "Records", "Verification", "diff", "history", "parse_age", "repair", "vacuum", "verify"]

T = TypeVar("T")
DAY = 86_400.0
_AGE = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([smhdw]?)\s*")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": DAY, "w": 7 * DAY}


class Records(tuple[T, ...]):
    """Records of one kind, which print as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        """Return the table, or ``(none)``."""
        if not self:
            return "(none)"
        return aligned(self._cells())

    def _repr_html_(self) -> str:
        header, *rows = self._cells() if self else [["none"]]
        return table_html(header, rows, repr(self))

    def _cells(self) -> list[list[str]]:
        """Return the header and a line per record."""
        header = [found.name for found in fields(self[0]) if self._is_printed(found)]  # type: ignore[arg-type]
        return [header, *([_shown(name, getattr(row, name)) for name in header] for row in self)]

    def _is_printed(self, found: Field[Any]) -> bool:
        return "is_rare" not in found.metadata or any(getattr(row, found.name) for row in self)


def _shown(name: str, value: Any) -> str:
    if name.endswith("nbytes"):
        return format_nbytes(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="seconds")
    if isinstance(value, dict):
        return ", ".join(f"{key}={item!r}" for key, item in value.items())
    return str(value)


@dataclass(frozen=True, slots=True)
class Commit:
    """One version, and the call that made it."""

    version: int
    """Version number."""
    time: datetime
    """When it was committed, in UTC, by the writer's clock."""
    operation: str
    """The name of the call."""
    arguments: Mapping[str, Any]
    """The arguments of the call, without data."""
    n_rows: int
    """Rows added in all phases together."""
    nbytes: int
    """Bytes of the rows stored for this version."""
    problem: str = field(default="", metadata={"is_rare": True})
    """Why the version cannot be read, if so; the other fields are then empty. Printed only if there is any."""


def history(repository: Repository) -> Records[Commit]:
    """Return the kept versions, the oldest first, including those that cannot be read."""
    stored = repository.require_versions("history")
    return Records(_commit(stored, manifest) for manifest in stored.log.kept())


def _commit(stored: VersionedRepository, manifest: Manifest | Unreadable) -> Commit:
    if isinstance(manifest, Unreadable):
        entry = stored.location.entry(stored.log.key(manifest.version))
        time = datetime.fromtimestamp(entry.modified if entry is not None else 0.0, UTC)
        return Commit(manifest.version, time, "?", {}, 0, 0, manifest.problem)
    time = datetime.fromtimestamp(manifest.time, UTC)
    arguments = dict(manifest.arguments)
    return Commit(manifest.version, time, manifest.operation, arguments, manifest.rows_added, manifest.nbytes_added)


def diff(repository: Repository, first: int, second: int) -> Records[Difference]:
    """Return what differs between two versions."""
    old, new = as_int(first, "a version"), as_int(second, "a version")
    return Records(compare(repository.table_at(old), repository.table_at(new)))


def vacuum(repository: Repository, older_than: object, keep_versions: int, *, dry_run: bool) -> VacuumResult:
    """Remove versions, segments and leftover files that are no longer needed."""
    stored = repository.require_versions("vacuum")
    kept = as_int(keep_versions, "keep_versions")
    return remove_unused(stored, older_than=parse_age(older_than), keep_versions=kept, dry_run=dry_run)


class Verification(Records[CheckResult]):
    """The result of :meth:`StoreGate.verify`: a record for every manifest, array and damaged shard."""

    __slots__ = ()

    @property
    def problems(self) -> Records[CheckResult]:
        """The records with a problem; empty if all is well."""
        return Records(checked for checked in self if checked.problem)


def verify(repository: Repository) -> Verification:
    """Check everything that the kept versions refer to."""
    return Verification(verify_store(repository.require_versions("verify")))


def repair(root: Root | None, data_id: str, budget_nbytes: int) -> int | None:
    """Restore the last version of a data_id that opens; return it, or None if the newest one opens."""
    validate_name(data_id, "data_id")
    if root is None:
        raise VersionNotFoundError("repair: rows in memory have no versions; use the zarr or the hybrid backend")
    if data_id not in root.data_ids():
        raise DataIdError(f"repair: there is no data_id {data_id!r} in {root.location}")
    if not root.writable:
        raise ReadOnlyError("repair: the store is open with mode='r'; open it with mode='a' to change it")
    return make_newest(root.location / data_id, budget_nbytes)


def parse_age(age: object) -> float:
    """Return an age in seconds, from seconds, a ``timedelta``, or a text like ``"12h"``.

    Raises
    ------
    ValueError
        The age is in none of these forms.

    Examples
    --------
    >>> parse_age("1.5h"), parse_age(timedelta(days=1)), parse_age(10)
    (5400.0, 86400.0, 10.0)
    """
    if isinstance(age, timedelta):
        return age.total_seconds()
    if isinstance(age, (int, float)) and not isinstance(age, bool):
        return float(age)
    found = _AGE.fullmatch(age) if isinstance(age, str) else None
    if found is None:
        raise ArgumentError(f"{age!r} is not an age; give seconds, a timedelta, or a text like '12h', '30d' or '2w'")
    return float(found[1]) * _SECONDS[found[2]]
