"""Choosing: which rows the phases of a gate have: split, filtered, picked, sampled or sorted; no row is copied."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np

from storegate import edits
from storegate.leaks import Leaks, find_leaks
from storegate.parsing import (
    Computable,
    Index,
    OneRow,
    Phase,
    PhaseOrSplit,
    Rule,
    VarNames,
    parse_item,
    parse_names,
    parse_reading_phase,
    parse_shares,
    parse_shuffle_seed,
)
from storegate.session import Session
from storegate_engine.errors import ArgumentError, ArgumentTypeError
from storegate_engine.orders import as_int

__all__ = ["Choosing"]


class Choosing:
    """Methods of a gate that change which rows its phases have, and in which order.

    Each is one commit, and keeps the variables of a phase beside each other. Rows that no phase has any more stay in
    storage for :meth:`StoreGate.undo` and earlier versions; :meth:`StoreGate.compact` and ``vacuum`` remove them.
    """

    _session: Session

    def split(
        self,
        shares: PhaseOrSplit | Sequence[object] = (0.8, 0.1, 0.1),
        *,
        stratify: VarNames | None = None,
        groups: VarNames | None = None,
        by: str | None = None,
        hash: VarNames | None = None,
        purge: int = 0,
        seed: int | None = 0,
    ) -> None:
        """Deal all rows of the data_id anew to train, valid and test.

        Without a rule the rows are shuffled, as by :meth:`StoreGate.shuffle`, and cut. With one they keep their order.
        Rows that come later go to the phase that is named when they are added.

        Parameters
        ----------
        shares : tuple of three floats or ints
            Fractions of the rows for train, valid and test, or numbers of rows. With ``by`` also two values: rows below
            the first one are train, from the second one on test. Of ordered categories these are two of them.
        stratify : str or list of str, optional
            Labels of which every phase gets its share, exact within one row.
        groups : str or list of str, optional
            Groups of rows (a run, a patient) of which none is in two phases. Each phase with a share gets a group;
            apart from that, its rows differ from its share by less than the largest group.
        by : str, optional
            A variable by whose values rows are split: the smallest are train. Equal values stay together.
        hash : str or list of str, optional
            Identifiers whose hash decides: a row is in the same phase however much the data grow, and nearly in the
            shares. Equal values have equal hashes, whatever their dtype or the unit of times; lists, sparse rows and
            rows of several values are hashed as wholes.
        purge : int
            With ``by``: as many distinct values before each threshold are left out of all phases, so that a window of
            one phase does not see rows next to another.
        seed : int or None
            What is random depends on it alone. None, without a rule: the rows are cut in their order.

        Raises
        ------
        ShapeError
            The shares do not fit, or a rule needs one value for each row.
        VariableNotFoundError
            There is no such variable, or a variable is not in all phases that have rows.
        MissingValueError
            ``by`` has missing values.
        ArgumentTypeError
            Thresholds cannot be compared with the values of ``by``.
        ArgumentError
            There are fewer groups than phases with a share, or thresholds are given between categories without an
            order; or the options do not go together.
        MemoryBudgetError
            The values of the rule do not fit in memory.

        Warns
        -----
        UserWarning
            A phase with a share gets no rows; it keeps its variables.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": range(10), "label": [0, 1] * 5})
        >>> gate.split((0.6, 0.2, 0.2), stratify="label", seed=1)
        >>> gate.sizes
        {'train': 6, 'valid': 2, 'test': 2}
        >>> sorted(gate["train"]["label"][:].tolist())
        [0, 0, 0, 1, 1, 1]
        """
        rule = Rule.parse(stratify=stratify, groups=groups, by=by, hash=hash, purge=purge)
        parsed = parse_shares(shares, rule)
        number = None if seed is None else parse_shuffle_seed(seed)
        assert not isinstance(shares, str)  # refused above
        if number is None and rule.kind in ("stratify", "groups"):
            raise ArgumentError(f"{rule.kind}= deals rows at random; give a seed")
        numbers = [share if isinstance(share, (int, float, np.number)) else str(share) for share in shares]
        said: dict[str, object] = {"shares": numbers, "purge": rule.purge, "seed": seed}
        said |= {rule.kind: rule.names} if rule.names else {}
        with self._session.begin("split", **said) as change:
            edits.split(change, parsed, rule, number, self._session.budget_nbytes)

    def filter(self, condition: Computable, phase: Phase | None = "all") -> None:
        """Keep the rows for which a condition is true.

        Parameters
        ----------
        condition : callable or array of bool, shape (n_rows,)
            A function of a phase's Dataset (see :meth:`StoreGate.to_xarray`) that returns a boolean for each sample; it
            is computed block by block. Or a mask of the rows of the phase; for ``all``, of those of train, valid and
            test one after the other.
        phase : str
            The phase, by default each that has rows.

        Raises
        ------
        DtypeError
            The condition gives no booleans.
        ShapeError
            It has not one value for each row.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"pt": [5.0, 50.0, 30.0], "label": [0, 1, 1]})
        >>> gate.filter(lambda ds: ds.pt > 20)
        >>> gate["train"]["label"][:], gate["train"]["pt"][:]
        (array([1, 1]), array([50., 30.]))
        """
        at = parse_reading_phase(phase)
        with self._session.begin("filter", condition=_named(condition), phase=at) as change:
            edits.filter_rows(change, condition, at, self._session.capacity)

    def select(self, index: Index, phase: Phase | None = "train") -> None:
        """Keep the rows of an index, in its order; a row may be given twice.

        Parameters
        ----------
        index : slice, sequence of int, or mask of shape (n_rows,)
            The rows of the phase.
        phase : {"train", "valid", "test"}
            One phase.

        Raises
        ------
        RowIndexError
            A row is out of range.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [10, 11, 12, 13])
        >>> gate.select([3, 0])
        >>> gate["train"]["x"][:]
        array([13, 10])
        """
        at = self._one_phase("select", phase)
        n_rows = self._session.table.n_rows(at)
        selection = parse_item(index, n_rows)
        if isinstance(selection, OneRow):
            raise ArgumentTypeError(f"select keeps several rows, found {index!r}; use a list, [{index!r}]")
        with self._session.begin("select", index=_named(index), phase=at) as change:
            edits.select(change, at, selection, n_rows)

    def sample(self, n_rows: int | float, seed: int = 0, phase: Phase | None = "train") -> None:
        """Keep some rows, drawn at random without replacement, in random order.

        Parameters
        ----------
        n_rows : int or float
            The number of rows to keep, or as a float their share.
        seed : int
            The rows depend on it alone.
        phase : str
            A phase, or for a share ``all``: of each as much.

        Raises
        ------
        ShapeError
            There are not so many rows.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", range(1000))
        >>> gate.sample(10, seed=1)
        >>> gate.sizes["train"]
        10
        """
        number, draws, at = _share(n_rows), parse_shuffle_seed(seed), parse_reading_phase(phase)
        with self._session.begin("sample", n_rows=number, seed=draws, phase=at) as change:
            edits.sample(change, at, number, draws)

    def sort(self, by: VarNames, phase: Phase | None = "all", *, descending: bool = False) -> None:
        """Sort rows by the values of variables; equal rows keep their order, missing values come last.

        Parameters
        ----------
        by : str or list of str
            Variables of one value for each row; the first one counts most.
        phase : str
            The phase, by default each that has rows.
        descending : bool
            The largest first.

        Raises
        ------
        ShapeError
            The rows of a variable have several values.
        MemoryBudgetError
            The values do not fit in memory.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"time": [3, 1, 2], "x": ["c", "a", "b"]})
        >>> gate.sort("time")
        >>> gate["train"]["x"][:].tolist()
        ['a', 'b', 'c']
        """
        names, at = parse_names(by), parse_reading_phase(phase)
        with self._session.begin("sort", by=names.names, phase=at, descending=bool(descending)) as change:
            edits.sort(change, names.names, at, self._session.budget_nbytes, is_descending=bool(descending))

    def check(
        self, *, var_names: VarNames | None = None, groups: VarNames | None = None, near: float | None = None
    ) -> Leaks:
        """Look for what phases share: equal rows, groups, and variables that they do not have alike.

        All rows are read once. Rows are compared by hashes of 64 bits, which take 68 bytes of memory a row while they
        are sorted, or go to scratch files if that exceeds the memory limit.

        Parameters
        ----------
        var_names : str or list of str, optional
            The variables by which rows are compared; by default all that the phases have alike, or where there are
            none, those whose dtypes alone differ. Equal values are equal, whatever their dtype.
        groups : str or list of str, optional
            Variables whose values, taken together, must be in one phase only; missing values are one group.
        near : float, optional
            Also look, in a second pass, for rows whose numbers are nearly equal: those that lie in the same cell of
            this width, of one of two grids of which one is shifted by half a cell. A finite number of more than 0.

        Returns
        -------
        Leaks
            ``ok`` if nothing was found; prints as a table.

        Raises
        ------
        VariableNotFoundError
            A phase lacks a variable that is named.
        ArgumentError
            ``near`` is no width, or the rows of a group have several values.
        MemoryBudgetError
            With ``near``, masks of all rows, a byte for each, do not fit in memory.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [1, 2, 3])
        >>> gate.add_data("x", [3, 4], phase="test")
        >>> found = gate.check()
        >>> found.ok, found.equal_rows, found.examples
        (False, {('train', 'test'): 1}, {('train', 'test'): [(2, 0)]})
        """
        names = None if var_names is None else parse_names(var_names).names
        keys = () if groups is None else parse_names(groups).names
        width = None if near is None else _width(near)
        return find_leaks(self._session.table, names, keys, width, self._session.budget_nbytes)

    def _one_phase(self, what: str, phase: Phase | None) -> str:
        at = parse_reading_phase(phase)
        if at == "all":
            raise ArgumentError(f"{what} applies to one phase: train, valid or test")
        return at


def _width(near: object) -> float:
    is_bool = isinstance(near, (bool, np.bool_))
    if not is_bool and isinstance(near, Real) and 0 < (width := float(near)) < np.inf:
        return width
    raise ArgumentError(f"near is a finite width of more than 0, found {near!r}")


def _share(n_rows: object) -> int | float:
    return float(n_rows) if isinstance(n_rows, (float, np.floating)) else as_int(n_rows, "n_rows")


def _named(condition: object) -> object:
    """Return what a version records of a condition: the name of a function, not its values."""
    if isinstance(condition, slice):
        return repr(condition)
    return getattr(condition, "__qualname__", None) or f"{type(condition).__name__} of {_length(condition)} rows"


def _length(given: object) -> object:
    try:
        return len(given)  # type: ignore[arg-type]
    except TypeError:
        return "some"
