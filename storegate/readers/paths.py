"""Paths: globs, groups inside of files, and the order of files; those of URLs are copied when they are read."""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from storegate.parsing import natural_key
from storegate_engine import settings
from storegate_engine.errors import ArgumentError, ArgumentTypeError, FilesNotFoundError, shown
from storegate_engine.optional import require_package

__all__ = ["Place", "head_of", "places"]

_INSIDE = re.compile(r"(?P<path>.*\.[^/\\:.]+):(?P<inside>[^:\\]+)", re.DOTALL)
"""``events.h5:group/x``: a path with a suffix, and what is meant inside of it."""


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Remote:
    """A file at a URL, which is copied once to the scratch directory, and removed when nobody refers to it."""

    url: str
    files: Any
    """The file system of fsspec."""
    copies: list[Path] = field(default_factory=list)
    """The copy, once it is made."""

    def local(self) -> Path:
        """Return the path of the copy."""
        if not self.copies:
            directory = tempfile.mkdtemp(prefix="storegate-read-", dir=settings.scratch_directory())
            weakref.finalize(self, shutil.rmtree, directory, ignore_errors=True)
            copy = Path(directory) / PurePosixPath(self.url).name
            self.files.get(self.url, str(copy), recursive=self.files.isdir(self.url))
            self.copies.append(copy)
        return self.copies[0]


@dataclass(frozen=True, slots=True)
class Place:
    """A file, and the group inside of it that is meant."""

    path: Path
    """Where it is, or its name if it is remote."""
    inside: str | None = None
    remote: Remote | None = None

    def __str__(self) -> str:
        """Return the path as it would be given."""
        path = str(self.path) if self.remote is None else self.remote.url
        return path if self.inside is None else f"{path}:{self.inside}"

    def local(self) -> Path:
        """Return the path of the file on this machine; one at a URL is copied."""
        return self.path if self.remote is None else self.remote.local()


def places(given: object, storage_options: object = None) -> tuple[Place, ...]:
    """Return the files of a path, URL or glob, sorted by name so that ``x2`` comes before ``x10``.

    Raises
    ------
    ArgumentTypeError
        It is neither a path nor a sequence of paths.
    FilesNotFoundError
        There is no such file.
    ModuleNotFoundError
        It is a URL, and fsspec or what it needs for such URLs is not installed.
    """
    if isinstance(given, (str, os.PathLike)):
        return tuple(sorted(_places(given, storage_options), key=lambda place: natural_key(str(place))))
    if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray)):
        raise ArgumentTypeError(f"read takes a path, a glob or a list of paths, found {shown(given)}")
    if not given:
        raise FilesNotFoundError("the list of paths is empty; give at least one")
    return tuple(place for path in given for place in places(path, storage_options))  # in the order given


def _places(given: str | os.PathLike[str], storage_options: object) -> list[Place]:
    text = os.path.expanduser(os.fspath(given))
    if not isinstance(text, str):
        raise ArgumentTypeError(f"a path is text, found {shown(given)}")
    is_url = "://" in text
    if storage_options is not None and not is_url:
        raise ArgumentError(f"storage_options are those of URLs, and {text!r} is a path; leave them out")
    matching = partial(_remote, storage_options=storage_options) if is_url else _matching
    inside = _INSIDE.fullmatch(text)
    found = matching(text)
    if not found and inside is not None:
        found = [replace(place, inside=inside["inside"]) for place in matching(inside["path"])]
    if not found:
        where = "" if is_url else f"; the working directory is {os.getcwd()}"
        raise FilesNotFoundError(f"there is no file {text!r}{where}")
    return found


def _matching(text: str) -> list[Place]:
    if os.path.exists(text):  # also a name that looks like a glob
        return [Place(Path(text))]
    return [Place(Path(path)) for path in glob.glob(text, recursive=True)]


def _remote(url: str, storage_options: Any) -> list[Place]:
    """Return the files of a URL or of a glob of one.

    Raises
    ------
    ArgumentError
        fsspec knows no such URLs.
    """
    core = require_package("fsspec.core", "urls", url)
    try:
        files, root = core.url_to_fs(url, **(storage_options or {}))
    except ValueError as err:
        raise ArgumentError(f"{url!r} is of a kind that fsspec does not know ({err}); copy the files first") from err
    found = [root] if files.exists(root) else files.glob(root) if glob.has_magic(root) else []
    return [Place(Path(PurePosixPath(name).name), None, Remote(files.unstrip_protocol(name), files)) for name in found]


def head_of(path: Path, n_bytes: int = 8) -> bytes:
    """Return the first bytes of a file; nothing of a directory."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(n_bytes)
