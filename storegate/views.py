"""Views: ``gate["train"]["x"]``, immutable, lazy until indexed; they have a session, and read through the engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar, Unpack, cast, overload

import numpy as np
import numpy.typing as npt
from numpy.lib.mixins import NDArrayOperatorsMixin

from storegate import display, edits
from storegate.batches import open_stream
from storegate.contents import first_names, has_variable, n_samples, require_known, whole
from storegate.explorable import Explorable
from storegate.foldable import Foldable
from storegate.parsing import (
    ALL,
    PHASES,
    BatchArgs,
    BatchOptions,
    Collate,
    Data,
    DropLast,
    First,
    Index,
    Names,
    PhaseName,
    ShuffleBatches,
    VarNames,
    are_names,
    as_indexer,
    named,
    parse_names,
)
from storegate.reading import Selected, Subset, read_dataset, require_stackable, subset
from storegate.session import Session
from storegate.windows import Windows, make_windows
from storegate_engine.budget import require
from storegate_engine.errors import (
    ArgumentError,
    PhaseNotFoundError,
    VariableNotFoundError,
)
from storegate_engine.streams import Stream
from storegate_engine.table import Table, Variable

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

__all__ = ["View"]

Array: TypeAlias = np.ndarray[Any, Any]
T = TypeVar("T")
"""What a view returns: an array, a list of arrays, or a dict of arrays for all variables of a phase."""
U = TypeVar("U")
"""What a transform returns."""


class LazyRows:
    """A property whose type depends on the type of the view, which `property` cannot express."""

    def __init__(self, read: Callable[[Any], da.Array | list[da.Array]]) -> None:
        self._read = read
        self.__doc__ = read.__doc__

    @overload
    def __get__(self, view: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self, view: View[Array], owner: type | None = None, /) -> da.Array: ...
    @overload
    def __get__(self, view: View[list[Array]], owner: type | None = None, /) -> list[da.Array]: ...
    def __get__(self, view: object, owner: type | None = None, /) -> object:
        return self if view is None else self._read(view)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class View(Explorable[T], Foldable, NDArrayOperatorsMixin, Generic[T]):
    """A phase, variables, or variables of a phase of a gate.

    Each ``[]`` with a name returns a new view; once phase and variables are chosen, ``[]`` with an index returns
    rows. A view is immutable and follows changes of the gate. Comparisons and arithmetic act on `data`, its rows as a
    dask array: ``x[x == 3]``.

    Examples
    --------
    >>> from storegate import StoreGate
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data({"x": np.arange(12.0).reshape(4, 3), "y": [0, 1, 1, 0]})
    >>> x = gate["train"]["x"]
    >>> x.shape, x.ndim, x.dtype, x.nbytes, x.dims, x.chunks
    ((4, 3), 2, dtype('float64'), 96, ('sample', 'x_1'), ((4,), (3,)))
    >>> x.data  # lazy
    dask.array<x, shape=(4, 3), dtype=float64, chunksize=(4, 3), chunktype=numpy.ndarray>
    >>> (x.data.mean(axis=1) > 3).compute()
    array([False,  True,  True,  True])
    >>> gate["train"].var_names, gate["train"][["x", "y"]].phase
    (('x', 'y'), 'train')
    """

    session: Session
    """The state shared with the gate."""
    phase: str | None = None
    """The chosen phase; None for all."""
    names: Names | None = None
    """The chosen variables."""
    chosen: Subset | None = None
    """The chosen rows; None for all."""

    @overload
    def __getitem__(self, item: PhaseName) -> View[T]: ...  # type: ignore[overload-overlap]
    @overload
    def __getitem__(self, item: str | tuple[str, ...]) -> View[Array]: ...
    @overload
    def __getitem__(self, item: list[str]) -> View[list[Array]]: ...
    @overload
    def __getitem__(self, item: Index) -> T: ...
    def __getitem__(self, item: object) -> object:
        """Return a narrower view for a name, rows for an index.

        Raises
        ------
        PhaseNotFoundError
            An index was given before a phase.
        VariableNotFoundError
            An index was given before variables.
        """
        if isinstance(item, str) and item in (*PHASES, ALL):
            return replace(self, phase=item)
        if are_names(item):
            self._require_known()
            return replace(self, names=parse_names(item))
        names, variables = self._variables(item) if self.names is not None else self._of_phase(item)
        return Selected.by_item(names, variables, item).read(self.session.budget_nbytes)

    __hash__ = object.__hash__

    @overload
    def __eq__(self: View[Array], other: object) -> da.Array: ...  # type: ignore[overload-overlap]
    @overload
    def __eq__(self, other: object) -> bool: ...
    def __eq__(self, other: object) -> object:
        """Compare the rows, lazily; a view that is not one array is equal only to itself."""
        return NDArrayOperatorsMixin.__eq__(self, other) if self._is_array else self is other

    @overload
    def __ne__(self: View[Array], other: object) -> da.Array: ...  # type: ignore[overload-overlap]
    @overload
    def __ne__(self, other: object) -> bool: ...
    def __ne__(self, other: object) -> object:
        """Compare the rows, lazily."""
        return NDArrayOperatorsMixin.__ne__(self, other) if self._is_array else self is not other

    @property
    def _is_array(self) -> bool:
        """Whether the view stands for the rows of one array."""
        return self.phase is not None and self.names is not None and self.names.form != "each"

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: object, **options: object) -> object:
        """Apply a numpy function to the rows, lazily."""
        if any(isinstance(given, View) and not given._is_array for given in inputs) or "out" in options:
            return NotImplemented
        lazy = [given.data if isinstance(given, View) else given for given in inputs]
        return getattr(ufunc, method)(*lazy, **options)

    def __setitem__(self, item: Index, data: Data) -> None:
        """Replace rows: ``gate[phase][var_names][index] = data``."""
        names, phase = self._chosen(item)
        self._require_whole("assigning")
        names, rows = named(names.given, data)
        with self.session.begin("update_data", var_names=names.names, phase=phase) as change:
            edits.assign(change, names, rows, phase, item)

    def __delitem__(self, item: VarNames) -> None:
        """Delete variables: ``del gate[phase][var_names]``."""
        if self.phase is None or not are_names(item):
            raise PhaseNotFoundError("deletion needs a phase and names: del gate['train']['x']")
        self._require_whole("deleting")
        with self.session.begin("delete_data", var_names=item, phase=self.phase) as change:
            edits.delete(change, parse_names(item), self.phase, do_compile=True)

    def _require_known(self) -> None:
        """Refuse unknown variable names, most often a misspelled phase."""
        require_known(self.session.table, self.names.names if self.names is not None else ())

    def _chosen(self, item: object) -> tuple[Names, str]:
        if self.names is None:
            raise VariableNotFoundError(f"the index {item!r} needs variables: gate[phase][var_names][index]")
        if self.phase is None:
            self._require_known()
            raise PhaseNotFoundError(f"the index {item!r} needs a phase: gate[phase][var_names][index]")
        return self.names, self.phase

    def _named(self, var_names: VarNames | None) -> Names | None:
        """Return the names of the view, or those that are given to a view without any."""
        if var_names is None:
            return self.names
        if self.names is not None:
            raise ArgumentError(f"var_names={var_names!r} was given, but the view has {list(self.names.names)} already")
        return parse_names(var_names)

    def _require_whole(self, what: str) -> None:
        if self.chosen is not None:
            raise ArgumentError(f"{what} applies to the whole phase, but this view is a subset of its rows")

    @property
    def var_names(self) -> tuple[str, ...]:
        """The names of the chosen variables, or of all variables of the phase."""
        return first_names(self.session.table, self.phase) if self.names is None else self.names.names

    def _variables(self, item: object = ...) -> tuple[Names, list[Variable]]:
        names, phase = self._chosen(item)
        return names, [self._variable(self.session.table, phase, name) for name in names.names]

    def _variable(self, table: Table, phase: str, name: str) -> Variable:
        """Return the chosen rows of a variable."""
        variable = whole(table, phase, name)
        return variable if self.chosen is None else self.chosen.of(variable)

    def subset(self, index: Index) -> Self:
        """Return a view of some rows of the phase, in the given order; nothing is read.

        Indexing, iteration, `data`, `to_xarray` and `batches` (with its `weights`) then use these rows. Once the number
        of rows of the phase changes, the subset is refused.

        Parameters
        ----------
        index : slice, sequence of int, or mask of shape (n_rows,)
            The rows, as in ``view[index]``.

        Returns
        -------
        View
            Cannot be assigned to.

        Raises
        ------
        RowIndexError
            A row is out of range.

        Examples
        --------
        >>> import numpy as np
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data(["x", "y"], [[0, 1, 2, 3, 4], [0, 1, 0, 1, 0]])
        >>> odd = gate["train"].subset(np.asarray(gate["train"]["y"]) == 1)
        >>> list(odd["x"].batches(2, shuffle=False))
        [array([1, 3])]
        """
        names = None if self.names is None else self.names.names
        chosen = subset(self.session.table, self.phase, names, self.chosen, index)
        return replace(self, chosen=chosen)

    def __len__(self) -> int:
        """Return the number of samples of the phase (needs ``compile()``), of named variables, or of the subset."""
        if self.chosen is not None:
            return len(self.chosen)
        if self.names is not None and self.phase not in (None, ALL):
            sizes = {len(variable) for variable in self._all_variables()[1]}
            if len(sizes) == 1:  # whatever others the phase has
                return sizes.pop()
        return n_samples(self.session.table, self.phase)

    def __bool__(self) -> bool:
        """Return True, even for an empty view."""
        return True

    def __contains__(self, item: object) -> bool:
        """Return whether the phase has a variable; for all phases, whether every phase with rows has it."""
        return has_variable(self.session.table, self.phase, item)

    def __iter__(self) -> Iterator[T]:
        """Iterate over rows, reading a few megabytes at a time; rows of a phase are dicts of all its variables."""
        rows = Selected.everything(*self._all_variables())
        return cast(Iterator[T], rows.one_by_one(self.session.budget_nbytes))

    def _all_variables(self) -> tuple[Names, list[Variable]]:
        """Return the chosen variables, or all variables of the chosen phase."""
        if self.names is not None or self.phase is None:
            return self._variables()
        return replace(self, names=Names(self.var_names, "dict"))._variables()

    def _of_phase(self, item: object) -> tuple[Names, list[Variable]]:
        """Return all variables of the chosen phase, for an index of its rows."""
        return self._all_variables() if self.phase is not None and self.var_names else self._variables(item)

    def _array(self, what: str) -> tuple[list[Variable], bool]:
        """Return the variables of an array, and whether they are stacked; raise AttributeError for any other view."""
        if not self._is_array:
            raise AttributeError(
                f"only a view of one array has {what}: gate[phase][name] or gate[phase][name, name]; this is a {self!r}"
            )
        names, variables = self._variables()
        if names.form == "stack":
            require_stackable(variables)
        return variables, names.form == "stack"

    def _ipython_key_completions_(self) -> list[str]:
        """Return the names that ``view[...]`` accepts, for completion in IPython and Jupyter."""
        phases = [at for at in PHASES if self.session.table[at]] if self.phase is None else []
        return [*phases, *(first_names(self.session.table, self.phase) if self.names is None else ())]

    def scaled(self: View[Array], values: npt.ArrayLike) -> Array:
        """Return values as ``standardize`` and the like would show them: the variable's own scale for others.

        Parameters
        ----------
        values : array-like, shape ``(n, *row_shape)``
            Values as they were before the variable was scaled.

        Raises
        ------
        ArgumentError
            The variable was not scaled.
        ShapeError
            The values have another shape.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0.0, 2.0, 4.0])
        >>> gate.normalize("x")
        >>> gate["train"]["x"].scaled([1.0, 8.0])
        array([0.25, 2.  ])
        """
        return edits.scaled(self._one_variable("a scale"), values)

    def inverse(self: View[Array], values: npt.ArrayLike) -> Array:
        """Return values, such as predictions, as they were before ``standardize`` and the like.

        Parameters
        ----------
        values : array-like, shape ``(n, *row_shape)``
            Values on the scale of the variable.

        Returns
        -------
        ndarray of float64
            Values that were clipped stay so.

        Raises
        ------
        ArgumentError
            The variable was not scaled, or holds numbers of bins or labels.
        ShapeError
            The values have another shape.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [10.0, 30.0])
        >>> gate.standardize("x")
        >>> gate["train"]["x"].inverse([0.0, 2.0])
        array([20., 40.])
        """
        return edits.inverse(self._one_variable("a scale"), values)

    def _one_variable(self, what: str) -> Variable:
        variables, is_stacked = self._array(what)
        if is_stacked:
            raise ArgumentError(f"each variable has {what} of its own: take one of {', '.join(self.var_names)}")
        return variables[0]

    @LazyRows
    def data(self) -> da.Array | list[da.Array]:
        """Return the rows as a dask array, or a list of dask arrays for a list of names; nothing is read."""
        return Selected.everything(*self._variables()).lazy(self.session.capacity)

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Array:
        """Return the rows as one ndarray, ``np.asarray(view)``: lists as objects, sparse rows with their zeros."""
        if copy is False:
            raise ArgumentError("the rows of a view are always read into a new array; use copy=None")
        if self.names is None:
            raise VariableNotFoundError(
                "several variables are no array: name one, as in gate[phase][var_name], or take a table, with "
                "to_pandas(), to_arrow() or to_polars()"
            )
        names, variables = self._variables()
        if names.form == "one" and variables[0].kind == "sparse":
            return self._with_zeros(variables[0], dtype)
        values = (replace(self, names=replace(names, form="stack")) if names.form == "each" else self)[:]
        return np.asarray(values, dtype=dtype)

    def _with_zeros(self, variable: Variable, dtype: npt.DTypeLike | None) -> Array:
        require(
            len(variable) * variable.dense_row_nbytes,
            self.session.budget_nbytes,
            what=f"an array of the {len(variable)} rows of variable {variable.name!r} with their zeros",
            remedy="take some rows, view[a:b], which stay sparse, or view.data, which is lazy; or raise "
            "storegate.memory-limit",
        )
        dense: Array = np.asarray(variable.read(0, len(variable)), dtype)
        return dense

    @overload
    def batches(
        self, batch_size: int, *, var_names: None = None, transform: None = None, **options: Unpack[BatchArgs]
    ) -> Stream[T]: ...
    @overload
    def batches(
        self,
        batch_size: int,
        *,
        var_names: None = None,
        transform: Callable[[T, np.random.Generator], U],
        **options: Unpack[BatchArgs],
    ) -> Stream[U]: ...
    @overload
    def batches(
        self,
        batch_size: int,
        *,
        var_names: str | tuple[str, ...],
        transform: None = None,
        **options: Unpack[BatchArgs],
    ) -> Stream[Array]: ...
    @overload
    def batches(
        self, batch_size: int, *, var_names: list[str], transform: None = None, **options: Unpack[BatchArgs]
    ) -> Stream[list[Array]]: ...
    @overload
    def batches(
        self,
        batch_size: int,
        *,
        var_names: str | tuple[str, ...],
        transform: Callable[[Array, np.random.Generator], U],
        **options: Unpack[BatchArgs],
    ) -> Stream[U]: ...
    @overload
    def batches(
        self,
        batch_size: int,
        *,
        var_names: list[str],
        transform: Callable[[list[Array], np.random.Generator], U],
        **options: Unpack[BatchArgs],
    ) -> Stream[U]: ...
    def batches(
        self,
        batch_size: int,
        *,
        var_names: VarNames | None = None,
        shuffle: ShuffleBatches = True,
        seed: int = 0,
        epoch: int = 0,
        epochs: int | None = None,
        drop_last: DropLast = False,
        rank: int = 0,
        world: int = 1,
        prefetch: int = 2,
        budget: int | str | None = None,
        block_rows: int | None = None,
        buffer_blocks: int | None = None,
        label: str | None = None,
        weights: npt.ArrayLike | None = None,
        balance: str | None = None,
        bucket_by: str | None = None,
        collate: Collate | None = None,
        first: First | None = None,
        transform: Callable[..., object] | None = None,
    ) -> Stream[Any]:
        """Return batches of rows for a training loop: reproducible, resumable, divided among ranks.

        Iterate over the result once per epoch. It reads the version of the data at the time of this call.

        Parameters
        ----------
        batch_size : int
            Rows of one step, over all ranks.
        var_names : str, tuple or list of str, optional
            The variables, if the view has none yet; without any, a batch is a dict of all variables.
        shuffle : {True, "blocks", False}
            True: a uniform permutation in every epoch. ``"blocks"``: blocks of rows in random order, mixed within a
            buffer; the first batch comes at once and nothing is spilled, but batches are slightly less random, see
            :attr:`Stream.quality`. False: the order of the phase.
        seed, epoch : int
            The seed of the order, and the first epoch.
        epochs : int, optional
            How many epochs you will read in all, those before ``epoch`` and before a resumed state included. Nothing
            is then prepared for an epoch that never comes: a uniform order that is spilled reads the phase once less.
            A loop after the last epoch raises IterationError. The order does not depend on it.
        drop_last : {False, True, "pad"}
            Whether a last step that is not full is shorter (some ranks may get an empty batch), dropped, or filled
            with the first rows of the epoch. Every rank gets the same number of batches in any case.
        rank, world : int
            The part of every step to return, and the number of parts. The ranks on one machine share the spill of a
            uniform order, so that stored rows are read once for all of them: as many as torchrun, Slurm, Open MPI,
            MPICH or ``LOCAL_WORLD_SIZE`` say, or else all.
        prefetch : int
            Number of buffers to read ahead; in order from an object store twice as many, if they fit.
        budget : int or str, optional
            Memory limit of this rank, shared by the workers of a DataLoader; default: the gate's. If none is
            configured, the ranks on this machine share 60 % of its memory.
        block_rows, buffer_blocks : int, optional
            Rows of a block, and blocks of a buffer; part of the order's definition. They are derived from the data
            (bytes of a row, rows of a chunk, number of rows), never from the machine.
        label : str, optional
            The variable that the quality of a block order is judged by; without it, all rows of a block are assumed
            to be alike.
        weights : str or array of shape (n_rows,), optional
            Draw as many rows as the phase has, with replacement, with these weights.
        balance : str, optional
            A variable of labels (or one-hot rows); its classes are drawn equally often.
        bucket_by : str, optional
            ``"length"``, or the name of a variable of lists: rows of about the same length share a batch, so that
            padding adds little. Each row still comes once in an epoch; the rows of 64 batches in the order of the
            epoch are sorted by length, and these batches come in random order. Not for ``shuffle="blocks"``.
        collate : callable or mapping of str to callable, optional
            Makes an array of rows of various lengths, such as ``storegate.pad(0, multiple_of=8)``; a mapping has one
            for each variable. Without it they come as ``storegate.Ragged``. Rows of a sparse matrix come as a
            ``scipy.sparse.csr_array``.
        first : {"stored"}, optional
            Give epoch 0 in the order in which rows are stored, where a shuffle and ``compact()`` made that order: it
            is read once, in order, and nothing is spilled for it. The order is uniform, and the same for every seed.
        transform : callable, optional
            ``transform(batch, rng)`` returns what the stream gives instead of the batch. It runs in the reading
            threads, some batches ahead and in order. ``rng`` is a ``numpy.random.Generator`` that depends only on
            the seed, the epoch, the step and the rank, so a resumed epoch is transformed in the same way.

        Returns
        -------
        Stream
            Of ndarrays for a string, stacked ones for a tuple, lists of them for a list; safe to modify.

        Raises
        ------
        MemoryBudgetError
            The buffers do not fit in the memory limit.
        ShapeError
            The variables have different numbers of rows.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4])
        >>> list(gate["train"]["x"].batches(2, seed=1))
        [array([0, 2]), array([4, 1]), array([3])]
        """
        names = self._named(var_names)
        options = BatchOptions(
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            epoch=epoch,
            epochs=epochs,
            drop_last=drop_last,
            rank=rank,
            world=world,
            prefetch=prefetch,
            budget=budget,
            block_rows=block_rows,
            buffer_blocks=buffer_blocks,
            label=label,
            weights=weights,
            balance=balance,
            bucket_by=bucket_by,
            collate=collate,
            first=first,
            transform=transform,
        )
        repository = self.session.repository()
        version, table = repository.version, repository.table
        stream = open_stream(
            options,
            partial(self._variable, table, self.phase or ALL),
            names if names is not None else Names(first_names(table, self.phase), "dict"),
            version=version,
            budget=self.session.options.budget,
        )
        stream.warn_of_quality()
        return stream

    @overload
    def windows(
        self,
        input: int,
        target: int = 1,
        *,
        gap: int = 0,
        stride: int = 1,
        var_names: None = None,
        within: VarNames | None = None,
    ) -> Windows[T]: ...
    @overload
    def windows(
        self,
        input: int,
        target: int = 1,
        *,
        gap: int = 0,
        stride: int = 1,
        var_names: str | tuple[str, ...],
        within: VarNames | None = None,
    ) -> Windows[Array]: ...
    @overload
    def windows(
        self,
        input: int,
        target: int = 1,
        *,
        gap: int = 0,
        stride: int = 1,
        var_names: list[str],
        within: VarNames | None = None,
    ) -> Windows[list[Array]]: ...
    def windows(
        self,
        input: int,
        target: int = 1,
        *,
        gap: int = 0,
        stride: int = 1,
        var_names: VarNames | None = None,
        within: VarNames | None = None,
    ) -> Windows[Any]:
        """Return pairs of adjacent rows: what a model sees, and what it is to say; nothing is copied or stored.

        Parameters
        ----------
        input : int
            Rows that a model sees.
        target : int
            Rows that come after them; 0 for windows of input alone.
        gap : int
            Rows between both.
        stride : int
            Rows from one window to the next.
        var_names : str, tuple or list of str, optional
            The variables, if the view has none yet; without any, each side is a dict of all variables.
        within : str or list of str, optional
            No window goes over a change of these variables: a run, a station, a patient.

        Returns
        -------
        Windows
            Its ``len``, ``[i]``, ``batches`` and ``to_xarray``. No window goes over the end of a phase or of an
            attached file, or over a place where rows were left out or moved, until :meth:`StoreGate.compact` makes
            those on both sides neighbours.

        Raises
        ------
        ShapeError
            No window fits though there are rows enough, as in a shuffled phase.
        ArgumentError
            A number is too small.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [10, 11, 12, 13, 20, 21, 22], "run": [1, 1, 1, 1, 2, 2, 2]})
        >>> windows = gate["train"]["x"].windows(input=2, target=1, within="run")
        >>> len(windows), windows[0], windows[-1]
        (3, (array([10, 11]), array([12])), (array([20, 21]), array([22])))
        """
        names = self._named(var_names)
        if self.phase in (None, ALL):
            raise PhaseNotFoundError(
                "windows need one phase, whose end none of them crosses: gate['train'].windows(...)"
            )
        repository = self.session.repository()
        version, table, phase = repository.version, repository.table, str(self.phase)
        chosen = names if names is not None else Names(first_names(table, phase), "dict")
        others = () if within is None else parse_names(within).names
        return make_windows(
            [self._variable(table, phase, name) for name in chosen.names],
            chosen,
            [self._variable(table, phase, name) for name in others],
            (input, target, gap, stride),
            version=version,
            budget=self.session.options.budget,
            limits=self.session.capacity,
        )

    def to_xarray(self) -> xr.Dataset:
        """Return the view as a lazy ``xr.Dataset``, with dims ``sample``, ``<variable>_1`` and so on.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[0.0, 1.0], [2.0, 3.0]])
        >>> gate["train"].to_xarray().sizes
        Frozen({'sample': 2, 'x_1': 2})
        """
        import storegate.accessor  # noqa: F401 - it registers ds.storegate; deferred, since it needs xarray

        session = self.session
        repository, sample_dim = session.repository(), session.table.sample_dim
        dataset = read_dataset(repository, session.source, session.data_id, self.phase or ALL, session.capacity)
        for selection in self.chosen.selections if self.chosen is not None else ():
            dataset = dataset.isel({sample_dim: as_indexer(selection)})
        return dataset if self.names is None else dataset[list(self.names.names)]

    def explain(self) -> str:
        """Return how a full pass and a read of 256 rows would read each variable; see `storegate.explain`.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[0.0, 1.0]] * 8)
        >>> print(gate["train"]["x"].explain())
        x  full pass  read: 1 tasks, reads 128 B, projected memory 24.0 MiB
        x  256 rows   read: 1 tasks, reads 128 B, projected memory 24.0 MiB
        """
        return display.explain(self)

    def __repr__(self) -> str:
        """Show sizes and variables, no wider than the terminal; reads no data."""
        return display.summary(self._outline())

    def _repr_html_(self) -> str:
        return display.outline_html(self._outline(), repr(self))

    def _outline(self) -> display.Outline:
        session, names = self.session, None if self.names is None else self.names.names
        where = f"view of {'' if self.chosen is None else 'chosen rows of '}{session.place}"
        n_chosen = None if self.chosen is None else len(self.chosen)
        return display.outline(where, session.current, session.data_id, self.phase, names, n_chosen=n_chosen)
