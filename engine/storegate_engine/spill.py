"""Spill: directories of scratch files, one for each plan; made, shared, adopted after a crash, and removed.

A directory belongs to the process that its name tells. It goes when nothing in that process refers to the plan
any more, or when the process ends; what a killed process left, or one that was asked to, is taken over by the next
one that runs the same plan on that machine, or found by :func:`orphans` for removal.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import threading
import uuid
import weakref
from pathlib import Path

__all__ = ["SPARE", "Spill", "keep_until_exit", "open_spill", "orphans"]

SPARE = "spare"
"""The directory, in that of a plan, of files that another plan no longer needs: their place is used again."""

_NAME = re.compile(r"(?P<plan>[0-9a-f]{16,64})\.(?P<host>[^.]*)\.(?P<pid>[0-9]+)\.[0-9a-f]{8}")
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
_lock = threading.Lock()


class Spill:
    """The directory of one plan, for as long as somebody holds this object; it is made with its first file."""

    def __init__(self, parent: Path, plan: str) -> None:
        self.path = parent / f"{plan}.{_HOST}.{os.getpid()}.{uuid.uuid4().hex[:8]}"
        any(self._adopt(orphan) for orphan in parent.glob(f"{plan}.*") if _is_orphan(orphan))
        self._pid = os.getpid()
        self._end: weakref.finalize[..., Spill] = weakref.finalize(self, _remove, self.path, self._pid)

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child, and the directory its parent's."""
        return self._pid != os.getpid()

    def _adopt(self, orphan: Path) -> bool:
        with contextlib.suppress(OSError):  # another process was faster
            orphan.rename(self.path)
            return True
        return False

    def remove(self) -> None:
        """Remove the directory now."""
        _kept.discard(self)
        if self._end.detach():
            _remove(self.path, self._pid)

    def leave_behind(self) -> None:
        """When nobody holds this plan any more, leave its files to whoever runs it next, in this process or another."""
        shutil.rmtree(self.path / SPARE, ignore_errors=True)
        self._end.detach()
        self._end = weakref.finalize(self, _left_behind.add, self.path)

    def leave_to(self, heir: Spill) -> None:
        """When nobody holds this plan any more, leave its files to another one as `SPARE`, instead of removing them."""
        self._end.detach()
        self._end = weakref.finalize(self, _leave, self.path, self._pid, weakref.ref(heir))


def _remove(path: Path, pid: int) -> None:
    if os.getpid() == pid:  # a forked child inherits the finalizer, not the directory
        shutil.rmtree(path, ignore_errors=True)
        with contextlib.suppress(OSError):
            path.parent.rmdir()  # succeeds when it was the last one


def _leave(path: Path, pid: int, reference: weakref.ref[Spill]) -> None:
    heir = reference()
    if os.getpid() == pid and heir is not None and heir._end.alive:
        shutil.rmtree(path / SPARE, ignore_errors=True)
        with contextlib.suppress(OSError):  # there is nothing to leave, or the heir has enough
            heir.path.mkdir(mode=0o700, exist_ok=True)
            path.rename(heir.path / SPARE)
    _remove(path, pid)


_left_behind: set[Path] = set()
_open: weakref.WeakValueDictionary[tuple[Path, str], Spill] = weakref.WeakValueDictionary()


def open_spill(parent: Path, plan: str) -> Spill:
    """Return the directory of a plan: the one that this process has, one that a dead process left, or a new one."""
    with _lock:
        spill = _open.get((parent, plan))
        if spill is None or spill.is_inherited:
            spill = Spill(parent, plan)
            _open[parent, plan] = spill
        return spill


_kept: set[Spill] = set()


def keep_until_exit(spill: Spill) -> None:
    """Keep a directory until the process ends, whoever lets go of it before."""
    _kept.add(spill)


def _is_orphan(path: Path) -> bool:
    name = _NAME.fullmatch(path.name)
    if name is None or name["host"] != _HOST or not _is_own(path):
        return False
    return path in _left_behind or not _is_alive(int(name["pid"]))


def _is_own(path: Path) -> bool:
    """Return whether a directory is this user's: in a scratch directory for all, others may put some there too."""
    with contextlib.suppress(OSError):
        status = path.lstat()
        return stat.S_ISDIR(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid == os.getuid())
    return False


def _is_alive(pid: int) -> bool:
    if os.name == "nt":  # there, os.kill does not ask, it kills
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's, or a system that cannot tell
        return True
    return True


def orphans(parent: Path) -> list[Path]:
    """Return the directories below ``parent`` that nobody holds: left behind, or of processes that have ended."""
    return [path for path in parent.glob("*") if _is_orphan(path)] if parent.is_dir() else []
