"""Scalings: transforms whose values are fitted to the rows of one phase, and applied to those of all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from storegate.edits import tables
from storegate.parsing import ALL, PHASES, Names
from storegate.reading import all_rows
from storegate.statistics import moments_of
from storegate_engine.budget import require
from storegate_engine.errors import ArgumentError, DtypeError, ShapeError, VariableNotFoundError
from storegate_engine.store import Transaction
from storegate_engine.table import Affine, Bins, Cast, Clip, Transform, Variable

__all__ = ["inverse", "is_scaled", "quantile_bins", "rescale", "scaled"]

Array: TypeAlias = np.ndarray[Any, Any]


def rescale(
    change: Transaction, kind: str, names: Names, fit: str, phase: str, axes: tuple[int, ...], budget_nbytes: int
) -> None:
    """Shift and divide variables so that those of the phase ``fit`` have mean 0 and deviation 1, or lie in 0..1.

    Raises
    ------
    ShapeError, DtypeError
        Rows cannot be scaled, or not alike in all phases.
    ArgumentError
        There are no values to fit to, infinite ones, or those that float64 cannot scale.
    """
    for name in names.names:
        variable = _fitted(change, name, fit, phase)
        _transform(change, name, fit, phase, _affine(kind, variable, fit, axes, budget_nbytes))


def _affine(kind: str, variable: Variable, fit: str, axes: tuple[int, ...], budget_nbytes: int) -> Affine:
    if any(not 0 <= axis < len(variable.shape) for axis in axes):
        raise ShapeError(f"axis={axes} of variable {variable.name!r}, which has {len(variable.shape)} axes")
    if variable.dtype.kind not in "biuf":
        raise DtypeError(f"variable {variable.name!r} holds {variable.dtype} values; {kind} takes numbers")
    found = moments_of(variable, axes, budget_nbytes, ends=True)
    has_values = found.count > 0
    if not len(variable) or not has_values.any():
        raise ArgumentError(f"variable {variable.name!r} of phase {fit!r} has no values to fit to")
    least, most = (np.where(has_values, of, of.dtype.type(0)) for of in (found.least, found.most))
    if not (np.isfinite(least).all() and np.isfinite(most).all()):
        raise ArgumentError(
            f"variable {variable.name!r} of phase {fit!r} has infinite values; clip them first, as in gate.clip("
            f"{variable.name!r}, -1e6, 1e6), or leave the rows out with filter()"
        )
    low, high = least.astype(np.float64), most.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        offset, scale = (found.mean, found.std) if kind == "standardize" else (low, high - low)
    is_constant = least == most  # it becomes 0: rounding of its mean may leave it a deviation
    is_finite = np.isfinite(offset) & np.isfinite(scale)
    if not (is_constant | (is_finite & (scale > 0))).all():
        much, remedy = ("little beside their size", "- offset") if is_finite.all() else ("much", "/ 1e100")
        raise ArgumentError(
            f"variable {variable.name!r} of phase {fit!r} has values from {least.min()} to {most.max()}, which "
            f"differ by too {much} for float64; clip them, or store others first, as in gate.assign("
            f"{variable.name}=lambda ds: ds[{variable.name!r}] {remedy})"
        )
    return Affine.of(kind, np.where(is_constant, low, offset), np.where(is_constant, 1.0, scale))


def quantile_bins(change: Transaction, names: Names, n_bins: int, fit: str, phase: str, budget_nbytes: int) -> None:
    """Replace values by the numbers of bins that have equally many values of the phase ``fit``.

    Raises
    ------
    ArgumentError
        There are fewer than two bins, or no values.
    MemoryBudgetError
        The values do not fit in memory.
    """
    if n_bins < 2:
        raise ArgumentError(f"bins are two or more, found {n_bins}")
    for name in names.names:
        variable = _fitted(change, name, fit, phase)
        if variable.dtype.kind not in "biuf":
            raise DtypeError(f"variable {name!r} holds {variable.dtype} values; bins are made of numbers")
        require(
            2 * variable.nbytes + 8 * variable.nbytes // max(1, variable.dtype.itemsize),
            budget_nbytes,
            what=f"quantiles of variable {name!r} of {len(variable)} rows",
            remedy="raise storegate.memory-limit",
        )
        given = np.concatenate([rows.reshape(-1) for rows in all_rows(variable, budget_nbytes)] or [np.empty(0)])
        values = given[np.isfinite(given)].astype(np.float64, copy=False)
        if not values.size:
            raise ArgumentError(f"variable {name!r} of phase {fit!r} has no finite values to fit to")
        values.sort()
        with np.errstate(over="ignore", invalid="ignore"):
            edges = np.unique(np.quantile(values, np.arange(1, n_bins) / n_bins))
        below = np.searchsorted(values, edges)
        _, firsts = np.unique(below, return_index=True)  # of edges without values between them, the first one
        edges = edges[firsts[(below[firsts] > 0) & (below[firsts] < len(values))]]
        if not edges.size:
            found = f"most are {values[len(values) // 2]}"
            if values[0] == values[-1] and (given != given[0]).any():
                found = f"float64, in which edges are kept, cannot tell {given.min()} and {given.max()} apart"
            raise ArgumentError(f"variable {name!r} of phase {fit!r} has too few values for two bins: {found}")
        _transform(change, name, fit, phase, Bins(tuple(edges.tolist())))


def _fitted(change: Transaction, name: str, fit: str, phase: str) -> Variable:
    """Return the variable to fit to; those to scale must be like it."""
    found = change.table.variable(fit, name)
    if found.kind != "dense":
        raise ShapeError(
            f"variable {name!r} has {found.row_shape_in_words}, which are not scaled; scale the items before "
            "they are added"
        )
    for at in _phases(change, name, phase):
        other = change.table[at][name]
        if (other.dtype, other.row_shape) != (found.dtype, found.row_shape):
            raise ShapeError(
                f"variable {name!r} has {other.dtype} rows of shape {other.row_shape} in phase {at!r}, and "
                f"{found.dtype} rows of shape {found.row_shape} in {fit!r}; make them alike first"
            )
    return found


def _phases(change: Transaction, name: str, phase: str) -> list[str]:
    found = [at for at in PHASES if phase in (at, ALL) and name in change.table[at]]
    if not found:
        raise VariableNotFoundError(f"no variable {name!r} in phase {phase!r}")
    return found


def _transform(change: Transaction, name: str, fit: str, phase: str, transform: Transform) -> None:
    for at in _phases(change, name, phase):
        edit = tables.mapped(at, [name], lambda old: old.transformed(transform))
        change.edit(edit, reads=[(at, name), (fit, name)])


def is_scaled(variable: Variable) -> bool:
    """Return whether values that rows had when they were added were scaled since."""
    return any(_first(piece.transforms) < len(piece.transforms) for piece in variable.pieces)


def scaled(variable: Variable, values: Any) -> Array:
    """Return values as the scalings of a variable would show them.

    Raises
    ------
    ArgumentError
        The variable was not scaled.
    ShapeError
        The values are no rows of the variable.
    """
    chain = _scalings(variable)
    found = _rows_like(variable, values)
    for transform in chain:
        found = transform.apply(found)
    return found


def inverse(variable: Variable, values: Any) -> Array:
    """Return values as they were before the scalings of a variable, as float64.

    Raises
    ------
    ArgumentError
        The variable was not scaled, or bins and labels have no inverse.
    ShapeError
        The values are no rows of the variable.
    """
    chain = _scalings(variable)
    if lost := [transform for transform in chain if not isinstance(transform, (Affine, Cast, Clip))]:
        what = "numbers of bins" if isinstance(lost[0], Bins) else "labels"
        raise ArgumentError(f"variable {variable.name!r} holds {what}, from which no values come back")
    found = np.asarray(_rows_like(variable, values), np.float64)
    for transform in reversed(chain):
        if isinstance(transform, Affine):
            found = transform.invert(found)
    return found


def _rows_like(variable: Variable, values: Any) -> Array:
    """Return values of the shape that rows had when they were scaled, on the last axes."""
    shape = next(
        replace(piece, transforms=piece.transforms[:first]).row_shape
        for piece in variable.pieces
        if (first := _first(piece.transforms)) < len(piece.transforms)
    )
    found = np.asarray(values)
    if found.shape[found.ndim - len(shape) :] != shape:
        like = ", ".join(map(str, ("n", *shape)))
        raise ShapeError(
            f"variable {variable.name!r} has rows of shape {shape}, and the values have the shape {found.shape}; give "
            f"values of shape ({like})"
        )
    return found


def _scalings(variable: Variable) -> Sequence[Transform]:
    """Return the scalings of a variable, and what follows the first of them."""
    # rows that were added since are taken to be on the scale of the others
    tails = {piece.transforms[_first(piece.transforms) :] for piece in variable.pieces} - {()}
    if not tails:
        raise ArgumentError(f"variable {variable.name!r} is not scaled; standardize() and normalize() scale it")
    if len(tails) > 1:
        raise ArgumentError(
            f"rows of variable {variable.name!r} are scaled in several ways, so that none is the inverse"
        )
    return tails.pop()


def _first(chain: Sequence[Transform]) -> int:
    return next((at for at, one in enumerate(chain) if isinstance(one, (Affine, Bins, Clip))), len(chain))
