"""Pictures: rows that look like images as PNG (ISO/IEC 15948), written with zlib alone."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any, TypeAlias

import numpy as np

__all__ = ["data_uri", "pixels_of", "png"]

Array: TypeAlias = np.ndarray[Any, Any]

MOST_SIDE = 96
"""Most pixels of a side; larger images are shown with every n-th pixel."""


def png(pixels: Array) -> bytes:
    """Return an image as a file.

    Parameters
    ----------
    pixels : ndarray of uint8, shape (height, width) or (height, width, 3 or 4)
        Grey, RGB or RGBA.
    """
    height, width = pixels.shape[:2]
    colour = 0 if pixels.ndim == 2 else {3: 2, 4: 6}[pixels.shape[2]]
    header = struct.pack(">2I5B", width, height, 8, colour, 0, 0, 0)
    lines = np.zeros((height, 1 + pixels[0].size), np.uint8)  # each begins with its filter: none
    lines[:, 1:] = pixels.reshape(height, -1)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", header),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def data_uri(pixels: Array) -> str:
    """Return an image as the source of an ``img``."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode()


def pixels_of(rows: Array) -> Array:
    """Return rows as pixels: bytes as they are, other numbers from the least to the most of all rows.

    Parameters
    ----------
    rows : ndarray, shape (n_rows, height, width), with a last or a first axis of 1, 3 or 4 channels, or none

    Returns
    -------
    ndarray of uint8, shape (n_rows, height, width) or (n_rows, height, width, 3 or 4)
    """
    if rows.ndim == 4 and rows.shape[-1] not in (1, 3, 4):
        rows = np.moveaxis(rows, 1, -1)
    if rows.ndim == 4 and rows.shape[-1] == 1:
        rows = rows[..., 0]
    steps = [-(-size // MOST_SIDE) for size in rows.shape[1:3]]
    rows = rows[:, :: steps[0], :: steps[1]]
    if rows.dtype == np.uint8:
        return np.ascontiguousarray(rows)
    values = rows.astype(np.float64)
    finite = np.isfinite(values)
    least, most = (values[finite].min(), values[finite].max()) if finite.any() else (0.0, 1.0)
    with np.errstate(over="ignore"):
        scaled = (values / 2 - least / 2) / ((most / 2 - least / 2) or 1.0)
    return np.where(finite, np.rint(np.clip(np.nan_to_num(scaled), 0, 1) * 255), 0).astype(np.uint8)
