"""Manifests: committed states of a table, and the commit protocol; knows nothing of what a state means.

A state is one JSON file, ``manifests/00000012.json``. It is written with put-if-absent under the next free
number, then read back: whoever finds its own transaction id there has committed. Nothing is ever overwritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from storegate_engine import documents
from storegate_engine.errors import ConflictError, CorruptStoreError, SnapshotExpired, StoreError, WriteError
from storegate_engine.locations import Location, writing

__all__ = ["FORMAT_VERSION", "Manifest", "StoredLog", "new_transaction"]

FORMAT_VERSION = 1
_NAME = re.compile(r"([0-9]{8,18})\.json")


def new_transaction() -> str:
    """Return a fresh transaction id."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Manifest:
    """One committed state, and how it came to be."""

    version: int
    """Number of the state; 0 is the empty table, which has no file."""
    state: Any
    """What the table says of itself."""
    transaction: str = ""
    """The id with which a writer knows its own commit."""
    operation: str = "empty"
    """The call that made the state."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The call's arguments, without data."""
    time: float = 0.0
    """Seconds since 1970-01-01 UTC."""
    rows_added: int = 0
    """Rows that all phases together have more than in the state before."""
    nbytes_added: int = 0
    """Bytes of the rows that were stored for it."""

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON that carries its own SHA-256."""
        document = {
            "format": "storegate",
            "format_version": FORMAT_VERSION,
            "version": self.version,
            "parent": self.version - 1,
            "transaction": self.transaction,
            "operation": self.operation,
            "arguments": dict(self.arguments),
            "time": self.time,
            "rows_added": self.rows_added,
            "nbytes_added": self.nbytes_added,
            "state": self.state,
        }
        return json.dumps({**document, "checksum": _checksum(document)}, ensure_ascii=False).encode()


def _checksum(document: Mapping[str, Any]) -> str:
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def parse_manifest(content: bytes, version: int, where: str) -> Manifest:
    """Return the manifest in ``content``.

    Raises
    ------
    CorruptStoreError
        Not JSON, not ours, or not the bytes that were written.
    StoreError
        Written by a newer format.
    """
    document = documents.load(content, f"manifest {where}")
    if document.get("format") != "storegate":
        raise CorruptStoreError(f"manifest {where} is not one of ours")
    found = document.get("format_version")
    if found != FORMAT_VERSION:
        raise StoreError(
            f"manifest {where} has format version {found!r}, and this library reads {FORMAT_VERSION}: "
            "install a newer storegate"
        )
    checksum = document.pop("checksum", None)
    if checksum != _checksum(document) or document.get("version") != version:
        raise CorruptStoreError(f"manifest {where} is not what was written: its checksum does not match")
    try:
        state = document["state"]
        values = {name: kind(document[name]) for name, kind in _FIELDS.items()}
    except (KeyError, TypeError, ValueError) as err:
        raise CorruptStoreError(f"manifest {where} is not one of ours: {err!r}") from err
    return Manifest(version, state, **values)


_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "transaction": str,
    "operation": str,
    "arguments": dict,
    "time": float,
    "rows_added": int,
    "nbytes_added": int,
}


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

    def head(self) -> int:
        """Return the newest version, 0 when there is none."""
        return max(self.versions(), default=0)

    def read(self, version: int) -> Manifest:
        """Return one committed state."""
        if version == 0:
            return Manifest(0, None)
        content = self.location.read(self.key(version), max_nbytes=documents.MAX_NBYTES)
        where = f"{self.location}/{self.key(version)}"
        if content is None:
            raise SnapshotExpired(f"version {version} is not there: {where}; kept are {_span(self.versions())}")
        return parse_manifest(content, version, where)

    def changed_since(self, version: int) -> bool:
        """Return whether a newer version may be there; cheap on a file system, False elsewhere."""
        if not self.location.is_local:
            return False
        if os.path.exists(f"{self.location}/{self.key(version + 1)}"):
            return True
        # the next one may have come and been vacuumed, but then this one was too
        return self.head() > 0 if version == 0 else not os.path.exists(f"{self.location}/{self.key(version)}")

    def commit(self, manifest: Manifest, *, sync: bool = False) -> None:
        """Commit a state: put if absent, then read back and compare the transaction id.

        Parameters
        ----------
        manifest : Manifest
            The state.
        sync : bool
            Whether it must be on the disk when this returns.

        Raises
        ------
        ConflictError
            Another writer's state is there.
        WriteError
            It cannot be written.
        StoreError
            It was written, but is perhaps not on the disk yet.
        """
        content = manifest.to_bytes()
        if len(content) > documents.MAX_NBYTES:
            raise StoreError(
                f"the state of {self.location} takes {len(content)} bytes, and {documents.MAX_NBYTES} are read: "
                "compact the variables, or use several data_ids"
            )
        if manifest.version <= self.head():
            raise self._conflict(manifest)
        where = self.location / self.key(manifest.version)
        try:
            with writing(where):
                self.location.write_if_absent(self.key(manifest.version), content, sync=sync)
        except WriteError:
            if not self._holds(manifest):
                raise
            if sync:  # only the answer was lost: what it would have told is done again
                self._sync_again(manifest.version)
        if not self._holds(manifest):
            raise self._conflict(manifest)

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


def committed(
    manifest: Manifest,
    *,
    operation: str,
    arguments: Mapping[str, Any],
    state: Any,
    rows_added: int = 0,
    nbytes_added: int = 0,
) -> Manifest:
    """Return the manifest that would follow ``manifest``."""
    now = time.time()
    return Manifest(manifest.version + 1, state, new_transaction(), operation, arguments, now, rows_added, nbytes_added)


def _span(versions: list[int]) -> str:
    return f"{versions[0]}..{versions[-1]}" if versions else "none"
