"""Formats: which reader a file is for; our own are tried first, then those of other packages."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from storegate.parsing import Labelled
from storegate.readers import netcdf, zarr_arrays
from storegate.readers.arrow import ArrowReader
from storegate.readers.delimited import CsvReader
from storegate.readers.dimensions import require_none_filled
from storegate.readers.h5ad import H5adReader
from storegate.readers.hdf5 import Hdf5Reader
from storegate.readers.images import ImageReader
from storegate.readers.npy import NpyReader, NpzReader
from storegate.readers.parquet import ParquetReader
from storegate.readers.paths import places
from storegate.readers.protocol import Reader
from storegate.readers.root import RootReader
from storegate.readers.zarr_arrays import ZarrReader
from storegate_engine.errors import ArgumentError, near_match

__all__ = ["GROUP", "attached_files", "installed", "labels_in", "reader_of", "require_options"]

GROUP = "storegate.readers"
"""The group of entry points."""
_OWN: Mapping[str, Reader] = {
    "hdf5": Hdf5Reader(),
    "parquet": ParquetReader(),
    "arrow": ArrowReader(),
    "npy": NpyReader(),
    "npz": NpzReader(),
    "csv": CsvReader(),
    "root": RootReader(),
    "zarr": ZarrReader(),
    "h5ad": H5adReader(),
    "images": ImageReader(),
}


@cache
def installed() -> Mapping[str, Reader]:
    """Return the readers of installed packages, by the name of their entry point."""
    found = sorted(entry_points(group=GROUP), key=lambda entry: entry.name)
    return {entry.name: entry.load() for entry in found if entry.name not in _OWN}


def reader_of(path: Path, form: str | None) -> tuple[str, Reader]:
    """Return the format of a file, by its name if one is given, by its suffix or its first bytes; and its reader.

    Raises
    ------
    ArgumentError
        There is no such format, or no reader takes the file.
    """
    if form is not None and form in _OWN:
        return form, _OWN[form]
    if form is None and (found := _by_suffix(path, _OWN)) is not None:
        return found, _OWN[found]
    known = {**_OWN, **installed()}  # those of other packages are imported only where ours do not do
    if form is not None:
        if form not in known:
            raise ArgumentError(f"no format {form!r}{near_match(form, known)} (formats: {', '.join(known)})")
        return form, known[form]
    found = _by_suffix(path, known) or next((at for at, reader in known.items() if reader.holds(path)), None)
    if found is not None:
        return found, known[found]
    raise ArgumentError(
        f"{path}: neither its suffix nor its first bytes tell what it is; give format=, one of {', '.join(known)}"
    )


def _by_suffix(path: Path, readers: Mapping[str, Reader]) -> str | None:
    """Return the format with the longest suffix that a name has, None if there is none."""
    name = path.name.lower()
    found = [(len(suffix), at) for at in readers for suffix in readers[at].suffixes if name.endswith(suffix)]
    return max(found, key=lambda one: one[0])[1] if found else None


def attached_files(given: object, form: str | None) -> tuple[str | None, list[tuple[str, str]]]:
    """Return the format of files, None if nothing tells it; and their URLs or paths, without links, and groups inside.

    Raises
    ------
    ArgumentError
        They are of several formats.
    FilesNotFoundError
        There is no such file.
    """
    found, forms = [], set()
    for place in places(given):
        url = None if place.remote is None else place.remote.url
        found.append((os.path.realpath(place.path) if url is None else url, place.inside or ""))
        if form is None and _is_references(place.path):
            forms.add("kerchunk")
        elif form is None:
            with contextlib.suppress(ArgumentError):
                forms.add(reader_of(place.path, None)[0])
    if len(forms) > 1:
        raise ArgumentError(f"the files are of the formats {', '.join(sorted(forms))}; attach one after the other")
    return (forms.pop() if forms else form), found


def labels_in(form: str, path: str, group: str, names: Sequence[str] | None) -> dict[str, Labelled]:
    """Return what a file says about arrays that are read where they are; nothing if their dimensions have no names.

    Raises
    ------
    DtypeError
        Numbers of a variable stand for other ones, or for missing values.
    ShapeError
        There is no one sample axis, or it does not come first in an array.
    """
    known = {"hdf5": netcdf.labels_in_place, "zarr": zarr_arrays.labels_in_place}
    labels = known[form](path, group, names) if form in known else {}
    require_none_filled(labels, path)
    return labels


def _is_references(path: Path) -> bool:
    """Return whether a file, or a directory of Parquet, has references to other files, which are attached only."""
    is_table = path.is_dir() and (path / ".zmetadata").exists() and not (path / ".zgroup").exists()
    return is_table or path.suffix.lower() == ".json"


def require_options(form: str, reader: Reader, options: Mapping[str, object]) -> None:
    """Raise ArgumentError unless a reader has all the options."""
    for name in options:
        if name not in reader.options:
            raise ArgumentError(
                f"the format {form!r} has no option {name!r}{near_match(name, reader.options)} "
                f"(options: {', '.join(sorted(reader.options)) or 'none'})"
            )
