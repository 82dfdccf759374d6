"""Descriptions: what codes stand for, which the rows of a variable do not say themselves; pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from storegate_engine.errors import CorruptStoreError, shown

__all__ = ["PLAIN", "Category", "Description", "longest"]

Category: TypeAlias = str | int | float | bool
"""What a code of a categorical variable stands for."""

_KEYS = {"categories", "is_ordered"}


@dataclass(frozen=True, slots=True)
class Description:
    """What a variable means; its rows do not depend on it."""

    categories: tuple[Category, ...] | None = None
    """The meanings of the codes 0, 1, ...; None for a variable of plain values."""
    is_ordered: bool = False
    """Whether the order of the categories has a meaning."""

    def joined(self, other: Description) -> Description:
        """Return this description with the categories of both: codes of one go on from those of the other."""
        return replace(self, categories=longest((self.categories, other.categories)) or None)

    def to_json(self) -> dict[str, Any]:
        """Return the document of a manifest: only what is set."""
        return {
            **({"categories": list(self.categories)} if self.categories is not None else {}),
            **({"is_ordered": True} if self.is_ordered else {}),
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
        if not isinstance(is_ordered, bool):
            raise CorruptStoreError(f"whether categories are ordered is {shown(is_ordered)}, and not true or false")
        return cls(None if categories is None else tuple(categories), is_ordered)


def longest(found: Iterable[tuple[Category, ...] | None]) -> tuple[Category, ...]:
    """Return the longest of lists of categories, each of which begins with the shorter ones."""
    by_length = sorted((categories or () for categories in found), key=len)
    return by_length[-1] if by_length else ()


PLAIN = Description()
"""The description of a variable without categories."""
