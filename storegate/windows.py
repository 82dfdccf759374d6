"""Windows: pairs of adjacent rows, what a model sees and what it is to say, as a lazy sequence; nothing is stored."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, Unpack

import numpy as np

from storegate.batches import form_of, open_stream
from storegate.parsing import BatchArgs, BatchOptions, BatchTransform, Names, OneRow, parse_item
from storegate.reading import read_selected, require_stackable
from storegate_engine import graphs
from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArgumentError, ShapeError
from storegate_engine.exchange import task_nbytes
from storegate_engine.orders import as_int
from storegate_engine.streams import Stream
from storegate_engine.table import Variable, WindowArray, WindowPlan, series_of

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Windows", "make_windows"]

Array: TypeAlias = np.ndarray[Any, Any]
T = TypeVar("T")
"""What one side of a window is: an array, a list of arrays, or a dict of arrays."""

READ_ONCE = 10
"""In blocks of this many windows' lengths, at most a tenth of the rows is read twice."""
ROUND_NBYTES = 64 * 2**20
"""Bytes of the blocks of windows that are mixed with each other."""
LEAST_BLOCKS = 64
"""As many blocks are mixed even if they take more, up to a limit: fewer would mix little."""
MOST_NBYTES = 256 * 2**20
"""The limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Windows(Generic[T]):
    """Pairs of input and target: adjacent rows of a phase, in their order.

    No window goes across the end of a phase, the end of an attached file, a change of ``within``, or a place where rows
    were left out or moved. Made by :meth:`View.windows`; they show the version of the data at that time.

    Examples
    --------
    >>> from storegate import StoreGate
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
    >>> windows = gate["train"]["x"].windows(input=2, target=1)
    >>> len(windows), windows[0]
    (4, (array([0, 1]), array([2])))
    """

    variables: tuple[Variable, ...]
    """The windows of each variable, input, gap and target together."""
    names: Names
    """The names of the variables, and the form of their data."""
    sides: tuple[slice, slice]
    """The rows of a window that are input, and those that are target."""
    plan: WindowPlan
    """Which rows each window has."""
    version: int
    """The version of the table."""
    budget: int | str | None
    """The memory limit of batches."""
    limits: Capacity
    """The memory and threads of lazy work."""

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.plan)

    @property
    def starts(self) -> Array:
        """The first row of each window among the rows of the view, as int64.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> windows = gate["train"]["x"].windows(input=2, target=1)
        >>> windows.starts
        array([0, 1, 2, 3])
        """
        return self.plan.starts(np.arange(len(self)))

    def __getitem__(self, item: object) -> tuple[T, T]:
        """Return input and target of one window, or of several, which then have an axis more.

        Raises
        ------
        RowIndexError
            There is no such window.
        """
        selection = parse_item(item, len(self))
        spare = task_nbytes(self.limits.budget_nbytes, 1, copies=1)
        arrays = [read_selected(variable, selection, spare) for variable in self.variables]
        pair: tuple[T, T] = _Pairs(self.names, self.sides, is_one=isinstance(selection, OneRow))(arrays)
        return pair

    def batches(
        self, batch_size: int, *, transform: BatchTransform | None = None, **options: Unpack[BatchArgs]
    ) -> Stream[tuple[T, T]]:
        """Return batches of windows, with the options of :meth:`View.batches`.

        In order and in blocks each row is read about once. ``shuffle=True`` draws windows anywhere, and reads the rows
        of each for itself: of more rows than fit in memory, from a copy of them in ``storegate.scratch-directory``.

        Parameters
        ----------
        batch_size : int
            Windows of one step, over all ranks.
        transform : callable, optional
            ``transform((input, target), rng)``.
        **options
            ``shuffle``, ``seed``, ``epoch``, ``epochs``, ``drop_last``, ``rank``, ``world``, ``prefetch``, ``budget``,
            ``block_rows`` (windows of a block), ``buffer_blocks`` and ``weights`` (one for each window).

        Returns
        -------
        Stream
            Of pairs ``(input, target)``, each with the windows along the first axis.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4, 5])
        >>> windows = gate["train"]["x"].windows(input=2, target=1)
        >>> past, future = next(iter(windows.batches(2, shuffle=False)))
        >>> past, future
        (array([[0, 1],
               [1, 2]]), array([[2],
               [3]]))
        """
        for word in ("label", "balance"):
            if options.get(word) is not None:
                raise ArgumentError(f"{word}= names one value for each row, and a window has several; use weights=")
        if options.get("first") is not None:
            raise ArgumentError("first= gives rows that were stored in a random order, and windows need neighbours")
        parsed = self._in_blocks(BatchOptions(batch_size=batch_size, transform=transform, **options))
        by_name = dict(zip(self.names.names, self.variables, strict=True))
        stream: Stream[tuple[T, T]] = open_stream(
            parsed,
            by_name.__getitem__,
            self.names,
            version=self.version,
            budget=self.budget,
            form=_Pairs(self.names, self.sides),
        )
        stream.warn_of_quality()
        return stream

    def _in_blocks(self, options: BatchOptions) -> BatchOptions:
        """Return options with blocks so long that few rows are read twice."""
        if options.kind != "blocks" or options.block_rows is not None:
            return options
        plan = self.plan
        row_nbytes = sum(variable.held_row_nbytes for variable in self.variables)
        least = -(-READ_ONCE * max(0, plan.length - plan.stride) // plan.stride)
        block_rows = max(1, least, 2**19 // max(1, row_nbytes))
        block_rows = min(block_rows, max(1, len(self) // LEAST_BLOCKS, least))
        block_nbytes = max(1, row_nbytes * block_rows)
        n_blocks = max(1, min(LEAST_BLOCKS, MOST_NBYTES // block_nbytes), ROUND_NBYTES // block_nbytes)
        return replace(options, block_rows=block_rows, buffer_blocks=options.buffer_blocks or n_blocks)

    def to_xarray(self) -> xr.Dataset:
        """Return all windows as a lazy Dataset: ``<name>_input`` and ``<name>_target``, with dims ``window`` and so on.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", range(6))
        >>> gate["train"]["x"].windows(input=2, target=1).to_xarray().x_input.values.tolist()
        [[0, 1], [1, 2], [2, 3], [3, 4]]
        """
        import xarray as xr  # deferred on purpose: it takes half a second

        blocks = graphs.blocks_of(self.variables, self.limits)
        found = {}
        for name, variable in zip(self.names.names, self.variables, strict=True):
            rows = graphs.to_dask(variable, blocks, self.limits)
            for side, of in zip(("input", "target"), self.sides, strict=True):
                inner = tuple(f"{name}_{axis}" for axis in range(1, len(variable.row_shape)))
                found[f"{name}_{side}"] = (("window", f"{side}_step", *inner), rows[:, of])
        return xr.Dataset(found, {"start": ("window", self.starts)})

    def __repr__(self) -> str:
        names = ", ".join(self.names.names)
        given, wanted = (of.stop - of.start for of in self.sides)
        gap = self.sides[1].start - self.sides[0].stop
        windows = "1 window" if len(self) == 1 else f"{len(self):,} windows"
        words = f"{windows} of {names}: {given} rows, then {wanted}"
        return f"<Windows: {words}{f', {gap} apart' if gap else ''}, stride {self.plan.stride}>"


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Makes pairs of input and target from windows; can be pickled."""

    names: Names
    sides: tuple[slice, slice]
    is_one: bool = False

    def __call__(self, arrays: list[Array]) -> tuple[Any, Any]:
        cuts: list[list[Array]] = [[of[side] if self.is_one else of[:, side] for of in arrays] for side in self.sides]
        if self.names.form == "stack":  # the rows of several variables are windowed together
            axis = 1 if self.is_one else 2
            return np.stack(cuts[0], axis=axis), np.stack(cuts[1], axis=axis)
        form: Callable[[list[Array]], Any] = form_of(self.names)
        return form(cuts[0]), form(cuts[1])


def make_windows(
    variables: Sequence[Variable],
    names: Names,
    within: Sequence[Variable],
    sizes: tuple[object, object, object, object],
    *,
    version: int,
    budget: int | str | None,
    limits: Capacity,
) -> Windows[Any]:
    """Return the windows of variables; reads only those of ``within``.

    Parameters
    ----------
    variables : sequence of Variable
        The rows, of equal length.
    names : Names
        Their names, and the form of their data.
    within : sequence of Variable
        Their values must be the same in all rows of a window.
    sizes : tuple
        Rows of the input and the target, rows between them, and rows from one window to the next.
    version : int
        The version of the table.
    budget : int, str or None
        The memory limit of batches.
    limits : Capacity
        The memory and threads of lazy work.

    Raises
    ------
    ArgumentError
        A size is too small.
    ShapeError
        No window fits though there are rows enough.
    """
    for variable in variables:
        if variable.kind != "dense":
            raise ShapeError(
                f"variable {variable.name!r} has {variable.row_shape_in_words}, of which there are no windows; name "
                "others with var_names="
            )
    words = ("input", "target", "gap", "stride")
    n_input, n_target, gap, stride = (as_int(size, word) for size, word in zip(sizes, words, strict=True))
    for word, number, least in zip(words, (n_input, n_target, gap, stride), (1, 0, 0, 1), strict=True):
        if number < least:
            raise ArgumentError(f"{word} is {least} or more, found {number}")
    if names.form == "stack":
        require_stackable(variables)
    n_rows = len(variables[0])
    if any(len(variable) != n_rows for variable in (*variables, *within)):
        raise ShapeError("the variables of windows need equal numbers of rows")
    length = n_input + gap + n_target
    bounds = series_of(variables, within)
    plan = WindowPlan.of(bounds, length, stride)
    if not len(plan) and n_rows >= length:
        longest = int(np.diff(bounds).max(initial=0))
        shuffled = next((word for word in variables[0].order.words if "shuffled" in word), "")
        why = f"the rows are {shuffled}; sort them first, as in gate.sort('time')" if shuffled else "give smaller ones"
        raise ShapeError(f"no window of {length} rows fits: at most {longest} of {n_rows} rows are neighbours; {why}")
    sides = slice(0, n_input), slice(n_input + gap, length)
    windows = tuple(WindowArray(variable, plan).as_variable() for variable in variables)
    return Windows(windows, names, sides, plan, version, budget, limits)
