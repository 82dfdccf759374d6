"""Table: variables, pieces and transforms; immutable state that reads rows only on request.

What its files know:

    variable     stored rows, and their logical order
    table        all phases of a data_id at one moment
    description  metadata of a variable: dimensions, attributes, categories
    attributes   what attrs of xarray hold, as JSON
    pieces       rows of one array, and their transforms
    transforms   how stored rows become rows of a variable
    scalings     numbers by fitted values: shifted and divided, clipped, in bins
    moments      means, deviations and ends of many rows, joined block by block
    windows      adjacent rows as one row of an array
    ragged       bounds of rows as the items behind them
    statistics   what is known of the values of a variable without reading them
    gathers      stored rows in any order, into memory
    conversions  the common dtype of old and new rows
    differences  what differs between two tables
    json         a table as the JSON of a manifest, and back
"""

from __future__ import annotations

from storegate_engine.table.attributes import Attributes, attributes_of, values_of
from storegate_engine.table.conversions import appended_dtype, require_combinable, updated_dtype
from storegate_engine.table.description import PLAIN, Category, Description, longest
from storegate_engine.table.differences import Difference, added, compare
from storegate_engine.table.json import (
    Known,
    foreign_arrays,
    is_stored,
    key_of,
    stored_arrays,
    table_from_state,
    table_to_state,
    temporaries_of,
    token_of,
)
from storegate_engine.table.moments import Moments
from storegate_engine.table.pieces import Piece
from storegate_engine.table.ragged import in_parts
from storegate_engine.table.scalings import Affine, Bins, Clip
from storegate_engine.table.statistics import KnownValues, accepts, known_of
from storegate_engine.table.table import PHASES, Phase, Table
from storegate_engine.table.transforms import ArgMax, Cast, OneHot, Transform, apply_all
from storegate_engine.table.variable import SAMPLE, Kind, Variable, kind_of, rows_of
from storegate_engine.table.windows import WindowArray, WindowPlan, series_of

__all__ = [
    "PHASES",
    "PLAIN",
    "SAMPLE",
    "Affine",
    "ArgMax",
    "Attributes",
    "Bins",
    "Cast",
    "Category",
    "Clip",
    "Description",
    "Difference",
    "Kind",
    "Known",
    "KnownValues",
    "Moments",
    "OneHot",
    "Phase",
    "Piece",
    "Table",
    "Transform",
    "Variable",
    "WindowArray",
    "WindowPlan",
    "accepts",
    "added",
    "appended_dtype",
    "apply_all",
    "attributes_of",
    "compare",
    "foreign_arrays",
    "in_parts",
    "is_stored",
    "key_of",
    "kind_of",
    "known_of",
    "longest",
    "require_combinable",
    "rows_of",
    "series_of",
    "stored_arrays",
    "table_from_state",
    "table_to_state",
    "temporaries_of",
    "token_of",
    "updated_dtype",
    "values_of",
]
