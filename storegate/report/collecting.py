"""Collecting: the facts of a report from a table: what was counted, metadata, and the first rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import numpy as np

from storegate.display import Looks, looks_like
from storegate.leaks import Leaks, find_leaks
from storegate.parsing import PHASES
from storegate.reading import read_dataset
from storegate.report.bars import bars_of, shown
from storegate.report.counting import Counted
from storegate.report.drift import Drift
from storegate.report.facts import Bars, Cost, Facts, PhaseFacts, Sample, Shared, Summary, VariableFacts
from storegate.report.scanning import Found, is_onehot, labels_of, scan
from storegate.versions import Commit, history
from storegate_engine import graphs
from storegate_engine.clusters import Capacity
from storegate_engine.errors import ArgumentError, MemoryBudgetError, VersionNotFoundError
from storegate_engine.store import Repository, known_fingerprints
from storegate_engine.streams import Epochs, Shuffle, Stream
from storegate_engine.table import Table, Variable, values_of

__all__ = ["Source", "bars_in_one_pass", "collect"]

Array: TypeAlias = np.ndarray[Any, Any]

SAMPLE_ROWS = 6
"""Rows that are shown."""
MAX_SAMPLES = 24
"""Most variables of which rows are shown."""
SAMPLE_NBYTES = 16 * 2**20
"""Most bytes of the rows of a variable that are shown."""
BATCH_ROWS = 256
"""Rows of the batches whose cost is told."""
PEEK_ROWS = 256
"""Rows of the reads that the plans of a Dataset are asked for; only its full passes are told."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where facts come from."""

    repository: Repository
    """The repository of the table."""
    place: str
    """The name of the store, or ``in memory``."""
    data_id: str
    """The data_id."""
    limits: Capacity
    """Memory and threads that Datasets are planned with."""
    budget_nbytes: int
    """The memory limit."""


def collect(source: Source, *, check: bool) -> Facts:
    """Return the facts of a table; all rows are read once, and once more to look for equal ones.

    Parameters
    ----------
    source : Source
        Where they come from.
    check : bool
        Whether to look for rows that several phases have.
    """
    repository = source.repository
    table, version = repository.table, repository.version
    variables = [(name, at, variable) for at in PHASES for name, variable in table[at].items()]
    found = scan(variables, source.budget_nbytes)
    leaks = find_leaks(table, None, (), None, source.budget_nbytes) if check else None
    phases = [at for at in PHASES if table[at]]
    return Facts(
        source.place,
        source.data_id,
        version,
        datetime.now(UTC),
        [_phase(table, at) for at in phases],
        [_variable(table, name, found) for name in dict.fromkeys(name for at in phases for name in table[at])],
        None if leaks is None else _shared(leaks),
        {} if leaks is None else leaks.repeated_rows,
        [] if leaks is None else leaks.unequal_variables,
        _samples(table),
        _history(repository),
        {at: known_fingerprints(repository, table[at]) for at in phases},
        {at: _plans(source, at) for at in phases if _is_even(table, at)},
        [cost for at in phases if _is_even(table, at) for cost in _costs(source, at)],
    )


def bars_in_one_pass(variables: Sequence[Variable], budget_nbytes: int) -> list[Bars | None]:
    """Return how often the values of variables occur, as a report does; None for what cannot be counted."""
    found = scan([(of.name, "rows", of) for of in variables], budget_nbytes)
    return [bars_of({"rows": labels_of(of)}, {"rows": found.get((of.name, "rows"), Counted())}) for of in variables]


def _phase(table: Table, at: str) -> PhaseFacts:
    variables = table[at].values()
    words = dict.fromkeys(", then ".join(variable.order.words) for variable in variables)
    order = next(iter(words)) if len(words) == 1 else "in different orders"
    return PhaseFacts(at, max(map(len, variables)), sum(variable.nbytes for variable in variables), order)


def _is_even(table: Table, at: str) -> bool:
    lengths = {len(variable) for variable in table[at].values()}
    return len(lengths) == 1 and lengths != {0}


def _variable(table: Table, name: str, found: Found) -> VariableFacts:
    variables = {at: table[at][name] for at in PHASES if name in table[at]}
    first = next((of for of in variables.values() if len(of)), next(iter(variables.values())))
    counted = {at: found.get((name, at), Counted()) for at in variables}
    labels = {at: labels_of(variable) for at, variable in variables.items()}
    bars = bars_of(labels, counted)
    units = values_of(first.about.attrs).get("units", "")
    return VariableFacts(
        name,
        "text" if first.dtype.kind == "T" else str(first.dtype),
        "" if first.is_scalar else first.row_shape_in_words,
        units if isinstance(units, str) else "",
        {at: _summary(labels[at], of, is_code=is_onehot(variables[at])) for at, of in counted.items()},
        bars,
        [] if bars is None else _drift(name, variables, bars, counted),
    )


def _summary(variable: Variable, counted: Counted, *, is_code: bool) -> Summary:
    statistics, moments = counted.statistics, counted.moments
    is_number = moments is not None and moments.count.item() and variable.about.categories is None and not is_code
    return Summary(
        len(variable),
        counted.n_values,
        statistics.n_missing,
        statistics.n_infinite,
        shown(variable.dtype, statistics.least),
        shown(variable.dtype, statistics.most),
        moments.mean.item() if is_number and moments is not None else None,
        moments.std.item() if is_number and moments is not None else None,
    )


def _drift(name: str, variables: Mapping[str, Variable], bars: Bars, counted: Mapping[str, Counted]) -> list[Drift]:
    phases = [at for at, of in counted.items() if of.n_values]
    if not phases:
        return []
    shares = {}
    for at in phases:
        missing = counted[at].statistics
        outside = [bars.below[at], bars.above[at], missing.n_missing, missing.n_infinite]
        shares[at] = np.array([*bars.counts[at], *outside])
    first = phases[0]
    return [
        Drift.of(name, (first, at), (shares[first], shares[at]), (len(variables[first]), len(variables[at])))
        for at in phases[1:]
    ]


def _shared(leaks: Leaks) -> list[Shared]:
    return [
        Shared(*pair, count, count / max(1, leaks.n_rows[pair[1]]), next(iter(leaks.examples.get(pair, ())), None))
        for pair, count in leaks.equal_rows.items()
    ]


def _history(repository: Repository) -> Sequence[Commit]:
    try:
        return history(repository)
    except VersionNotFoundError:  # rows in memory
        return ()


def _samples(table: Table) -> list[Sample]:
    """Return the first rows of the first phase."""
    at = next((at for at in PHASES if any(map(len, table[at].values()))), None)
    samples: list[Sample] = []
    for name, variable in table[at].items() if at is not None else ():
        n_rows = min(SAMPLE_ROWS, len(variable))
        if n_rows and len(samples) < MAX_SAMPLES and n_rows * variable.row_nbytes <= SAMPLE_NBYTES:
            looks: Looks = "values" if is_onehot(variable) else looks_like(variable)
            samples.append(Sample(name, at or "", looks, _readable(variable, variable.read(0, n_rows))))
    return samples


def _readable(variable: Variable, rows: Any) -> Any:
    """Return rows with the zeros of sparse ones, and the categories of codes."""
    categories = variable.about.categories
    if categories is None or not all(0 <= code < len(categories) for code in rows.flat):
        return np.asarray(rows) if variable.kind == "sparse" else rows
    return np.array([str(categories[code]) for code in rows.flat]).reshape(rows.shape)


def _plans(source: Source, at: str) -> dict[str, str]:
    dataset = read_dataset(source.repository, source.place, source.data_id, at, source.limits)
    return {name: full.describe() for name, (full, _) in graphs.plans_of(dataset, PEEK_ROWS).items()}


ORDERS: Sequence[tuple[str, Any]] = (("in order", "none"), ("uniform", "uniform"), ("blocks", "blocks"))


def _costs(source: Source, at: str) -> list[Cost]:
    variables = list(source.repository.table[at].values())
    n_rows, nbytes = len(variables[0]), sum(variable.nbytes for variable in variables)
    costs = []
    for words, kind in ORDERS:
        epochs = Epochs(n_rows, BATCH_ROWS)
        projected, quality, problem = None, None, ""
        try:
            stream: Stream[list[Array]] = Stream(
                variables, epochs, Shuffle(kind), form=list, budget_nbytes=source.budget_nbytes
            )
            with stream:
                projected, quality = stream.projected_nbytes, stream.quality
        except (ArgumentError, MemoryBudgetError) as err:
            problem = str(err)
        costs.append(Cost(at, words, BATCH_ROWS, epochs.n_steps, nbytes, projected, quality, problem))
    return costs
