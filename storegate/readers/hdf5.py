"""HDF5: the datasets of a group of HDF5 and NetCDF4 files, with h5py."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.readers.groups import no_group, variables_in
from storegate.readers.netcdf import is_size, labels_of_group
from storegate.readers.paths import head_of
from storegate_engine.errors import UnreadableFileError
from storegate_engine.optional import require_package

__all__ = ["Hdf5Reader"]

MAGIC = b"\x89HDF\r\n\x1a\n"


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
                raise no_group(group, _groups_in(file))
            found = file[group]
            if not hasattr(found, "dtype"):
                items = {name: item for name, item in found.items() if not is_size(item) and not _is_type(item)}
                yield labels_of_group(found, names) or variables_in(items, found.name, names)
            elif found.dtype.names is not None:
                yield found
            else:
                name = found.name.rpartition("/")[2]
                yield variables_in({name: found}, group, names)


def _is_type(item: Any) -> bool:
    """Return whether a member of a group is a dtype with a name, as xarray writes for complex numbers."""
    return hasattr(item, "dtype") and not hasattr(item, "shape")


def _groups_in(file: Any) -> list[str]:
    known: list[str] = []
    file.visititems(lambda name, item: known.append(name) if not hasattr(item, "dtype") else None)
    return known
