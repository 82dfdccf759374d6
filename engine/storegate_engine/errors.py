"""Errors: the exception tree, and how a message names near matches; never raises on its own.

::

    StoreGateError
    ├── ArgumentError (ValueError)                an argument that is none of what the call takes
    ├── ArgumentTypeError (TypeError)             an argument of a type that the call does not take
    ├── ArrayExpressionError (NotImplementedError)  what dask's array expressions do not have yet
    ├── RowIndexError (IndexError)                rows that are not there, or no index of rows
    ├── InvalidNameError (ValueError)             a name that cannot be stored safely
    ├── PhaseNotFoundError (ValueError, KeyError) a phase that does not exist
    ├── VariableNotFoundError (KeyError, ValueError)
    ├── VariableExistsError (ValueError)
    ├── VersionNotFoundError (ValueError)         a version that was never committed
    ├── BackendNotFoundError (ValueError, NotImplementedError)
    ├── DataIdError (ValueError)                  no data_id
    │   └── DataIdNotFoundError (KeyError)        an unknown one, in a store that is only read
    ├── NotCompiledError (ValueError)             a call that needs ``compile()`` first
    ├── ShapeError (ValueError)                   rows or sample shapes that do not fit
    ├── LabelError (ValueError)                   a label outside of its classes
    ├── DtypeError (TypeError)                    a dtype that cannot be stored
    │   └── MissingValueError (ValueError)        values that are masked, null or NA
    ├── ReadOnlyError (PermissionError)           a change of a store opened with ``mode="r"``
    ├── MemoryBudgetError (MemoryError)           a plan that does not fit the memory limit
    ├── ConflictError (RuntimeError)              another writer's commit stands in the way
    ├── TransactionError (RuntimeError)           a transaction that failed earlier was used again
    ├── ClusterError (ConnectionError)            a dask cluster that was closed or lost
    │   └── WorkerTimeoutError (TimeoutError)     one without workers, for which plans are made
    ├── IterationError (RuntimeError)             a loop over a stream that has gone elsewhere
    ├── NotInvertibleError (ValueError)           an order that has repeated rows
    ├── StreamStateError (ValueError)             the state of another stream
    └── StoreError (OSError)
        ├── WriteError (OSError)              data that cannot be written: a full disk, no permission
        ├── SpillError (OSError)              spill that cannot be written: a full disk, no permission
        ├── UnreadableStateError (ValueError)     a change after which the store could not be opened
        ├── NotAStoreError (OSError)              a directory that holds something else
        │   └── StoreNotFoundError (FileNotFoundError)
        ├── StoreExistsError (FileExistsError)    a store where a new one was asked for
        ├── CorruptStoreError (OSError)           bytes that are missing or not what was written
        │   ├── CorruptIndexError (IndexError)    an index of rows that are not there
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
    "CorruptIndexError",
    "CorruptStoreError",
    "DataIdError",
    "DataIdNotFoundError",
    "DtypeError",
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
    "SpillError",
    "StoreError",
    "StoreExistsError",
    "StoreGateError",
    "StoreNotFoundError",
    "StreamStateError",
    "TransactionError",
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
    """Names the kind of error in logs and to other programs; it stays, whatever the messages become."""

    def __str__(self) -> str:
        """Return the message itself (``KeyError`` alone would quote it), with what a store says escaped."""
        return printable(Exception.__str__(self))

    def __reduce__(self) -> Any:
        """Travel with arguments and attributes; tblib, which dask uses, goes by the built-in types otherwise."""
        return super().__reduce__()


class ArgumentError(StoreGateError, ValueError):
    """An argument of a call that is none of what it takes."""

    code = "argument"


class ArgumentTypeError(StoreGateError, TypeError):
    """An argument of a type that the call does not take."""

    code = "argument_type"


class ArrayExpressionError(StoreGateError, NotImplementedError):
    """Something that the array expressions of dask (``array.query-planning``) do not implement, and its graphs do."""

    code = "array_expression"


class RowIndexError(StoreGateError, IndexError):
    """An index of rows that are not there, or something that is no index of rows."""

    code = "row_index"


class InvalidNameError(StoreGateError, ValueError):
    """A data_id or variable name that cannot be stored safely."""

    code = "invalid_name"


class PhaseNotFoundError(StoreGateError, ValueError, KeyError):
    """A phase that is none of train, valid, test, all, auto, or a split."""

    code = "phase_not_found"


class VariableNotFoundError(StoreGateError, KeyError, ValueError):
    """A variable that the phase does not have."""

    code = "variable_not_found"


class VariableExistsError(StoreGateError, ValueError):
    """A variable that must not exist yet, but does."""

    code = "variable_exists"


class VersionNotFoundError(StoreGateError, ValueError):
    """A version that was never committed, or of a backend that keeps none."""

    code = "version_not_found"


class BackendNotFoundError(StoreGateError, ValueError, NotImplementedError):
    """A backend that is none of numpy, zarr and hybrid."""

    code = "backend_not_found"


class DataIdError(StoreGateError, ValueError):
    """No default data_id is set."""

    code = "data_id"


class NotCompiledError(StoreGateError, ValueError):
    """A call over all phases before ``compile()``."""

    code = "not_compiled"


class ShapeError(StoreGateError, ValueError):
    """Numbers of rows or sample shapes that do not fit."""

    code = "shape"


class LabelError(StoreGateError, ValueError):
    """A label outside of ``[0, num_classes)``.

    Parameters
    ----------
    reason : str
        What is wrong with the label, and the remedy.
    row : int
        The row of the label, among those that were read together.
    label : int
        The label.
    variable : str, optional
        The variable's name, where it is known.
    """

    code = "label"

    def __init__(self, reason: str, *, row: int = 0, label: int = 0, variable: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.row = row
        self.label = label
        self.variable = variable

    def __str__(self) -> str:
        """Return the message with the place."""
        where = f"variable {self.variable!r}, row" if self.variable else "row"
        return printable(f"{where} {self.row}: {self.reason}")

    def at_row(self, row: int, variable: str = "") -> LabelError:
        """Return the error as it is seen from further out."""
        return LabelError(self.reason, row=row, label=self.label, variable=variable or self.variable)


class DataIdNotFoundError(DataIdError, KeyError):
    """A data_id that is not there, in a store that can only be read."""

    code = "data_id_not_found"


class DtypeError(StoreGateError, TypeError):
    """Data of a kind that cannot be stored without pickle."""

    code = "dtype"


class MissingValueError(DtypeError, ValueError):
    """Values that are masked, null or NA, which no dtype that can be stored expresses."""

    code = "missing_value"


class ReadOnlyError(StoreGateError, PermissionError):
    """A change was asked of a store opened read-only."""

    code = "read_only"


class MemoryBudgetError(StoreGateError, MemoryError):
    """The projected memory of a plan exceeds the limit; nothing was started."""

    code = "memory_budget"


class ConflictError(StoreGateError, RuntimeError):
    """Another writer committed a change that this one cannot be re-applied on."""

    code = "conflict"


class TransactionError(StoreGateError, RuntimeError):
    """A transaction was used after it failed or ended."""

    code = "transaction"


class ClusterError(StoreGateError, ConnectionError):
    """A dask cluster that was closed or lost, and what lay in its memory with it."""

    code = "cluster"


class WorkerTimeoutError(ClusterError, TimeoutError):
    """No worker came in the time that plans wait for the first."""

    code = "worker_timeout"


class IterationError(StoreGateError, RuntimeError):
    """A loop over a stream cannot go on: another one was begun, or the stream went to another place."""

    code = "iteration"


class NotInvertibleError(StoreGateError, ValueError):
    """An order that repeats rows has no inverse."""

    code = "not_invertible"


class StreamStateError(StoreGateError, ValueError):
    """A state that is not of the stream it is loaded into."""

    code = "stream_state"


class StoreError(StoreGateError, OSError):
    """Base of the errors about what lies in storage."""

    code = "store"


class WriteError(StoreError):
    """Rows or a manifest cannot be written; the table is as it was."""

    code = "write"


class UnreadableStateError(StoreError, ValueError):
    """A change was not made, since the store could not be opened after it."""

    code = "unreadable_state"


class SpillError(StoreError):
    """Scratch data cannot be written; the store is as it was."""

    code = "spill"


class NotAStoreError(StoreError):
    """The directory holds something that is not a store of ours."""

    code = "not_astore"


class StoreNotFoundError(NotAStoreError, FileNotFoundError):
    """There is no store, and the mode asks for one."""

    code = "store_not_found"


class StoreExistsError(StoreError, FileExistsError):
    """There is a store, and the mode asks for a new one."""

    code = "store_exists"


class CorruptStoreError(StoreError):
    """Stored bytes are missing, or are not what was written."""

    code = "corrupt_store"


class RowsMemoryError(CorruptStoreError, MemoryError):
    """Stored rows take more memory than there is: this machine has too little, or the store claims too much."""

    code = "rows_memory"


class CorruptIndexError(CorruptStoreError, IndexError):
    """An index names rows that are not there."""

    code = "corrupt_index"


class SnapshotExpired(StoreError):
    """The pinned version was removed by ``vacuum``."""

    code = "snapshot_expired"


class AlignmentWarning(UserWarning):
    """Variables of one phase were shuffled differently when they were added: their rows may not belong together."""


def near_match(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for the nearest known name, or an empty string.

    >>> near_match("jet_p", ["jet_pt", "label"])
    "; did you mean 'jet_pt'?"
    """
    found = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.6)
    return f"; did you mean {found[0]!r}?" if found else ""


def printable(text: str) -> str:
    r"""Return a text for a terminal: control characters, which may come from a store, are escaped, but for newlines.

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
