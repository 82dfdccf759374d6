"""Locations: a path or URL as a zarr store; knows no format, only keys."""

from __future__ import annotations

import functools
import json
import os
import shutil
import threading
from collections.abc import Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

import zarr
from zarr.abc.store import Store
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from storegate_engine.errors import StoreError

__all__ = ["Location", "parse_location"]

T = TypeVar("T")
_OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "azure")
_memory_stores: dict[str, zarr.storage.MemoryStore] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Location:
    """A place that holds files: a directory, or a prefix of an object store.

    Keys are relative, with ``/`` between their parts. A location is small, hashable and picklable: it travels
    to other processes instead of an opened store.
    """

    url: str
    """Absolute path, or URL with a scheme."""
    prefix: str = ""
    """Key below ``url``, without slashes at its ends."""
    options: str = field(default="{}", repr=False)
    """What the storage library needs (credentials, endpoint) as JSON; never written anywhere."""

    @property
    def is_local(self) -> bool:
        """Whether it is on a file system."""
        return "://" not in self.url

    @property
    def path(self) -> Path | None:
        """The directory, or None where it is not on a file system."""
        return Path(self.url, self.prefix) if self.is_local else None

    def __truediv__(self, key: str) -> Location:
        """Return the location below this one."""
        return replace(self, prefix=self.key(key))

    def __str__(self) -> str:
        """Return the path or URL as a person would write it."""
        return f"{self.url.rstrip('/')}/{self.prefix}".rstrip("/")

    def key(self, key: str) -> str:
        """Return the key of ``key`` in :attr:`store`."""
        return f"{self.prefix}/{key}".strip("/")

    @property
    def store(self) -> Store:
        """The zarr store at ``url``; keys in it start with the prefix."""
        return _open_store(self.url, self.options)

    def read(self, key: str) -> bytes | None:
        """Return the bytes of one key, or None when there is no such key."""
        if self.path is not None:
            try:
                return (self.path / key).read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                return None
        buffer = _run(self.store.get(self.key(key), default_buffer_prototype()))
        return None if buffer is None else buffer.to_bytes()

    def write_if_absent(self, key: str, content: bytes) -> None:
        """Write one key unless it exists; atomic on local directories, object stores and memory."""
        buffer = default_buffer_prototype().buffer.from_bytes(content)
        _run(self.store.set_if_not_exists(self.key(key), buffer))

    def write(self, key: str, content: bytes) -> None:
        """Write one key, over what it holds; for files of a segment that is not sealed yet."""
        _run(self.store.set(self.key(key), default_buffer_prototype().buffer.from_bytes(content)))

    def children(self, key: str = "") -> list[str]:
        """Return the names directly below a key, in no order; empty when there is none."""
        if self.path is not None:
            try:
                return os.listdir(self.path / key)
            except (FileNotFoundError, NotADirectoryError):
                return []
        return _run(self._list(self.key(key)))

    async def _list(self, key: str) -> list[str]:
        return [name.rstrip("/") async for name in self.store.list_dir(key)]

    def delete(self, key: str = "") -> None:
        """Delete one key and everything below it; nothing happens when there is none."""
        if self.path is not None:
            target = self.path / key
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            else:
                target.unlink(missing_ok=True)
            return
        _run(self.store.delete_dir(self.key(key)))
        if self.key(key):
            _run(self.store.delete(self.key(key)))


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    return sync(coroutine)


def parse_location(url: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> Location:
    """Return the location of a path or of any URL that zarr opens.

    ``s3://``, ``gs://`` and ``az://`` go through obstore (extra ``s3``), whose put-if-absent is atomic;
    ``memory://name`` lives in this process; other schemes go through fsspec.

    >>> str(parse_location("memory://scratch") / "a")
    'memory://scratch/a'
    """
    text = os.fspath(url)
    if not text:
        raise ValueError("output_dir is empty; give a directory or a URL")
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    if "://" in text:
        return Location(text, options=json.dumps(storage_options or {}, sort_keys=True))
    return Location(str(Path(text).expanduser().absolute()))


@functools.lru_cache(maxsize=256)
def _open_store(url: str, options: str) -> Store:
    scheme, _, name = url.partition("://")
    if not name and "://" not in url:
        return zarr.storage.LocalStore(url)
    if scheme == "memory":
        with _lock:
            return _memory_stores.setdefault(name, zarr.storage.MemoryStore())
    if scheme in _OBJECT_STORES:
        try:
            import obstore.store  # optional and deferred on purpose: only object stores need it
        except ImportError as err:
            raise StoreError(f"{url} needs obstore; install it with: python -m pip install 'storegate[s3]'") from err
        return zarr.storage.ObjectStore(obstore.store.from_url(url, **json.loads(options)))
    return zarr.storage.FsspecStore.from_url(url, storage_options=json.loads(options))
