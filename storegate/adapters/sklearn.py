"""scikit-learn: a stream as a loop over ``partial_fit``; any estimator that has one will do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from storegate.adapters import require_package
from storegate_engine.errors import ArgumentError
from storegate_engine.streams import Stream

require_package("sklearn", "sklearn")

__all__ = ["partial_fit"]


def partial_fit(estimator: Any, stream: Stream, *, epochs: int = 1, classes: npt.ArrayLike | None = None) -> Any:
    """Train an estimator on the batches of some epochs, from where the stream is.

    Parameters
    ----------
    estimator : estimator with ``partial_fit``
        It is changed, and returned.
    stream : Stream
        From ``gate[phase][["x", "y"]].batches(...)``; of one variable (a string), for estimators without targets.
    epochs : int
        How many; the rest of an epoch that was begun is one.
    classes : array-like, optional
        All classes, which classifiers want to know beforehand.

    Raises
    ------
    ValueError
        Batches are neither arrays nor lists of inputs and targets.
    """
    known = {} if classes is None else {"classes": np.asarray(classes)}
    for _ in range(epochs):
        for batch in stream:
            parts = batch if isinstance(batch, list) else [batch]
            if isinstance(batch, dict) or len(parts) > 2:
                raise ArgumentError(
                    'partial_fit takes inputs, or a list of inputs and targets: gate[phase][["x", "y"]]'
                )
            if len(parts[0]):
                rows = parts[0].reshape(len(parts[0]), -1)
                estimator.partial_fit(rows, *parts[1:], **known)
    return estimator
