"""Parsing: arguments of callers as typed values; reads no rows of a gate.

What its files know:

    names      which variables are named, the form of their data, and the order of names
    phases     names of phases, and shares of them
    splits     what decides to which phase or fold rows are dealt
    values     seeds, shapes and dtypes
    batches    the options of ``view.batches``
    options    ``backend`` and ``backend_args``
    selection  which rows an index means
    inputs     ``data``, as named sources of rows
    frames     tables of other libraries, as columns with names
    labels     dimensions, coordinates and attributes of xarray
    computed   functions of a Dataset, as columns
    arrow      those that come through the Arrow C stream
    iterators  single samples, as blocks of rows
"""

from __future__ import annotations

from storegate.parsing.batches import BatchArgs, BatchOptions, BatchTransform, Collate, DropLast, First, ShuffleBatches
from storegate.parsing.computed import Computable, computed_columns
from storegate.parsing.frames import Frame, named
from storegate.parsing.inputs import (
    Data,
    RowsLike,
    columns_of,
    labels_of,
    labels_of_row,
    one_row_columns,
    parse_columns,
    require_equal_rows,
)
from storegate.parsing.iterators import hint_of_samples, samples
from storegate.parsing.labels import Labelled, Whole, is_dataarray, require_same_meaning
from storegate.parsing.names import Names, VarNames, are_names, natural_key, parse_names
from storegate.parsing.options import MODES, Backend, BackendArgs, Mode, OpenArgs, OpenMode, Options, parse_backend
from storegate.parsing.phases import (
    ALL,
    PHASES,
    Phase,
    PhaseName,
    PhaseOrSplit,
    Split,
    Target,
    parse_phase,
    parse_reading_phase,
    require_compiled,
)
from storegate.parsing.selection import (
    Index,
    MethodIndex,
    OneRow,
    RowRange,
    Rows,
    Selection,
    as_indexer,
    is_everything,
    n_selected,
    parse_item,
    parse_method_index,
)
from storegate.parsing.splits import Rule, Thresholds, parse_n_folds, parse_shares
from storegate.parsing.values import (
    ExportFormat,
    ForeignFormat,
    parse_dtype,
    parse_seed,
    parse_shape,
    parse_shuffle_seed,
)

__all__ = [
    "ALL",
    "MODES",
    "PHASES",
    "Backend",
    "BackendArgs",
    "BatchArgs",
    "BatchOptions",
    "BatchTransform",
    "Collate",
    "Computable",
    "Data",
    "DropLast",
    "ExportFormat",
    "First",
    "ForeignFormat",
    "Frame",
    "Index",
    "Labelled",
    "MethodIndex",
    "Mode",
    "Names",
    "OneRow",
    "OpenArgs",
    "OpenMode",
    "Options",
    "Phase",
    "PhaseName",
    "PhaseOrSplit",
    "RowRange",
    "Rows",
    "RowsLike",
    "Rule",
    "Selection",
    "ShuffleBatches",
    "Split",
    "Target",
    "Thresholds",
    "VarNames",
    "Whole",
    "are_names",
    "as_indexer",
    "columns_of",
    "computed_columns",
    "hint_of_samples",
    "is_dataarray",
    "is_everything",
    "labels_of",
    "labels_of_row",
    "n_selected",
    "named",
    "natural_key",
    "one_row_columns",
    "parse_backend",
    "parse_columns",
    "parse_dtype",
    "parse_item",
    "parse_method_index",
    "parse_n_folds",
    "parse_names",
    "parse_phase",
    "parse_reading_phase",
    "parse_seed",
    "parse_shape",
    "parse_shares",
    "parse_shuffle_seed",
    "require_compiled",
    "require_equal_rows",
    "require_same_meaning",
    "samples",
]
