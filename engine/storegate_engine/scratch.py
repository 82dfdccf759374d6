"""Scratch: directories of spills, one per plan; created, shared, adopted after a crash, and removed.

A directory is removed when no object or task of its process uses the plan any more, or when the process ends. A
directory left by a killed process, or left on purpose, is adopted by the next run of the same plan; other leftovers are
removed when the last plan of another process in the same place ends, or by vacuum (`holds.orphans`).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import threading
import weakref
from multiprocessing import util
from pathlib import Path
from types import FrameType
from typing import Any

from storegate_engine.errors import SpillError
from storegate_engine.holds import LOCK, Hold, adopted, held, joined, made, sweep
from storegate_engine.locks import claimed, forget_claims
from storegate_engine.submitted import drop_unwanted, in_cluster_thread, in_worker, keep_while_wanted

__all__ = ["SHARED_RULE", "SPARE", "Spill", "Visit", "open_spill", "sent_with"]

SPARE = "spare"
"""The directory, within a plan's, of files that another plan no longer needs: their space is reused."""
SHARED_RULE = (
    "set storegate.scratch-directory to a directory on a file system that the client and all workers share, by its "
    "absolute path"
)
"""The rule for spills on a cluster."""

_lock = threading.Lock()


class Spill:
    """The directory of one plan, kept as long as this object exists; can be used as a path.

    In another process it stands for the same directory without owning it (see `Visit`); but a forked child, which may
    outlive its parent, gets its own. If it is shared, all processes of this host that run the plan have the same one.
    """

    def __init__(self, parent: Path, plan: str, *, shared: bool = False) -> None:
        self._parent = parent
        self._plan = plan
        self._wants_shared = shared
        self._stays = False
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        hold = joined(self._parent, self._plan) if self._wants_shared else None
        self._hold = hold or adopted(self._parent, self._plan) or made(self._parent, self._plan)
        self._end: weakref.finalize[..., Spill] = weakref.finalize(self, _remove, self._hold)
        _end_with_process()

    @property
    def path(self) -> Path:
        """The directory, which exists."""
        with _lock:
            if self.is_inherited:
                self._begin()
                _open[self._parent, self._plan] = self
        return self._hold.path

    @property
    def owner(self) -> int:
        """The user whose files are trusted."""
        return self._hold.owner

    def __fspath__(self) -> str:
        return str(self.path)

    def claimed(self, task: str) -> contextlib.AbstractContextManager[None]:
        """Return a context in which no other process that shares the directory does the same task."""
        path = self.path
        return claimed(path, task) if self._hold.is_shared else contextlib.nullcontext()

    @property
    def place(self) -> Path:
        """The path of the directory, whether it exists or not."""
        return self.path

    def __reduce__(self) -> tuple[Any, ...]:
        keep_while_wanted(self)  # persisted rows are still computed after the last reference here
        return _visit, (self.path, self._parent, self._plan, self.owner)

    def __deepcopy__(self, memo: dict[int, Any]) -> Spill:
        return self

    def visited(self) -> Visit:
        """Return an object that stands for the directory without keeping it."""
        return Visit(self.path, self._parent, self._plan, self.owner)

    def for_tasks(self) -> Spill | Visit:
        """Return the object for tasks of a graph: it keeps the directory, except for a scheduler in this process.

        Such a scheduler shares the objects of its graphs, and logs what it sends.
        """
        return self.visited() if in_cluster_thread() else self

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child, and the directory its parent's."""
        return self._pid != os.getpid()

    def leave_to(self, heir: Spill) -> None:
        """Leave the files to another plan as `SPARE` instead of removing them, once this plan is released."""
        if not (self.is_inherited or self._stays):
            self._end.detach()
            self._end = weakref.finalize(self, _leave, self._hold, weakref.ref(heir))

    def leave_behind(self) -> None:
        """Leave the files to the next run of the plan, in any process, once this plan is released."""
        if not self.is_inherited:
            self._stays = True
            self._end.detach()
            self._end = weakref.finalize(self, _leave_behind, self._hold)


class Visit:
    """The directory of a plan that another process, or another object here, keeps."""

    def __init__(self, path: Path, parent: Path, plan: str, owner: int) -> None:
        self._path, self._parent, self._plan = path, parent, plan
        self._own: Spill | None = None
        self.owner = owner
        """The user whose files are trusted."""

    @property
    def place(self) -> Path:
        """The path of the directory, which may not exist."""
        return self._path if self._own is None else self._own.path

    @property
    def path(self) -> Path:
        """The directory; a new one of this process if the other's has ended.

        Raises
        ------
        SpillError
            A worker of a cluster cannot see it.
        """
        if self._own is None and not self._path.is_dir():
            if in_worker():
                raise SpillError(
                    f"spill directory {self._path} of the client is not there, seen from this worker: {SHARED_RULE} "
                    "(or the client has released the rows that it requested)"
                )
            self._own = open_spill(self._parent, self._plan)
            self.owner = self._own.owner
        return self.place

    def __fspath__(self) -> str:
        return str(self.path)

    def for_tasks(self) -> Visit:
        """Return this object."""
        return self

    def claimed(self, task: str) -> contextlib.AbstractContextManager[None]:
        """Return a context without a meaning: a scheduler divides the tasks among those who visit."""
        return contextlib.nullcontext()

    def __reduce__(self) -> tuple[Any, ...]:
        return _visit, (self.place, self._parent, self._plan, self.owner)


def sent_with(owner: object) -> None:
    """Look for unwanted spills once an object that was pickled with the spill of its graph is gone."""
    weakref.finalize(owner, drop_unwanted).atexit = False


def _visit(path: Path, parent: Path, plan: str, owner: int) -> Spill | Visit:
    """Return the object for a pickled spill; the same object in its own process, except on a cluster there."""
    with _lock:
        spill = _open.get((parent, plan))
    if spill is not None and not in_cluster_thread() and not spill.is_inherited and spill._hold.path == path:
        return spill
    return Visit(path, parent, plan, owner)


# Life


def _remove(hold: Hold) -> None:
    if os.getpid() == hold.pid:  # a forked child inherits the finalizer, not the directory
        made_place = hold.remove()
        parent = hold.path.parent
        if not any(other.path.parent == parent for other in held()):  # the place stays as long as there are others
            sweep(parent, made_place)


def _leave(hold: Hold, reference: weakref.ref[Spill]) -> None:
    heir = reference()
    alive = os.getpid() == hold.pid and heir is not None and heir._end.alive and not heir.is_inherited
    if heir is not None and alive and hold.is_last():
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
    hold.keep()


_open: weakref.WeakValueDictionary[tuple[Path, str], Spill] = weakref.WeakValueDictionary()


def open_spill(parent: Path, plan: str, *, shared: bool = False) -> Spill:
    """Return the directory of a plan: the one of this process, one left by an ended process, or a new one.

    If it is shared, it is the one that all processes of this host have, where locks allow it.

    Raises
    ------
    SpillError
        The directory cannot be created.
    """
    with _lock:
        _end_at_sigterm()
        spill = _open.get((parent, plan))
        if spill is None or spill.is_inherited:
            spill = Spill(parent, plan, shared=shared)
            _open[parent, plan] = spill
        return spill


# Processes


def _end_all() -> None:
    for spill in list(_open.values()):
        if not spill.is_inherited:
            spill._end()


def _end_at_sigterm() -> None:
    """Make SIGTERM, which skips Python's own exit, end the spills first; other handlers stay."""
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)


def _terminate(number: int, frame: FrameType | None) -> None:
    _end_all()
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


_ends_in: int | None = None


def _end_with_process() -> None:
    """Make a child of multiprocessing end its spills: it exits without Python's own finalizers."""
    global _ends_in
    if _ends_in != os.getpid() and multiprocessing.parent_process() is not None:
        util.Finalize(None, _end_all, exitpriority=0)
    _ends_in = os.getpid()


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread of the parent may hold it
    for hold in held():  # otherwise the parent's locks would live as long as this child
        hold.release()
    forget_claims()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
