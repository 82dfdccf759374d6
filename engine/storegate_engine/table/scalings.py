"""Scalings: transforms of numbers by fitted values: shifted and divided, clipped, or put into bins."""

from __future__ import annotations

import base64
import math
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentError, CorruptStoreError, DtypeError, ShapeError, shown
from storegate_engine.table.transforms import DType, Transform

__all__ = ["Affine", "Bins", "Clip", "scaling_from_json"]

Array: TypeAlias = npt.NDArray[Any]

MAX_VALUES = 2**16
"""Most values of a scaling: they are in every manifest."""
KINDS = ("standardize", "normalize")


def _float(dtype: DType, what: str) -> DType:
    """Return the dtype of scaled numbers: float32 for floats that it holds, else float64."""
    if dtype.kind not in "biuf":
        raise DtypeError(f"{what} takes numbers, not {dtype}; cast them first, as in astype('float32')")
    return np.dtype(np.float32 if dtype.kind == "f" and dtype.itemsize <= 4 else np.float64)


@dataclass(frozen=True, slots=True)
class Affine(Transform):
    """``(values - offset) / scale``, computed in float64.

    >>> Affine.of("standardize", np.array([2.0]), np.array([4.0])).apply(np.array([[10], [2]]))
    array([[2.],
           [0.]])
    """

    kind: str
    """How it was fitted: ``standardize`` or ``normalize``."""
    shape: tuple[int, ...]
    """The shape of offset and scale, which broadcast with rows."""
    offset: bytes
    """Float64 values, little-endian."""
    scale: bytes
    """Float64 values, none of them 0."""

    @classmethod
    def of(cls, kind: str, offset: Array, scale: Array) -> Affine:
        """Return the scaling by arrays of equal shape.

        Raises
        ------
        ArgumentError
            A value is not finite, or a scale is 0.
        ShapeError
            There are too many values.
        """
        if offset.size > MAX_VALUES:
            raise ShapeError(
                f"{offset.size} values to scale by are too many for every version to hold ({MAX_VALUES} at most); share"
                " them over more axes, as in axis=(0, 2, 3) for one value per channel of images"
            )
        if not (np.isfinite(offset).all() and np.isfinite(scale).all() and (scale != 0).all()):
            raise ArgumentError("values to scale by are finite, and those to divide by not 0")
        return cls(kind, offset.shape, offset.astype("<f8").tobytes(), scale.astype("<f8").tobytes())

    def _values(self, content: bytes) -> Array:
        return np.frombuffer(content, "<f8").reshape(self.shape)

    def out_dtype(self, dtype: DType) -> DType:
        """Return float32 for float16 and float32, else float64.

        Raises
        ------
        DtypeError
            The values are no real numbers.
        """
        return _float(dtype, self.kind)

    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``row_shape``.

        Raises
        ------
        ShapeError
            The fitted values belong to rows of another shape.
        """
        if len(row_shape) != len(self.shape) or any(
            one not in (1, size) for one, size in zip(self.shape, row_shape, strict=True)
        ):
            raise ShapeError(f"{self.kind} was fitted to rows like {self.shape}, and these have the shape {row_shape}")
        return row_shape

    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return ``dims``."""
        return dims

    def apply(self, values: Array) -> Array:
        """Return the scaled values; missing ones stay so."""
        dtype = self.out_dtype(values.dtype)
        scaled = np.subtract(values, self._values(self.offset), dtype=np.float64)
        scaled /= self._values(self.scale)
        return scaled.astype(dtype, copy=False)

    def invert(self, values: Array) -> Array:
        """Return the values before the scaling, as float64."""
        return np.asarray(values, np.float64) * self._values(self.scale) + self._values(self.offset)

    def to_json(self) -> object:
        """Return ``[kind, [shape, offset, scale]]``, the values in base64."""
        return [self.kind, [list(self.shape), *(base64.b64encode(of).decode() for of in (self.offset, self.scale))]]


@dataclass(frozen=True, slots=True)
class Clip(Transform):
    """``np.clip(values, low, high)``, in the dtype of the values.

    >>> Clip(0, 2).apply(np.array([-1, 1, 5]))
    array([0, 1, 2])
    """

    low: float | int | None
    """The smallest value; None for no limit."""
    high: float | int | None
    """The largest value."""
    keeps_attrs = True

    def __post_init__(self) -> None:
        bound: object
        for bound in (self.low, self.high):
            is_number = isinstance(bound, (int, float)) and not isinstance(bound, bool) and math.isfinite(bound)
            if bound is not None and not is_number:
                raise ArgumentError(f"a limit of clip is a finite number or None, found {shown(bound)}")
        if self.low is None and self.high is None:
            raise ArgumentError("clip needs a limit, as in low=0")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ArgumentError(f"clip from {self.low} to {self.high}: the first limit is the smaller one")

    def out_dtype(self, dtype: DType) -> DType:
        """Return ``dtype``.

        Raises
        ------
        DtypeError
            The values are no real numbers, or cannot be equal to a limit.
        """
        if dtype.kind not in "iuf":
            raise DtypeError(f"clip takes numbers, not {dtype}")
        self._limits(dtype)
        return dtype

    def _limits(self, dtype: DType) -> list[Any]:
        """Return the limits as values of a dtype; None for one outside of its range."""
        found: list[Any] = []
        for bound in (self.low, self.high):
            if bound is None or dtype.kind == "f":
                found.append(None if bound is None else dtype.type(bound))
                continue
            if bound != int(bound):
                raise DtypeError(f"the limit {bound} is no {dtype}; give an integer, or cast the values first")
            ends = np.iinfo(dtype)
            found.append(dtype.type(min(max(int(bound), int(ends.min)), int(ends.max))))
        return found

    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``row_shape``."""
        return row_shape

    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return ``dims``."""
        return dims

    def apply(self, values: Array) -> Array:
        """Return the clipped values; missing ones stay so."""
        low, high = self._limits(self.out_dtype(values.dtype))
        clipped: Array = np.clip(values, low, high)
        return clipped

    def to_json(self) -> object:
        """Return ``["clip", [low, high]]``."""
        return ["clip", [self.low, self.high]]


@dataclass(frozen=True, slots=True)
class Bins(Transform):
    """The number of the bin of each value, as int64: how many edges are at most as large; -1 for missing values.

    >>> Bins((1.0, 2.0)).apply(np.array([0.5, 1.0, 7.0, np.nan]))
    array([ 0,  1,  2, -1])
    """

    edges: tuple[float, ...]
    """Ascending."""

    def __post_init__(self) -> None:
        if not self.edges or len(self.edges) > MAX_VALUES:
            raise ArgumentError(f"bins have 1 to {MAX_VALUES} edges between them, found {len(self.edges)}")
        values = np.asarray(self.edges, np.float64)
        if not np.isfinite(values).all() or (np.diff(values) <= 0).any():
            raise ArgumentError(f"edges of bins are finite and ascend, found {shown(self.edges)}")

    def out_dtype(self, dtype: DType) -> DType:
        """Return int64.

        Raises
        ------
        DtypeError
            The values are no real numbers.
        """
        _float(dtype, "bins")
        return np.dtype(np.int64)

    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``row_shape``."""
        return row_shape

    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return ``dims``."""
        return dims

    def apply(self, values: Array) -> Array:
        """Return the numbers of bins."""
        self.out_dtype(values.dtype)
        found = np.searchsorted(np.asarray(self.edges), values.reshape(-1), side="right").astype(np.int64)
        if values.dtype.kind == "f":
            found[np.isnan(values.reshape(-1))] = -1
        return found.reshape(values.shape)

    def to_json(self) -> object:
        """Return ``["bins", edges]``."""
        return ["bins", list(self.edges)]


def scaling_from_json(name: str, value: Any) -> Transform | None:
    """Return the scaling of a name and its JSON, which is not trusted; None if the name is not one's.

    Raises
    ------
    CorruptStoreError, TypeError, ValueError
        The JSON was not made by a scaling.
    """
    if name in KINDS:
        shape, *contents = value
        if any(type(size) is not int or size < 0 for size in shape) or math.prod(shape) > MAX_VALUES:
            raise CorruptStoreError(f"values to scale by have the shape {shown(shape)}")
        offset, scale = (base64.b64decode(content, validate=True) for content in contents)
        if any(len(content) != 8 * math.prod(shape) for content in (offset, scale)):
            raise CorruptStoreError(f"values to scale by are not as many as the shape {shown(shape)} has")
        return Affine.of(name, *(np.frombuffer(of, "<f8").reshape(shape) for of in (offset, scale)))
    if name == "clip":
        low, high = value
        return Clip(low, high)
    if name == "bins":
        if any(isinstance(edge, bool) or not isinstance(edge, (int, float)) for edge in value):
            raise CorruptStoreError(f"edges of bins are {shown(value)}")
        return Bins(tuple(map(float, value)))
    return None
