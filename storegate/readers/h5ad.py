"""H5ad: the matrices and the observations of files of AnnData, which stay in the file until their rows are read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from storegate.readers.lists import SparseRows
from storegate_engine.errors import DtypeError
from storegate_engine.optional import require_package
from storegate_engine.store import Categories, CodeSource, as_source

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
        """Open a file, as a mapping of its matrices and columns; None for those not asked for."""
        h5py = require_package("h5py", "anndata", str(path))
        io = require_package("anndata.io", "anndata", str(path))
        with h5py.File(path, "r") as file:
            matrices = ({"X": file["X"]} if "X" in file else {}) | dict(file.get("layers", {}))
            obs = file["obs"]
            columns = {"obs_names": obs[obs.attrs["_index"]]}
            columns |= {name: obs[name] for name in obs.attrs["column-order"]}
            if both := matrices.keys() & columns.keys():
                raise DtypeError(f"it has both a matrix and a column of obs called {', '.join(sorted(both))}; rename")
            wanted = {*matrices, *columns} if names is None else set(names)
            table = {name: _matrix(name, item) if name in wanted else None for name, item in matrices.items()}
            table |= {name: _column(io, name, item) if name in wanted else None for name, item in columns.items()}
            yield table


def _matrix(name: str, item: Any) -> Any:
    if hasattr(item, "dtype"):
        return item
    found = item.attrs.get("encoding-type")
    if found != "csr_matrix":
        raise DtypeError(
            f"{name!r} is stored as {found}, whose rows do not lie together; write it as a csr_matrix, as in "
            "adata.X = scipy.sparse.csr_matrix(adata.X)"
        )
    return SparseRows.of(item)


def _column(io: Any, name: str, item: Any) -> Any:
    """Return a column of observations: numbers, texts and codes stay in the file, other kinds are small and rare."""
    if hasattr(item, "dtype") and "categories" not in item.attrs:  # which early versions of AnnData have
        return item
    if item.attrs.get("encoding-type") != "categorical":
        return io.read_elem(item)
    categories = Categories(is_ordered=bool(item.attrs["ordered"]))
    return CodeSource(as_source(item["codes"], name), tuple(io.read_elem(item["categories"])), name, categories)
