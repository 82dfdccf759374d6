"""Plots: rows as pictures of xarray and matplotlib, which are imported when something is drawn."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from storegate_engine.errors import ArgumentError
from storegate_engine.optional import require_package
from storegate_engine.table import Variable

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Drawn", "Looks", "Plots", "looks_like"]

Looks: TypeAlias = Literal["image", "series", "values"]

LEAST_SIDE = 8
"""Least rows and columns of an image, and least values of a series."""
MOST_CHANNELS = 8
"""Most curves of one row."""
LARGEST = 1e300
"""The largest numbers of a histogram."""
SHOWN_ROWS = 12
"""Rows that are drawn as images or curves."""
MOST_CLASSES = 30
"""Most classes that are drawn."""


def looks_like(variable: Variable) -> Looks:
    """Return what rows look like: numbers of the shape of an image, or of a series, or anything else."""
    shape = variable.row_shape
    if variable.dtype.kind not in "biuf" or variable.kind != "dense":
        return "values"
    match shape:
        case (height, width) | (height, width, 1 | 3 | 4) | (1 | 3 | 4, height, width):
            if min(height, width) >= LEAST_SIDE:
                return "image"
    if len(shape) in (1, 2) and shape[0] >= LEAST_SIDE and math.prod(shape[1:]) <= MOST_CHANNELS:
        return "series"
    return "values"


@dataclass(frozen=True, slots=True)
class Drawn:
    """How often values of a variable occur."""

    name: str
    """The variable."""
    labels: Sequence[Any]
    """The classes; or the edges of bins, one more than there are bins."""
    counts: Sequence[int]
    """How many values there are of each."""
    are_classes: bool
    """Whether the labels are classes."""


class Plots:
    """Plots of the rows of a view: call it for the one that suits them, or take one of xarray's by its name.

    Parameters
    ----------
    looks : {"image", "series", "values"}
        What rows look like.
    array : callable
        Returns the rows as a lazy DataArray.
    counted : callable
        Returns how often the values of each variable occur.
    """

    def __init__(self, looks: Looks, array: Callable[[], xr.DataArray], counted: Callable[[], Sequence[Drawn]]) -> None:
        self._looks = looks
        self._array = array
        self._counted = counted

    def __call__(self, n: int = SHOWN_ROWS, *, ax: Any = None) -> Any:
        """Draw the first rows as a grid of images or as curves; of other rows, all as a histogram.

        A histogram takes one pass over the rows, within the memory limit.

        Parameters
        ----------
        n : int
            Images, or curves.
        ax : matplotlib.axes.Axes, optional
            Where to draw a histogram or curves; the current axes by default.

        Returns
        -------
        matplotlib.axes.Axes, or ndarray of these
            The array for a grid of images.

        Raises
        ------
        ArgumentError
            There is nothing to draw: text of many kinds, complex numbers, or no rows (a ValueError).
        """
        if self._looks == "image":
            return _images(self._array()[:n])
        counted = [] if self._looks == "series" else self._counted()  # before there are axes, if it raises
        for one in counted:
            _require_drawable(one)
        axes = require_package("matplotlib.pyplot", "plot", "view.plot").gca() if ax is None else ax
        return _curves(self._array()[:n], axes) if self._looks == "series" else _histogram(counted, axes)

    def __getattr__(self, name: str) -> Any:
        """Return a plot of xarray, like ``hist``, ``line`` or ``imshow``, which reads all rows."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._array().plot, name)


def _images(array: xr.DataArray) -> Any:
    sample, *dims = array.dims
    if len(dims) == 3 and array.shape[-1] not in (1, 3, 4):
        dims = [*dims[1:], dims[0]]
        array = array.transpose(sample, *dims)
    if len(dims) == 3 and array.shape[-1] == 1:
        array, dims = array[..., 0], dims[:2]
    array = array.compute()
    options: dict[str, Any] = {"rgb": dims[2]} if len(dims) == 3 else {"cmap": "gray", "add_colorbar": False}
    if array.dtype == np.uint8:  # bytes are shown as they are, other numbers from their least to their most
        options |= {} if len(dims) == 3 else {"vmin": 0, "vmax": 255}
    else:
        finite = array.values[np.isfinite(array.values)]
        options |= {"vmin": float(finite.min()), "vmax": float(finite.max())} if finite.size else {}
    n_rows, columns = len(array), min(4, max(1, len(array)))
    pyplot = require_package("matplotlib.pyplot", "plot", "view.plot")
    lines = max(1, -(-n_rows // columns))
    _, grid = pyplot.subplots(lines, columns, figsize=(2 * columns, 2 * lines), squeeze=False, layout="constrained")
    for axes in grid.flat:
        axes.set_axis_off()
    for row, axes in zip(range(n_rows), grid.flat, strict=False):
        # an image begins at its top
        array[row].plot.imshow(x=dims[1], y=dims[0], ax=axes, yincrease=False, add_labels=False, **options)
        axes.set(title=f"row {row}", aspect="equal")
    return grid


def _curves(array: xr.DataArray, axes: Any) -> Any:
    sample, along, *others = array.dims
    for row in range(array.sizes[sample]):
        array[row].compute().plot.line(x=along, ax=axes, add_legend=False, hue=next(iter(others), None))
    axes.set_title("")
    return axes


def _require_drawable(one: Drawn) -> None:
    """Refuse numbers whose differences, in which matplotlib counts, have no float."""
    ends = one.labels[0], one.labels[-1]
    if not one.are_classes and any(isinstance(end, float) and abs(end) > LARGEST for end in ends):
        raise ArgumentError(
            f"variable {one.name!r} has values from {ends[0]:.3g} to {ends[1]:.3g}, which matplotlib does not draw; "
            "clip() them, or choose other rows"
        )


def _histogram(found: Sequence[Drawn], axes: Any) -> Any:
    for one in found:
        if one.are_classes:
            most = sorted(zip(one.counts, map(str, one.labels), strict=True), key=lambda pair: -pair[0])[:MOST_CLASSES]
            kept = [str(label) for label in one.labels if str(label) in {label for _, label in most}]
            counts = {label: count for count, label in most}
            axes.bar(kept, [counts[label] for label in kept], label=one.name, alpha=0.7)
        else:
            axes.stairs(one.counts, one.labels, label=one.name, fill=True, alpha=0.7)
            if isinstance(one.labels[0], np.datetime64):
                axes.figure.autofmt_xdate()  # dates side by side would run into each other
    axes.set_ylabel("values")
    if len(found) == 1:
        axes.set_xlabel(found[0].name)
    else:
        axes.legend()
    return axes
