"""Compaction: rewrites variables in their logical order, with transforms applied."""

from __future__ import annotations

from dataclasses import replace

from storegate.edits import tables
from storegate.parsing import ALL, PHASES, Names
from storegate_engine.clusters import Capacity
from storegate_engine.store import Transaction, rewrite
from storegate_engine.table import rows_of

__all__ = ["compact"]


def compact(change: Transaction, phase: str, wanted: Names | None, limits: Capacity) -> None:
    """Rewrite variables of a phase, or of all phases; None for all variables."""
    table = change.table
    if wanted is not None:
        phases = tables.phases_of(table, phase, wanted.names, "compact")
    else:
        phases = list(PHASES) if phase == ALL else [phase]
    for one in phases:
        names = list(table[one] if wanted is None else wanted.names)
        if not names:
            continue
        arrays = rewrite(change, {name: table[one][name] for name in names}, limits)
        new = [
            replace(
                rows_of(name, array, shuffled_by=table[one][name].shuffled_by),
                history=table[one][name].history,
                about=table[one][name].about,
            )
            for name, array in arrays.items()
        ]
        change.edit(tables.put(one, new, compiled=table.compiled), reads=[(one, name) for name in names])
