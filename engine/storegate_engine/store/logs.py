"""Logs: the manifests of a data_id, one file each, and the commit protocol; knows nothing of what a state means.

A state is one JSON file, ``manifests/00000012.json``. It is written with put-if-absent under the next free
number, then read back: whoever finds its own transaction id there has committed. Nothing is ever overwritten.
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
        """Return the versions that are there, ascending."""
        names = (_NAME.fullmatch(name) for name in self.location.children("manifests"))
        return sorted(int(name[1]) for name in names if name)

    def kept(self) -> list[Manifest | Unreadable]:
        """Return the kept versions, ascending, also what cannot be read; vacuum may have left some on their way out."""
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
            if 1 < kept_from < after:  # older stores do not say from where on they keep
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
            except SnapshotExpired:  # another process committed and vacuumed between the two looks
                before, head = head, self.head()
                if head == before:
                    raise

    def newest_readable(self) -> Manifest:
        """Return the newest version whose manifest can be read; of one that cannot, others still tell."""
        for version in reversed(self.versions()):
            with contextlib.suppress(StoreError):
                return self.read(version)
        return Manifest(0, None)

    def head(self) -> int:
        """Return the newest version, 0 when there is none."""
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
        """Return whether a newer version may be there; cheap on a file system, False elsewhere."""
        return self.location.is_local and not self.is_head(version)

    def changed_at(self) -> int | None:
        """Return when a manifest last came or went, in nanoseconds; None where nothing tells."""
        entry = self.location.status("manifests") if self.location.is_local else None
        return None if entry is None else entry.st_mtime_ns

    def is_head(self, version: int) -> bool:
        """Return whether a version is the newest, where none is missing; on a file system without a list of them."""
        if not self.location.is_local or version == 0:
            return self.head() == version
        # vacuum removes the oldest first: where the next one came and went, this one went before it
        return not self._is_there(version + 1) and self._is_there(version)

    def _is_there(self, version: int) -> bool:
        return os.path.lexists(f"{self.location}/{self.key(version)}")

    def commit(
        self, manifest: Manifest, *, sync: bool = False, check: Callable[[Manifest], None] | None = None
    ) -> None:
        """Commit a state: put if absent; where it is not certain who did, read back and compare the transaction id.

        Parameters
        ----------
        manifest : Manifest
            The state.
        sync : bool
            Whether it must be on the disk when this returns.
        check : callable, optional
            Looks at the state as a reader does; what it raises as corrupt is not put.

        Raises
        ------
        UnreadableStateError
            It is larger than what is read, or ``check`` refused it; nothing was put.
        ConflictError
            Another writer's state is there.
        WriteError
            It cannot be written.
        StoreError
            It was written, but is perhaps not on the disk yet.
        """
        content = manifest.to_bytes()
        where = self.location / self.key(manifest.version)
        try:
            parsed = parse_manifest(content, manifest.version, str(where))
            if check is not None:
                check(parsed)
        except CorruptStoreError as err:
            raise UnreadableStateError(
                f"{manifest.operation}: nothing was changed, since nobody could open the store afterwards: {err}; "
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

        Its number may have been taken by others and freed by a vacuum before it was put: then no version follows it,
        and those that came after do not name it. Vacuum would have removed the version before it first.
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
            f"{manifest.operation}: other writers were so much faster that it cannot be told whether version "
            f"{manifest.version} of {self.location} was theirs or this one; look whether the change is there"
        )

    def _withdraw(self, manifest: Manifest) -> bool:
        """Remove a manifest that is no version; return False, for the one who asked whether it is."""
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
        """Return whether it is this manifest that was committed under its version."""
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
