"""Files in directories that others write to meanwhile: they appear under hidden names, are renamed, and go."""

from __future__ import annotations

import os
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path


def files_below(directory: Path, pattern: str | None = None) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield files at any depth, and what is known of them: all, or those of a name, hidden only where it says so."""
    for above, _, names in os.walk(directory):  # which passes over directories that have gone
        for name in names:
            if pattern and not (fnmatch(name, pattern) and name.startswith(".") == pattern.startswith(".")):
                continue
            path = Path(above, name)
            try:
                known = path.stat()
            except FileNotFoundError:
                continue
            yield path, known


def nbytes_below(directory: Path) -> int:
    """Return the bytes of all files."""
    return sum(known.st_size for _, known in files_below(directory))


def inodes_below(directory: Path, pattern: str) -> dict[int, str]:
    """Return where files of a name lie on the disk: one that is written again is another one."""
    return {known.st_ino: path.name for path, known in files_below(directory, pattern)}
