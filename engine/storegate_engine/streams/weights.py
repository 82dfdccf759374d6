"""Weights: row weights that draw every class equally often; pure."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

from storegate_engine.errors import ShapeError, shown

__all__ = ["class_weights"]

Array: TypeAlias = np.ndarray[Any, Any]


def class_weights(labels: Array) -> Array:
    """Return weights that draw every class equally often: one over the number of rows of the class.

    Parameters
    ----------
    labels : ndarray
        Shape ``(n_rows,)`` or ``(n_rows, 1)``, or one-hot rows of shape ``(n_rows, n_classes)``.

    Raises
    ------
    ShapeError
        A row does not belong to exactly one class.

    Examples
    --------
    >>> class_weights(np.array([7, 7, 7, 9]))
    array([0.33333333, 0.33333333, 0.33333333, 1.        ])
    """
    if labels.ndim > 2:
        raise ShapeError(f"balance= takes a variable of labels or of one-hot rows, found rows of {labels.shape[1:]}")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 2:
        labels = _classes(labels)
    _, inverse, counts = np.unique(labels, return_inverse=True, return_counts=True)
    weights: Array = 1.0 / counts[inverse]
    return weights


def _classes(one_hot: Array) -> Array:
    """Return the class of every row."""
    if one_hot.dtype.kind not in "biuf":
        raise ShapeError(f"balance= takes one label a row, found rows of {one_hot.shape[1:]} {one_hot.dtype}")
    is_hot = one_hot != 0
    wrong = (is_hot.sum(axis=1) != 1) | (one_hot.max(axis=1, initial=0) != 1)
    if wrong.any():
        at = int(np.flatnonzero(wrong)[0])
        raise ShapeError(
            f"balance= takes rows of one class each: labels, or one-hot rows of zeros and a single one; row {at} is "
            f"{shown(one_hot[at].tolist())}; give weights= for samples of several classes"
        )
    classes: Array = is_hot.argmax(axis=1)
    return classes
