"""Batches: the options of ``view.batches`` as a stream of the engine; reads only labels and weights."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate.parsing import BatchOptions, Names
from storegate.reading import require_stackable
from storegate_engine.errors import ArgumentError, ArgumentTypeError, ShapeError, VariableNotFoundError
from storegate_engine.settings import memory_limit_nbytes
from storegate_engine.store import as_native
from storegate_engine.streams import Epochs, Shuffle, Stream, class_weights
from storegate_engine.table import Variable

__all__ = ["form_of", "open_stream"]

Array: TypeAlias = np.ndarray[Any, Any]
Batch: TypeAlias = Array | list[Array] | dict[str, Array]
"""The type of a batch without a transform."""


def open_stream(
    options: BatchOptions,
    variable: Callable[[str], Variable],
    names: Names,
    *,
    version: int,
    budget: int | str | None,
    form: Callable[[list[Array]], Any] | None = None,
) -> Stream[Any]:
    """Return a stream of batches of variables.

    Parameters
    ----------
    options : BatchOptions
        The options of ``view.batches``.
    variable : callable
        Returns the variable of a name.
    names : Names
        The variables of a batch, and its form.
    version : int
        The version of the table that they belong to.
    budget : int, str or None
        The memory limit if the options have none.
    form : callable, optional
        Makes a batch from the arrays of the variables; as their names say if None.
    """
    if not names.names:
        raise VariableNotFoundError("there are no variables to make batches of; add data first")
    variables = [variable(name) for name in names.names]
    if names.form == "stack":
        require_stackable(variables)
    n_rows = len(variables[0])
    return Stream(
        variables,
        Epochs(n_rows, options.batch_size, options.last, options.rank, options.world),
        Shuffle(
            options.kind,
            options.seed,
            options.block_rows,
            options.buffer_blocks,
            None if options.label is None else variable(options.label),
            _weights_of(variable, options.weights, options.balance, n_rows),
        ),
        form=form_of(names) if form is None else form,
        budget_nbytes=memory_limit_nbytes(
            budget if options.budget is None else options.budget, processes=_local_ranks(options.world)
        ),
        epoch=options.epoch,
        prefetch=options.prefetch,
        version=version,
        transform=options.transform,
    )


def _local_ranks(world: int) -> int:
    """Return how many ranks run on this machine: ``LOCAL_WORLD_SIZE``, or all ranks if it is not set."""
    n_ranks = max(1, world)
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(n_ranks, max(1, int(told))) if told.isdecimal() else n_ranks


def _weights_of(
    variable: Callable[[str], Variable], weights: npt.ArrayLike | None, balance: str | None, n_rows: int
) -> Array | None:
    """Return the weight of each row, as given or from a variable; for labels, classes are drawn equally often."""
    if balance is not None:
        labels = variable(balance)
        return class_weights(labels.read(0, len(labels)))
    if weights is None:
        return None
    if isinstance(weights, str):
        stored = variable(weights)
        weights = stored.read(0, len(stored))
    given = as_native(weights, "weights=")
    if given.dtype.kind not in "biuf":
        raise ArgumentTypeError(f"weights= takes numbers, or a variable of them, found dtype {given.dtype}")
    values = given.astype(np.float64)
    if values.shape != (n_rows,):
        raise ShapeError(f"weights= takes one weight for each of the {n_rows} rows, found shape {values.shape}")
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ArgumentError("weights must be finite and not negative, and one of them more than 0")
    return values


def form_of(names: Names) -> Callable[[list[Array]], Batch]:
    """Return the function that makes a batch from the arrays of variables."""
    match names.form:
        case "one":
            return _as_one
        case "stack":
            return _stacked
        case "each":
            return _as_list
        case "dict":
            return partial(_as_dict, names.names)


def _as_dict(names: tuple[str, ...], arrays: list[Array]) -> dict[str, Array]:
    return dict(zip(names, arrays, strict=True))


def _as_one(arrays: list[Array]) -> Array:
    return arrays[0]


def _as_list(arrays: list[Array]) -> list[Array]:
    return arrays


def _stacked(arrays: list[Array]) -> Array:
    return np.stack(arrays, axis=1)
