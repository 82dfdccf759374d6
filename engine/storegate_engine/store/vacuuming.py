"""Vacuum: finds versions, segments and leftover files of a data_id that are not needed, and removes them by age.

::

    1. commit a version that lists what goes: all versions before one, and segments that no other version refers to
    2. remove their manifests, the oldest first, then those segments

From the first step on, no process goes back to those versions, and a transaction that began earlier and refers to one
of the segments is refused. A process killed between two steps leaves a store that reads the same, and work for the
next vacuum. Only files that `contents` knows as ours are removed; all others stay, and are listed.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from storegate_engine.arrays import made_at
from storegate_engine.budget import format_nbytes
from storegate_engine.contents import FINGERPRINTS, SCRATCH, is_partial, strangers
from storegate_engine.directories import Entry, open_directory
from storegate_engine.errors import ArgumentError, ConflictError, CorruptStoreError, SnapshotExpired, printable
from storegate_engine.holds import LOCK, orphans, remove_orphan, user_places
from storegate_engine.identifiers import is_hex
from storegate_engine.locations import Location
from storegate_engine.settings import scratch_directory
from storegate_engine.store.manifests import Manifest, Unreadable
from storegate_engine.store.repository import Edit, VersionedRepository
from storegate_engine.table import Table, key_of, stored_arrays

__all__ = ["VacuumResult", "vacuum"]

MAX_TRIES = 100
CLOCK_SECONDS = 2.0
"""The clocks of two machines may differ by this much, and times of files are as coarse."""


@dataclass(slots=True)
class VacuumResult:
    """What a vacuum removed, or would remove."""

    versions: list[int] = field(default_factory=list)
    """Versions that can no longer be opened."""
    segments: list[str] = field(default_factory=list)
    """Identifiers of segments that no kept version refers to."""
    scratch: list[str] = field(default_factory=list)
    """Spills left on this machine by killed processes, or kept on request."""
    partial: list[str] = field(default_factory=list)
    """Unfinished files of killed processes."""
    refused: list[str] = field(default_factory=list)
    """Foreign files, directories and links in the places of ours; they stay."""
    unreadable: list[int] = field(default_factory=list)
    """Kept versions that cannot be read. While there are any, no segment is removed: it might be theirs."""
    nbytes: int = 0
    """Bytes removed."""
    dry_run: bool = False
    """Whether this was a dry run, and nothing was removed."""

    def __str__(self) -> str:
        """Return the result as a line of text."""
        verb = "would free" if self.dry_run else "freed"
        text = (
            f"{verb} {format_nbytes(self.nbytes)}: {len(self.versions)} versions, {len(self.segments)} segments, "
            f"{len(self.scratch)} scratch directories, {len(self.partial)} unfinished files"
        )
        refused = f"; not part of the store, left alone: {', '.join(self.refused)}" if self.refused else ""
        unreadable = (
            f"; versions {', '.join(map(str, self.unreadable))} cannot be read, and no rows were removed: repair the "
            "store, or wait until these go by their age"
            if self.unreadable
            else ""
        )
        return printable(text + unreadable + refused)


def vacuum(
    repository: VersionedRepository, *, older_than: float, keep_versions: int = 1, dry_run: bool = False
) -> VacuumResult:
    """Remove what is no longer needed.

    Parameters
    ----------
    repository : VersionedRepository
        The data_id.
    older_than : float
        Age in seconds. Removes a version if it was replaced longer ago, and a segment without a version if its last
        file is older. It should exceed the longest transaction, which is refused if its rows are gone, and the longest
        time that a reader keeps a version. Ages are measured by the clocks of the writers and of the file system or
        object store; the smaller one counts.
    keep_versions : int
        Number of newest versions to keep in any case.
    dry_run : bool
        Only report what would be removed.

    Raises
    ------
    ReadOnlyError
        The store was opened with ``mode="r"`` or at one version.
    ValueError
        The age is negative, or no version would be kept.
    """
    if not older_than >= 0:
        raise ArgumentError(f"older_than is an age of 0 seconds or more, found {older_than!r}")
    if keep_versions < 1:
        raise ArgumentError(f"keep_versions is 1 or more (the newest version always stays), found {keep_versions!r}")
    if not dry_run:
        repository.require_writable("vacuum")
    for attempt in range(MAX_TRIES):
        found = VacuumResult(dry_run=dry_run)
        now = time.time() if dry_run else _now(repository.location)
        try:
            kept = _vacuum_table(repository, found, now - older_than, keep_versions)
        except (ConflictError, SnapshotExpired):  # another writer committed or vacuumed: start again
            if attempt == MAX_TRIES - 1:
                raise
            continue
        break
    _vacuum_fingerprints(repository, found, kept)
    _vacuum_left_files(repository.location, found, now - older_than)
    return found


def _vacuum_table(
    repository: VersionedRepository, found: VacuumResult, before: float, keep_versions: int
) -> list[Table]:
    """Remove old versions and segments; return the tables of the versions that stay."""
    repository.refresh()
    location, log = repository.location, repository.log
    head = repository.version
    begun = set(repository.segments.children())  # before the versions are read, so that later segments are left alone
    going, kept = _versions(repository, before, keep_versions)
    if repository.version != head:
        raise ConflictError(f"vacuum: another writer committed to {location} while it looked")
    tables = [table for manifest in kept if (table := _table_at(repository, manifest, found)) is not None]
    used = {array.segment for table in tables for array in stored_arrays(table)}
    free = sorted(begun - used) if not found.unreadable else []  # an unreadable version may need any of them
    unused = [name for name in free if _is_old_segment(repository.segments, name, before, found)]
    found.versions += going
    found.segments += unused
    found.nbytes += sum(_nbytes(location.entry(log.key(version))) for version in going)
    if found.dry_run or not (going or unused):
        return tables
    arguments = {"versions": [going[0], going[-1]]} if going else {}
    with repository.begin("vacuum", **arguments) as change:
        if change.version != head:
            raise ConflictError(f"vacuum: another writer committed to {location} while it looked")
        change.kept_from = kept[0].version if kept else 1
        change.removed = tuple(unused)
        change.edit(_unless_changed(change.table, location))
    for version in going:
        location.delete(log.key(version))
    for identifier in unused:
        repository.segments.delete(f"{identifier}/zarr.json")  # so that a reader that misses a chunk learns why
        repository.segments.delete(identifier)
    return tables


def _table_at(repository: VersionedRepository, manifest: Manifest | Unreadable, found: VacuumResult) -> Table | None:
    """Return the table of a version that stays, None if it cannot be read."""
    if isinstance(manifest, Manifest):
        with contextlib.suppress(CorruptStoreError):
            return repository.table_at(manifest.version)
    found.unreadable.append(manifest.version)
    return None


def _unless_changed(before: Table, location: Location) -> Edit:
    """Return an edit that changes nothing, and refuses to be repeated on another writer's commit."""

    def edit(table: Table) -> Table:
        if table is not before:
            raise ConflictError(f"vacuum: another writer committed to {location} meanwhile")
        return table

    return edit


def _versions(
    repository: VersionedRepository, before: float, keep_versions: int
) -> tuple[list[int], list[Manifest | Unreadable]]:
    """Return the versions to remove, and those to keep."""
    log = repository.log
    there = set(log.versions())
    kept = [manifest for manifest in log.kept() if manifest.version in there]
    left = [version for version in log.versions() if not kept or version < kept[0].version]  # by a killed vacuum
    old = 0
    replaced = 0.0  # a version was replaced no earlier than those before it
    for at, manifest in enumerate(kept):
        entry = repository.location.entry(log.key(manifest.version))
        by_writer = manifest.time if isinstance(manifest, Manifest) else 0.0
        replaced = max(replaced, _age_mark(by_writer, 0.0 if entry is None else entry.modified))
        if replaced >= before:
            break  # the one before it was the newest not long ago, and so were later ones
        old = at
    old = max(0, min(old, len(kept) - keep_versions))
    return left + [manifest.version for manifest in kept[:old]], kept[old:]


def _is_old_segment(segments: Location, identifier: str, before: float, found: VacuumResult) -> bool:
    """Return whether to remove a segment without a version; count its bytes, or list foreign files."""
    itself = segments.entry(identifier) if segments.is_local else None
    entries = [itself] if itself is not None else []
    if itself is None or itself.kind == "directory":
        entries += [replace(entry, key=f"{identifier}/{entry.key}") for entry in segments.entries(identifier)]
    wrong = strangers(entries, segments.prefix)
    found.refused += [str(segments / key) for key in wrong]
    if wrong or not entries:
        return False
    newest = max((entry.modified for entry in entries if entry.kind == "file"), default=0.0)
    if _age_mark(made_at(identifier), newest) >= before:
        return False
    found.nbytes += sum(map(_nbytes, entries))
    return True


def _age_mark(by_writer: float, by_store: float) -> float:
    """Return when something was written: the later time of two clocks, neither of which can be in the future."""
    legal = [mark for mark in (by_writer, by_store) if 0 < mark <= time.time() + CLOCK_SECONDS]
    return max(legal, default=time.time())


def _now(location: Location) -> float:
    """Return the time of this machine's clock, or that of the file system if it is clearly behind."""
    now = time.time()
    if not location.is_local:
        return now
    with contextlib.suppress(OSError):
        directory = open_directory(location.url, location.key("manifests"))
        name = f"00000000.{uuid.uuid4().hex}.partial"
        descriptor = directory.open_new(name)
        try:
            found = os.fstat(descriptor).st_mtime
        finally:
            os.close(descriptor)
            directory.unlink(name)
        return found if found < now - CLOCK_SECONDS else now
    return now


def _vacuum_fingerprints(repository: VersionedRepository, found: VacuumResult, kept: Iterable[Table]) -> None:
    fingerprints = repository.fingerprints
    entries = fingerprints.entries()
    found.refused += [str(fingerprints / key) for key in strangers(entries, fingerprints.prefix)]
    tokens = {key_of(variable) for table in kept for _, variable in table}
    for entry in entries:
        if entry.kind == "file" and is_hex(entry.key) and entry.key not in tokens and not found.dry_run:
            fingerprints.delete(entry.key)


def _vacuum_left_files(location: Location, found: VacuumResult, before: float) -> None:
    """Remove leftovers of killed processes, on a file system: elsewhere there are no partial writes."""
    if location.path is None:
        return
    scratch = [location.path / SCRATCH, scratch_directory(), *user_places()]
    for directory in dict.fromkeys(filter(None, scratch)):
        for path in orphans(directory):
            entries = Location(str(directory)).entries(path.name)
            if max((entry.modified for entry in entries if entry.key != LOCK), default=0.0) < before:
                found.scratch.append(str(path))
                found.nbytes += sum(map(_nbytes, entries))
                if not found.dry_run:
                    remove_orphan(path)
    root = replace(location, prefix="")
    for place in (root, location / "manifests", location / FINGERPRINTS):
        for name in filter(is_partial, place.children()):
            entry = place.entry(name)
            if entry is not None and entry.kind == "file" and _is_ours(place, entry) and entry.modified < before:
                _remove(place, name, found.partial, found, [entry])
    entries = [entry for name in location.children() if (entry := location.entry(name)) is not None]
    manifests = [replace(entry, key=f"manifests/{entry.key}") for entry in (location / "manifests").entries()]
    wrong = strangers([*entries, *manifests], location.prefix)
    found.refused += [str(location / key) for key in wrong]


def _is_ours(place: Location, entry: Entry) -> bool:
    return not strangers([entry], place.prefix)


def _remove(place: Location, name: str, into: list[str], found: VacuumResult, entries: Iterable[Entry]) -> None:
    into.append(str(place / name))
    found.nbytes += sum(map(_nbytes, entries))
    if not found.dry_run:
        place.delete(name)


def _nbytes(entry: Entry | None) -> int:
    return entry.nbytes if entry is not None and entry.kind == "file" else 0
