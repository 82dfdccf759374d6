"""Fields: variables that are read together, each with its dtype, and codes of categories; stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.errors import DtypeError, MissingValueError, shown
from storegate_engine.store.sources import Source, VariableSource, as_declared
from storegate_engine.table import PLAIN, Category, Description, Variable

__all__ = [
    "Categories",
    "CodeSource",
    "FieldSource",
    "Fields",
    "RecodedSource",
    "categories_of",
    "description_of",
    "source_of",
]

Array: TypeAlias = np.ndarray[Any, Any]

CODES = np.dtype(np.int32)
"""The dtype of codes."""


class Categories:
    """The categories of codes; they grow while rows are read, since each block of a table may bring new ones."""

    def __init__(self, *, is_ordered: bool = False) -> None:
        self._codes: dict[Category, int] = {}
        self.is_ordered = is_ordered
        """Whether the categories are ordered; then no new ones are added."""

    @property
    def values(self) -> tuple[Category, ...]:
        """The categories of the codes 0, 1, ..."""
        return tuple(self._codes)

    def begin(self, known: Iterable[Category]) -> None:
        """Continue with the categories of rows that are already stored."""
        self._codes = {}
        for value in known:
            self._code(value)

    def codes(self, dictionary: Iterable[Any], codes: Array, what: str) -> Array:
        """Return the codes of rows with codes of another dictionary, which is added to the categories.

        Raises
        ------
        MissingValueError
            A row has no category.
        DtypeError
            A category is not text, a number or a bool.
        """
        if len(codes) and codes.min() < 0:
            count = int(np.count_nonzero(codes < 0))
            raise MissingValueError(f"{what}: {count} values are null, which cannot be stored; fill them first")
        values = [_plain(value, what) for value in dictionary]
        if len(codes) and codes.max() >= len(values):
            raise DtypeError(f"{what}: a code is {codes.max()}, and there are {len(values)} categories")
        kinds = {type(value).__name__ for value in (*list(self._codes)[:1], *values)}
        if len(kinds) > 1:  # 1, 1.0 and True are equal, and would be one category
            raise DtypeError(
                f"{what}: its categories are of {' and '.join(sorted(kinds))}, those of the rows before included; "
                "convert them to one type"
            )
        n_known = len(self._codes)
        own = np.array([self._code(value) for value in values], CODES)
        if self.is_ordered and n_known and (len(self._codes) > n_known or (np.diff(own) < 0).any()):
            raise DtypeError(
                f"{what}: its ordered categories are others, or in another order, than those of the rows before; give "
                "the column the same categories"
            )
        return own[codes] if len(codes) else np.empty(0, CODES)

    def _code(self, value: Category) -> int:
        return self._codes.setdefault(value, len(self._codes))


def _plain(value: Any, what: str) -> Category:
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, Category) or plain != plain:
        raise DtypeError(
            f"{what}: categories are texts, numbers or bools, found {shown(value)}; convert the column to its values"
        )
    return plain


@dataclass(frozen=True, slots=True, eq=False)
class CodeSource:
    """Codes of categories, in memory."""

    values: Array
    """Codes of the dictionary, -1 for a missing value."""
    dictionary: tuple[Any, ...]
    """The categories of these codes."""
    name: str
    """The name of the column, for messages."""
    categories: Categories
    """The categories of the stored codes."""

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.values)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of codes."""
        return CODES

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row: one code."""
        return ()

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the codes."""
        for start in range(0, max(1, len(self.values)), block_rows):
            rows = self.values[start : start + block_rows]
            yield self.categories.codes(self.dictionary, rows, f"variable {self.name!r}")


@dataclass(frozen=True, slots=True, eq=False)
class RecodedSource:
    """Codes of a variable, as codes of the categories of another one."""

    variable: Variable
    """Its rows are codes."""
    categories: Categories
    """The categories that the new codes stand for."""

    @property
    def n_rows(self) -> int:
        """The number of rows."""
        return len(self.variable)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of codes."""
        return CODES

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.variable.row_shape

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the new codes."""
        known = self.variable.about.categories or ()
        for rows in VariableSource(self.variable).blocks(block_rows):
            what = f"variable {self.variable.name!r}"
            yield self.categories.codes(known, rows.reshape(-1), what).reshape(rows.shape)


def source_of(variable: Variable) -> Source:
    """Return the rows of a variable as a source; codes of categories as such that can go on from others."""
    if variable.about.categories is None:
        return VariableSource(variable)
    return RecodedSource(variable, Categories(is_ordered=variable.about.is_ordered))


class Fields(Protocol):
    """Rows of several variables that are read together, once."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows, None if it is known only at the end."""
        ...

    def blocks(self, names: Iterable[str], block_rows: int) -> Iterator[Mapping[str, Any]]:
        """Yield all rows in order, about ``block_rows`` at a time, by name."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FieldSource:
    """One of several variables that are read together."""

    whole: Fields
    """The fields it belongs to."""
    field: str
    """Its name there."""
    dtype: np.dtype[Any]
    """The dtype of its rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    convert: Callable[[Any, str], Array]
    """Makes an ndarray from the block of the field; its second argument names the field in messages."""
    categories: Categories | None = None
    """The categories, if the field is made into codes."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows."""
        return self.whole.n_rows

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the rows of this variable."""
        return (block[self.field] for block in self.together({self.field: self}, block_rows))

    @staticmethod
    def together(group: Mapping[str, FieldSource], block_rows: int) -> Iterator[dict[str, Array]]:
        """Yield blocks of variables of one table, which is read once."""
        whole = next(iter(group.values())).whole
        start = 0
        for block in whole.blocks([source.field for source in group.values()], max(1, block_rows // len(group))):
            made = {}
            for name, source in group.items():
                what = f"variable {name!r}, rows {start} and on"
                rows = source.convert(block[source.field], what)
                made[name] = as_declared(rows, source, what, "the column's")
            start += len(next(iter(made.values())))
            yield made


def categories_of(source: Source) -> Categories | None:
    """Return the categories of the codes of a source, None for plain values."""
    found: Categories | None = getattr(source, "categories", None)
    return found


def description_of(source: Source) -> Description:
    """Return the description of a source whose rows were read."""
    categories = categories_of(source)
    described: Description = getattr(source, "about", PLAIN)
    if categories is None:
        return described
    return Description.of(categories=categories.values, is_ordered=categories.is_ordered)
