"""Columns: the variables of one source, turned on disk so that each can be written alone; knows no store.

A source of shape ``(N, M, *k)`` yields rows of all M variables together. Writing each variable in shards of full size
would need M shards in memory, or one pass over the source per variable. Here the source is read once, and each block
goes to a scratch file variable by variable::

    block 0: variable 0, variable 1, ...    block 1: variable 0, variable 1, ...    ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.budget import format_nbytes
from storegate_engine.buffers import as_bytes, write_all
from storegate_engine.encodings import row_nbytes
from storegate_engine.errors import SpillError
from storegate_engine.store.sources import Source, blocks_of_group

__all__ = ["turned"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, eq=False)
class TurnedColumn:
    """One variable of a file of turned blocks."""

    path: Path
    """The scratch file."""
    dtype: np.dtype[Any]
    """The dtype of the rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    parts: tuple[tuple[int, int], ...]
    """Where the rows of each block begin in the file, and their number."""

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return sum(n_rows for _, n_rows in self.parts)

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the rows, block by block, as new arrays."""
        nbytes = row_nbytes(self.dtype, self.row_shape)
        with open(self.path, "rb", buffering=0) as file:
            for begin, n_rows in self.parts:
                for lo in range(0, n_rows, block_rows):
                    rows = np.empty((min(block_rows, n_rows - lo), *self.row_shape), self.dtype)
                    file.seek(begin + lo * nbytes)
                    view = as_bytes(rows).data
                    while view:
                        count = file.readinto(view)
                        if not count:
                            raise SpillError(f"scratch file {self.path} is shorter than what was written")
                        view = view[count:]
                    yield rows


def turned(group: Mapping[str, Source], directory: Path, memory_nbytes: int) -> dict[str, Source]:
    """Read a group of variables that share a source once, and return a separate source for each.

    Parameters
    ----------
    group : mapping of str to Source
        Variables of any dtype except variable-length text.
    directory : Path
        Where to create the file; it must stay until everything is read.
    memory_nbytes : int
        Memory for the rows of all variables held at a time.

    Raises
    ------
    SpillError
        The file cannot be written.
    """
    # Rows are collected by variable until memory is full, then written one variable after the other. So each variable
    # is read back in runs of `n_held` rows, however narrow it is:
    #
    #     source    x0 x1 x2 | x0 x1 x2 | x0 x1 x2 | ...          row after row
    #     file      x0 x0 x0 | x1 x1 x1 | x2 x2 x2 | x0 ...       `parts` knows where each run begins
    sizes = {name: row_nbytes(source.dtype, source.row_shape) for name, source in group.items()}
    n_held = max(1, memory_nbytes // max(1, sum(sizes.values())))
    path = directory / "columns"
    parts: dict[str, list[tuple[int, int]]] = {name: [] for name in group}
    held = {name: np.empty((n_held, *source.row_shape), source.dtype) for name, source in group.items()}
    done, end = 0, 0

    def flush(file: Any) -> None:
        nonlocal done, end
        for name, rows in held.items():
            parts[name].append((end, done))
            write_all(file, as_bytes(rows[:done]))
            end += done * sizes[name]
        done = 0

    try:
        with open(path, "xb", buffering=0) as file:
            for blocks in blocks_of_group(group, n_held * len(group)):
                n_rows = len(next(iter(blocks.values())))
                taken = 0
                while taken < n_rows:
                    step = min(n_rows - taken, n_held - done)
                    for name, rows in blocks.items():
                        held[name][done : done + step] = rows[taken : taken + step]
                    taken, done = taken + step, done + step
                    if done == n_held:
                        flush(file)
            if done:
                flush(file)
    except OSError as err:
        raise SpillError(
            f"scratch file {path} of {len(group)} variables cannot be written ({format_nbytes(end)} were): "
            f"{err.strerror or err}; free space there, or set storegate.scratch-directory to a larger disk"
        ) from err
    return {
        name: TurnedColumn(path, source.dtype, source.row_shape, tuple(parts[name])) for name, source in group.items()
    }
