"""Callers: where in the program of a user a warning belongs; knows nothing of what it says."""

from __future__ import annotations

import sys

__all__ = ["users_stacklevel"]

_OURS = ("storegate", "storegate_engine", "contextlib")


def users_stacklevel() -> int:
    """Return the ``stacklevel`` with which `warnings.warn`, called beside it, names the line of the user.

    That is the first one outside of this library. It is found, and not counted by hand: how deep a warning lies
    changes with the calls between, which are nobody's interface.
    """
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        frame = frame.f_back
        level += 1
    return level
