"""Executor: runs exchanges in threads, or on the active cluster; follows a plan."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from storegate_engine.budget import cacheable_nbytes
from storegate_engine.exchange.driver import Exchange, Step
from storegate_engine.exchange.plans import Plan
from storegate_engine.exchange.spill_files import SPILL_FORMAT
from storegate_engine.exchange.spills import Spills
from storegate_engine.exchange.tasks import run, workspace
from storegate_engine.table import Variable, token_of

__all__ = ["open_exchange", "run_steps"]


@contextlib.contextmanager
def open_exchange(
    variables: Sequence[Variable],
    plan: Plan,
    done: Callable[[float], object] = lambda share: None,
    *,
    is_last: bool = False,
) -> Iterator[Exchange]:
    """Run all steps of an exchange before the last, and yield it, so that its buckets can be collected.

    The spill of a killed run is reused; the spill is released at the end.

    Parameters
    ----------
    variables : sequence of Variable
        The variables to exchange, all in the same order.
    plan : Plan
        The sizes of every pass.
    done : callable
        Called with the share that a task is of a pass over all rows.
    is_last : bool
        Whether the stored rows are read for the last time, and leave the page cache.
    """
    together = [replace(variable, order=variables[0].order) for variable in variables]
    sizes = (plan.map_rows, plan.bucket_rows, plan.coarse)
    spills = Spills()
    try:
        directories = [
            spills.open(at, variable, partial(token_of, variable, SPILL_FORMAT, *sizes)).visited()
            for at, variable in enumerate(together)
        ]
        spills.require_seen()
        exchange = Exchange.of(
            together,
            directories,
            map_rows=[plan.map_rows] * len(together),
            bucket_rows=plan.bucket_rows,
            coarse=plan.coarse,
            is_last=is_last,
            past_cache=True if plan.write_nbytes > cacheable_nbytes() else None,
        )
        run_steps(exchange, plan.workers, done)
        yield exchange
    finally:
        spills.clear()  # removes them, unless another thread runs the same plan


def run_steps(exchange: Exchange, workers: int, done: Callable[[float], object] = lambda share: None) -> None:
    """Run the steps of an exchange before its buckets are collected, at most ``workers`` tasks at a time."""
    for step in exchange.steps():
        share = 0 if step.name == "request" else 1 / max(1, step.n_tasks)
        tasks = (partial(_task, exchange, step, number) for number in range(step.n_tasks))
        run(tasks, workers, partial(done, share))


def _task(exchange: Exchange, step: Step, number: int) -> None:
    exchange.run(step, number, workspace())
