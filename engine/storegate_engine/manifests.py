"""Manifests: committed states of a table, and the commit protocol; knows nothing of what a state means.

A state is one JSON file, ``manifests/00000012.json``. It is written with put-if-absent under the next free
number, then read back: whoever finds its own transaction id there has committed. Nothing is ever overwritten.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from storegate_engine.errors import ConflictError, CorruptStoreError, SnapshotExpired, StoreError
from storegate_engine.locations import Location

__all__ = ["FORMAT_VERSION", "Manifest", "StoredLog", "new_transaction"]

FORMAT_VERSION = 1
_NAME = re.compile(r"([0-9]{8,})\.json")


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
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise CorruptStoreError(f"manifest {where} is not JSON: {err}") from err
    if not isinstance(document, dict) or document.get("format") != "storegate":
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
    return Manifest(
        version,
        document["state"],
        document["transaction"],
        document["operation"],
        document["arguments"],
        document["time"],
    )


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
        content = self.location.read(self.key(version))
        where = f"{self.location}/{self.key(version)}"
        if content is None:
            raise SnapshotExpired(f"version {version} is not there: {where}; kept are {_span(self.versions())}")
        return parse_manifest(content, version, where)

    def changed_since(self, version: int) -> bool:
        """Return whether a newer version may be there; cheap on a file system, False elsewhere."""
        return self.location.is_local and os.path.exists(f"{self.location}/{self.key(version + 1)}")

    def commit(self, manifest: Manifest) -> None:
        """Commit a state: put if absent, then read back and compare the transaction id.

        Raises
        ------
        ConflictError
            Another writer's state is there.
        """
        key = self.key(manifest.version)
        if manifest.version <= self.head():
            raise ConflictError(f"version {manifest.version} of {self.location} is taken by another writer")
        self.location.write_if_absent(key, manifest.to_bytes())
        found = self.read(manifest.version)
        if found.transaction != manifest.transaction:
            raise ConflictError(
                f"version {manifest.version} of {self.location} was committed by another writer "
                f"({found.operation}) while {manifest.operation} was under way"
            )


def committed(manifest: Manifest, *, operation: str, arguments: Mapping[str, Any], state: Any) -> Manifest:
    """Return the manifest that would follow ``manifest``."""
    return Manifest(manifest.version + 1, state, new_transaction(), operation, arguments, time.time())


def _span(versions: list[int]) -> str:
    return f"{versions[0]}..{versions[-1]}" if versions else "none"
