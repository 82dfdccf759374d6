"""Exchange: an exact permutation of more rows than memory holds, in passes over spill files, and its plan.

What its files know:

    plans         which way permuted rows are read; the sizes, traffic and memory of that way
    planning      what of a variable decides that
    driver        the steps of an exchange, and what each of their tasks does
    bucket_sorts  the rows of one variable, sorted into buckets by spill files
    spill_files   parts of rows, one for each bucket, in one checksummed file
    spills        where exchanges spill: created, adopted, shared, handed down, kept, removed
    executor      the executor of exchanges in threads, or on a cluster
    tasks         small functions, run in threads or on the active dask cluster
"""

from __future__ import annotations

from storegate_engine.exchange.driver import Exchange, Step
from storegate_engine.exchange.executor import open_exchange
from storegate_engine.exchange.planning import moved_row_nbytes, plan_rows, spill_row_nbytes
from storegate_engine.exchange.plans import COPIES, SHARE, TASK_NBYTES, Plan, permuted_rows, task_nbytes
from storegate_engine.exchange.spills import Spills, spill_of
from storegate_engine.exchange.tasks import run, workspace

__all__ = [
    "COPIES",
    "SHARE",
    "TASK_NBYTES",
    "Exchange",
    "Plan",
    "Spills",
    "Step",
    "moved_row_nbytes",
    "open_exchange",
    "permuted_rows",
    "plan_rows",
    "run",
    "spill_of",
    "spill_row_nbytes",
    "task_nbytes",
    "workspace",
]
