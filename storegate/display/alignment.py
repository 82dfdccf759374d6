"""Alignment: warns of variables of one phase whose rows may not belong together."""

from __future__ import annotations

import warnings

from storegate.callers import users_stacklevel
from storegate_engine.errors import AlignmentWarning
from storegate_engine.table import Table, Variable

__all__ = ["warn_of_misaligned"]


def warn_of_misaligned(table: Table) -> None:
    """Warn if variables of a phase were shuffled differently when they were added."""
    for phase, groups in table.misaligned().items():
        listed = "; ".join(f"{', '.join(names)}: {_dealt(table[phase][names[0]])}" for names in groups)
        warnings.warn(
            f"the rows of variables in phase {phase!r} may not belong together: they were added in different orders "
            f"({listed}); add variables of the same samples in one call, or with the same shuffle= and split",
            AlignmentWarning,
            stacklevel=users_stacklevel(),
        )


def _dealt(variable: Variable) -> str:
    parts = [
        f"rows {dealt.lo}..{dealt.hi} of {dealt.n_rows} shuffled with seed {dealt.seed}" for dealt in variable.history
    ]
    return " and ".join(parts) or "as they came"
