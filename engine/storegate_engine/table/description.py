"""Descriptions: metadata of a variable: dimension names, attributes, categories; pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from storegate_engine.errors import CorruptStoreError, shown

__all__ = ["PLAIN", "Category", "Description", "longest"]

Category: TypeAlias = str | int | float | bool
"""The category of one code of a categorical variable."""

_KEYS = {"dims", "attrs", "categories", "is_ordered"}

MAX_DIMS = 64
"""Most dimensions of a numpy array."""


@dataclass(frozen=True, slots=True)
class Description:
    """Metadata of a variable, for display and for other libraries; its rows do not depend on it."""

    dims: tuple[str, ...] = ()
    """The names of the dimensions of a row; empty if they have none."""
    attributes: str = "{}"
    """Attributes like units, as a JSON object; text, so that it can be compared and hashed."""
    categories: tuple[Category, ...] | None = None
    """The categories of the codes 0, 1, ...; None for a variable of plain values."""
    is_ordered: bool = False
    """Whether the order of the categories is meaningful."""

    @classmethod
    def of(
        cls,
        *,
        dims: Iterable[str] = (),
        attrs: Mapping[str, Any] | None = None,
        categories: Iterable[Category] | None = None,
        is_ordered: bool = False,
    ) -> Description:
        """Return the description of a variable with these attributes, as far as JSON can hold them."""
        text = json.dumps(dict(attrs or {}), sort_keys=False)
        return cls(tuple(dims), text, None if categories is None else tuple(categories), is_ordered)

    def joined(self, other: Description) -> Description:
        """Return this description with the categories of both: codes of one go on from those of the other."""
        return replace(self, categories=longest((self.categories, other.categories)) or None)

    @property
    def attrs(self) -> dict[str, Any]:
        """The attributes."""
        attrs: dict[str, Any] = json.loads(self.attributes)
        return attrs

    def to_json(self) -> dict[str, Any]:
        """Return the description as JSON for a manifest, without empty entries."""
        return {
            **({"dims": list(self.dims)} if self.dims else {}),
            **({"attrs": self.attrs} if self.attributes != "{}" else {}),
            **({"categories": list(self.categories)} if self.categories is not None else {}),
            **({"is_ordered": True} if self.is_ordered else {}),
        }

    @classmethod
    def from_json(cls, document: Any) -> Description:
        """Return the description from the JSON of a manifest.

        Raises
        ------
        CorruptStoreError
            The JSON was not made by :meth:`to_json`.
        """
        if not isinstance(document, dict) or document.keys() - _KEYS:
            raise CorruptStoreError(f"a variable is described by {shown(document)}")
        dims, attrs, categories = document.get("dims", []), document.get("attrs", {}), document.get("categories")
        if not isinstance(dims, list) or len(dims) > MAX_DIMS or any(not isinstance(dim, str) for dim in dims):
            raise CorruptStoreError(f"a row has dimensions {shown(dims)}, not names")
        if not isinstance(attrs, dict):
            raise CorruptStoreError(f"a variable has attributes {shown(attrs)}, not names and values")
        if categories is not None and (
            not isinstance(categories, list) or any(not isinstance(one, Category) for one in categories)
        ):
            raise CorruptStoreError(f"a variable has categories {shown(categories)}, not texts or numbers")
        is_ordered = document.get("is_ordered", False)
        if not isinstance(is_ordered, bool):
            raise CorruptStoreError(f"whether categories are ordered is {shown(is_ordered)}, not true or false")
        return cls.of(dims=dims, attrs=attrs, categories=categories, is_ordered=is_ordered)


def longest(found: Iterable[tuple[Category, ...] | None]) -> tuple[Category, ...]:
    """Return the longest of lists of categories, each of which begins with the shorter ones."""
    by_length = sorted((categories or () for categories in found), key=len)
    return by_length[-1] if by_length else ()


PLAIN = Description()
"""The description of a variable without metadata."""
