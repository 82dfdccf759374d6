"""Splits: all rows of a data_id dealt anew to its phases, by chance, class, group, value or hash; nothing is copied."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any, TypeAlias

import numpy as np

from storegate.callers import users_stacklevel
from storegate.contents import names_in
from storegate.edits.rows import Picker, cut_of, read_key
from storegate.parsing import ALL, PHASES, Rule, Split, Thresholds
from storegate_engine.budget import require
from storegate_engine.errors import (
    ArgumentError,
    ArgumentTypeError,
    ConflictError,
    MissingValueError,
    ShapeError,
    VariableNotFoundError,
    shown,
)
from storegate_engine.orders import (
    MaskIndex,
    deal_by_threshold,
    deal_classes,
    deal_evenly,
    deal_groups,
    hash_rows,
    parts_of_hashes,
)
from storegate_engine.store import Transaction
from storegate_engine.table import Table, Variable

__all__ = ["fold_of_each", "split"]

Array: TypeAlias = np.ndarray[Any, Any]
Rows: TypeAlias = Any
"""An array, or rows of various lengths."""
Edit: TypeAlias = Callable[[Variable], Variable]

NOWHERE = 255
"""The part of rows that no phase gets."""
HASHED_NBYTES = 2**24
"""Bytes of rows that are hashed at a time."""


def split(change: Transaction, shares: Split | Thresholds, rule: Rule, seed: int | None, budget_nbytes: int) -> None:
    """Deal all rows of a data_id, those of train first, anew to the phases.

    Raises
    ------
    VariableNotFoundError
        A variable is not in all phases that have rows, or there are none.
    ShapeError
        The variables of a phase have different numbers of rows.
    """
    table = change.table.with_compiled()  # refuses variables of different lengths
    names = _common_names(table)
    n_rows = sum(table.sizes().values())
    joined = _joined(table, names)
    edits: dict[str, Edit] = {}
    if rule.kind == "rows":
        assert isinstance(shares, Split)
        edits |= {at: cut_of(seed, lo, hi) for at, (lo, hi) in shares.ranges(n_rows).items()}
    else:
        parts = _parts(joined, rule, shares, n_rows, seed, budget_nbytes)
        for number, at in enumerate(PHASES):
            if (mask := parts == number).any():
                edits[at] = Picker(change, MaskIndex(mask), n_rows, joined.values())
    if not edits:
        left = f"purge={rule.purge} leaves none of {n_rows} rows" if n_rows else "the phases have no rows"
        raise ShapeError(f"{left}; a split would delete all variables")
    for number, at in enumerate(PHASES):
        if at not in edits and (isinstance(shares, Thresholds) or shares.shares[number]):
            edits[at] = cut_of(None, 0, 0)
            purge = f" with purge={rule.purge}" if rule.purge else ""
            warnings.warn(
                f"the split{purge} leaves phase {at!r} without rows, of {n_rows} in all; it keeps its variables",
                UserWarning,
                stacklevel=users_stacklevel(),
            )

    def dealt(now: Table) -> Table:
        now = now.with_compiled()
        if _common_names(now) != names:
            raise ConflictError("another writer added variables meanwhile; nothing was changed, try again")
        wholes = _joined(now, names).values()
        attrs = next((now.attrs[at] for at in PHASES if at in now.attrs), ())
        new = now
        for at, edit in edits.items():
            new = new.with_variables(at, [edit(variable) for variable in wholes])
            if at not in new.attrs:
                new = new.with_attrs(at, attrs)
        for at in PHASES:
            if at not in edits:
                new = new.without(at, names)
        return new.with_compiled()

    reads = [(at, name) for at in PHASES for name in table[at]]
    change.edit(dealt, reads=reads, touches=[(at, name) for at in edits for name in names])


def _joined(table: Table, names: Sequence[str]) -> dict[str, Variable]:
    """Return variables with the rows of all phases."""
    filled = [table[at] for at in PHASES if table[at]]
    return {name: reduce(Variable.united, (variables[name] for variables in filled)) for name in names}


def _common_names(table: Table) -> list[str]:
    """Return the variables of all phases, which must be the same in each."""
    names = names_in(table, ALL)
    for at in PHASES:
        if missing := [name for name in table[at] if name not in names]:
            raise VariableNotFoundError(
                f"variable {missing[0]!r} of phase {at!r} is not in all phases that have rows, so that rows cannot be "
                "dealt among them; add it to the others, or delete it"
            )
    if not names:
        raise VariableNotFoundError("there are no rows to split; add data first")
    return names


def _parts(
    variables: dict[str, Variable],
    rule: Rule,
    shares: Split | Thresholds,
    n_rows: int,
    seed: int | None,
    budget_nbytes: int,
) -> Array:
    """Return the number of the phase of each row, or NOWHERE."""
    keys = [_variable(variables, name) for name in rule.names]
    draws = 0 if seed is None else seed
    if rule.kind == "by":
        return _by_value(keys[0], shares, rule.purge, budget_nbytes)
    assert isinstance(shares, Split)
    if rule.kind == "hash":
        return _by_hash(keys, [float(share) for share in shares.shares], draws, budget_nbytes)
    deal = deal_classes if rule.kind == "stratify" else deal_groups
    spans = shares.ranges(n_rows)
    totals = [spans[at].stop - spans[at].start if at in spans else 0 for at in PHASES]
    return deal(_codes(keys, rule, budget_nbytes), totals, draws)


def _variable(variables: dict[str, Variable], name: str) -> Variable:
    if name not in variables:
        raise VariableNotFoundError(f"no variable {name!r} to deal rows by (variables: {', '.join(sorted(variables))})")
    return variables[name]


def _codes(keys: Sequence[Variable], rule: Rule, budget_nbytes: int) -> Array:
    """Return a number for each distinct combination of values, from 0 on."""
    import pandas as pd  # deferred on purpose: it takes a third of a second

    codes: Array | None = None
    for key in keys:
        values = read_key(key, budget_nbytes, f"{rule.kind}= with", len(keys))
        own, distinct = pd.factorize(
            values.astype(object) if values.dtype.kind == "T" else values, use_na_sentinel=False
        )
        if codes is None:
            codes = own
        else:
            codes, _ = pd.factorize(codes * np.int64(len(distinct)) + own)
    assert codes is not None
    return codes


def _by_value(key: Variable, shares: Split | Thresholds, purge: int, budget_nbytes: int) -> Array:
    """Return the phases of rows by their values, of which equal ones stay together."""
    values = read_key(key, budget_nbytes, "by= with")
    is_coded = key.about.categories is not None
    if (values < 0).any() if is_coded else values.dtype.kind in "fcmM" and np.isnan(values).any():
        raise MissingValueError(
            f"variable {key.name!r} has missing values, which no threshold tells apart; leave them out with filter()"
        )
    distinct = np.unique(values)
    if isinstance(shares, Thresholds):
        thresholds = _given(shares, key, values.dtype)
        parts = deal_by_threshold(values, thresholds)
    else:
        thresholds = _thresholds(np.sort(values), shares, key.name)
        parts = deal_by_threshold(values, thresholds)
    if purge:
        for threshold in thresholds:
            at = int((distinct < threshold).sum())  # searchsorted would compare large or short numbers as float64
            if at:
                parts[(values >= distinct[max(0, at - purge)]) & (values < threshold)] = NOWHERE
    return parts


def _given(shares: Thresholds, key: Variable, dtype: np.dtype[Any]) -> list[Any]:
    """Return thresholds as given, as times, or as codes of ordered categories."""
    given: list[Any] = list(shares.values)
    if key.about.categories is not None:
        given = _codes_of(given, key)
    kinds = {"m": "two durations", "M": "two times, as in ('2022-01-01', '2022-06-01')", "S": "two bytes"}
    kinds |= dict.fromkeys("UT", "two texts") | {"b": "two bools"}
    try:
        if dtype.kind in "mM":
            given = [np.asarray(value, f"{dtype.kind}8")[()] for value in given]
        in_order = bool(given[0] <= given[1])
        deal_by_threshold(np.empty(0, dtype), given)
    except (TypeError, ValueError) as err:
        takes = kinds.get(dtype.kind, "two numbers")
        raise ArgumentTypeError(
            f"thresholds between the {dtype} values of variable {key.name!r} are {takes}, found "
            f"{shown(shares.values)}; or give three shares, as in (0.8, 0.1, 0.1)"
        ) from err
    if not in_order:
        raise ArgumentError(f"the thresholds {shown(shares.values)} are not in ascending order")
    return given


def _codes_of(given: Sequence[Any], key: Variable) -> list[int]:
    categories = key.about.categories or ()
    if not key.about.is_ordered:
        raise ArgumentError(
            f"variable {key.name!r} has categories without an order, so that no threshold lies between them, found "
            f"{shown(tuple(given))}; add them as ordered ones, as in pd.Categorical(values, ordered=True), or split by "
            f"groups={key.name!r}"
        )
    if missing := [value for value in given if value not in categories]:
        raise ArgumentError(
            f"{shown(missing[0])} is no category of variable {key.name!r}; thresholds are two of {shown(categories)}, "
            "in their order"
        )
    return [categories.index(value) for value in given]


def _thresholds(ordered: Array, shares: Split, name: str) -> list[Any]:
    """Return the values from which on rows belong to the next phase."""
    spans = shares.ranges(len(ordered))
    ends = np.cumsum([spans[at].stop - spans[at].start if at in spans else 0 for at in PHASES])[:-1].tolist()
    if not len(ordered):
        return []
    found = []
    for end in ends:
        if end == len(ordered):  # no value is so large: the later phases get nothing
            continue
        found.append(ordered[end])
        first, last = (int(np.searchsorted(ordered, ordered[end], side)) for side in ("left", "right"))
        if shares.is_counts and first != end:
            raise ArgumentError(
                f"{end} rows cannot be cut off by {name!r}: {last - first} rows have the value {ordered[end]} there, "
                "and equal values stay together; give fractions"
            )
    return found


def _by_hash(keys: Sequence[Variable], shares: Sequence[float], seed: int, budget_nbytes: int) -> Array:
    n_rows = len(keys[0])
    require(n_rows, budget_nbytes, what=f"the phases of {n_rows} rows", remedy="raise storegate.memory-limit")
    step = max(1, min(HASHED_NBYTES, budget_nbytes // 8) // max(1, sum(key.row_nbytes + 32 for key in keys)))
    parts = np.empty(n_rows, np.uint8)
    for lo in range(0, n_rows, step):
        hi = min(lo + step, n_rows)
        parts[lo:hi] = parts_of_hashes(hash_rows([_said(key, key.read(lo, hi)) for key in keys], seed), shares)
    return parts


def _said(key: Variable, rows: Rows) -> Rows:
    """Return rows as their values: codes of categories depend on which came first."""
    categories = key.about.categories
    if categories is None:
        return rows
    texts = np.array([*map(str, categories), ""])  # code -1 is a missing value
    return texts[rows]


def fold_of_each(
    variable: Callable[[str], Variable], rule: Rule, n_rows: int, n_folds: int, seed: int, budget_nbytes: int
) -> Array:
    """Return the fold of each of some rows: equal numbers of rows, of each class, or of whole groups.

    Raises
    ------
    ArgumentError
        There is no such rule for folds.
    """
    require(
        n_rows * 3 * 8, budget_nbytes, what=f"dealing {n_rows} rows to folds", remedy="raise storegate.memory-limit"
    )
    if rule.kind == "rows":
        return deal_evenly(n_rows, n_folds, seed)
    codes = _codes([variable(name) for name in rule.names], rule, budget_nbytes)
    totals = [n_rows // n_folds + (number < n_rows % n_folds) for number in range(n_folds)]
    if rule.kind == "stratify":
        return deal_classes(codes, totals, seed)
    if rule.kind == "groups":
        if (n_groups := int(codes.max(initial=-1)) + 1) < n_folds:
            raise ShapeError(f"{n_groups} groups cannot make {n_folds} folds; give at most {n_groups}")
        return deal_groups(codes, totals, seed)
    raise ArgumentError(f"folds are made of rows, classes or groups, not {rule.kind}=")
