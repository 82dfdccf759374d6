"""scikit-learn: a loop over ``partial_fit``, for any estimator that has it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from storegate.adapters import require_stream
from storegate.adapters.roles import Named, parse_roles
from storegate_engine.errors import ArgumentError, ArgumentTypeError, shown
from storegate_engine.optional import require_package
from storegate_engine.orders import as_int
from storegate_engine.streams import Stream

require_package("sklearn", "sklearn", "storegate.adapters.sklearn")

__all__ = ["partial_fit"]


def partial_fit(
    estimator: Any,
    stream: Stream[Any],
    *,
    epochs: int = 1,
    classes: npt.ArrayLike | None = None,
    inputs: Named = None,
    targets: Named = None,
    sample_weight: str | None = None,
) -> Any:
    """Train an estimator on the batches of some epochs, starting where the stream is.

    Parameters
    ----------
    estimator : estimator with ``partial_fit``
        Trained in place, and returned.
    stream : Stream
        From ``gate[phase][["x", "y"]].batches(...)``: a list of inputs, targets and sample weights; of one variable
        (a string), for estimators without targets; or of any variables, if ``inputs`` and so on name them.
    epochs : int
        Number of epochs; the rest of a started epoch counts as one.
    classes : array-like, optional
        All classes, which classifiers need in advance.
    inputs : str or list of str, optional
        The variables that the estimator sees, as columns side by side.
    targets : str or list of str, optional
        The variables that it learns.
    sample_weight : str, optional
        The variable with sample weights.

    Raises
    ------
    TypeError
        ``estimator`` has no ``partial_fit``, ``stream`` is not a stream, or ``epochs`` is not an integer.
    ValueError
        ``epochs`` is negative, or the inputs of a batch are not named.
    VariableNotFoundError
        A batch lacks a variable.

    Examples
    --------
    >>> from sklearn.linear_model import SGDClassifier
    >>> from storegate import StoreGate
    >>> from storegate.adapters.sklearn import partial_fit
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data({"x": [[0.0], [1.0], [2.0], [3.0]], "y": [0, 0, 1, 1]})
    >>> stream = gate["train"][["x", "y"]].batches(2, seed=1)
    >>> model = partial_fit(SGDClassifier(random_state=0), stream, epochs=20, classes=[0, 1])
    >>> model.predict([[0.0], [3.0]])
    array([0, 1])
    """
    if not callable(getattr(estimator, "partial_fit", None)):
        raise ArgumentTypeError(f"an estimator with the method partial_fit is needed, and {shown(estimator)} has none")
    require_stream(stream, "partial_fit")
    roles = parse_roles(stream.names, inputs, targets, sample_weight)
    if (epochs := as_int(epochs, "epochs")) < 0:
        raise ArgumentError(f"epochs are not negative, found epochs={epochs}")
    known = {} if classes is None else {"classes": np.asarray(classes)}
    for _ in range(epochs):
        for batch in stream:
            inputs_of_batch, *rest = roles.split(batch)
            x = _side_by_side(inputs_of_batch)
            if not len(x):
                continue
            labels = rest[0] if rest else None
            weights = {"sample_weight": rest[1]} if len(rest) > 1 else {}
            y = [] if labels is None else [_side_by_side(labels) if isinstance(labels, tuple) else labels]
            estimator.partial_fit(x.reshape(len(x), -1), *y, **known, **weights)
    return estimator


def _side_by_side(parts: Any) -> Any:
    """Return arrays as columns side by side."""
    if isinstance(parts, dict):
        parts = tuple(parts.values())
    if not isinstance(parts, tuple):
        return parts
    return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
