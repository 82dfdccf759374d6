"""Summary: the contents of a gate or view as text that fits a terminal, phases side by side; from metadata alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from storegate.display.widths import cut, fitted, padded, terminal_width, width_of, wrapped
from storegate.parsing import ALL, PHASES
from storegate_engine.budget import format_nbytes
from storegate_engine.store import Repository
from storegate_engine.table import ArgMax, Cast, OneHot, Transform, Variable

__all__ = ["summary"]

MAX_LINES = 40
"""Most variables that are shown; the others are counted."""


def summary(
    where: str,
    repository: Repository,
    data_id: str,
    phase: str | None = None,
    names: Sequence[str] | None = None,
    *,
    n_chosen: int | None = None,
) -> str:
    """Return the sizes and orders of a table, or of some variables of a phase, and how each variable is stored.

    ::

        <StoreGate events.zarr · run1 · version 5 · 10,000 samples · 438 KiB>
                     train   valid    test
        samples      8,000   1,000   1,000   shuffled, seed 7
        x   (4,)   float32   stored float64
        y   (3,)   float64   one-hot of int64, 3 classes

    Parameters
    ----------
    where : str
        The title: what is shown, and its place.
    repository : Repository
        The repository of the table.
    data_id : str
        The data_id of the table.
    phase : str, optional
        Only this phase.
    names : sequence of str, optional
        Only these variables.
    n_chosen : int, optional
        The number of rows of a subset.
    """
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
    facts = [where, data_id, f"version {repository.version}", f"{n_samples:,} samples", format_nbytes(nbytes), state]
    title = wrapped(f"<{facts[0]}", [fact for fact in facts[1:] if fact])
    return "\n".join([*title[:-1], f"{title[-1]}>", *fitted([*_sizes(shown), *_variables(shown)])])


def _sizes(shown: dict[str, dict[str, Variable]]) -> list[str]:
    """Return two lines: the phases, and the number of samples of each with their order."""
    if not any(shown.values()):
        return []
    cells = {at: _count(variables.values()) for at, variables in shown.items()}
    widths = {at: max(len(at), len(cell)) for at, cell in cells.items()}
    label = " " * len("samples")
    orders = {at: _order(variables.values()) for at, variables in shown.items()}
    if len(set(orders.values())) == 1:
        order = next(iter(orders.values()))
    else:
        order = ", ".join(f"{at} {words or 'as stored'}" for at, words in orders.items())
    header = "   ".join([label, *(at.rjust(widths[at]) for at in cells)])
    sizes = "   ".join(["samples", *(cell.rjust(widths[at]) for at, cell in cells.items()), order])
    return [header, sizes.rstrip()]


def _count(variables: Iterable[Variable]) -> str:
    """Return the number of samples of variables; the fewest and the most if they differ."""
    counts = sorted({len(variable) for variable in variables})
    return f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,}-{counts[-1]:,}"


def _order(variables: Iterable[Variable]) -> str:
    """Return the order of the rows of a phase, in words."""
    found = list(dict.fromkeys(_words(variable) for variable in variables))
    return found[0] if len(found) == 1 else "in different orders"


def _words(variable: Variable) -> str:
    return ", then ".join(variable.order.words)


def _variables(shown: dict[str, dict[str, Variable]]) -> list[str]:
    """Return a line per variable; several if it differs between phases."""
    names = dict.fromkeys(name for variables in shown.values() for name in variables)
    common = {at: _most_common(len(variable) for variable in variables.values()) for at, variables in shown.items()}
    is_mixed = {at: len({_words(variable) for variable in variables.values()}) > 1 for at, variables in shown.items()}
    cells: list[tuple[str, str, str, str]] = []
    for name in names:
        kinds: dict[tuple[str, str, str], list[str]] = {}
        for at, variables in shown.items():
            if (variable := variables.get(name)) is not None:
                order = (_words(variable) or "as stored") if is_mixed[at] else ""
                words = "; ".join(filter(None, [_transforms(variable), order]))
                kinds.setdefault((str(variable.row_shape), _dtype(variable), words), []).append(at)
        odd = [at for at, variables in shown.items() if name in variables and len(variables[name]) != common[at]]
        for (shape, dtype, words), phases in kinds.items():
            notes = [words]
            if len(kinds) > 1:
                notes = [f"in {' and '.join(phases)}: {words or 'as stored'}"]
            elif len(phases) < len(shown):
                notes.append(f"only in {' and '.join(phases)}")
            notes.extend(f"{len(shown[at][name]):,} in {at}" for at in odd if at in phases)
            cells.append(
                (
                    cut(name, terminal_width() // 3),
                    shape if shape != "()" else "",
                    dtype,
                    "; ".join(filter(None, notes)),
                )
            )
    more = len(cells) - MAX_LINES
    cells = cells[:MAX_LINES] if more > 0 else cells
    widths = [max((width_of(row[at]) for row in cells), default=0) for at in range(3)]
    lines = ["   ".join(padded(cell, width) for cell, width in zip(row, (*widths, 0), strict=True)) for row in cells]
    return [*lines, f"... and {more} more variables"] if more > 0 else lines


def _most_common(counts: Iterable[int]) -> int:
    found = list(counts)
    return max(found, key=found.count, default=0)


def _dtype(variable: Variable) -> str:
    return "text" if variable.dtype.kind == "T" else str(variable.dtype)


def _transforms(variable: Variable) -> str:
    """Return the transforms of a variable, in words."""
    chains = dict.fromkeys(_chain(piece.array.dtype, piece.transforms) for piece in variable.pieces)
    words = " | ".join([chain or "as stored" for chain in chains][:3]) if any(chains) else ""
    if (categories := variable.about.categories) is not None:
        listed = ", ".join(map(str, categories[:4])) + (", ..." if len(categories) > 4 else "")
        count = "1 category" if len(categories) == 1 else f"{len(categories)} categories"
        words = "; ".join(filter(None, [f"{count}: {listed}", words]))
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
    return ", then ".join([f"stored {dtype}", *map(_step, transforms)])


def _step(transform: Transform) -> str:
    match transform:
        case Cast(dtype):
            return f"cast to {dtype}"
        case OneHot(n):
            return f"one-hot, {n} classes"
        case ArgMax():
            return "argmax"
    return str(transform)
