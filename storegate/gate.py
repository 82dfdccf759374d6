"""Gate: class StoreGate, the documented interface; each method parses its arguments and makes one call."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, Unpack, cast, overload

import numpy as np
import numpy.typing as npt

from storegate import contents, display, edits, parsing, readers, reading, versions
from storegate.choosing import Choosing
from storegate.contents import Metadata
from storegate.parsing import (
    Backend,
    BackendArgs,
    Computable,
    Data,
    ExportFormat,
    ForeignFormat,
    Frame,
    Index,
    MethodIndex,
    Mode,
    OpenArgs,
    OpenMode,
    Options,
    Phase,
    PhaseName,
    PhaseOrSplit,
    VarNames,
    parse_names,
    parse_phase,
    parse_reading_phase,
)
from storegate.readers import ReadOptions
from storegate.scaling import Scaling
from storegate.session import Session, only_data_id
from storegate.versions import DAY, Commit, Records, Verification
from storegate.views import View
from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArgumentError, DataIdError, ShapeError, StoreNotFoundError
from storegate_engine.orders import as_int
from storegate_engine.store import Repository, VacuumResult
from storegate_engine.table import ArgMax, Cast, Difference, OneHot, Table, Transform

if TYPE_CHECKING:
    import dask.array as da
    import xarray as xr

    from storegate.report import Report

__all__ = ["StoreGate"]

Array: TypeAlias = np.ndarray[Any, Any]


class StoreGate(Choosing, Scaling):
    """Sample tables for machine learning: arrays by ``data_id``, phase and variable name.

    Each phase (train, valid, test) is a table of variables with samples along the first axis. Selection,
    shuffling, casts and encodings are lazy: they change how rows are read, never what is stored.

    Parameters
    ----------
    backend : {"numpy", "zarr", "hybrid"}
        ``numpy`` keeps rows in memory, ``zarr`` in storage; ``hybrid`` has both, see :meth:`set_mode`.
    backend_args : dict, optional
        ``output_dir`` (path or URL; a temporary directory if None), ``mode`` (``"a"`` opens or creates,
        ``"r"`` only reads, ``"r+"`` opens an existing store, ``"w-"`` or ``"x"`` creates a new one, ``"w"`` starts
        empty), ``chunk`` (rows per chunk; chosen by bytes if None),
        ``compressor`` (``"lz4"``, ``"zstd"``, ``"none"`` or a zarr codec), ``storage_options`` (for URLs),
        ``budget`` (memory limit of long operations, like ``"512MiB"``), ``copy`` (``False``: the numpy
        backend keeps the arrays it is given instead of copies), ``durability`` (``"process"``, or ``"power"``: a
        change is on the disk when its call returns).
    data_id : str, optional
        The default data_id.
    version : int, optional
        Show this version of each data_id as it was, read-only; see :meth:`history`.

    Raises
    ------
    BackendNotFoundError
        The backend is unknown (a ValueError and NotImplementedError).
    TypeError
        ``backend_args`` has an unknown key.
    VersionNotFoundError, SnapshotExpired
        The version never existed, or it was vacuumed.

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
        backend: Backend = "numpy",
        backend_args: BackendArgs | None = None,
        data_id: str | None = None,
        *,
        version: int | None = None,
    ) -> None:
        known, options = parsing.parse_backend(backend), Options.parse(backend_args)
        number = None if version is None else as_int(version, "version")
        self._session = Session(known, options, number, data_id)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        data_id: str | None = None,
        mode: OpenMode = "r",
        *,
        version: int | None = None,
        **options: Unpack[OpenArgs],
    ) -> Self:
        """Open a store at a path or URL; read-only unless ``mode`` says otherwise.

        Parameters
        ----------
        path : path or str
            A directory, or a URL that zarr opens.
        data_id : str, optional
            The table to open; default: the only one.
        mode : {"r", "r+", "a", "w-", "x", "w"}
            ``"r"`` only reads, ``"r+"`` changes an existing store, ``"a"`` opens or creates, ``"w-"`` and ``"x"``
            create a new one, ``"w"`` starts empty.
        version : int, optional
            Show this version as it was, read-only.
        **options
            ``budget``, ``chunk``, ``compressor``, ``durability`` and ``storage_options``, as in ``backend_args``.

        Returns
        -------
        StoreGate
            With the backend ``zarr``.

        Raises
        ------
        StoreNotFoundError
            There is no store, and the mode does not create one (a FileNotFoundError).
        DataIdError
            No data_id is given, and the store has several, which are listed, or none (a ValueError).

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/events.zarr"
        >>> with StoreGate.open(path, "run1", mode="w") as gate:
        ...     gate.add_data("x", [0.0, 0.5, 1.0])
        >>> with StoreGate.open(path) as gate:
        ...     gate.data_id, gate["train"]["x"][:]
        ('run1', array([0. , 0.5, 1. ]))
        """
        backend_args = cast("BackendArgs", {**options, "output_dir": path, "mode": mode})
        is_new = Options.parse(backend_args).mode in ("w", "w-", "x")
        if is_new and data_id is None:
            raise DataIdError(f"mode={mode!r} starts an empty store: give data_id=, a name for what you put in it")
        if is_new or (mode == "a" and data_id is not None):
            return cls("zarr", backend_args, data_id, version=version)
        try:  # here there must be a store
            gate = cls("zarr", {**backend_args, "mode": "r" if mode == "r" else "r+"}, version=version)
        except StoreNotFoundError as err:
            if mode != "a":
                raise
            raise DataIdError(f"there is no store at {path} yet: give data_id=, a name for what you put in it") from err
        session = gate._session
        if session.root is not None and data_id is not None:
            session.require_known(session.root, data_id)
        session.set_data_id(only_data_id(session) if data_id is None else data_id)
        return gate

    # Life cycle: closing, copying

    def close(self) -> None:
        """Forget all data in memory and remove a temporary directory; the gate cannot be used afterwards.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.close()  # as at the end of ``with StoreGate(...) as gate:``
        """
        self._session.close()

    def __enter__(self) -> Self:
        """Return the gate itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the gate."""
        self.close()

    def __copy__(self) -> Self:
        """Return a gate on the same data, with its own data_id and mode."""
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__, _session=copy.copy(self._session))
        return other

    # Current data_id, mode and limits

    @property
    def data_id(self) -> str | None:
        """The current data_id, None before one is set."""
        return self._session.data_id

    @property
    def backend(self) -> Backend:
        """``numpy``, ``zarr`` or ``hybrid``.

        Examples
        --------
        >>> with StoreGate("hybrid", {"budget": "64MiB"}, data_id="example") as gate:
        ...     gate.backend, gate.mode, gate.budget, gate.budget_nbytes
        ('hybrid', 'zarr', '64MiB', 67108864)
        """
        return self._session.backend

    @property
    def mode(self) -> Mode:
        """Whether calls use memory (``numpy``) or storage (``zarr``); see :meth:`set_mode`."""
        return self._session.mode

    @property
    def budget(self) -> int | str | None:
        """The memory limit as given in ``backend_args``; None if it was not given."""
        return self._session.options.budget

    @property
    def budget_nbytes(self) -> int:
        """The memory limit of long operations, in bytes."""
        return self._session.budget_nbytes

    @property
    def capacity(self) -> Capacity:
        """The memory and threads that lazy work is planned with; those of one worker if a dask client is active.

        Examples
        --------
        >>> gate = StoreGate("zarr", {"budget": "64MiB"}, data_id="example")
        >>> gate.capacity.budget_nbytes
        67108864
        """
        return self._session.capacity

    def set_data_id(self, data_id: str) -> None:
        """Set the default data_id; its data, if any, are kept.

        Raises
        ------
        InvalidNameError
            The name cannot be stored; the former data_id stays current.
        DataIdNotFoundError
            The store is read-only and has no such data_id; the message lists those it has (a KeyError).

        Examples
        --------
        >>> gate = StoreGate()
        >>> gate.set_data_id("run1")
        >>> gate.add_data("x", [1, 2])
        >>> gate.set_data_id("run2")
        >>> gate.add_data("x", [3])
        >>> gate.get_data_ids()
        ['run1', 'run2']
        """
        self._session.set_data_id(data_id)

    def get_data_ids(self) -> list[str]:
        """Return the data_ids that exist, in memory or in the store.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [1, 2])
        >>> gate.get_data_ids()
        ['example']
        """
        return self._session.data_ids()

    def repository(self, mode: Mode | None = None) -> Repository:
        """Return the engine's repository of the current data_id, in the current mode or the given one.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [1, 2, 3])
        >>> gate.repository().version
        1
        """
        return self._session.repository(mode)

    @property
    def table(self) -> Table:
        """The newest committed table of the current data_id and mode; immutable."""
        return self._session.table

    @property
    def sizes(self) -> dict[str, int]:
        """The number of samples of each phase that has variables.

        Raises
        ------
        ShapeError
            The variables of a phase have different numbers of rows.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3], phase=(0.5, 0.25, 0.25))
        >>> gate.sizes
        {'train': 2, 'valid': 1, 'test': 1}
        """
        table = self.table
        return {phase: table.n_rows(phase) for phase in self.phases}

    @property
    def phases(self) -> tuple[str, ...]:
        """The phases that have variables, in the order train, valid, test.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1], phase="test")
        >>> gate.phases
        ('test',)
        """
        return tuple(phase for phase in parsing.PHASES if self.table[phase])

    @property
    def variables(self) -> tuple[str, ...]:
        """The names of the variables of all phases, in the order in which they were added.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [0, 1], "y": [2, 3]})
        >>> gate.variables
        ('x', 'y')
        """
        return tuple(dict.fromkeys(variable.name for _, variable in self.table))

    def _ipython_key_completions_(self) -> list[str]:
        """Return the names that ``gate[...]`` accepts, for completion in IPython and Jupyter."""
        return [] if self.data_id is None else [*self.phases, *self.variables]

    # [] syntax

    @property
    def _view(self) -> View[dict[str, Array]]:
        return View(self._session)

    @overload
    def __getitem__(self, item: PhaseName) -> View[dict[str, Array]]: ...  # type: ignore[overload-overlap]
    @overload
    def __getitem__(self, item: str | tuple[str, ...]) -> View[Array]: ...
    @overload
    def __getitem__(self, item: list[str]) -> View[list[Array]]: ...
    def __getitem__(self, item: VarNames) -> object:
        """Return a view of a phase, or of variables.

        Parameters
        ----------
        item : str, tuple or list of str
            ``train``, ``valid``, ``test`` or ``all`` pick the phase, other names the variables.
        """
        return self._view[item]

    def __setitem__(self, item: Index, data: Data) -> None:
        """Refuse: assignment needs a phase, variables and an index."""
        self._view[item] = data

    def __delitem__(self, item: VarNames) -> None:
        """Refuse: deletion needs a phase."""
        del self._view[item]

    def __len__(self) -> int:
        """Return the number of samples of all phases."""
        return len(self._view)

    def __bool__(self) -> bool:
        """Return True, even for an empty gate."""
        return True

    def __contains__(self, item: object) -> bool:
        """Return whether a variable is in every phase that has rows."""
        return item in self._view

    # Adding and changing

    def add_data(
        self,
        var_names: VarNames | Frame | None = None,
        data: Data | Frame | None = None,
        phase: PhaseOrSplit = "train",
        shuffle: bool | int = False,
        do_compile: bool = False,
        *,
        sample_dim: str | None = None,
    ) -> None:
        """Append rows to variables; variables that do not exist are created.

        Parameters
        ----------
        var_names : str, tuple of str or list of str, optional
            One variable; several, with data stacked on axis 1; or several, with one array each. None takes the
            names of the data, a list some of them; data that have names may also be the only argument.
        data : array-like, lazy array, iterator of ndarrays, or table
            Shape ``(N, *k)`` for a string, ``(N, M, *k)`` for a tuple, a list of ``(N, *k)`` for a list. Dask,
            zarr and h5py arrays, memmaps, xarray variables and iterators are streamed, never loaded whole. An iterator
            gives blocks of rows; for single samples pass ``storegate.samples(iterator)``. Names come with a mapping
            of arrays, a structured array, a list of mappings, a ``Dataset``, a frame of pandas, anything with
            ``__arrow_c_stream__`` (polars, pyarrow, duckdb), an ``AnnData`` or a tree of uproot. Categories are stored
            as codes.
        phase : str or tuple of three numbers
            ``train``, ``valid``, ``test``; ``all`` (split by the compiled sizes); or a split, as fractions
            that sum to 1 or as counts that sum to N.
        shuffle : bool or int
            Shuffle the incoming rows before they are split: True is seed 1, an int is the seed, as
            ``x[np.random.RandomState(seed).permutation(N)]``. No rows are moved: the order is stored.
        do_compile : bool
            Compile afterwards.
        sample_dim : str, optional
            The dimension of a Dataset along which samples lie, by default the one with which every variable begins.
            Coordinates along it become variables. What has no sample axis is kept once, for all phases.

        Raises
        ------
        ShapeError
            The rows do not match each other, the split or the variable (a ValueError).
        DtypeError
            The data cannot be stored: a scalar, objects (a TypeError).
        PhaseNotFoundError
            The phase is unknown (a ValueError and KeyError).
        ReadOnlyError
            The store was opened with ``mode="r"``.
        VariableNotFoundError
            The table has no column of that name (a KeyError and ValueError).

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [[0.0, 1.0], [2.0, 3.0]], "y": [0, 1]})
        >>> gate.get_data("x", index=1)
        array([2., 3.])
        """
        (names, rows), target = parsing.named(var_names, data, sample_dim), parse_phase(phase)
        seed = parsing.parse_seed(shuffle)
        with self._session.begin("add_data", var_names=names.given, phase=phase, shuffle=seed) as change:
            edits.add(change, names, rows, target, seed, do_compile=bool(do_compile))
        if do_compile:
            display.warn_of_misaligned(self.table)

    def read(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        var_names: VarNames | None = None,
        phase: PhaseOrSplit = "train",
        shuffle: bool | int = False,
        do_compile: bool = False,
        *,
        format: str | None = None,
        **options: Unpack[ReadOptions],
    ) -> None:
        """Append the rows of files to variables, file by file within the budget; one commit for all of them.

        Every file is opened before the first row is written. If a file cannot be read, or the call is killed, the
        store is as it was, and the same call can be made again.

        Parameters
        ----------
        path : path, URL, glob, or list of them
            Files; those of a glob are sorted by name, ``x2`` before ``x10``. ``"events.h5:group"`` means a group or a
            dataset inside of the file, or of every file of the glob. Files at URLs, which fsspec opens, are copied to
            the scratch directory meanwhile.
        var_names : str, tuple or list of str, optional
            The columns, by default all; a name for files of a single array.
        phase, shuffle, do_compile
            As for :meth:`add_data`.
        format : str, optional
            ``hdf5`` (also NetCDF4), ``parquet``, ``arrow``, ``csv``, ``npy``, ``npz``, ``root``, ``zarr``, ``h5ad``,
            ``images``, or the name of an entry point of the group ``storegate.readers``; by default told from the
            suffix or the first bytes.
        **options
            Options of the format, see :class:`storegate.types.ReadOptions`.

        Raises
        ------
        FilesNotFoundError
            There is no such file (a FileNotFoundError).
        UnreadableFileError
            A file is truncated, or of another format; the message names it (an OSError and ValueError).
        VariableNotFoundError, DtypeError, ShapeError
            The columns of a file are not those of the first one; the message names it.
        ModuleNotFoundError
            The library of the format is not installed; the message names the extra.

        Examples
        --------
        >>> import tempfile
        >>> path = tempfile.mkdtemp() + "/events.h5"
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [0.0, 0.5, 1.0], "y": [0, 1, 1]})
        >>> gate.export(path)
        >>> gate.read(path, ["x", "y"], phase="test")
        >>> gate.sizes["test"]
        3
        """
        (names, columns), target = readers.columns_of_files(path, var_names, format, options), parse_phase(phase)
        seed = parsing.parse_seed(shuffle)
        with self._session.begin("read", path=path, var_names=names.given, phase=phase, shuffle=seed) as change:
            edits.add(change, names, columns, target, seed, do_compile=bool(do_compile))
        if do_compile:
            display.warn_of_misaligned(self.table)

    def attach(
        self,
        files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        var_names: VarNames | None = None,
        phase: PhaseOrSplit = "train",
        shuffle: bool | int = False,
        *,
        format: ForeignFormat | None = None,
        dtype: npt.DTypeLike | None = None,
        row_shape: int | Sequence[int] = (),
    ) -> None:
        """Append the rows of files to variables without copying them: they are read where they are.

        Parameters
        ----------
        files : path, URL, pattern or list of them
            Files of one format, whose rows follow one another; a pattern such as ``"runs/*.h5"`` is sorted with numbers
            in their order. ``"run.h5:deep/events"`` is a group inside of a file of HDF5 or zarr, or an array.
        var_names : str, tuple or list of str, optional
            The arrays in the files; by default all that HDF5, NetCDF4, zarr and Parquet files, or references, name.
        phase, shuffle
            As for :meth:`add_data`.
        format : {"hdf5", "kerchunk", "npy", "parquet", "raw", "zarr"}, optional
            By default told from the suffix or the first bytes, as for :meth:`read`; NetCDF4 is HDF5, and ``.json`` are
            references of kerchunk, whose other files lie below directories that ``references`` allows.
        dtype, row_shape
            Of raw rows, which do not say it themselves.

        Raises
        ------
        FilesNotFoundError
            There is no such file (a FileNotFoundError).
        SourceError
            A file cannot be opened, or has other arrays than the first (an OSError).
        DtypeError
            The files hold values that are not read in place, such as rows of unequal length.

        Notes
        -----
        Text of variable length is read once, to know how much memory it takes; nothing else is read.
        A file that is changed later is refused with a :class:`~storegate.errors.SourceChangedError`. Who opens the
        store again says which directories may be read: ``backend_args={"references": ["/data"]}``. :meth:`compact`
        copies the rows into the store.

        Examples
        --------
        >>> import tempfile
        >>> import numpy as np
        >>> path = tempfile.mkdtemp() + "/x.npy"
        >>> np.save(path, np.arange(10.0))
        >>> gate = StoreGate(data_id="example")
        >>> gate.attach(path, "x", phase=(0.8, 0.1, 0.1), shuffle=1)
        >>> len(gate.table["train"]["x"])
        8
        """
        form, found = readers.attached_files(files, format)
        sources = edits.sources_of(found, var_names, form, dtype, row_shape, readers.labels_in)
        target, seed = parse_phase(phase), parsing.parse_seed(shuffle)
        self._session.allow(sources.directories)
        with self._session.begin("attach", var_names=sources.names, phase=phase, shuffle=seed) as change:
            edits.attach(change, sources, target, seed, self._session.references)

    def update_data(
        self,
        var_names: VarNames | Frame | None = None,
        data: Data | Frame | None = None,
        phase: PhaseOrSplit = "train",
        index: MethodIndex = -1,
        do_compile: bool = True,
        *,
        sample_dim: str | None = None,
    ) -> None:
        """Replace rows; a variable that does not exist is created.

        Parameters
        ----------
        var_names, data, phase, sample_dim
            As for :meth:`add_data`.
        index : int, tuple, slice, list or array
            -1: all rows, whose number must match; an int: one row, with data of shape ``k`` or ``(1, *k)``;
            ``(a, b)``: rows a .. b-1; a slice, list, array or mask: those rows. With phase ``all``, rows count
            over the concatenated phases.
        do_compile : bool
            Compile afterwards.

        Raises
        ------
        ShapeError
            The number of rows or their shape differs; nothing is stored.
        IndexError
            A row is out of range.
        ArgumentError
            An array of xarray has other coordinates than the rows that it replaces (a ValueError).

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3])
        >>> gate.update_data("x", [10, 20], index=(1, 3))
        >>> gate["train"]["x"][:]
        array([ 0, 10, 20,  3])
        """
        (names, rows), target = parsing.named(var_names, data, sample_dim), parse_phase(phase)
        with self._session.begin("update_data", var_names=names.given, phase=phase) as change:
            edits.update(change, names, rows, target, index, do_compile=bool(do_compile))
        if do_compile:
            display.warn_of_misaligned(self.table)

    def assign(
        self,
        variables: Mapping[str, Computable] | None = None,
        phase: Phase | None = "all",
        **computed: Computable,
    ) -> None:
        """Add variables computed from the others, block by block within the budget; one commit.

        Parameters
        ----------
        variables : mapping of str to callable or array, optional
            Functions of a phase's Dataset (see :meth:`to_xarray`) that return rows for all its samples, lazily; or
            such rows.
        phase : str
            The phase, by default every one that has rows.
        **computed
            The same, by keyword.

        Raises
        ------
        ShapeError
            A result has not one row for each sample, with the sample axis first.
        ArgumentError
            A function reduces over the samples of many blocks without computing the result, or its values have
            other coordinates than the Dataset, or the same in another order.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [1.0, 2.0], "y": [3.0, 4.0]})
        >>> gate.assign(z=lambda ds: ds.x * ds.y)
        >>> gate["train"]["z"][:]
        array([3., 8.])
        """
        functions, at = {**(variables or {}), **computed}, parse_reading_phase(phase)
        with self._session.begin("assign", var_names=list(functions), phase=phase) as change:
            edits.compute(change, functions, at, self.capacity)

    def delete_data(self, var_names: VarNames, phase: PhaseOrSplit = "train", do_compile: bool = True) -> None:
        """Delete variables; names that do not exist are ignored.

        Their rows stay in storage for readers of earlier versions until :meth:`vacuum` removes them.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [0, 1], "y": [2, 3]})
        >>> gate.delete_data("x")
        >>> gate.get_var_names()
        ['y']
        """
        names, target = parse_names(var_names), parse_phase(phase)
        with self._session.begin("delete_data", var_names=var_names, phase=phase) as change:
            edits.delete(change, names, target, do_compile=bool(do_compile))

    def clear_data(self) -> None:
        """Delete all variables of the current data_id and mode.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1])
        >>> gate.clear_data()
        >>> gate.sizes
        {}
        """
        with self._session.begin("clear_data") as change:
            edits.clear(change)

    def create_empty(
        self,
        var_names: VarNames,
        shape: int | Sequence[int],
        phase: PhaseOrSplit = "train",
        dtype: npt.DTypeLike = "f4",
    ) -> None:
        """Create variables filled with zeros, of shape ``(N, *k)``, without writing any rows.

        Raises
        ------
        ShapeError
            A size is negative, or the rows are too large to be stored.
        DtypeError
            The dtype cannot be stored, or a size is not an integer.
        VariableExistsError
            A variable exists already (a ValueError).

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.create_empty("x", shape=(3, 2))
        >>> gate.get_var_shapes("x")
        (2,)
        """
        names, target = parse_names(var_names, validate=True), parse_phase(phase)
        sizes, kind = parsing.parse_shape(shape), parsing.parse_dtype(dtype)
        with self._session.begin("create_empty", var_names=var_names, shape=sizes, phase=phase) as change:
            edits.create_zeros(change, names, target, sizes, kind)

    # Reading

    @overload
    def get_data(
        self,
        var_names: str | tuple[str, ...],
        phase: Phase | None = "train",
        index: MethodIndex = -1,
        *,
        compute: Literal[True] = True,
    ) -> Array: ...
    @overload
    def get_data(
        self,
        var_names: list[str],
        phase: Phase | None = "train",
        index: MethodIndex = -1,
        *,
        compute: Literal[True] = True,
    ) -> list[Array]: ...
    @overload
    def get_data(
        self,
        var_names: str | tuple[str, ...],
        phase: Phase | None = "train",
        index: MethodIndex = -1,
        *,
        compute: Literal[False],
    ) -> da.Array: ...
    @overload
    def get_data(
        self, var_names: list[str], phase: Phase | None = "train", index: MethodIndex = -1, *, compute: Literal[False]
    ) -> list[da.Array]: ...
    @overload
    def get_data(
        self, var_names: VarNames, phase: Phase | None = "train", index: MethodIndex = -1, *, compute: bool = True
    ) -> Array | list[Array] | da.Array | list[da.Array]: ...
    def get_data(
        self, var_names: VarNames, phase: Phase | None = "train", index: MethodIndex = -1, *, compute: bool = True
    ) -> Array | list[Array] | da.Array | list[da.Array]:
        """Return rows as new ndarrays.

        Parameters
        ----------
        var_names : str, tuple of str or list of str
            A string gives an array, a tuple one stacked array, a list a list of arrays.
        phase : str or None
            A phase; ``all`` or None for all of them concatenated, after :meth:`compile`.
        index : int, tuple, slice, list or array
            -1: all rows; an int: one row; ``(a, b)``: rows a .. b-1; a slice, list, array, tensor or mask.
        compute : bool
            If False, return dask arrays and read nothing.

        Returns
        -------
        ndarray, numpy scalar, or list of them
            Shape ``k`` for one row, ``(M, *k)`` for a tuple; otherwise ``(N, *k)`` or ``(N, M, *k)``.

        Raises
        ------
        VariableNotFoundError
            The variable is unknown; the message names near matches (a KeyError and ValueError).
        IndexError
            A row is out of range.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data(["x", "y"], [[1, 2, 3], [4.0, 5.0, 6.0]])
        >>> gate.get_data(("x", "y"), index=1)
        array([2., 5.])
        """
        names, at = parse_names(var_names), parse_reading_phase(phase)
        selected = reading.Selected.by_index(self.table, names, at, index)
        rows: Any = selected.read(self.budget_nbytes) if compute else selected.lazy(self.capacity)
        return cast("Array | list[Array] | da.Array | list[da.Array]", rows)  # names make no dict

    def get_var_names(self, phase: Phase | None = "train") -> list[str]:
        """Return the variables of a phase, in the order in which they were added.

        For ``all``: the variables that every phase with rows has.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [0, 1], "y": [2, 3]})
        >>> gate.get_var_names()
        ['x', 'y']
        """
        return contents.names_in(self.table, parse_reading_phase(phase))

    @overload
    def get_var_shapes(self, var_names: str, phase: Phase | None = "train") -> tuple[int, ...] | None: ...
    @overload
    def get_var_shapes(
        self, var_names: tuple[str, ...] | list[str], phase: Phase | None = "train"
    ) -> list[tuple[int, ...] | None]: ...
    def get_var_shapes(
        self, var_names: VarNames, phase: Phase | None = "train"
    ) -> tuple[int, ...] | list[tuple[int, ...] | None] | None:
        """Return the shape of one row of each variable, None if it is unknown; a list for a list of names.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[0, 1], [2, 3], [4, 5]])
        >>> gate.get_var_shapes("x")
        (2,)
        """
        names, at = parse_names(var_names), parse_reading_phase(phase)
        shapes = contents.row_shapes(self.table, names, at)
        return shapes[0] if names.form == "one" else shapes

    def get_metadata(self) -> Metadata:
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

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[0, 1], [2, 3]])
        >>> gate.compile()
        >>> gate.get_metadata()["sizes"]
        {'train': 2, 'valid': 0, 'test': 0, 'all': 2}
        """
        return contents.metadata(self.table)

    def to_xarray(self, phase: Phase | None = "train") -> xr.Dataset:
        """Return a phase as a lazy ``xr.Dataset`` of the current version; later changes do not affect it.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[0.0, 1.0], [2.0, 4.0]])
        >>> gate.to_xarray()["x"].mean("sample").values
        array([1. , 2.5])
        """
        import storegate.accessor  # noqa: F401 - it registers ds.storegate; deferred, since it needs xarray

        at, session = parse_reading_phase(phase), self._session
        return reading.read_dataset(session.repository(), session.source, session.data_id, at, session.capacity)

    def to_datatree(self) -> xr.DataTree:
        """Return all phases with rows as a lazy ``xr.DataTree``, one child per phase.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3], phase=(0.5, 0.25, 0.25))
        >>> sorted(gate.to_datatree().children)
        ['test', 'train', 'valid']
        """
        import storegate.accessor  # noqa: F401 - it registers ds.storegate; deferred, since it needs xarray

        return reading.read_tree(self.repository(), self._session.source, self.data_id, self.capacity)

    def export(
        self,
        path: str | os.PathLike[str],
        phase: Phase | None = "train",
        format: ExportFormat | None = None,
        var_names: VarNames | None = None,
    ) -> None:
        """Write a phase as a file that other tools open, in its order, block by block within the budget.

        Parameters
        ----------
        path : path or str
            A local path, at which there is nothing yet; it appears when the file is complete.
        phase : str
            The phase, or ``all``.
        format : {"zarr", "netcdf", "parquet", "hdf5"}, optional
            By default what the suffix of the path names: ``.zarr``, ``.nc``, ``.parquet``, ``.h5``. Zarr and NetCDF
            hold dimensions, coordinates and attributes.
        var_names : str, tuple or list of str, optional
            The variables, by default all.

        Raises
        ------
        ArgumentError
            The format is unknown.
        StoreExistsError
            There is something at the path (a FileExistsError).
        DtypeError
            The format has no such dtype or attribute.

        Examples
        --------
        >>> import tempfile
        >>> import xarray as xr
        >>> path = tempfile.mkdtemp() + "/events.zarr"
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0.0, 0.5, 1.0])
        >>> gate.export(path)
        >>> xr.open_zarr(path, consolidated=False).x.values
        array([0. , 0.5, 1. ])
        """
        from storegate.files import Exported, export, format_of  # deferred, since it needs xarray

        target, form = format_of(path, format)
        view: View[Any] = self._view[parse_reading_phase(phase)]
        if var_names is not None:
            view = view[list(parse_names(var_names).names)]
        export(target, form, Exported(view.__storegate_variables__(), view.to_xarray(), self.budget_nbytes))

    # Order and transforms: lazy

    def astype(self, var_names: VarNames, dtype: npt.DTypeLike, phase: Phase | None = "train") -> None:
        """Cast variables when they are read, as ``np.ndarray.astype`` does; nothing is rewritten.

        Rows are read only where a value may have no counterpart, like a text that is no number.

        Raises
        ------
        ConversionError
            A value cannot be converted; nothing changes (a ValueError and TypeError).
        DtypeError
            numpy has no such conversion, or the result cannot be stored (a TypeError).

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2])
        >>> gate.astype("x", "float32")
        >>> gate["train"]["x"][:]
        array([0., 1., 2.], dtype=float32)
        """
        self._transform("astype", var_names, Cast(parsing.parse_dtype(dtype)), phase)

    def onehot(self, var_names: VarNames, num_classes: int, phase: Phase | None = "train") -> None:
        """Encode integer labels as float64 rows of ``np.identity(num_classes)`` when they are read.

        Usually the smallest and largest label are known from when the rows were added, and nothing is read; otherwise
        the labels are read once, within the budget.

        Raises
        ------
        LabelError
            A label of a row is outside ``[0, num_classes)``; nothing changes. The error has the first one as ``label``,
            and its ``row`` (a ValueError).
        DtypeError
            The labels are neither integers nor bools (a TypeError).

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("y", [0, 2, 1])
        >>> gate.onehot("y", 2)
        Traceback (most recent call last):
        storegate_engine.errors.LabelError: variable 'y', row 1: onehot with num_classes=2 takes labels 0..1, found 2; \
        in phase 'train' the largest label is 2: give num_classes=3, or correct the labels; nothing was changed
        """
        self._transform("onehot", var_names, OneHot(num_classes), phase)

    def argmax(self, var_names: VarNames, axis: int, phase: Phase | None = "train") -> None:
        """Replace each row, when it is read, by the int64 index of its largest value along ``axis``.

        ``axis`` counts the sample axis as 0, which cannot be reduced.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[0.1, 0.7, 0.2], [0.5, 0.3, 0.2]])
        >>> gate.argmax("x", axis=1)
        >>> gate["train"]["x"][:]
        array([1, 0])
        """
        self._transform("argmax", var_names, ArgMax(axis), phase)

    def _transform(self, operation: str, var_names: VarNames, transform: Transform, phase: Phase | None) -> None:
        names, at = parse_names(var_names), parse_reading_phase(phase)
        said = {"var_names": var_names, "phase": at, "transform": transform.to_json()}
        with self._session.begin(operation, **said) as change:
            edits.transform(change, names, at, transform, operation)

    def shuffle(self, phase: Phase | None = "all", seed: int = 0) -> None:
        """Shuffle phases: the same permutation for every variable, as ``RandomState(seed).permutation(N)``.

        No rows are moved: the order is stored and applied when rows are read. Repeated shuffles compose.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [0, 1, 2, 3], "y": [0, 10, 20, 30]})
        >>> gate.shuffle(seed=1)
        >>> gate["train"]["x"][:], gate["train"]["y"][:]
        (array([3, 2, 0, 1]), array([30, 20,  0, 10]))
        """
        at, number = parse_reading_phase(phase), parsing.parse_shuffle_seed(seed)
        with self._session.begin("shuffle", phase=at, seed=number) as change:
            edits.shuffle(change, at, number)

    def compact(self, phase: Phase | None = "all", var_names: VarNames | None = None) -> None:
        """Rewrite rows in logical order, with orders and transforms applied.

        Rows that fit in memory are gathered; more are exchanged in two passes over spill files, always within the
        budget. On a dask cluster the workers do it. If a compaction is killed, the next one reuses its spill.

        Parameters
        ----------
        phase : str
            A phase, or ``all``.
        var_names : str or list of str, optional
            All variables when None.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate.open(tempfile.mkdtemp() + "/events.zarr", "run1", mode="w")
        >>> gate.add_data("x", [0, 1, 2, 3])
        >>> gate.shuffle(seed=1)
        >>> before = gate["train"]["x"][:]
        >>> gate.compact()
        >>> bool((gate["train"]["x"][:] == before).all())
        True
        """
        at, wanted = parse_reading_phase(phase), None if var_names is None else parse_names(var_names)
        with self._session.begin("compact", phase=at, var_names=wanted and wanted.names) as change:
            edits.compact(change, at, wanted, self.capacity)

    # Versions

    def history(self) -> Records[Commit]:
        """Return the kept versions of the data_id, the oldest first; prints as a table.

        Each record has the time of the commit, the operation and its arguments, and the rows and bytes added.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate.open(tempfile.mkdtemp() + "/events.zarr", "run1", mode="w")
        >>> gate.add_data("x", [0, 1])
        >>> gate.shuffle()
        >>> [commit.operation for commit in gate.history()]
        ['add_data', 'shuffle']
        """
        return versions.history(self.repository())

    def rollback(self, version: int) -> None:
        """Restore the table of an earlier version, as a new version; nothing is removed.

        Raises
        ------
        VersionNotFoundError, SnapshotExpired
            The version never existed, or it was vacuumed.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate.open(tempfile.mkdtemp() + "/events.zarr", "run1", mode="w")
        >>> gate.add_data("x", [0, 1])
        >>> gate.update_data("x", [7, 7])
        >>> gate.rollback(1)
        >>> gate["train"]["x"][:]
        array([0, 1])
        """
        repository, number = self.repository(), as_int(version, "version")
        with self._session.begin("rollback", version=number) as change:
            change.edit(lambda table: repository.table_at(number))

    def undo(self) -> None:
        """Take the last change back, in all phases that it touched; the gate is as it was before, compiled or not.

        A change is a call after which the variables, their rows or their order differ; :meth:`compile` without
        ``reset`` and :meth:`vacuum` are none. Another undo takes the change before that back. In storage the former
        version becomes the newest, as a new version: :meth:`history` has both, and :meth:`rollback` restores either.
        In memory, former rows are kept while they take no more than a sixteenth of the budget and 256 MiB, for 32
        changes.
        On the hybrid backend the last change of this gate is taken back, in either mode; :meth:`to_storage` in both.

        Raises
        ------
        VersionNotFoundError
            There is no change to take back, or the former rows were not kept in memory (a ValueError).
        SnapshotExpired
            The former version was vacuumed (an OSError).
        ConflictError
            The last change is that of another writer, since this gate opened the data_id (a RuntimeError).
        ReadOnlyError
            The store was opened with ``mode="r"``.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [1, 2, 3])
        >>> gate.update_data("x", [7], index=0)
        >>> gate.undo()
        >>> gate.get_data("x")
        array([1, 2, 3])
        """
        self._session.undo()

    def repair(self, data_id: str) -> int | None:
        """Restore the last version that opens, for a data_id whose newest version cannot be opened.

        Nothing is removed: versions that cannot be opened stay, before the new one.

        Returns
        -------
        int or None
            The version that was restored; None if the newest one opens.

        Raises
        ------
        CorruptStoreError
            No version can be opened.

        Examples
        --------
        >>> gate = StoreGate("zarr", data_id="example")
        >>> gate.add_data("x", [1, 2, 3])
        >>> gate.repair("example") is None  # it opens
        True
        """
        return versions.repair(self._session.root, data_id, self.budget_nbytes)

    def diff(self, a: int, b: int) -> Records[Difference]:
        """Return which variables differ between two versions, and how; prints as a table.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate.open(tempfile.mkdtemp() + "/events.zarr", "run1", mode="w")
        >>> gate.add_data("x", [0, 1])
        >>> gate.add_data("x", [2])
        >>> print(gate.diff(1, 2))
        phase  name  what          before              after
        -----  ----  ------------  ------------------  ------------------
        train  x     rows, values  2 rows of int64 ()  3 rows of int64 ()
        """
        return versions.diff(self.repository(), a, b)

    def vacuum(
        self, *, older_than: float | timedelta | str = DAY, keep_versions: int = 1, dry_run: bool = False
    ) -> VacuumResult:
        """Remove versions replaced long ago, rows that no version needs, and files left by killed processes.

        Parameters
        ----------
        older_than : float, timedelta or str
            Seconds, or ``"12h"``, ``"30d"``. Removes versions that were replaced before that, and unreferenced rows
            that were written before that. It must exceed the longest transaction and the longest time for which a
            reader keeps a version: reading a removed version raises :class:`SnapshotExpired`.
        keep_versions : int
            Number of newest versions to keep in any case.
        dry_run : bool
            Only report what would be removed.

        Returns
        -------
        VacuumResult
            What was removed, and its bytes; prints as a line.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate.open(tempfile.mkdtemp() + "/events.zarr", "run1", mode="w")
        >>> gate.add_data("x", [0, 1])
        >>> gate.update_data("x", [7, 7])
        >>> len(gate.vacuum(older_than=0).segments)
        1
        """
        return versions.vacuum(self.repository(), older_than, keep_versions, dry_run=dry_run)

    def verify(self) -> Verification:
        """Read everything that the kept versions refer to, and compare it with its checksums.

        Returns
        -------
        Verification
            One record per manifest and array; ``problems`` are those with something missing, damaged or swapped.
            Prints as a table.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate.open(tempfile.mkdtemp() + "/events.zarr", "run1", mode="w")
        >>> gate.add_data("x", [0, 1])
        >>> gate.verify().problems
        (none)
        """
        return versions.verify(self.repository())

    @overload
    def fingerprint(self, var_names: str, phase: Phase | None = "train") -> str: ...
    @overload
    def fingerprint(
        self, var_names: tuple[str, ...] | list[str] | None = None, phase: Phase | None = "train"
    ) -> dict[str, str]: ...
    def fingerprint(self, var_names: VarNames | None = None, phase: Phase | None = "train") -> str | dict[str, str]:
        """Return the SHA-256 of variables, computed from dtype, shape and values in logical order.

        Equal rows have equal fingerprints, whatever their chunks, codec, backend, path and history. Every row is read
        once, within the memory limit; a store keeps the result, and ``to_xarray`` shows it in ``attrs`` from then on.

        Parameters
        ----------
        var_names : str or list of str, optional
            All variables when None.
        phase : str
            A phase, or ``all`` for all phases concatenated.

        Returns
        -------
        str or dict of str to str
            64 hexadecimal digits for a string; otherwise a dict by variable name.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2])
        >>> before = gate.fingerprint()
        >>> gate.update_data("x", 9, index=0)
        >>> gate.fingerprint() == before
        False
        """
        at, repository = parse_reading_phase(phase), self.repository()
        names = parse_names(contents.names_in(repository.table, at) if var_names is None else var_names)
        found = reading.fingerprints(repository, names, at, self.capacity)
        return found[names.names[0]] if names.form == "one" else found

    def report(self, *, check: bool = False) -> Report:
        """Return a page about the data_id: phases, classes, histograms, drift, first rows, history and costs.

        All rows are read once, within the memory limit. In a notebook the result shows itself.

        Parameters
        ----------
        check : bool
            Also look for rows that several phases have, as :meth:`check` does, in one more pass.

        Returns
        -------
        Report
            ``save("report.html")`` writes one file that loads nothing from elsewhere, ``to_json()`` returns all
            numbers, and ``facts`` has them as values.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 1, 3], phase=(0.5, 0.5, 0.0))
        >>> gate.report().facts.variables[0].bars.counts
        {'train': [1, 1, 0], 'valid': [0, 1, 1]}
        """
        from storegate.report import Report, Source, collect  # deferred on purpose: few programs need it

        session = self._session
        repository = session.repository()
        source = Source(repository, session.place, str(session.data_id), session.capacity, session.budget_nbytes)
        return Report(collect(source, check=bool(check)))

    # Hybrid

    def set_mode(self, mode: Mode) -> None:
        """Choose whether calls use memory (``numpy``) or storage (``zarr``) on the hybrid backend; compiles.

        Raises
        ------
        ValueError
            The mode is unknown.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate("hybrid", {"output_dir": tempfile.mkdtemp() + "/events.zarr"}, "run1")
        >>> gate.add_data("x", [0, 1, 2])
        >>> gate.to_memory("x", output_var_names="y")
        >>> gate.set_mode("numpy")
        >>> gate.get_var_names()
        ['y']
        """
        if self.backend != "hybrid":
            warnings.warn(f"set_mode does nothing on the {self.backend} backend", UserWarning, stacklevel=2)
        else:
            self._session.set_mode(mode)

    def to_memory(
        self,
        var_names: VarNames,
        phase: Phase | None = "train",
        output_var_names: VarNames | None = None,
        callback: edits.Callback | None = None,
    ) -> None:
        """Persist variables in memory; the durable copy stays in storage.

        With an active ``distributed.Client`` the rows go to the workers' memory, otherwise to this process.

        Parameters
        ----------
        var_names : str, tuple of str or list of str
            Variables in storage.
        phase : str
            A phase, or ``all`` for every phase that has rows.
        output_var_names : str or list of str, optional
            New names in memory.
        callback : callable, optional
            Gets ``(var_names, data)`` and returns new ones; its names win over ``output_var_names``. The data are
            ndarrays, or dask arrays if the callback has an attribute ``accepts_lazy = True``.

        Raises
        ------
        ValueError
            The backend is not hybrid.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate("hybrid", {"output_dir": tempfile.mkdtemp() + "/events.zarr"}, "run1")
        >>> gate.add_data("x", [0, 1, 2])
        >>> gate.to_memory("x", callback=lambda names, x: (names, x + 1))
        >>> gate.set_mode("numpy")
        >>> gate["train"]["x"][:]
        array([1, 2, 3])
        """
        self._move("to_memory", "zarr", "numpy", var_names, phase, output_var_names, callback)

    def to_storage(
        self,
        var_names: VarNames,
        phase: Phase | None = "train",
        output_var_names: VarNames | None = None,
        callback: edits.Callback | None = None,
    ) -> None:
        """Move variables from memory to storage, block by block, then release the memory.

        Parameters are those of :meth:`to_memory`, in the other direction.

        Examples
        --------
        >>> import tempfile
        >>> gate = StoreGate("hybrid", {"output_dir": tempfile.mkdtemp() + "/events.zarr"}, "run1")
        >>> gate.add_data("x", [0, 1, 2])
        >>> gate.to_memory("x")
        >>> gate.to_storage("x", output_var_names="y")
        >>> gate.set_mode("zarr")
        >>> gate.get_var_names()
        ['x', 'y']
        """
        self._move("to_storage", "numpy", "zarr", var_names, phase, output_var_names, callback)

    def _move(
        self,
        operation: str,
        source: Mode,
        target: Mode,
        var_names: VarNames,
        phase: Phase | None,
        output_var_names: VarNames | None,
        callback: edits.Callback | None,
    ) -> None:
        if self.backend != "hybrid":
            raise ArgumentError(f"{operation} needs the hybrid backend; this gate's is {self.backend!r}")
        names, at = parse_names(var_names), parse_reading_phase(phase)
        renamed = names if output_var_names is None else parse_names(output_var_names, validate=True)
        if len(renamed.names) != len(names.names):
            raise ShapeError(f"{len(names.names)} variables take one output_var_name each, found {renamed.names}")
        session = self._session
        into = session.repository(target)
        with session.changing():
            edits.move(operation, session.repository(source), into, names, renamed, at, callback, session.capacity)
        session.committed(into)

    # Metadata

    def compile(self, reset: bool = False, show_info: bool = False) -> None:
        """Check that all variables of a phase have the same number of rows; needed before calls over all phases.

        Parameters
        ----------
        reset : bool
            (Re)set the variable ``active`` to int64 ones.
        show_info : bool
            Print :meth:`show_info` afterwards.

        Raises
        ------
        ShapeError
            The numbers of rows differ; the message lists them (a ValueError).

        Warns
        -----
        AlignmentWarning
            Variables of a phase were shuffled differently when they were added.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [0, 1], "y": [2, 3]})
        >>> gate.compile()
        >>> len(gate)
        2
        """
        self._session.compile(reset=bool(reset))
        if show_info:
            self.show_info()

    def show_info(self) -> None:
        """Print phase, backend, name, dtype, rows and shape of every variable.

        Examples
        --------
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[0, 1], [2, 3]])
        >>> gate.show_info()
        StoreGate data_id : example, not compiled
        phase  backend  var_names  dtype  total events  var_shape
        -----  -------  ---------  -----  ------------  ---------
        train  numpy    x          int64  2             (2,)
        """
        print(display.table_text(self.repository(), self.data_id))  # noqa: T201

    def __repr__(self) -> str:
        """Show phases, sizes and variables, no wider than the terminal; reads no data."""
        return display.summary(self._outline())

    def _repr_html_(self) -> str:
        return display.outline_html(self._outline(), repr(self))

    def _outline(self) -> display.Outline:
        return display.outline(f"StoreGate {self._session.place}", self._session.current, self.data_id)

    def __iter__(self) -> Iterator[object]:
        """Refuse: iterate over a phase or its variables instead."""
        return iter(self._view)

    @staticmethod
    def _view_to_list(var_names: VarNames, data: npt.ArrayLike) -> tuple[Sequence[str], list[npt.ArrayLike]]:
        """Return names, and one column for each; multiml's own tasks call this.

        Parameters
        ----------
        var_names : str, tuple or list of str
            M names.
        data : array-like
            For a string, the rows of the variable; otherwise rows of M items.

        Returns
        -------
        names : list or tuple of str
            The names as given; a string becomes a list.
        columns : list
            M arrays.

        Raises
        ------
        ValueError
            Rows do not have M items, or the names have another type.

        Examples
        --------
        >>> StoreGate._view_to_list(("x", "y"), [[1, 2], [3, 4]])
        (('x', 'y'), [array([1, 3]), array([2, 4])])
        """
        return parsing.columns_of(var_names, data)
