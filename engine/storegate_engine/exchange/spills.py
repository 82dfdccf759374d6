"""Spills: the directories of spills, from the first file to the last reader, whoever runs the steps.

========  =============================================================================================================
created   by `spill_of` and `Spills.open`, in the scratch of the variable: the configured one, or in its store
adopted   also by these: the spill of the same plan that was left by a killed process, or kept by a stream
shared    by all objects of a process with the same plan; tasks elsewhere get a `Visit`, see `Spill.for_tasks`;
          and by the processes of a host, if a stream asks for that: its ranks divide the tasks among them
handed    to the next plan, which overwrites the files, see `Spills.hand_down`
kept      for the next run of the plan, in any process, see `Spills.keep`
removed   when it is no longer used, by tasks that may still write included, or when the (last) process ends
========  =============================================================================================================

`scratch` manages the directories themselves, and the locks that show whether their processes live.
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


def spill_of(variable: Variable, plan: str, configured: Path | None = None, *, shared: bool = False) -> Spill:
    """Return the directory of a plan for rows of a variable: an existing one, or a new one.

    Parameters
    ----------
    variable : Variable
        The variable to spill.
    plan : str
        A name in hexadecimal digits, equal if the files would be equal.
    configured : Path, optional
        The parent directory; default: the configured one.
    shared : bool
        Share it with all processes of this host that run the plan.

    Raises
    ------
    SpillError
        The directory cannot be created.
    """
    return open_spill(_scratch_of(variable, configured), plan, shared=shared)


def _scratch_of(variable: Variable, configured: Path | None) -> Path:
    """Return the parent of a variable's spill: the configured one, one in its store, or the user's scratch."""
    if (place := configured or scratch_directory()) is not None:
        return place
    for piece in variable.pieces:
        if (location := piece.array.location) is not None and (segment := location.path) is not None:
            table = segment.parents[1]
            if os.access(table, os.W_OK):
                return table / "scratch"
    return user_scratch()


class Spills:
    """The directories of a call or a stream, each kept as long as it is in here; they are not pickled."""

    def __init__(self) -> None:
        self._held: dict[Hashable, Spill] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Spills, ()

    @staticmethod
    def plan(*facts: Any) -> str:
        """Return a name for a plan, equal in every process that would write the same files."""
        return hex_id_of(json.dumps([SPILL_FORMAT, *facts]).encode())

    def open(self, key: Hashable, variable: Variable, plan: Callable[[], str], *, shared: bool = False) -> Spill:
        """Return the directory of a key, see `spill_of`; a forked child has none of its parent's."""
        if any(spill.is_inherited for spill in self._held.values()):
            self._held.clear()
        if key not in self._held:
            self._held[key] = spill_of(variable, plan(), shared=shared)
        return self._held[key]

    def require_seen(self) -> None:
        """Refuse workers of the active cluster that cannot see the directories, before they read any rows."""
        client = active_client()
        if client is None:
            return
        for place, spill in {spill.path.parent: spill for spill in self._held.values()}.items():
            if blind := unseen_by(client, spill.path / LOCK):
                raise SpillError(
                    f"scratch directory {place} of the client is not visible to {len(blind)} workers "
                    f"({', '.join(blind[:3])}): {SHARED_RULE}"
                )

    def hand_down(self, others: set[Hashable], heir: Hashable) -> None:
        """Pass the files of some keys to another one, which overwrites them."""
        for key in [key for key in self._held if key in others]:
            self._held.pop(key).leave_to(self._held[heir])

    def release(self, key: Hashable) -> None:
        """Release one directory; it is removed unless other objects of this process use it."""
        self._held.pop(key, None)

    def clear_spare(self, key: Hashable) -> None:
        """Remove the files that were not overwritten, once everything is written."""
        if key in self._held:
            shutil.rmtree(self._held[key].path / SPARE, ignore_errors=True)

    def keep(self, is_wanted: Callable[[Any], bool]) -> None:
        """Keep the files of some keys when they are released, for the next run of their plans."""
        for key, spill in self._held.items():
            if is_wanted(key):
                spill.leave_behind()

    @property
    def keys(self) -> set[Any]:
        """The keys whose directories are in here."""
        return set(self._held)

    def clear(self) -> None:
        """Release all directories; they are removed unless other objects of this process use them."""
        self._held.clear()
