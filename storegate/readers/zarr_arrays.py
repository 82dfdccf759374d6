"""Zarr arrays: those of a group of format 3 or 2; also what the predecessor of this project stored."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.readers.groups import no_group, variables_in

__all__ = ["ZarrReader"]

METADATA = ("zarr.json", ".zgroup", ".zarray")


class ZarrReader:
    """zarr: a variable for each array of a group, as it is stored."""

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
            name = group.rpartition("/")[2] or path.stem
            yield variables_in({name: found}, group, names)
        else:
            yield variables_in(dict(sorted(found.members())), group, names)


def _groups_in(root: Any) -> list[str]:
    return sorted(name for name, item in root.members(max_depth=None) if not hasattr(item, "dtype"))
