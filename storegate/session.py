"""Session: what a gate and its views share: backend, mode and repositories; never touches a row.

Gates and views parse their arguments. A session finds the repository of the current data_id, in memory or in
storage, begins transactions on it, and knows the limits to plan with.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from storegate.display import warn_of_misaligned
from storegate.edits import with_active
from storegate.parsing import MODES, Backend, Mode, Options
from storegate_engine.arrays import close_files
from storegate_engine.clusters import Capacity, capacity
from storegate_engine.errors import (
    ArgumentError,
    DataIdError,
    DataIdNotFoundError,
    VersionNotFoundError,
    near_match,
)
from storegate_engine.locations import parse_location
from storegate_engine.names import validate_name
from storegate_engine.settings import fingerprints_at_commit
from storegate_engine.store import MemoryRepository, Repository, Root, Transaction, fingerprint_all
from storegate_engine.table import Table
from storegate_engine.temporaries import Temporary

__all__ = ["Session", "only_data_id"]


MOST_CHANGES = 1000
"""Most changes of which the modes are noted."""


class Session:
    """The state of a gate.

    Parameters
    ----------
    backend : {"numpy", "zarr", "hybrid"}
        Whether rows are in memory, in storage, or in both.
    options : Options
        How rows are stored.
    version : int or None
        The version to show; None for the newest one.
    data_id : str or None
        The first data_id.

    Raises
    ------
    VersionNotFoundError
        A version was given, but the backend keeps none or the mode would remove it.
    """

    def __init__(self, backend: Backend, options: Options, version: int | None, data_id: str | None) -> None:
        if version is not None and (backend == "numpy" or options.mode == "w"):
            raise VersionNotFoundError(
                f"version {version}: only the zarr backend keeps versions, and mode='w' would remove them"
            )
        if data_id is not None:
            validate_name(data_id, "data_id")
        self.backend = backend
        self.options = options
        self.version = version
        self.mode: Mode = "numpy" if backend == "numpy" else "zarr"
        self.data_id: str | None = None
        self._memory: dict[str, MemoryRepository] = {}
        self._stored: dict[str, Repository] = {}
        self._changes: dict[str, deque[tuple[Mode, ...]]] = {}
        self._temporary: Temporary | None = None
        self.root = None if backend == "numpy" else self._open_root()
        if data_id is not None:
            self.set_data_id(data_id)

    def _open_root(self) -> Root:
        options = self.options
        directory = options.output_dir
        if directory is None:
            self._temporary = Temporary()
            directory = self._temporary.path
        root = Root(
            parse_location(directory, dict(options.storage_options or {})),
            options.budget_nbytes,
            writable=options.mode != "r",
            compressor=options.compressor,
            chunk_rows=options.chunk,
            durable=options.durability == "power",
            references=list(options.references),
        )
        root.open(options.mode if self.version is None else "r")
        return root

    def close(self) -> None:
        """Forget what is in memory, and remove a temporary directory; copies keep their data."""
        self._memory, self._stored = {}, {}
        self.data_id = None
        close_files()
        if self._temporary is not None:
            self._temporary.remove()

    def __getstate__(self) -> dict[str, Any]:
        """Pickle location and version on disk, or values in memory; a temporary directory stays with its creator."""
        return {**self.__dict__, "_temporary": None}

    # Current data_id, mode and limits

    @property
    def budget_nbytes(self) -> int:
        """The memory limit of long operations."""
        return self.options.budget_nbytes

    @property
    def capacity(self) -> Capacity:
        """The memory and threads that lazy work is planned with."""
        return capacity(self.budget_nbytes)

    @property
    def place(self) -> str:
        """The place of the rows, in a word or two: the last name of a store's path, or memory."""
        if self.root is None or self.mode == "numpy":
            return "in memory"
        return "temporary" if self._temporary is not None else self.root.location.url.rstrip("/").rpartition("/")[2]

    @property
    def source(self) -> str:
        """Where the rows are, for ``encoding["source"]`` of Datasets: the URL of the store, or memory."""
        return "memory" if self.root is None or self.mode == "numpy" else self.root.location.url

    @property
    def references(self) -> list[str]:
        """The directories below which attached files may be read."""
        return list(self.options.references) if self.root is None else self.root.references

    def allow(self, directories: Iterable[str]) -> None:
        """Allow to read attached files below directories, which the caller has named."""
        self.references.extend(place for place in directories if place not in self.references)

    def set_data_id(self, data_id: str) -> None:
        """Make a data_id the current one; if it is refused, the former one stays.

        Raises
        ------
        DataIdNotFoundError
            The store is read-only and has no such data_id.
        """
        validate_name(data_id, "data_id")
        if self.root is not None:
            if not self.root.writable or self.version is not None:
                self.require_known(self.root, data_id)
            self._stored[data_id] = self.root.repository(data_id, self.version)
        if self.backend != "zarr" and data_id not in self._memory:
            self._memory[data_id] = MemoryRepository(budget_nbytes=self.budget_nbytes, copy=self.options.copy)
        self.data_id = data_id

    def require_known(self, root: Root, data_id: str) -> None:
        """Refuse an unknown data_id of a store that is only read: a misspelling would read as an empty table.

        Raises
        ------
        DataIdNotFoundError
            There are others.
        """
        known = root.data_ids()
        if known and data_id not in known:  # a reader of an empty store may wait for its first commit
            raise DataIdNotFoundError(
                f"no data_id {data_id!r} in {root.location}{near_match(data_id, known)} (data_ids: {', '.join(known)})"
            )

    def data_ids(self) -> list[str]:
        """Return the data_ids that exist, in memory or in the store."""
        known = {name for name, repository in self._memory.items() if self.mode == "numpy" or repository.version}
        if self.root is not None:
            known |= set(self.root.data_ids()) | set(self._stored)
        return sorted(known)

    @property
    def current(self) -> Repository | None:
        """The repository of the current data_id and mode; None before a data_id is set."""
        return None if self.data_id is None else self.repository()

    def repository(self, mode: Mode | None = None) -> Repository:
        """Return the repository of the current data_id, in the current mode or the given one.

        Raises
        ------
        DataIdError
            No data_id is set.
        """
        if self.data_id is None:
            known = self.data_ids()
            raise DataIdError(
                "please set default data_id, with set_data_id or data_id=... "
                f"(data_ids: {', '.join(known) or 'none yet'})"
            )
        return (self._memory if (mode or self.mode) == "numpy" else self._stored)[self.data_id]

    @property
    def table(self) -> Table:
        """The newest committed table."""
        return self.repository().table

    # Changes

    @contextlib.contextmanager
    def begin(self, operation: str, **arguments: object) -> Iterator[Transaction]:
        """Begin a transaction; its arguments are recorded as given, as far as JSON can hold them."""
        repository = self.repository()
        with (
            self.changing(),
            repository.begin(operation, **{name: _plain(value) for name, value in arguments.items()}) as change,
        ):
            yield change
        self.committed(repository)

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Note in which modes the current data_id changes meanwhile, for :meth:`undo`."""
        modes = self._modes()
        before = {mode: self.repository(mode).last_change for mode in modes}
        yield
        changed = tuple(mode for mode in modes if self.repository(mode).last_change != before[mode])
        if changed and self.data_id is not None:
            self._changes.setdefault(self.data_id, deque(maxlen=MOST_CHANGES)).append(changed)

    def _modes(self) -> tuple[Mode, ...]:
        return ("zarr", "numpy") if self.backend == "hybrid" else (self.mode,)

    def undo(self) -> None:
        """Take the last change of the current data_id back: on the hybrid backend, that of this session."""
        current = self.repository()
        changes = self._changes.get(self.data_id or "")
        repositories = [self.repository(mode) for mode in changes[-1]] if changes else [current]
        for repository in repositories:
            repository.require_writable("undo")
            repository.refresh()
            repository.former()  # raises before the first of two is taken back
        for repository in repositories:
            repository.undo()
            self.committed(repository)
        if changes:
            changes.pop()

    def committed(self, repository: Repository) -> None:
        """Do what the configuration asks for after each commit."""
        if fingerprints_at_commit():
            fingerprint_all(repository, self.capacity)

    def compile(self, *, reset: bool = False) -> None:
        """Check that the variables of each phase have equal numbers of rows, and record it (a reader only in memory).

        Raises
        ------
        ShapeError
            Variables of a phase have different numbers of rows.

        Warns
        -----
        AlignmentWarning
            Variables of a phase were shuffled differently when they were added.
        """
        repository = self.repository()
        if reset or (repository.writable and not repository.table.compiled):
            with self.begin("compile", reset=reset) as change:
                if reset:
                    change.edit(with_active)
                change.edit(Table.with_compiled)
        elif not repository.table.compiled:
            repository.compile_here()
        warn_of_misaligned(self.table)

    def set_mode(self, mode: object) -> None:
        """Choose what a hybrid session sees, and compile it; if that fails, the former mode stays.

        Raises
        ------
        ArgumentError
            The mode is unknown.
        """
        chosen = next((known for known in MODES if isinstance(mode, str) and mode == known), None)
        if chosen is None:
            raise ArgumentError(f"no mode {mode!r} (modes: {', '.join(MODES)})")
        former, self.mode = self.mode, chosen
        if self.data_id is not None:
            try:
                self.compile()
            except BaseException:
                self.mode = former
                raise


def only_data_id(session: Session) -> str:
    """Return the only data_id of a store.

    Raises
    ------
    DataIdError
        There are several, or none.
    """
    known = session.data_ids()
    if len(known) != 1:
        found = f"has {len(known)} data_ids: {', '.join(known)}" if known else "has no data_id yet"
        raise DataIdError(f"the store at {session.options.output_dir} {found}; give data_id=")
    return known[0]


def _plain(value: Any) -> Any:
    """Return an argument in the form in which a manifest holds it."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, str):  # the name of an unknown variable may not be valid text
        return value.encode(errors="replace").decode()
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    return value
