"""Descriptions: dimensions, attributes and categories, which the rows of a variable do not say themselves; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from storegate_engine.errors import CorruptStoreError, shown
from storegate_engine.names import validate_name
from storegate_engine.table.attributes import Attributes, attributes_from_json, attributes_to_json

__all__ = ["PLAIN", "Category", "Description", "longest"]

Category: TypeAlias = str | int | float | bool
"""What a code of a categorical variable stands for."""

_KEYS = {"categories", "is_ordered", "dims", "attrs", "is_coordinate"}


@dataclass(frozen=True, slots=True)
class Description:
    """What a variable means; its rows do not depend on it."""

    categories: tuple[Category, ...] | None = None
    """The meanings of the codes 0, 1, ...; None for a variable of plain values."""
    is_ordered: bool = False
    """Whether the order of the categories has a meaning."""
    dims: tuple[str, ...] | None = None
    """The names of the dimensions, that of the samples first; None for names made from the variable's."""
    attrs: Attributes = ()
    """The attributes."""
    is_coordinate: bool = False
    """Whether the variable is a coordinate in xarray."""

    def joined(self, other: Description) -> Description:
        """Return the description of rows of both.

        Codes of one go on from those of the other. Attributes are those of the first rows, as in ``xr.concat``.
        """
        first = other if self.dims is None else self
        return replace(
            self,
            categories=longest((self.categories, other.categories)) or None,
            dims=first.dims,
            attrs=first.attrs,
            is_coordinate=first.is_coordinate,
        )

    @property
    def plain(self) -> Description:
        """The description of values that are no codes any more."""
        return replace(self, categories=None, is_ordered=False)

    def to_json(self) -> dict[str, Any]:
        """Return the document of a manifest: only what is set."""
        return {
            **({"categories": list(self.categories)} if self.categories is not None else {}),
            **({"is_ordered": True} if self.is_ordered else {}),
            **({"dims": list(self.dims)} if self.dims is not None else {}),
            **({"attrs": attributes_to_json(self.attrs)} if self.attrs else {}),
            **({"is_coordinate": True} if self.is_coordinate else {}),
        }

    @classmethod
    def from_json(cls, document: Any) -> Description:
        """Return the description in a manifest.

        Raises
        ------
        CorruptStoreError
            The document is not one that :meth:`to_json` returns.
        """
        if not isinstance(document, dict) or document.keys() - _KEYS:
            raise CorruptStoreError(f"a variable is described by {shown(document)}")
        categories, is_ordered = document.get("categories"), document.get("is_ordered", False)
        if categories is not None and (
            not isinstance(categories, list) or any(not isinstance(one, Category) for one in categories)
        ):
            raise CorruptStoreError(f"a variable has categories {shown(categories)}, and not texts or numbers")
        is_coordinate, dims = document.get("is_coordinate", False), document.get("dims")
        if not isinstance(is_ordered, bool) or not isinstance(is_coordinate, bool):
            raise CorruptStoreError(f"a variable is described by {shown(document)}, and not by true or false")
        if dims is not None and not isinstance(dims, list):
            raise CorruptStoreError(f"a variable has the dimensions {shown(dims)}, and not a list of names")
        return cls(
            None if categories is None else tuple(categories),
            is_ordered,
            None if dims is None else tuple(validate_name(dim, "dimension") for dim in dims),
            attributes_from_json(document.get("attrs", [])),
            is_coordinate,
        )


def longest(found: Iterable[tuple[Category, ...] | None]) -> tuple[Category, ...]:
    """Return the longest of lists of categories, each of which begins with the shorter ones."""
    by_length = sorted((categories or () for categories in found), key=len)
    return by_length[-1] if by_length else ()


PLAIN = Description()
"""The description of a variable of which nothing more is known."""
