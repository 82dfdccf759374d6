"""Directories: files below a root, opened one step at a time so that no link leaves it; knows no format.

Every step is opened below the descriptor of the one before and follows no link, so that replacing directories meanwhile
has no effect: a checked path is not opened again by its name. Links that stay within the root are resolved here, step
by step.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import stat
import sys
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from storegate_engine.errors import CorruptStoreError, WriteError

if sys.platform != "win32":
    import fcntl

__all__ = ["Directory", "Entry", "cached_directory", "locked", "open_directory", "open_file", "open_parent", "put_file"]

_HAS_DESCRIPTORS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")  # not on Windows
_STEP = getattr(os, "O_PATH", os.O_RDONLY) | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0) | _NO_LINK  # a pipe would block
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0) | _NO_LINK
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
_MAX_LINKS = 40
"""Most links on the way to one file, as on Linux."""
_MAX_DEPTH = 64
"""Most levels of directories that are walked; a store has fewer."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory below a directory or a prefix."""

    key: str
    """Its key."""
    kind: str
    """``file``, ``directory``, or ``other``: a link, a pipe, a device."""
    nbytes: int
    """Bytes of a file; for anything else as reported by the system."""
    modified: float
    """Seconds since 1970-01-01 UTC by the clock of the file system or object store; 0 if not reported."""


class Directory:
    """An open directory; it is closed with its last reference."""

    __slots__ = ("_descriptor", "path")

    def __init__(self, path: str, descriptor: int | None) -> None:
        self.path = path
        """The path, for messages, and for systems without descriptors of directories."""
        self._descriptor = descriptor

    @classmethod
    def root(cls, path: str) -> Self:
        """Open a root; links that lead to it are its user's choice."""
        if not _HAS_DESCRIPTORS:
            return cls(path, None)
        return cls(path, os.open(path, _STEP))

    def __del__(self, close: Callable[[int], None] = os.close) -> None:  # `os` may be gone by then
        if self._descriptor is not None:
            close(self._descriptor)

    def _at(self, name: str) -> str:
        return name if self._descriptor is not None else os.path.join(self.path, name)

    def child(self, name: str) -> Directory:
        """Open a directory in this one; NotADirectoryError if it is a link or a file."""
        path = f"{self.path.rstrip('/')}/{name}"
        if self._descriptor is None:
            if os.path.islink(path) or (os.path.lexists(path) and not os.path.isdir(path)):
                raise NotADirectoryError(errno.ENOTDIR, "no directory", path)
            os.stat(path)
            return Directory(path, None)
        try:
            return Directory(path, os.open(name, _STEP | _NO_LINK, dir_fd=self._descriptor))
        except OSError as err:
            if err.errno == errno.ELOOP:
                raise NotADirectoryError(errno.ENOTDIR, "a link", path) from err
            raise

    def make(self, name: str) -> Directory:
        """Open a directory in this one, which is created if missing."""
        try:
            return self.child(name)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # another process was faster
                os.mkdir(self._at(name), dir_fd=self._descriptor)
            return self.child(name)

    def open_to_read(self, name: str) -> int:
        """Open a file in this directory and return its descriptor; anything else of that name is refused.

        Raises
        ------
        CorruptStoreError
            The name is a link, a pipe, a device.
        IsADirectoryError, FileNotFoundError
            There is no such file.
        """
        try:
            descriptor = os.open(self._at(name), _READ, dir_fd=self._descriptor)
        except OSError as err:
            if err.errno in (errno.ELOOP, errno.EMLINK):
                raise CorruptStoreError(f"{self.path}/{name} is a link, which is not followed") from err
            if err.errno == errno.ENXIO:  # a socket
                raise CorruptStoreError(f"{self.path}/{name} is not a file") from err
            raise
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            os.close(descriptor)
            if stat.S_ISDIR(mode):
                raise IsADirectoryError(errno.EISDIR, "a directory", f"{self.path}/{name}")
            raise CorruptStoreError(f"{self.path}/{name} is not a file")
        return descriptor

    def open_new(self, name: str) -> int:
        """Create a file that must not exist and return its descriptor, open for writing."""
        return os.open(self._at(name), _NEW, 0o666, dir_fd=self._descriptor)

    def open_self(self) -> int:
        """Return a descriptor of this directory that can be listed and synced."""
        flags = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0)
        return os.open(self._at("."), flags, dir_fd=self._descriptor)

    def status(self, name: str) -> os.stat_result:
        """Return the status of a name; for a link, its own."""
        return os.stat(self._at(name), dir_fd=self._descriptor, follow_symlinks=False)

    def link_target(self, name: str) -> str | None:
        """Return the target of a link, None if it is not a link."""
        try:
            return os.readlink(self._at(name), dir_fd=self._descriptor)
        except OSError:
            return None

    def names(self) -> list[str]:
        """Return the names in the directory, in no order."""
        if self._descriptor is None:
            return os.listdir(self.path)
        descriptor = self.open_self()
        try:
            return os.listdir(descriptor)
        finally:
            os.close(descriptor)

    def link(self, name: str, other: str) -> None:
        """Give a file a second name; FileExistsError if that is taken."""
        both: dict[str, Any] = {"src_dir_fd": self._descriptor, "dst_dir_fd": self._descriptor}
        os.link(self._at(name), self._at(other), **both)

    def replace(self, name: str, other: str) -> None:
        """Rename a file, replacing any file of the other name."""
        both: dict[str, Any] = {"src_dir_fd": self._descriptor, "dst_dir_fd": self._descriptor}
        os.replace(self._at(name), self._at(other), **both)

    def unlink(self, name: str) -> None:
        """Remove a file or link, if it exists."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._at(name), dir_fd=self._descriptor)

    def remove(self, name: str) -> None:
        """Remove a file, a link, or a directory with everything in it; links are not followed."""
        with contextlib.suppress(FileNotFoundError):
            while stat.S_ISDIR(self.status(name).st_mode):  # again if another process writes to it meanwhile
                shutil.rmtree(self._at(name), dir_fd=self._descriptor, onerror=_pass_over_changes)
            self.unlink(name)

    def entry(self, name: str, key: str = "") -> Entry:
        """Return the entry of a name; for a link, the link itself."""
        status = self.status(name)
        is_file, is_directory = stat.S_ISREG(status.st_mode), stat.S_ISDIR(status.st_mode)
        kind = "file" if is_file else "directory" if is_directory else "other"
        return Entry(f"{key}/{name}" if key else name, kind, status.st_size, status.st_mtime)

    def walk(self, key: str = "") -> Iterator[Entry]:
        """Yield all entries below, directories before their contents; entries removed meanwhile are skipped."""
        for name in self.names():
            try:
                entry = self.entry(name, key)
                below = self.child(name) if entry.kind == "directory" else None
            except (FileNotFoundError, NotADirectoryError):  # renamed or removed since it was listed
                continue
            yield entry
            if below is not None and entry.key.count("/") < _MAX_DEPTH:
                with contextlib.suppress(FileNotFoundError):
                    yield from below.walk(entry.key)


def _pass_over_changes(function: object, path: object, error: Any) -> None:
    """Continue if another process removed or added something first."""
    if not isinstance(error[1], OSError) or error[1].errno not in (errno.ENOENT, errno.ENOTEMPTY):
        raise error[1]


@contextlib.contextmanager
def _holding_none() -> Iterator[None]:
    """Let an error pass without the directories that were opened before it: its frames would keep them open."""
    try:
        yield
    except Exception as err:
        found: BaseException | None = err
        while found is not None:
            traceback.clear_frames(found.__traceback__)
            found = found.__cause__ or found.__context__
        raise


def open_parent(root: str, key: str, *, create: bool = False) -> tuple[Directory, str]:
    """Open the directory that contains ``key``, and return it with the last part of the key.

    Raises
    ------
    CorruptStoreError
        A link on the way leaves the root.
    FileNotFoundError, NotADirectoryError
        There is no such directory, and it was not to be created.
    """
    parent, _, name = key.rpartition("/")
    return open_directory(root, parent, create=create), name


@_holding_none()
def open_directory(root: str, key: str = "", *, create: bool = False) -> Directory:
    """Open the directory at ``key``; with ``create``, missing ones are created. Raises like `open_parent`."""
    if create and not os.path.isdir(root):
        os.makedirs(root, exist_ok=True)
    way = [Directory.root(root)]
    steps = deque(key.split("/"))
    n_links = 0
    while steps:
        step = steps.popleft()
        if step in ("", "."):
            continue
        if step == "..":  # part of a link: keys have none
            if len(way) == 1:
                raise _leaving(f"{root}/{key}")
            way.pop()
            continue
        try:
            way.append(way[-1].make(step) if create else way[-1].child(step))
        except NotADirectoryError:
            target = way[-1].link_target(step)
            n_links += 1
            if target is None or n_links > _MAX_LINKS:
                raise
            if os.path.isabs(target):
                target, way = _below(root, target, f"{way[-1].path}/{step}"), way[:1]
            steps.extendleft(reversed(target.split("/")))
    return way[-1]


def _below(root: str, target: str, link: str) -> str:
    """Return the key of an absolute path below a root."""
    for base in (root, os.path.realpath(root)):
        if os.path.commonpath([base, os.path.normpath(target)]) == base:
            return os.path.relpath(os.path.normpath(target), base)
    raise _leaving(link)


def _leaving(link: str) -> CorruptStoreError:
    return CorruptStoreError(f"{link} is a link that leaves the store's directory; it is not followed")


@_holding_none()
def open_file(root: str, key: str) -> int:
    """Open the file at ``key`` to read and return its descriptor; a link to another file below the root is resolved.

    Raises
    ------
    CorruptStoreError
        It is not a file, or is behind a link that leaves the root.
    FileNotFoundError, NotADirectoryError, IsADirectoryError
        There is no such file.
    """
    for _ in range(_MAX_LINKS):
        parent, name = open_parent(root, key)
        target = parent.link_target(name)
        if target is None:
            return parent.open_to_read(name)
        above = key.rpartition("/")[0]
        if os.path.isabs(target):
            key = _below(root, target, f"{root}/{key}")
        else:
            key = os.path.normpath(f"{above}/{target}".lstrip("/"))
            if key.split("/")[0] == "..":
                raise _leaving(f"{root}/{above}")
    raise CorruptStoreError(f"{root}/{key} is a link to itself")


def put_file(
    root: str, key: str, content: bytes, *, exclusive: bool, sync: Callable[[int, Path], None] | None = None
) -> bool:
    """Write a file under a temporary name, then rename it: it is never visible in part.

    Parameters
    ----------
    root, key : str
        Its place; missing directories are created.
    content : bytes
        The whole content.
    exclusive : bool
        Whether an existing file stays as it is.
    sync : callable, optional
        Flushes the open file to the disk.

    Returns
    -------
    bool
        Whether the file was put there; False if another file is in its place.
    """
    parent, name = open_parent(root, key, create=True)
    partial = f"{name}.{uuid.uuid4().hex}.partial"
    try:
        with open(parent.open_new(partial), "wb") as file:
            file.write(content)
            if sync is not None:
                file.flush()
                sync(file.fileno(), Path(parent.path, partial))
        if not exclusive:
            parent.replace(partial, name)
            return True
        # a second name for the file, which unlike a rename fails if that name is taken
        is_put = True
        try:
            _link(parent, partial, name)
        except FileExistsError:
            is_put = False
        parent.unlink(partial)
        return is_put
    except BaseException:
        parent.unlink(partial)
        raise


def _link(parent: Directory, name: str, other: str) -> None:
    """Give a file a second name, or raise if the file system cannot: nothing else creates a whole file only once."""
    try:
        parent.link(name, other)
    except OSError as err:
        if err.errno not in _NO_LINKS:
            raise
        raise WriteError(
            f"{parent.path}/{other} cannot be written: the file system has no hard links ({err.strerror}), without "
            "which two writers could overwrite each other; the table is as it was: choose a directory on another one"
        ) from err


@contextlib.contextmanager
def locked(root: str, *, shared: bool) -> Iterator[None]:
    """Hold the lock of a root: commits share it, and a process that removes their files holds it alone.

    The lock ends with its process. On systems without such locks, nothing is held.
    """
    if sys.platform == "win32":
        yield
        return
    descriptor = os.open(root, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        with contextlib.suppress(OSError):  # a network file system may have none
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a forked child may have the descriptor too
        os.close(descriptor)


@functools.lru_cache(maxsize=128)
def cached_directory(root: str, key: str) -> Directory:
    """Return the directory at ``key``, which stays open for the next caller; see :func:`open_directory`.

    The way to it is cached as well: for many sibling directories only the last step is repeated.
    """
    above, _, name = key.rpartition("/")
    if above:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return cached_directory(root, above).child(name)
    return open_directory(root, key)
