"""Planning: the plan for reading permuted rows of a variable; reads none of them."""

from __future__ import annotations

from storegate_engine.exchange.plans import COPIES, Plan, Wanted, choose
from storegate_engine.settings import shuffle_plan
from storegate_engine.table import Variable

__all__ = ["moved_row_nbytes", "plan_rows", "spill_row_nbytes", "transforms_last"]

TEXT_COPIES = 2.5
"""Bytes of a row of text while it is decoded or encoded, per copy: as text of Python, of numpy and as bytes
(measured)."""


def plan_rows(
    variable: Variable,
    n_rows: int,
    budget_nbytes: int,
    workers: int,
    *,
    in_order: bool,
    align: int = 1,
    bucket_rows: int | None = None,
    copies: float = COPIES,
    passes: int = 2,
    force: str | None = None,
) -> Plan:
    """Return the plan for reading ``n_rows`` rows of a variable; see `plans`.

    Parameters
    ----------
    variable : Variable
        The variable with the rows.
    n_rows : int
        Number of wanted rows.
    budget_nbytes, workers : int
        The memory limit, and the number of tasks that share it.
    in_order : bool
        Whether the rows are wanted in stored order.
    align : int
        Rows of a shard to write.
    bucket_rows : int, optional
        Rows of a block of a dask graph.
    copies : float
        Copies of its rows that a task holds.
    passes : {2, 3}
        The most passes of an exchange.
    force : str, optional
        See `choose`; default: the configured one.
    """
    is_fixed = bool(variable.pieces) and variable.dtype.kind != "T"  # variable-length text cannot be spilled
    wanted = Wanted(
        n_rows,
        variable.offsets[-1],
        moved_row_nbytes(variable),
        in_order=in_order or not is_fixed,
        random_access=all(piece.array.is_random_access for piece in variable.pieces),
        spill_row_nbytes=spill_row_nbytes(variable),
        stored_nbytes=sum(
            piece.n_rows * piece.source_row_nbytes for piece in variable.pieces if piece.array.constant is None
        ),
        has_repeats=not (in_order or variable.order.is_injective),
        chunk_rows=max((piece.array.chunk_rows for piece in variable.pieces), default=1),
        chunk_nbytes=max((piece.chunk_nbytes for piece in variable.pieces), default=0),
    )
    return choose(
        wanted,
        budget_nbytes=budget_nbytes,
        workers=workers,
        align=align,
        bucket_rows=bucket_rows,
        force=shuffle_plan() if force is None else force,
        copies=copies,
        passes=passes,
    )


def moved_row_nbytes(variable: Variable) -> int:
    """Return the bytes of one row in a pass, per copy."""
    return max(1, int(variable.row_nbytes * (TEXT_COPIES if variable.dtype.kind == "T" else 1)))


def spill_row_nbytes(variable: Variable) -> int:
    """Return the bytes of one row as it is spilled: stored or transformed, whichever is narrower."""
    return max(1, variable.pieces[0].source_row_nbytes if transforms_last(variable) else variable.row_nbytes)


def transforms_last(variable: Variable) -> bool:
    """Return whether rows are spilled as stored, and transformed when they are collected."""
    if not variable.pieces or not variable.pieces[0].transforms or not variable.is_uniform:
        return False
    return variable.pieces[0].source_row_nbytes < variable.row_nbytes
