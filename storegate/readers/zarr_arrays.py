"""Zarr arrays: those of a group of format 3 or 2, with their dimensions if they have names, as xarray writes them.

Also what the predecessor of this project stored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.parsing import Labelled
from storegate.readers.cf_values import DIMENSIONS, rows_of
from storegate.readers.dimensions import NamedArrays, labels_of
from storegate.readers.groups import no_group, variables_in
from storegate.readers.lists import lists_in
from storegate.readers.paths import head_of
from storegate_engine.errors import DtypeError, UnreadableFileError

__all__ = ["ZarrReader", "labels_in_place"]

BLOSC_HEADER = 16
"""Bytes of the header of a frame of Blosc, of which the last four tell the length of the frame."""
METADATA = ("zarr.json", ".zgroup", ".zarray")


class ZarrReader:
    """zarr: a variable for each array of a group, as it is stored; what xarray wrote as xarray opens it.

    Lists and sparse matrices are groups in it, as AnnData and awkward lay them out.
    """

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
        lists = lists_in(items)
        for name in lists:
            group_of_list = items.pop(name)
            if names is None or name in names:
                for _, part in group_of_list.arrays():
                    _require_whole(part, path / part.path)
        if names is None:
            _require_none_encoded(items)
        others = None if names is None else [name for name in names if name not in lists]
        if others != [] and (labels := labels_of_group(found, items, others)):
            for name in (*labels, *next(iter(labels.values())).whole.shared):
                _require_whole(items[name], path / items[name].path)
            yield {**labels, **lists}
            return
        variables = variables_in(items, group, others)
        for name in (name for name in variables if others is None or name in others):
            _require_whole(variables[name], path / variables[name].path)
            variables[name] = rows_of(name, variables[name], dict(variables[name].attrs))
        yield {**variables, **lists}


def labels_in_place(path: str, group: str, names: Sequence[str] | None) -> dict[str, Labelled]:
    """Return what a store says about arrays of a group that stay where they are; nothing if dimensions lack names.

    Raises
    ------
    DtypeError
        All are asked for, and some are lists or sparse rows.
    """
    import zarr  # deferred, since it takes a third of a second

    found: Any = zarr.open(path, path=group.strip("/") or None, mode="r")
    items = {} if hasattr(found, "dtype") else dict(sorted(found.members()))
    if names is None and (lists := lists_in(items)):
        raise DtypeError(
            f"{', '.join(map(repr, lists))} of {path} hold lists or sparse rows, which are not read in place; copy all "
            "with gate.read, or name others with var_names="
        )
    return labels_of_group(found, items, names, in_place=True)


def labels_of_group(
    group: Any, items: Mapping[str, Any], names: Sequence[str] | None, *, in_place: bool = False
) -> dict[str, Labelled]:
    """Return the arrays of a group along its sample axis, see `labels_of`; nothing if some dimensions have no names."""
    arrays = {name: item for name, item in items.items() if hasattr(item, "dtype")}
    dims = {name: _dims(item) for name, item in arrays.items()}
    known = {name: found for name, found in dims.items() if found is not None}
    if len(known) < len(dims) or not any(known.values()):
        return {}
    holders = (group, *arrays.values())
    named = frozenset(name for holder in holders for name in str(holder.attrs.get("coordinates", "")).split())

    def attrs_of(name: str) -> dict[str, Any]:
        return _attributes(arrays[name])

    return labels_of(NamedArrays(arrays, known, attrs_of, _attributes(group), named), names, in_place=in_place)


def _require_none_encoded(items: Mapping[str, Any]) -> None:
    """Raise DtypeError if a group has rows in a layout that is not read, which would be left out beside arrays."""
    for name, item in items.items():
        if not hasattr(item, "dtype") and (kind := item.attrs.get("encoding-type")) is not None:
            raise DtypeError(
                f"{name!r} is stored as {kind}, which is not read; write sparse matrices as csr_matrix, or name others "
                "with var_names="
            )


def _dims(array: Any) -> tuple[str, ...] | None:
    """Return the names of the dimensions of an array; None if some have none."""
    found = array.attrs.get(DIMENSIONS, getattr(array.metadata, "dimension_names", None))
    if found is None and not array.ndim:
        return ()
    is_whole = isinstance(found, list | tuple) and len(found) == array.ndim and all(isinstance(of, str) for of in found)
    return tuple(found) if is_whole else None


def _attributes(holder: Any) -> dict[str, Any]:
    return {key: value for key, value in holder.attrs.items() if key not in (DIMENSIONS, "coordinates")}


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
