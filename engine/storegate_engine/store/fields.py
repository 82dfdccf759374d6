"""Fields: variables that are read together, each with its dtype, and codes of categories; stores nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from storegate_engine.errors import DtypeError, MissingValueError, shown
from storegate_engine.store.sources import ArraySource, Source, as_declared
from storegate_engine.store.table_sources import VariableSource
from storegate_engine.table import PLAIN, Category, Description, Kind, Variable

__all__ = [
    "CATEGORY_ATTRIBUTES",
    "Categories",
    "CodeSource",
    "FieldSource",
    "Fields",
    "as_codes",
    "categories_in",
    "categories_of",
    "coded",
    "description_of",
    "source_of",
]

Array: TypeAlias = np.ndarray[Any, Any]


class Categories:
    """The categories of codes; they grow while rows are read, since each block of a table may bring new ones."""

    dtype = np.dtype(np.int32)
    """The dtype of codes."""

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
        return recoded(codes, self.extended(dictionary, what), what)

    def extended(self, dictionary: Iterable[Any], what: str) -> Array:
        """Add another dictionary to the categories, and return the code of each of its entries.

        Raises
        ------
        DtypeError
            An entry is not text, a number or a bool, or not of the type of the others, or changes their order.
        """
        values = [_plain(value, what) for value in dictionary]
        kinds = {type(value).__name__ for value in (*list(self._codes)[:1], *values)}
        if len(kinds) > 1:  # 1, 1.0 and True are equal, and would be one category
            raise DtypeError(
                f"{what}: its categories are of {' and '.join(sorted(kinds))}, those of the rows before included; "
                "convert them to one type"
            )
        n_known = len(self._codes)
        own = np.array([self._code(value) for value in values], self.dtype)
        if self.is_ordered and n_known and (len(self._codes) > n_known or (np.diff(own) < 0).any()):
            raise DtypeError(
                f"{what}: its ordered categories are others, or in another order, than those of the rows before; give "
                "the column the same categories"
            )
        return own

    def _code(self, value: Category) -> int:
        return self._codes.setdefault(value, len(self._codes))


def recoded(codes: Array, new: Array, what: str) -> Array:
    """Return ``new[codes]``, the new codes of rows.

    Raises
    ------
    MissingValueError
        A row has no category.
    DtypeError
        A code is not one of a category.
    """
    if codes.size and codes.min() < 0:
        count = int(np.count_nonzero(codes < 0))
        raise MissingValueError(f"{what}: {count} values are null, which cannot be stored; fill them first")
    if codes.size and codes.max() >= len(new):
        raise DtypeError(
            f"{what}: a code is {codes.max()}, and there are {len(new)} categories; if these are no codes, drop their "
            "attributes, as in x.drop_attrs()"
        )
    return new[codes] if len(new) else np.empty(codes.shape, new.dtype)


def _plain(value: Any, what: str) -> Category:
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, Category) or plain != plain:
        raise DtypeError(
            f"{what}: categories are texts, numbers or bools, found {shown(value)}; convert the column to its values"
        )
    return plain


@dataclass(frozen=True, slots=True, eq=False)
class CodeSource:
    """Codes of one dictionary, as codes of the categories of a variable."""

    codes: Source
    """Codes of the dictionary, -1 for a missing value."""
    dictionary: Sequence[Any]
    """The categories of these codes."""
    name: str
    """The name of the column, for messages."""
    categories: Categories
    """The categories of the stored codes."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows."""
        return self.codes.n_rows

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of codes."""
        return self.categories.dtype

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one row."""
        return self.codes.row_shape

    def blocks(self, block_rows: int) -> Iterator[Array]:
        """Yield the stored codes."""
        what = f"variable {self.name!r}"
        new = self.categories.extended(self.dictionary, what)
        return (recoded(rows, new, what) for rows in self.codes.blocks(block_rows))


def coded(codes: Array, dictionary: Iterable[Any], name: str, *, is_ordered: bool) -> CodeSource:
    """Return codes in memory as a source."""
    return CodeSource(ArraySource(codes), tuple(dictionary), name, Categories(is_ordered=is_ordered))


def source_of(variable: Variable, categories: Categories | None = None) -> Source:
    """Return the rows of a variable as a source; codes of categories as such that can go on from others."""
    about, codes = variable.about, VariableSource(variable)
    if about.categories is None:
        return codes
    return CodeSource(codes, about.categories, variable.name, categories or Categories(is_ordered=about.is_ordered))


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
    convert: Callable[[Any, str], Any]
    """Makes an ndarray, or `Ragged`, from the block of the field; its second argument names the field in messages."""
    categories: Categories | None = None
    """The categories, if the field is made into codes."""
    kind: Kind = "dense"
    """Whether rows are lists."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows."""
        return self.whole.n_rows

    def blocks(self, block_rows: int) -> Iterator[Any]:
        """Yield the rows of this variable."""
        return (block[self.field] for block in self.together({self.field: self}, block_rows))

    @staticmethod
    def together(group: Mapping[str, FieldSource], block_rows: int) -> Iterator[dict[str, Any]]:
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


CATEGORY_ATTRIBUTES = ("categories", "ordered")
"""The attributes of codes, in Datasets and in files that StoreGate writes: what they stand for."""


def categories_in(attrs: Mapping[str, Any]) -> tuple[tuple[Category, ...], bool] | None:
    """Return the categories that attributes name, and whether they are ordered; None if they name none.

    Both must be said: other programs may call anything categories.

    >>> categories_in({"categories": ["a", "b"], "ordered": 1, "units": "m"})
    (('a', 'b'), True)
    """
    if any(name not in attrs for name in CATEGORY_ATTRIBUTES):
        return None
    found = attrs["categories"]
    if isinstance(found, np.ndarray):
        found = found.tolist()
    values = tuple(found) if isinstance(found, list | tuple) else (found,)  # files have one value instead of a list
    values = tuple(value.item() if isinstance(value, np.generic) else value for value in values)
    is_plain = all(isinstance(value, Category) and value == value for value in values)
    if not is_plain or len(set(values)) < len(values) or len(set(map(type, values))) != 1:
        return None
    return values, bool(attrs["ordered"])


def as_codes(source: Source, attrs: Mapping[str, Any], name: str) -> Source:
    """Return codes as such if their attributes name their categories; any other source as it is."""
    if source.dtype != Categories.dtype or categories_of(source) is not None or getattr(source, "kind", "") == "ragged":
        return source
    found = categories_in(attrs)
    if found is None or not _may_be_codes(source, len(found[0])):
        return source
    return CodeSource(source, found[0], name, Categories(is_ordered=found[1]))


CHECKED_ROWS = 2**20
"""Rows that are looked at together."""


def _may_be_codes(source: Source, n_categories: int) -> bool:
    """Return whether rows at hand are codes: xarray keeps the attributes of codes for what is computed from them."""
    values = getattr(source, "values", None)
    if values is None or getattr(values, "chunks", None) is not None:
        return True  # rows that are computed, or in files, say it when they are read
    return all(not rows.size or 0 <= rows.min() <= rows.max() < n_categories for rows in source.blocks(CHECKED_ROWS))


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
    return Description(categories.values, categories.is_ordered)
