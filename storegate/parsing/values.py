"""Values: what seeds, shapes and dtypes mean; pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentTypeError, DtypeError, ShapeError, shown
from storegate_engine.orders import as_int

__all__ = ["parse_dtype", "parse_seed", "parse_shape", "parse_shuffle_seed"]

MAX_AXES = 64
"""Axes of an array of numpy."""


def parse_seed(shuffle: object) -> int | None:
    """Return the seed that ``shuffle`` means: False is none, True is 1, an int (0 included) is itself.

    Raises
    ------
    StoreGateError
        Not a bool or an int of 32 bits.
    """
    if shuffle is None or shuffle is False:
        return None
    if isinstance(shuffle, (bool, np.bool_)):
        return 1 if shuffle else None
    if not isinstance(shuffle, (int, np.integer)):
        raise DtypeError(f"shuffle is a bool or an int seed, found {shuffle!r}")
    return parse_shuffle_seed(shuffle)


def parse_shuffle_seed(seed: object) -> int:
    """Return a seed of numpy's permutation: an int of 32 bits, and nothing that would have to become one.

    Raises
    ------
    DtypeError
        A bool, a float, a text: not an integer (a TypeError).
    ShapeError
        An integer outside of 0 .. 2**32 - 1 (a ValueError).
    """
    try:
        number = as_int(seed, "a seed")
    except TypeError as err:
        raise DtypeError(f"{err}, found {seed!r}") from err
    if not 0 <= number < 2**32:
        raise ShapeError(f"a seed lies between 0 and 2**32 - 1, found {number}")
    return number


def parse_shape(shape: object) -> tuple[int, ...]:
    """Return the sizes of ``(N, *k)``, or of ``N`` alone.

    Raises
    ------
    ArgumentTypeError
        Neither integers nor a sequence of them (a TypeError).
    ShapeError
        No axis, too many of them, or a size that is negative or beyond 2**63 - 1 (a ValueError).
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
    """Return what numpy makes of a dtype that was named; None, which numpy takes for float64, is refused.

    Raises
    ------
    ArgumentTypeError
        It is no dtype (a TypeError).
    """
    try:
        if dtype is not None:
            named: np.dtype[Any] = np.dtype(dtype)
            return named
    except (TypeError, ValueError) as err:
        raise ArgumentTypeError(f"{shown(dtype)} is no dtype of numpy ({err}); give one, as in 'float32'") from err
    raise ArgumentTypeError("None is no dtype; give one, as in 'float32'")
