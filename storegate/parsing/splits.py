"""Splits: the options of ``gate.split`` and ``view.folds``, checked; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from storegate.parsing.names import VarNames, parse_names
from storegate.parsing.phases import PhaseOrSplit, Split, parse_phase
from storegate_engine.errors import ArgumentError, ArgumentTypeError, PhaseNotFoundError, ShapeError, shown
from storegate_engine.orders import as_int

__all__ = ["DealBy", "Rule", "Thresholds", "parse_n_folds", "parse_shares"]

DealBy: TypeAlias = Literal["rows", "stratify", "groups", "by", "hash"]
"""What decides where a row goes: chance, its class, its group, its value, or a hash of its values."""
KEYS = ("stratify", "groups", "by", "hash")


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Two values: rows below the first one are train, from the second one on test."""

    values: tuple[object, object]


@dataclass(frozen=True, slots=True)
class Rule:
    """What decides where a row goes."""

    kind: DealBy = "rows"
    """The rule."""
    names: tuple[str, ...] = ()
    """The variables that it looks at."""
    purge: int = 0
    """Distinct values before each threshold that no phase gets."""

    @classmethod
    def parse(
        cls,
        *,
        stratify: VarNames | None = None,
        groups: VarNames | None = None,
        by: str | None = None,
        hash: VarNames | None = None,
        purge: int = 0,
    ) -> Rule:
        """Return the rule of options, of which at most one may be given.

        Raises
        ------
        ArgumentError
            Several are given, or ``purge`` without ``by``.
        """
        given = {key: value for key, value in zip(KEYS, (stratify, groups, by, hash), strict=True) if value is not None}
        if len(given) > 1:
            raise ArgumentError(f"rows are dealt by one rule, found {' and '.join(given)}; give one of them")
        number = as_int(purge, "purge")
        if number < 0:
            raise ArgumentError(f"purge is a number of values from 0 on, found {number}")
        if number and "by" not in given:
            raise ArgumentError("purge leaves out values next to a threshold of by=; without by there are none")
        if not given:
            return cls()
        ((key, names),) = given.items()
        parsed = parse_names(names)
        if key == "by" and len(parsed.names) > 1:
            raise ArgumentError(f"by takes one variable, found {shown(names)}")
        kind: DealBy = next(known for known in ("stratify", "groups", "by", "hash") if known == key)
        return cls(kind, parsed.names, number)


def parse_shares(shares: PhaseOrSplit | Sequence[object], rule: Rule) -> Split | Thresholds:
    """Return the shares of train, valid and test, or the thresholds between them.

    Raises
    ------
    ArgumentTypeError
        A phase is given.
    ShapeError
        The shares are not three numbers, or do not sum to 1.
    ArgumentError
        Numbers of rows are given where a rule cannot keep them.
    """
    if isinstance(shares, str) or not hasattr(shares, "__len__"):
        raise ArgumentTypeError(
            f"a split takes the shares of train, valid and test, as in (0.8, 0.1, 0.1); found {shares!r}"
        )
    if len(shares) == 2 and rule.kind == "by":
        return Thresholds((shares[0], shares[1]))
    try:
        split = parse_phase(shares)
    except PhaseNotFoundError as err:
        raise ArgumentTypeError(str(err)) from err
    assert isinstance(split, Split)
    if split.is_counts and rule.kind in ("groups", "hash"):
        whole = "groups are dealt whole" if rule.kind == "groups" else "hashes are dealt by chance"
        raise ArgumentError(f"{whole}, so that exact numbers of rows cannot be kept; give fractions that sum to 1")
    return split


def parse_n_folds(n_folds: int, n_rows: int) -> int:
    """Return a number of folds.

    Raises
    ------
    ShapeError
        There are fewer than two, or more than rows.
    """
    number = as_int(n_folds, "k")
    if not 2 <= number <= n_rows:
        raise ShapeError(f"folds of {n_rows} rows are 2 to {n_rows}, found {number}")
    return number
