"""Images: a row for each file, with Pillow; labels are the folders in which files lie."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.errors import ArgumentError, DtypeError
from storegate_engine.optional import require_package
from storegate_engine.store import coded

__all__ = ["ImageReader"]

Array: TypeAlias = np.ndarray[Any, Any]
MODES: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "1": ("?", ()),
    "L": ("u1", ()),
    "LA": ("u1", (2,)),
    "RGB": ("u1", (3,)),
    "RGBA": ("u1", (4,)),
    "I;16": ("u2", ()),
    "I": ("i4", ()),
    "F": ("f4", ()),
}
"""The dtype of the pixels of a mode of Pillow, and the shape of each."""


class ImageReader:
    """Images: a variable ``image``, and a variable ``label`` of categories if folders are labels."""

    suffixes = (".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
    options = ("size", "colors", "label")

    def holds(self, path: Path) -> bool:
        """Return False: there are too many formats of images."""
        return False

    @contextlib.contextmanager
    def open(self, path: Path, names: Sequence[str] | None, options: Mapping[str, Any]) -> Iterator[object]:
        """Open a file, as a table of one row; its pixels are decoded when they are read."""
        image = require_package("PIL.Image", "images", str(path))
        with image.open(path) as opened:
            rows = _Image(opened, options.get("size"), options.get("colors", opened.mode))
            rows.require_known()
            table: dict[str, Any] = {"image": rows}
            if "label" in options:
                if options["label"] != "folder":
                    raise ArgumentError(f"label={options['label']!r} is not known; give label='folder'")
                folder = path.absolute().parent.name
                table["label"] = coded(np.zeros(1, np.int64), [folder], "label", is_ordered=False)
            yield table


@dataclass(frozen=True, slots=True, eq=False)
class _Image:
    """The pixels of an image, as an array of one row."""

    opened: Any
    size: tuple[int, int] | None
    mode: str

    def require_known(self) -> None:
        """Raise an error unless the pixels have a dtype and the size is one."""
        if self.mode not in MODES:
            raise DtypeError(
                f"its pixels are of mode {self.mode!r}, which is none of {', '.join(MODES)}; convert them, as in "
                "colors='RGB'"
            )
        if self.size is None:
            return
        given: Any = self.size
        is_pair = isinstance(given, (tuple, list)) and len(given) == 2
        if not is_pair or not all(isinstance(length, int) and length > 0 for length in given):
            raise ArgumentError(f"size is (height, width) in pixels, found {given!r}")

    @property
    def shape(self) -> tuple[int, ...]:
        """``(1, height, width)``, and the number of colors if a pixel has several."""
        height, width = self.size or self.opened.size[::-1]
        return (1, height, width, *MODES[self.mode][1])

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the pixels."""
        return np.dtype(MODES[self.mode][0])

    def __getitem__(self, rows: slice) -> Array:
        """Decode the image."""
        found = self.opened if self.opened.mode == self.mode else self.opened.convert(self.mode)
        if self.shape[1:3] != found.size[::-1]:
            found = found.resize(self.shape[2:0:-1])
        return np.asarray(found, self.dtype)[np.newaxis][rows]
