"""Identifiers: names in hexadecimal digits, of segments, plans and fingerprints; checks and makes them."""

from __future__ import annotations

import hashlib
import re
from typing import Final

__all__ = ["HEX", "HEX_ID", "hex_id_of", "is_hex"]

N_DIGITS: Final = 32
HEX: Final = "[0-9a-f]"
"""A digit, in patterns; capitals are not used."""
HEX_ID: Final = f"{HEX}{{{N_DIGITS}}}"
"""A whole identifier, in patterns."""
_DIGITS = re.compile(f"{HEX}*")


def is_hex(text: object, n_digits: int = N_DIGITS) -> bool:
    """Return whether an object is a text of ``n_digits`` hexadecimal digits, by default an identifier.

    >>> is_hex("0" * 32), is_hex("F" * 32), is_hex("0" * 31), is_hex(None)
    (True, False, False, False)
    """
    return isinstance(text, str) and len(text) == n_digits and _DIGITS.fullmatch(text) is not None


def hex_id_of(content: bytes) -> str:
    """Return the identifier of bytes: equal for equal bytes, in any process (the first digits of their SHA-256).

    >>> hex_id_of(b"")
    'e3b0c44298fc1c149afbf4c8996fb924'
    """
    return hashlib.sha256(content).hexdigest()[:N_DIGITS]
