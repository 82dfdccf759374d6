"""Locks: of open files, held by one process or by several, and claims of tasks; they end with their processes.

A lock belongs to whoever opened the file, wherever that process runs: names and numbers of processes mean nothing to
other machines and containers. Copies of a descriptor in forked children share it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

__all__ = ["LOCK_FLAGS", "claimed", "forget_claims", "take_lock", "unlock"]

LOCK_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
"""How a file is opened to be locked."""


def take_lock(descriptor: int, *, shared: bool = False, wait: bool = False) -> bool | None:
    """Lock an open file; False if another process (or another opening) has the lock, None without such locks.

    Parameters
    ----------
    descriptor : int
        The open file.
    shared : bool
        Hold the lock together with others, and wait until nobody has it alone; not on Windows.
    wait : bool
        Wait until nobody has the lock.
    """
    try:
        if os.name == "nt":
            import msvcrt  # only there

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        else:
            import fcntl  # not on Windows

            kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB
            fcntl.flock(descriptor, kind)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:  # a file system without locks: leftovers there stay
        return None
    return True


def unlock(descriptor: int) -> None:
    """Release the lock of an open file, also of its copies in forked children; on Windows it ends with the file."""
    if os.name != "nt":
        import fcntl  # not on Windows

        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextlib.contextmanager
def claimed(directory: Path, task: str) -> Iterator[None]:
    """Keep other threads and processes, which share a directory, from a task meanwhile; wait for them to leave it.

    Whoever gets in may find that the task was done by another one, or begun by one that was killed.
    """
    path = directory / f".{task}.claim"
    descriptor = _claim(path)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        unlock(descriptor)  # of a forked child, too, that has a copy of the descriptor
        _claims.discard(descriptor)
        os.close(descriptor)


def _claim(path: Path) -> int:
    """Return a locked file, open; whoever had it before has removed it from its name."""
    while True:
        descriptor = os.open(path, LOCK_FLAGS, 0o600)
        _claims.add(descriptor)
        with contextlib.suppress(FileNotFoundError):
            take_lock(descriptor, wait=True)
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        _claims.discard(descriptor)
        os.close(descriptor)


_claims: set[int] = set()


def forget_claims() -> None:
    """Close what a forked child has of its parent's claims."""
    while _claims:
        os.close(_claims.pop())
