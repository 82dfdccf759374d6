"""Locations: a path or URL as a zarr store; knows no format, only keys."""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import re
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote, urlsplit

from storegate_engine import documents
from storegate_engine.directories import Entry, locked, open_directory, open_file, open_parent, put_file
from storegate_engine.errors import ArgumentError, CorruptStoreError, StoreError, StoreGateError, WriteError

if TYPE_CHECKING:
    from zarr.abc.store import Store
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

__all__ = ["Location", "first_line", "opening", "parse_location", "writing"]

T = TypeVar("T")
_OBJECT_STORES = ("s3", "s3a", "gs", "az", "abfs", "azure")
_HALF_URL = re.compile(rf"(?:{'|'.join(_OBJECT_STORES)}|memory|https?|file):/(?!/)")
_memory_stores: dict[str, MemoryStore] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class Location:
    """A directory, or a prefix of an object store.

    Keys are relative, with ``/`` between their parts. A location is small, hashable and picklable, and is sent
    to other processes instead of an opened store.
    """

    url: str
    """Absolute path, or URL with a scheme."""
    prefix: str = ""
    """Key below ``url``, without slashes at its ends."""
    options: str = field(default="{}", repr=False)
    """Options of the storage library (credentials, endpoint) as JSON; never written anywhere."""

    @property
    def is_local(self) -> bool:
        """Whether it is on a file system."""
        return "://" not in self.url

    @property
    def is_object_store(self) -> bool:
        """Whether it is in an object store, which obstore reads and writes."""
        return self.url.partition("://")[0] in _OBJECT_STORES and not self.is_local

    @property
    def path(self) -> Path | None:
        """The directory, or None if it is not on a file system."""
        return Path(self.url, self.prefix) if self.is_local else None

    def __truediv__(self, key: str) -> Location:
        """Return the location below this one."""
        return replace(self, prefix=self.key(key))

    def __str__(self) -> str:
        """Return the path or URL in its usual form."""
        return f"{self.url.rstrip('/')}/{self.prefix}".rstrip("/")

    def key(self, key: str) -> str:
        """Return the key of ``key`` in :attr:`store`."""
        return f"{self.prefix}/{key}".strip("/")

    @property
    def store(self) -> Store:
        """The zarr store at ``url``; keys in it start with the prefix."""
        return _open_store(self.url, self.options)

    @property
    def objects(self) -> Any:
        """The client of obstore for the object store at ``url``."""
        store: Any = self.store
        return store.store

    def read(self, key: str, *, max_nbytes: int = documents.MAX_NBYTES) -> bytes | None:
        """Return the bytes of one key, or None if it does not exist; no more than the limit are fetched.

        Raises
        ------
        CorruptStoreError
            It has more than ``max_nbytes``, is not a file, or is behind a link that leaves the root.
        """
        if self.is_local:
            try:
                descriptor = open_file(self.url, self.key(key))
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                return None
            with open(descriptor, "rb") as file:
                content: bytes | None = file.read(min(os.fstat(descriptor).st_size, max_nbytes) + 1)
        else:
            content = _run(self._fetch(self.key(key), max_nbytes + 1))
        if content is not None and len(content) > max_nbytes:
            raise CorruptStoreError(f"{self / key} has more than {max_nbytes} bytes, the most that are read")
        return content

    async def _fetch(self, key: str, max_nbytes: int) -> bytes | None:
        """Return the first bytes of an object, in one request, whatever its claimed size."""
        from zarr.abc.store import RangeByteRequest  # deferred on purpose, as all of zarr: files are read without it
        from zarr.core.buffer import default_buffer_prototype

        try:
            buffer = await self.store.get(key, default_buffer_prototype(), RangeByteRequest(0, max_nbytes))
        except Exception:  # each library raises its own error for a range of an empty object
            if await self.store.getsize(key):
                raise
            return b""
        return None if buffer is None else buffer.to_bytes()

    def write_if_absent(self, key: str, content: bytes, *, sync: bool = False) -> bool:
        """Write one key unless it exists; atomic on local directories, object stores and memory.

        With ``sync`` it is on the disk when this returns, with the directories that lead to it.

        Returns
        -------
        bool
            Whether it was certainly written here. Object stores do not report this; read the key to find out.
        """
        if self.is_local:
            return self._put(key, content, exclusive=True, sync=sync)
        _run(self.store.set_if_not_exists(self.key(key), _buffer(content)))
        return False

    def write(self, key: str, content: bytes) -> None:
        """Write one key, replacing its content; for files of a segment that is not sealed yet."""
        if self.is_local:
            self._put(key, content, exclusive=False, sync=False)
            return
        _run(self.store.set(self.key(key), _buffer(content)))

    def _put(self, key: str, content: bytes, *, exclusive: bool, sync: bool) -> bool:
        is_put = put_file(self.url, self.key(key), content, exclusive=exclusive, sync=sync_descriptor if sync else None)
        if sync:
            self._sync_directories(self.key(key).rpartition("/")[0])
        return is_put

    def sync(self) -> None:
        """Flush all files below, and the directories that lead to them, to the disk."""
        if not self.is_local:
            return
        entries = list(open_directory(self.url, self.prefix).walk())
        for entry in reversed(entries):  # contents of a directory before itself
            if entry.kind == "directory":
                self._sync_directory(self.key(entry.key))
            else:
                self._sync_file(self.key(entry.key))
        self._sync_directories(self.prefix)

    def sync_way(self, key: str) -> None:
        """Flush one file and all directories that lead to it to the disk: their creators may not have."""
        if not self.is_local:
            return
        self._sync_file(self.key(key))
        self._sync_directories(self.key(key).rpartition("/")[0])
        for directory in Path(self.url).parents:
            try:
                _sync_outside(directory)
            except PermissionError:  # this user could not have created anything in it
                return

    def _sync_file(self, key: str) -> None:
        descriptor = open_file(self.url, key)
        try:
            sync_descriptor(descriptor, Path(self.url, key))
        finally:
            os.close(descriptor)

    def _sync_directory(self, key: str) -> None:
        if os.name == "nt":  # directories cannot be opened there, and need no sync
            return
        descriptor = open_directory(self.url, key).open_self()
        try:
            sync_descriptor(descriptor, Path(self.url, key))
        finally:
            os.close(descriptor)

    def _sync_directories(self, key: str) -> None:
        """Sync a directory and those above it, up to the one that holds the root."""
        while key:
            self._sync_directory(key)
            key = key.rpartition("/")[0]
        self._sync_directory("")
        _sync_outside(Path(self.url).parent)

    def status(self, key: str) -> os.stat_result | None:
        """Return the status of one file of a file system; None if it does not exist."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            parent, name = open_parent(self.url, self.key(key))
            return parent.status(name)
        return None

    @contextlib.contextmanager
    def locked(self, *, shared: bool) -> Iterator[None]:
        """Hold the lock of the root, see `directories.locked`; only on a file system."""
        with locked(self.url, shared=shared) if self.is_local else contextlib.nullcontext():
            yield

    def children(self, key: str = "") -> list[str]:
        """Return the names directly below a key, in no order; empty if it does not exist."""
        if self.is_local:
            try:
                return open_directory(self.url, self.key(key)).names()
            except (FileNotFoundError, NotADirectoryError):
                return []
        return _run(self._list(self.key(key)))

    async def _list(self, key: str) -> list[str]:
        return [name.rstrip("/") async for name in self.store.list_dir(key)]

    def entries(self, key: str = "") -> list[Entry]:
        """Return all entries below a key, in no order; entries that come or go meanwhile may be missing."""
        if not self.is_local:
            from storegate_engine.objects import objects_below  # imports zarr, as above

            return _run(objects_below(self.store, self.key(key)))
        try:
            return list(open_directory(self.url, self.key(key)).walk())
        except (FileNotFoundError, NotADirectoryError):
            return []

    def entry(self, key: str) -> Entry | None:
        """Return the entry of one key; None if it does not exist."""
        parent, _, name = key.rpartition("/")
        if self.is_local:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                return open_directory(self.url, self.key(parent)).entry(name)
            return None
        return next((found for found in self.entries(parent) if found.key == name), None)

    def delete(self, key: str = "") -> None:
        """Delete one key, if it exists, and everything below it, but nothing behind a link."""
        if self.is_local:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                parent, name = open_parent(self.url, self.key(key))
                parent.remove(name)
            return
        _run(self.store.delete_dir(self.key(key)))
        if self.key(key):
            _run(self.store.delete(self.key(key)))


def _sync_outside(directory: Path) -> None:
    """Sync a directory above a root; links to it are the user's choice."""
    if os.name != "nt":
        descriptor = os.open(directory, os.O_RDONLY)
        try:
            sync_descriptor(descriptor, directory)
        finally:
            os.close(descriptor)


def sync_descriptor(descriptor: int, path: Path) -> None:
    """Sync one open file; the only such place, so that tests can simulate power failures."""
    os.fsync(descriptor)


@contextlib.contextmanager
def writing(where: object) -> Iterator[None]:
    """Turn errors of a storage library during writing into a WriteError that names the place and the remedy."""
    try:
        yield
    except StoreGateError:
        raise
    except Exception as err:
        if not isinstance(err, (OSError, ValueError, RuntimeError)) and not _is_of_obstore(err):
            raise
        full = getattr(err, "errno", None) == errno.ENOSPC or "No space left" in str(err)
        remedy = "free space there and try again" if full else "remove the cause and try again"
        raise WriteError(f"{where} cannot be written: {first_line(err)}; the table is as it was: {remedy}") from err


@contextlib.contextmanager
def opening(where: object) -> Iterator[None]:
    """Turn errors of a storage library or the system during opening into a StoreError that names the place."""
    try:
        yield
    except (StoreGateError, PermissionError, MemoryError):
        raise
    except Exception as err:
        raise StoreError(
            f"{where} cannot be opened: {first_line(err)}; give a directory, or a URL that can be reached"
        ) from err


def _is_of_obstore(err: Exception) -> bool:
    """Return whether an error is one of obstore's own, which have no built-in type."""
    return type(err).__module__.startswith("obstore")


def first_line(err: Exception) -> str:
    """Return the message of an error, without details for the developers of its library."""
    return (str(err).splitlines() or [repr(err)])[0]


def _buffer(content: bytes) -> Buffer:
    from zarr.core.buffer import default_buffer_prototype  # deferred, as above

    return default_buffer_prototype().buffer.from_bytes(content)


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    from zarr.core.sync import sync  # deferred, as above

    try:
        return sync(coroutine)
    except Exception as err:
        if not _is_of_obstore(err):
            raise
        raise StoreError(f"the object store failed: {first_line(err)}; try again") from err


def parse_location(url: str | os.PathLike[str], storage_options: dict[str, Any] | None = None) -> Location:
    """Return the location of a path or of any URL that zarr opens.

    ``s3://``, ``gs://`` and ``az://`` go through obstore (extra ``s3``), whose put-if-absent is atomic;
    ``memory://name`` lives in this process; other schemes go through fsspec.

    >>> str(parse_location("memory://scratch") / "a")
    'memory://scratch/a'
    """
    text = os.fspath(url)
    if not text:
        raise ArgumentError("output_dir is empty; give a directory or a URL")
    if text.startswith("file://"):
        text = unquote(urlsplit(text).path)
    scheme, _, name = text.partition("://")
    if not name.strip("/") and text.strip("/") and text.startswith(f"{scheme}://"):
        raise ArgumentError(f"{text} names no bucket or store; give the whole URL, as in {scheme}://name/path")
    if _HALF_URL.match(text):
        raise ArgumentError(f"{text} is neither a URL nor a path; did you mean {text.replace(':/', '://', 1)}?")
    if "://" in text:
        return Location(text, options=json.dumps(storage_options or {}, sort_keys=True))
    try:
        return Location(str(Path(text).expanduser().absolute()))
    except RuntimeError as err:
        raise ArgumentError(f"{text} cannot be opened: {err}; give the directory's whole path") from err


@functools.lru_cache(maxsize=256)
def _open_store(url: str, options: str) -> Store:
    import zarr  # deferred, as above

    from storegate_engine.objects import LocalStore, ObjectStore

    scheme, _, name = url.partition("://")
    if not name and "://" not in url:
        return LocalStore(url)
    if scheme == "memory":
        with _lock:
            return _memory_stores.setdefault(name, zarr.storage.MemoryStore())
    if scheme in _OBJECT_STORES:
        try:
            import obstore.store  # optional and deferred on purpose: only object stores need it
        except ImportError as err:
            raise StoreError(f"{url} needs obstore; install it with: python -m pip install 'storegate[s3]'") from err
        try:
            return ObjectStore(obstore.store.from_url(url, **json.loads(options)))
        except Exception as err:  # any error of the library
            raise ArgumentError(
                f"{url} cannot be opened: {first_line(err)}; see the URL and backend_args['storage_options']"
            ) from err
    try:
        return zarr.storage.FsspecStore.from_url(url, storage_options=json.loads(options))
    except ImportError as err:
        raise StoreError(f"{url} cannot be opened: {err}; install the package it needs") from err
    except (TypeError, ValueError) as err:
        raise ArgumentError(
            f"{url} cannot be opened: {err}; give a directory, or a URL of s3, gs, az, memory or a protocol of fsspec"
        ) from err
