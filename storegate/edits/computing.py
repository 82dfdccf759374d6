"""Computing: new variables from functions of a phase's Dataset, stored block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from storegate.edits.writes import update
from storegate.parsing import ALL, PHASES, Computable, computed_columns, parse_names
from storegate_engine import graphs
from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArgumentError, VariableNotFoundError
from storegate_engine.store import Transaction
from storegate_engine.table import Table

__all__ = ["compute"]

SHARE = 2
"""Share of a memory limit for the blocks that functions get: what they make of them on the way takes as much again."""


def compute(change: Transaction, functions: Mapping[str, Computable], phase: str, limits: Capacity) -> None:
    """Add or replace variables of a phase, or of all phases with rows.

    Raises
    ------
    ArgumentError
        There is nothing to compute.
    VariableNotFoundError
        There are no rows to compute from.
    """
    if not functions:
        raise ArgumentError("give the variables to compute, as in gate.assign(z=lambda ds: ds.x + ds.y)")
    names, table = parse_names(list(functions), validate=True), change.table
    phases = [at for at in PHASES if phase in (at, ALL) and table[at]]
    if not phases:
        raise VariableNotFoundError(f"assign: phase {phase!r} has no variables to compute from")
    room = replace(limits, budget_nbytes=limits.budget_nbytes // SHARE)
    for at in phases:
        table.n_rows(at)  # refuses variables of different lengths
        dataset = graphs.to_dataset(table, table[at], table.attrs.get(at, ()), room)
        columns = computed_columns(dataset, functions, table.sample_dim)
        # rows were computed from all variables of the phase, and in their order
        change.edit(lambda same: same, reads=[(at, name) for name in table[at]])
        update(change, names, [columns[name] for name in names.names], at, None, do_compile=False)
    if table.compiled:
        change.edit(Table.with_compiled)
