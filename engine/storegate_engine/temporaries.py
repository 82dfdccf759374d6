"""Temporaries: directories that are removed after their last use, known by their path; never reads them."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from typing import Any

from storegate_engine.submitted import keep_while_wanted

__all__ = ["Temporary", "temporary_at"]

_existing: weakref.WeakValueDictionary[str, Temporary] = weakref.WeakValueDictionary()


class Temporary:
    """A directory of this process, removed with the last reference to this object."""

    __slots__ = ("__weakref__", "path", "remove")

    def __init__(self) -> None:
        self.path = tempfile.mkdtemp(prefix="storegate-")
        self.remove = weakref.finalize(self, _remove, self.path, os.getpid())
        _existing[self.path] = self

    def __reduce__(self) -> Any:
        """Pickle by path: no other process owns the directory, and a copy in this one is the same object."""
        keep_while_wanted(self)  # a graph may be computed after the last reference here
        return temporary_at, (self.path,)


def _remove(path: str, maker: int) -> None:
    if os.getpid() == maker:  # not a forked child, which drops all that it inherited
        shutil.rmtree(path, ignore_errors=True)


def temporary_at(path: str) -> Temporary | None:
    """Return the temporary directory of this process at a path, to keep it; None for any other path."""
    return _existing.get(path)
