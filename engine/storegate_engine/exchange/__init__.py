"""Exchange: an exact permutation of more rows than memory holds, in passes over spill files, and its plan.

What its files know:

    plans        which way permuted rows are read; the sizes, traffic and memory of that way
    driver       requests, scatters and collects: what each task of an exchange does
    passes       whole exchanges of variables that share an order
    tasks        small functions, run in threads or on the active dask cluster
    spill_files  segments of rows in one checksummed file
"""

from __future__ import annotations

from storegate_engine.exchange.driver import (
    Arrangement,
    Exchange,
    arrangement,
    collect,
    moved_row_nbytes,
    placement,
    plan_rows,
    request,
    scatter,
    scratch_of,
    spill_row_nbytes,
)
from storegate_engine.exchange.passes import Passes, open_passes
from storegate_engine.exchange.plans import COPIES, SHARE, TASK_NBYTES, Plan, permuted_rows, task_nbytes
from storegate_engine.exchange.spill_files import SPILL_FORMAT
from storegate_engine.exchange.tasks import run, run_here, workspace

__all__ = [
    "COPIES",
    "SHARE",
    "SPILL_FORMAT",
    "TASK_NBYTES",
    "Arrangement",
    "Exchange",
    "Passes",
    "Plan",
    "arrangement",
    "collect",
    "moved_row_nbytes",
    "open_passes",
    "permuted_rows",
    "placement",
    "plan_rows",
    "request",
    "run",
    "run_here",
    "scatter",
    "scratch_of",
    "spill_row_nbytes",
    "task_nbytes",
    "workspace",
]
