"""Orders: the stored row of each logical row; index arithmetic that reads no rows.

What its files know:

    order               the interface of orders, in both directions, and rows in stored order
    concats             orders one after the other
    nested              rows of another order: cut, shuffled, picked by a list
    edits               new orders from other orders, in the shortest form
    permutations        seeded orders of 0 .. n-1, for any range and in either direction
    permutation_tables  numpy permutations that this process has built
    permutation_files   a permutation that does not fit in memory, as a file
    disk_shuffles       how such files are made: numpy's shuffle in sequential passes
    indexes             lists of row numbers, read in parts
    memory_indexes      lists of row numbers in memory
    deals               which part, such as a phase or a fold, each row gets
    hashes              64 bits for each row, equal for equal values
    json                orders as nested lists of a manifest, and back
"""

from __future__ import annotations

from storegate_engine.orders.concats import Concat, join_runs
from storegate_engine.orders.deals import (
    deal_by_threshold,
    deal_classes,
    deal_evenly,
    deal_groups,
    parts_of_hashes,
)
from storegate_engine.orders.edits import concat, cut, flatten, permute, relocated, replace_rows, replace_runs
from storegate_engine.orders.hashes import hash_rows
from storegate_engine.orders.indexes import STEP_ROWS, NewIndex, RowIndex, Span, find_last, runs_of, spans
from storegate_engine.orders.json import from_json, n_nodes, to_json
from storegate_engine.orders.memory_indexes import ArrayIndex, MaskIndex, RangeIndex, in_memory
from storegate_engine.orders.nested import Nested, Permute, Slice, Take
from storegate_engine.orders.order import Range, RowOrder
from storegate_engine.orders.permutations import as_int, as_int64

__all__ = [
    "STEP_ROWS",
    "ArrayIndex",
    "Concat",
    "MaskIndex",
    "Nested",
    "NewIndex",
    "Permute",
    "Range",
    "RangeIndex",
    "RowIndex",
    "RowOrder",
    "Slice",
    "Span",
    "Take",
    "as_int",
    "as_int64",
    "concat",
    "cut",
    "deal_by_threshold",
    "deal_classes",
    "deal_evenly",
    "deal_groups",
    "find_last",
    "flatten",
    "from_json",
    "hash_rows",
    "in_memory",
    "join_runs",
    "n_nodes",
    "parts_of_hashes",
    "permute",
    "relocated",
    "replace_rows",
    "replace_runs",
    "runs_of",
    "spans",
    "to_json",
]
