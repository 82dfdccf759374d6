"""H5ad: the matrices and the observations of files of AnnData; matrices stay in the file."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from storegate.optional import require_package

__all__ = ["H5adReader"]


class H5adReader:
    """AnnData: ``X``, the layers, and the names and columns of ``obs``."""

    suffixes = (".h5ad",)
    options = ()

    def holds(self, path: Path) -> bool:
        """Return False: by its first bytes it is an HDF5 file."""
        return False

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a file, as an AnnData of which only the table of observations is in memory."""
        h5py = require_package("h5py", "anndata", str(path))
        io = require_package("anndata.io", "anndata", str(path))
        with h5py.File(path, "r") as file:
            layers = {name: _matrix(item) for name, item in file.get("layers", {}).items()}
            yield _AnnData(_matrix(file["X"]) if "X" in file else None, layers, io.read_elem(file["obs"]))


@dataclass(frozen=True, slots=True, eq=False)
class _AnnData:
    """What rows are made of."""

    X: Any
    layers: Mapping[str, Any]
    obs: Any


@dataclass(frozen=True, slots=True, eq=False)
class _Sparse:
    """A sparse matrix, which is refused by name when it is asked for."""

    shape: tuple[int, ...]
    tocsr: None = None


def _matrix(item: Any) -> Any:
    return item if hasattr(item, "dtype") else _Sparse(tuple(int(size) for size in item.attrs.get("shape", ())))
