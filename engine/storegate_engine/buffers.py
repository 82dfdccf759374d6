"""Buffers: memory that is used again, rows as the bytes that they are, and bytes into files; knows no format."""

from __future__ import annotations

import math
from typing import Any, TypeAlias

import numpy as np

__all__ = ["Workspace", "as_bytes", "write_all"]

Array: TypeAlias = np.ndarray[Any, Any]


class Workspace:
    """Arrays that the tasks of one thread use one after the other: memory that is touched already is fast."""

    def __init__(self) -> None:
        self._buffers: dict[str, Array] = {}

    def array(self, use: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Return an array with any content, valid until the next one for the same use."""
        nbytes = math.prod(shape) * dtype.itemsize
        buffer = self._buffers.get(use)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._buffers[use] = np.empty(nbytes, "u1")
        return buffer[:nbytes].view(dtype).reshape(shape)


def as_bytes(rows: Array) -> Array:
    """Return the bytes of rows, in C order."""
    return np.ascontiguousarray(rows).reshape(-1).view("u1") if rows.size else np.empty(0, "u1")


def write_all(file: Any, content: bytes | Array) -> None:
    """Write all of some bytes to an unbuffered file, which may take a part of them at a time."""
    view = memoryview(content) if isinstance(content, bytes) else content.data
    while view:
        view = view[file.write(view) :]
