"""Joined: the columns of many files as sources that read one file after the other; all are looked at first."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from storegate.parsing import Labelled, Names, labels_of, named, parse_columns, require_same_meaning
from storegate.readers.formats import reader_of, require_options
from storegate.readers.paths import Place, places
from storegate.readers.protocol import Reader
from storegate_engine.encodings import encoding_of, is_text
from storegate_engine.errors import (
    ArgumentError,
    DtypeError,
    ShapeError,
    StoreGateError,
    UnreadableFileError,
    VariableNotFoundError,
)
from storegate_engine.store import Categories, FieldSource, Source, blocks_of_group, categories_of, grouped, kind_in
from storegate_engine.table import Kind

__all__ = ["columns_of_files"]

Array: TypeAlias = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class _File:
    """A file and how it is opened."""

    place: Place
    reader: Reader
    options: Mapping[str, Any]

    @contextlib.contextmanager
    def columns(self, wanted: object) -> Iterator[tuple[dict[str, Source], dict[str, Labelled]]]:
        """Open the file, as sources of its columns, and what it says about them; errors meanwhile name the file."""
        hint = list(wanted) if isinstance(wanted, (list, tuple)) else [wanted] if isinstance(wanted, str) else None
        with _naming(self.place), self.reader.open(self.place.local(), hint, self.options) as table:
            names, data = named(wanted, table)
            yield parse_columns(names, data), labels_of(names, data)


@contextlib.contextmanager
def _naming(place: Place) -> Iterator[None]:
    """Name the file in errors; those of libraries become one of ours."""
    try:
        yield
    except StoreGateError as err:
        err.args = (f"{place}: {err}", *err.args[1:])
        raise
    except (MemoryError, ImportError):
        raise
    except Exception as err:
        raise UnreadableFileError(
            f"{place} cannot be read, it may be truncated or of another format ({type(err).__name__}: {err}); nothing "
            "was stored"
        ) from err


@dataclass(frozen=True, slots=True)
class _Remedy:
    """What to do about files that differ, with the options that their reader has."""

    options: Collection[str]
    name: str
    """The name of the column."""

    @property
    def of_shapes(self) -> str:
        """What to do about rows of two shapes."""
        if "size" in self.options:
            return "give one to all, as in size=(64, 64), and colors='RGB'"
        return "read the files into two variables"

    @property
    def of_dtypes(self) -> str:
        """What to do about two dtypes."""
        if "dtypes" in self.options:
            return f"say which, as in dtypes={{{self.name!r}: 'float64'}}"
        return "write the files with one dtype, or add the rows of one of them with add_data(rows.astype(dtype))"


@dataclass(frozen=True, slots=True)
class _Column:
    """What is known of a column of all files."""

    dtype: np.dtype[Any]
    row_shape: tuple[int, ...]
    is_ordered: bool | None
    """Whether its categories are ordered; None for plain values."""
    kind: Kind = "dense"
    """Whether its rows are lists, or sparse."""

    @classmethod
    def of(cls, source: Source) -> _Column:
        """Return what a source says."""
        categories = categories_of(source)
        return cls(
            encoding_of(source.dtype).logical,
            tuple(source.row_shape),
            None if categories is None else categories.is_ordered,
            kind_in(source),
        )

    @property
    def rows_in_words(self) -> str:
        """What its rows are, for messages."""
        kinds = {"dense": f"rows of shape {self.row_shape}", "ragged": "lists", "sparse": "sparse rows"}
        return kinds[self.kind]

    def joined(self, other: _Column, name: str, first: Place, remedy: _Remedy) -> _Column:
        """Return the column of these files and another one: texts may be wider, all else is the same.

        Raises
        ------
        DtypeError, ShapeError
            It is not.
        """
        if (other.row_shape, other.kind) != (self.row_shape, self.kind):
            raise ShapeError(
                f"column {name!r} has {other.rows_in_words}, and {self.rows_in_words} in {first}; {remedy.of_shapes}"
            )
        if other == self:
            return self
        is_one_text = is_text(self.dtype) and self.dtype.kind == other.dtype.kind
        if other.is_ordered != self.is_ordered or not (is_one_text or self.dtype.kind == other.dtype.kind in "US"):
            raise DtypeError(f"column {name!r} is of {other.said}, and of {self.said} in {first}; {remedy.of_dtypes}")
        return replace(self, dtype=np.promote_types(self.dtype, other.dtype))

    def new_categories(self) -> Categories | None:
        """Return categories that grow with the files; None for plain values."""
        return None if self.is_ordered is None else Categories(is_ordered=self.is_ordered)

    @property
    def said(self) -> str:
        """The dtype, in words."""
        kind = {None: str(self.dtype), False: "categories", True: "ordered categories"}
        return kind[self.is_ordered]


@dataclass(frozen=True, slots=True, eq=False)
class _Files:
    """Columns of files that are read together."""

    files: Sequence[_File]
    wanted: object
    """The names that each file is asked for."""
    n_file_rows: Sequence[int | None]
    """The rows of each file."""
    least_rows: int
    """The most rows that a file gives only as a whole."""
    categories: Mapping[str, Categories]
    """The categories of all files, of columns that have some."""

    @property
    def n_rows(self) -> int | None:
        """The number of rows, None if a file does not tell."""
        known = [n_rows for n_rows in self.n_file_rows if n_rows is not None]
        return sum(known) if len(known) == len(self.n_file_rows) else None

    def blocks(self, names: Iterable[str], block_rows: int) -> Iterator[Mapping[str, Any]]:
        """Yield blocks of rows, file by file; codes are those of the categories of all files."""
        read = list(names)
        for file, expected in zip(self.files, self.n_file_rows, strict=True):
            with file.columns(self.wanted if isinstance(self.wanted, (str, tuple)) else read) as (sources, _):
                group = {name: sources[name] for name in read}
                n_rows = 0
                for block in blocks_of_group(group, block_rows * len(group)):  # which divides them by their number
                    n_rows += len(block[read[0]])
                    yield {name: self._rows(name, group[name], rows) for name, rows in block.items()}
                if expected not in (None, n_rows):
                    raise UnreadableFileError(f"it had {expected} rows, and {n_rows} were read; it changed meanwhile")

    def _rows(self, name: str, source: Source, rows: Any) -> Any:
        own = categories_of(source)
        return rows if own is None else self.categories[name].codes(own.values, rows, f"column {name!r}")


def columns_of_files(
    path: object, var_names: object, form: str | None, options: Mapping[str, object]
) -> tuple[Names, list[Source | Labelled]]:
    """Return the names of columns of files, and a source for each; every file was opened once.

    Parameters
    ----------
    path : path, glob or list of them
        The files; those of a glob are sorted by name.
    var_names : str, tuple or list of str, or None
        The columns, None for all.
    form : str or None
        The format, None to tell it from the files.
    options : mapping of str to object
        Options of the reader.

    Raises
    ------
    FilesNotFoundError
        There is no such file.
    UnreadableFileError
        A file is truncated, or not of the format.
    VariableNotFoundError, DtypeError, ShapeError
        A file has other columns than the first. All errors name the file.
    """
    files = _files(path, form, options)
    columns: dict[str, _Column] = {}
    groups: list[list[str]] = []
    counts: dict[str, list[int | None]] = {}
    least_rows: dict[str, int] = {}
    labels: dict[str, Labelled] = {}
    for file in files:
        with file.columns(var_names) as (sources, found_labels):
            labels = labels or found_labels
            require_same_meaning(labels, found_labels, files[0].place)
            if not columns:
                columns = {name: _Column.of(source) for name, source in sources.items()}
                groups = [list(group) for group in grouped(sources)]
                counts, least_rows = {name: [] for name in columns}, dict.fromkeys(columns, 0)
            _require_names(sources, columns, files[0].place)
            for name, source in sources.items():
                columns[name] = columns[name].joined(
                    _Column.of(source), name, files[0].place, _Remedy(file.reader.options, name)
                )
                counts[name].append(source.n_rows)
                whole = getattr(source, "whole", source)
                least_rows[name] = max(least_rows[name], getattr(whole, "least_rows", 0))
            if any(len(grouped({name: sources[name] for name in group})) != 1 for group in groups):
                raise ArgumentError("its columns cannot be read together, as those of the first file are")
    found: dict[str, Source] = {}
    for group in groups:
        categories = {name: columns[name].new_categories() for name in group}
        known = {name: made for name, made in categories.items() if made is not None}
        whole = _Files(files, var_names, counts[group[0]], max(least_rows[name] for name in group), known)
        found |= {name: _source(whole, name, columns[name]) for name in group}
    return Names(tuple(columns), "each"), [_labelled(found[name], labels.get(name)) for name in columns]


def _labelled(source: Source, label: Labelled | None) -> Source | Labelled:
    return source if label is None else replace(label, rows=source)


def _files(path: object, form: str | None, options: Mapping[str, object]) -> list[_File]:
    """Return files with their reader, which is the same for all."""
    found: list[_File] = []
    first = ""
    own_options = dict(options)
    for place in places(path, own_options.pop("storage_options", None)):
        own, reader = reader_of(place.path, form)
        first = first or own
        if own != first:
            raise ArgumentError(
                f"{place} is of the format {own!r}, and {found[0].place} of {first!r}; read them one after the other"
            )
        if place.inside is not None and "group" in own_options:
            raise ArgumentError(f"{place} names a group, and group={own_options['group']!r} another; give one of them")
        given = own_options if place.inside is None else {**own_options, "group": place.inside}
        require_options(own, reader, given)
        found.append(_File(place, reader, given))
    return found


def _require_names(sources: Mapping[str, Source], columns: Mapping[str, _Column], first: Place) -> None:
    """Raise VariableNotFoundError unless a file has the columns of the first, in any order."""
    missing = [name for name in columns if name not in sources]
    more = [name for name in sources if name not in columns]
    if missing or more:
        has = [f"does not have {', '.join(map(repr, missing))}"] * bool(missing)
        has += [f"has also {', '.join(map(repr, more))}"] * bool(more)
        raise VariableNotFoundError(
            f"it {' and '.join(has)}, in contrast to {first}; choose columns that all files have, by var_names"
        )


def _source(whole: _Files, name: str, column: _Column) -> FieldSource:
    return FieldSource(whole, name, column.dtype, column.row_shape, _as_read, whole.categories.get(name), column.kind)


def _as_read(rows: Any, what: str) -> Any:
    return rows
