"""Backend: stores as files that xarray opens: ``xr.open_dataset(path, engine="storegate")``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import xarray as xr
from xarray.backends import BackendEntrypoint

from storegate.gate import StoreGate
from storegate.parsing import ALL, PHASES, BackendArgs, OpenArgs, Phase
from storegate_engine import graphs
from storegate_engine.contents import MARKER
from storegate_engine.errors import ArgumentError, DataIdError, PhaseNotFoundError

__all__ = ["StoreGateBackendEntrypoint"]


class StoreGateBackendEntrypoint(BackendEntrypoint):
    """Open a phase of a store as a Dataset, and a data_id or a whole store as a DataTree; only reading.

    Rows are read when they are indexed; with ``chunks=``, as dask arrays.
    """

    description = "Open stores of StoreGate"
    supports_groups = True
    open_dataset_parameters = (
        "filename_or_obj", "drop_variables", "group", "version", "storage_options", "budget"
    )  # fmt: skip

    def open_dataset(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        version: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        budget: int | str | None = None,
    ) -> xr.Dataset:
        """Return one phase.

        Parameters
        ----------
        filename_or_obj : path or str
            The path or URL of the store.
        drop_variables : str or iterable of str, optional
            Variables to leave out.
        group : str, optional
            ``data_id/phase``, ``data_id`` or a phase; by default ``train`` of the only data_id.
        version, storage_options, budget
            As in :meth:`storegate.StoreGate.open`.

        Raises
        ------
        DataIdError
            The store has several data_ids, and the group names none.
        PhaseNotFoundError
            The phase has no variables.
        """
        data_id, phase = _parse_group(group)
        gate = _open(filename_or_obj, data_id, version, storage_options, budget)
        return graphs.on_demand(_without(_phase(gate, phase or "train"), drop_variables), gate.budget_nbytes)

    def open_datatree(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        version: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        budget: int | str | None = None,
    ) -> xr.DataTree:
        """Return the phases of the only data_id, or of the one that ``group`` names; or all data_ids, if several."""
        groups = self.open_groups_as_dict(
            filename_or_obj,
            drop_variables=drop_variables,
            group=group,
            version=version,
            storage_options=storage_options,
            budget=budget,
        )
        return xr.DataTree.from_dict(groups)

    def open_groups_as_dict(
        self,
        filename_or_obj: Any,
        *,
        drop_variables: str | Iterable[str] | None = None,
        group: str | None = None,
        version: int | None = None,
        storage_options: Mapping[str, Any] | None = None,
        budget: int | str | None = None,
    ) -> dict[str, xr.Dataset]:
        """Return the Datasets of :meth:`open_datatree` by their path."""
        data_id, phase = _parse_group(group)
        gate = _open(filename_or_obj, data_id, version, storage_options, budget, several=True)
        names = [gate.data_id] if gate.data_id is not None else gate.get_data_ids()
        found = {}
        for name in names:
            gate.set_data_id(name)
            for at in gate.phases if phase is None else [phase]:
                dataset = graphs.on_demand(_without(_phase(gate, at), drop_variables), gate.budget_nbytes)
                found[f"/{at}" if len(names) == 1 else f"/{name}/{at}"] = dataset
        return found

    def guess_can_open(self, filename_or_obj: Any) -> bool:
        """Return whether this is a directory with the marker of a store; of a URL, which would be asked, not."""
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        path = os.fspath(filename_or_obj)
        return isinstance(path, str) and "://" not in path and Path(path, MARKER).is_file()


def _parse_group(group: str | None) -> tuple[str | None, str | None]:
    """Return the data_id and the phase that a group names."""
    parts = [part for part in (group or "").split("/") if part]
    if len(parts) == 1:
        return (None, parts[0]) if parts[0] in (*PHASES, ALL) else (parts[0], None)
    if len(parts) > 2:
        raise ArgumentError(f"a group is 'data_id/phase', 'data_id' or a phase, found {group!r}")
    return (parts[0], parts[1]) if parts else (None, None)


def _open(
    path: Any,
    data_id: str | None,
    version: int | None,
    storage_options: Mapping[str, Any] | None,
    budget: int | str | None,
    *,
    several: bool = False,
) -> StoreGate:
    """Return a gate at the data_id, or at the only one; at none if there are several, and these are wanted."""
    options: OpenArgs = {} if storage_options is None else {"storage_options": dict(storage_options)}
    if budget is not None:
        options["budget"] = budget
    backend_args = cast("BackendArgs", {"output_dir": path, "mode": "r", **options})
    gate = StoreGate("zarr", backend_args, data_id, version=version)
    if data_id is None:
        known = gate.get_data_ids()
        if len(known) == 1:
            gate.set_data_id(known[0])
        elif not several:
            listed = ", ".join(f"group={name + '/train'!r}" for name in known)
            raise DataIdError(
                f"the store at {path} has {len(known)} data_ids; open one: {listed or 'there is none yet'}"
            )
    return gate


def _phase(gate: StoreGate, phase: str) -> xr.Dataset:
    if phase not in gate.phases and phase != ALL:
        known = ", ".join(f"group='{gate.data_id}/{at}'" for at in gate.phases)
        raise PhaseNotFoundError(f"{gate.data_id!r} has no rows in phase {phase!r}; others: {known or 'none'}")
    return gate.to_xarray(cast("Phase", phase))


def _without(dataset: xr.Dataset, names: str | Iterable[str] | None) -> xr.Dataset:
    if names is None:
        return dataset
    return dataset.drop_vars([names] if isinstance(names, str) else list(names), errors="ignore")
