"""Phases: their names and splits, as ranges of rows; pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np

from storegate_engine.errors import NotCompiledError, PhaseNotFoundError, ShapeError, near_match
from storegate_engine.orders import Span

__all__ = [
    "ALL",
    "PHASES",
    "Phase",
    "PhaseName",
    "PhaseOrSplit",
    "Split",
    "Target",
    "parse_phase",
    "parse_reading_phase",
    "require_compiled",
]

PhaseName: TypeAlias = Literal["train", "valid", "test", "all"]
"""A phase in ``[]``."""
Phase: TypeAlias = PhaseName | Literal["auto"]
"""A phase in a method call; ``auto`` is ``all``."""
PhaseOrSplit: TypeAlias = Phase | Sequence[float] | np.ndarray[Any, Any]
"""A phase, or a split: fractions of the rows, or numbers of them."""

PHASES = ("train", "valid", "test")
"""Phases in the order of ``all``."""

ALL = "all"


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of train, valid and test: counts when all are ints, fractions of the rows otherwise."""

    shares: tuple[int, int, int] | tuple[float, float, float]

    def __post_init__(self) -> None:
        """Check the shares."""
        if any(not share >= 0 for share in self.shares):
            raise ShapeError(f"the split {self.shares} has a negative share")
        if not self.is_counts and not math.isclose(sum(self.shares), 1.0, abs_tol=1e-9, rel_tol=0):
            raise ShapeError(f"the fractions {self.shares} must sum to 1, found {sum(self.shares)}")

    @property
    def is_counts(self) -> bool:
        """Whether the shares are numbers of rows."""
        return all(isinstance(share, int) for share in self.shares)

    def ranges(self, n_rows: int) -> dict[str, Span]:
        """Return the rows of each phase that gets any.

        Boundaries of fractions are ``floor(n * f0)`` and ``floor(n * (f0 + f1))``, after removing float noise.

        Raises
        ------
        ShapeError
            The counts do not sum to the number of rows.

        Examples
        --------
        >>> Split((0.5, 0.25, 0.25)).ranges(10)["valid"]
        Span(start=5, stop=7)
        >>> Split((2, 0, 1)).ranges(3)
        {'train': Span(start=0, stop=2), 'test': Span(start=2, stop=3)}
        """
        first, second, _ = self.shares
        if self.is_counts:
            if sum(self.shares) != n_rows:
                raise ShapeError(f"the counts {self.shares} sum to {sum(self.shares)}, and the data have {n_rows} rows")
            bounds = [0, int(first), int(first + second), n_rows]
        else:
            bounds = [0, _floor(n_rows * first), _floor(n_rows * (first + second)), n_rows]
        ranges = {phase: Span(bounds[at], bounds[at + 1]) for at, phase in enumerate(PHASES)}
        return {phase: span for phase, span in ranges.items() if span.start < span.stop}


def _floor(value: float) -> int:
    """Return the floor, or the nearest integer if only rounding errors lie between (100 * 0.29 is 29)."""
    nearest = round(value)
    noise = 8 * float(np.finfo(float).eps) * max(1.0, abs(value))
    return nearest if abs(value - nearest) <= noise else math.floor(value)


Target: TypeAlias = str | Split
"""A phase's name, ``all``, or a split."""


def parse_phase(phase: object) -> Target:
    """Return the phase or split of a call that adds or changes data.

    Raises
    ------
    PhaseNotFoundError
        The phase is None or an unknown string.
    """
    if isinstance(phase, str) and phase in (*PHASES, ALL, "auto"):
        return ALL if phase == "auto" else phase
    if isinstance(phase, (tuple, list, np.ndarray)):
        return _parse_split(phase)
    hint = near_match(phase, (*PHASES, ALL)) if isinstance(phase, str) else ""
    raise PhaseNotFoundError(
        f"no phase {phase!r}{hint} (phases: train, valid, test, all, auto, or a split like (0.8, 0.1, 0.1))"
    )


def _parse_split(shares: Sequence[Any] | np.ndarray[Any, Any]) -> Split:
    values = list(shares)
    if any(isinstance(v, (bool, np.bool_)) or not isinstance(v, (int, float, np.integer, np.floating)) for v in values):
        raise PhaseNotFoundError(f"a split is three numbers for train, valid and test, found {shares!r}")
    if len(values) != len(PHASES):
        raise ShapeError(f"a split has three shares, for train, valid and test; found {len(values)}: {shares!r}")
    if all(isinstance(value, (int, np.integer)) for value in values):
        return Split((int(values[0]), int(values[1]), int(values[2])))
    return Split((float(values[0]), float(values[1]), float(values[2])))


def parse_reading_phase(phase: object) -> str:
    """Return the phase of a call that reads: one phase, or ``all`` (also for None and ``auto``)."""
    parsed = ALL if phase is None else parse_phase(phase)
    if isinstance(parsed, Split):
        raise PhaseNotFoundError(f"a split {phase!r} cannot be read; give train, valid, test or all")
    return parsed


def require_compiled(compiled: bool, what: str) -> None:
    """Raise NotCompiledError unless the data_id is compiled."""
    if not compiled:
        raise NotCompiledError(f"{what} over all phases needs compile() first: call it after adding or changing data")
