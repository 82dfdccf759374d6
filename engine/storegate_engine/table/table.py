"""Tables: all phases of a data_id as immutable state, and the pure operations on it; never writes, never commits.

::

    Table    = {phase: Phase}, compiled, shared  Phase = {name: Variable}
    Variable = pieces + order                    order: logical row -> stored row, see `orders`
    Piece    = rows start..stop of one array, and the transforms applied when they are read
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.errors import ShapeError, VariableNotFoundError, near_match
from storegate_engine.table.attributes import Attributes
from storegate_engine.table.variable import SAMPLE, Dealt, Variable

__all__ = ["PHASES", "Phase", "Table"]

Array: TypeAlias = np.ndarray[Any, Any]

TABLE_SHARE = 8
"""Share of a memory limit for the tables of permutations."""
TABLE_LEAST_NBYTES = 2**19
"""Least bytes for these tables, whatever the limit: shorter files are not worth opening."""
PHASES = ("train", "valid", "test")
"""The phases of a table, in the order in which they are concatenated."""


Phase: TypeAlias = Mapping[str, Variable]


@dataclass(frozen=True, slots=True)
class Table:
    """All phases of one data_id at one moment."""

    phases: Mapping[str, Phase] = field(
        default_factory=lambda: MappingProxyType({phase: MappingProxyType({}) for phase in PHASES})
    )
    """Variables by phase and name, in the order in which they were added."""
    compiled: bool = False
    """Whether ``compile`` found the rows of every phase to agree since the last change."""
    shared: Phase = field(default_factory=lambda: MappingProxyType({}))
    """What has no sample axis and is the same in all phases, such as coordinates of a grid: one row each."""
    attrs: Mapping[str, Attributes] = field(default_factory=lambda: MappingProxyType({}))
    """The attributes of phases that have any."""

    def __reduce__(self) -> tuple[Callable[..., Table], tuple[Any, ...]]:
        """Pickle as plain dicts (mapping proxies cannot be pickled)."""
        phases = {phase: dict(variables) for phase, variables in self.phases.items()}
        return _table, (phases, self.compiled, dict(self.shared), dict(self.attrs))

    def __getitem__(self, phase: str) -> Phase:
        """Return the variables of one phase."""
        return self.phases[phase]

    def __iter__(self) -> Iterator[tuple[str, Variable]]:
        """Iterate over (phase, variable)."""
        return ((phase, variable) for phase in PHASES for variable in self.phases[phase].values())

    @property
    def sample_dim(self) -> str:
        """The name of the sample axis: the one that was given, or ``sample``."""
        named = (variable.about.dims[0] for _, variable in self if variable.about.dims is not None)
        return next((dim for dim in named if dim != SAMPLE), SAMPLE)

    def variable(self, phase: str, name: str) -> Variable:
        """Return one variable.

        Raises
        ------
        VariableNotFoundError
            The variable does not exist; the message names near matches.
        """
        found = self.phases[phase].get(name)
        if found is None:
            known = self.phases[phase]
            raise VariableNotFoundError(
                f"no variable {name!r} in phase {phase!r}{near_match(name, known)} "
                f"(variables: {', '.join(sorted(known)) or 'none'})"
            )
        return found

    def with_variables(self, phase: str, variables: Iterable[Variable]) -> Table:
        """Return the table with variables added or replaced, not compiled."""
        return self._with_phase(phase, {**self.phases[phase], **{new.name: new for new in variables}})

    def without(self, phase: str, names: Iterable[str]) -> Table:
        """Return the table without some variables, not compiled; missing ones are ignored."""
        gone = set(names)
        left = self._with_phase(phase, {n: v for n, v in self.phases[phase].items() if n not in gone})
        if not left.phases[phase]:
            left = left.with_attrs(phase, ())
        return left if any(left.phases.values()) else left.with_shared((), left.shared)

    def mapped(self, phase: str, names: Iterable[str], edit: Callable[[Variable], Variable]) -> Table:
        """Return the table with some variables edited; the compiled flag stays."""
        edited = [edit(self.variable(phase, name)) for name in names]
        return replace(self.with_variables(phase, edited), compiled=self.compiled)

    def _with_phase(self, phase: str, variables: Mapping[str, Variable]) -> Table:
        phases = MappingProxyType({**self.phases, phase: MappingProxyType(dict(variables))})
        return replace(self, phases=phases, compiled=False)

    def with_shared(self, variables: Iterable[Variable], gone: Iterable[str] = ()) -> Table:
        """Return the table with what has no sample axis added or replaced, and without some of it."""
        kept = {name: variable for name, variable in self.shared.items() if name not in set(gone)}
        return replace(self, shared=MappingProxyType({**kept, **{new.name: new for new in variables}}))

    def with_attrs(self, phase: str, attrs: Attributes) -> Table:
        """Return the table with the attributes of a phase."""
        others = {at: known for at, known in self.attrs.items() if at != phase}
        return replace(self, attrs=MappingProxyType({**others, **({phase: attrs} if attrs else {})}))

    def within(self, budget_nbytes: int) -> Table:
        """Return the table with permutations that take a small share of a memory limit: longer ones move to disk."""
        nbytes = max(TABLE_LEAST_NBYTES, budget_nbytes // TABLE_SHARE)
        phases = {
            phase: MappingProxyType({name: variable.within(nbytes) for name, variable in variables.items()})
            for phase, variables in self.phases.items()
        }
        return replace(self, phases=MappingProxyType(phases))

    def n_rows(self, phase: str) -> int:
        """Return the number of rows of one phase.

        Raises
        ------
        ShapeError
            The variables have different numbers of rows; the message lists them.
        """
        counts = {name: len(variable) for name, variable in self.phases[phase].items()}
        if len(set(counts.values())) > 1:
            listed = ", ".join(f"{name}: {rows}" for name, rows in counts.items())
            raise ShapeError(f"variables of phase {phase!r} have different numbers of rows ({listed})")
        return next(iter(counts.values()), 0)

    def sizes(self) -> dict[str, int]:
        """Return the number of rows of every phase."""
        return {phase: self.n_rows(phase) for phase in PHASES}

    def misaligned(self) -> dict[str, list[list[str]]]:
        """Return, for each phase with differences, the names of variables grouped by how their rows were shuffled."""
        found: dict[str, list[list[str]]] = {}
        for phase, variables in self.phases.items():
            groups: dict[tuple[Dealt, ...], list[str]] = {}
            for name, variable in variables.items():
                groups.setdefault(variable.history, []).append(name)
            if len(groups) > 1:
                found[phase] = list(groups.values())
        return found

    def with_compiled(self) -> Table:
        """Return the compiled table.

        Raises
        ------
        ShapeError
            The variables of a phase have different numbers of rows.
        """
        self.sizes()
        return replace(self, compiled=True)


def _table(phases: Mapping[str, Phase], compiled: bool, shared: Phase, attrs: Mapping[str, Attributes]) -> Table:
    proxies = {phase: MappingProxyType(dict(variables)) for phase, variables in phases.items()}
    return Table(MappingProxyType(proxies), compiled, MappingProxyType(dict(shared)), MappingProxyType(dict(attrs)))
