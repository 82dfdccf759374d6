"""Accessor: ``ds.storegate``, what StoreGate does with a Dataset: plans, batches, and a way into a store."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any, Protocol, Self, TypeAlias, Unpack

import numpy as np
import xarray as xr

from storegate import display, edits, parsing
from storegate.batches import open_stream
from storegate.parsing import BatchArgs, BatchOptions, Names, Options, PhaseOrSplit, VarNames, parse_names
from storegate.session import Session
from storegate_engine import graphs
from storegate_engine.arrays import MemoryArray
from storegate_engine.errors import (
    ArgumentError,
    ArgumentTypeError,
    DataIdError,
    ShapeError,
    VariableNotFoundError,
    near_match,
    shown,
)
from storegate_engine.natives import as_native
from storegate_engine.streams import Stream
from storegate_engine.table import Variable, rows_of

__all__ = ["StoreGateAccessor"]

Array: TypeAlias = np.ndarray[Any, Any]


class Gate(Protocol):
    """What has a current table and takes rows: a StoreGate."""

    def __copy__(self) -> Self:
        """Return a gate on the same data, with its own data_id."""

    def set_data_id(self, data_id: str) -> None:
        """Choose the table."""

    def add_data(
        self, var_names: xr.Dataset, *, phase: PhaseOrSplit, shuffle: bool | int, sample_dim: str | None
    ) -> None:
        """Append rows."""


@xr.register_dataset_accessor("storegate")  # type: ignore[no-untyped-call]
class StoreGateAccessor:
    """``ds.storegate`` of a Dataset.

    It is there once ``storegate`` has made or opened a Dataset, or after ``import storegate.accessor``.
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def explain(self) -> str:
        """Return how a full pass and a read of 256 rows would read each lazy variable; see `storegate.explain`."""
        return display.explain(self._dataset)

    def batches(
        self,
        batch_size: int,
        *,
        var_names: VarNames | None = None,
        transform: Callable[..., object] | None = None,
        **options: Unpack[BatchArgs],
    ) -> Stream[Any]:
        """Return batches of rows for a training loop; see :meth:`View.batches` for the options.

        Parameters
        ----------
        batch_size : int
            Rows of one step, over all ranks.
        var_names : str, tuple or list of str, optional
            The variables: an array, stacked arrays or a list of arrays for a batch; None for a dict of all data
            variables, without those that have no samples, such as the mask of a grid.
        transform : callable, optional
            Makes what a batch becomes, from a batch and a generator.
        **options
            As for views: ``shuffle``, ``seed``, ``drop_last``, ``rank``, ``world``, ``budget`` and others.

        Raises
        ------
        ArgumentError
            A variable is computed lazily: it is neither stored nor in memory.
        ShapeError
            The variables do not begin with one dimension.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1, 2, 3, 4])
        >>> list(gate.to_xarray().storegate.batches(2, var_names="x", seed=1))
        [array([0, 2]), array([4, 1]), array([3])]
        """
        dataset = self._dataset
        names = self._names() if var_names is None else parse_names(var_names)
        self._require_one_axis(names)
        version = dataset.encoding.get("version", 0)
        stream = open_stream(
            BatchOptions(batch_size=batch_size, transform=transform, **options),
            self._variable,
            names,
            version=version if isinstance(version, int) else 0,
            budget=None,
        )
        stream.warn_of_quality()
        return stream

    def _names(self) -> Names:
        """Return the data variables along the sample axis: that of stored rows, or the first of every variable."""
        arrays = {str(name): array.variable for name, array in self._dataset.data_vars.items()}
        stored = {array.dims[0] for array in arrays.values() if graphs.variable_of(array) is not None}
        dims = stored or {array.dims[0] for array in arrays.values() if array.dims}
        return Names(tuple(name for name, array in arrays.items() if dims.intersection(array.dims)), "dict")

    def _require_one_axis(self, names: Names) -> None:
        """Refuse variables that begin with different dimensions, of which two may have the same size."""
        arrays = {name: self._dataset[name] for name in names.names if name in self._dataset.variables}
        if len({array.dims[:1] for array in arrays.values()}) > 1:
            raise ShapeError(
                "the variables of the Dataset do not all begin with the same dimension "
                f"({', '.join(f'{name}: {array.dims}' for name, array in arrays.items())}); name those that do, as in "
                "var_names=['x', 'y'], or put that of the samples first, as in ds.transpose('time', ...)"
            )

    def _variable(self, name: str) -> Variable:
        if name not in self._dataset.variables:
            known = list(map(str, self._dataset.variables))
            raise VariableNotFoundError(
                f"the Dataset has no variable {name!r}{near_match(name, known)} (variables: {', '.join(known)})"
            )
        array = self._dataset.variables[name]
        if not array.dims:
            raise ShapeError(f"variable {name!r} of the Dataset has no dimension along which samples could lie")
        variable = graphs.variable_of(array)
        if variable is not None:
            return variable
        if array.chunks is not None or not array._in_memory:
            raise ArgumentError(
                f"variable {name!r} of the Dataset is computed or read lazily, and batches need rows that are "
                "stored or in memory; store it first, ds.storegate.to_store(path, data_id), or call ds.load()"
            )
        return rows_of(name, MemoryArray(as_native(array, f"variable {name!r}")))

    def to_store(
        self,
        target: Gate | str | os.PathLike[str],
        data_id: str | None = None,
        phase: PhaseOrSplit = "train",
        *,
        shuffle: bool | int = False,
        sample_dim: str | None = None,
    ) -> None:
        """Append the Dataset to a store, block by block, as :meth:`storegate.StoreGate.add_data` does.

        Parameters
        ----------
        target : StoreGate, path or str
            A gate, or the path or URL of a store, which is created if there is none.
        data_id : str, optional
            The table; by default that of the gate.
        phase : str or tuple of three numbers
            The phase, or a split among the phases.
        shuffle : bool or int
            Shuffle the rows before they are split; an int is the seed.
        sample_dim : str, optional
            The dimension along which samples lie; by default the one with which every variable begins.

        Examples
        --------
        >>> import tempfile
        >>> import xarray as xr
        >>> from storegate import StoreGate
        >>> path = tempfile.mkdtemp() + "/weather.zarr"
        >>> xr.Dataset({"t": ("time", [280.0, 281.5])}).storegate.to_store(path, "run1")
        >>> StoreGate.open(path).to_xarray().sizes
        Frozen({'time': 2})
        """
        if not isinstance(target, str | os.PathLike):
            if not hasattr(target, "add_data"):
                raise ArgumentTypeError(f"to_store takes a gate, or the path of a store, found {shown(target)}")
            gate = copy.copy(target)  # whose data_id may be set without changing that of the caller's
            if data_id is not None:
                gate.set_data_id(data_id)
            gate.add_data(self._dataset, phase=phase, shuffle=shuffle, sample_dim=sample_dim)
            return
        if data_id is None:
            raise DataIdError("to_store to a path needs a name for what you put there: data_id='run1'")
        names, rows = parsing.named(None, self._dataset, sample_dim)
        at, seed = parsing.parse_phase(phase), parsing.parse_seed(shuffle)
        session = Session("zarr", Options.parse({"output_dir": target, "mode": "a"}), None, data_id)
        with session.begin("add_data", var_names=names.given, phase=phase, shuffle=seed) as change:
            edits.add(change, names, rows, at, seed)
