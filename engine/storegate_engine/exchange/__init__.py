"""Exchange: an exact permutation of more rows than memory holds, in passes over spill files, and its plan.

What its files know:

    plans         how permuted rows are read; sizes, traffic and memory
    planning      the plan of a variable, from its dtype, order and chunks
    driver        the steps of an exchange, and their tasks
    sorts         what the tasks of one sort into buckets share
    bucket_sorts  the rows of one variable, sorted into buckets by spill files
    spill_files   parts of rows, one per bucket, in one checksummed file
    appending     rows to a new file, through the page cache or past it
    row_files     all rows in order in one file, of which any run is read alone
    spills        the life of spill directories: created, adopted, shared, handed down, kept, removed
    executor      runs exchanges in threads, or on a cluster
    tasks         small functions, run in threads or on the active dask cluster
"""

from __future__ import annotations

from storegate_engine.exchange.driver import Exchange, Step
from storegate_engine.exchange.executor import open_exchange
from storegate_engine.exchange.planning import moved_row_nbytes, plan_rows, spill_row_nbytes
from storegate_engine.exchange.plans import COPIES, SHARE, TASK_NBYTES, Plan, permuted_rows, task_nbytes
from storegate_engine.exchange.row_files import RowFile
from storegate_engine.exchange.spills import Spills, spill_of
from storegate_engine.exchange.tasks import run, workspace

__all__ = [
    "COPIES",
    "SHARE",
    "TASK_NBYTES",
    "Exchange",
    "Plan",
    "RowFile",
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
