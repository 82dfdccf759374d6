"""Reading: names and selections as rows, in memory or as dask arrays; knows tables and variables, but no gate."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from storegate.contents import names_in, whole
from storegate.parsing import (
    ALL,
    PHASES,
    Names,
    OneRow,
    RowRange,
    Rows,
    Selection,
    n_selected,
    parse_item,
    parse_method_index,
)
from storegate_engine import graphs
from storegate_engine.casts import combined
from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArgumentTypeError, DtypeError, MemoryBudgetError, PhaseNotFoundError, ShapeError
from storegate_engine.exchange import task_nbytes
from storegate_engine.ragged import Ragged
from storegate_engine.store import Repository, fingerprint, known_fingerprints
from storegate_engine.streams import Epochs, Shuffle, Stream
from storegate_engine.table import Table, Variable

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = [
    "Selected",
    "Subset",
    "all_rows",
    "blocks_in_order",
    "cut_out",
    "fingerprints",
    "presented",
    "read_dataset",
    "read_selected",
    "read_tree",
    "require_stackable",
    "subset",
]

Array: TypeAlias = np.ndarray[Any, Any]
BLOCK_NBYTES = 16 * 2**20
"""Bytes of rows, in stored order, held at a time when all are read."""
ITERATION_NBYTES = 4 * 2**20
"""Bytes read at a time when iterating over rows."""
GATHERED_NBYTES = 64 * 2**20
"""Most bytes of rows out of order that are gathered block by block."""


@dataclass(frozen=True, slots=True, eq=False)
class Selected:
    """Selected rows of some variables, and the form in which to return them; nothing is read yet."""

    names: Names
    """The variables, and the form of the result."""
    variables: Sequence[Variable]
    """One variable per name."""
    selections: Sequence[Selection]
    """The rows of each variable."""

    @classmethod
    def everything(cls, names: Names, variables: Sequence[Variable]) -> Self:
        """Select all rows."""
        return cls(names, variables, [RowRange(0, len(variable)) for variable in variables])

    @classmethod
    def by_item(cls, names: Names, variables: Sequence[Variable], item: object) -> Self:
        """Select the rows of ``view[item]``."""
        return cls(names, variables, [parse_item(item, len(variable)) for variable in variables])

    @classmethod
    def by_index(cls, table: Table, names: Names, phase: str, index: object) -> Self:
        """Select the rows of ``get_data(index=index)``."""
        variables = [whole(table, phase, name) for name in names.names]
        return cls(names, variables, [parse_method_index(index, len(variable)) for variable in variables])

    def read(self, budget_nbytes: int) -> Array | list[Array] | dict[str, Array]:
        """Return the rows as ndarrays, in the form of the names; the budget covers everything but the result."""
        if self.names.form == "stack":
            require_stackable(self.variables)
            self._require_equal_rows()
        spare = task_nbytes(budget_nbytes, 1, copies=1)
        pairs = zip(self.variables, self.selections, strict=True)
        parts: list[Array] = [read_selected(variable, selection, spare) for variable, selection in pairs]
        match self.names.form:
            case "one":
                return parts[0]
            case "each":
                return parts
            case "dict":
                return dict(zip(self.names.names, parts, strict=True))
        stacked: Array = np.stack(parts, axis=0 if isinstance(self.selections[0], OneRow) else 1)
        return stacked

    def _require_equal_rows(self) -> None:
        counts = {v.name: n_selected(rows) for v, rows in zip(self.variables, self.selections, strict=True)}
        if len(set(counts.values())) > 1:
            raise ShapeError(f"variables of different numbers of rows cannot be stacked: {counts}; use a list of names")

    def lazy(self, limits: Capacity) -> da.Array | list[da.Array]:
        """Return the rows as dask arrays, in the form of the names; reads nothing."""
        if self.names.form == "stack":
            require_stackable(self.variables)
        cuts = [cut_out(variable, rows) for variable, rows in zip(self.variables, self.selections, strict=True)]
        if len({len(cut) for cut in cuts}) > 1:
            raise ShapeError(f"the variables have different numbers of rows: {[len(cut) for cut in cuts]}")
        rows = graphs.blocks_of(cuts, limits)
        arrays = [graphs.to_dask(cut, rows, limits) for cut in cuts]
        if isinstance(self.selections[0], OneRow):
            arrays = [array[0] for array in arrays]
        match self.names.form:
            case "one":
                return arrays[0]
            case "each":
                return arrays
        import dask.array as da  # deferred on purpose: it takes half a second

        stacked: da.Array = da.stack(arrays, axis=0 if isinstance(self.selections[0], OneRow) else 1)
        return stacked

    def one_by_one(self, budget_nbytes: int) -> Iterator[Array | list[Array] | dict[str, Array]]:
        """Yield row by row, reading a few megabytes at a time within the budget; all rows must be selected."""
        counts = {variable.name: len(variable) for variable in self.variables}
        if len(set(counts.values())) > 1:
            raise ShapeError(f"the variables have different numbers of rows: {counts}")
        if self.names.form == "stack":
            require_stackable(self.variables)
        step = max(1, ITERATION_NBYTES // sum(variable.row_nbytes for variable in self.variables))
        for blocks in blocks_in_order(self.variables, step, budget_nbytes):
            for row in range(len(blocks[0])):
                # a copy, so that keeping one row does not keep its whole block
                parts = [_one_row(block, row) for block in blocks]
                match self.names.form:
                    case "one":
                        yield parts[0]
                    case "each":
                        yield parts
                    case "dict":
                        yield dict(zip(self.names.names, parts, strict=True))
                    case _:
                        yield np.stack(parts)


def _one_row(block: Any, row: int) -> Any:
    one = block[row]
    return one.copy() if getattr(one, "ndim", 0) else one


def blocks_in_order(variables: Sequence[Variable], step: int, budget_nbytes: int) -> Iterator[list[Array]]:
    """Yield blocks of all rows of variables of equal length, of at most ``step`` rows.

    Rows out of order that do not fit in memory go through one exchange, as in batches; a gather for each block would
    read most of the data again.
    """
    n_rows, nbytes = len(variables[0]), sum(variable.nbytes for variable in variables)
    is_scattered = any(variable.order.runs(0, n_rows) is None for variable in variables)
    if is_scattered and nbytes > min(GATHERED_NBYTES, task_nbytes(budget_nbytes, 1)):
        row_nbytes = sum(variable.row_nbytes for variable in variables)
        most = max(1, min(ITERATION_NBYTES, budget_nbytes // EXCHANGED_SHARE) // max(1, row_nbytes))
        try:
            stream = _exchanged(variables, Epochs(n_rows, min(step, most)), budget_nbytes)
        except MemoryBudgetError:
            step = min(step, most)  # the rows of each block are gathered, which takes less memory and more time
        else:
            with stream:
                yield from stream
            return
    for start in range(0, n_rows, step):
        stop = min(start + step, n_rows)
        yield [variable.read(start, stop, spare_nbytes=task_nbytes(budget_nbytes, 1)) for variable in variables]


EXCHANGED_SHARE = 32
"""Share of a memory limit for a block of rows that come out of an exchange, which needs the rest."""


def _exchanged(variables: Sequence[Variable], epochs: Epochs, budget_nbytes: int) -> Stream[list[Array]]:
    return Stream(variables, epochs, Shuffle("none"), form=list, budget_nbytes=budget_nbytes, n_epochs=1, prefetch=1)


def require_stackable(variables: Sequence[Variable]) -> None:
    """Refuse to stack variables whose rows do not form one array, before anything is read.

    Raises
    ------
    ShapeError
        Their rows have different shapes.
    DtypeError
        No dtype holds the values of all of them unchanged: numbers and text, dates and durations.
    """
    first = variables[0]
    dtype = first.dtype
    if first.kind != "dense":
        raise ShapeError(
            f"the rows of variable {first.name!r} differ in length, and cannot be stacked; use a list of names"
        )
    for variable in variables[1:]:
        remedy = "a list of names gives an array for each"
        if variable.row_shape != first.row_shape or variable.kind != "dense":
            raise ShapeError(
                f"variables {first.name!r} and {variable.name!r} cannot be stacked: their rows have the shapes "
                f"{first.row_shape} and {variable.row_shape}; {remedy}"
            )
        try:
            dtype = combined(dtype, variable.dtype)
        except DtypeError as err:
            raise DtypeError(f"variable {variable.name!r} cannot be stacked with {dtype}: {err}; {remedy}") from err


def presented(rows: Any) -> Any:
    """Return rows as users see them: sparse ones as a matrix of scipy, all others as they are."""
    return rows.to_csr() if isinstance(rows, Ragged) and rows.columns is not None else rows


def read_selected(variable: Variable, selection: Selection, spare_nbytes: int) -> Any:
    """Return the selected rows; one row has no sample axis."""
    match selection:
        case OneRow(row):
            rows = variable.read(row, row + 1, spare_nbytes=spare_nbytes)
            return rows[0]  # a numpy scalar if rows are scalars; it has the methods of an array
        case RowRange(start, stop):
            return presented(variable.read(start, stop, spare_nbytes=spare_nbytes))
        case Rows(index):
            return presented(variable.pick(index, spare_nbytes=spare_nbytes))


def cut_out(variable: Variable, selection: Selection) -> Variable:
    """Return the selected rows as a variable; one row as well."""
    match selection:
        case OneRow(row):
            return variable.cut(row, row + 1)
        case RowRange(start, stop):
            return variable.cut(start, stop)
        case Rows(index):
            return variable.selected(index)


def all_rows(variable: Variable, budget_nbytes: int) -> Iterator[Array]:
    """Yield all rows once, in the order that needs the least reading; of lists their items."""
    for of, lo, hi in parts_of(variable, budget_nbytes):
        rows = of.read(lo, hi)
        yield rows.flat if of.kind == "ragged" else np.asarray(rows)


def parts_of(variable: Variable, budget_nbytes: int) -> Iterator[tuple[Variable, int, int]]:
    """Yield spans of a variable with the same rows, to be read in the order that needs the least reading."""
    first, stop = variable.order.bounds if len(variable) else (0, 0)
    if variable.order.is_injective and stop - first == len(variable):  # a permutation of adjacent rows
        variable = variable.stored_rows().cut(first, stop)
    in_order = variable.order.form == "range"
    nbytes = BLOCK_NBYTES if in_order else task_nbytes(budget_nbytes, 1)
    step = max(1, min(nbytes, task_nbytes(budget_nbytes, 1)) // max(1, variable.dense_row_nbytes))
    for start in range(0, len(variable), step):
        yield variable, start, min(start + step, len(variable))


@dataclass(frozen=True, slots=True, eq=False)
class Subset:
    """Selected rows of a phase; nothing is read."""

    n_rows: int
    """The number of rows of the phase when the subset was taken."""
    selections: tuple[Selection, ...]
    """Selections to apply in turn, each to the result of the one before."""

    def __len__(self) -> int:
        return n_selected(self.selections[-1])

    def of(self, variable: Variable) -> Variable:
        """Return these rows of a variable.

        Raises
        ------
        ShapeError
            The number of rows of the phase has changed.
        """
        if len(variable) != self.n_rows:
            raise ShapeError(
                f"a subset of {self.n_rows} rows of variable {variable.name!r}, which has {len(variable)} by now; take "
                "the subset again"
            )
        return reduce(cut_out, self.selections, variable)


def subset(
    table: Table, phase: str | None, names: Sequence[str] | None, earlier: Subset | None, index: object
) -> Subset:
    """Return a subset of the rows of a phase, or of an earlier subset of it (None for the whole phase).

    Raises
    ------
    ShapeError
        The variables have different numbers of rows, or there are no variables.
    ArgumentTypeError
        The index is a single row.
    """
    if phase is None:
        raise PhaseNotFoundError("a subset needs one phase: gate['train'].subset(index)")
    if names is None:
        names = list(dict.fromkeys(name for at in PHASES if phase in (at, ALL) for name in table[at]))
    counts = {name: len(whole(table, phase, name)) for name in names}
    if len(set(counts.values())) != 1:
        found = f"the variables have different numbers of rows: {counts}" if counts else "there are none"
        raise ShapeError(f"the variables of a subset need equal numbers of rows; {found}")
    n_rows = next(iter(counts.values()))
    selection = parse_item(index, n_rows if earlier is None else len(earlier))
    if isinstance(selection, OneRow):
        raise ArgumentTypeError(f"a subset takes several rows, found {index!r}; use a list, [{index!r}]")
    return Subset(n_rows, (*(earlier.selections if earlier is not None else ()), selection))


def read_dataset(repository: Repository, place: str, data_id: str | None, phase: str, limits: Capacity) -> xr.Dataset:
    """Return a phase, or all phases concatenated, as a lazy Dataset; its ``encoding`` says where it is from."""
    table = repository.table
    variables = {name: whole(table, phase, name) for name in names_in(table, phase)}
    if phase != ALL:
        table.n_rows(phase)  # refuses variables of different lengths
    first = next((at for at in PHASES if phase in (at, ALL) and table[at]), phase)
    dataset = graphs.to_dataset(table, variables, table.attrs.get(first, ()), limits)
    dataset.encoding = {"source": place, "data_id": data_id, "phase": phase, "version": repository.version}
    if known := known_fingerprints(repository, variables):
        dataset.encoding["fingerprints"] = known
    return dataset


def read_tree(repository: Repository, place: str, data_id: str | None, limits: Capacity) -> xr.DataTree:
    """Return the phases that have variables as a lazy DataTree."""
    import xarray as xr  # deferred on purpose: few programs need it

    phases = [phase for phase in PHASES if repository.table[phase]]
    datasets = {phase: read_dataset(repository, place, data_id, phase, limits) for phase in phases}
    tree = xr.DataTree.from_dict(datasets)
    for phase, dataset in datasets.items():
        tree[phase].encoding = dataset.encoding
    tree.encoding = {"source": place, "data_id": data_id, "version": repository.version}
    return tree


def fingerprints(repository: Repository, names: Names, phase: str, limits: Capacity) -> dict[str, str]:
    """Return the SHA-256 of the rows of each variable."""
    table = repository.table
    return {name: fingerprint(repository, whole(table, phase, name), limits) for name in names.names}
