"""Sections: the parts of the page, each from the facts that it shows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from storegate.report import figures
from storegate.report.bars import MOST_CLASSES
from storegate.report.drift import MEANING, Drift
from storegate.report.facts import Facts, Sample, VariableFacts
from storegate.report.markup import Cell, details, number, section, size, table, text
from storegate.report.pictures import data_uri, pixels_of

__all__ = ["SECTIONS"]

MOST_VARIABLES = 200
"""Most variables that are drawn; of others there are only numbers."""
MOST_DRIFTS = 12
"""Most distances that are shown at once, the largest first."""
MOST_COMMITS = 20
"""Most versions that are shown at once, the newest first."""
MOST_LETTERS = 60
"""Most letters of a value of a sample row."""


def phases(facts: Facts) -> str:
    """Return the phases and their sizes."""
    n_rows = {phase.name: phase.n_rows for phase in facts.phases}
    total = max(1, sum(n_rows.values()))
    rows = [
        (phase.name, phase.n_rows, f"{phase.n_rows / total:.1%}", size(phase.nbytes), phase.order or "as stored")
        for phase in facts.phases
    ]
    bar = f'<figure class="wide">{figures.shares("Samples of the phases", n_rows)}</figure>'
    header = ("phase", "samples", "share", "in memory", "order")
    return section("Phases", bar + figures.legend(list(n_rows)) + table(header, rows, "Samples of each phase"))


def class_balance(facts: Facts) -> str:
    """Return the variables that are classes, by phase."""
    found = [variable for variable in facts.variables if variable.bars is not None and variable.bars.are_classes]
    if not found:
        return ""
    cards = "".join(_card(variable) for variable in found[:MOST_VARIABLES])
    about = "Shares within each phase; the number beside a class is its share of the first phase."
    return section("Classes", f"{_legend(facts)}<div class='cards'>{cards}</div>", about)


def drift(facts: Facts) -> str:
    """Return how far phases are apart, the farthest variables first."""
    found = sorted((one for variable in facts.variables for one in variable.drift), key=lambda one: -_excess(one))
    if not found:
        return ""
    header = ("variable", "phases", "distance", "by chance", "in words")
    rows: list[tuple[Cell, ...]] = [
        (one.variable, f"{one.first}, {one.second}", f"{one.distance:.3f}", f"{one.by_chance:.3f}", one.verdict)
        for one in found
    ]
    n = sum(one.verdict != "as by chance" for one in found)
    words = f"{n} of {len(found)} comparisons differ by more than chance." if n else "No more than chance would do."
    shown = table(header, rows[:MOST_DRIFTS], "Distances between phases, the largest first")
    more = details(f"All {len(rows)} distances", table(header, rows, "All distances between phases"))
    return section(
        "Drift", f"<p><strong>{words}</strong></p>{shown}{more if rows[MOST_DRIFTS:] else ''}<p>{MEANING}</p>"
    )


def _excess(one: Drift) -> float:
    return one.distance + (0 if one.verdict == "as by chance" else 1)


def variables(facts: Facts) -> str:
    """Return a card for each variable that is not a class."""
    found = [of for of in facts.variables if of.bars is None or not of.bars.are_classes]
    if not found:
        return ""
    cards = "".join(_card(variable) for variable in found[:MOST_VARIABLES])
    more = ""
    if rest := found[MOST_VARIABLES:]:
        header = ("variable", "phase", "values", "missing", "infinite", "smallest", "largest")
        rows = [
            (of.name, at, one.n_values, one.n_missing, one.n_infinite, number(one.least), number(one.most))
            for of in rest
            for at, one in of.phases.items()
        ]
        more = details(f"{len(rest)} more variables", table(header, rows, "Variables that are not drawn"))
    about = "Shares of the values of each phase in bins that all phases have in common."
    return section("Variables", f"{_legend(facts)}<div class='cards'>{cards}</div>{more}", about)


def _legend(facts: Facts) -> str:
    return figures.legend([phase.name for phase in facts.phases])


def _card(variable: VariableFacts) -> str:
    shape = f" · {variable.rows}" if variable.rows else ""
    units = f" · {variable.units}" if variable.units else ""
    head = f"<h3>{text(variable.name)}</h3><p class='type'>{text(variable.dtype + shape + units)}</p>"
    return f"<article>{head}{_figure(variable)}{_summary(variable)}{_counts(variable)}</article>"


def _figure(variable: VariableFacts) -> str:
    bars = variable.bars
    if bars is None:
        return f"<p class='none'>{_why_no_figure(variable)}</p>"
    if bars.are_classes:
        return f"<figure>{figures.classes(variable.name, bars)}</figure>"
    totals = {at: one.n_values for at, one in variable.phases.items()}
    return f"<figure>{figures.histogram(variable.name, bars, totals)}</figure>"


def _why_no_figure(variable: VariableFacts) -> str:
    if not any(one.n_values - one.n_missing - one.n_infinite for one in variable.phases.values()):
        return "no histogram: there are no finite values"
    if variable.dtype.startswith("complex"):
        return "no histogram: complex numbers have no order"
    return f"no histogram: there are more than {MOST_CLASSES} different texts"


def _summary(variable: VariableFacts) -> str:
    """Return statistics as lines, phases as columns, which fits a phone."""
    of = variable.phases
    lines: list[tuple[Cell, ...]] = [("values", *(one.n_values for one in of.values()))]
    for words, counts in (("missing", _missing(variable)), ("infinite", _infinite(variable))):
        if any(counts):
            lines.append((words, *counts))
    is_class = variable.bars is not None and variable.bars.are_classes
    if not is_class and any(one.least is not None for one in of.values()):
        lines.append(("smallest", *(number(one.least) for one in of.values())))
        lines.append(("largest", *(number(one.most) for one in of.values())))
    if not is_class and any(one.mean is not None for one in of.values()):
        lines.append(("mean", *(number(one.mean) for one in of.values())))
        lines.append(("deviation", *(number(one.std) for one in of.values())))
    if variable.drift:
        first = next(iter(of))
        distances = {one.second: f"{one.distance:.3f}" for one in variable.drift}
        lines.append((f"drift from {first}", *(distances.get(at, "–") for at in of)))
    return table(("", *of), lines, f"Statistics of {variable.name}").replace(
        '<th scope="col"></th>', '<th scope="col"><span class="hidden">statistic</span></th>'
    )


def _missing(variable: VariableFacts) -> list[int]:
    return [one.n_missing for one in variable.phases.values()]


def _infinite(variable: VariableFacts) -> list[int]:
    return [one.n_infinite for one in variable.phases.values()]


def missing(facts: Facts) -> str:
    """Return where values are missing or infinite."""
    rows = [
        (f"{of.name}, {at}", one.n_missing, one.n_infinite, f"{(one.n_missing + one.n_infinite) / one.n_values:.2%}")
        for of in facts.variables
        for at, one in of.phases.items()
        if one.n_missing or one.n_infinite
    ]
    header = ("variable, phase", "missing", "infinite", "share of values")
    if not rows:
        return section("Missing values", "", "No value is missing (NaN or NaT) or infinite.")
    about = "Missing values are NaN and NaT. Means and deviations leave them and infinite ones out."
    return section("Missing values", table(header, rows, "Missing and infinite values"), about)


def _counts(variable: VariableFacts) -> str:
    bars = variable.bars
    if bars is None:
        return ""
    phases = list(bars.counts)
    if bars.are_classes:
        rows = [(label, *(bars.counts[at][i] for at in phases)) for i, label in enumerate(bars.labels)]
        return details("Numbers", table(("class", *phases), rows, f"Counts of the classes of {variable.name}"))
    lines: list[tuple[Cell, ...]] = [
        (
            f"{number(bars.labels[i], digits=6)} to {number(bars.labels[i + 1], digits=6)}",
            *(bars.counts[at][i] for at in phases),
        )
        for i in range(len(bars.labels) - 1)
    ]
    if any(bars.below.values()):
        lines.insert(0, ("below", *(bars.below[at] for at in phases)))
    if any(bars.above.values()):
        lines.append(("above", *(bars.above[at] for at in phases)))
    return details("Numbers", table(("bin", *phases), lines, f"Counts of {variable.name} in bins"))


def shared(facts: Facts) -> str:
    """Return what phases share, if it was looked for."""
    if facts.shared is None:
        about = "Not looked for: it takes one more pass. Ask for it with --check, or gate.report(check=True)."
        return section("Leaks and duplicates", "", about)
    rows = [
        (f"{one.first}, {one.second}", one.equal_rows, f"{one.share:.2%}", _example(one.first, one.second, one.example))
        for one in facts.shared
    ]
    body = table(("phases", "equal rows", "share of the second", "for example"), rows, "Rows that two phases have")
    if not rows:
        body = "<p>There is one phase, so that nothing can be shared.</p>"
    repeated = list(facts.repeated_rows.items())
    body += table(("phase", "rows that it has more than once"), repeated, "Repeated rows of each phase")
    body += "".join(f"<p>{text(words)}</p>" for words in facts.unequal)
    return section("Leaks and duplicates", body)


def _example(first: str, second: str, example: tuple[int, int] | None) -> str:
    return "" if example is None else f"row {example[0]:,} of {first} and row {example[1]:,} of {second}"


def samples(facts: Facts) -> str:
    """Return the first rows: pictures, curves, and values."""
    if not facts.samples:
        return ""
    body = _values([of for of in facts.samples if of.looks_like == "values"])
    body += "".join(
        _images(of) if of.looks_like == "image" else _series(of) for of in facts.samples if of.looks_like != "values"
    )
    return section("First rows", body, f"Of phase {facts.samples[0].phase}, in its order.")


def _values(found: Sequence[Sample]) -> str:
    if not found:
        return ""
    n_rows = max(len(of.rows) for of in found)
    rows: list[tuple[Cell, ...]] = [
        (row, *(_cell(of.rows[row]) if row < len(of.rows) else "" for of in found)) for row in range(n_rows)
    ]
    shown = table(("row", *(of.variable for of in found)), rows, "Values of the first rows")
    return f'<div class="rows">{shown}</div>'


def _cell(value: object) -> str:
    if isinstance(value, float | np.floating):
        return number(float(value), digits=6)
    if isinstance(value, np.ndarray):
        words = np.array2string(value, threshold=6, edgeitems=2, precision=4, separator=", ").replace("\n", "")
    else:
        words = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)
    return words if len(words) <= MOST_LETTERS else words[: MOST_LETTERS - 1] + "…"


def _images(of: Sample) -> str:
    name = text(of.variable)
    pictures = "".join(
        f'<img src="{data_uri(pixels)}" alt="row {row} of {name}" width="96">'
        for row, pixels in enumerate(pixels_of(np.asarray(of.rows)))
    )
    rows: list[tuple[Cell, ...]] = [
        (row, *(number(float(at)) for at in (one.min(), one.mean(), one.max()))) for row, one in enumerate(of.rows)
    ]
    numbers = details(
        "Numbers", table(("row", "smallest", "mean", "largest"), rows, f"Values of images of {of.variable}")
    )
    return f"<article><h3>{name}</h3><figure class='pictures'>{pictures}</figure>{numbers}</article>"


def _series(of: Sample) -> str:
    drawn, points = figures.curves(of.variable, np.asarray(of.rows))
    header = ("position", *(f"row {row}" for row in range(len(of.rows))))
    numbers = details("Numbers", table(header, points, f"Points of the curves of {of.variable}"))
    return f"<article><h3>{text(of.variable)}</h3><figure>{drawn}</figure>{numbers}</article>"


def reading(facts: Facts) -> str:
    """Return what batches and full passes would cost."""
    costs = [
        (
            f"{one.phase}, {one.order}",
            one.n_batches,
            size(one.nbytes),
            size(one.projected_nbytes),
            "–" if one.quality is None else f"{one.quality:.2f}",
        )
        for one in facts.costs
    ]
    if not costs:
        return ""
    n = facts.costs[0].batch_rows
    header = ("phase, order", f"batches of {n}", "bytes of an epoch", "peak memory", "variance")
    body = table(header, costs, "What batches cost")
    problems = list(dict.fromkeys(one.problem for one in facts.costs if one.problem))
    body += "".join(f"<p>{text(problem)}</p>" for problem in problems)
    plans = [(f"{name}, {at}", plan) for at, of in facts.plans.items() for name, plan in of.items()]
    body += details("Full passes over each variable", table(("variable, phase", "plan"), plans, "Plans of full passes"))
    about = (
        "Peak memory is the projection that is compared with the memory limit. Variance is that of a batch's mean, "
        "relative to batches of a uniform shuffle: 1 is as good."
    )
    return section("What reading costs", body, about)


def versions(facts: Facts) -> str:
    """Return the history as a timeline, the newest version first."""
    if not facts.history:
        return ""
    items = [
        f"<li><strong>{commit.version}</strong> <code>{text(commit.operation)}</code> "
        f'<time datetime="{commit.time.isoformat(timespec="seconds")}">{commit.time:%Y-%m-%d %H:%M} UTC</time>'
        f"<span>{text(_arguments(commit.arguments))}</span>"
        + (f"<span>{commit.n_rows:,} rows, {size(commit.nbytes)}</span>" if commit.n_rows or commit.nbytes else "")
        + (f"<span>{text(commit.problem)}</span>" if commit.problem else "")
        + "</li>"
        for commit in reversed(facts.history)
    ]
    body = f"<ol class='timeline' reversed>{''.join(items[:MOST_COMMITS])}</ol>"
    if rest := items[MOST_COMMITS:]:
        body += details(f"{len(rest)} earlier versions", f"<ol class='timeline' reversed>{''.join(rest)}</ol>")
    return section("History", body)


def _arguments(arguments: object) -> str:
    if not isinstance(arguments, dict):
        return ""
    words = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
    return words if len(words) <= 4 * MOST_LETTERS else words[: 4 * MOST_LETTERS - 1] + "…"


def fingerprints(facts: Facts) -> str:
    """Return the fingerprints that are known."""
    rows = [(f"{name}, {at}", digits) for at, of in facts.fingerprints.items() for name, digits in of.items()]
    if not rows:
        about = "None is known. gate.fingerprint() computes them in one pass, and the store keeps them."
        return section("Fingerprints", "", about)
    about = "SHA-256 of dtype, shape and values in logical order: equal rows have equal ones, wherever they are stored."
    return section("Fingerprints", table(("variable, phase", "fingerprint"), rows, "Fingerprints"), about)


SECTIONS = (phases, class_balance, drift, missing, variables, samples, shared, reading, versions, fingerprints)
"""The sections, in the order of the page; a section without facts is empty."""
