"""Transforms: how stored rows become rows of a variable (cast, one-hot, argmax); never change their input.

A transform works on whole rows, ``(n_samples, *row_shape)``: each row is transformed independently, so that any
block may be read alone. It is planned from dtype and row shape (`fold`) and applied when rows are read
(`apply_all`).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.casts import overflows
from storegate_engine.dtypes import TEXT, dtype_to_text
from storegate_engine.errors import (
    ArgumentError,
    ConversionError,
    DtypeError,
    LabelError,
    ShapeError,
    shown,
)
from storegate_engine.orders import as_int

__all__ = ["ArgMax", "Cast", "OneHot", "Transform", "apply_all", "fold"]

MAX_CLASSES = 2**31 - 1
"""Rows of more float64 classes than this do not fit in memory."""

Array: TypeAlias = npt.NDArray[Any]
DType: TypeAlias = np.dtype[Any]


def _check_storable(dtype: DType) -> None:
    """Refuse dtypes that hold Python objects or several fields."""
    if dtype.kind == "O":
        raise DtypeError(
            "objects cannot be stored; convert the data to numbers, or texts to a text dtype "
            "(x.astype('U') or numpy.dtypes.StringDType())"
        )
    if dtype.kind == "V":
        raise DtypeError(f"a dtype with fields cannot be stored ({dtype}); store each field as a variable of its own")
    if dtype.kind == "T" and dtype != TEXT:
        raise DtypeError(f"{dtype!r} has options that cannot be stored; use numpy.dtypes.StringDType() as it is")


def _is_open(dtype: DType) -> bool:
    """Return whether numpy completes the dtype: text without a width, or time without a unit."""
    if dtype.kind in "mM":
        return np.datetime_data(dtype)[0] == "generic"
    return dtype.kind in "SU" and not dtype.itemsize


class Transform(ABC):
    """An immutable change of dtype or row shape, applied to rows when they are read."""

    __slots__ = ()
    keeps_attrs = False
    """Whether attributes, such as the unit, hold for the result, too."""

    @abstractmethod
    def out_dtype(self, dtype: DType) -> DType:
        """Return the dtype of the result for values of ``dtype``.

        Raises
        ------
        DtypeError
            Values of this dtype cannot be transformed.
        """

    @abstractmethod
    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the row shape of the result for rows of ``row_shape``.

        Raises
        ------
        ShapeError
            Rows of this shape cannot be transformed.
        """

    @abstractmethod
    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return the names of the dimensions of the result; an axis that is added gets the name ``new``."""

    @abstractmethod
    def apply(self, values: Array) -> Array:
        """Return the transform of ``(n_samples, *row_shape)`` values, which are not changed.

        The result may be ``values`` itself if nothing changes.
        """

    @abstractmethod
    def to_json(self) -> object:
        """Return a list of a name and its JSON, for `transform_from_json`."""


MAX_CAST_NBYTES: Final = 2**20
"""Most bytes of one value of the text that values are cast to."""


@dataclass(frozen=True, slots=True)
class Cast(Transform):
    """``values.astype(dtype)``, with numpy's rules.

    >>> Cast(np.dtype("int8")).apply(np.array([1.9, -1.9]))
    array([ 1, -1], dtype=int8)
    """

    dtype: DType
    """The dtype of the result; numpy completes a text without a width and a time without a unit."""
    keeps_attrs = True

    def __post_init__(self) -> None:
        try:
            dtype: DType = np.dtype(self.dtype)
        except TypeError as err:
            raise DtypeError(f"{shown(self.dtype)} is not a dtype: {err}") from err
        _check_storable(dtype)
        if dtype.kind != "T":
            dtype = dtype.newbyteorder("=")  # rows are in the machine's byte order, whatever files have
        if dtype.itemsize > MAX_CAST_NBYTES:
            raise DtypeError(
                f"{dtype} takes {dtype.itemsize} bytes for every value, and at most {MAX_CAST_NBYTES} can be cast to; "
                "use np.dtypes.StringDType() for long text"
            )
        object.__setattr__(self, "dtype", dtype)

    def out_dtype(self, dtype: DType) -> DType:
        """Return the dtype of the result for values of ``dtype``.

        Raises
        ------
        DtypeError
            numpy has no such conversion, or the result's dtype depends on the values.
        """
        _check_storable(dtype)
        if not np.can_cast(dtype, self.dtype, casting="unsafe"):
            raise DtypeError(f"numpy cannot convert {dtype} to {self.dtype}; choose another dtype")
        if not _is_open(self.dtype):
            return self.dtype
        if dtype.kind == "T" or (dtype.kind in "SU" and self.dtype.kind in "mM"):
            example = {"S": "S32", "U": "U32", "m": "m8[ns]", "M": "M8[ns]"}[self.dtype.kind]
            raise DtypeError(
                f"the result of {dtype} to {self.dtype.kind!r} would depend on the values; be exact, as in {example!r}"
            )
        return np.empty(0, dtype).astype(self.dtype).dtype

    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``row_shape``."""
        return row_shape

    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return ``dims``."""
        return dims

    def apply(self, values: Array) -> Array:
        """Return ``values.astype(dtype)``, or ``values`` if they have that dtype.

        Raises
        ------
        DtypeError
            numpy has no such conversion.
        ConversionError
            A value cannot be converted: a text that is not a number, a date outside the range of the unit (a
            DtypeError and ValueError).
        """
        dtype = self.out_dtype(values.dtype)
        if values.dtype.kind == "c" and dtype.kind in "biuf" and not values.imag.any():
            values = values.real  # nothing is discarded, so numpy need not warn
        if overflows(dtype, values):
            raise ConversionError(f"a value of {values.dtype} is outside the range of {dtype}; choose a coarser unit")
        try:
            return values.astype(dtype, copy=False)
        except (RuntimeError, ValueError) as err:  # RuntimeError: a date is longer than the text
            raise ConversionError(f"a value of {values.dtype} is not a {dtype}: {err}; choose another dtype") from err

    def to_json(self) -> object:
        """Return ``["cast", dtype]``."""
        return ["cast", dtype_to_text(self.dtype, "cast")]


@dataclass(frozen=True, slots=True)
class OneHot(Transform):
    """Rows of the identity matrix: label ``l`` becomes ``num_classes`` float64 zeros with a one at ``l``.

    >>> OneHot(3).apply(np.array([2, 0]))
    array([[0., 0., 1.],
           [1., 0., 0.]])
    """

    num_classes: int
    """The length of the new last axis, at least 1."""

    def __post_init__(self) -> None:
        number = as_int(self.num_classes, "num_classes")
        if number < 1:
            raise ArgumentError(f"num_classes must be at least 1, not {number}")
        if number > MAX_CLASSES:
            raise ArgumentError(f"num_classes is {MAX_CLASSES} at most, found {shown(number)}")
        object.__setattr__(self, "num_classes", number)

    def out_dtype(self, dtype: DType) -> DType:
        """Return float64.

        Raises
        ------
        DtypeError
            The labels are neither integers nor booleans.
        """
        if dtype.kind not in "iub":
            raise DtypeError(f"labels for onehot are integers, not {dtype}; cast them first, as in astype('int64')")
        return np.dtype(np.float64)

    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``(*row_shape, num_classes)``."""
        return (*row_shape, self.num_classes)

    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return ``(*dims, new)``."""
        return (*dims, new)

    def apply(self, values: Array) -> Array:
        """Return ``(n_samples, *row_shape, num_classes)`` rows of ``(n_samples, *row_shape)`` labels.

        Raises
        ------
        DtypeError
            The labels are neither integers nor booleans.
        LabelError
            A label is negative, or ``num_classes`` or more. The error has the first one as ``label``, and its row
            within ``values`` as ``row``.
        """
        dtype = self.out_dtype(values.dtype)
        labels = values.reshape(-1)
        if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= self.num_classes):
            self._refuse(values)
        out = np.zeros((*values.shape, self.num_classes), dtype)
        if labels.size:
            at = np.arange(labels.size, dtype=np.int64)
            at *= self.num_classes
            at += labels.astype(np.int64, copy=False)
            out.reshape(-1)[at] = 1.0
        return out

    def _refuse(self, values: Array) -> None:
        labels = values.reshape(-1)
        first = int(np.argmax((labels < 0) | (labels >= self.num_classes)))
        row, label = first // math.prod(values.shape[1:]), int(labels[first])
        raise LabelError(
            f"onehot with num_classes={self.num_classes} takes labels 0..{self.num_classes - 1}, found {label}; "
            "raise num_classes, or correct the labels",
            row=row,
            label=label,
        )

    def to_json(self) -> object:
        """Return ``["onehot", num_classes]``."""
        return ["onehot", self.num_classes]


@dataclass(frozen=True, slots=True)
class ArgMax(Transform):
    """``np.argmax(values, axis)`` as int64; the sample axis is axis 0 and must stay.

    >>> ArgMax(-1).apply(np.array([[1, 5, 3], [9, 0, 0]]))
    array([1, 0])
    """

    axis: int
    """The axis to reduce, not 0; negative ones count from the end of ``(n_samples, *row_shape)``."""

    def __post_init__(self) -> None:
        if self.axis is None:
            raise ShapeError("argmax over all axes (axis=None) would leave no samples; give an axis from 1 on")
        axis = as_int(self.axis, "axis")
        if axis == 0:
            raise ShapeError("argmax over axis 0 would leave no samples; give an axis from 1 on")
        object.__setattr__(self, "axis", axis)

    def out_dtype(self, dtype: DType) -> DType:
        """Return int64.

        Raises
        ------
        DtypeError
            The values are objects or have fields.
        """
        _check_storable(dtype)
        return np.dtype(np.int64)

    def out_row_shape(self, row_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return ``row_shape`` without the axis.

        Raises
        ------
        ShapeError
            There is no such axis, it is the sample axis, or it is empty.
        """
        shape = ", ".join(["n_samples", *map(str, row_shape)])
        ndim = len(row_shape) + 1
        if not -ndim <= self.axis < ndim:
            raise ShapeError(f"argmax over axis {self.axis} of an array of shape ({shape}): there is no such axis")
        axis = self.axis % ndim
        if axis == 0:
            raise ShapeError(
                f"argmax over axis {self.axis} of an array of shape ({shape}) would leave no samples; "
                "that is the sample axis"
            )
        if row_shape[axis - 1] == 0:
            raise ShapeError(f"argmax over axis {self.axis} of an array of shape ({shape}): the axis is empty")
        return row_shape[: axis - 1] + row_shape[axis:]

    def out_dims(self, dims: tuple[str, ...], new: str) -> tuple[str, ...]:
        """Return ``dims`` without that of the axis."""
        axis = self.axis % len(dims)
        return dims[:axis] + dims[axis + 1 :]

    def apply(self, values: Array) -> Array:
        """Return the index of the first largest value along the axis.

        Raises
        ------
        DtypeError
            The values are objects or have fields.
        ShapeError
            There is no such axis, it is the sample axis, or it is empty.
        """
        dtype = self.out_dtype(values.dtype)
        self.out_row_shape(values.shape[1:])
        places: Array = np.argmax(values, axis=self.axis)
        return places.astype(dtype, copy=False)

    def to_json(self) -> object:
        """Return ``["argmax", axis]``."""
        return ["argmax", self.axis]


def fold(transforms: Iterable[Transform], dtype: DType, row_shape: tuple[int, ...]) -> tuple[DType, tuple[int, ...]]:
    """Return the dtype and row shape after all ``transforms``, in order.

    Raises
    ------
    DtypeError, ShapeError
        A transform cannot be applied.

    Examples
    --------
    >>> fold([OneHot(5), Cast(np.dtype("float32"))], np.dtype("int64"), (2,))
    (dtype('float32'), (2, 5))
    """
    for transform in transforms:
        dtype, row_shape = transform.out_dtype(dtype), transform.out_row_shape(row_shape)
    return dtype, row_shape


def apply_all(transforms: Iterable[Transform], values: Array) -> Array:
    """Return ``(n_samples, *row_shape)`` values after all ``transforms``, in order."""
    for transform in transforms:
        values = transform.apply(values)
    return values
