"""Callers: the line of the user's program that a warning should name; knows nothing of the warning."""

from __future__ import annotations

import sys

__all__ = ["users_stacklevel"]

_OURS = ("storegate", "storegate_engine", "contextlib")


def users_stacklevel() -> int:
    """Return the ``stacklevel`` with which `warnings.warn`, called beside it, names the user's line.

    That is the first line outside this library. It is searched, not counted by hand, since the depth of a warning
    changes with internal calls.
    """
    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] in _OURS:
        frame = frame.f_back
        level += 1
    return level
