"""Batches: the options of ``view.batches`` as a stream of the engine; reads only labels and weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate.parsing import BatchOptions, Collate, Names
from storegate.reading import presented, require_stackable
from storegate_engine.errors import ArgumentError, ArgumentTypeError, ShapeError, VariableNotFoundError
from storegate_engine.natives import as_native
from storegate_engine.orders import spans
from storegate_engine.settings import local_ranks, memory_limit_nbytes
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
    if options.label is not None and variable(options.label).kind != "dense":
        raise ArgumentError(f"label= takes a variable of numbers, and {options.label!r} has rows of various lengths")
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
            lengths=_lengths_of(variable, variables, options.bucket_by),
            first=options.first,
        ),
        form=_collated(form_of(names) if form is None else form, variables, options.collate),
        budget_nbytes=memory_limit_nbytes(
            budget if options.budget is None else options.budget, processes=local_ranks(options.world)
        ),
        epoch=options.epoch,
        n_epochs=options.epochs,
        prefetch=options.prefetch,
        version=version,
        transform=options.transform,
    )


def _lengths_of(
    variable: Callable[[str], Variable], variables: Sequence[Variable], bucket_by: str | None
) -> Array | None:
    """Return the lengths of the rows of the variable that batches are put together by."""
    if bucket_by is None:
        return None
    lists = [of for of in variables if of.kind == "ragged"]
    if bucket_by == "length" and len(lists) != 1:
        known = ", ".join(of.name for of in lists) or "none"
        raise ArgumentError(f"bucket_by='length' needs one variable of lists, found {known}; name the one to sort by")
    by = lists[0] if bucket_by == "length" else variable(bucket_by)
    if by.kind != "ragged":
        raise ArgumentError(f"bucket_by= takes a variable of lists, and {bucket_by!r} has {by.row_shape_in_words}")
    found = [by.lengths(lo, hi).astype(np.int32) for lo, hi in spans(len(by))]
    return np.concatenate(found) if found else np.empty(0, np.int32)


def _collated(
    form: Callable[[list[Any]], Any], variables: Sequence[Variable], collate: Collate | None
) -> Callable[[list[Any]], Any]:
    """Return a form that makes arrays of rows of various lengths first."""
    if collate is None:
        return form
    lists = {variable.name: at for at, variable in enumerate(variables) if variable.kind == "ragged"}
    makers = collate if isinstance(collate, Mapping) else dict.fromkeys(lists, collate)
    for name in makers:
        if name not in lists:
            known = ", ".join(lists) or "none"
            raise ArgumentError(f"collate= is for rows of various lengths, and {name!r} has none (these have: {known})")
    if not lists:
        raise ArgumentError("collate= is for rows of various lengths, and no variable of these batches has them")
    return partial(_make_then_form, form, {lists[name]: make for name, make in makers.items()})


def _make_then_form(
    form: Callable[[list[Any]], Any], makers: Mapping[int, Callable[[Any], Any]], rows: list[Any]
) -> Any:
    return form([makers[at](of) if at in makers else of for at, of in enumerate(rows)])


def _weights_of(
    variable: Callable[[str], Variable], weights: npt.ArrayLike | None, balance: str | None, n_rows: int
) -> Array | None:
    """Return the weight of each row, as given or from a variable; for labels, classes are drawn equally often."""
    if balance is not None:
        labels = variable(balance)
        if labels.kind != "dense":
            raise ArgumentError(f"balance= takes a variable of classes, and {balance!r} has rows of various lengths")
        return class_weights(labels.read(0, len(labels)))
    if weights is None:
        return None
    if isinstance(weights, str):
        stored = variable(weights)
        if not stored.is_scalar:
            raise ShapeError(f"weights= takes one weight for each row, and {weights!r} has {stored.row_shape_in_words}")
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
    return dict(zip(names, map(presented, arrays), strict=True))


def _as_one(arrays: list[Array]) -> Array:
    batch: Array = presented(arrays[0])
    return batch


def _as_list(arrays: list[Array]) -> list[Array]:
    return [presented(array) for array in arrays]


def _stacked(arrays: list[Array]) -> Array:
    return np.stack(arrays, axis=1)
