"""Foldable: views of k folds of their rows, for cross-validation; nothing is stored."""

from __future__ import annotations

from abc import abstractmethod
from functools import partial
from typing import Generic, NamedTuple, Self, TypeVar

from storegate.edits import fold_of_each
from storegate.parsing import Index, Names, Rule, VarNames, parse_n_folds, parse_shuffle_seed
from storegate.session import Session
from storegate_engine.errors import ArgumentError, PhaseNotFoundError
from storegate_engine.orders import as_int
from storegate_engine.table import Table, Variable

__all__ = ["Fold", "Foldable"]

V = TypeVar("V")


class Fold(NamedTuple, Generic[V]):
    """The two views of one fold, which together have all rows.

    Examples
    --------
    >>> from storegate import StoreGate
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("x", [0, 1, 2, 3])
    >>> first, second = gate["train"]["x"].folds(2, seed=0)
    >>> sorted([*first.train[:], *first.valid[:]]) == [0, 1, 2, 3]
    True
    """

    train: V
    """The rows of all other folds, in their order."""
    valid: V
    """The rows of this fold, in their order."""


class Foldable:
    """Methods of views that divide their rows."""

    __slots__ = ()

    session: Session
    phase: str | None

    @abstractmethod
    def subset(self, index: Index) -> Self:
        """Return a view of some rows."""

    @abstractmethod
    def _all_variables(self) -> tuple[Names, list[Variable]]:
        """Return the chosen variables, or all variables of the chosen phase."""

    @abstractmethod
    def _variable(self, table: Table, phase: str, name: str) -> Variable:
        """Return the chosen rows of a variable."""

    def folds(
        self,
        k: int = 5,
        *,
        stratify: VarNames | None = None,
        groups: VarNames | None = None,
        repeats: int = 1,
        seed: int = 0,
    ) -> list[Fold[Self]]:
        """Return views for cross-validation: each row is in the valid rows of one fold.

        The views follow the phase as long as its number of rows stays. Folds of a ``train`` view are nested folds.

        Parameters
        ----------
        k : int
            The number of folds, of equal sizes or one row more unless there are groups.
        stratify : str or list of str, optional
            Labels of which every fold gets its share, exact within one row.
        groups : str or list of str, optional
            Groups of rows of which none is in two folds. Every fold gets one; apart from that, its rows differ from
            equal shares by less than the largest group.
        repeats : int
            How often all folds are made, each time at random: with ``seed``, ``seed + 1`` and so on.
        seed : int
            The folds depend on it alone.

        Returns
        -------
        list of Fold
            ``repeats * k`` pairs of views, ``train`` and ``valid``.

        Raises
        ------
        ShapeError
            There are fewer rows, or groups, than folds, or labels or groups are not one value for each row.
        ArgumentError
            ``repeats`` is less than 1, or both ``stratify`` and ``groups`` are given.
        PhaseNotFoundError
            The view has no phase.
        VariableNotFoundError
            The phase has no such labels or groups.
        MemoryBudgetError
            Numbers for all rows do not fit in memory.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": range(6), "y": [0, 0, 0, 1, 1, 1]})
        >>> for train, valid in gate["train"].folds(3, stratify="y", seed=1):
        ...     print(len(train), valid["y"][:])
        4 [0 1]
        4 [0 1]
        4 [0 1]
        """
        if self.phase is None:
            raise PhaseNotFoundError("folds need a phase: gate['train'].folds(k)")
        rule = Rule.parse(stratify=stratify, groups=groups)
        first, n_repeats = parse_shuffle_seed(seed), as_int(repeats, "repeats")
        if n_repeats < 1:
            raise ArgumentError(f"repeats is 1 or more, found {n_repeats}")
        _, variables = self._all_variables()
        n_rows = len(variables[0]) if variables else 0
        n_folds = parse_n_folds(k, n_rows)
        variable = partial(self._variable, self.session.table, self.phase)
        found: list[Fold[Self]] = []
        for number in range(n_repeats):
            fold = fold_of_each(variable, rule, n_rows, n_folds, first + number, self.session.budget_nbytes)
            found.extend(Fold(self.subset(fold != one), self.subset(fold == one)) for one in range(n_folds))
        return found
