"""Documents: untrusted JSON; its bytes, values and nesting are limited before it is parsed.

One megabyte of text can create a hundred megabytes of objects, hence the limit on values.
"""

from __future__ import annotations

import json
from typing import Any, Final

from storegate_engine.errors import CorruptStoreError

__all__ = ["MAX_NBYTES", "MAX_VALUES", "load"]

MAX_NBYTES: Final = 64 * 2**20
"""Bytes of the largest document that is written or read: a manifest of some ten thousand variables."""
MAX_VALUES: Final = 4_000_000
"""Most values in it, approximately."""


def load(content: bytes, where: object) -> dict[str, Any]:
    """Return the object in a JSON text.

    Raises
    ------
    CorruptStoreError
        The content is too large, nests too deep, is not JSON, or is not an object.
    """
    if len(content) > MAX_NBYTES:
        raise CorruptStoreError(f"{where} has {len(content)} bytes, and at most {MAX_NBYTES} are read")
    if sum(map(content.count, (b",", b"[", b"{"))) > MAX_VALUES:
        raise CorruptStoreError(f"{where} has more than {MAX_VALUES} values, the most that are read")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as err:
        raise CorruptStoreError(f"{where} is not JSON: {err}") from err
    if not isinstance(document, dict):
        raise CorruptStoreError(f"{where} is not a JSON object")
    return document
