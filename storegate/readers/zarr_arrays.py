"""Zarr arrays: those of a group of format 3 or 2; also what the predecessor of this project stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.readers.cf_values import rows_of
from storegate.readers.groups import no_group, variables_in
from storegate.readers.paths import head_of
from storegate_engine.errors import UnreadableFileError

__all__ = ["ZarrReader"]

BLOSC_HEADER = 16
"""Bytes of the header of a frame of Blosc, of which the last four tell the length of the frame."""
METADATA = ("zarr.json", ".zgroup", ".zarray")


class ZarrReader:
    """zarr: a variable for each array of a group, as it is stored; times and missing values of xarray as such."""

    suffixes = (".zarr",)
    options = ("group",)

    def holds(self, path: Path) -> bool:
        """Return whether a directory has the metadata of zarr."""
        return any((path / name).is_file() for name in METADATA)

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a directory, as a mapping of arrays."""
        import zarr  # deferred, since it takes a third of a second

        root: Any = zarr.open(str(path), mode="r")
        group = str(options.get("group", "")).strip("/")
        is_group = not hasattr(root, "dtype")
        if group and (not is_group or group not in root):
            raise no_group(group, _groups_in(root) if is_group else [])
        found = root[group] if group else root
        if hasattr(found, "dtype"):
            items = {group.rpartition("/")[2] or path.stem: found}
        else:
            items = dict(sorted(found.members()))
        variables = variables_in(items, group, names)
        for name in (name for name in variables if names is None or name in names):
            _require_whole(variables[name], path / variables[name].path)
        for name, array in variables.items():
            variables[name] = rows_of(name, array, dict(array.attrs))
        yield variables


def _require_whole(array: Any, directory: Path) -> None:
    """Raise UnreadableFileError if a chunk is shorter than Blosc wrote it: its decoder reads beyond the end."""
    codec = array.compressors[-1] if array.compressors and array.shards is None else None
    if "blosc" not in type(codec).__name__.lower():
        return
    for file in directory.rglob("*"):
        if file.is_dir() or file.name in (*METADATA, ".zattrs"):
            continue
        frame = head_of(file, BLOSC_HEADER)
        if len(frame) < BLOSC_HEADER or int.from_bytes(frame[12:16], "little") != file.stat().st_size:
            raise UnreadableFileError(f"chunk {file} is truncated; nothing was stored")


def _groups_in(root: Any) -> list[str]:
    return sorted(name for name, item in root.members(max_depth=None) if not hasattr(item, "dtype"))
