"""Holds: which process has a directory of scratch files, by the lock on a file in it, and where such directories lie.

A directory belongs to the process that holds the lock on a file in it, wherever that process runs: names and numbers
of processes say nothing between machines and containers. Nobody holds what a process left that was killed::

    <place>/<plan>.<host>.<pid>.<random>/.lock     of a plan; the host and the process are for people
    <place>/<plan>.<host>.0.<random>/.lock         left behind on purpose for whoever runs the plan next
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import tempfile
import uuid
import weakref
from pathlib import Path

from storegate_engine.errors import SpillError
from storegate_engine.identifiers import HEX

__all__ = [
    "LOCK",
    "NOBODY",
    "Hold",
    "adopted",
    "held",
    "made",
    "orphans",
    "remove_orphan",
    "sweep",
    "user_places",
    "user_scratch",
]

LOCK = ".lock"
"""The file in the directory of a plan on which its process holds a lock."""
_NAME = re.compile(rf"(?P<plan>{HEX}{{16,64}})\.(?P<host>[^.]*)\.(?P<pid>[0-9]+)\.{HEX}{{8}}")
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
"""Host and process are named for people; nothing goes by them."""
NOBODY = 0
"""In the place of a process: the directory waits for whoever takes it."""
_MADE = b"1"
"""In the lock file of a plan whose place did not exist before, or is of others that say so."""
_MAX_TRIES = 100


class Hold:
    """A directory whose lock this process has."""

    __slots__ = ("__weakref__", "descriptor", "made_place", "owner", "path", "pid")

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self.made_place = os.read(descriptor, 1) == _MADE
        """Whether the place of the directory was made by one of us, and goes with the last of them."""
        self.pid = os.getpid()
        self.owner = path.lstat().st_uid
        """Whose files are believed; not this user on file systems that give new files to another."""
        _holds[path] = self

    def rename(self, pid: int) -> None:
        """Give the directory another name: who has the old one finds nothing there any more."""
        fresh = _fresh(self.path.parent, self.path.name.partition(".")[0], pid)
        self.path.rename(fresh)
        _holds.pop(self.path, None)
        self.path = fresh
        _holds[fresh] = self

    def release(self) -> None:
        """Let others have it."""
        _holds.pop(self.path, None)
        os.close(self.descriptor)

    def remove(self) -> None:
        """Remove the directory; whoever still writes to it fails."""
        with contextlib.suppress(OSError):
            self.rename(self.pid)
        shutil.rmtree(self.path, ignore_errors=True)
        self.release()


_holds: weakref.WeakValueDictionary[Path, Hold] = weakref.WeakValueDictionary()


def sweep(parent: Path, made_place: bool) -> None:
    """Remove what killed processes have left in a place, and the place itself, if we made it and nothing is left."""
    with contextlib.suppress(OSError):
        for path in parent.iterdir():
            if (name := _NAME.fullmatch(path.name)) is not None and int(name["pid"]) != NOBODY:
                made_place |= _says_made(path)
                remove_orphan(path)
        if made_place:
            parent.rmdir()  # succeeds when it was the last one


def adopted(parent: Path, plan: str) -> Hold | None:
    """Return a directory that somebody left of a plan, now held by this process; None where there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # which `made` says
        for name in os.listdir(parent):  # a pattern for each plan would fill the cache of glob
            named = _NAME.fullmatch(name)
            if named is not None and named["plan"] == plan and (hold := _hold(parent / name)) is not None:
                with contextlib.suppress(OSError):
                    hold.rename(os.getpid())
                    return hold
                hold.release()
    return None


def made(parent: Path, plan: str) -> Hold:
    """Return a new directory of a plan.

    Raises
    ------
    SpillError
        It cannot be made.
    """
    for _ in range(_MAX_TRIES):
        path = _fresh(parent, plan, os.getpid())
        try:
            made_place = _make_place(parent)
            path.mkdir(mode=0o700)
        except FileNotFoundError:  # the place went with the last one of another process
            continue
        except OSError as err:
            raise SpillError(
                f"spill directory {path} cannot be made: {err.strerror or err}; set storegate.scratch-directory to a "
                "directory that can be written"
            ) from err
        if (hold := _hold(path, is_new=True)) is not None:  # else swept between the two steps
            if made_place:
                os.write(hold.descriptor, _MADE)
                hold.made_place = True
            return hold
    raise SpillError(f"no spill directory can be made in {parent}: others remove it; set storegate.scratch-directory")


def _make_place(parent: Path) -> bool:
    """Make the directory in which those of plans lie; return whether it is one that was made so, now or before."""
    try:
        parent.mkdir(mode=0o700 if parent.parent == Path(tempfile.gettempdir()) else 0o777, parents=True)
    except FileExistsError:
        if parent in user_places():
            return True
        return any(_says_made(path) for path in parent.iterdir() if _NAME.fullmatch(path.name))
    return True


def _says_made(path: Path) -> bool:
    """Return what a directory of a plan says of its place."""
    with contextlib.suppress(OSError):
        return (path / LOCK).read_bytes()[:1] == _MADE
    return False


def _fresh(parent: Path, plan: str, pid: int) -> Path:
    return parent / f"{plan}.{_HOST}.{pid}.{uuid.uuid4().hex[:8]}"


def _hold(path: Path, *, is_new: bool = False) -> Hold | None:
    """Take the lock on a directory; None where somebody has it, or where it is not this user's alone."""
    descriptor = -1
    try:
        if not _is_own(path) or path in _holds:  # NFS would give it, and lose it
            return None
        descriptor = os.open(path / LOCK, _LOCK_FLAGS, 0o600)
        is_locked = take_lock(descriptor)
        same = os.path.samestat(os.fstat(descriptor), (path / LOCK).lstat())  # not removed meanwhile
        if same and (is_locked or (is_new and is_locked is None)):
            hold, descriptor = Hold(path, descriptor), -1
            return hold
    except OSError:  # gone meanwhile
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


_LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def take_lock(descriptor: int) -> bool | None:
    """Lock an open file; False where another process (or another opening of it) has it, None without such locks."""
    try:
        if os.name == "nt":
            import msvcrt  # only there

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl  # not on Windows

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: what is left there stays
        return None
    return True


def _is_own(path: Path) -> bool:
    """Return whether a directory is this user's, and nobody else can write to it."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or not hasattr(os, "getuid"):
        return stat.S_ISDIR(status.st_mode)
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def orphans(parent: Path) -> list[Path]:
    """Return the directories below ``parent`` that nobody holds: left behind, or of processes that have ended."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in parent.iterdir():
            if _NAME.fullmatch(path.name) and (hold := _hold(path)) is not None:
                hold.release()
                found.append(path)
    return found


def remove_orphan(path: Path) -> bool:
    """Remove a directory that nobody holds; return whether it was one."""
    hold = _hold(path)
    if hold is not None:
        hold.remove()
    return hold is not None


def user_scratch() -> Path:
    """Return this user's directory in the system's temporary one, to which nobody else has access.

    Where another user has taken its name, it is a new one.
    """
    user = os.getuid() if hasattr(os, "getuid") else "user"
    path = Path(tempfile.gettempdir(), f"storegate-scratch-{user}")
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700, parents=True)
    return path if _is_private(path) else _private_scratch()


def _is_private(path: Path) -> bool:
    with contextlib.suppress(OSError):
        status = path.lstat()
        if not hasattr(os, "getuid"):
            return stat.S_ISDIR(status.st_mode)
        return stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o077
    return False


def user_places() -> list[Path]:
    """Return the directories of this user in the system's temporary one."""
    with contextlib.suppress(OSError):
        return [path for path in Path(tempfile.gettempdir()).glob("storegate-scratch-*") if _is_private(path)]
    return []


_private: Path | None = None


def _private_scratch() -> Path:
    global _private
    if _private is None or not _is_private(_private):
        _private = Path(tempfile.mkdtemp(prefix="storegate-scratch-"))
    return _private


def held() -> list[Hold]:
    """Return what this process holds."""
    return list(_holds.values())
