"""Errors: the exception tree, and hints for messages; never raises on its own.

::

    StoreGateError
    ├── ArgumentError (ValueError)                an argument with a value that the call does not accept
    ├── ArgumentTypeError (TypeError)             an argument of a type that the call does not accept
    ├── ArrayExpressionError (NotImplementedError)  not implemented for dask's array expressions
    ├── RowIndexError (IndexError)                rows out of range, or not an index of rows
    ├── InvalidNameError (ValueError)             a name that cannot be stored safely
    ├── PhaseNotFoundError (ValueError, KeyError) a phase that does not exist
    ├── VariableNotFoundError (KeyError, ValueError)
    ├── VariableExistsError (ValueError)
    ├── VersionNotFoundError (ValueError)         a version that was never committed
    ├── BackendNotFoundError (ValueError, NotImplementedError)
    ├── DataIdError (ValueError)                  no data_id is set
    │   └── DataIdNotFoundError (KeyError)        an unknown one, in a read-only store
    ├── NotCompiledError (ValueError)             a call that needs ``compile()`` first
    ├── ShapeError (ValueError)                   rows or sample shapes that do not fit
    ├── LabelError (ValueError)                   a label outside its classes
    ├── DtypeError (TypeError)                    a dtype that cannot be stored
    │   ├── MissingValueError (ValueError)        values that are masked, null or NA
    │   └── ConversionError (ValueError)          a value that a cast cannot convert
    ├── ReadOnlyError (PermissionError)           a change of a store opened with ``mode="r"``
    ├── MemoryBudgetError (MemoryError)           a plan that does not fit the memory limit
    ├── ConflictError (RuntimeError)              a conflicting commit of another writer
    ├── TransactionError (RuntimeError)           a transaction that failed earlier was used again
    ├── ClusterError (ConnectionError)            a dask cluster that was closed or lost
    │   └── WorkerTimeoutError (TimeoutError)     a cluster to which no worker came in time
    ├── IterationError (RuntimeError)             a loop over a stream that has moved
    ├── NotInvertibleError (ValueError)           an order with repeated rows
    ├── StreamStateError (ValueError)             the state of another stream
    ├── UnreadableFileError (OSError, ValueError) a file to read that is truncated, damaged, or of another format
    ├── FilesNotFoundError (FileNotFoundError)    no file to read at a path, or none that a glob matches
    └── StoreError (OSError)
        ├── WriteError (OSError)              rows or manifests that cannot be written: a full disk, no permission
        ├── SpillError (OSError)              a spill that cannot be written: a full disk, no permission
        ├── UnreadableStateError (ValueError)     a change after which the store could not be opened
        ├── NotAStoreError (OSError)              a directory that holds something else
        │   └── StoreNotFoundError (FileNotFoundError)
        ├── SourceError (OSError)                 a file of another format that cannot be read
        │   ├── SourceChangedError (OSError)      one that is not as it was when it was attached
        │   └── SourceNotAllowedError (PermissionError)  one outside of the directories that are allowed
        ├── StoreExistsError (FileExistsError)    a store where the mode creates a new one
        ├── CorruptStoreError (OSError)           stored bytes that are missing or damaged
        │   ├── CorruptIndexError (IndexError)    an index of rows that do not exist
        │   └── RowsMemoryError (MemoryError)     rows that take more memory than there is
        └── SnapshotExpired (OSError)             a version that vacuum removed

    AlignmentWarning (UserWarning)                variables of a phase whose rows may not belong together
"""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable
from typing import Any, ClassVar

__all__ = [
    "AlignmentWarning",
    "ArgumentError",
    "ArgumentTypeError",
    "ArrayExpressionError",
    "BackendNotFoundError",
    "ClusterError",
    "ConflictError",
    "ConversionError",
    "CorruptIndexError",
    "CorruptStoreError",
    "DataIdError",
    "DataIdNotFoundError",
    "DtypeError",
    "FilesNotFoundError",
    "InvalidNameError",
    "IterationError",
    "LabelError",
    "MemoryBudgetError",
    "MissingValueError",
    "NotAStoreError",
    "NotCompiledError",
    "NotInvertibleError",
    "PhaseNotFoundError",
    "ReadOnlyError",
    "RowIndexError",
    "RowsMemoryError",
    "ShapeError",
    "SnapshotExpired",
    "SourceChangedError",
    "SourceError",
    "SourceNotAllowedError",
    "SpillError",
    "StoreError",
    "StoreExistsError",
    "StoreGateError",
    "StoreNotFoundError",
    "StreamStateError",
    "TransactionError",
    "UnreadableFileError",
    "UnreadableStateError",
    "VariableExistsError",
    "VariableNotFoundError",
    "VersionNotFoundError",
    "WorkerTimeoutError",
    "WriteError",
    "near_match",
    "printable",
    "shown",
]


class StoreGateError(Exception):
    """Base of every error that this project raises on purpose."""

    code: ClassVar[str] = "storegate"
    """The kind of error, for logs and other programs; stable even if messages change."""

    def __str__(self) -> str:
        """Return the message (``KeyError`` alone would quote it), with control characters escaped."""
        return printable(Exception.__str__(self))

    def __reduce__(self) -> Any:
        """Pickle arguments and attributes; otherwise tblib, which dask uses, rebuilds only the built-in type."""
        return super().__reduce__()


class ArgumentError(StoreGateError, ValueError):
    """An argument has a value that the call does not accept."""

    code = "argument"


class ArgumentTypeError(StoreGateError, TypeError):
    """An argument has a type that the call does not accept."""

    code = "argument_type"


class ArrayExpressionError(StoreGateError, NotImplementedError):
    """The array expressions of dask (``array.query-planning``) do not implement something that its graphs do."""

    code = "array_expression"


class RowIndexError(StoreGateError, IndexError):
    """A row is out of range, or something is not an index of rows."""

    code = "row_index"


class InvalidNameError(StoreGateError, ValueError):
    """A data_id or variable name cannot be stored safely."""

    code = "invalid_name"


class PhaseNotFoundError(StoreGateError, ValueError, KeyError):
    """A phase is not one of train, valid, test, all, auto, or a split."""

    code = "phase_not_found"


class VariableNotFoundError(StoreGateError, KeyError, ValueError):
    """The phase does not have the variable."""

    code = "variable_not_found"


class VariableExistsError(StoreGateError, ValueError):
    """A variable exists, but must not."""

    code = "variable_exists"


class VersionNotFoundError(StoreGateError, ValueError):
    """The version was never committed, or the backend keeps no versions."""

    code = "version_not_found"


class BackendNotFoundError(StoreGateError, ValueError, NotImplementedError):
    """The backend is not numpy, zarr or hybrid."""

    code = "backend_not_found"


class DataIdError(StoreGateError, ValueError):
    """No default data_id is set."""

    code = "data_id"


class NotCompiledError(StoreGateError, ValueError):
    """A call over all phases needs ``compile()`` first."""

    code = "not_compiled"


class ShapeError(StoreGateError, ValueError):
    """Numbers of rows or row shapes do not fit."""

    code = "shape"


class LabelError(StoreGateError, ValueError):
    """A label is outside ``[0, num_classes)``.

    Parameters
    ----------
    reason : str
        What is wrong with the label, and the remedy.
    row : int
        The row of the label, counted from the first row of the read.
    label : int
        The label.
    variable : str, optional
        The name of the variable, if known.
    """

    code = "label"

    def __init__(self, reason: str, *, row: int = 0, label: int = 0, variable: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.row = row
        self.label = label
        self.variable = variable

    def __str__(self) -> str:
        """Return the message with row and variable."""
        where = f"variable {self.variable!r}, row" if self.variable else "row"
        return printable(f"{where} {self.row}: {self.reason}")

    def at_row(self, row: int, variable: str = "") -> LabelError:
        """Return the error with the row and variable of an outer caller."""
        return LabelError(self.reason, row=row, label=self.label, variable=variable or self.variable)


class DataIdNotFoundError(DataIdError, KeyError):
    """A read-only store has no such data_id."""

    code = "data_id_not_found"


class DtypeError(StoreGateError, TypeError):
    """The data cannot be stored without pickle."""

    code = "dtype"


class MissingValueError(DtypeError, ValueError):
    """Values are masked, null or NA, which no stored dtype can express."""

    code = "missing_value"


class ConversionError(DtypeError, ValueError):
    """A value cannot be converted to a dtype: a text that is no number, a date outside the range of a unit."""

    code = "conversion"


class ReadOnlyError(StoreGateError, PermissionError):
    """A change was attempted in a read-only store."""

    code = "read_only"


class MemoryBudgetError(StoreGateError, MemoryError):
    """The projected memory of a plan exceeds the limit; nothing was started."""

    code = "memory_budget"


class ConflictError(StoreGateError, RuntimeError):
    """Another writer committed a conflicting change; this one was not made."""

    code = "conflict"


class TransactionError(StoreGateError, RuntimeError):
    """A transaction was used after it failed or ended."""

    code = "transaction"


class ClusterError(StoreGateError, ConnectionError):
    """A dask cluster was closed or lost, and with it the data in its memory."""

    code = "cluster"


class WorkerTimeoutError(ClusterError, TimeoutError):
    """No worker came to the cluster in time."""

    code = "worker_timeout"


class IterationError(StoreGateError, RuntimeError):
    """A loop over a stream cannot continue: another loop was begun, the stream moved, or has given all its epochs."""

    code = "iteration"


class NotInvertibleError(StoreGateError, ValueError):
    """An order that repeats rows has no inverse."""

    code = "not_invertible"


class StreamStateError(StoreGateError, ValueError):
    """The state belongs to a different stream."""

    code = "stream_state"


class UnreadableFileError(StoreGateError, OSError, ValueError):
    """A file that rows are read from is truncated, damaged, or of another format; nothing was stored."""

    code = "unreadable_file"


class FilesNotFoundError(StoreGateError, FileNotFoundError):
    """There is no file at a path, or none that a glob matches."""

    code = "files_not_found"


class StoreError(StoreGateError, OSError):
    """Base of the errors of storage."""

    code = "store"


class WriteError(StoreError):
    """Rows or a manifest cannot be written; the table is unchanged."""

    code = "write"


class UnreadableStateError(StoreError, ValueError):
    """A change was refused because the store could not be opened after it."""

    code = "unreadable_state"


class SpillError(StoreError):
    """A spill cannot be written; the store is unchanged."""

    code = "spill"


class SourceError(StoreError):
    """A file of another format cannot be read."""

    code = "source"


class SourceChangedError(SourceError):
    """A file is not as it was when it was attached."""

    code = "source_changed"


class SourceNotAllowedError(SourceError, PermissionError):
    """A store refers to a file outside of the directories that are allowed."""

    code = "source_not_allowed"


class NotAStoreError(StoreError):
    """The directory holds something that is not a StoreGate store."""

    code = "not_astore"


class StoreNotFoundError(NotAStoreError, FileNotFoundError):
    """There is no store, and the mode does not create one."""

    code = "store_not_found"


class StoreExistsError(StoreError, FileExistsError):
    """There is a store, and the mode creates only new ones."""

    code = "store_exists"


class CorruptStoreError(StoreError):
    """Stored bytes are missing or damaged."""

    code = "corrupt_store"


class RowsMemoryError(CorruptStoreError, MemoryError):
    """Stored rows take more memory than there is: the machine has too little, or the store is damaged."""

    code = "rows_memory"


class CorruptIndexError(CorruptStoreError, IndexError):
    """A stored index names rows that do not exist."""

    code = "corrupt_index"


class SnapshotExpired(StoreError):
    """The pinned version was removed by ``vacuum``."""

    code = "snapshot_expired"


class AlignmentWarning(UserWarning):
    """Variables of one phase were shuffled differently when they were added; their rows may not belong together."""


def near_match(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string.

    >>> near_match("jet_p", ["jet_pt", "label"])
    "; did you mean 'jet_pt'?"
    """
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def printable(text: str) -> str:
    r"""Return a text that is safe for a terminal: control characters are escaped, except newlines.

    >>> printable("\x1b[2Jx")
    '\\x1b[2Jx'
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


def shown(obj: object) -> str:
    """Return a short text of any object, for a message.

    >>> shown(list(range(1000)))
    '[0, 1, 2, 3, 4, 5, ...]'
    """
    try:
        return reprlib.repr(obj)
    except ValueError:  # an integer of thousands of digits
        return f"<{type(obj).__name__}>"
