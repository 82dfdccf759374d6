"""Fields: variables that come together, each of a dtype of its own, and codes of categories; stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.errors import DtypeError, MissingValueError, shown
from storegate_engine.store.sources import Source, as_declared
from storegate_engine.table import PLAIN, Category, Description

__all__ = ["Categories", "CodeSource", "FieldSource", "Fields", "categories_of", "description_of"]

Array: TypeAlias = np.ndarray[Any, Any]

CODES = np.dtype(np.int32)
"""The dtype of codes."""


class Categories:
    """What codes stand for: it grows while rows are read, because each block of a table may have others."""

    def __init__(self, *, is_ordered: bool = False) -> None:
        self._codes: dict[tuple[type, Category], int] = {}
        self.is_ordered = is_ordered
        """Whether they stand in an order that means something; then none is added behind those that are known."""

    @property
    def values(self) -> tuple[Category, ...]:
        """What the codes 0, 1, ... stand for."""
        return tuple(value for _, value in self._codes)

    def begin(self, known: Iterable[Category]) -> None:
        """Go on with the codes that rows have already."""
        self._codes = {}
        for value in known:
            self._code(value)

    def codes(self, dictionary: Iterable[Any], codes: Array, what: str) -> Array:
        """Return the codes of rows that have codes of another dictionary, which is added to the categories.

        Raises
        ------
        MissingValueError
            A row has no category.
        DtypeError
            A category is no text, number or bool.
        """
        if len(codes) and codes.min() < 0:
            count = int(np.count_nonzero(codes < 0))
            raise MissingValueError(f"{what}: {count} values are null, and nothing stored can say so; fill them first")
        n_known = len(self._codes)
        own = np.array([self._code(_plain(value, what)) for value in dictionary], CODES)
        if self.is_ordered and n_known and (len(self._codes) > n_known or (np.diff(own) < 0).any()):
            raise DtypeError(
                f"{what}: its ordered categories are others, or in another order, than those of the rows before; give "
                "the column the same categories"
            )
        return own[codes] if len(codes) else np.empty(0, CODES)

    def _code(self, value: Category) -> int:
        return self._codes.setdefault((type(value), value), len(self._codes))


def _plain(value: Any, what: str) -> Category:
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, Category):
        raise DtypeError(
            f"{what}: categories are texts, numbers or bools, found {shown(value)}; convert the column to its values"
        )
    return plain


@dataclass(frozen=True, slots=True, eq=False)
class CodeSource:
    """Codes of categories, in memory."""

    values: Array
    """Codes of the dictionary, -1 where a value is missing."""
    dictionary: tuple[Any, ...]
    """What they stand for."""
    name: str
    """For messages."""
    categories: Categories
    """What the codes that are stored stand for."""

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
        """A code for each row."""
        return ()

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the codes."""
        for start in range(0, max(1, len(self.values)), block_rows):
            rows = self.values[start : start + block_rows]
            yield self.categories.codes(self.dictionary, rows, f"variable {self.name!r}")


class Fields(Protocol):
    """Rows of several variables that are read together, once."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows, None where only the end will tell."""
        ...

    def blocks(self, names: Iterable[str], block_rows: int) -> Iterator[Mapping[str, Any]]:
        """Yield all rows in order, about ``block_rows`` at a time: what each name has of them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FieldSource:
    """One variable of several that come together."""

    whole: Fields
    """What they come from."""
    field: str
    """Its name there."""
    dtype: np.dtype[Any]
    """The dtype of its rows."""
    row_shape: tuple[int, ...]
    """The shape of one row."""
    convert: Callable[[Any, str], Array]
    """Makes an ndarray of what a block has under the name; is told what it is, for messages."""
    categories: Categories | None = None
    """What codes stand for, where it makes codes."""

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
    """Return what the codes of a source stand for, None for one of plain values."""
    found: Categories | None = getattr(source, "categories", None)
    return found


def description_of(source: Source) -> Description:
    """Return what else is known of a source, once its rows were read."""
    categories = categories_of(source)
    described: Description = getattr(source, "about", PLAIN)
    if categories is None:
        return described
    return Description.of(categories=categories.values, is_ordered=categories.is_ordered)
