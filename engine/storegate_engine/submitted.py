"""Submitted: objects kept while clients of a cluster wait for graphs that need them."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

__all__ = ["drop_unwanted", "has_client", "in_cluster_thread", "in_worker", "keep_while_wanted"]

PERIOD_SECONDS = 1.0
"""Seconds between two looks for released futures, while something is kept for them."""
PATIENCE_SECONDS = 1.0
"""Seconds that a client may take to notice a released future, before that is left to the next look."""


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    thing: object
    client: weakref.ref[Any]
    keys: frozenset[Hashable]

    def is_wanted(self) -> bool:
        client = self.client()
        return client is not None and client.status != "closed" and not self.keys.isdisjoint(dict(client.futures))


_kept: list[_Kept] = []
_lock = threading.RLock()


def _clients() -> list[Any]:
    """Return the clients of this process."""
    if "distributed" not in sys.modules:
        return []
    from distributed import Client  # optional, deferred on purpose

    return [client for client in list(getattr(Client, "_instances", ())) if client.status == "running"]


def has_client() -> bool:
    """Return whether this process has a client of a cluster."""
    return bool(_clients())


def keep_while_wanted(thing: object) -> None:
    """Keep an object, which is pickled as part of a graph, as long as a client holds the futures that it has now.

    A client creates its futures before it sends their graph, but does not record which belong to it.
    """
    for client in _clients():
        keys = frozenset(key for key, state in dict(client.futures).items() if state.status == "pending")
        if keys:
            with _lock:
                _kept.append(_Kept(thing, weakref.ref(client), keys))
            client.loop.add_callback(_look_later, client.loop)


def _look_later(loop: Any) -> None:
    # in a new thread, since dropping may remove a directory of many files
    loop.call_later(PERIOD_SECONDS, lambda: threading.Thread(target=_look, args=(loop,), daemon=True).start())


def _look(loop: Any) -> None:
    _drop()
    if _kept:
        loop.add_callback(_look_later, loop)


def drop_unwanted() -> None:
    """Drop objects that no client waits for; clients get a moment to notice which futures are gone."""
    if not _kept:
        return
    if in_cluster_thread():  # the garbage collector calls from any thread, and those of a cluster must not wait
        threading.Thread(target=_drop, daemon=True).start()
        return
    for client in {id(client): client for kept in list(_kept) if (client := kept.client()) is not None}.values():
        if client.status == "running" and client.loop is not None:
            noticed = threading.Event()
            client.loop.add_callback(noticed.set)
            noticed.wait(PATIENCE_SECONDS)
    _drop()


def _drop() -> None:
    with _lock:
        unwanted = [kept for kept in _kept if not kept.is_wanted()]
        _kept[:] = [kept for kept in _kept if kept not in unwanted]
    del unwanted  # not under the lock, since this may take long


def in_cluster_thread() -> bool:
    """Return whether this is a thread of a scheduler or worker in this process, which keeps what it unpickles."""
    if "distributed" not in sys.modules:
        return False
    import asyncio  # deferred on purpose: distributed has it already

    name = threading.current_thread().name
    return name.startswith(("Dask-", "IO loop")) or asyncio._get_running_loop() is not None


def in_worker() -> bool:
    """Return whether this thread runs a task of a worker of a cluster."""
    if "distributed" not in sys.modules:
        return False
    from distributed import get_worker  # optional, deferred on purpose

    try:
        get_worker()
    except ValueError:
        return False
    return True
