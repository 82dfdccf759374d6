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

from storegate.display import aligned
from storegate.parsing import PHASES
from storegate.scans import scanned_rows
from storegate_engine.budget import require
from storegate_engine.errors import ArgumentError
from storegate_engine.orders import hash_rows
from storegate_engine.ragged import Ragged
from storegate_engine.settings import scratch_directory
from storegate_engine.table import Table, Variable

__all__ = ["Leaks", "find_leaks"]

Array: TypeAlias = npt.NDArray[Any]
Rows: TypeAlias = Any
"""An array, or rows of various lengths."""

WIDE = 256
"""Rows of more values are hashed as bytes, one after the other, if all phases have the same dtype."""
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
    """For each pair of phases: how many rows of the second one the first one has, too; none if none were compared."""
    examples: Mapping[tuple[str, str], Sequence[tuple[int, int]]] = field(default_factory=dict)
    """For each such pair, the numbers of some equal rows: in the first, and in the second phase."""
    repeated_rows: Mapping[str, int] = field(default_factory=dict)
    """For each phase: how many of its rows it has more than once, without the first of each."""
    shared_groups: Mapping[tuple[str, str], Sequence[Any]] = field(default_factory=dict)
    """For each pair of phases: the groups that both have, ascending, missing ones last; times are numpy.datetime64."""
    unequal_variables: Sequence[str] = ()
    """Variables that not all phases have, or not in the same form, in words."""

    @property
    def ok(self) -> bool:
        """Whether nothing was found; rows that are repeated within a phase do not count."""
        return not (any(self.equal_rows.values()) or any(self.shared_groups.values()) or self.unequal_variables)

    def __repr__(self) -> str:
        lines = [("phases", "equal rows", "share of the second", "for example", "shared groups")]
        for pair in combinations(self.n_rows, 2):
            first, second = pair
            count = self.equal_rows.get(pair)
            share = "" if count is None else f"{count / max(1, self.n_rows[second]):.2%}"
            some = next(iter(self.examples.get(pair, ())), None)
            example = "" if some is None else f"{first} {some[0]}, {second} {some[1]}"
            groups = self.shared_groups.get(pair)
            equal = "not compared" if count is None else f"{count:,}"
            lines.append((f"{first}, {second}", equal, share, example, "" if groups is None else str(len(groups))))
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
        Width of cells whose numbers are taken as equal; None compares them exactly.
    budget_nbytes : int
        Limit of memory; more rows are sorted in scratch files.

    Raises
    ------
    VariableNotFoundError
        A phase lacks a variable that was named.
    MemoryBudgetError
        With ``near``, a mask of all rows does not fit in memory.
    """
    phases = [at for at in PHASES if table[at] and table.n_rows(at)]
    wanted = list(_comparable(table, phases) if names is None else names)
    for at in phases:
        for name in (*wanted, *groups):
            table.variable(at, name)
    n_rows = {at: table.n_rows(at) for at in phases}
    tally = _Tally(n_rows, near is not None, budget_nbytes)
    columns = {at: [table[phase][name] for name in wanted] for at, phase in enumerate(phases)}
    for shift in [0.0] if near is None else [0.0, 0.5]:
        if not wanted:
            break
        with _Hashes(sum(n_rows.values()), budget_nbytes) as hashes:
            hashes.add(columns, near, shift)
            for entries in hashes.sorted_parts():
                _count(entries, phases, tally)
    equal = {pair: tally.count(pair) for pair in combinations(phases, 2)} if wanted else {}
    repeated = {at: tally.count((at, at)) for at in phases} if wanted else {}
    shared = _shared(table, phases, groups, budget_nbytes)
    return Leaks(n_rows, equal, tally.examples, repeated, shared, tuple(_unequal(table, phases)))


def _comparable(table: Table, phases: Sequence[str]) -> list[str]:
    """Return the variables that all phases have in one form, or if there are none, in one shape."""
    in_all = [name for name in (table[phases[0]] if phases else ()) if all(name in table[at] for at in phases)]
    in_one_shape = [name for name in in_all if len({table[at][name].row_shape_in_words for at in phases}) == 1]
    alike = [name for name in in_one_shape if len({_form_of(table[at][name].dtype) for at in phases}) == 1]
    return alike or in_one_shape


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
        row_nbytes = max((sum(_nbytes(of, near) for of in variables) for variables in phases.values()), default=1)
        step = max(1, min(2**24, self._budget_nbytes // 8) // max(1, row_nbytes))
        alike = [len({of.dtype for of in variables}) == 1 for variables in zip(*phases.values(), strict=True)]
        for phase, numbers, rows in scanned_rows(phases, step, self._budget_nbytes):
            entries = np.empty(len(numbers), ENTRY)
            rounded = [_rounded(of, near, shift) for of in rows]
            entries["hash"] = hash_rows([_short(of, is_alike) for of, is_alike in zip(rounded, alike, strict=True)], 0)
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


def _nbytes(variable: Variable, near: float | None) -> int:
    """Return bytes of a row and what is made of it; cells have numbers in float64."""
    wider = 1 if near is None else max(1, 8 // max(1, variable.dtype.itemsize))
    return variable.row_nbytes * wider + 32


def _short(rows: Rows, is_alike: bool) -> Rows:
    """Return rows that are hashed faster, wide ones as digests of their bytes, or as lists if dtypes differ."""
    if isinstance(rows, Ragged) or (width := int(np.prod(rows.shape[1:]))) <= WIDE:
        return rows
    if not is_alike or rows.dtype.kind in "SUT":
        return Ragged(np.arange(len(rows) + 1) * width, rows.reshape(-1))
    if rows.dtype.kind in "mM":  # which have no buffers
        rows = rows.view(np.int64)
    if rows.dtype.kind in "fc":
        rows = rows + 0  # -0.0 equals 0.0
        rows[np.isnan(rows)] = np.nan  # of any payload
    contents = np.ascontiguousarray(rows).reshape(len(rows), -1)
    digests = [hashlib.blake2b(content.data, digest_size=8).digest() for content in contents]
    return np.frombuffer(b"".join(digests), "<u8")


def _rounded(rows: Rows, near: float | None, shift: float) -> Rows:
    """Return the numbers of cells, in float64 whatever the dtype."""
    if near is None or rows.dtype.kind not in "biufc":
        return rows
    if isinstance(rows, Ragged):
        return Ragged(rows.offsets, _rounded(rows.items, near, shift), rows.columns, rows.n_columns)
    if rows.dtype.kind == "c":
        parts = np.ascontiguousarray(rows, np.complex128).view(np.float64)
        return np.floor(parts / near + shift).view(np.complex128)
    return np.floor(np.asarray(rows, np.float64) / near + shift)


class _Tally:
    """How many rows are equal: for pairs of phases, and of a phase with itself; of several passes, in any of them."""

    def __init__(self, n_rows: Mapping[str, int], has_passes: bool, budget_nbytes: int) -> None:
        keys = [*combinations(n_rows, 2), *((at, at) for at in n_rows)]
        self.examples: dict[tuple[str, str], list[tuple[int, int]]] = {pair: [] for pair in combinations(n_rows, 2)}
        self._counts = dict.fromkeys(keys, 0)
        self._masks: dict[tuple[str, str], Array] = {}
        if has_passes:
            nbytes = sum(n_rows[second] for _, second in keys)
            remedy = "check without near=, or raise storegate.memory-limit"
            require(nbytes, budget_nbytes, what=f"masks of {sum(n_rows.values())} rows", remedy=remedy)
            self._masks = {pair: np.zeros(n_rows[pair[1]], bool) for pair in keys}

    def add(self, pair: tuple[str, str], rows: Array) -> None:
        """Add rows of the second phase."""
        self._counts[pair] += len(rows)
        if self._masks:
            self._masks[pair][rows] = True

    def count(self, pair: tuple[str, str]) -> int:
        """Return how many rows were added, each counted once."""
        return int(np.count_nonzero(self._masks[pair])) if self._masks else self._counts[pair]


def _count(entries: Array, phases: Sequence[str], tally: _Tally) -> None:
    """Count rows of equal hashes, which are sorted by hash, phase and row."""
    if not len(entries):
        return
    begins = np.flatnonzero(np.concatenate([[True], entries["hash"][1:] != entries["hash"][:-1]]))
    group = np.repeat(np.arange(len(begins)), np.diff(np.append(begins, len(entries))))
    counts = np.zeros((len(begins), len(phases)), np.int64)
    np.add.at(counts, (group, entries["phase"]), 1)
    firsts = begins[:, None] + np.cumsum(counts, axis=1) - counts
    rows, of_phase = entries["row"], entries["phase"]
    is_first = np.zeros(len(entries), bool)
    is_first[firsts[counts > 0]] = True
    for number, at in enumerate(phases):
        tally.add((at, at), rows[(of_phase == number) & ~is_first])
    for (one, first), (other, second) in combinations(enumerate(phases), 2):
        has_both = (counts[:, one] > 0) & (counts[:, other] > 0)
        tally.add((first, second), rows[(of_phase == other) & has_both[group]])
        examples = tally.examples[first, second]
        both = np.flatnonzero(has_both)
        for at in both[: max(0, EXAMPLES - len(examples))]:
            found = int(rows[firsts[at, one]]), int(rows[firsts[at, other]])
            if found not in examples:
                examples.append(found)


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
    found: dict[str, dict[int, Any]] = {at: {} for at in phases}
    for at, _, columns in scanned_rows(of_phases, STEP_ROWS, budget_nbytes):
        hashes, places = np.unique(hash_rows(columns, 0), return_index=True)
        distinct = [_values(column[places]) for column in columns]
        found[at].update(zip(hashes.tolist(), zip(*distinct, strict=True), strict=True))
    shared = {}
    for first, second in combinations(phases, 2):
        both = sorted((found[first][one] for one in found[first].keys() & found[second].keys()), key=_place)
        shared[first, second] = [group[0] if len(groups) == 1 else group for group in both]
    return shared


def _values(column: Array) -> list[Any]:
    """Return values as those of Python; times as those of numpy, which have all units and NaT."""
    return list(column) if column.dtype.kind in "mM" else column.tolist()


def _place(group: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Return what sorts groups in ascending order, missing values last."""
    places: list[tuple[Any, ...]] = []
    for value in group:
        if value != value:
            places.append((1,))
        else:
            places.append((0, value.real, value.imag) if isinstance(value, complex) else (0, value))
    return places


STEP_ROWS = 2**18
"""Rows whose groups are read at a time."""
