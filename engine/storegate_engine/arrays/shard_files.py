"""Shard files: the protocol of places that keep shards, and those on a file system; knows no format of rows."""

from __future__ import annotations

import contextlib
import io
import os
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Protocol, Self, TypeAlias

import numpy as np

from storegate_engine.arrays.shard_index import IndexForm, ShardIndex, Span, kept_index, parsed_index
from storegate_engine.buffers import Workspace, write_all
from storegate_engine.directories import cached_directory, open_directory, open_file
from storegate_engine.errors import CorruptStoreError

__all__ = ["Flush", "LocalFiles", "OpenShard", "Parts", "ShardFiles", "thread_workspace", "trim_workspace"]

Flush: TypeAlias = Literal["later", "begin", "wait"]
"""When a file gets to the disk: whenever the system writes it, from now on, or before anything else is done."""
Array: TypeAlias = np.ndarray[Any, Any]
Parts: TypeAlias = Iterable[Sequence[Array | bytes]]
"""The bytes of a shard, some of them at a time."""


class OpenShard(Protocol):
    """A shard that is open to read."""

    def __enter__(self) -> Self:
        """Return the shard."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> object:
        """Close it."""
        ...

    @property
    def can_fill(self) -> bool:
        """Whether :meth:`fill` reads straight to where bytes are wanted."""
        ...

    def index(self, path: str, form: IndexForm) -> ShardIndex:
        """Return the index of its chunks; the path is for errors."""
        ...

    def view(self, start: int, nbytes: int, path: str) -> Array:
        """Return bytes of the shard, valid until the next call in this thread."""
        ...

    def fill(self, buffers: Sequence[memoryview], start: int) -> int:
        """Read bytes from an offset on to several buffers; return how many were read."""
        ...

    def will_read(self, spans: Iterable[Span]) -> None:
        """Ask for bytes that will be read: a hint."""
        ...


class ShardFiles(Protocol):
    """A place that keeps the shards of one array, each under its key."""

    is_remote: bool
    """Whether every read waits for an answer of a server, so that many should be under way."""

    def path(self, key: str) -> str:
        """Return the name of a shard for errors."""
        ...

    def open(self, key: str, form: IndexForm, chunks: Sequence[int]) -> OpenShard:
        """Open a shard to read some of its chunks."""
        ...

    def requests(self, key: str, index: ShardIndex, chunks: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the memory and the chunks of each request for chunks of a shard."""
        ...

    def forget(self, key: str) -> bool:
        """Remove a local copy of a shard, because it is damaged; return whether there was one."""
        ...

    def forget_index(self, key: str) -> None:
        """Read the index of a shard again when it is needed."""
        ...

    def past_copies(self) -> Self:
        """Return the place itself, without local copies."""
        ...

    def write(self, key: str, parts: Parts, flush: Flush) -> None:
        """Write a shard, which appears whole."""
        ...

    def drop(self, key: str) -> None:
        """Drop a shard from the page cache: a hint."""
        ...


class LocalShard(io.FileIO):
    """A file of one shard."""

    @property
    def can_fill(self) -> bool:
        """Whether the system reads to several buffers at once."""
        return hasattr(os, "preadv")

    def index(self, path: str, form: IndexForm) -> ShardIndex:
        """Return its index, cached as long as the file does not change."""
        status = os.fstat(self.fileno())  # a file that was rewritten has another inode
        key = path, form, status.st_size, status.st_mtime_ns, status.st_ino, status.st_dev
        return kept_index(key, lambda: self._read_index(path, form, status.st_size))

    def _read_index(self, path: str, form: IndexForm, nbytes: int) -> ShardIndex:
        if form.nbytes > nbytes:  # before memory is allocated for it
            raise CorruptStoreError(f"{path} is shorter than what was written")
        content = np.empty(form.nbytes, "u1")
        self._read_exactly(nbytes - form.nbytes, content.data, path)
        return parsed_index(content, nbytes, form, path)

    def view(self, start: int, nbytes: int, path: str) -> Array:
        """Return bytes of the file, in memory of this thread."""
        found = thread_workspace("encoded", nbytes)
        self._read_exactly(start, found.data, path)
        return found

    def _read_exactly(self, start: int, out: memoryview, path: str) -> None:
        if start >= 0:
            self.seek(start)
            while out and (count := self.readinto(out)):
                out = out[count:]
        if out:
            raise CorruptStoreError(f"{path} is shorter than what was written")

    def fill(self, buffers: Sequence[memoryview], start: int) -> int:
        """Read bytes from an offset on to several buffers, in one call of the system."""
        return os.preadv(self.fileno(), buffers, start)

    def will_read(self, spans: Iterable[Span]) -> None:
        """Let the disk fetch all of them at once."""
        if hasattr(os, "posix_fadvise"):
            for start, nbytes in spans:
                os.posix_fadvise(self.fileno(), start, nbytes, os.POSIX_FADV_WILLNEED)


@dataclass(frozen=True, slots=True)
class LocalFiles:
    """The files of one array on a file system."""

    directory: str
    """The array's directory."""
    root: str
    """The directory above it; links that leave it are refused."""

    is_remote = False  # without an annotation, which would make it a field

    def path(self, key: str) -> str:
        """Return the path of one file."""
        return f"{self.directory}/{key}"

    def _place(self, key: str) -> tuple[str, str]:
        """Return the key of the directory of one file, below the root, and the file's name."""
        above, _, name = self.path(key)[len(self.root) :].strip("/").rpartition("/")
        return above, name

    def open(self, key: str, form: IndexForm, chunks: Sequence[int]) -> LocalShard:
        """Open one file to read, in a directory that was opened step by step and stays open."""
        above, name = self._place(key)
        try:
            descriptor = cached_directory(self.root, above).open_to_read(name)
        except FileNotFoundError:  # the directory may have been removed and created again
            descriptor = open_file(self.root, f"{above}/{name}")
        return LocalShard(descriptor, "rb")

    def requests(self, key: str, index: ShardIndex, chunks: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield all at once: nobody is asked."""
        yield 0, list(chunks)

    def forget(self, key: str) -> bool:
        """Return False: there are no copies."""
        return False

    def forget_index(self, key: str) -> None:
        """Do nothing: the index of a file that changes is read again."""

    def past_copies(self) -> Self:
        """Return these files: they are no copies."""
        return self

    def write(self, key: str, parts: Parts, flush: Flush) -> None:
        """Write one file, under a fresh name until it is whole.

        With ``"wait"`` it is on the disk when this returns; with ``"begin"`` the system is asked to begin with that.
        """
        above, name = self._place(key)
        parent = open_directory(self.root, above, create=True)
        fresh = f"{name}.{uuid.uuid4().hex}.partial"
        try:
            with open(parent.open_new(fresh), "wb", buffering=0) as file:
                for part in parts:
                    write_all(file, *part)
                if flush == "wait":
                    os.fsync(file.fileno())
                elif flush == "begin" and hasattr(os, "posix_fadvise"):  # Linux writes what is new before it drops it
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            parent.replace(fresh, name)
        except BaseException:
            with contextlib.suppress(OSError):
                parent.unlink(fresh)
            raise

    def drop(self, key: str) -> None:
        """Drop one file from the page cache."""
        if hasattr(os, "posix_fadvise"):
            above, name = self._place(key)
            with open(open_file(self.root, f"{above}/{name}"), "rb", buffering=0) as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


_local = threading.local()


def trim_workspace(nbytes: int) -> None:
    """Release the memory of this thread if it is more than some bytes."""
    if hasattr(_local, "workspace") and _local.workspace.nbytes > nbytes:
        del _local.workspace


def thread_workspace(use: str, nbytes: int) -> Array:
    """Return memory of this thread, with any content, valid until the next call for the same use."""
    if not hasattr(_local, "workspace"):
        _local.workspace = Workspace()
    space: Workspace = _local.workspace
    return space.array(use, (nbytes,), np.dtype("u1"))
