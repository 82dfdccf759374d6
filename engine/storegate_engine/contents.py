"""Contents: the keys of a store, below its root, a data_id or a segment; pure, and reads no store.

::

    storegate.json
    <data_id>/manifests/00000012.json
    <data_id>/segments/<segment>/zarr.json
                                 <array>/zarr.json, shards.crc32c, c/<shard>/0/0
    <data_id>/fingerprints/<token>
    <data_id>/scratch/<spill>/...

Only keys of these forms, or unfinished parts of them, are ever removed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from storegate_engine.directories import Entry
from storegate_engine.errors import InvalidNameError
from storegate_engine.identifiers import HEX, HEX_ID, is_hex
from storegate_engine.names import validate_name

__all__ = ["FINGERPRINTS", "MARKER", "SCRATCH", "is_marker", "is_partial", "strangers"]

MARKER: Final = "storegate.json"
FINGERPRINTS: Final = "fingerprints"
SCRATCH: Final = "scratch"
_PLACES: Final = ("manifests", "segments", FINGERPRINTS, SCRATCH)
_ENDING: Final = rf"\.{HEX_ID}\.partial"
"""The endings of files that are being written, or were when their process was killed."""


def _form(stem: str, suffix: str = "") -> re.Pattern[str]:
    """Return a pattern for the names of a file, finished or not: zarr-python replaces the suffix by its own ending."""
    return re.compile(rf"(?:{stem}){suffix}|(?:{stem})(?:{suffix})?{_ENDING}")


_PARTIAL = re.compile(f".*{_ENDING}")
_MARKER = _form("storegate", r"\.json")
_MANIFEST = _form("[0-9]{8,18}", r"\.json")
_TOKEN = _form(HEX_ID)
_METADATA = _form("zarr", r"\.json")
_CHECKSUMS = _form("shards", r"\.crc32c")
_SHARD = _form(r"c(?:/(?:0|[1-9][0-9]*))+")
_SHARDS = re.compile(r"c(?:/(?:0|[1-9][0-9]*))*")
_SPILL = re.compile(rf"{HEX}{{16,64}}\.[^/]+")
"""The directory of one plan, see `scratch`."""


def is_partial(name: str) -> bool:
    """Return whether a name belongs to an unfinished file."""
    return _PARTIAL.fullmatch(name) is not None


def is_marker(entry: Entry) -> bool:
    """Return whether an entry beside the data_ids is the marker, or one that another process is just writing."""
    return entry.kind == "file" and _MARKER.fullmatch(entry.key) is not None


def strangers(entries: Iterable[Entry], place: str = "") -> list[str]:
    """Return the outermost keys that are not ours: links, pipes, and names that this library never writes.

    Parameters
    ----------
    entries : iterable of Entry
        All entries below one place.
    place : str
        The key of that place below the root, for example ``a/segments``.
    """
    found: list[str] = []
    entries = sorted(entries, key=lambda entry: entry.key.split("/"))
    used = {entry.key.partition("/")[0] for entry in entries if "/" in entry.key}
    for entry in entries:
        if found and entry.key.startswith(f"{found[-1]}/"):
            continue
        parts = [*place.split("/"), *entry.key.split("/")] if place else entry.key.split("/")
        is_bare = len(parts) == 1 and entry.kind == "directory" and entry.key not in used  # its owner is unknown
        if entry.kind == "other" or is_bare or not _belongs(parts, is_file=entry.kind == "file"):
            found.append(entry.key)
    return found


def _belongs(parts: list[str], *, is_file: bool) -> bool:
    """Return whether a store has such a file or directory."""
    match parts:
        case [name]:
            return _MARKER.fullmatch(name) is not None if is_file else _is_name(name, "data_id")
        case [data_id, place, *rest] if _is_name(data_id, "data_id") and place in _PLACES:
            return _is_in_place(place, rest, is_file=is_file)
    return False


def _is_in_place(place: str, rest: list[str], *, is_file: bool) -> bool:
    match place, rest:
        case _, []:
            return not is_file
        case "manifests", [name]:
            return is_file and _MANIFEST.fullmatch(name) is not None
        case "fingerprints", [name]:
            return is_file and _TOKEN.fullmatch(name) is not None
        case "segments", [segment, *below]:
            return is_hex(segment) and _is_in_segment(below, is_file=is_file)
        case "scratch", [spill, *_]:
            return not (is_file and len(rest) == 1) and _SPILL.fullmatch(spill) is not None
    return False


def _is_in_segment(below: list[str], *, is_file: bool) -> bool:
    match below:
        case []:
            return not is_file
        case [name]:
            return _METADATA.fullmatch(name) is not None if is_file else _is_name(name, "variable")
        case [name, file] if is_file:
            is_known = _METADATA.fullmatch(file) or _CHECKSUMS.fullmatch(file)
            return is_known is not None and _is_name(name, "variable")
        case [name, *chunk]:
            form = _SHARD if is_file else _SHARDS
            return form.fullmatch("/".join(chunk)) is not None and _is_name(name, "variable")
    return False


def _is_name(name: str, kind: str) -> bool:
    try:
        validate_name(name, kind)
    except InvalidNameError:
        return False
    return True
