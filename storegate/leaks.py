"""Leaks: rows and groups that several phases have, found in one pass over the rows, within the budget."""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import IO, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from storegate.contents import names_in
from storegate.display import aligned
from storegate.parsing import ALL, PHASES
from storegate.scans import scanned_rows
from storegate_engine.errors import ArgumentError, VariableNotFoundError
from storegate_engine.orders import hash_rows
from storegate_engine.ragged import Ragged
from storegate_engine.settings import scratch_directory
from storegate_engine.table import Table, Variable

__all__ = ["Leaks", "find_leaks"]

Array: TypeAlias = npt.NDArray[Any]

WIDE = 256
"""Rows of more values are hashed as bytes, one after the other; shorter ones value by value, all at a time."""
EXAMPLES = 10
"""Most examples of equal rows for each pair of phases."""
ENTRY = np.dtype([("hash", "u8"), ("row", "i8"), ("phase", "u1")])


@dataclass(frozen=True, slots=True)
class Leaks:
    """What phases share that they should not; prints as a table.

    Examples
    --------
    >>> from storegate import StoreGate
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data({"x": [1, 2, 3, 3], "run": [1, 1, 2, 2]})
    >>> gate.add_data({"x": [3, 4], "run": [2, 3]}, phase="test")
    >>> found = gate.check(groups="run")
    >>> print(found)
    <Leaks: phases share what they should not>
    phases       equal rows  share of the second  for example      shared groups
    -----------  ----------  -------------------  ---------------  -------------
    train, test  1           50.00%               train 2, test 0  1
    repeated within a phase: 1 of train
    >>> found.ok, found.n_rows["train"], found.repeated_rows["train"], found.unequal_variables
    (False, 4, 1, ())
    >>> pair = "train", "test"
    >>> found.equal_rows[pair], found.examples[pair], found.shared_groups[pair]
    (1, [(2, 0)], [2])
    """

    n_rows: Mapping[str, int]
    """The rows of each phase that was looked at."""
    equal_rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """For each pair of phases: how many rows of the second one the first one has, too."""
    examples: Mapping[tuple[str, str], Sequence[tuple[int, int]]] = field(default_factory=dict)
    """For each such pair, the numbers of some equal rows: in the first, and in the second phase."""
    repeated_rows: Mapping[str, int] = field(default_factory=dict)
    """For each phase: how many of its rows it has more than once, without the first of each."""
    shared_groups: Mapping[tuple[str, str], Sequence[Any]] = field(default_factory=dict)
    """For each pair of phases: the groups that both have."""
    unequal_variables: Sequence[str] = ()
    """Variables that not all phases have, or not in the same form, in words."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found; rows that are repeated within a phase do not count."""
        return not (any(self.equal_rows.values()) or any(self.shared_groups.values()) or self.unequal_variables)

    def __repr__(self) -> str:
        lines = [("phases", "equal rows", "share of the second", "for example", "shared groups")]
        for pair, count in self.equal_rows.items():
            first, second = pair
            share = f"{count / max(1, self.n_rows[second]):.2%}"
            some = next(iter(self.examples.get(pair, ())), None)
            example = "" if some is None else f"{first} {some[0]}, {second} {some[1]}"
            groups = self.shared_groups.get(pair)
            lines.append(
                (f"{first}, {second}", f"{count:,}", share, example, "" if groups is None else str(len(groups)))
            )
        words = "nothing is shared" if self.ok else "phases share what they should not"
        repeated = [f"{count:,} of {phase}" for phase, count in self.repeated_rows.items() if count]
        notes = [f"repeated within a phase: {', '.join(repeated)}"] if repeated else []
        return "\n".join([f"<Leaks: {words}>", aligned(lines), *notes, *self.unequal_variables])


def find_leaks(
    table: Table, names: Sequence[str] | None, groups: Sequence[str], near: float | None, budget_nbytes: int
) -> Leaks:
    """Return what the phases of a table share.

    Parameters
    ----------
    table : Table
        The table.
    names : sequence of str or None
        The variables by which rows are compared; None for all.
    groups : sequence of str
        The variables that name the group of a row.
    near : float or None
        Numbers that differ by less are mostly taken as equal; None compares them exactly.
    budget_nbytes : int
        Limit of memory; more rows are sorted in scratch files.

    Raises
    ------
    VariableNotFoundError
        A phase lacks a variable that was named, or there are none to compare by.
    """
    phases = [at for at in PHASES if table[at] and table.n_rows(at)]
    unequal = _unequal(table, phases)
    common = [name for name in names_in(table, ALL) if not any(f"variable {name!r}" in words for words in unequal)]
    wanted = list(common if names is None else names)
    for at in phases:
        for name in (*wanted, *groups):
            table.variable(at, name)
    if not wanted and phases:
        raise VariableNotFoundError("no variable is alike in all phases, so that rows cannot be compared; name some")
    n_rows = {at: table.n_rows(at) for at in phases}
    equal: dict[tuple[str, str], int] = dict.fromkeys(combinations(phases, 2), 0)
    examples: dict[tuple[str, str], list[tuple[int, int]]] = {pair: [] for pair in equal}
    repeated = dict.fromkeys(phases, 0)
    shifts = [0.0] if near is None else [0.0, 0.5]
    for shift in shifts:
        found: dict[tuple[str, str], int] = dict.fromkeys(equal, 0)
        with _Hashes(sum(n_rows.values()), budget_nbytes) as hashes:
            hashes.add({at: [table[phase][name] for name in wanted] for at, phase in enumerate(phases)}, near, shift)
            for entries in hashes.sorted_parts():
                _count(entries, phases, found, examples, repeated if shift == 0 else {})
        equal = {pair: max(count, found[pair]) for pair, count in equal.items()}
    return Leaks(n_rows, equal, examples, repeated, _shared(table, phases, groups, budget_nbytes), tuple(unequal))


def _unequal(table: Table, phases: Sequence[str]) -> list[str]:
    found = []
    for name in dict.fromkeys(name for at in phases for name in table[at]):
        lacking = [at for at in phases if name not in table[at]]
        if lacking:
            found.append(f"variable {name!r} is not in phase {', '.join(lacking)}")
            continue
        forms = {at: (_form_of(table[at][name].dtype), table[at][name].row_shape_in_words) for at in phases}
        if len(set(forms.values())) > 1:
            listed = ", ".join(f"{at}: {dtype}, {shape}" for at, (dtype, shape) in forms.items())
            found.append(f"variable {name!r} has rows of several forms ({listed})")
    return found


def _form_of(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype; texts of all widths have one."""
    return {"S": "bytes", "U": "text", "T": "text"}.get(dtype.kind, str(dtype))


class _Hashes:
    """The hashes of all rows, in memory, or in scratch files by their first bits."""

    def __init__(self, n_rows: int, budget_nbytes: int) -> None:
        # sorting takes as much again, and more for what is found
        needed = n_rows * ENTRY.itemsize * 4
        self._budget_nbytes = budget_nbytes
        self._n_parts = 1
        while needed // self._n_parts > max(budget_nbytes // 2, 2**20) and self._n_parts < MAX_PARTS:
            self._n_parts *= 2
        self._entries: list[Array] = []
        self._stack = contextlib.ExitStack()
        self._files: list[IO[bytes]] = []

    def __enter__(self) -> _Hashes:
        if self._n_parts > 1:
            place = scratch_directory()
            for _ in range(self._n_parts):
                self._files.append(self._stack.enter_context(tempfile.TemporaryFile(dir=place)))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def add(self, phases: Mapping[int, Sequence[Variable]], near: float | None, shift: float) -> None:
        """Add the rows of all phases, read once."""
        row_nbytes = max((sum(of.row_nbytes + 32 for of in variables) for variables in phases.values()), default=1)
        step = max(1, min(2**24, self._budget_nbytes // 8) // max(1, row_nbytes))
        for phase, numbers, rows in scanned_rows(phases, step, self._budget_nbytes):
            entries = np.empty(len(numbers), ENTRY)
            entries["hash"] = hash_of([_rounded(of, near, shift) for of in rows])
            entries["row"] = numbers
            entries["phase"] = phase
            if not self._files:
                self._entries.append(entries)
                continue
            parts = (entries["hash"] >> np.uint64(64 - (self._n_parts.bit_length() - 1))).astype(np.int64)
            ordered = entries[np.argsort(parts, kind="stable")]
            ends = np.cumsum(np.bincount(parts, minlength=self._n_parts)).tolist()
            for file, begin, end in zip(self._files, [0, *ends], ends, strict=False):
                file.write(ordered[begin:end].tobytes())

    def sorted_parts(self) -> Iterator[Array]:
        """Yield all entries, those of equal hashes next to each other in the order of their phases."""
        if not self._files:
            parts: Iterator[Array] = iter([np.concatenate(self._entries)] if self._entries else [])
        else:
            parts = (self._read(file) for file in self._files)
        for entries in parts:
            yield entries[np.lexsort((entries["row"], entries["phase"], entries["hash"]))]

    @staticmethod
    def _read(file: IO[bytes]) -> Array:
        file.seek(0)
        return np.frombuffer(file.read(), ENTRY)


MAX_PARTS = 256
"""Most scratch files."""


def hash_of(columns: Sequence[Array]) -> npt.NDArray[np.uint64]:
    """Return 64 bits for each row, equal for equal rows."""
    has_width = not any(isinstance(column, Ragged) for column in columns)
    if has_width and sum(column[:1].size for column in columns) <= WIDE:
        return hash_rows(columns, 0)
    digests = []
    contents = [_canonical(column) for column in columns]
    for row in range(len(columns[0])):
        digest = hashlib.blake2b(digest_size=8)
        for content in contents:
            digest.update(content[row].data if isinstance(content, np.ndarray) else content[row])
        digests.append(digest.digest())
    return np.frombuffer(b"".join(digests), "<u8").astype("u8")


def _canonical(column: Array | Ragged) -> Array | list[bytes]:
    """Return rows whose bytes are equal if they are."""
    if isinstance(column, Ragged):
        values = column.items
        if values.dtype.kind in "fc":
            values = np.where(values == 0, 0, values)
        items = Ragged(column.offsets, values)
        if column.columns is None:
            return [repr(row.tolist()).encode() for row in items]
        places = Ragged(column.offsets, column.columns)
        return [repr((at.tolist(), row.tolist())).encode() for at, row in zip(places, items, strict=True)]
    if column.dtype.kind in "TUS":
        return [repr(row.tolist()).encode() for row in column]
    if column.dtype.kind in "mM":  # which have no buffers
        column = column.view(np.int64)
    if column.dtype.kind in "fc":
        column = np.where(column == 0, 0, column)  # -0.0 equals 0.0
    return np.ascontiguousarray(column).reshape(len(column), -1)


def _rounded(rows: Any, near: float | None, shift: float) -> Any:
    if near is None or rows.dtype.kind not in "fiu":
        return rows
    if isinstance(rows, Ragged):
        return Ragged(rows.offsets, np.floor(rows.items / near + shift), rows.columns, rows.n_columns)
    return np.floor(rows / near + shift)


def _count(
    entries: Array,
    phases: Sequence[str],
    equal: dict[tuple[str, str], int],
    examples: Mapping[tuple[str, str], list[tuple[int, int]]],
    repeated: dict[str, int],
) -> None:
    """Count rows of equal hashes, which are sorted by hash, phase and row."""
    if not len(entries):
        return
    begins = np.flatnonzero(np.concatenate([[True], entries["hash"][1:] != entries["hash"][:-1]]))
    group = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(entries))))
    counts = np.zeros((len(begins), len(phases)), np.int64)
    np.add.at(counts, (group, entries["phase"]), 1)
    for number, at in enumerate(phases):
        if at in repeated:
            repeated[at] += int(np.maximum(counts[:, number] - 1, 0).sum())
    firsts = begins[:, None] + np.cumsum(counts, axis=1) - counts
    for (one, first), (other, second) in combinations(enumerate(phases), 2):
        both = np.flatnonzero((counts[:, one] > 0) & (counts[:, other] > 0))
        equal[first, second] += int(counts[both, other].sum())
        room = EXAMPLES - len(examples[first, second])
        for at in both[: max(0, room)]:
            pair = entries["row"][firsts[at, one]], entries["row"][firsts[at, other]]
            if (found := (int(pair[0]), int(pair[1]))) not in examples[first, second]:
                examples[first, second].append(found)


def _shared(
    table: Table, phases: Sequence[str], groups: Sequence[str], budget_nbytes: int
) -> dict[tuple[str, str], list[Any]]:
    """Return the groups that each pair of phases shares, in ascending order."""
    if not groups:
        return {}
    of_phases = {}
    for at in phases:
        variables = [table[at][name] for name in groups]
        for variable in variables:
            if not variable.is_scalar:
                raise ArgumentError(
                    f"a group is one value for each row; variable {variable.name!r} has {variable.shape}"
                )
        of_phases[at] = variables
    found: dict[str, set[Any]] = {at: set() for at in phases}
    for at, _, columns in scanned_rows(of_phases, STEP_ROWS, budget_nbytes):
        if len(columns) == 1:
            found[at].update(np.unique(columns[0]).tolist())
        else:
            found[at].update(zip(*(column.tolist() for column in columns), strict=True))
    return {pair: sorted(found[pair[0]] & found[pair[1]]) for pair in combinations(phases, 2)}


STEP_ROWS = 2**18
"""Rows whose groups are read at a time."""
