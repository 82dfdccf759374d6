"""Gate: class StoreGate, the documented interface; thin over the engine, never touches bytes."""

from __future__ import annotations

import contextlib
import copy
import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from storegate import versions
from storegate.display import text
from storegate.edits import tables, writes
from storegate.edits.transfers import move
from storegate.parsing.inputs import (
    Names,
    parse_dtype,
    parse_names,
    parse_seed,
    parse_shape,
    parse_shuffle_seed,
)
from storegate.parsing.options import Options, parse_backend
from storegate.parsing.phases import ALL, PHASES, Split, parse_phase, parse_reading_phase, require_compiled
from storegate.parsing.selection import RowRange, is_everything, parse_item, parse_method_index
from storegate.reading import read, read_lazy, whole
from storegate.versions import DAY, Commit, Records, Verification
from storegate.views import View
from storegate_engine.arrays import Capacity, capacity
from storegate_engine.errors import (
    ArgumentError,
    DataIdError,
    DataIdNotFoundError,
    ReadOnlyError,
    ShapeError,
    VersionNotFoundError,
    near_match,
)
from storegate_engine.graphs import to_dataset
from storegate_engine.locations import parse_location
from storegate_engine.names import validate_name
from storegate_engine.orders import as_int
from storegate_engine.settings import fingerprints_at_commit
from storegate_engine.store import (
    MemoryRepository,
    Repository,
    Root,
    Transaction,
    Vacuumed,
    fingerprint,
    fingerprint_all,
    known_fingerprints,
    repair,
    rewrite,
)
from storegate_engine.table import ArgMax, Cast, Difference, OneHot, Table, Transform, rows_of
from storegate_engine.temporaries import Temporary

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["StoreGate"]

Array: TypeAlias = np.ndarray[Any, Any]

MODES = ("numpy", "zarr")


class StoreGate:
    """Sample tables for machine learning: arrays by ``data_id``, phase and variable name.

    Each phase (train, valid, test) is a table of variables with samples along the first axis. Selection,
    shuffling, casts and encodings are lazy: they change how rows are read, never what is stored.

    Parameters
    ----------
    backend : {"numpy", "zarr", "hybrid"}
        ``numpy`` keeps rows in memory, ``zarr`` in storage; ``hybrid`` has both, see :meth:`set_mode`.
    backend_args : dict, optional
        ``output_dir`` (path or URL; a temporary directory when None), ``mode`` (``"a"`` opens or creates,
        ``"r"`` only reads, ``"r+"`` opens what must be there, ``"w-"`` or ``"x"`` makes what must not, ``"w"`` starts
        empty), ``chunk`` (rows of a chunk; by bytes when None),
        ``compressor`` (``"lz4"``, ``"zstd"``, ``"none"`` or a zarr codec), ``storage_options`` (for URLs),
        ``budget`` (memory limit of long operations, such as ``"512MiB"``), ``copy`` (``False``: the numpy
        backend keeps the arrays it is given instead of copies), ``durability`` (``"process"``, or ``"power"``: a
        change is on the disk when its call returns).
    data_id : str, optional
        The default data_id.
    version : int, optional
        Show this version of each data_id as it was, read-only; see :meth:`history`.

    Raises
    ------
    BackendNotFoundError
        An unknown backend (a ValueError and NotImplementedError).
    TypeError
        An unknown key of ``backend_args``.
    VersionNotFoundError, SnapshotExpired
        There was no such version, or it was vacuumed.

    Examples
    --------
    >>> gate = StoreGate(backend="numpy", data_id="example")
    >>> gate.add_data("x", [[0, 1], [2, 3], [4, 5], [6, 7]], phase=(0.5, 0.25, 0.25))
    >>> gate.get_data("x", phase="train")
    array([[0, 1],
           [2, 3]])
    >>> gate["test"]["x"][0]
    array([6, 7])
    """

    def __init__(
        self,
        backend: str = "numpy",
        backend_args: Mapping[str, Any] | None = None,
        data_id: str | None = None,
        *,
        version: int | None = None,
    ) -> None:
        self._backend = parse_backend(backend)
        self._options = Options.parse(backend_args)
        self._version = None if version is None else as_int(version, "version")
        if version is not None and (backend == "numpy" or self._options.mode == "w"):
            raise VersionNotFoundError(
                f"version {version}: only what lies in storage has versions, and mode='w' would remove them"
            )
        self._mode = "numpy" if backend == "numpy" else "zarr"
        self._root: Root | None = None
        self._data_id: str | None = None
        self._memory: dict[str, MemoryRepository] = {}
        self._stored: dict[str, Repository] = {}
        self._temporary: Temporary | None = None
        if data_id is not None:
            validate_name(data_id, "data_id")
        if backend != "numpy":
            self._root = self._open_root()
        if data_id is not None:
            self.set_data_id(data_id)

    def _open_root(self) -> Root:
        options = self._options
        directory = options.output_dir
        if directory is None:
            self._temporary = Temporary()
            directory = self._temporary.path
        root = Root(
            parse_location(directory, dict(options.storage_options or {})),
            options.budget_nbytes,
            writable=options.mode != "r",
            compressor=options.compressor,
            chunk_rows=options.chunk,
            durable=options.durability == "power",
        )
        root.open(options.mode if self._version is None else "r")
        return root

    # Life: closing, copying, sending to other processes

    def close(self) -> None:
        """Forget all data in memory, and remove a temporary directory; the gate cannot be used any more."""
        self._memory.clear()
        self._stored.clear()
        self._data_id = None
        if self._temporary is not None:
            self._temporary.remove()

    def __enter__(self) -> Self:
        """Return the gate itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the gate."""
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """Travel by location and version on disk, by value in memory; who made a temporary directory keeps it."""
        return {**self.__dict__, "_temporary": None}

    def __deepcopy__(self, memo: dict[int, Any]) -> StoreGate:
        """Return an independent gate on the same data; a temporary directory lives as long as its maker."""
        other = type(self).__new__(type(self))
        memo[id(self)] = other
        other.__dict__.update(copy.deepcopy(self.__getstate__(), memo))
        return other

    # Where the data are

    @property
    def data_id(self) -> str | None:
        """The current data_id, None before one is set."""
        return self._data_id

    @property
    def backend(self) -> str:
        """``numpy``, ``zarr`` or ``hybrid``."""
        return self._backend

    @property
    def budget(self) -> int | str | None:
        """The memory limit as ``backend_args`` gave it, None where they did not."""
        return self._options.budget

    @property
    def budget_nbytes(self) -> int:
        """The memory limit of long operations, in bytes."""
        return self._options.budget_nbytes

    @property
    def capacity(self) -> Capacity:
        """The memory and threads that lazy work is planned with; a worker's, where a dask client is active."""
        return capacity(self.budget_nbytes)

    def set_data_id(self, data_id: str) -> None:
        """Set the default data_id; data that it has already are kept.

        Raises
        ------
        InvalidNameError
            The name cannot be stored; the former data_id stays.
        DataIdNotFoundError
            The store can only be read, and has no such data_id; those that it has are listed (a KeyError).
        """
        validate_name(data_id, "data_id")
        if self._root is not None:
            self._require_known(data_id)
            self._stored[data_id] = self._root.repository(data_id, self._version)
        if self._backend != "zarr" and data_id not in self._memory:
            self._memory[data_id] = MemoryRepository(budget_nbytes=self.budget_nbytes, copy=self._options.copy)
        self._data_id = data_id

    def _require_known(self, data_id: str) -> None:
        """Refuse a data_id that cannot be made and is not there: a misspelling would read as an empty table."""
        assert self._root is not None
        if self._root.writable and self._version is None:
            return
        known = self._root.data_ids()
        if known and data_id not in known:  # in a store without any, a reader may wait for the first commit
            raise DataIdNotFoundError(
                f"no data_id {data_id!r} in {self._root.location}{near_match(data_id, known)} "
                f"(data_ids: {', '.join(known)})"
            )

    def get_data_ids(self) -> list[str]:
        """Return the data_ids that exist, in the store too."""
        known = {name for name, repository in self._memory.items() if self._mode == "numpy" or repository.version}
        if self._root is not None:
            known |= set(self._root.data_ids()) | set(self._stored)
        return sorted(known)

    def repository(self, mode: str | None = None) -> Repository:
        """Return the engine's repository of the current data_id, in the current mode or another one."""
        if self._data_id is None:
            raise DataIdError("please set default data_id")
        return (self._memory if (mode or self._mode) == "numpy" else self._stored)[self._data_id]

    @property
    def table(self) -> Table:
        """The newest committed table of the current data_id and mode; immutable."""
        return self.repository().table

    @contextlib.contextmanager
    def _begin(self, operation: str, **arguments: Any) -> Iterator[Transaction]:
        repository = self.repository()
        with repository.begin(operation, **arguments) as change:
            yield change
        self._committed(repository)

    def _committed(self, repository: Repository) -> None:
        if fingerprints_at_commit():
            fingerprint_all(repository, self.capacity)

    # [] syntax

    def __getitem__(self, item: Any) -> View:
        """Return a view of a phase, or of variables.

        Parameters
        ----------
        item : str, tuple or list of str
            ``train``, ``valid``, ``test`` or ``all`` pick the phase, other names the variables.
        """
        return View(self)[item]  # type: ignore[no-any-return]

    def __setitem__(self, item: Any, data: Any) -> None:
        """Refuse: phase, variables and an index are needed."""
        View(self)[item] = data

    def __delitem__(self, item: Any) -> None:
        """Refuse: a phase is needed."""
        del View(self)[item]

    def __len__(self) -> int:
        """Return the number of samples of all phases."""
        return len(View(self))

    def __bool__(self) -> bool:
        """Return True: an empty gate is a gate."""
        return True

    def __contains__(self, item: object) -> bool:
        """Return whether a variable is in every phase that has rows."""
        return item in View(self)

    # Adding and changing

    def add_data(
        self,
        var_names: str | list[str] | tuple[str, ...],
        data: Any,
        phase: Any = "train",
        shuffle: bool | int = False,
        do_compile: bool = False,
    ) -> None:
        """Add rows, behind those that a variable has already.

        Parameters
        ----------
        var_names : str, tuple of str or list of str
            One variable; several, with data stacked on axis 1; or several with an array each.
        data : array-like, lazy array or iterator of ndarrays
            Shape ``(N, *k)`` for a string, ``(N, M, *k)`` for a tuple, a list of ``(N, *k)`` for a list. Dask,
            zarr and h5py arrays, memmaps, xarray variables and iterators are streamed, never loaded whole. An iterator
            gives blocks of rows; for single samples pass ``storegate.samples(iterator)``.
        phase : str or tuple of three numbers
            ``train``, ``valid``, ``test``; ``all`` (split by the compiled sizes); or a split, as fractions
            that sum to 1 or as counts that sum to N.
        shuffle : bool or int
            Shuffle the incoming rows before they are split: True is seed 1, an int is the seed, as
            ``x[np.random.RandomState(seed).permutation(N)]``. Nothing is moved: the order is kept.
        do_compile : bool
            Compile afterwards.

        Raises
        ------
        ShapeError
            Rows that do not fit each other, the split or the variable (a ValueError).
        DtypeError
            Scalars, objects and other data that cannot be stored (a TypeError).
        PhaseNotFoundError
            An unknown phase (a ValueError and KeyError).
        ReadOnlyError
            The store was opened with ``mode="r"``.
        """
        names = parse_names(var_names, validate=True)
        target = parse_phase(phase)
        seed = parse_seed(shuffle)
        with self._begin("add_data", var_names=_plain(var_names), phase=_plain(phase), shuffle=seed) as change:
            writes.add(change, names, data, target, seed, do_compile=bool(do_compile))
        if do_compile:
            text.warn_of_misaligned(self.table, stacklevel=3)

    def update_data(
        self,
        var_names: str | list[str] | tuple[str, ...],
        data: Any,
        phase: Any = "train",
        index: Any = -1,
        do_compile: bool = True,
    ) -> None:
        """Replace rows; a variable that does not exist is added.

        Parameters
        ----------
        var_names, data, phase
            As for :meth:`add_data`.
        index : int, tuple, slice, list or array
            -1: all rows, whose number must match; an int: one row, with data of shape ``k`` or ``(1, *k)``;
            ``(a, b)``: rows a .. b-1; a slice, list, array or mask: those rows. With phase ``all`` it runs
            over the concatenated phases.
        do_compile : bool
            Compile afterwards.

        Raises
        ------
        ShapeError
            Another number of rows or another sample shape; nothing is stored.
        IndexError
            Rows that are not there.
        """
        names = parse_names(var_names, validate=True)
        target = parse_phase(phase)
        everything = index is None or (isinstance(index, (int, np.integer)) and index == -1)
        with self._begin("update_data", var_names=_plain(var_names), phase=_plain(phase)) as change:
            if everything:
                writes.replace_all(change, names, data, target, do_compile=bool(do_compile))
            elif isinstance(target, Split):
                raise ShapeError("a split replaces whole variables; give index=-1, or one phase or all")
            else:
                first = whole(change.table, target, names.names[0])
                writes.update_rows(change, names, data, target, parse_method_index(index, len(first)))
                self._finish(change, do_compile=do_compile)
        if do_compile:
            text.warn_of_misaligned(self.table, stacklevel=3)

    def update_selection(self, names: Names, data: Any, phase: str, item: Any) -> None:
        """Replace the rows that ``view[item] = data`` means."""
        with self._begin("update_data", var_names=_plain(names.names), phase=phase) as change:
            if is_everything(item):  # as update_data: a variable that is not there is added
                writes.replace_all(change, names, data, phase, do_compile=True)
                return
            rows = len(whole(change.table, phase, names.names[0]))
            selection = parse_item(item, rows)
            if selection == RowRange(0, rows):
                writes.replace_all(change, names, data, phase, do_compile=True)
            else:
                writes.update_rows(change, names, data, phase, selection)
                self._finish(change, do_compile=True)

    def delete_data(self, var_names: Any, phase: Any = "train", do_compile: bool = True) -> None:
        """Delete variables; missing ones are passed over in silence.

        Their rows stay in storage for readers of earlier versions, until they are vacuumed.
        """
        names = parse_names(var_names).names
        phases = tables.touched_phases(parse_phase(phase))
        with self._begin("delete_data", var_names=_plain(var_names), phase=_plain(phase)) as change:
            for at in phases:
                change.edit(tables.dropped(at, names))
            self._finish(change, do_compile=do_compile)

    def clear_data(self) -> None:
        """Delete all variables of the current data_id and mode."""
        with self._begin("clear_data") as change:
            change.edit(lambda table: Table())

    def create_empty(self, var_names: Any, shape: tuple[int, ...], phase: Any = "train", dtype: Any = "f4") -> None:
        """Create variables of zeros, of shape ``(N, *k)``, without writing N rows.

        Raises
        ------
        ShapeError
            A negative size, or more bytes than can be stored.
        DtypeError
            A dtype that cannot be stored, or a size that is no integer.
        VariableExistsError
            A variable is there already (a ValueError).
        """
        names = parse_names(var_names, validate=True).names
        target = parse_phase(phase)
        array = tables.zeros(names, parse_shape(shape), parse_dtype(dtype))
        sizes = [array.n_rows, *array.row_shape]
        with self._begin("create_empty", var_names=_plain(var_names), shape=sizes, phase=_plain(phase)) as change:
            change.edit(tables.created(target, dict.fromkeys(names, array)))

    def _finish(self, change: Transaction, *, do_compile: bool) -> None:
        if do_compile:
            change.edit(Table.with_compiled)

    # Reading

    def get_data(self, var_names: Any, phase: str | None = "train", index: Any = -1, *, compute: bool = True) -> Any:
        """Return rows as ndarrays that are the caller's own.

        Parameters
        ----------
        var_names : str, tuple of str or list of str
            A string gives an array, a tuple one stacked array, a list a list of arrays.
        phase : str or None
            A phase; ``all`` or None for all of them concatenated, after :meth:`compile`.
        index : int, tuple, slice, list or array
            -1: all rows; an int: one row; ``(a, b)``: rows a .. b-1; a slice, list, array, tensor or mask.
        compute : bool
            False gives dask arrays instead, and reads nothing.

        Returns
        -------
        ndarray, numpy scalar, or list of them
            For one row ``k``, or ``(M, *k)`` for a tuple; ``(N, *k)`` or ``(N, M, *k)`` otherwise.

        Raises
        ------
        VariableNotFoundError
            An unknown variable (a KeyError and ValueError), with near matches.
        IndexError
            Rows that are not there.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data(["x", "y"], [[1, 2, 3], [4.0, 5.0, 6.0]])
        >>> gate.get_data(("x", "y"), index=1)
        array([2., 5.])
        """
        names = parse_names(var_names)
        table = self.table
        at = parse_reading_phase(phase)
        variables = [whole(table, at, name) for name in names.names]
        selections = [parse_method_index(index, len(variable)) for variable in variables]
        if not compute:
            return read_lazy(names, variables, selections, self.capacity)
        return read(names, variables, selections, self.budget_nbytes)

    def get_var_names(self, phase: str = "train") -> list[str]:
        """Return the variables of a phase, in the order in which they were added.

        For ``all``: those that every phase with rows has.
        """
        at = parse_reading_phase(phase)
        table = self.table
        if at != ALL:
            return list(table[at])
        filled = [table[name] for name in PHASES if table[name]]
        return [name for name in (filled[0] if filled else ()) if all(name in variables for variables in filled)]

    def get_var_shapes(self, var_names: Any, phase: str = "train") -> Any:
        """Return the shape of one row, None for an unknown variable; a list for a list of names."""
        names = parse_names(var_names)
        at = parse_reading_phase(phase)
        table = self.table
        phases = PHASES if at == ALL else (at,)
        shapes = [next((table[p][name].row_shape for p in phases if name in table[p]), None) for name in names.names]
        return shapes[0] if names.form == "one" else shapes

    def get_metadata(self) -> dict[str, Any]:
        """Return a copy of the compiled metadata.

        Returns
        -------
        dict
            ``compiled``; ``total_events`` (rows of train, valid, test); ``sizes`` (rows of each phase and of
            ``all``); ``valid_phases`` (phases with rows).

        Raises
        ------
        NotCompiledError
            The data_id is not compiled.
        """
        table = self.table
        require_compiled(table.compiled, "metadata")
        sizes = table.sizes()
        return {
            "compiled": True,
            "total_events": list(sizes.values()),
            "sizes": {**sizes, ALL: sum(sizes.values())},
            "valid_phases": [phase for phase, rows in sizes.items() if rows],
        }

    def to_xarray(self, phase: str = "train") -> xr.Dataset:
        """Return a phase as a lazy ``xr.Dataset``; it keeps its version whatever is changed later."""
        repository = self.repository()
        table, at = repository.table, parse_reading_phase(phase)
        names = list(table[at]) if at != ALL else self.get_var_names(at)
        variables = {name: whole(table, at, name) for name in names}
        if at != ALL:
            table.rows(at)
        attrs = {"data_id": self._data_id, "phase": at, "version": repository.version}
        if known := known_fingerprints(repository, variables):
            attrs["fingerprints"] = json.dumps(known)  # text: every format that a Dataset is saved in can hold it
        return to_dataset(variables, attrs, self.capacity)

    def to_datatree(self) -> xr.DataTree:
        """Return all phases with rows as a lazy ``xr.DataTree``, a child for each."""
        import xarray as xr  # as in to_xarray: only explorers need it

        table = self.table
        tree = xr.DataTree.from_dict({phase: self.to_xarray(phase) for phase in PHASES if table[phase]})
        tree.attrs = {"data_id": self._data_id, "version": self.repository().version}
        return tree

    # Order and transforms: lazy

    def astype(self, var_names: Any, dtype: Any, phase: str = "train") -> None:
        """Cast variables when they are read, as ``np.ndarray.astype`` does; nothing is rewritten."""
        self._transform("astype", var_names, Cast(parse_dtype(dtype)), phase)

    def onehot(self, var_names: Any, num_classes: int, phase: str = "train") -> None:
        """Encode integer labels as float64 rows of ``np.identity(num_classes)`` when they are read.

        A label outside of ``[0, num_classes)`` is a :class:`LabelError` (a ValueError) when it is read.
        """
        self._transform("onehot", var_names, OneHot(num_classes), phase)

    def argmax(self, var_names: Any, axis: int, phase: str = "train") -> None:
        """Replace variables by the int64 index of their largest value along ``axis``, when they are read.

        ``axis`` counts the sample axis as 0, which cannot be reduced.
        """
        self._transform("argmax", var_names, ArgMax(axis), phase)

    def _transform(self, operation: str, var_names: Any, transform: Transform, phase: Any) -> None:
        names = parse_names(var_names).names
        at = parse_reading_phase(phase)
        with self._begin(operation, var_names=_plain(var_names), phase=at, transform=transform.to_json()) as change:
            for one in tables.phases_of(change.table, at, names, operation):
                for name in names:
                    tables.storable(change.table[one][name].transformed(transform).dtype, [name])
                edit = tables.mapped(one, names, lambda old: old.transformed(transform))
                change.edit(edit, reads=[(one, name) for name in names])

    def shuffle(self, phase: str = "all", seed: int = 0) -> None:
        """Shuffle phases: the same permutation for every variable, as ``RandomState(seed).permutation(N)``.

        Nothing is moved: the order is kept and rows are found through it. Repeats compose.
        """
        at = parse_reading_phase(phase)
        number = parse_shuffle_seed(seed)
        with self._begin("shuffle", phase=at, seed=number) as change:
            for one in PHASES if at == ALL else (at,):
                change.table.rows(one)
                names = list(change.table[one])
                edit = tables.mapped(one, names, lambda old: old.permuted(number))
                targets = [(one, name) for name in names]
                change.edit(edit, reads=targets, touches=targets)

    def compact(self, phase: str = "all", var_names: Any = None) -> None:
        """Write rows out once in logical order; orders and transforms are applied for good.

        What fits the memory is gathered, more is exchanged in two passes over spill files, always within the
        budget. On a dask cluster the workers do it. A compaction that was killed goes on where its spill ends.

        Parameters
        ----------
        phase : str
            A phase, or ``all``.
        var_names : str or list of str, optional
            All variables when None.
        """
        at = parse_reading_phase(phase)
        wanted = None if var_names is None else parse_names(var_names).names
        with self._begin("compact", phase=at, var_names=_plain(wanted)) as change:
            table = change.table
            phases = list(PHASES) if at == ALL else [at]
            if wanted is not None:
                phases = tables.phases_of(table, at, wanted, "compact")
            for one in phases:
                names = list(wanted or table[one])
                if names:
                    arrays = rewrite(change, {name: table[one][name] for name in names}, self.capacity)
                    compiled = table.compiled
                    new = [
                        replace(rows_of(name, array), history=table[one][name].history)
                        for name, array in arrays.items()
                    ]
                    change.edit(tables.put(one, new, compiled=compiled), reads=[(one, name) for name in names])

    # Versions

    def history(self) -> Records[Commit]:
        """Return the kept versions of the data_id, the oldest first; prints as a table.

        Each says when it was committed, by which operation with which arguments, and the rows and bytes added.
        """
        return versions.history(self.repository())

    def rollback(self, version: int) -> None:
        """Make the table what it was at a version; that is a new version, and nothing is removed.

        Raises
        ------
        VersionNotFoundError, SnapshotExpired
            There was no such version, or it was vacuumed.
        """
        repository, number = self.repository(), as_int(version, "version")
        with self._begin("rollback", version=number) as change:
            change.edit(lambda table: repository.table_at(number))

    def repair(self, data_id: str) -> int | None:
        """Make the last version of a data_id that opens its newest one; for one that cannot be opened any more.

        Nothing is removed: versions that do not open stay where they are, before the new one.

        Returns
        -------
        int or None
            Which version that was; None where the newest one opens.

        Raises
        ------
        CorruptStoreError
            No version opens.
        """
        validate_name(data_id, "data_id")
        if self._root is None:
            raise VersionNotFoundError("repair: rows in memory have no versions; use the zarr or the hybrid backend")
        if data_id not in self._root.data_ids():
            raise DataIdError(f"repair: there is no data_id {data_id!r} in {self._root.location}")
        if not self._root.writable:
            raise ReadOnlyError("repair: the store is open with mode='r'; open it with mode='a' to change it")
        return repair(self._root.location / data_id, self.budget_nbytes)

    def diff(self, a: int, b: int) -> Records[Difference]:
        """Return which variables differ between two versions, and in what; prints as a table."""
        return versions.diff(self.repository(), a, b)

    def vacuum(self, *, older_than: Any = DAY, keep_versions: int = 1, dry_run: bool = False) -> Vacuumed:
        """Remove versions that were replaced long ago, rows that no version needs, and what killed processes left.

        Parameters
        ----------
        older_than : float, timedelta or str
            Seconds, or ``"12h"``, ``"30d"``. A version goes when it was replaced before that, rows that no version
            refers to when they were written before that. It must exceed the longest transaction and the longest
            time for which a reader keeps a version: such a reader gets :class:`SnapshotExpired`.
        keep_versions : int
            So many of the newest versions stay in any case.
        dry_run : bool
            Only say what would go.

        Returns
        -------
        Vacuumed
            What went, and its bytes; prints as a line.
        """
        return versions.vacuum(self.repository(), older_than, keep_versions, dry_run=dry_run)

    def verify(self) -> Verification:
        """Read all that the kept versions refer to, and compare it with the checksums of what was written.

        Returns
        -------
        Verification
            A record for every manifest and array; ``problems`` are those with something missing, broken, or
            exchanged for something else. Prints as a table.
        """
        return versions.verify(self.repository())

    def fingerprint(self, var_names: Any = None, phase: str = "train") -> Any:
        """Return the SHA-256 of the rows of variables: of dtype, shape and values in logical order alone.

        Equal rows have equal fingerprints, whatever their chunks, codec, tier, path and history. Every row is read
        once, within the memory limit; a store keeps the result, and ``to_xarray`` shows it in ``attrs`` from then on.

        Parameters
        ----------
        var_names : str or list of str, optional
            All variables when None.
        phase : str
            A phase, or ``all``: its phases end to end.

        Returns
        -------
        str or dict of str to str
            64 hexadecimal digits for a string, else a dict by variable.
        """
        repository, at = self.repository(), parse_reading_phase(phase)
        names = parse_names(self.get_var_names(at) if var_names is None else var_names)
        table = repository.table
        found = {name: fingerprint(repository, whole(table, at, name), self.capacity) for name in names.names}
        return found[names.names[0]] if names.form == "one" else found

    # Hybrid

    def set_mode(self, mode: str) -> None:
        """Choose what calls see on the hybrid backend: ``numpy`` (memory) or ``zarr`` (storage); compiles.

        Raises
        ------
        ValueError
            An unknown mode; nothing writes.
        """
        if self._backend != "hybrid":
            warnings.warn(f"set_mode does nothing on the {self._backend} backend", UserWarning, stacklevel=2)
            return
        given: object = mode
        if not isinstance(given, str) or given not in MODES:
            raise ArgumentError(f"no mode {mode!r} (modes: {', '.join(MODES)})")
        former, self._mode = self._mode, mode
        if self._data_id is not None:
            try:
                self.compile()
            except BaseException:
                self._mode = former
                raise

    def to_memory(
        self,
        var_names: Any,
        phase: str = "train",
        output_var_names: Any = None,
        callback: Callable[..., Any] | None = None,
    ) -> None:
        """Persist variables in memory; the durable copy stays in storage.

        With an active ``distributed.Client`` the rows go to the workers' memory, else to this process's.

        Parameters
        ----------
        var_names : str, tuple of str or list of str
            Variables in storage.
        phase : str
            A phase, or ``all``: every phase that has rows.
        output_var_names : str or list of str, optional
            New names in memory.
        callback : callable, optional
            Gets ``(var_names, data)`` and returns new ones; what it returns wins over ``output_var_names``.
            Data are ndarrays, or dask arrays where the callback has an attribute ``accepts_lazy = True``.

        Raises
        ------
        ValueError
            The backend is not hybrid.
        """
        self._move("to_memory", "zarr", "numpy", var_names, phase, output_var_names, callback)

    def to_storage(
        self,
        var_names: Any,
        phase: str = "train",
        output_var_names: Any = None,
        callback: Callable[..., Any] | None = None,
    ) -> None:
        """Spill variables from memory to storage, block by block, then release the memory.

        Parameters are those of :meth:`to_memory`, the other way round.
        """
        self._move("to_storage", "numpy", "zarr", var_names, phase, output_var_names, callback)

    def _move(
        self,
        operation: str,
        source: str,
        target: str,
        var_names: Any,
        phase: Any,
        output_var_names: Any,
        callback: Callable[..., Any] | None,
    ) -> None:
        if self._backend != "hybrid":
            raise ArgumentError(f"{operation} needs the hybrid backend; this gate's is {self._backend!r}")
        names = parse_names(var_names)
        renamed = names if output_var_names is None else parse_names(output_var_names, validate=True)
        if len(renamed.names) != len(names.names):
            raise ShapeError(f"{len(names.names)} variables take as many output_var_names, found {renamed.names}")
        at, repository = parse_reading_phase(phase), self.repository(target)
        move(operation, self.repository(source), repository, names, renamed, at, callback, self.capacity)
        self._committed(repository)

    # Metadata

    def compile(self, reset: bool = False, show_info: bool = False) -> None:
        """Check that all variables of a phase have as many rows; needed before calls over all phases.

        Parameters
        ----------
        reset : bool
            (Re)set the variable ``active`` to int64 ones.
        show_info : bool
            Print :meth:`show_info` afterwards.

        Raises
        ------
        ShapeError
            The numbers of rows differ; they are listed (a ValueError).

        Warns
        -----
        AlignmentWarning
            Variables of a phase were shuffled differently when they were added.
        """
        repository = self.repository()
        if reset or not repository.table.compiled:
            if not repository.writable and not reset:
                repository.compile_here()
            else:
                with self._begin("compile", reset=bool(reset)) as change:
                    if reset:
                        change.edit(tables.with_active)
                    self._finish(change, do_compile=True)
        text.warn_of_misaligned(self.table, stacklevel=3)
        if show_info:
            self.show_info()

    def show_info(self) -> None:
        """Print phase, backend, name, dtype, rows and shape of every variable."""
        print(text.table_text(self.repository(), self._data_id))  # noqa: T201

    def __repr__(self) -> str:
        """Show phases, rows, shares and variables; reads no data."""
        return text.gate_text(self)

    def _repr_html_(self) -> str:
        return text.gate_html(self)

    def __iter__(self) -> Iterator[Any]:
        """Refuse: rows are iterated over a phase's variables."""
        return iter(View(self))

    @staticmethod
    def _view_to_list(var_names: Any, data: Any) -> tuple[Any, list[Any]]:
        """Return names, and a column for each; multiml's own tasks call this.

        Parameters
        ----------
        var_names : str, tuple or list of str
            M names.
        data : array-like
            For a string the variable's rows, as they are; else rows of M items.

        Returns
        -------
        names : list or tuple of str
            As they came; a string in a list.
        columns : list
            Of M arrays.

        Raises
        ------
        ValueError
            Rows of another width, or names of another type.

        Examples
        --------
        >>> StoreGate._view_to_list(("x", "y"), [[1, 2], [3, 4]])
        (('x', 'y'), [array([1, 3]), array([2, 4])])
        """
        if isinstance(var_names, str):
            return [var_names], [data]
        if not isinstance(var_names, (tuple, list)) or not all(isinstance(name, str) for name in var_names):
            raise ArgumentError(f"var_names is a string, or a tuple or list of strings; found {var_names!r}")
        rows = np.asarray(data)
        if rows.ndim < 2 or rows.shape[1] != len(var_names):
            raise ArgumentError(
                f"{len(var_names)} names take rows of {len(var_names)} items, found data of shape {rows.shape}"
            )
        return var_names, [rows[:, at] for at in range(len(var_names))]


def _plain(value: Any) -> Any:
    """Return an argument as a manifest can hold it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, str):  # of a variable that is not there, and may be no text
        return value.encode(errors="replace").decode()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    return value
