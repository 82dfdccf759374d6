"""Transforms: shuffles, casts and encodings; they change how rows are read, not what is stored."""

from __future__ import annotations

from storegate.edits import tables
from storegate.edits.checks import require_applicable
from storegate.parsing import ALL, PHASES, Names
from storegate_engine.store import Transaction
from storegate_engine.table import Transform

__all__ = ["shuffle", "transform"]


def transform(change: Transaction, names: Names, phase: str, transform: Transform, operation: str) -> None:
    """Add a transform to those of the variables; nothing changes unless it can be applied to every row of each."""
    phases = tables.phases_of(change.table, phase, names.names, operation)
    for one in phases:
        for name in names.names:
            old = change.table[one][name]
            require_applicable(transform, old, one, change.repository.budget_nbytes)
            tables.storable(old.transformed(transform).dtype, [name])
    for one in phases:
        edit = tables.mapped(one, names.names, lambda old: old.transformed(transform))
        change.edit(edit, reads=[(one, name) for name in names.names])


def shuffle(change: Transaction, phase: str, seed: int) -> None:
    """Permute the order of all variables of a phase, or of each phase, in the same way."""
    for one in PHASES if phase == ALL else (phase,):
        change.table.n_rows(one)  # refuses variables of different lengths
        names = list(change.table[one])
        targets = [(one, name) for name in names]
        change.edit(tables.mapped(one, names, lambda old: old.permuted(seed)), reads=targets, touches=targets)
