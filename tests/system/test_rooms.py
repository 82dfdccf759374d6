"""The rooms of both packages: what each shows to the others, which files it names, and that nobody asks for classes."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import storegate
import storegate_engine

PUBLIC = {
    "storegate_engine.orders": """
        ArrayIndex Concat MaskIndex Nested NewIndex Permute Range RangeIndex RowIndex RowOrder STEP_ROWS Slice
        deal_by_threshold deal_classes deal_evenly deal_groups hash_rows parts_of_hashes relocated
        Span Take as_int as_int64 concat cut find_last flatten from_json in_memory join_runs n_nodes permute
        replace_rows replace_runs runs_of spans to_json
    """,
    "storegate_engine.arrays": """
        Held RaggedArray close_files files_in FETCHED_NBYTES
        ArraySpec Compressor ConstantArray Fileless MAX_TEXT_NBYTES MemoryArray PersistedArray RowArray RowSpan
        Segment SegmentWriter Shared Statistics StoredArray StoredIndex Tally Windowed Written check_array joined
        made_at of_written persist require_within_limits run_tasks write_rows FORMATS ForeignArray arrays_in list_of
        name_in_netcdf
        fetching_until open_foreign source_file open_to_read targets_of
    """,
    "storegate_engine.table": """
        Affine Bins Clip Kind Moments WindowArray WindowPlan in_parts kind_of series_of
        ArgMax Attributes Cast Category Description Difference Known KnownValues OneHot PHASES PLAIN Phase Piece
        SAMPLE Table Transform Variable accepts added appended_dtype apply_all attributes_of compare is_stored key_of
        known_of longest require_combinable rows_of stored_arrays table_from_state table_to_state temporaries_of
        token_of updated_dtype values_of foreign_arrays
    """,
    "storegate_engine.exchange": """
        COPIES Exchange Plan RowFile SHARE Spills Step TASK_NBYTES moved_row_nbytes open_exchange permuted_rows
        plan_rows run spill_of spill_row_nbytes task_nbytes workspace
    """,
    "storegate_engine.store": """
        ArraySource CATEGORY_ATTRIBUTES Categories CheckResult CodeSource ColumnSource FieldSource Fields Manifest
        RaggedSource
        as_codes as_rows categories_in column_dtype kind_in lists_in
        MemoryRepository Repository Root Source StreamSource Transaction Unreadable VacuumResult
        VariableSource VersionedRepository as_lists as_source blocks_of_group categories_of coded description_of
        fingerprint fingerprint_all grouped known_fingerprints repair rewrite source_of vacuum verify write
    """,
    "storegate_engine.graphs": """
        blocks_of blocks_read in_full_pass is_of_lists on_demand plans_of to_dask to_dataset variable_of
    """,
    "storegate_engine.streams": """
        Epochs LANES Last MAX_KEY Shuffle Stream StreamState class_weights
    """,
    "storegate.parsing": """
        Rule Thresholds parse_n_folds parse_shares
        BatchTransform Collate Computable DropLast ExportFormat First Frame Labelled OpenArgs OpenMode PhaseName
        ShuffleBatches ALL
        Backend BackendArgs BatchArgs BatchOptions Data Index MODES MethodIndex Mode Names OneRow Options PHASES Phase
        PhaseOrSplit RowRange Rows RowsLike Selection Split Target VarNames are_names as_indexer columns_of
        computed_columns hint_of_samples is_dataarray is_everything labels_of labels_of_row n_selected named
        one_row_columns parse_backend parse_columns parse_dtype parse_item parse_method_index parse_names parse_phase
        parse_reading_phase parse_seed parse_shape parse_shuffle_seed require_compiled require_equal_rows samples
        ForeignFormat natural_key require_same_meaning Whole
    """,
    "storegate.readers": """
        ReadOptions Reader columns_of_files labels_in attached_files
    """,
    "storegate.edits": """
        Callback add assign clear compact compute create_zeros delete move shuffle transform update with_active attach
        sources_of filter_rows fold_of_each inverse quantile_bins rescale sample scaled select sort split
    """,
    "storegate.report": """
        Report Source bars_in_one_pass collect require_place
    """,
    "storegate.display": """
        Drawn Looks Outline Plots aligned cut explain looks_like outline outline_html plans_of summary table_html
        table_text terminal_width warn_of_misaligned
    """,
}


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names(room):
    package = importlib.import_module(room)
    assert sorted(package.__all__) == sorted(PUBLIC[room].split())
    assert all(hasattr(package, name) for name in package.__all__)


def rooms():
    for package in (storegate, storegate_engine):
        directory = Path(package.__file__).parent
        yield package.__name__
        yield from (f"{package.__name__}.{path.parent.name}" for path in sorted(directory.glob("*/__init__.py")))


@pytest.mark.parametrize("room", list(rooms()))
def test_the_docstring_names_every_file_once(room):
    package = importlib.import_module(room)
    directory = Path(package.__file__).parent
    lines = (package.__doc__ or "").splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ")]
    files = [path.stem for path in directory.glob("*.py") if path.stem != "__init__"]
    folders = [path.parent.name for path in directory.glob("*/__init__.py")]
    assert sorted(listed) == sorted(files + folders)


# Whoever has an array, a repository or an order asks it what it can do, and never what class it is of: otherwise a new
# kind is right only where somebody thought of it. Orders build each other, and may look inside.

PROTOCOLS = {
    "arrays": """
        ConstantArray Fileless ForeignArray GivenRows MemoryArray PersistedArray RaggedArray RowArray StoredArray
        WindowArray
    """,
    "repositories": "MemoryRepository Repository StoredRepository VersionedRepository",
    "orders": "Bucketed Chained Concat Dealt Nested _OfSteps Permute Range RowOrder Share Slice Take",
}
MAY_ASK = {
    # Its result is read file by file, which no other array has a meaning for.
    ("storegate_engine/table/json.py", "stored_arrays", "StoredArray"),
}


def classes_asked_for(tree):
    """Yield, for every place that asks what class something is of, the function around it and the name of the class."""
    stack = [(tree, "")]
    while stack:
        node, function = stack.pop()
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            function = node.name
        asked = []
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            asked = node.args[1:]
        elif isinstance(node, ast.MatchClass):
            asked = [node.cls]
        elif isinstance(node, ast.Compare) and ast.unparse(node.left).startswith("type("):
            asked = node.comparators
        for part in (found for given in asked for found in ast.walk(given)):
            name = getattr(part, "attr", getattr(part, "id", None))
            if isinstance(part, (ast.Attribute, ast.Name)):
                yield function, name
        stack.extend((child, function) for child in ast.iter_child_nodes(node))


def files_of_code():
    for package in (storegate, storegate_engine):
        above = Path(package.__file__).parent.parent
        yield from (
            (path.relative_to(above).as_posix(), path) for path in sorted(above.glob(f"{package.__name__}/**/*.py"))
        )


@pytest.fixture(scope="module")
def asked_for():
    """Whoever asks for a class: the file, the function and the class."""
    return [
        (file, *found) for file, path in files_of_code() for found in classes_asked_for(ast.parse(path.read_text()))
    ]


@pytest.mark.parametrize("kind", PROTOCOLS)
def test_nobody_asks_of_what_class_something_is(asked_for, kind):
    classes = set(PROTOCOLS[kind].split())
    asked = {
        (file, function, name)
        for file, function, name in asked_for
        if name in classes and not (kind == "orders" and file.startswith("storegate_engine/orders/"))
    }
    assert asked == {found for found in MAY_ASK if found[2] in classes}


@pytest.mark.parametrize(
    "question",
    [
        "isinstance(piece.array, StoredArray)",
        "isinstance(piece.array, (arrays.StoredArray, int))",
        "isinstance(piece.array, StoredArray | int)",
        "issubclass(type(piece.array), StoredArray)",
        "type(piece.array) is StoredArray",
        "match piece:\n    case Piece(StoredArray()):\n        pass",
    ],
)
def test_every_way_to_ask_is_found(question):
    asked = set(classes_asked_for(ast.parse(question)))
    assert ("", "StoredArray") in asked


def test_all_classes_are_looked_for():
    for module in pkgutil.walk_packages(storegate_engine.__path__, "storegate_engine."):
        importlib.import_module(module.name)

    def below(cls):
        found = [cls, *(kind for child in cls.__subclasses__() for kind in below(child))]
        return [kind for kind in found if kind.__module__.startswith("storegate")]

    orders, arrays, store = (
        importlib.import_module(f"storegate_engine.{room}") for room in ("orders", "arrays", "store")
    )
    known = {
        "arrays": [arrays.RowArray, arrays.StoredArray, *below(arrays.Fileless)],
        "repositories": below(store.Repository),
        "orders": below(orders.RowOrder),
    }
    assert {kind: {cls.__name__ for cls in classes} for kind, classes in known.items()} == {
        kind: set(names.split()) for kind, names in PROTOCOLS.items()
    }


IN_ONE_PLACE = {
    r"0-9a-f|0123456789abcdef": "storegate_engine/identifiers.py",
    r"\bdtype\.str\b": "storegate_engine/dtypes.py",
    r"\bcrc32c\(index": "storegate_engine/arrays/shard_index.py",
    r"16 \* (self\._)?n_chunks": "storegate_engine/arrays/shard_index.py",
}
"""What is written in one file only: the digits of identifiers, the texts of dtypes, the index at the end of a shard."""


@pytest.mark.parametrize("pattern", IN_ONE_PLACE)
def test_one_place_knows_it(pattern):
    found = {file for file, path in files_of_code() if re.search(pattern, path.read_text())}
    assert found == {IN_ONE_PLACE[pattern]}
