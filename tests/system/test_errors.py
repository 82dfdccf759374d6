"""Errors: each survives the way between processes, with its type, arguments and attributes."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

import storegate  # noqa: F401 (so that all modules that may have errors are loaded)
from storegate_engine import errors
from storegate_engine.errors import LabelError, StoreGateError


def tree(kind=StoreGateError):
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


def made(kind):
    """Return an error with more attributes than its class knows of."""
    error = kind("what was asked, found\x1b, and the remedy")
    error.phase = "train"
    return error.at_row(7, "label") if kind is LabelError else error


def raised(kind):
    raise made(kind) from KeyError("the cause")


def assert_same(found, kind):
    expected = made(kind)
    assert type(found) is kind
    assert (found.args, str(found), vars(found)) == (expected.args, str(expected), vars(expected))


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_errors_survive_pickle(kind):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(made(kind), protocol)), kind)


def test_errors_of_the_system_keep_their_number():
    for args in ((28, "No space left on device"), (28, "No space left on device", "file")):
        error = errors.WriteError(*args)
        found = pickle.loads(pickle.dumps(error))
        assert (found.errno, found.strerror, found.filename) == (28, args[1], error.filename)


def test_errors_of_workers_keep_their_type(cluster):
    for kind in tree():
        error = cluster.submit(raised, kind, pure=False).exception(timeout=60)
        assert_same(error, kind)
        assert isinstance(error.__cause__, KeyError)


def test_errors_of_processes_keep_their_type(processes):
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        for kind in tree():
            assert_same(pool.submit(raised, kind).exception(timeout=60), kind)


def test_all_errors_are_public_and_drawn():
    for kind in (kind for kind in tree() if not kind.__name__.startswith("_")):
        assert kind.__name__ in errors.__all__
        assert f" {kind.__name__}" in (errors.__doc__ or "") or kind is StoreGateError


TREE = {
    "StoreGateError": ("storegate", "Exception"),
    "ArgumentError": ("argument", "StoreGateError, ValueError"),
    "ArgumentTypeError": ("argument_type", "StoreGateError, TypeError"),
    "ArrayExpressionError": ("array_expression", "StoreGateError, NotImplementedError"),
    "RowIndexError": ("row_index", "StoreGateError, IndexError"),
    "InvalidNameError": ("invalid_name", "StoreGateError, ValueError"),
    "PhaseNotFoundError": ("phase_not_found", "StoreGateError, ValueError, KeyError"),
    "VariableNotFoundError": ("variable_not_found", "StoreGateError, KeyError, ValueError"),
    "VariableExistsError": ("variable_exists", "StoreGateError, ValueError"),
    "VersionNotFoundError": ("version_not_found", "StoreGateError, ValueError"),
    "BackendNotFoundError": ("backend_not_found", "StoreGateError, ValueError, NotImplementedError"),
    "DataIdError": ("data_id", "StoreGateError, ValueError"),
    "NotCompiledError": ("not_compiled", "StoreGateError, ValueError"),
    "ShapeError": ("shape", "StoreGateError, ValueError"),
    "LabelError": ("label", "StoreGateError, ValueError"),
    "DataIdNotFoundError": ("data_id_not_found", "DataIdError, KeyError"),
    "DtypeError": ("dtype", "StoreGateError, TypeError"),
    "MissingValueError": ("missing_value", "DtypeError, ValueError"),
    "ConversionError": ("conversion", "DtypeError, ValueError"),
    "ReadOnlyError": ("read_only", "StoreGateError, PermissionError"),
    "MemoryBudgetError": ("memory_budget", "StoreGateError, MemoryError"),
    "ConflictError": ("conflict", "StoreGateError, RuntimeError"),
    "TransactionError": ("transaction", "StoreGateError, RuntimeError"),
    "ClusterError": ("cluster", "StoreGateError, ConnectionError"),
    "WorkerTimeoutError": ("worker_timeout", "ClusterError, TimeoutError"),
    "IterationError": ("iteration", "StoreGateError, RuntimeError"),
    "NotInvertibleError": ("not_invertible", "StoreGateError, ValueError"),
    "StreamStateError": ("stream_state", "StoreGateError, ValueError"),
    "UnreadableFileError": ("unreadable_file", "StoreGateError, OSError, ValueError"),
    "FilesNotFoundError": ("files_not_found", "StoreGateError, FileNotFoundError"),
    "StoreError": ("store", "StoreGateError, OSError"),
    "WriteError": ("write", "StoreError"),
    "UnreadableStateError": ("unreadable_state", "StoreError, ValueError"),
    "SpillError": ("spill", "StoreError"),
    "NotAStoreError": ("not_astore", "StoreError"),
    "StoreNotFoundError": ("store_not_found", "NotAStoreError, FileNotFoundError"),
    "SourceError": ("source", "StoreError"),
    "SourceChangedError": ("source_changed", "SourceError"),
    "SourceNotAllowedError": ("source_not_allowed", "SourceError, PermissionError"),
    "StoreExistsError": ("store_exists", "StoreError, FileExistsError"),
    "CorruptStoreError": ("corrupt_store", "StoreError"),
    "RowsMemoryError": ("rows_memory", "CorruptStoreError, MemoryError"),
    "CorruptIndexError": ("corrupt_index", "CorruptStoreError, IndexError"),
    "SnapshotExpired": ("snapshot_expired", "StoreError"),
}


def test_the_tree_and_its_codes_stay():
    """Programs catch errors by their classes, and tell them by their codes: an entry here changes in no release."""
    public = [kind for kind in tree() if not kind.__name__.startswith("_")]
    found = {kind.__name__: (kind.code, ", ".join(base.__name__ for base in kind.__bases__)) for kind in public}
    assert found == TREE
    assert len({code for code, _ in TREE.values()}) == len(TREE)
