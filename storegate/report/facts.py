"""Facts: what a report says, as immutable values and as JSON; knows neither tables nor pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

import numpy as np

from storegate.display import Looks
from storegate.report.drift import Drift
from storegate.versions import Commit
from storegate_engine.ragged import Ragged

__all__ = ["Bars", "Cost", "Facts", "PhaseFacts", "Sample", "Shared", "Summary", "VariableFacts"]

Array: TypeAlias = np.ndarray[Any, Any]
Value: TypeAlias = int | float | str | None
"""A number, or a time or text as it is printed."""


@dataclass(frozen=True, slots=True)
class PhaseFacts:
    """A phase."""

    name: str
    """Its name."""
    n_rows: int
    """Its samples; the most, if variables have different numbers."""
    nbytes: int
    """Bytes of its rows in memory."""
    order: str
    """The order of its samples, in words; empty as stored."""


@dataclass(frozen=True, slots=True)
class Summary:
    """The values of a variable in one phase."""

    n_rows: int
    """Its rows."""
    n_values: int
    """Its values, missing ones included."""
    n_missing: int
    """How many are NaN or NaT."""
    n_infinite: int
    """How many are infinite."""
    least: Value
    """The smallest value; None for text, complex numbers, or if there is none."""
    most: Value
    """The largest value."""
    mean: float | None
    """The mean of the finite numbers."""
    std: float | None
    """Their standard deviation, of the population."""


@dataclass(frozen=True, slots=True)
class Bars:
    """Counts in bins or classes that all phases have in common."""

    labels: Sequence[Value]
    """The classes; or the edges of bins, one more than there are bins: each contains its lower edge."""
    counts: Mapping[str, Sequence[int]]
    """For each phase, how many values each bin has."""
    are_classes: bool
    """Whether the labels are classes."""
    below: Mapping[str, int]
    """For each phase, how many values lie below the first bin; a few far ones are not drawn."""
    above: Mapping[str, int]
    """For each phase, how many values lie above the last bin."""


@dataclass(frozen=True, slots=True)
class VariableFacts:
    """A variable in all phases that have it."""

    name: str
    """Its name."""
    dtype: str
    """Its dtype."""
    rows: str
    """What a row is, in words; empty for one value."""
    units: str
    """The units that its attributes name, if any."""
    phases: Mapping[str, Summary]
    """What its values are, by phase."""
    bars: Bars | None
    """How often they occur; None for text of many kinds, and complex numbers."""
    drift: Sequence[Drift]
    """How far the phases are apart, the first one from each other one."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The first rows of a variable in one phase."""

    variable: str
    """The variable."""
    phase: str
    """The phase."""
    looks_like: Looks
    """Whether they look like images or series."""
    rows: Array | Ragged
    """The rows."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What two phases share."""

    first: str
    """One phase."""
    second: str
    """The other."""
    equal_rows: int
    """How many rows of the second one the first one has, too."""
    share: float
    """Their share of the second one."""
    example: tuple[int, int] | None
    """The numbers of two equal rows, in the first and in the second phase."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What batches of a phase cost."""

    phase: str
    """The phase."""
    order: str
    """The order of the batches: ``in order``, ``uniform`` or ``blocks``."""
    batch_rows: int
    """Rows of a batch."""
    n_batches: int
    """Batches of an epoch."""
    nbytes: int
    """Bytes of the rows of an epoch."""
    projected_nbytes: int | None
    """The peak memory, as projected; None if there can be no such batches."""
    quality: float | None
    """The variance of a batch's mean, relative to uniform batches."""
    problem: str
    """Why there can be no such batches, if so."""


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """All that a report says."""

    place: str
    """The name of the store, or ``in memory``."""
    data_id: str
    """The data_id."""
    version: int
    """The version that was looked at."""
    made: datetime
    """When, in UTC."""
    phases: Sequence[PhaseFacts]
    """The phases with rows."""
    variables: Sequence[VariableFacts]
    """The variables."""
    shared: Sequence[Shared] | None
    """What phases share; None if it was not looked for."""
    repeated_rows: Mapping[str, int]
    """For each phase, how many of its rows it has more than once; empty if it was not looked for."""
    unequal: Sequence[str]
    """Variables that are not alike in all phases, in words."""
    samples: Sequence[Sample]
    """The first rows of some variables."""
    history: Sequence[Commit]
    """The kept versions, the oldest first; empty for rows in memory."""
    fingerprints: Mapping[str, Mapping[str, str]]
    """For each phase, the SHA-256 of variables that the store knows."""
    plans: Mapping[str, Mapping[str, str]]
    """For each phase and variable, how a full pass would read it, in words."""
    costs: Sequence[Cost]
    """What batches would cost."""
