"""Shard cache: copies of shards of object stores in a local directory, within a limit; never the only ones.

Any number of processes use one directory: a copy appears whole under its name and is never changed, and whoever finds
more bytes than the limit removes those that were used least recently. Readers check every copy as they check the
shard itself, and fetch what is damaged again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from storegate_engine import settings
from storegate_engine.buffers import write_all
from storegate_engine.locations import Location

__all__ = ["ShardCache", "configured_cache"]

SHARE = 32
"""The limit is checked whenever a process has added this part of it, and leaves room for as much in each of two."""
STALE_S = 3600
"""Seconds after which a copy that was not finished is that of a process that ended."""
SECRETS = ("key", "secret", "token", "password", "credential", "sas", "client_options")
"""Options whose names have these parts do not tell stores apart, and change."""
_log = logging.getLogger("storegate")
_lock = threading.Lock()
_turns = [threading.Lock() for _ in range(1024)]
_added: dict[Path, int] = {}
"""Bytes that this process has added to each directory since it checked the limit."""
_reported: set[Path] = set()


class _NotKeptError(Exception):
    """A copy could not be written."""


@dataclass(frozen=True, slots=True)
class ShardCache:
    """A directory of copies."""

    directory: Path
    """The directory, which only its user can read."""
    limit_nbytes: int
    """Most bytes of all copies."""

    def path(self, location: Location, key: str) -> Path:
        """Return the path of the copy of an object, whether it exists or not."""
        options: dict[str, Any] = json.loads(location.options)
        told = {name: value for name, value in options.items() if not any(part in name.lower() for part in SECRETS)}
        named = json.dumps([location.url, location.key(key), told], sort_keys=True)
        return self.directory / f"{hashlib.sha256(named.encode()).hexdigest()}.shard"

    def turn(self, path: Path) -> threading.Lock:
        """Return a lock to hold while a copy is fetched: other threads wait for the copy."""
        return _turns[hash(path) % len(_turns)]

    def put(self, path: Path, nbytes: int, pieces: Iterable[Any]) -> bool:
        """Keep a copy that comes in pieces, and return whether it is there; errors of the pieces are raised.

        A directory that cannot be written is reported once.
        """
        if nbytes > self.limit_nbytes:
            return False
        fresh = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        try:
            with self._reporting():
                self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._make_room(nbytes)
                file = fresh.open("xb", buffering=0)
            with file:
                for piece in pieces:
                    with self._reporting():
                        write_all(file, np.frombuffer(piece, "u1"))
                is_whole = file.tell() == nbytes
            if is_whole:
                with self._reporting():
                    os.replace(fresh, path)
                return True
        except _NotKeptError:
            pass
        finally:
            with contextlib.suppress(OSError):
                fresh.unlink()
        return False

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report that the directory cannot be written, once, and raise `_NotKeptError`."""
        try:
            yield
        except OSError as err:
            if self.directory not in _reported:
                _reported.add(self.directory)
                _log.warning(
                    "%s, storegate.cache-directory, cannot be written (%s): shards are fetched whenever they are read",
                    self.directory,
                    err.strerror or err,
                )
            raise _NotKeptError from err

    def _make_room(self, nbytes: int) -> None:
        """Remove what was used least recently if this process has added much since it looked last."""
        with _lock:
            is_first = self.directory not in _added
            _added[self.directory] = _added.get(self.directory, 0) + nbytes
            if not is_first and _added[self.directory] < self.limit_nbytes // SHARE:
                return
            _added[self.directory] = nbytes
        found = []
        with os.scandir(self.directory) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another process removes it, too
                    status = entry.stat(follow_symlinks=False)
                    is_stale = entry.name.endswith(".partial") and status.st_mtime < time.time() - STALE_S
                    if is_stale or entry.name.endswith(".shard"):
                        found.append((0 if is_stale else status.st_atime_ns, status.st_size, entry.path))
        total = sum(size for _, size, _ in found) + nbytes
        room = max(nbytes, self.limit_nbytes - 2 * self.limit_nbytes // SHARE)
        for _, size, path in sorted(found):
            if total <= room:
                return
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            total -= size


def _after_fork_in_child() -> None:
    global _lock, _turns
    _lock, _turns = threading.Lock(), [threading.Lock() for _ in _turns]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


def configured_cache() -> ShardCache | None:
    """Return the cache of ``storegate.cache-directory``, within ``storegate.cache-limit``; None if it is not set."""
    directory = settings.cache_directory()
    return None if directory is None else ShardCache(directory, settings.cache_limit_nbytes())
