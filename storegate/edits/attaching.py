"""Attaching: variables whose rows stay in the files of other programs; only metadata of the files are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate.edits import tables
from storegate.edits.labels import add_labels, described
from storegate.edits.writes import append_arrays
from storegate.parsing import ALL, PHASES, Labelled, Target, VarNames, parse_names, require_same_meaning
from storegate_engine.arrays import FORMATS, ForeignArray, arrays_in, list_of, open_foreign, source_file, targets_of
from storegate_engine.errors import (
    ArgumentError,
    DtypeError,
    ShapeError,
    SourceError,
    StoreGateError,
    near_match,
    shown,
)
from storegate_engine.store import (
    ArraySource,
    Categories,
    Source,
    Transaction,
    VariableSource,
    categories_in,
)
from storegate_engine.table import PLAIN, Description, require_combinable, rows_of, values_of

__all__ = ["Sources", "attach", "sources_of"]


LabelsIn: TypeAlias = Callable[[str, str, str, Sequence[str] | None], dict[str, Labelled]]
"""Returns what a file says about arrays of a group, by name or about all."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Files to attach, and which array of each is which variable."""

    form: str
    """The format."""
    paths: tuple[str, ...]
    """The files, in order, without links."""
    names: tuple[str, ...]
    """The names of the variables."""
    inside: tuple[str, ...]
    """Their arrays in each file, in words of the format."""
    labels_in: LabelsIn
    """What a file says about them."""
    labels: Mapping[str, Labelled] = field(default_factory=dict)
    """What the first file says."""
    group: str = ""
    """The group that is meant in each file."""

    @property
    def directories(self) -> list[str]:
        """The directories of the files."""
        return sorted({os.path.dirname(path) for path in self.paths})


def sources_of(
    files: Sequence[tuple[str, str]],
    var_names: VarNames | None,
    form: str | None,
    dtype: npt.DTypeLike | None,
    row_shape: int | Sequence[int],
    labels_in: LabelsIn,
) -> Sources:
    """Return which arrays of files become which variables.

    Parameters
    ----------
    files : sequence of tuple of str
        Their paths, and the group that is meant in each.
    var_names, dtype, row_shape
        As for ``gate.attach``.
    form : str or None
        The format; None if nothing tells it.
    labels_in : callable
        Returns what a file says about some arrays in it.

    Raises
    ------
    SourceError
        The first file cannot be opened, or has no such array.
    ArgumentError
        The files cannot be attached, or names are needed.
    """
    paths, groups = tuple(path for path, _ in files), {group for _, group in files}
    found = "raw" if form is None and dtype is not None else form
    if found is None or found not in FORMATS:
        near = near_match(str(found), FORMATS) if found else ""
        raise ArgumentError(
            f"{paths[0]} is of no format that can be attached{near}; copy it with gate.read, or give format=, one of "
            f"{', '.join(FORMATS)}, or dtype= for raw rows"
        )
    if len(groups) > 1:
        raise ArgumentError(
            f"the files name different groups ({', '.join(sorted(groups))}); attach one after the other"
        )
    if found == "raw":
        if dtype is None:
            raise ArgumentError("raw rows have no dtype of their own; give dtype= and, if rows are arrays, row_shape=")
        sizes = (row_shape,) if isinstance(row_shape, int) else tuple(row_shape)
        known = {"": f"{np.dtype(dtype).str}:{','.join(str(int(size)) for size in sizes)}:0"}
    else:
        if dtype is not None or row_shape not in ((), []):
            raise ArgumentError(f"dtype= and row_shape= describe raw rows, and these are of {found}")
        known = arrays_in(found, *files[0])
    if list(known) == [""]:
        if var_names is None:
            raise ArgumentError(f"files of {found} have no names; give one, as in gate.attach({paths[0]!r}, 'x')")
        names = parse_names(var_names, validate=True).names
        if len(names) != 1:
            raise ArgumentError(f"a file of {found} has one array, and {len(names)} names are given")
        return Sources(found, paths, names, (known[""],), labels_in)
    wanted = None if var_names is None else parse_names(var_names, validate=True).names
    for name in wanted or ():
        if name not in known:
            raise SourceError(
                f"{paths[0]} has no array {name!r}{near_match(name, known)} (arrays: {', '.join(known) or 'none'})"
            )
    labels = labels_in(found, *files[0], wanted)
    names = wanted or parse_names(list(labels or known), validate=True).names
    return Sources(found, paths, names, tuple(known[name] for name in names), labels_in, labels, *groups)


def attach(change: Transaction, sources: Sources, target: Target, seed: int | None, references: Sequence[str]) -> None:
    """Append the rows of files to variables; none are copied.

    Raises
    ------
    SourceError
        A file cannot be opened, or has other arrays than the first.
    ShapeError
        The arrays of a file have different numbers of rows.
    """
    table = change.table
    first: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    chunk_rows = dict.fromkeys(sources.names, 1)
    roots = (*references, *sources.directories)
    found = []
    for path in sources.paths:
        counts = {}
        targets: set[str] = set()
        for name, inside in zip(sources.names, sources.inside, strict=True):
            opened = open_foreign(sources.form, path, inside)
            if not opened.shape:
                raise ShapeError(
                    f"array {inside!r} of {path} is a scalar, without a sample axis; choose others by name"
                )
            kind = (opened.dtype, opened.shape[1:])
            if first.setdefault(name, kind) != kind:
                raise SourceError(
                    f"array {inside!r} of {path} has dtype {kind[0]} and rows of shape {kind[1]}, and that of "
                    f"{sources.paths[0]} {first[name][0]} and {first[name][1]}; nothing was attached"
                )
            counts[name] = opened.shape[0]
            targets.update(targets_of(opened))
            chunk_rows[name] = max(chunk_rows[name], opened.chunk_rows)
        if len(set(counts.values())) > 1:
            raise ShapeError(
                f"the arrays of {path} have different numbers of rows ({counts}); choose those of the samples by name"
            )
        if sources.labels:
            labels = sources.labels_in(sources.form, path, sources.group, sources.names)
            try:
                require_same_meaning(sources.labels, labels, sources.paths[0])
                _require_same_categories(sources.labels, labels, sources.paths[0])
            except StoreGateError as err:
                err.args = (f"{path}: {err}",)
                raise
        found.append(source_file(path, next(iter(counts.values())), targets, roots))
    n_rows = sum(source.n_rows for source in found)
    phases = tables.target_phases(table, target, [n_rows])
    for at in phases:
        for name, (dtype, row_shape) in first.items():
            if name in table[at]:
                table[at][name].require_row_shape(row_shape)
                require_combinable(name, table[at][name].dtype, dtype)
    files = change.store({"files": ArraySource(list_of(found))})["files"]
    arrays = {
        name: ForeignArray(
            sources.form, inside, files, *first[name], n_rows, chunk_rows[name], roots
        ).with_counted_text()
        for name, inside in zip(sources.names, sources.inside, strict=True)
    }
    columns: dict[str, Source] = {name: VariableSource(rows_of(name, array)) for name, array in arrays.items()}
    abouts = {
        name: described(_codes_of(label) if first[name][0] == Categories.dtype else PLAIN, label, [], 0)
        for name, label in sources.labels.items()
    }
    for name in sources.names:
        for at in (at for at in PHASES if name in table[at]):
            _require_same_codes(name, abouts.get(name, PLAIN), table[at][name].about, f"phase {at!r}")
    add_labels(change, columns, sources.labels, phases)
    append_arrays(change, arrays, target, seed, abouts, table.sizes() if target == ALL else None)


def _codes_of(label: Labelled) -> Description:
    """Return the categories of codes that StoreGate wrote to a file, as a description; nothing of others."""
    found = categories_in(values_of(label.about.attrs))
    return PLAIN if found is None else Description(*found)


def _require_same_categories(first: Mapping[str, Labelled], other: Mapping[str, Labelled], place: str) -> None:
    for name in (name for name in first if name in other):
        _require_same_codes(name, _codes_of(other[name]), _codes_of(first[name]), place)


def _require_same_codes(name: str, new: Description, old: Description, place: str) -> None:
    """Raise DtypeError unless codes that stay in their files stand for what others stand for."""
    if (new.categories, new.is_ordered) != (old.categories, old.is_ordered):
        found = [
            "plain values" if about.categories is None else f"categories ({shown(about.categories)})"
            for about in (new, old)
        ]
        raise DtypeError(
            f"variable {name!r} has {found[0]}, and {found[1]} in {place}; codes in files stay as they are: copy the "
            "files with gate.read"
        )
