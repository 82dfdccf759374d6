"""Outlines: the contents of a gate or view in words, which text and HTML then lay out; from metadata alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from storegate.parsing import ALL, PHASES
from storegate_engine.budget import format_nbytes
from storegate_engine.store import Repository
from storegate_engine.table import Affine, ArgMax, Bins, Cast, Clip, OneHot, Transform, Variable

__all__ = ["DETAILS", "Outline", "PhaseLine", "VariableLine", "outline", "shape_text"]

MAX_LINES = 40
"""Most lines of variables; the others are counted."""
MAX_CATEGORIES = 100
"""Most categories that are listed where a variable is shown in detail."""
DETAILS = ("phase", "samples", "share", "bytes", "order")
"""What is known of a variable in a phase."""


@dataclass(frozen=True, slots=True)
class PhaseLine:
    """A phase with its samples."""

    phase: str
    """The name of the phase."""
    samples: str
    """The number of samples; the fewest and the most if variables differ."""
    order: str
    """The order of the samples in words; empty as stored."""


@dataclass(frozen=True, slots=True)
class VariableLine:
    """A variable in those phases where it is read in the same way."""

    name: str
    """The name of the variable."""
    shape: str
    """The shape of a row; empty for a scalar."""
    dtype: str
    """The dtype, or ``text``."""
    notes: str
    """How it is stored, and what is special about it."""
    details: tuple[tuple[str, ...], ...]
    """For each of these phases, what `DETAILS` lists."""
    categories: str
    """What its codes stand for; empty if it has no categories."""


@dataclass(frozen=True, slots=True)
class Outline:
    """The contents of a gate or view."""

    facts: tuple[str, ...]
    """What it is and where, data_id, version, samples, bytes, and whether it is compiled."""
    phases: tuple[PhaseLine, ...]
    """The phases with samples."""
    order: str
    """The order of the samples of all phases in words; empty as stored."""
    lines: tuple[VariableLine, ...]
    """The variables, with several lines for one that differs between phases."""
    n_more: int
    """Number of lines left out."""


def outline(
    where: str,
    repository: Repository | None,
    data_id: str | None,
    phase: str | None = None,
    names: Sequence[str] | None = None,
    *,
    n_chosen: int | None = None,
) -> Outline:
    """Return the sizes and orders of a table, or of some variables of a phase, and how each variable is stored.

    Parameters
    ----------
    where : str
        What is shown, and its place.
    repository : Repository or None
        The repository of the table; None before there is a data_id.
    data_id : str or None
        The data_id of the table.
    phase : str, optional
        Only this phase.
    names : sequence of str, optional
        Only these variables.
    n_chosen : int, optional
        The number of rows of a subset.
    """
    if repository is None:
        return Outline((where, "no data_id"), (), "", (), 0)
    table = repository.table
    phases = [at for at in PHASES if table[at] and phase in (None, ALL, at)]
    shown = {at: {n: v for n, v in table[at].items() if names is None or n in names} for at in phases}
    counts = {at: {len(variable) for variable in variables.values()} for at, variables in shown.items()}
    n_samples = sum(max(found, default=0) for found in counts.values())
    every = [variable for variables in shown.values() for variable in variables.values()]
    nbytes = sum(variable.nbytes for variable in every)
    if n_chosen is not None:
        n_samples, nbytes = n_chosen, n_chosen * sum(variable.row_nbytes for variable in every)
    state = "" if table.compiled else "not compiled"
    facts = (where, str(data_id), f"version {repository.version}", f"{n_samples:,} samples", format_nbytes(nbytes))
    totals = Counter[str]()
    for _, variable in table:
        totals[variable.name] += len(variable)
    lines = _variables(shown, totals)
    return Outline(
        (*facts, state) if state else facts,
        tuple(PhaseLine(at, _count(found), _order(shown[at].values())) for at, found in counts.items() if found),
        _orders(shown),
        tuple(lines[:MAX_LINES]),
        max(0, len(lines) - MAX_LINES),
    )


def _count(counts: Iterable[int]) -> str:
    found = sorted(counts)
    return f"{found[0]:,}" if len(found) == 1 else f"{found[0]:,}-{found[-1]:,}"


def _orders(shown: Mapping[str, Mapping[str, Variable]]) -> str:
    """Return the order of the rows of all phases, in words."""
    orders = {at: _order(variables.values()) for at, variables in shown.items() if variables}
    if len(set(orders.values())) <= 1:
        return next(iter(orders.values()), "")
    return ", ".join(f"{at} {words or 'as stored'}" for at, words in orders.items())


def _order(variables: Iterable[Variable]) -> str:
    """Return the order of the rows of a phase, in words."""
    found = list(dict.fromkeys(_words(variable) for variable in variables))
    return found[0] if len(found) == 1 else "in different orders"


def _words(variable: Variable) -> str:
    return ", then ".join(variable.order.words)


def _variables(shown: Mapping[str, Mapping[str, Variable]], totals: Mapping[str, int]) -> list[VariableLine]:
    """Return a line per variable; several if it differs between phases."""
    names = dict.fromkeys(name for variables in shown.values() for name in variables)
    common = {at: _most_common(len(variable) for variable in variables.values()) for at, variables in shown.items()}
    is_mixed = {at: len({_words(variable) for variable in variables.values()}) > 1 for at, variables in shown.items()}
    lines = []
    for name in names:
        kinds: dict[tuple[str, str, str], list[str]] = {}
        for at, variables in shown.items():
            if (variable := variables.get(name)) is not None:
                order = (_words(variable) or "as stored") if is_mixed[at] else ""
                words = "; ".join(filter(None, [_transforms(variable), order]))
                shape = shape_text(variable)
                kinds.setdefault((shape, _dtype(variable), words), []).append(at)
        for (shape, dtype, words), phases in kinds.items():
            notes = [words]
            if len(kinds) > 1:
                notes = [f"in {' and '.join(phases)}: {words or 'as stored'}"]
            elif len(phases) < len(shown):
                notes.append(f"only in {' and '.join(phases)}")
            found = {at: shown[at][name] for at in phases}
            notes.extend(f"{len(rows):,} in {at}" for at, rows in found.items() if len(rows) != common[at])
            details = tuple(_details(at, rows, totals[name]) for at, rows in found.items())
            categories = _listed(next(iter(found.values())).about.categories or (), MAX_CATEGORIES)
            lines.append(VariableLine(name, shape, dtype, "; ".join(filter(None, notes)), details, categories))
    return lines


def _details(phase: str, variable: Variable, total: int) -> tuple[str, ...]:
    share = f"{100 * len(variable) / max(1, total):.0f}%"
    return phase, f"{len(variable):,}", share, format_nbytes(variable.nbytes), _words(variable) or "as stored"


def _listed(categories: Sequence[object], n: int) -> str:
    return ", ".join(map(str, categories[:n])) + (", ..." if len(categories) > n else "")


def _most_common(counts: Iterable[int]) -> int:
    found = list(counts)
    return max(found, key=found.count, default=0)


def shape_text(variable: Variable) -> str:
    """Return the shape of a row, nothing for a scalar; ``var`` is a size that differs between rows, as in awkward."""
    sizes = ("var", *map(str, variable.row_shape)) if variable.kind == "ragged" else tuple(map(str, variable.row_shape))
    return f"({', '.join(sizes)}{',' if len(sizes) == 1 else ''})" if sizes else ""


def _dtype(variable: Variable) -> str:
    return "text" if variable.dtype.kind == "T" else str(variable.dtype)


def _transforms(variable: Variable) -> str:
    """Return the transforms of a variable, in words."""
    chains = dict.fromkeys(_chain(piece.array.dtype, piece.transforms) for piece in variable.pieces)
    words = " | ".join([chain or "as stored" for chain in chains][:3]) if any(chains) else ""
    if (categories := variable.about.categories) is not None:
        count = "1 category" if len(categories) == 1 else f"{len(categories)} categories"
        words = "; ".join(filter(None, [f"{count}: {_listed(categories, 4)}", words]))
    if variable.kind == "sparse":
        words = "; ".join(filter(None, ["sparse", words]))
    return words


def _chain(dtype: object, transforms: Sequence[Transform]) -> str:
    match transforms:
        case ():
            return ""
        case (Cast(),):
            return f"stored {dtype}"
        case (OneHot(n),):
            return f"one-hot of {dtype}, {n} classes"
        case (ArgMax(),):
            return f"argmax of {dtype}"
        case (Affine() | Clip() | Bins() as only,):
            return f"{_step(only)} {dtype}"
    return ", then ".join([f"stored {dtype}", *map(_step, transforms)])


def _step(transform: Transform) -> str:
    match transform:
        case Cast(dtype):
            return f"cast to {dtype}"
        case OneHot(n):
            return f"one-hot, {n} classes"
        case ArgMax():
            return "argmax"
        case Affine(kind):
            return {"standardize": "standardized", "normalize": "normalized"}[kind]
        case Clip(low, high):
            return f"clipped to {'' if low is None else low}..{'' if high is None else high}"
        case Bins(edges):
            return f"{len(edges) + 1} quantile bins"
    return str(transform)
