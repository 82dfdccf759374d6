"""Names: valid names of data_ids and variables; never reads a store.

Names become directories and array names, so that a name must be safe on every store: 1 to 255 bytes of UTF-8,
made of letters of any script, digits and ``_ - + . : ( ) [ ] space @ %``, in Unicode's composed form (NFC),
not starting with a dot, and not one of the files that a store itself writes.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from storegate_engine.errors import InvalidNameError

__all__ = ["MAX_NAME_NBYTES", "validate_name"]

MAX_NAME_NBYTES: Final = 255
"""The longest name, in bytes of UTF-8: what file systems allow."""

_SIGNS: Final = "_-+.:()[] @%"
_RESERVED: Final = ("zarr.json", "storegate.json")
_ALLOWED: Final = "allowed are letters of any script, digits and _ - + . : ( ) [ ] space @ %"


def validate_name(name: object, kind: str = "variable") -> str:
    """Return ``name`` as a plain str if it can be stored safely on every store.

    Letters are those of any script, with the combining marks that belong to them; digits are the decimal
    digits of any script.

    Parameters
    ----------
    name : object
        The requested name.
    kind : str
        The kind of name, for the message: ``"variable"``, ``"data_id"``.

    Raises
    ------
    InvalidNameError
        The name is not a str, empty, longer than 255 bytes, not in NFC, reserved, starts with a dot, or
        has a character that is not allowed.

    Examples
    --------
    >>> validate_name("jet_pt [GeV]")
    'jet_pt [GeV]'
    >>> validate_name("jet/pt")  # doctest: +NORMALIZE_WHITESPACE
    Traceback (most recent call last):
        ...
    storegate_engine.errors.InvalidNameError: 'jet/pt' cannot name a variable: '/' (U+002F SOLIDUS) at
    position 3 is not allowed; allowed are letters of any script, digits and _ - + . : ( ) [ ] space @ %
    """
    if not isinstance(name, str):
        raise InvalidNameError(f"{_show(name)} cannot name a {kind}: a name is a str, not {type(name).__name__}")
    text = str.__str__(name)  # numpy's and other subclasses become plain
    reason = _reason(text)
    if reason:
        raise InvalidNameError(f"{_show(text)} cannot name a {kind}: {reason}")
    return text


def _reason(text: str) -> str:
    """Return why a text is not a valid name, or an empty text."""
    if not text:
        return f"it is empty; {_ALLOWED}"
    letter = False
    for position, char in enumerate(text):
        category = unicodedata.category(char)
        letter = category[0] == "L" or (category[0] == "M" and letter)
        if letter or category == "Nd" or char in _SIGNS:
            continue
        what = f"{char!r} (U+{ord(char):04X} {unicodedata.name(char, 'unnamed')}) at position {position}"
        if category[0] == "M":
            return f"{what} is a mark that does not follow a letter; {_ALLOWED}"
        return f"{what} is not allowed; {_ALLOWED}"
    if text[0] == ".":
        return "it starts with a dot ('.' at position 0); a dot may stand anywhere else"
    composed = unicodedata.normalize("NFC", text)
    if composed != text:
        differs = next(
            (k for k, (a, b) in enumerate(zip(text, composed, strict=False)) if a != b),
            min(len(text), len(composed)),
        )
        return (
            f"it is not in Unicode's composed form (NFC) from position {differs} on, so that it would look "
            "the same as another name; pass unicodedata.normalize('NFC', name)"
        )
    nbytes = len(text.encode())
    if nbytes > MAX_NAME_NBYTES:
        return f"it has {nbytes} bytes in UTF-8; {MAX_NAME_NBYTES} are allowed"
    if text.casefold() in _RESERVED:
        return f"stores keep their own metadata in {', '.join(_RESERVED)}"
    return ""


def _show(name: object) -> str:
    shown = repr(name)
    return shown if len(shown) <= 80 else f"{shown[:60]}...{shown[-10:]}"
