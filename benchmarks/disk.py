"""Disk: random rows, files that are cold or on the disk, and where a run writes; knows no case."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

__all__ = [
    "copy_synced",
    "evict",
    "files_of",
    "fsync_tree",
    "random_file",
    "random_rows",
    "read_all",
    "workplace",
]

MIB = 2**20


def files_of(*paths: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield files, and the files below directories."""
    for path in map(Path, paths):
        yield from (child for child in path.rglob("*") if child.is_file()) if path.is_dir() else [path]


def fsync_tree(*paths: str | os.PathLike[str]) -> None:
    """Wait until files, and all files below directories, are on the disk."""
    for path in files_of(*paths):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def evict(*paths: str | os.PathLike[str]) -> None:
    """Drop files from the page cache where the system can: they are read cold next time."""
    if not hasattr(os, "posix_fadvise"):
        return
    for path in files_of(*paths):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are not on the disk yet cannot be dropped
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def workplace(parent: str | os.PathLike[str] | None) -> Iterator[Path]:
    """Make a directory for the files of a run, and remove it afterwards."""
    if parent is not None:
        Path(parent).mkdir(parents=True, exist_ok=True)
    path = Path(tempfile.mkdtemp(prefix="storegate-bench-", dir=parent))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def random_rows(n_rows: int, width: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Return float32 rows that a codec can hardly shorten (normal: a tenth at most); column 0 is the row's number."""
    rows = np.random.default_rng(seed).standard_normal((n_rows, width), dtype=np.float32)
    rows[:, 0] = np.arange(n_rows) % 2**24
    return rows


def random_file(path: Path, n_rows: int, width: int) -> np.ndarray[Any, Any]:
    """Return the rows of a raw file as a memmap; it is written block by block where it is not there."""
    shape = (n_rows, width)
    if not path.exists():
        fresh = path.with_suffix(".new")
        with open(fresh, "wb") as file:
            for start in range(0, n_rows, 2**16):
                rows = random_rows(min(2**16, n_rows - start), width, seed=start)
                rows[:, 0] = np.arange(start, start + len(rows)) % 2**24
                file.write(rows.data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(fresh, path)
    return np.memmap(path, np.float32, "r", shape=shape)


def read_all(path: Path) -> None:
    """Bring files into the page cache."""
    for file in files_of(path):
        with open(file, "rb", buffering=0) as opened:
            while opened.read(16 * MIB):
                pass


def copy_synced(store: Path, target: Path, copies: int, prepare: Callable[[Path], None]) -> float:
    """Return the time of copying a store, then its copy, and so on; each is prepared, and on the disk in the end."""
    seconds = 0.0
    source = store
    for number in range(copies):
        prepare(source)
        to = target / str(number)
        start = time.perf_counter()
        shutil.copytree(source, to)
        fsync_tree(to)
        seconds += time.perf_counter() - start
        source = to
    shutil.rmtree(target)
    return seconds
