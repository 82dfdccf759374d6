"""Frames: tables of other libraries as named columns; recognises them by their attributes, and reads no rows.

==============================================  =========================================================
a mapping, a structured array, an xr.Dataset    a column for each name, read separately
a DataFrame of pandas                           its columns, and an index unless it only counts rows
a list of mappings                              a column for each key
an AnnData                                      ``X``, its layers, and the columns of ``obs``
a tree of uproot                                its branches; baskets are read once, for all of them
anything with ``__arrow_c_stream__``            its columns; record batches are read once, for all of them
==============================================  =========================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol, TypeAlias

import numpy as np

from storegate.parsing.arrow import ArrowRows, arrow_columns
from storegate.parsing.labels import Labelled, dataset_columns, is_dataarray, is_dataset, require_sample_dim
from storegate.parsing.names import Names, are_names, parse_names
from storegate.parsing.phases import PHASES
from storegate_engine.arrow import as_arrow
from storegate_engine.dtypes import TEXT
from storegate_engine.errors import ArgumentTypeError, DtypeError, ShapeError, VariableNotFoundError, near_match, shown
from storegate_engine.natives import as_native
from storegate_engine.optional import require_package
from storegate_engine.store import FieldSource, as_rows, coded, lists_in, source_of
from storegate_engine.table import Variable

__all__ = ["Frame", "categorical", "named"]

Array: TypeAlias = np.ndarray[Any, Any]


class ArrowStream(Protocol):
    """A table of pandas, polars, pyarrow, duckdb or any other library with Arrow's C stream interface."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the stream."""


class Tree(Protocol):
    """A tree of uproot."""

    @property
    def num_entries(self) -> int:
        """The number of rows."""

    def iterate(self, expressions: Any = ..., /) -> Iterator[Any]:
        """Yield blocks of rows."""


class AnnDataLike(Protocol):
    """A matrix with a table about its rows."""

    @property
    def X(self) -> Any:  # noqa: N802 - AnnData's name
        """The matrix."""

    @property
    def obs(self) -> Any:
        """The table."""


Frame: TypeAlias = Mapping[Any, Any] | Sequence[Mapping[Any, Any]] | Array | ArrowStream | Tree | AnnDataLike
"""Data with names: a mapping of arrays, a table, a Dataset, a structured array, a list of mappings."""


def named(var_names: object, data: Any, sample_dim: str | None = None) -> tuple[Names, object]:
    """Return names and data as given or, if the data have names, their names and a list of columns.

    Parameters
    ----------
    var_names : str, tuple or list of str, or None
        None takes all columns of a table, a list some of them. A table may also be given here alone.
    data : array-like or table
        The data.
    sample_dim : str or None
        The dimension of a Dataset along which samples lie; None for the one with which every variable begins.

    Raises
    ------
    ArgumentTypeError
        There are no names, and the data have none.
    VariableNotFoundError
        The table has no column of that name.
    """
    if not are_names(var_names) and var_names is not None:
        if isinstance(data, str) or (isinstance(data, (tuple, list)) and len(data) == 3):
            raise ArgumentTypeError(f"the data come after their names; give the phase by name, as in phase={data!r}")
        if data is None:
            var_names, data = None, var_names
    if is_dataset(data) and hasattr(data, "children"):  # a node of a DataTree
        if len(data.children):
            raise ArgumentTypeError(
                f"the DataTree has the children {shown(list(data.children))}; add its Datasets one by one, as in "
                f"gate.add_data(tree[{next(iter(data.children))!r}].to_dataset())"
            )
        data = data.to_dataset()
    if var_names is None and is_dataarray(data):
        if data.name is None:
            raise ArgumentTypeError("the DataArray has no name; give one: gate.add_data('x', data)")
        require_sample_dim(sample_dim, data)
        if data.name in data.coords and data.dims:  # a coordinate, of which xarray makes no data variable
            return _of_dataset(None, data.coords.to_dataset(), str(data.dims[0]))
        data = data.to_dataset()
    if is_dataset(data):
        return _of_dataset(var_names, data, sample_dim)
    if var_names is None and type(data).__name__ == "Series" and hasattr(data, "to_frame"):  # of pandas or polars
        if data.name is None or data.name == "":
            raise ArgumentTypeError("the Series has no name; give one: gate.add_data('x', data)")
        data = data.to_frame()
    if sample_dim is not None:
        for array in data.values() if _is_mapping(data) else [data]:
            require_sample_dim(sample_dim, array)
    if var_names is None:
        columns = columns_in(data)
        if columns is None:
            hint = "; call its collect() first" if hasattr(data, "collect") else ""
            raise ArgumentTypeError(
                "without names the data must have some: a mapping of arrays, a table, a Dataset; found "
                f"{type(data).__name__}{hint}"
            )
        _require_texts(columns)
        if not columns:
            raise ShapeError(f"the {type(data).__name__} has no columns")
        picked = _picked(list(columns), columns)  # first, since it knows what to do about groups in groups
        return parse_names(list(columns), validate=True), picked
    names = parse_names(var_names, validate=True)
    columns = columns_in(data)
    if columns is None:
        return names, data
    if names.form == "one":
        # a frame without such a column is an array of two dimensions, as it is for numpy
        is_whole = names.names[0] not in columns and not _is_mapping(data) and hasattr(data, "shape")
        return (names, data) if is_whole else (names, _picked(names.names, columns)[0])
    return Names(names.names, "each"), _picked(names.names, columns)


def _picked(names: Sequence[str], columns: Mapping[str, Callable[[], Any]]) -> list[Any]:
    for name in names:
        if name not in columns:
            raise VariableNotFoundError(
                f"the data have no column {name!r}{near_match(name, [str(column) for column in columns])} "
                f"(columns: {', '.join(map(str, columns)) or 'none'})"
            )
    return [columns[name]() for name in names]


def _require_texts(columns: Iterable[object]) -> None:
    for name in columns:
        if not isinstance(name, str):
            raise ArgumentTypeError(
                f"a column is called {name!r}, and the name of a variable is a str; rename it, as in "
                "frame.rename(columns=str), or give names and arrays"
            )


def _is_mapping(data: object) -> bool:
    return isinstance(data, Mapping) and not hasattr(data, "tocsr")  # scipy's dict of keys is a matrix


def columns_in(data: Any) -> Mapping[Any, Callable[[], Any]] | None:
    """Return a function that makes each column of a table, by name; None if the data are not a table."""
    if hasattr(data, "__storegate_variables__"):
        return _of_view(data)
    if isinstance(data, np.ndarray) or (hasattr(data, "id") and hasattr(data, "dtype")):  # of numpy, or of h5py
        fields = getattr(data.dtype, "names", None)
        return None if fields is None else {name: partial(_field, data, name) for name in fields}
    if hasattr(data, "num_entries") and hasattr(data, "iterate"):
        return _Branches(data)  # also a mapping of branches
    if _is_mapping(data):
        return {name: partial(_of_mapping, data, name) for name in data}
    if hasattr(data, "obs") and hasattr(data, "layers") and hasattr(data, "X"):
        return _of_anndata(data)
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return _of_pandas(data)
    if isinstance(data, list) and data and all(_is_mapping(row) for row in data):
        return _of_records(data)
    if hasattr(data, "with_format") and hasattr(data, "features") and hasattr(data, "num_rows"):
        return arrow_columns(ArrowRows(data))
    if hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__array_interface__") and _is_tabular(data):
        return arrow_columns(data)
    return None


def _is_tabular(data: Any) -> bool:
    """Return whether an Arrow stream has rows with several fields: single columns have a stream, too."""
    return not (hasattr(data, "__len__") and hasattr(data, "dtype")) and not hasattr(data, "chunk")


def _field(data: Any, name: str) -> Any:
    """Return one field of a structured array; for one in a file, as an object that is read in slices."""
    return data[name] if isinstance(data, np.ndarray) else _FileField(data, name)


@dataclass(frozen=True, slots=True)
class _FileField:
    """One field of a structured dataset of h5py."""

    data: Any
    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_rows, *row_shape)``."""
        return (*self.data.shape, *self.data.dtype[self.name].shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the field."""
        dtype: np.dtype[Any] = self.data.dtype[self.name].base
        return dtype

    @property
    def chunks(self) -> tuple[int, ...] | None:
        """The chunks of the dataset."""
        chunks: tuple[int, ...] | None = self.data.chunks
        return chunks

    def __getitem__(self, rows: slice) -> Array:
        """Read a slice of rows."""
        values: Array = self.data.fields(self.name)[rows]
        return values


def _of_mapping(data: Any, name: Any) -> Any:
    """Return what a mapping has under a name: codes if it is categorical."""
    value = data[name]
    if _is_mapping(value) or (name in PHASES and columns_in(value) is not None):
        what = f"mapping, of {', '.join(map(str, value)) or 'nothing'}" if _is_mapping(value) else "table"
        phase = f", phase={name!r}" if name in PHASES else ""
        raise DtypeError(f"{name!r} is itself a {what}; add it alone, as in gate.add_data(data[{name!r}]{phase})")
    return categorical(value, str(name))


def _of_dataset(var_names: object, data: Any, sample_dim: str | None) -> tuple[Names, object]:
    """Return names, and the variables of a Dataset."""
    _require_texts(data.variables)
    if var_names is None:
        found = dataset_columns(data, None, sample_dim)
        return parse_names(list(found), validate=True), list(found.values())
    names = parse_names(var_names, validate=True)
    _picked(names.names, {name: partial(data.__getitem__, name) for name in data.variables})
    found = dataset_columns(data, names.names, sample_dim)
    columns = [found[name] for name in names.names]
    return (names, columns[0]) if names.form == "one" else (Names(names.names, "each"), columns)


def _of_view(data: Any) -> dict[Any, Callable[[], Any]]:
    """Return the variables of a view, with what a Dataset of them says."""
    variables = {variable.name: variable for variable in data.__storegate_variables__()}
    if all(variable.about.dims is None for variable in variables.values()):
        return {name: partial(source_of, variable) for name, variable in variables.items()}
    names = None if data.names is None else list(variables)
    found = dataset_columns(data.to_xarray(), names, data.session.table.sample_dim)
    return {name: partial(_of_variable, variable, found[name]) for name, variable in variables.items()}


def _of_variable(variable: Variable, labels: Labelled) -> Labelled:
    return replace(labels, rows=source_of(variable))


def _of_anndata(data: Any) -> dict[str, Callable[[], Any]]:
    columns: dict[str, Callable[[], Any]] = {"X": lambda: data.X} if data.X is not None else {}
    # newer versions have X among the layers, under None
    columns |= {name: partial(data.layers.__getitem__, name) for name in data.layers if name is not None}
    names = data.obs.index.to_series()
    frame: dict[str, Callable[[], Any]] = {"obs_names": partial(categorical, names, "obs_names")}
    frame |= _of_pandas(data.obs, with_index=False)
    if both := columns.keys() & frame.keys():
        raise DtypeError(f"the AnnData has both a matrix and a column of obs called {', '.join(sorted(both))}; rename")
    return {**columns, **frame}


def _of_pandas(frame: Any, *, with_index: bool = True) -> dict[Any, Callable[[], Any]]:
    columns: dict[Any, Callable[[], Any]] = {
        name: partial(categorical, frame.iloc[:, at], str(name)) for at, name in enumerate(frame.columns)
    }
    if len(columns) < len(frame.columns):
        raise DtypeError(f"the frame has several columns of one name: {shown(list(frame.columns))}; rename them")
    index = frame.index
    # row numbers, also of rows that were filtered or reordered
    says_nothing = index.name is None and index.dtype.kind == "i" and getattr(index, "nlevels", 1) == 1
    if not with_index or says_nothing:
        return columns
    if getattr(index, "nlevels", 1) > 1:
        raise DtypeError("the frame has an index of several levels; call reset_index() first")
    name = "index" if index.name is None else index.name
    if name in columns:
        raise DtypeError(f"the frame has both an index and a column called {name!r}; rename one, or reset_index()")
    return {name: partial(categorical, index.to_series(), str(name)), **columns}


def categorical(column: Any, name: str) -> Any:
    """Return a column; its codes with their categories if it is a categorical one of pandas, polars or pyarrow."""
    dtype, package = getattr(column, "dtype", None), type(column).__module__.partition(".")[0]
    if package == "polars" and str(dtype).startswith(("Categorical", "Enum")) and hasattr(column, "to_frame"):
        return arrow_columns(column.to_frame(name))[name]()
    array = as_arrow(column)
    if array is not None and hasattr(array.type, "index_type"):
        return arrow_columns(require_package("pyarrow", "arrow", name).table({name: array}))[name]()
    own = getattr(column, "cat", column)  # of a Series; a pandas.Categorical has them itself
    if not hasattr(dtype, "categories") or not hasattr(own, "codes"):
        return column
    return coded(np.asarray(own.codes, np.int64), own.categories, name, is_ordered=bool(own.ordered))


def _of_records(rows: list[Mapping[Any, Any]]) -> dict[Any, Callable[[], Any]]:
    keys = list(rows[0])
    for number, row in enumerate(rows):
        if row.keys() != rows[0].keys():
            raise ShapeError(
                f"the first mapping has the keys {', '.join(map(repr, keys))}, number {number} has "
                f"{', '.join(map(repr, row)) or 'none'}; give all mappings the same keys"
            )
    return {key: partial(_of_key, rows, key) for key in keys}


def _of_key(rows: list[Mapping[Any, Any]], key: Any) -> Any:
    return as_rows([row[key] for row in rows], f"variable {key!r}")


COLLECTION = "_collection"
"""How the fields of RNTuples begin that hold the rows of several jagged fields, which refer to them."""


@dataclass(frozen=True, slots=True, eq=False)
class _Tree:
    """The branches of a tree of uproot, read in blocks of entries."""

    tree: Any

    @property
    def n_rows(self) -> int:
        """The number of entries."""
        return int(self.tree.num_entries)

    def blocks(self, names: Iterable[str], block_rows: int) -> Iterator[Mapping[str, Any]]:
        """Yield blocks of entries of some branches."""
        read = list(names)
        if "RNTuple" not in self.tree.classname:
            yield from self.tree.iterate(read, step_size=block_rows, library="np")
            return
        for lo in range(0, self.n_rows, block_rows):  # `iterate` would list what lies below all fields
            span = {"entry_start": lo, "entry_stop": min(lo + block_rows, self.n_rows)}
            yield {name: self.tree[name].array(**span, library="np") for name in read}


class _Branches(Mapping[str, Callable[[], Any]]):
    """A function that makes each branch of a tree, by name.

    uproot takes seconds to list what lies below the hundreds of fields of an RNTuple: that is done for names only
    which are not at the top, and for all of them.
    """

    def __init__(self, tree: Any) -> None:
        self._fields = _Tree(tree)
        self._top = frozenset(tree.keys(recursive=False))

    @cached_property
    def _names(self) -> dict[str, None]:
        return dict.fromkeys(self._fields.tree.keys())

    def __getitem__(self, name: str) -> Callable[[], Any]:
        if name.startswith(COLLECTION) or (name not in self._top and name not in self._names):
            raise KeyError(name)
        return partial(_branch, self._fields, name)

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if not name.startswith(COLLECTION))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def _branch(fields: _Tree, name: str) -> FieldSource:
    """Return a branch of a TTree, or a field of an RNTuple; the first entry gives the dtype and shape of all."""
    branch = fields.tree[name]
    first = branch.array(entry_stop=1, library="np")  # of a tree, `arrays` would go through all names again
    # one entry of any length looks like one of a fixed length: only the type tells
    interpretation = type(getattr(branch, "interpretation", None)).__name__
    is_jagged = interpretation in ("AsJagged", "AsObjects") or "vector" in branch.typename or "RVec" in branch.typename
    if first.dtype == object or is_jagged:
        rows = lists_in(branch.array(entry_stop=1, library="ak"), f"branch {name!r}")
        if rows is not None:
            return FieldSource(fields, name, rows.dtype.newbyteorder("="), rows.item_shape, _as_lists, kind="ragged")
        raise DtypeError(
            f"branch {name!r} is of {branch.typename}, whose entries differ in length; choose branches with a list of "
            "names, or pad it first, as in awkward.to_regular(awkward.pad_none(...))"
        )
    if first.dtype.kind == "U":
        return FieldSource(fields, name, TEXT, first.shape[1:], _as_text)
    return FieldSource(fields, name, first.dtype.newbyteorder("="), first.shape[1:], as_native)


def _as_lists(values: Any, what: str) -> Any:
    rows = lists_in(values, what, by_chance=True)
    return as_native(values, what) if rows is None else rows


def _as_text(values: Any, what: str) -> Array:
    return as_native(values, what).astype(TEXT)
