"""Edits: new tables from old, and the calls that store them; every call works inside a transaction.

What its files know:

    tables      new states of a table from written rows; pure
    labels      dimensions, coordinates and attributes that come with rows
    samples     whether rows with a coordinate belong where they would be stored
    updates     variables with some rows replaced
    attaching   variables whose rows stay in files of other programs
    writes      adding, replacing and deleting rows
    computing   new variables from functions of a Dataset
    rows        phases with other rows: picked, sampled, sorted, filtered
    splits      all rows dealt anew to the phases
    scalings    values fitted to one phase, by which all are scaled
    transforms  shuffles, casts and encodings
    checks      transforms that some rows would refuse
    compaction  rows written out once in their logical order
    transfers   variables between memory and storage
"""

from __future__ import annotations

from storegate.edits.attaching import attach, sources_of
from storegate.edits.compaction import compact
from storegate.edits.computing import compute
from storegate.edits.rows import filter_rows, sample, select, sort
from storegate.edits.scalings import inverse, quantile_bins, rescale, scaled
from storegate.edits.splits import fold_of_each, split
from storegate.edits.tables import with_active
from storegate.edits.transfers import Callback, move
from storegate.edits.transforms import shuffle, transform
from storegate.edits.writes import add, assign, clear, create_zeros, delete, update

__all__ = [
    "Callback",
    "add",
    "assign",
    "attach",
    "clear",
    "compact",
    "compute",
    "create_zeros",
    "delete",
    "filter_rows",
    "fold_of_each",
    "inverse",
    "move",
    "quantile_bins",
    "rescale",
    "sample",
    "scaled",
    "select",
    "shuffle",
    "sort",
    "sources_of",
    "split",
    "transform",
    "update",
    "with_active",
]
