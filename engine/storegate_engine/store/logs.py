"""Logs: the manifests of a data_id, one file each, and the commit protocol; knows nothing of their content.

A state is one JSON file, ``manifests/00000012.json``. It is written with put-if-absent under the next free
number, then read back: the writer whose transaction id is there has committed. Nothing is ever overwritten.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from dataclasses import dataclass

from storegate_engine.errors import (
    ConflictError,
    CorruptStoreError,
    SnapshotExpired,
    StoreError,
    UnreadableStateError,
    WriteError,
)
from storegate_engine.locations import Location, writing
from storegate_engine.store.manifests import RECENT_CHARS, Manifest, Unreadable, parse_manifest

__all__ = ["StoredLog"]

_NAME = re.compile(r"([0-9]{8,18})\.json")


def _missing(first: int, last: int) -> str:
    return f"manifest {StoredLog.key(first)} is missing" + (f", and all up to {last}" if last > first else "")


@dataclass(frozen=True, slots=True)
class StoredLog:
    """States in storage, one file each."""

    location: Location
    """The directory that holds ``manifests/``."""

    @staticmethod
    def key(version: int) -> str:
        """Return the key of one version."""
        return f"manifests/{version:08d}.json"

    def versions(self) -> list[int]:
        """Return the existing versions, ascending."""
        names = (_NAME.fullmatch(name) for name in self.location.children("manifests"))
        return sorted(int(name[1]) for name in names if name)

    def kept(self) -> list[Manifest | Unreadable]:
        """Return the kept versions, ascending, readable or not; vacuum may still be removing older ones."""
        while True:
            versions, kept_from = self.versions(), 1
            found: list[Manifest | Unreadable] = []
            after = versions[-1] + 1 if versions else 1
            for version in reversed(versions):
                if version < kept_from:
                    break
                if version < after - 1:
                    found.append(Unreadable(after - 1, _missing(version + 1, after - 1)))
                found.append(self._read_or_say(version))
                kept_from, after = max(kept_from, getattr(found[-1], "kept_from", 1)), version
            if 1 < kept_from < after:  # older stores do not record where the kept versions begin
                found.append(Unreadable(after - 1, _missing(kept_from, after - 1)))
            if not any(isinstance(one, Unreadable) for one in found) or versions[-1] == self.head():
                return found[::-1]  # else another process committed and vacuumed meanwhile

    def _read_or_say(self, version: int) -> Manifest | Unreadable:
        try:
            return self.read(version)
        except StoreError as err:
            return Unreadable(version, str(err))

    def newest(self) -> Manifest:
        """Return the newest version."""
        head = self.head()
        while True:
            try:
                return self.read(head)
            except SnapshotExpired:  # another process committed and vacuumed between the two reads
                before, head = head, self.head()
                if head == before:
                    raise

    def newest_readable(self) -> Manifest:
        """Return the newest version whose manifest can be read."""
        for version in reversed(self.versions()):
            with contextlib.suppress(StoreError):
                return self.read(version)
        return Manifest(0, None)

    def head(self) -> int:
        """Return the number of the newest version, 0 if there is none."""
        return max(self.versions(), default=0)

    def read(self, version: int) -> Manifest:
        """Return one committed state."""
        if version == 0:
            return Manifest(0, None)
        content = self.location.read(self.key(version))
        where = f"{self.location}/{self.key(version)}"
        if content is None:
            raise SnapshotExpired(f"version {version} is not there: {where}; kept are {_span(self.versions())}")
        return parse_manifest(content, version, where)

    def changed_since(self, version: int) -> bool:
        """Return whether a newer version may exist; cheap on a file system, False elsewhere."""
        return self.location.is_local and not self.is_head(version)

    def changed_at(self) -> int | None:
        """Return when a manifest was last added or removed, in nanoseconds; None if that is not known."""
        entry = self.location.status("manifests") if self.location.is_local else None
        return None if entry is None else entry.st_mtime_ns

    def is_head(self, version: int) -> bool:
        """Return whether a version is the newest, if none is missing; on a file system without listing them."""
        if not self.location.is_local or version == 0:
            return self.head() == version
        # vacuum removes the oldest first: if the next one came and went, this one went before it
        return not self._is_there(version + 1) and self._is_there(version)

    def _is_there(self, version: int) -> bool:
        return os.path.lexists(f"{self.location}/{self.key(version)}")

    def commit(
        self, manifest: Manifest, *, sync: bool = False, check: Callable[[Manifest], None] | None = None
    ) -> None:
        """Commit a state: put if absent; if in doubt, read back and compare the transaction id.

        Parameters
        ----------
        manifest : Manifest
            The state.
        sync : bool
            Whether the state must be on the disk when this returns.
        check : callable, optional
            Checks the state as a reader does; if it raises CorruptStoreError, nothing is put.

        Raises
        ------
        UnreadableStateError
            The state is larger than readers accept, or ``check`` refused it; nothing was put.
        ConflictError
            Another writer's state is in its place.
        WriteError
            The state cannot be written.
        StoreError
            The state was written, but may not be on the disk yet.
        """
        content = manifest.to_bytes()
        where = self.location / self.key(manifest.version)
        try:
            parsed = parse_manifest(content, manifest.version, str(where))
            if check is not None:
                check(parsed)
        except CorruptStoreError as err:
            raise UnreadableStateError(
                f"{manifest.operation}: nothing was changed, since the store could not be opened afterwards: {err}; "
                "compact() the variables first, or use several data_ids"
            ) from err
        if not self.is_head(manifest.version - 1):
            raise self._conflict(manifest)
        is_put = False
        try:
            with writing(where):
                is_put = self.location.write_if_absent(self.key(manifest.version), content, sync=sync)
        except WriteError:
            if not self._holds(manifest):
                raise
            if sync:  # what the answer would have told is done again
                self._sync_again(manifest.version)
        if not self.is_taken_up(manifest, is_put=is_put):
            raise self._conflict(manifest)

    def is_taken_up(self, manifest: Manifest, *, is_put: bool) -> bool:
        """Return whether a manifest that was put is a version, or was one until vacuum removed it.

        Other writers may have taken its number, and a vacuum freed it, before it was put: then no version follows it,
        and later ones do not name it. Vacuum would have removed the version before it first.
        """
        if is_put and manifest.version > 1 and self._is_there(manifest.version - 1):
            return True
        versions = [version for version in self.versions() if version >= manifest.version]
        if versions == [manifest.version]:
            return self._holds(manifest)
        for version in versions:
            with contextlib.suppress(SnapshotExpired):
                found = self.read(version)
                back = version - manifest.version - 1
                if back < 0 and found.transaction != manifest.transaction:
                    return False
                if 0 <= back < len(found.recent):
                    return found.recent[back] == manifest.transaction[:RECENT_CHARS] or self._withdraw(manifest)
        if self._holds(manifest):  # vacuum removes the oldest first: what followed it was gone before it was put
            return self._withdraw(manifest)
        raise StoreError(
            f"{manifest.operation}: other writers were so much faster that it is not known whether version "
            f"{manifest.version} of {self.location} was theirs or this one; check whether the change is there"
        )

    def _withdraw(self, manifest: Manifest) -> bool:
        """Remove a manifest that did not become a version, and return False."""
        if self._holds(manifest):
            self.location.delete(self.key(manifest.version))
        return False

    def _sync_again(self, version: int) -> None:
        try:
            (self.location / "manifests").sync()
        except OSError as err:
            raise StoreError(
                f"version {version} of {self.location} is committed, but a power failure may still undo it: {err}"
            ) from err

    def _holds(self, manifest: Manifest) -> bool:
        """Return whether this manifest was committed under its version."""
        try:
            return self.read(manifest.version).transaction == manifest.transaction
        except SnapshotExpired:
            return False

    def _conflict(self, manifest: Manifest) -> ConflictError:
        found = "another operation"
        with contextlib.suppress(StoreError):
            found = self.read(manifest.version).operation
        return ConflictError(
            f"{manifest.operation}: version {manifest.version} of {self.location} is {found} of another writer, which "
            "was faster; nothing was changed, try again"
        )


def _span(versions: list[int]) -> str:
    return f"{versions[0]}..{versions[-1]}" if versions else "none"
