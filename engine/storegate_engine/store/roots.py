"""Roots: a directory or URL that holds tables, one per data_id; opens, lists and clears, but reads no data."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass, field
from typing import Literal

from storegate_engine import documents
from storegate_engine.arrays import Compressor
from storegate_engine.contents import MARKER, is_marker, strangers
from storegate_engine.errors import (
    CorruptStoreError,
    InvalidNameError,
    NotAStoreError,
    StoreError,
    StoreExistsError,
    StoreNotFoundError,
)
from storegate_engine.locations import Location, opening, writing
from storegate_engine.names import validate_name
from storegate_engine.store.manifests import FORMAT_VERSION
from storegate_engine.store.stored import StoredRepository

__all__ = ["Root"]


@dataclass(frozen=True)
class Root:
    """An opened root.

    Parameters
    ----------
    location : Location
        The path or URL.
    budget_nbytes : int
        Memory limit of long operations.
    writable : bool
        Whether tables may change.
    compressor : tuple of zarr codecs, optional
        How new chunks are compressed.
    chunk_rows : int or None
        Rows of new chunks; chosen by bytes if None.
    durable : bool
        Whether a commit is on the disk before it is acknowledged.
    references : list of str
        Directories below which files of other formats may be read; what is attached here is added.
    """

    location: Location
    budget_nbytes: int
    writable: bool = True
    compressor: Compressor | None = None
    chunk_rows: int | None = None
    durable: bool = False
    references: list[str] = field(default_factory=list)

    def open(self, mode: Literal["a", "r", "r+", "w", "w-", "x"]) -> None:
        """Check what is there; create the root, or clear it for ``mode="w"``.

        Raises
        ------
        StoreNotFoundError
            There is no store (``"r"``, ``"r+"``).
        StoreExistsError
            There is a store (``"w-"``, ``"x"``).
        NotAStoreError
            The directory holds something that is not a StoreGate store or, for ``"w"``, other files
            beside a store; nothing was removed.
        """
        with opening(self.location):
            self._open(mode)

    def _open(self, mode: str) -> None:
        marker = self.location.read(MARKER)
        found = [] if marker is not None else [name for name in self.location.children() if not self._is_marker(name)]
        if found:  # of another process, which wrote the marker first, but after our check
            marker = self.location.read(MARKER)
        if marker is not None:
            _check_marker(marker, self.location)
            if mode in ("w-", "x"):
                raise self._exists(mode)
            if mode == "w":
                with self.location.locked(shared=False):  # a commit is removed whole, or refused
                    self._require_ours()
                    for child in self.location.children():
                        if child != MARKER:  # so that others, and a restart after a kill, find a store
                            self.location.delete(child)
                    with writing(self.location / MARKER):  # anew, so that writers see that their table is gone
                        self.location.write(MARKER, marker)
        elif mode in ("r", "r+"):
            holds = f"; it holds {', '.join(sorted(found)[:3])}" if found else ""
            raise StoreNotFoundError(f"there is no store at {self.location}{holds}; mode='a' makes one")
        elif found:
            raise NotAStoreError(
                f"{self.location} holds something that is not a store ({', '.join(sorted(found)[:3])}); "
                "nothing was changed, choose an empty or new directory"
            )
        else:
            # an owner id decides which of two simultaneous creators was first
            document = {"format": "storegate", "format_version": FORMAT_VERSION, "made_by": uuid.uuid4().hex}
            with writing(self.location / MARKER):
                self.location.write_if_absent(MARKER, json.dumps(document).encode(), sync=self.durable)
                if mode in ("w-", "x") and self.location.read(MARKER) != json.dumps(document).encode():
                    raise self._exists(mode)  # another process created it after our check
        if self.durable and mode != "r":  # the marker and its directories may come from a process that did not sync
            with writing(self.location / MARKER):
                self.location.sync_way(MARKER)

    def _exists(self, mode: str) -> StoreExistsError:
        return StoreExistsError(
            f"there is a store at {self.location} already, and mode={mode!r} makes a new one; open it with mode='a' or "
            "'r+', or choose another directory"
        )

    def _is_marker(self, name: str) -> bool:
        entry = self.location.entry(name)
        return entry is None or is_marker(entry)  # one that another process wrote has its name by now

    def _require_ours(self) -> None:
        """Refuse to remove anything that is not provably part of a store."""
        if found := strangers(self.location.entries()):
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            raise NotAStoreError(
                f"mode='w' removes only a store; {', '.join(found[:3])}{more} in {self.location} is not part of it; "
                "nothing was changed: move it elsewhere, or choose another directory"
            )

    def data_ids(self) -> list[str]:
        """Return the data_ids that have a committed table, sorted."""
        return sorted(name for name in self.location.children() if self._has_table(name))

    def _has_table(self, name: str) -> bool:
        try:
            validate_name(name, "data_id")
            return bool((self.location / name).children("manifests"))
        except (InvalidNameError, CorruptStoreError):  # a link that leads elsewhere is not our table
            return False

    def repository(self, data_id: str, version: int | None = None) -> StoredRepository:
        """Return the repository of one data_id, which need not exist yet, at the newest or at a given version."""
        return StoredRepository(
            self.location / data_id,
            budget_nbytes=self.budget_nbytes,
            writable=self.writable,
            compressor=self.compressor,
            chunk_rows=self.chunk_rows,
            durable=self.durable,
            pinned=version,
            references=self.references,
        )


def _check_marker(marker: bytes, location: Location) -> None:
    try:
        document = documents.load(marker, f"{location}/{MARKER}")
        version = document["format_version"] if document["format"] == "storegate" else None
    except (CorruptStoreError, KeyError) as err:
        raise NotAStoreError(f"{location}/{MARKER} is not a marker of StoreGate: {err}") from err
    if version != FORMAT_VERSION:
        raise StoreError(
            f"{location} has format version {version!r}, and this library reads {FORMAT_VERSION}: "
            "install a newer storegate"
        )
