"""The rooms of the engine: what each shows to the others, and that its docstring names the files that it has."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import storegate_engine

PUBLIC = {
    "orders": """
        ArrayIndex Concat MaskIndex NewIndex Permute Range RangeIndex RowIndex RowOrder STEP_ROWS Slice Take
        as_int as_int64 concat cut find_last flatten from_json in_memory join_runs n_nodes permute
        replace_rows runs_of spans to_json
    """,
    "arrays": """
        ArraySpec Capacity Compressor ConstantArray DEFAULT_COMPRESSOR MAX_TEXT_NBYTES MemoryArray
        PersistedArray RowArray RowSpan Segment StoredArray StoredIndex Written capacity check_array
        in_own_thread made_at persist require_within_limits run_tasks shard_checksums write_rows
    """,
    "table": """
        ArgMax Cast Difference OneHot PHASES Phase Piece Table Transform Variable added appended_dtype
        apply_all compare is_stored key_of require_combinable rows_of stored_arrays table_from_state
        table_to_state temporaries_of token_of updated_dtype
    """,
    "exchange": """
        COPIES Exchange Plan SHARE Spills Step TASK_NBYTES moved_row_nbytes open_exchange permuted_rows
        plan_rows run spill_of spill_row_nbytes task_nbytes workspace
    """,
    "store": """
        ArraySource Checked ColumnSource Manifest MemoryRepository Repository Root Source StoredRepository
        StreamSource Transaction Unreadable Vacuumed VariableSource as_native as_source fingerprint
        fingerprint_all is_foreign known_fingerprints repair rewrite vacuum verify write
    """,
    "graphs": """
        blocks_of in_full_pass plans_of to_dask to_dataset variable_of
    """,
    "streams": """
        Epochs LANES Last MAX_KEY Shuffle Stream class_weights
    """,
}


@pytest.mark.parametrize("room", PUBLIC)
def test_public_names(room):
    package = importlib.import_module(f"storegate_engine.{room}")
    assert sorted(package.__all__) == sorted(PUBLIC[room].split())
    assert all(hasattr(package, name) for name in package.__all__)


def rooms():
    directory = Path(storegate_engine.__file__).parent
    return [directory, *(path.parent for path in sorted(directory.glob("*/__init__.py")))]


@pytest.mark.parametrize("directory", rooms(), ids=lambda path: path.name)
def test_the_docstring_names_every_file_once(directory):
    name = ".".join(["storegate_engine", *directory.parts[len(rooms()[0].parts) :]])
    lines = (importlib.import_module(name).__doc__ or "").splitlines()
    listed = [line.split()[0] for line in lines if line.startswith("    ")]
    files = [path.stem for path in directory.glob("*.py") if path.stem != "__init__"]
    folders = [path.parent.name for path in directory.glob("*/__init__.py")]
    assert sorted(listed) == sorted(files + folders)
