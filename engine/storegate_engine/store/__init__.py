"""Store: committed tables; written, kept and checked.

What its files know:

    roots         a directory or URL that holds tables, one per data_id
    repository    one data_id's committed table, and transactions on it
    tidiness      which variables have too many pieces, or orders that are too deep
    stored        the table of one data_id in storage
    ingest        sources of rows as arrays of a new segment
    memory        the table of one data_id in the memory of this process
    manifests     committed states as JSON, and back
    logs          the manifests of a data_id, and the commit protocol
    inputs        callers' data as sources of rows
    sources       rows of any origin, as blocks in order
    table_sources rows of variables and indexes, and the text of any source
    lists         rows of various lengths, and sparse matrices
    fields        variables that are read together, and codes of categories
    columns       the variables of one source, turned on disk so that each can be written alone
    undoing       the table before the last change
    rewriting     the logical rows of stored variables as new arrays in that order
    fingerprints  hashes of the rows of variables
    verifying     checks of everything that the kept versions refer to
    vacuuming     what no kept version needs, and its removal
    repairing     the last version that opens, restored as the newest
"""

from __future__ import annotations

from storegate_engine.store.fields import (
    CATEGORY_ATTRIBUTES,
    Categories,
    CodeSource,
    Fields,
    FieldSource,
    as_codes,
    categories_in,
    categories_of,
    coded,
    description_of,
    source_of,
)
from storegate_engine.store.fingerprints import fingerprint, fingerprint_all, known_fingerprints
from storegate_engine.store.inputs import as_lists, as_source
from storegate_engine.store.lists import RaggedSource, as_rows, column_dtype, kind_in, lists_in
from storegate_engine.store.manifests import Manifest, Unreadable
from storegate_engine.store.memory import MemoryRepository
from storegate_engine.store.repairing import repair
from storegate_engine.store.repository import Repository, Transaction, VersionedRepository
from storegate_engine.store.rewriting import rewrite, write
from storegate_engine.store.roots import Root
from storegate_engine.store.sources import (
    ArraySource,
    ColumnSource,
    Source,
    StreamSource,
    blocks_of_group,
    grouped,
)
from storegate_engine.store.table_sources import VariableSource
from storegate_engine.store.vacuuming import VacuumResult, vacuum
from storegate_engine.store.verifying import CheckResult, verify

__all__ = [
    "CATEGORY_ATTRIBUTES",
    "ArraySource",
    "Categories",
    "CheckResult",
    "CodeSource",
    "ColumnSource",
    "FieldSource",
    "Fields",
    "Manifest",
    "MemoryRepository",
    "RaggedSource",
    "Repository",
    "Root",
    "Source",
    "StreamSource",
    "Transaction",
    "Unreadable",
    "VacuumResult",
    "VariableSource",
    "VersionedRepository",
    "as_codes",
    "as_lists",
    "as_rows",
    "as_source",
    "blocks_of_group",
    "categories_in",
    "categories_of",
    "coded",
    "column_dtype",
    "description_of",
    "fingerprint",
    "fingerprint_all",
    "grouped",
    "kind_in",
    "known_fingerprints",
    "lists_in",
    "repair",
    "rewrite",
    "source_of",
    "vacuum",
    "verify",
    "write",
]
