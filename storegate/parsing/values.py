"""Values: seeds, shapes and dtypes; pure."""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentTypeError, DtypeError, ShapeError, shown
from storegate_engine.orders import as_int

__all__ = ["ExportFormat", "ForeignFormat", "parse_dtype", "parse_seed", "parse_shape", "parse_shuffle_seed"]

MAX_AXES = 64
"""The most axes that a numpy array can have."""


ExportFormat: TypeAlias = Literal["zarr", "netcdf", "parquet", "hdf5"]
"""A format that other tools open."""
ForeignFormat: TypeAlias = Literal["hdf5", "kerchunk", "npy", "parquet", "raw", "zarr"]
"""A format of files that are read where they are."""


def parse_seed(shuffle: object) -> int | None:
    """Return the seed of ``shuffle``: None for False, 1 for True, an int (also 0) as it is.

    Raises
    ------
    StoreGateError
        The argument is not a bool or an int of 32 bits.
    """
    if shuffle is None or shuffle is False:
        return None
    if isinstance(shuffle, (bool, np.bool_)):
        return 1 if shuffle else None
    if not isinstance(shuffle, (int, np.integer)):
        raise DtypeError(f"shuffle is a bool or an int seed, found {shuffle!r}")
    return parse_shuffle_seed(shuffle)


def parse_shuffle_seed(seed: object) -> int:
    """Return a seed for numpy's permutation: an int of 32 bits; nothing is converted.

    Raises
    ------
    DtypeError
        The seed is a bool, a float, a text: not an integer (a TypeError).
    ShapeError
        The seed is outside 0 .. 2**32 - 1 (a ValueError).
    """
    try:
        number = as_int(seed, "a seed")
    except TypeError as err:
        raise DtypeError(f"{err}, found {seed!r}") from err
    if not 0 <= number < 2**32:
        raise ShapeError(f"a seed is 0 .. 2**32 - 1, found {number}")
    return number


def parse_shape(shape: object) -> tuple[int, ...]:
    """Return the sizes of a shape ``(N, *k)`` or ``N``.

    Raises
    ------
    ArgumentTypeError
        The shape is not an integer or a sequence of integers (a TypeError).
    ShapeError
        The shape has no axis or too many, or a size is negative or beyond 2**63 - 1 (a ValueError).
    """
    given = shape.tolist() if isinstance(shape, np.ndarray) else shape
    if not isinstance(given, (tuple, list)):
        given = (given,)
    sizes = tuple(as_int(size, f"each size of the shape {shown(shape)}") for size in given)
    if not 1 <= len(sizes) <= MAX_AXES:
        raise ShapeError(f"a shape is (N, *k), of 1 to {MAX_AXES} axes, found {shown(shape)}")
    if not all(0 <= size < 2**63 for size in sizes):
        raise ShapeError(f"each size of a shape is 0 .. 2**63 - 1, found {shown(shape)}")
    return sizes


def parse_dtype(dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    """Return a numpy dtype; None, which numpy takes for float64, is refused.

    Raises
    ------
    ArgumentTypeError
        The argument is not a dtype (a TypeError).
    """
    try:
        if dtype is not None:
            named: np.dtype[Any] = np.dtype(dtype)
            return named
    except (TypeError, ValueError) as err:
        raise ArgumentTypeError(f"{shown(dtype)} is not a numpy dtype ({err}); give one, as in 'float32'") from err
    raise ArgumentTypeError("None is not a dtype; give one, as in 'float32'")
