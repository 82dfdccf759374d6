"""File states: files by path or URL, as they are now; what tells that one is no longer the same.

Files behind URLs are read through fsspec, whose configuration knows endpoints and credentials: a store keeps none.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from importlib import import_module
from typing import Any, NamedTuple
from urllib.parse import unquote

from storegate_engine.errors import SourceError

__all__ = ["FileState", "RemoteFile", "is_url", "open_to_read", "state_of"]

VERSIONS = ("ETag", "etag", "e_tag", "version", "LastModified", "last_modified", "Last-Modified", "mtime", "created")
"""What file systems of fsspec call the version of a file, the best first."""
_client_pid: int | None = None
"""The process whose threads serve obstore; a forked child inherits the number, but no threads."""
LOCAL = ("file", "local")
"""Schemes of local files, which are given by their paths."""


class FileState(NamedTuple):
    """What tells one version of a file from others."""

    nbytes: int
    """Its size; of a directory, that of its metadata. Zero, like all else, if there is none."""
    changed: int
    """When it was changed, in nanoseconds; of a file behind a URL, a hash of its version."""
    identity: tuple[int, int] = (0, 0)
    """The device and the inode of a local file."""


def is_url(path: str) -> bool:
    """Return whether a file is behind a URL."""
    return "://" in path


def _require_plain(url: str) -> None:
    """Raise SourceError if a URL leads elsewhere than it begins: through others, upwards, or to local files."""
    scheme, _, rest = url.partition("://")
    steps = unquote(unquote(rest)).replace("\\", "/").split("/")
    if scheme in LOCAL or "::" in url or "://" in rest or ".." in steps or "." in steps:
        raise SourceError(f"{url} is no URL of one remote file; give its own URL, or the path of a local file")


def state_of(path: str) -> FileState:
    """Return the state of a file; of a directory, such as a zarr store, that of the metadata in it.

    Raises
    ------
    SourceError
        A file behind a URL has nothing that tells its versions apart.
    """
    if is_url(path):
        return _remote_state(path)
    try:
        status = os.stat(path)
        if not stat.S_ISDIR(status.st_mode):
            return FileState(status.st_size, status.st_mtime_ns, (status.st_dev, status.st_ino))
    except OSError:
        return FileState(0, 0)
    nbytes = changed = 0
    for name in ("zarr.json", ".zarray", ".zgroup"):
        with contextlib.suppress(OSError):
            inner = os.stat(os.path.join(path, name))
            nbytes, changed = nbytes + inner.st_size, max(changed, inner.st_mtime_ns)
    return FileState(nbytes, changed, (status.st_dev, status.st_ino))


def _remote_state(url: str) -> FileState:
    files, name = _file_system(url)
    files.invalidate_cache()
    try:
        found = files.info(name)
    except FileNotFoundError:
        return FileState(0, 0)
    known = next((str(found[key]) for key in VERSIONS if found.get(key)), None)
    if known is None or found.get("size") is None:
        raise SourceError(
            f"{url}: its server tells no size, or no version, so that a change would not be seen; copy it"
        )
    digest = hashlib.sha256(known.encode()).digest()
    return FileState(int(found["size"]), int.from_bytes(digest[:7], "big"))


def _file_system(url: str) -> tuple[Any, str]:
    """Return the file system of a URL, and the name of the file there; refuse it in a fork that it does not survive."""
    global _client_pid
    _require_plain(url)
    files, name = import_module("fsspec.core").url_to_fs(url)
    if type(files).__module__.startswith("obstore"):
        _client_pid = _client_pid or os.getpid()
        if _client_pid != os.getpid():  # as for stores: the client's threads stay in the parent
            raise SourceError(f"{url} cannot be read in a forked process, which lacks the client's threads; use spawn")
    return files, name


def open_to_read(path: str) -> Any:
    """Return what libraries open: the path of a local file, or a file behind a URL, opened."""
    if not is_url(path):
        return path
    files, name = _file_system(path)
    return files.open(name, "rb")


class RemoteFile:
    """A file behind a URL, of which ranges are fetched."""

    __slots__ = ("_files", "_name")

    def __init__(self, url: str) -> None:
        self._files, self._name = _file_system(url)

    def read_into(self, offset: int, out: memoryview) -> None:
        """Read bytes from an offset on until ``out`` is full.

        Raises
        ------
        EOFError
            The file ends before.
        """
        if not len(out):
            return
        content = self._files.cat_file(self._name, start=offset, end=offset + len(out))
        if len(content) != len(out):
            raise EOFError(f"the file ends at byte {offset + len(content)}")
        out[:] = content

    def will_read(self, offset: int, n_bytes: int) -> None:
        """Do nothing: a range is fetched when it is read."""
