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
_NOBODY = "0"
"""In the place of a process: the directory waits for whoever takes it."""
_lock = threading.Lock()


def _renew_lock() -> None:
    global _lock  # another thread of the parent may hold it
    _lock = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


class Spill:
    """The directory of one plan, for as long as somebody holds this object; it is made with its first file."""

    def __init__(self, parent: Path, plan: str) -> None:
        self._pid = os.getpid()
        self._stays = False
        self.path = parent / f"{plan}.{_HOST}.{self._pid}.{uuid.uuid4().hex[:8]}"
        any(self._adopt(orphan) for orphan in parent.glob(f"{plan}.*") if _is_orphan(orphan))
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

    def leave_to(self, heir: Spill) -> None:
        """When nobody holds this plan any more, leave its files to another one as `SPARE`, instead of removing them."""
        if not (self.is_inherited or self._stays):
            self._end.detach()
            self._end = weakref.finalize(self, _leave, self.path, self._pid, weakref.ref(heir))

    def leave_behind(self) -> None:
        """When nobody holds this plan any more, leave its files to whoever runs it next, in any process."""
        if not self.is_inherited:
            self._stays = True
            self._end.detach()
            self._end = weakref.finalize(self, _leave_behind, self.path, self._pid)


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


def _leave_behind(path: Path, pid: int) -> None:
    if os.getpid() == pid:
        shutil.rmtree(path / SPARE, ignore_errors=True)
        plan, host, *_ = path.name.split(".")
        with contextlib.suppress(OSError):  # nothing was spilled
            path.rename(path.with_name(f"{plan}.{host}.{_NOBODY}.{uuid.uuid4().hex[:8]}"))


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
    return name["pid"] == _NOBODY or not _is_alive(int(name["pid"]))


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
