"""Protocol: what a reader of a format is, and the options of ``gate.read``; knows no format."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TypedDict

import numpy.typing as npt

__all__ = ["ReadOptions", "Reader"]


class Reader(Protocol):
    """A format of files.

    An object of a package that has it as an entry point of the group ``storegate.readers``; the name of the entry
    point is what ``format=`` takes.
    """

    @property
    def suffixes(self) -> Collection[str]:
        """The suffixes of its files, in lower case with their dot."""

    @property
    def options(self) -> Collection[str]:
        """The names of the options that :meth:`open` takes."""

    def holds(self, path: Path) -> bool:
        """Return whether something with an unknown suffix is of this format, from its first bytes."""

    def open(
        self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]
    ) -> AbstractContextManager[object]:
        """Open a file, as a table or array that ``add_data`` takes; rows are read in blocks while it is open.

        Parameters
        ----------
        path : Path
            A local file or directory.
        names : sequence of str or None
            The columns that will be read, as a hint; None for all.
        options : mapping of str to object
            The options that were given; only such as the reader has.
        """


class ReadOptions(TypedDict, total=False):
    """The options of :meth:`StoreGate.read`; which of them a file takes depends on its format."""

    group: str
    """HDF5, NetCDF4, zarr: a group or an array inside of the file. ROOT: a tree."""
    cut: str
    """ROOT: an expression of branches; only entries for which it is true are read."""
    size: tuple[int, int]
    """Images: ``(height, width)`` to which all are scaled; needed unless all have one size."""
    colors: Literal["L", "RGB", "RGBA"]
    """Images: grey, colors, or colors with an alpha channel, to which all are converted; as stored by default."""
    label: Literal["folder"]
    """Images: a variable ``label``, of categories: the names of the folders of the files."""
    delimiter: str
    """CSV: what separates the values of a line, by default a comma, and a tab in ``.tsv``."""
    storage_options: Mapping[str, object]
    """URLs: options of the file system of fsspec."""
    dtypes: Mapping[str, npt.DTypeLike]
    """CSV: the dtypes of columns, where the first rows of a file do not tell them."""
