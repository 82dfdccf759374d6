"""HDF5: the datasets of a group of HDF5 and NetCDF4 files, with h5py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.optional import require_package
from storegate.readers.paths import head_of
from storegate_engine.errors import DtypeError, UnreadableFileError, VariableNotFoundError, near_match

__all__ = ["Hdf5Reader"]

MAGIC = b"\x89HDF\r\n\x1a\n"
NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable"
"""What NetCDF4 calls a dataset that is only the size of a dimension."""
PACKED = ("scale_factor", "add_offset")
"""Attributes of NetCDF whose variables are stored as other numbers than they mean."""


class Hdf5Reader:
    """HDF5 and NetCDF4: a variable for each dataset of a group, as it is stored."""

    suffixes = (".h5", ".hdf5", ".hdf", ".he5", ".nc", ".nc4")
    options = ("group",)

    def holds(self, path: Path) -> bool:
        """Return whether the file begins as HDF5 files do."""
        return head_of(path) == MAGIC

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a file, as a mapping of datasets, or as a dataset with fields."""
        h5py = require_package("h5py", "hdf5", str(path))
        if head_of(path, 3) == b"CDF":
            raise UnreadableFileError("it is of NetCDF 3, not 4; add_data(xarray.open_dataset(path)) reads it")
        with h5py.File(path, "r") as file:
            group = options.get("group", "/")
            if group not in file:
                known = _groups_in(file)
                raise VariableNotFoundError(
                    f"it has no group or dataset {group!r}{near_match(group, known)} "
                    f"(groups: {', '.join(known) or 'none'})"
                )
            found = file[group]
            if isinstance(found, h5py.Dataset):
                yield found if found.dtype.names is not None else {found.name.rpartition("/")[2]: found}
            else:
                yield _datasets(found, names)


def _groups_in(file: Any) -> list[str]:
    known: list[str] = []
    file.visititems(lambda name, item: known.append(name) if hasattr(item, "keys") else None)
    return known


def _datasets(group: Any, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the datasets of a group that are variables.

    Raises
    ------
    DtypeError
        All are asked for, and some are groups; or a variable is packed.
    """
    items = {name: item for name, item in group.items() if not _is_size(item)}
    wanted = list(items) if names is None else [name for name in names if name in items]
    if groups := [name for name in wanted if hasattr(items[name], "keys")]:
        raise DtypeError(
            f"{', '.join(map(repr, groups))} of {group.name!r} are groups; choose one, as in "
            f"group={f'{group.name}/{groups[0]}'.strip('/')!r}, or datasets by var_names"
        )
    for name in wanted:
        if packed := [attribute for attribute in PACKED if attribute in items[name].attrs]:
            raise DtypeError(
                f"variable {name!r} is packed, with {' and '.join(packed)}; unpack it with "
                "add_data(xarray.open_dataset(path))"
            )
    return items


def _is_size(item: Any) -> bool:
    """Return whether a dataset is only the size of a dimension of NetCDF."""
    name = item.attrs.get("NAME", b"")
    return (name.encode() if isinstance(name, str) else bytes(name)).startswith(NO_VARIABLE)
