"""Rows: phases with other rows, picked, sampled, sorted or filtered; every variable of a phase in the same way."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np

from storegate.callers import users_stacklevel
from storegate.edits.updates import MAX_ALL_RUNS, MAX_RUNS
from storegate.parsing import ALL, PHASES, Computable, Rows, Selection, computed_columns
from storegate.reading import cut_out
from storegate_engine import graphs
from storegate_engine.budget import require
from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArgumentError, ConflictError, DtypeError, ShapeError, VariableNotFoundError
from storegate_engine.natives import as_native
from storegate_engine.orders import ArrayIndex, MaskIndex, NewIndex, RowIndex, Take, concat, cut, n_nodes, runs_of
from storegate_engine.store import Transaction
from storegate_engine.table import Table, Variable

__all__ = ["Picker", "cut_of", "filter_rows", "read_key", "sample", "select", "sort"]

Array: TypeAlias = np.ndarray[Any, Any]
Edit: TypeAlias = Callable[[Variable], Variable]


class Picker:
    """Picks rows of all variables of a phase; what a list of rows takes is stored once."""

    def __init__(self, change: Transaction, index: RowIndex, stop: int, variables: Iterable[Variable]) -> None:
        """``stop`` is the number of rows that there are."""
        variables = list(variables)
        deepest = max((n_nodes(part) for variable in variables for part in variable.order.parts), default=1)
        most = min(MAX_RUNS, MAX_ALL_RUNS // max(1, len(variables))) // deepest
        self._runs = runs_of(index, most)
        self._index = index if self._runs is not None else change.store_index(NewIndex(len(index), stop, index.slice))

    def __call__(self, variable: Variable) -> Variable:
        """Return the rows of a variable."""
        if self._runs is None:
            return replace(variable, order=Take(variable.order, self._index))
        if not self._runs:
            return variable.cut(0, 0)
        return replace(variable, order=concat(*(cut(variable.order, lo, hi) for lo, hi in self._runs)))


def select(change: Transaction, phase: str, selection: Selection, n_rows: int) -> None:
    """Keep the selected rows of a phase, in their order; ``n_rows`` is the number for which they were selected.

    Raises
    ------
    ShapeError
        The phase has another number of rows by now.
    """
    if (found := _n_rows(change.table, phase)) != n_rows:
        raise ShapeError(f"phase {phase!r} has {found} rows by now, and the index is of {n_rows}; select again")
    if isinstance(selection, Rows):
        _rearrange(change, phase, Picker(change, selection.index, n_rows, change.table[phase].values()))
    else:
        _rearrange(change, phase, lambda old: cut_out(old, selection))


def cut_of(seed: int | None, lo: int, hi: int) -> Edit:
    """Return the edit that keeps rows ``lo .. hi - 1``, of the shuffled ones if there is a seed."""
    if seed is None:
        return lambda variable: variable.cut(lo, hi)
    return lambda variable: variable.permuted(seed).cut(lo, hi)


def sample(change: Transaction, phase: str, n_rows: int | float, seed: int) -> None:
    """Keep some rows of a phase, or of each phase, drawn without replacement; a float is a share of them.

    Raises
    ------
    ShapeError
        There are not so many rows.
    ArgumentError
        The share is not between 0 and 1, or a number of rows is asked of all phases.
    """
    if phase == ALL and isinstance(n_rows, int):
        raise ArgumentError(f"a sample of {n_rows} rows needs one phase; give a share of each, as in 0.1")
    if isinstance(n_rows, float) and not 0 <= n_rows <= 1:
        raise ArgumentError(f"a share of the rows is 0.0 to 1.0, found {n_rows}")
    for at in _phases(change.table, phase):
        there = _n_rows(change.table, at)
        wanted = n_rows if isinstance(n_rows, int) else round(n_rows * there)
        if not 0 <= wanted <= there:
            raise ShapeError(f"a sample of {wanted} rows of phase {at!r}, which has {there}")
        _rearrange(change, at, cut_of(seed, 0, wanted))


def sort(change: Transaction, names: tuple[str, ...], phase: str, budget_nbytes: int, *, is_descending: bool) -> None:
    """Sort the rows of a phase, or of each phase, by variables, the first one first; equal rows keep their order."""
    for at in _phases(change.table, phase):
        keys = [
            _ranks(read_key(change.table.variable(at, name), budget_nbytes, "sorting by", len(names)), is_descending)
            for name in names
        ]
        places = np.lexsort(keys[::-1])
        index = ArrayIndex.of_own(places.astype(np.uint32 if len(places) <= 2**32 else np.int64), is_distinct=True)
        _rearrange(change, at, Picker(change, index, len(index), change.table[at].values()))


def _ranks(values: Array, is_descending: bool) -> Array:
    """Return what sorts rows as their values do, missing ones last."""
    if not is_descending and values.dtype.kind != "T":
        return values
    _, ranks = np.unique(values.astype(object) if values.dtype.kind == "T" else values, return_inverse=True)
    if is_descending:
        ranks = -ranks
        if values.dtype.kind in "fcmM":
            ranks[np.isnan(values)] = 1
    return ranks


def filter_rows(change: Transaction, condition: Computable, phase: str, limits: Capacity) -> None:
    """Keep the rows for which a condition is true: a mask of a phase or of all, or a function of its Dataset.

    Raises
    ------
    DtypeError
        The condition gives no booleans.
    ShapeError
        It has not one value for each row.
    """
    table = change.table
    phases = _phases(table, phase)
    sizes = {at: _n_rows(table, at) for at in phases}
    require(
        sum(sizes.values()),
        limits.budget_nbytes,
        what=f"a mask of {sum(sizes.values())} rows",
        remedy="filter one phase after the other, or raise storegate.memory-limit",
    )
    if callable(condition):
        masks = {at: _computed(table, at, condition, limits) for at in phases}
    else:
        mask = as_native(condition, "the mask")
        if mask.dtype.kind != "b" or mask.shape != (sum(sizes.values()),):
            raise (DtypeError if mask.dtype.kind != "b" else ShapeError)(
                f"a mask has one boolean for each of the {sum(sizes.values())} rows of phase {phase!r}, found shape "
                f"{mask.shape} of {mask.dtype}; row numbers go to select()"
            )
        ends = np.cumsum(list(sizes.values())).tolist()
        masks = {at: mask[end - sizes[at] : end] for at, end in zip(phases, ends, strict=True)}
    for at, mask in masks.items():
        if len(mask) and not mask.any():
            coded = [name for name, variable in table[at].items() if variable.about.categories is not None]
            hint = f"; {', '.join(coded)} hold codes of categories, see their attribute 'categories'" if coded else ""
            warnings.warn(
                f"the condition keeps no row of phase {at!r}{hint}", UserWarning, stacklevel=users_stacklevel()
            )
        if not mask.all():
            _rearrange(change, at, Picker(change, MaskIndex(mask), len(mask), table[at].values()))


def _computed(table: Table, phase: str, condition: Callable[..., Any], limits: Capacity) -> Array:
    """Return the mask that a function of a phase's Dataset gives, computed block by block."""
    dataset = graphs.to_dataset(
        table, table[phase], table.attrs.get(phase, ()), replace(limits, budget_nbytes=limits.budget_nbytes // 2)
    )
    computed = computed_columns(dataset, {"condition": condition}, table.sample_dim)["condition"]
    column = computed.rows
    if column.dtype.kind != "b" or column.row_shape:
        _, *dims = computed.about.dims or ("",)
        remedy = f"reduce it, as in (...).all({dims[0]!r})" if dims else "compare it with something, as in ds.x != 0"
        raise DtypeError(
            f"the condition gives one boolean for each row, found {column.dtype} of shape {column.row_shape}; {remedy}"
        )
    blocks = list(column.blocks(BLOCK_ROWS))
    mask: Array = np.concatenate(blocks) if blocks else np.empty(0, bool)
    return mask


BLOCK_ROWS = 2**20
"""Rows of a mask that are computed together, if their blocks are shorter."""


def read_key(variable: Variable, budget_nbytes: int, what: str, n_keys: int = 1) -> Array:
    """Return all values of a variable of one value for each row.

    Raises
    ------
    ShapeError
        Its rows have several values.
    MemoryBudgetError
        They do not fit in memory, with what is made of them.
    """
    if not variable.is_scalar:
        raise ShapeError(
            f"{what.removesuffix(' with')} needs one value for each row, and variable {variable.name!r} has "
            f"{variable.row_shape_in_words}; store a variable of one value, with assign() or argmax()"
        )
    require(
        n_keys * len(variable) * (variable.row_nbytes + 4 * 8),
        budget_nbytes,
        what=f"{what} variable {variable.name!r} of {len(variable)} rows",
        remedy="raise storegate.memory-limit",
    )
    key: Array = variable.read(0, len(variable))
    return key


def _phases(table: Table, phase: str) -> list[str]:
    """Return the phases that are meant and have variables.

    Raises
    ------
    VariableNotFoundError
        There are none.
    """
    found = [at for at in PHASES if phase in (at, ALL) and table[at]]
    if not found:
        raise VariableNotFoundError(f"phase {phase!r} has no variables; add data first")
    return found


def _n_rows(table: Table, phase: str) -> int:
    _phases(table, phase)
    return table.n_rows(phase)  # refuses variables of different lengths


def _rearrange(change: Transaction, phase: str, edit: Edit) -> None:
    """Edit all variables of a phase; a table that was compiled stays so, since all get equal numbers of rows."""
    names = list(change.table[phase])
    targets = [(phase, name) for name in names]

    def edited(table: Table) -> Table:
        if list(table[phase]) != names:  # a new one would keep all its rows
            raise ConflictError("another writer added variables meanwhile; nothing was changed, try again")
        return table.mapped(phase, names, edit)

    change.edit(edited, reads=targets, touches=targets)
