"""Spill: directories of scratch files, one for each plan; made, shared, adopted after a crash, and removed.

A directory belongs to the process that holds the lock on a file in it, wherever that process runs: names and numbers
of processes say nothing between machines and containers. It goes when nothing in that process refers to the plan any
more, tasks that may still write included, or when the process ends. What a killed process left, or one that was asked
to, is taken over by the next one that runs the same plan; the rest is removed when the last plan of another process in
the same place ends, or by vacuum (:func:`orphans`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import socket
import stat
import tempfile
import threading
import uuid
import weakref
from multiprocessing import util
from pathlib import Path
from types import FrameType
from typing import Any

from storegate_engine.errors import SpillError
from storegate_engine.submitted import drop_unwanted, in_cluster_thread, in_worker, keep_while_wanted

__all__ = [
    "LOCK",
    "SHARED_RULE",
    "SPARE",
    "Spill",
    "Visit",
    "open_spill",
    "orphans",
    "remove_orphan",
    "sent_with",
    "user_places",
    "user_scratch",
]

SPARE = "spare"
"""The directory, in that of a plan, of files that another plan no longer needs: their place is used again."""
LOCK = ".lock"
"""The file in the directory of a plan on which its process holds a lock."""
SHARED_RULE = (
    "set storegate.scratch-directory to a directory on a file system that the client and all workers share, by its "
    "absolute path"
)
"""What holds for spill on a cluster."""

_NAME = re.compile(r"(?P<plan>[0-9a-f]{16,64})\.(?P<host>[^.]*)\.(?P<pid>[0-9]+)\.[0-9a-f]{8}")
_HOST = re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname())
"""Host and process are named for people; nothing goes by them."""
_NOBODY = 0
"""In the place of a process: the directory waits for whoever takes it."""
_MADE = b"1"
"""In the lock file of a plan whose place did not exist before, or is of others that say so."""
_MAX_TRIES = 100
_lock = threading.Lock()


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


class Spill:
    """The directory of one plan, for as long as somebody holds this object; a path like any other.

    In another process it stands for the same directory, which does not become that one's (see `Visit`); but a forked
    child, which outlives its parent or does not, gets one of its own.
    """

    def __init__(self, parent: Path, plan: str) -> None:
        self._parent = parent
        self._plan = plan
        self._stays = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._hold = _adopted(self._parent, self._plan) or _made(self._parent, self._plan)
        self._end: weakref.finalize[..., Spill] = weakref.finalize(self, _remove, self._hold)
        _end_with_process()

    @property
    def path(self) -> Path:
        """The directory, which is there."""
        with _lock:
            if self.is_inherited:
                self._begin()
                _open[self._parent, self._plan] = self
        return self._hold.path

    @property
    def owner(self) -> int:
        """The user whose files are believed."""
        return self._hold.owner

    def __fspath__(self) -> str:
        return str(self.path)

    @property
    def place(self) -> Path:
        """Where the directory is."""
        return self.path

    def __reduce__(self) -> tuple[Any, ...]:
        keep_while_wanted(self)  # what is persisted is still computed when nobody here holds it
        return _visit, (self.path, self._parent, self._plan, self.owner)

    def __deepcopy__(self, memo: dict[int, Any]) -> Spill:
        return self

    def visited(self) -> Visit:
        """Return what stands for the directory and does not keep it."""
        return Visit(self.path, self._parent, self._plan, self.owner)

    def for_tasks(self) -> Spill | Visit:
        """Return what tasks of a graph refer to the directory by: they keep it, but not those of a scheduler here.

        A scheduler in this process shares the objects of its graphs, and logs what it sends.
        """
        return self.visited() if in_cluster_thread() else self

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child, and the directory its parent's."""
        return self._pid != os.getpid()

    def leave_to(self, heir: Spill) -> None:
        """When nobody holds this plan any more, leave its files to another one as `SPARE`, instead of removing them."""
        if not (self.is_inherited or self._stays):
            self._end.detach()
            self._end = weakref.finalize(self, _leave, self._hold, weakref.ref(heir))

    def leave_behind(self) -> None:
        """When nobody holds this plan any more, leave its files to whoever runs it next, in any process."""
        if not self.is_inherited:
            self._stays = True
            self._end.detach()
            self._end = weakref.finalize(self, _leave_behind, self._hold)


class Visit:
    """The directory of a plan of another process, or of one that somebody else here holds."""

    def __init__(self, path: Path, parent: Path, plan: str, owner: int) -> None:
        self._path, self._parent, self._plan = path, parent, plan
        self._own: Spill | None = None
        self.owner = owner
        """The user whose files are believed."""

    @property
    def place(self) -> Path:
        """Where the directory is, or was; not looked at."""
        return self._path if self._own is None else self._own.path

    @property
    def path(self) -> Path:
        """The directory; one of this process where the other's has ended.

        Raises
        ------
        SpillError
            A worker of a cluster does not see it.
        """
        if self._own is None and not self._path.is_dir():
            if in_worker():
                raise SpillError(
                    f"spill directory {self._path} of the client is not there, seen from this worker: {SHARED_RULE} "
                    "(or the client has let go of the rows that it asked for)"
                )
            self._own = open_spill(self._parent, self._plan)
            self.owner = self._own.owner
        return self.place

    def __fspath__(self) -> str:
        return str(self.path)

    def for_tasks(self) -> Visit:
        """Return itself."""
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return _visit, (self.place, self._parent, self._plan, self.owner)


def sent_with(owner: object) -> None:
    """When an object is gone that travelled with the spill of its graph, see whether a cluster still wants that."""
    weakref.finalize(owner, drop_unwanted).atexit = False


def _visit(path: Path, parent: Path, plan: str, owner: int) -> Spill | Visit:
    """Return what came from another process; the very object where it came back to its own, but for a cluster there."""
    with _lock:
        spill = _open.get((parent, plan))
    if spill is not None and not in_cluster_thread() and not spill.is_inherited and spill._hold.path == path:
        return spill
    return Visit(path, parent, plan, owner)


# Life


def _remove(hold: Hold) -> None:
    if os.getpid() == hold.pid:  # a forked child inherits the finalizer, not the directory
        hold.remove()
        parent = hold.path.parent
        if not any(path.parent == parent for path in list(_holds)):  # the place stays as long as there are others
            _sweep(parent, hold.made_place)


def _leave(hold: Hold, reference: weakref.ref[Spill]) -> None:
    heir = reference()
    if os.getpid() == hold.pid and heir is not None and heir._end.alive and not heir.is_inherited:
        spare = heir._hold.path / SPARE
        shutil.rmtree(hold.path / SPARE, ignore_errors=True)
        with contextlib.suppress(OSError):  # the heir has enough
            hold.path.rename(spare)
            (spare / LOCK).unlink()
    _remove(hold)


def _leave_behind(hold: Hold) -> None:
    if os.getpid() != hold.pid:
        return
    shutil.rmtree(hold.path / SPARE, ignore_errors=True)
    if set(os.listdir(hold.path)) <= {LOCK}:  # nothing was spilled
        _remove(hold)
        return
    with contextlib.suppress(OSError):
        hold.rename(_NOBODY)
    hold.release()


def _sweep(parent: Path, made_place: bool) -> None:
    """Remove what killed processes have left in a place, and the place itself, if we made it and nothing is left."""
    with contextlib.suppress(OSError):
        for path in parent.iterdir():
            if (name := _NAME.fullmatch(path.name)) is not None and int(name["pid"]) != _NOBODY:
                made_place |= _says_made(path)
                remove_orphan(path)
        if made_place:
            parent.rmdir()  # succeeds when it was the last one


def _adopted(parent: Path, plan: str) -> Hold | None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):  # which `_made` says
        for name in os.listdir(parent):  # a pattern for each plan would fill the cache of glob
            named = _NAME.fullmatch(name)
            if named is not None and named["plan"] == plan and (hold := _hold(parent / name)) is not None:
                with contextlib.suppress(OSError):
                    hold.rename(os.getpid())
                    return hold
                hold.release()
    return None


def _made(parent: Path, plan: str) -> Hold:
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
        is_locked = _take_lock(descriptor)
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


def _take_lock(descriptor: int) -> bool | None:
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


_open: weakref.WeakValueDictionary[tuple[Path, str], Spill] = weakref.WeakValueDictionary()


def open_spill(parent: Path, plan: str) -> Spill:
    """Return the directory of a plan: the one that this process has, one that a dead process left, or a new one.

    Raises
    ------
    SpillError
        It cannot be made.
    """
    with _lock:
        _end_at_sigterm()
        spill = _open.get((parent, plan))
        if spill is None or spill.is_inherited:
            spill = Spill(parent, plan)
            _open[parent, plan] = spill
        return spill


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


# Processes


def _end_all() -> None:
    for spill in list(_open.values()):
        if not spill.is_inherited:
            spill._end()


def _end_at_sigterm() -> None:
    """Have SIGTERM, which ends a process without Python's own exit, end the spill before; other handlers stay."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    _end_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_ends_in: int | None = None


def _end_with_process() -> None:
    """Have a child of multiprocessing end its spill: it leaves without the finalizers of Python's own exit."""
    global _ends_in
    if _ends_in != os.getpid() and multiprocessing.parent_process() is not None:
        util.Finalize(None, _end_all, exitpriority=0)
    _ends_in = os.getpid()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may hold it
    for hold in list(_holds.values()):  # else the parent's locks would live as long as this child
        hold.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
