"""Vacuum: which versions, segments and left files of a data_id nobody needs any more, and their removal; by age only.

::

    1. remove the manifests of versions that were superseded long ago, the oldest first
    2. commit a version that says so: who is just going back to one of those is refused from here on
    3. list the manifests that are there now; remove old segments that none of them refers to

A process killed between any two steps leaves a store that reads the same, and work for the next vacuum.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from zarr.core.sync import sync

from storegate_engine.budget import format_nbytes
from storegate_engine.locations import PARTIAL, Location
from storegate_engine.segments import made_at
from storegate_engine.spill import orphans
from storegate_engine.states import FINGERPRINTS, key_of, stored_arrays
from storegate_engine.stored import StoredRepository

__all__ = ["Vacuumed", "vacuum"]


@dataclass(slots=True)
class Vacuumed:
    """What a vacuum has removed, or would remove."""

    versions: list[int] = field(default_factory=list)
    """Versions that can no longer be opened."""
    segments: list[str] = field(default_factory=list)
    """Identifiers of segments that no kept version refers to."""
    scratch: list[str] = field(default_factory=list)
    """Spill that processes of this machine have left: killed ones, and ones that were asked to."""
    partial: list[str] = field(default_factory=list)
    """Files that killed processes had not finished."""
    nbytes: int = 0
    """Bytes of all of them."""
    dry_run: bool = False
    """Whether nothing was removed."""

    def __str__(self) -> str:
        """Return it as a line for people."""
        verb = "would free" if self.dry_run else "freed"
        return (
            f"{verb} {format_nbytes(self.nbytes)}: {len(self.versions)} versions, {len(self.segments)} segments, "
            f"{len(self.scratch)} scratch directories, {len(self.partial)} unfinished files"
        )


def vacuum(
    repository: StoredRepository, *, older_than: float, keep_versions: int = 1, dry_run: bool = False
) -> Vacuumed:
    """Remove what nobody needs any more.

    Parameters
    ----------
    repository : StoredRepository
        The data_id.
    older_than : float
        Seconds. A version goes when a newer one has replaced it for longer, a segment without a version when
        its last file is older. Must exceed the longest transaction and the longest time that a reader keeps a version.
    keep_versions : int
        As many of the newest versions stay in any case.
    dry_run : bool
        Only say what would go.

    Raises
    ------
    ReadOnlyError
        The store was opened with ``mode="r"`` or at one version.
    ValueError
        A negative age, or no version to keep.
    """
    if not older_than >= 0:
        raise ValueError(f"older_than is an age of 0 seconds or more, found {older_than!r}")
    if keep_versions < 1:
        raise ValueError(f"keep_versions is 1 or more (the newest version always stays), found {keep_versions!r}")
    if not dry_run:
        repository.require_writable("vacuum")
    found = Vacuumed(dry_run=dry_run)
    before = time.time() - older_than
    kept = _vacuum_versions(repository, found, before, keep_versions)
    _vacuum_segments(repository, found, before, kept)
    _vacuum_left_files(repository.location, found, before)
    return found


def _vacuum_versions(repository: StoredRepository, found: Vacuumed, before: float, keep_versions: int) -> set[int]:
    """Remove old manifests; return the versions that stay."""
    log = repository.log
    versions = log.versions()
    candidates, newest = versions[:-keep_versions], versions[-keep_versions:]
    for version, successor in zip(candidates, versions[1:], strict=False):
        if log.read(successor).time >= before:
            break  # it was the newest one not long ago, and so was everything after it
        found.versions.append(version)
    found.nbytes += sum(_nbytes(repository.location, log.key(version)) for version in found.versions)
    if found.dry_run or not found.versions:
        return {*candidates, *newest}.difference(found.versions)
    for version in found.versions:
        repository.location.delete(log.key(version))
    with repository.begin("vacuum", versions=[found.versions[0], found.versions[-1]]) as change:
        change.edit(lambda table: table)
    return set(log.versions())


def _vacuum_segments(repository: StoredRepository, found: Vacuumed, before: float, kept: set[int]) -> None:
    candidates = set(repository.segments.children())
    used: set[str] = set()
    tokens: set[str] = set()
    for version in sorted(kept):
        table = repository.table_at(version)
        used.update(array.segment for array in stored_arrays(table))
        tokens.update(key_of(variable) for _, variable in table)
    if not found.dry_run:
        fingerprints = repository.location / FINGERPRINTS
        for token in set(fingerprints.children()) - tokens:
            if not PARTIAL.fullmatch(token):
                fingerprints.delete(token)
    for identifier in sorted(candidates - used):
        location = repository.segments / identifier
        if _is_segment(identifier) and _age_mark(location, identifier) < before:
            found.segments.append(identifier)
            found.nbytes += _nbytes(location)
            if not found.dry_run:
                if location.path is None or not location.path.is_symlink():
                    location.delete("zarr.json")  # from here on a reader that misses a chunk learns why
                location.delete()


def _vacuum_left_files(location: Location, found: Vacuumed, before: float) -> None:
    if location.path is None:
        return
    for path in orphans(location.path / "scratch"):
        if _newest(path) < before:
            _remove(location / "scratch", path.name, found.scratch, found)
    root = replace(location, prefix=location.prefix.rpartition("/")[0])
    for place in (root, location, location / "manifests", location / "segments", location / FINGERPRINTS):
        for name in place.children():
            if PARTIAL.fullmatch(name) and _newest(Path(str(place), name)) < before:
                _remove(place, name, found.partial, found)


def _remove(place: Location, name: str, into: list[str], found: Vacuumed) -> None:
    into.append(str(place / name))
    found.nbytes += _nbytes(place, name)
    if not found.dry_run:
        place.delete(name)


def _is_segment(identifier: str) -> bool:
    return len(identifier) == 32 and all(char in "0123456789abcdef" for char in identifier)


def _age_mark(location: Location, identifier: str) -> float:
    """Return when a segment was last written to; when it was begun where a store does not tell."""
    begun = made_at(identifier)
    return begun if location.path is None else max(begun, _newest(location.path))


def _newest(path: Path) -> float:
    """Return when the newest file at or below a path was written."""
    return max((file.lstat().st_mtime for file in _files(path)), default=0.0)


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir() and not path.is_symlink():
        for parent, _, names in os.walk(path):
            yield from (Path(parent, name) for name in names)
    elif path.is_symlink() or path.exists():
        yield path


def _nbytes(location: Location, key: str = "") -> int:
    if location.path is None:
        return int(sync(location.store.getsize_prefix(location.key(key))))
    return sum(path.lstat().st_size for path in _files(location.path / key))
