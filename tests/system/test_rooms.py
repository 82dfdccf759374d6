"""The rooms of both packages: what each shows to the others, and that its docstring names the files that it has."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import storegate
import storegate_engine

PUBLIC = {
    "storegate_engine.orders": """
        ArrayIndex Concat MaskIndex NewIndex Permute Range RangeIndex RowIndex RowOrder STEP_ROWS Slice Span Take
        as_int as_int64 concat cut find_last flatten from_json in_memory join_runs n_nodes permute
        replace_rows runs_of spans to_json
    """,
    "storegate_engine.arrays": """
        ArraySpec Compressor ConstantArray DEFAULT_COMPRESSOR Fileless MAX_TEXT_NBYTES MemoryArray
        PersistedArray RowArray RowSpan Segment StoredArray StoredIndex Written check_array
        made_at persist require_within_limits run_tasks shard_checksums write_rows
    """,
    "storegate_engine.table": """
        ArgMax Cast Difference Known OneHot PHASES Phase Piece Table Transform Variable added appended_dtype
        apply_all compare is_stored key_of require_combinable rows_of stored_arrays table_from_state
        table_to_state temporaries_of token_of updated_dtype
    """,
    "storegate_engine.exchange": """
        COPIES Exchange Plan SHARE Spills Step TASK_NBYTES moved_row_nbytes open_exchange permuted_rows
        plan_rows run spill_of spill_row_nbytes task_nbytes workspace
    """,
    "storegate_engine.store": """
        ArraySource CheckResult ColumnSource Manifest MemoryRepository Repository Root Source StoredRepository
        StreamSource Transaction Unreadable VacuumResult VariableSource as_native as_source fingerprint
        fingerprint_all is_foreign known_fingerprints repair rewrite vacuum verify write
    """,
    "storegate_engine.graphs": """
        blocks_of in_full_pass plans_of to_dask to_dataset variable_of
    """,
    "storegate_engine.streams": """
        Epochs LANES Last MAX_KEY Shuffle Stream StreamState class_weights
    """,
    "storegate.parsing": """
        BatchTransform DropLast OpenMode PhaseName ShuffleBatches
        ALL Backend BackendArgs BatchArgs BatchOptions Data Index MODES MethodIndex Mode Names OneRow Options
        PHASES Phase PhaseOrSplit RowRange Rows RowsLike Selection Split Target VarNames are_names as_indexer
        columns_of hint_of_samples is_everything n_selected one_row_columns parse_backend parse_columns
        parse_dtype parse_item parse_method_index parse_names parse_phase parse_reading_phase parse_seed
        parse_shape parse_shuffle_seed require_compiled require_equal_rows samples
    """,
    "storegate.edits": """
        Callback add assign clear compact create_zeros delete move shuffle transform update with_active
    """,
    "storegate.display": """
        aligned details explain table_html table_text title_of_view titled warn_of_misaligned
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
