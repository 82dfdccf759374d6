"""Manifests: committed states of a table as JSON with a checksum, and back; knows nothing of what a state means."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from storegate_engine import documents
from storegate_engine.errors import CorruptStoreError, StoreError, shown

__all__ = ["FORMAT_VERSION", "RECENT_CHARS", "Manifest", "Unreadable", "committed", "new_transaction", "parse_manifest"]

FORMAT_VERSION = 1
RECENT = 32
"""Number of preceding transactions that a manifest names."""
RECENT_CHARS = 8
"""Characters of each of their ids: enough to distinguish writers."""
_MAX_TIME = 253_402_300_800
"""The end of the year 9999, in seconds since 1970."""


def new_transaction() -> str:
    """Return a fresh transaction id."""
    return uuid.uuid4().hex


@dataclass(frozen=True, slots=True)
class Manifest:
    """One committed state, and the call that made it."""

    version: int
    """Number of the state; 0 is the empty table, which has no file."""
    state: Any
    """The state of the table, as JSON."""
    transaction: str = ""
    """The id by which a writer recognises its own commit."""
    operation: str = "empty"
    """The call that made the state."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """The arguments of the call, without data."""
    time: float = 0.0
    """Seconds since 1970-01-01 UTC."""
    rows_added: int = 0
    """Rows added in all phases together."""
    nbytes_added: int = 0
    """Bytes of the rows stored for this state."""
    recent: tuple[str, ...] = ()
    """The beginnings of the ids of the preceding transactions, the latest first; a writer finds out from later
    manifests whether its own was taken up, even after a vacuum."""
    kept_from: int = 1
    """The oldest version that is kept."""
    removed: tuple[str, ...] = ()
    """Segments that a vacuum removes after this commit: no later version may refer to them."""
    unsynced: tuple[str, ...] | None = None
    """Segments of the state that may not be on the disk yet; None if that is not known."""
    is_durable: bool = False
    """Whether the manifest was on the disk when it was acknowledged."""

    def to_bytes(self) -> bytes:
        """Return the manifest as JSON that includes its own SHA-256."""
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
            "recent": list(self.recent),
            "kept_from": self.kept_from,
            "removed": list(self.removed),
            "unsynced": None if self.unsynced is None else list(self.unsynced),
            "is_durable": self.is_durable,
            "state": self.state,
        }
        content = _canonical(document).encode()
        return content[:-1] + _CHECKSUM_KEY + f'{hashlib.sha256(content).hexdigest()}"}}'.encode()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A version whose manifest cannot be read, or the last one of several missing versions."""

    version: int
    """Version number."""
    problem: str
    """What is wrong."""


_CHECKSUM_KEY = b',"checksum":"'


def _canonical(document: Mapping[str, Any]) -> str:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _is_as_written(content: bytes, document: Mapping[str, Any], checksum: object) -> bool:
    """Return whether a manifest matches its checksum: of the bytes before it, or of the document in canonical form.

    Older versions of this library wrote manifests in a different form from the one they hashed.
    """
    before, _, behind = content.rpartition(_CHECKSUM_KEY)
    if (
        behind == f'{checksum}"}}'.encode(errors="surrogatepass")
        and hashlib.sha256(before + b"}").hexdigest() == checksum
    ):
        return True
    return hashlib.sha256(_canonical(document).encode(errors="surrogatepass")).hexdigest() == checksum


def parse_manifest(content: bytes, version: int, where: str) -> Manifest:
    """Return the manifest in ``content``.

    Raises
    ------
    CorruptStoreError
        The content is not JSON, not a manifest, or not the bytes that were written.
    StoreError
        The manifest has a newer format.
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
    if not _is_as_written(content, document, checksum) or document.get("version") != version:
        raise CorruptStoreError(f"manifest {where} is not what was written: its checksum does not match")
    values = {name: document.get(name, default) for name, (_, default) in _FIELDS.items()}
    for name, (kinds, _) in _FIELDS.items():
        if type(values[name]) not in kinds:
            raise CorruptStoreError(f"manifest {where} is not one of ours: {name} is {shown(values[name])}")
    for name in ("recent", "removed", "unsynced"):
        if values[name] is None:
            continue
        if any(type(item) is not str for item in values[name]):
            raise CorruptStoreError(f"manifest {where} is not one of ours: {name} is {shown(values[name])}")
        values[name] = tuple(values[name])
    if "state" not in document or not 0 <= values["time"] < _MAX_TIME:
        raise CorruptStoreError(f"manifest {where} is not one of ours: it has no state, or no valid time")
    return Manifest(version, document["state"], **values)


_FIELDS: Mapping[str, tuple[tuple[type, ...], Any]] = {
    "transaction": ((str,), None),
    "operation": ((str,), None),
    "arguments": ((dict,), None),
    "time": ((int, float), None),
    "rows_added": ((int,), None),
    "nbytes_added": ((int,), None),
    "recent": ((list,), []),
    "kept_from": ((int,), 1),
    "removed": ((list,), []),
    "unsynced": ((list, type(None)), None),
    "is_durable": ((bool,), False),
}
"""The type of each field of a manifest, and its default; None if the field is required."""


def committed(
    parent: Manifest,
    *,
    operation: str,
    arguments: Mapping[str, Any],
    state: Any,
    rows_added: int = 0,
    nbytes_added: int = 0,
    kept_from: int = 1,
    removed: Sequence[str] = (),
    unsynced: Sequence[str] = (),
    is_durable: bool = False,
) -> Manifest:
    """Return the manifest that would follow ``parent``."""
    recent = (parent.transaction[:RECENT_CHARS], *parent.recent)[:RECENT]
    return Manifest(
        parent.version + 1,
        state,
        new_transaction(),
        operation,
        arguments,
        time.time(),
        rows_added,
        nbytes_added,
        recent,
        max(kept_from, parent.kept_from),
        tuple(removed),
        tuple(unsynced),
        is_durable,
    )
