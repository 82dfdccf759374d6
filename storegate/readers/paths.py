"""Paths: globs, groups inside of files, and the order of files; opens none of them."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from storegate_engine.errors import ArgumentError, ArgumentTypeError, FilesNotFoundError, shown

__all__ = ["Place", "head_of", "places"]

_INSIDE = re.compile(r"(?P<path>.*\.[^/\\:.]+):(?P<inside>[^:\\]+)", re.DOTALL)
"""``events.h5:group/x``: a path with a suffix, and what is meant inside of it."""


@dataclass(frozen=True, slots=True)
class Place:
    """A file, and the group inside of it that is meant."""

    path: Path
    inside: str | None = None

    def __str__(self) -> str:
        """Return the path as it would be given."""
        return str(self.path) if self.inside is None else f"{self.path}:{self.inside}"


def places(given: object) -> tuple[Place, ...]:
    """Return the files of a path or glob, sorted by name so that ``x2`` comes before ``x10``.

    Raises
    ------
    ArgumentTypeError
        It is neither a path nor a sequence of paths.
    FilesNotFoundError
        There is no such file.
    """
    if isinstance(given, (str, os.PathLike)):
        return tuple(sorted(_places(given), key=lambda place: _natural(str(place))))
    if not isinstance(given, Sequence) or isinstance(given, (bytes, bytearray)):
        raise ArgumentTypeError(f"read takes a path, a glob or a list of paths, found {shown(given)}")
    if not given:
        raise FilesNotFoundError("the list of paths is empty; give at least one")
    return tuple(place for path in given for place in places(path))  # in the order given


def _places(given: str | os.PathLike[str]) -> list[Place]:
    text = os.path.expanduser(os.fspath(given))
    if not isinstance(text, str):
        raise ArgumentTypeError(f"a path is text, found {shown(given)}")
    if "://" in text:
        raise ArgumentError(f"read takes local paths, found {text!r}; copy it first")
    whole = _matching(text)
    if whole:
        return [Place(path) for path in whole]
    inside = _INSIDE.fullmatch(text)
    found = [] if inside is None else [Place(path, inside["inside"]) for path in _matching(inside["path"])]
    if not found:
        raise FilesNotFoundError(f"there is no file {text!r}; the working directory is {os.getcwd()}")
    return found


def _matching(text: str) -> list[Path]:
    if os.path.exists(text):  # also a name that looks like a glob
        return [Path(text)]
    return [Path(path) for path in glob.glob(text, recursive=True)]


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Return a key that sorts numbers in names by their value."""
    parts = re.split(r"([0-9]+)", name)  # texts and numbers in turn
    return tuple((text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "-1"], strict=True))


def head_of(path: Path, n_bytes: int = 8) -> bytes:
    """Return the first bytes of a file; nothing of a directory."""
    if not path.is_file():
        return b""
    with path.open("rb") as file:
        return file.read(n_bytes)
