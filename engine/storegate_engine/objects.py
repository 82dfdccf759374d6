"""Objects: the stores of zarr-python, adapted, and listings.

A local store that follows no link out of its root, and an object store that detects forked processes.
"""

from __future__ import annotations

import asyncio
import os
from datetime import datetime
from functools import partial
from typing import Any

import zarr
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from storegate_engine.directories import Entry, open_file, put_file
from storegate_engine.errors import StoreError

__all__ = ["LocalStore", "ObjectStore", "objects_below"]

_runtime_pid: int | None = None
"""The process whose threads serve object stores; a forked child inherits the number, but no threads."""


class LocalStore(zarr.storage.LocalStore):
    """A local store that opens files below its root step by step, see `directories`."""

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a key, None if it does not exist."""
        try:
            descriptor = open_file(str(self.root), key)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        with open(descriptor, "rb") as file:
            start, nbytes = _span(byte_range, file.seek(0, 2))
            file.seek(start)
            return (prototype or default_buffer_prototype()).buffer.from_bytes(file.read(nbytes))

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Return the bytes of a key, None if it does not exist."""
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def getsize(self, key: str) -> int:
        """Return the number of bytes of a key; FileNotFoundError if it does not exist."""
        descriptor = open_file(str(self.root), key)
        try:
            return os.fstat(descriptor).st_size
        finally:
            os.close(descriptor)

    def set_sync(self, key: str, value: Buffer) -> None:
        """Write a key, replacing its content."""
        put_file(str(self.root), key, value.to_bytes(), exclusive=False)

    async def _set(self, key: str, value: Buffer, exclusive: bool = False) -> None:
        await asyncio.to_thread(put_file, str(self.root), key, value.to_bytes(), exclusive=exclusive)


class ObjectStore(zarr.storage.ObjectStore[Any]):
    """An object store that refuses to be used in a forked child of a process that has used one.

    The client's threads stay in the parent, and the child would wait for them forever.
    """

    def __init__(self, store: Any, *, read_only: bool = False) -> None:
        global _runtime_pid
        if _runtime_pid is None:
            _runtime_pid = os.getpid()
        super().__init__(store, read_only=read_only)

    @property
    def store(self) -> Any:
        """The client."""
        if _runtime_pid != os.getpid():
            raise StoreError(
                f"{self._store} cannot be read or written in a forked process: the threads of its client are in the "
                "parent; start processes with 'spawn' or 'forkserver', as by DataLoader(..., "
                "multiprocessing_context='spawn'), or use num_workers=0: a stream reads with threads, which are faster"
            )
        return self._store

    @store.setter
    def store(self, store: Any) -> None:
        self._store = store

    def __str__(self) -> str:
        return f"object_store://{self._store}"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the client's configuration."""
        return partial(type(self), read_only=self.read_only), (self._store,)


def _span(byte_range: ByteRequest | None, n_bytes: int) -> tuple[int, int]:
    """Return the first requested byte, and the number of bytes."""
    match byte_range:
        case RangeByteRequest(start, end):
            return start, end - start
        case OffsetByteRequest(offset):
            return offset, -1
        case SuffixByteRequest(suffix):
            return max(0, n_bytes - suffix), -1
    return 0, -1


async def objects_below(store: Store, prefix: str) -> list[Entry]:
    """Return all objects of a store below a prefix, with their sizes and times."""
    skip = len(prefix) + 1 if prefix else 0
    base = f"{prefix}/" if prefix else ""
    if isinstance(store, zarr.storage.FsspecStore):
        path = store.path.rstrip("/")
        found = await store.fs._find(f"{path}/{base}", detail=True)
        return [
            Entry(name[len(path) + 1 + skip :], "file", int(info.get("size") or 0), _modified(info))
            for name, info in found.items()
            if info.get("type") != "directory"
        ]
    if isinstance(store, zarr.storage.ObjectStore):
        import obstore  # optional and deferred on purpose: only object stores need it

        listed = [item async for batch in obstore.list(store.store, prefix=base) for item in batch]
        return [Entry(item["path"][skip:], "file", item["size"], item["last_modified"].timestamp()) for item in listed]
    return [Entry(key[skip:], "file", await store.getsize(key), 0.0) async for key in store.list_prefix(base)]


def _modified(info: dict[str, Any]) -> float:
    """Return the time of the last write reported by a file system of fsspec: each has another name for it."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value.timestamp()
        if isinstance(value, (int, float)):
            return float(value)
    return 0.0
