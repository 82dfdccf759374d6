"""Holds: locks that show which process owns a directory of scratch files, and the places of such directories.

A directory belongs to the process that holds the lock on a file in it, wherever that process runs: names and numbers
of processes mean nothing to other machines and containers. Directories of killed processes are not locked::

    <place>/<plan>.<host>.<pid>.<random>/.lock     of a plan; the host and the process are for people
    <place>/<plan>.<host>.0.<random>/.lock         left behind on purpose for the next run of the plan
    <place>/<plan>.<host>.1.<user>/.lock           shared by all processes of this host and user that run the plan

Processes that share a directory hold its lock together; the last one removes it.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import stat
import tempfile
import time
import uuid
import weakref
from pathlib import Path

from storegate_engine.errors import SpillError
from storegate_engine.identifiers import HEX
from storegate_engine.locks import LOCK_FLAGS, take_lock, unlock

__all__ = [
    "LOCK",
    "NOBODY",
    "Hold",
    "adopted",
    "held",
    "joined",
    "made",
    "orphans",
    "remove_orphan",
    "sweep",
    "user_places",
    "user_scratch",
]

LOCK = ".lock"
"""The file in a plan's directory that its process holds a lock on."""
_NAME = re.compile(rf"(?P<plan>{HEX}{{16,64}})\.(?P<host>[^.]*)\.(?P<pid>[0-9]+)\.{HEX}{{8}}")
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
"""The name of a directory; host and process are for people only."""
NOBODY = 0
"""In place of a process: the directory is left for any process."""
_EVERYBODY = 1
"""In place of a process: the directory is shared."""
_KEPT = "kept"
"""The file in a shared directory that was left behind on purpose."""
_MADE = b"1"
"""In the lock file of a plan whose place was created by us, now or before."""
_MAX_TRIES = 100


class Hold:
    """A directory that this process holds the lock of."""

    __slots__ = ("__weakref__", "descriptor", "is_shared", "owner", "path", "pid")

    def __init__(self, path: Path, descriptor: int, *, is_shared: bool = False) -> None:
        self.path = path
        self.descriptor = descriptor
        self.is_shared = is_shared
        """Whether other processes hold it, too."""
        self.pid = os.getpid()
        self.owner = path.lstat().st_uid
        """The user whose files are trusted; not this user on file systems that give new files to another."""
        _holds[path] = self

    @property
    def made_place(self) -> bool:
        """Whether we created the place of the directory, so that it is removed with the last directory."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        return os.read(self.descriptor, 1) == _MADE

    def say_made(self) -> None:
        """Remember that we created the place of the directory."""
        os.lseek(self.descriptor, 0, os.SEEK_SET)
        os.write(self.descriptor, _MADE)

    def rename(self, pid: int) -> None:
        """Rename the directory, so that users of the old name find nothing there."""
        fresh = _fresh(self.path.parent, self.path.name.partition(".")[0], pid)
        self.path.rename(fresh)
        _holds.pop(self.path, None)
        self.path = fresh
        _holds[fresh] = self

    def release(self) -> None:
        """Release the lock to other processes."""
        _holds.pop(self.path, None)
        os.close(self.descriptor)

    def keep(self) -> None:
        """Leave the directory to the next run of the plan, in any process."""
        with contextlib.suppress(OSError):
            if self.is_shared:
                (self.path / _KEPT).touch()
            else:
                self.rename(NOBODY)
        self.release()

    def is_last(self) -> bool:
        """Return whether nobody else holds the directory, nor will; if others do, it is no longer held here.

        One that is no longer held may be removed, and made again under its name by others: that one is theirs.
        """
        if not self.is_shared:
            return True
        if not take_lock(self.descriptor) or (self.path / _KEPT).exists():
            return False
        with contextlib.suppress(OSError):
            return _has_name(self.descriptor, self.path / LOCK)
        return False

    def remove(self) -> bool:
        """Remove the directory, unless others share it; later writes to it fail. Return whether we made its place."""
        made_place = self.made_place
        if self.is_last():
            with contextlib.suppress(OSError):
                self.rename(self.pid)
            if self.is_shared:  # somebody may wait for the lock, to find that the directory is gone
                unlock(self.descriptor)
            with contextlib.suppress(OSError):
                for path in self.path.iterdir():
                    if path.name != LOCK:
                        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            unlock(self.descriptor)  # whoever finds it locked has told before, see `_told`
            made_place = self.made_place
            shutil.rmtree(self.path, ignore_errors=True)
        self.release()
        return made_place


_holds: weakref.WeakValueDictionary[Path, Hold] = weakref.WeakValueDictionary()


def sweep(parent: Path, made_place: bool) -> None:
    """Remove leftovers of killed processes in a place, and the place itself if we created it and it is empty."""
    with contextlib.suppress(OSError):
        for path in parent.iterdir():
            name = _NAME.fullmatch(path.name)
            if name is not None and int(name["pid"]) != NOBODY and not (path / _KEPT).exists():
                made_place |= _says_made(path)
                remove_orphan(path)
        for _ in range(_MAX_TRIES if made_place else 0):
            if _removed(parent) or any(map(_told, parent.iterdir())):
                return
            time.sleep(0.001)  # somebody is about to come, or to go


def _removed(place: Path) -> bool:
    """Remove a directory if it is empty; return whether it is gone."""
    try:
        place.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _told(path: Path) -> bool:
    """Tell whoever holds a directory that we made its place; return whether somebody does."""
    if not _NAME.fullmatch(path.name):
        return True  # a thing of the user, with which the place stays
    try:
        if not _is_own(path):
            return True
        descriptor = os.open(path / LOCK, LOCK_FLAGS & ~os.O_CREAT)
    except OSError:
        return False
    try:
        os.write(descriptor, _MADE)
        return take_lock(descriptor) is not True
    except OSError:  # a lock of Windows keeps others from writing, too
        return True
    finally:
        os.close(descriptor)


def adopted(parent: Path, plan: str) -> Hold | None:
    """Return a directory left behind for a plan, now held by this process; None if there is none."""
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # which `made` reports
        for name in os.listdir(parent):  # a pattern per plan would fill the cache of glob
            named = _NAME.fullmatch(name)
            if named is not None and named["plan"] == plan and (hold := _hold(parent / name)) is not None:
                with contextlib.suppress(OSError):
                    hold.rename(os.getpid())
                    return hold
                hold.release()
    return None


def made(parent: Path, plan: str) -> Hold:
    """Return a new directory for a plan.

    Raises
    ------
    SpillError
        The directory cannot be created.
    """
    made_place = False
    for _ in range(_MAX_TRIES):
        path = _fresh(parent, plan, os.getpid())
        try:
            made_place |= _make_place(parent)
            path.mkdir(mode=0o700)
        except FileNotFoundError:  # another process removed the place with its last directory
            continue
        except OSError as err:
            raise _unmade(path, err) from err
        if (hold := _hold(path, is_new=True)) is not None:  # otherwise it was swept between the two steps
            if made_place:
                hold.say_made()
            return hold
    raise SpillError(f"no spill directory can be made in {parent}: others remove it; set storegate.scratch-directory")


def joined(parent: Path, plan: str) -> Hold | None:
    """Return the directory that all processes of this host share for a plan, an existing one or a new one.

    None if locks cannot be shared, on Windows and on some file systems: then each process has its own.

    Raises
    ------
    SpillError
        The directory cannot be created.
    """
    if os.name == "nt":
        return None
    path = parent / f"{plan}.{_HOST}.{_EVERYBODY}.{os.getuid():08x}"
    made_place = False
    for _ in range(_MAX_TRIES):
        try:
            made_place |= _make_place(parent)
            with contextlib.suppress(FileExistsError):
                path.mkdir(mode=0o700)
            if not _is_own(path):
                return None
            descriptor = os.open(path / LOCK, LOCK_FLAGS, 0o600)
        except FileNotFoundError:  # the last process that had it, or that had another one in this place, removes it
            continue
        except OSError as err:
            raise _unmade(path, err) from err
        hold = None
        try:
            if not take_lock(descriptor, shared=True):
                return None
            with contextlib.suppress(FileNotFoundError):  # removed while this process waited for the lock
                if _has_name(descriptor, path / LOCK):
                    (path / _KEPT).unlink(missing_ok=True)
                    hold = Hold(path, descriptor, is_shared=True)
                    if made_place:
                        hold.say_made()
                    return hold
        finally:
            if hold is None:
                os.close(descriptor)
    raise SpillError(f"no spill directory can be made in {parent}: others remove it; set storegate.scratch-directory")


def _unmade(path: Path, err: OSError) -> SpillError:
    return SpillError(
        f"spill directory {path} cannot be made: {err.strerror or err}; set storegate.scratch-directory to a "
        "directory that can be written"
    )


def _make_place(parent: Path) -> bool:
    """Create the parent of plans' directories; return whether it was created by us, now or before."""
    try:
        parent.mkdir(mode=0o700 if parent.parent == Path(tempfile.gettempdir()) else 0o777, parents=True)
    except FileExistsError:
        if parent in user_places():
            return True
        return any(_says_made(path) for path in parent.iterdir() if _NAME.fullmatch(path.name))
    return True


def _says_made(path: Path) -> bool:
    """Return whether the directory of a plan says that we created its place."""
    with contextlib.suppress(OSError):
        return (path / LOCK).read_bytes()[:1] == _MADE
    return False


def _fresh(parent: Path, plan: str, pid: int) -> Path:
    return parent / f"{plan}.{_HOST}.{pid}.{uuid.uuid4().hex[:8]}"


def _hold(path: Path, *, is_new: bool = False) -> Hold | None:
    """Take the lock on a directory; None if another process has it, or if others can write to the directory."""
    descriptor = -1
    try:
        if not _is_own(path) or path in _holds:  # NFS would grant it, and lose it
            return None
        descriptor = os.open(path / LOCK, LOCK_FLAGS, 0o600)
        is_locked = take_lock(descriptor)
        same = _has_name(descriptor, path / LOCK)  # not replaced meanwhile
        if same and (is_locked or (is_new and is_locked is None)):
            hold, descriptor = Hold(path, descriptor), -1
            return hold
    except OSError:  # gone meanwhile
        return None
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return None


def _has_name(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one of that name."""
    return os.path.samestat(os.fstat(descriptor), path.lstat())


def _is_own(path: Path) -> bool:
    """Return whether a directory belongs to this user, and others cannot write to it."""
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or not hasattr(os, "getuid"):
        return stat.S_ISDIR(status.st_mode)
    return status.st_uid == os.getuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def orphans(parent: Path) -> list[Path]:
    """Return the directories below ``parent`` that no process holds: left behind, or of ended processes."""
    found = []
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for path in parent.iterdir():
            if _NAME.fullmatch(path.name) and (hold := _hold(path)) is not None:
                hold.release()
                found.append(path)
    return found


def remove_orphan(path: Path) -> bool:
    """Remove a directory that no process holds; return whether it was one."""
    hold = _hold(path)
    if hold is not None:
        hold.remove()
    return hold is not None


def user_scratch() -> Path:
    """Return this user's directory in the system's temporary one, to which no other user has access.

    If another user has taken its name, it is a new one.
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
    """Return the directories that this process holds."""
    return list(_holds.values())
