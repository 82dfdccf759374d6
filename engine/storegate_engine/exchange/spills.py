"""Spills: where exchanges spill, from the first file to the last reader: one life, whoever runs the steps.

========  =============================================================================================================
created   by `spill_of` and `Spills.open`, in the scratch of the variable: the configured one, or in its store
adopted   by these, too: what a process that was killed, or a stream that was told to, left of the same plan
shared    all that have a plan in a process have one directory; tasks elsewhere get a `Visit`, see `Spill.for_tasks`
handed    to the plan that comes next, which writes over the files, see `Spills.hand_down`
kept      for whoever runs the plan next, in any process, see `Spills.keep`
removed   when nobody refers to it any more, tasks that may still write included, or when the process ends
========  =============================================================================================================

The directories themselves, and the locks by which processes tell who lives, are a matter of `scratch`.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from storegate_engine.clusters import active_client, unseen_by
from storegate_engine.errors import SpillError
from storegate_engine.exchange.spill_files import SPILL_FORMAT
from storegate_engine.holds import LOCK, user_scratch
from storegate_engine.identifiers import hex_id_of
from storegate_engine.scratch import SHARED_RULE, SPARE, Spill, open_spill
from storegate_engine.settings import scratch_directory
from storegate_engine.table import Variable

__all__ = ["Spills", "spill_of"]


def spill_of(variable: Variable, plan: str, configured: Path | None = None) -> Spill:
    """Return the directory of a plan for rows of a variable: one that is there already, or a new one.

    Parameters
    ----------
    variable : Variable
        What is spilled.
    plan : str
        A name in hexadecimal digits, equal where the files would be.
    configured : Path, optional
        Where it lies; default: where it is configured now.

    Raises
    ------
    SpillError
        It cannot be made.
    """
    return open_spill(_scratch_of(variable, configured), plan)


def _scratch_of(variable: Variable, configured: Path | None) -> Path:
    """Return where the spill of a variable lies: where it is configured, in its store, or in the system's scratch."""
    if (place := configured or scratch_directory()) is not None:
        return place
    for piece in variable.pieces:
        if (location := piece.array.location) is not None and (segment := location.path) is not None:
            table = segment.parents[1]
            if os.access(table, os.W_OK):
                return table / "scratch"
    return user_scratch()


class Spills:
    """The directories that a call or a stream has, each for as long as it is in here; they do not travel."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Spill] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Spills, ()

    @staticmethod
    def plan(*facts: Any) -> str:
        """Return a name for the plan of whoever would write the same files, in whatever process."""
        return hex_id_of(json.dumps([SPILL_FORMAT, *facts]).encode())

    def open(self, key: Hashable, variable: Variable, plan: Callable[[], str]) -> Spill:
        """Return the directory of a key, see `spill_of`; a forked child has none of its parent's."""
        if any(spill.is_inherited for spill in self._held.values()):
            self._held.clear()
        if key not in self._held:
            self._held[key] = spill_of(variable, plan())
        return self._held[key]

    def require_seen(self) -> None:
        """Refuse workers of the active cluster that do not see the directories, before they read any rows."""
        client = active_client()
        if client is None:
            return
        for place, spill in {spill.path.parent: spill for spill in self._held.values()}.items():
            if blind := unseen_by(client, spill.path / LOCK):
                raise SpillError(
                    f"scratch directory {place} of the client is not seen from {len(blind)} workers "
                    f"({', '.join(blind[:3])}): {SHARED_RULE}"
                )

    def hand_down(self, others: set[Hashable], heir: Hashable) -> None:
        """Leave the files of some keys to another one, which is written over them."""
        for key in [key for key in self._held if key in others]:
            self._held.pop(key).leave_to(self._held[heir])

    def clear_spare(self, key: Hashable) -> None:
        """Remove what was not written over, when all is written."""
        if key in self._held:
            shutil.rmtree(self._held[key].path / SPARE, ignore_errors=True)

    def keep(self, is_wanted: Callable[[Any], bool]) -> None:
        """Leave the files of some keys behind when they are let go of, for whoever runs their plans next."""
        for key, spill in self._held.items():
            if is_wanted(key):
                spill.leave_behind()

    @property
    def keys(self) -> set[Hashable]:
        """Whose directories are in here."""
        return set(self._held)

    def clear(self) -> None:
        """Let go of all; they go unless others of this process have them."""
        self._held.clear()
