"""Explorable: attributes of arrays, first rows, statistics and exports of views, for people who look at data."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

import numpy as np

from storegate.display import Drawn, Plots, looks_like
from storegate.exports import arrow_reader, pandas_frame
from storegate.parsing import Names
from storegate.reading import Selected
from storegate.session import Session
from storegate.statistics import describe
from storegate_engine.casts import combined
from storegate_engine.errors import ArgumentError
from storegate_engine.optional import require_package
from storegate_engine.orders import as_int
from storegate_engine.table import Variable

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa
    import xarray as xr

__all__ = ["Explorable"]

T = TypeVar("T")
"""What an index of the view returns."""


def _n_rows(n: object, what: str) -> int:
    """Return a number of rows, which may exceed those of the view."""
    if (number := as_int(n, what)) < 0:
        raise ArgumentError(f"{what} takes a number of rows, 0 or more, found {number}")
    return number


class Explorable(Generic[T]):
    """Methods for a look at rows; all but rows and statistics come from metadata alone."""

    __slots__ = ()

    session: Session

    @property
    @abstractmethod
    def var_names(self) -> tuple[str, ...]:
        """The names of the variables."""

    @abstractmethod
    def to_xarray(self) -> xr.Dataset:
        """Return the rows as a lazy Dataset."""

    @abstractmethod
    def _all_variables(self) -> tuple[Names, list[Variable]]:
        """Return the chosen variables, or all variables of the chosen phase."""

    def __storegate_variables__(self) -> list[Variable]:
        """Return the variables, for calls that take a view as data."""
        return self._all_variables()[1]

    @abstractmethod
    def _array(self, what: str) -> tuple[list[Variable], bool]:
        """Return the variables of an array, and whether they are stacked; raise AttributeError for any other view."""

    def head(self, n: int = 5) -> T:
        """Return the first rows, as indexing does; for a phase, as a dict of all its variables.

        Parameters
        ----------
        n : int
            Number of rows; fewer if the phase has fewer.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data(["x", "y"], [[0.0, 0.5, 1.0], [0, 1, 0]])
        >>> gate["train"].head(2)
        {'x': array([0. , 0.5]), 'y': array([0, 1])}
        """
        names, variables = self._all_variables()
        rows: Any = Selected.by_item(names, variables, slice(_n_rows(n, "head"))).read(self.session.budget_nbytes)
        return cast(T, rows)

    def describe(self) -> pd.DataFrame:
        """Return statistics of each variable, over all its values.

        What is known from when the rows were added is not read again: counts, and the ends of times. Means take one
        pass over the rows, within the budget.

        Returns
        -------
        pandas.DataFrame
            One line per variable: ``dtype``, ``shape``, ``count`` of values, ``missing`` (NaN and NaT), ``infinite``,
            ``mean`` and ``std`` (population) of numbers and bools, ``min`` and ``max`` of these and of times.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[1, 2], [3, 6]])
        >>> gate["train"].describe().loc["x", ["count", "mean", "min", "max"]]
        count     4
        mean    3.0
        min       1
        max       6
        Name: x, dtype: object
        """
        return describe(self._all_variables()[1], self.session.budget_nbytes)

    # As tables of other libraries

    def to_pandas(self, n: int | None = None) -> pd.DataFrame:
        """Return the rows as a DataFrame of pandas: one column per variable, codes as categories.

        Rows of several values are arrays in a column of objects.

        Parameters
        ----------
        n : int, optional
            Return only the first rows; by default all rows, in memory.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data({"x": [0.5, 1.5], "y": [0, 1]})
        >>> gate["train"].to_pandas()["x"].tolist()
        [0.5, 1.5]
        """
        return pandas_frame(self._all_variables()[1], None if n is None else _n_rows(n, "to_pandas"))

    def to_arrow(self, *, tensors: bool = True) -> pa.Table:
        """Return all rows as a table of pyarrow, from the extra ``storegate[arrow]``.

        Categories are dictionaries. To read rows a batch at a time, give the view itself to a library that accepts
        ``__arrow_c_stream__``, like pyarrow, polars or duckdb.

        Parameters
        ----------
        tensors : bool
            Whether rows of several values are fixed-shape tensors, or else nested lists of fixed size, for software
            that has no tensors, like HF datasets: ``datasets.Dataset(view.to_arrow(tensors=False))``.

        Raises
        ------
        DtypeError
            A dtype does not exist in Arrow: complex numbers, durations of months.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1])
        >>> gate["train"].to_arrow().to_pydict()
        {'x': [0, 1]}
        """
        return self._arrow_reader(tensors=bool(tensors)).read_all()

    def to_polars(self) -> pl.DataFrame:
        """Return all rows as a DataFrame of polars, from the extra ``storegate[polars]``.

        Ordered categories are an ``Enum``, which keeps their order; others are ``Categorical``.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0, 1])
        >>> gate["train"].to_polars().to_dict(as_series=False)
        {'x': [0, 1]}
        """
        polars = require_package("polars", "polars", "to_polars")
        abouts = {variable.name: variable.about for variable in self._all_variables()[1]}
        enums = {
            name: polars.Enum(about.categories)
            for name, about in abouts.items()
            if about.is_ordered and about.categories and isinstance(about.categories[0], str)
        }
        return cast("pl.DataFrame", polars.DataFrame(self._arrow_reader(seconds=False)).cast(enums))

    def _arrow_reader(self, *, tensors: bool = True, seconds: bool = True) -> Any:
        budget_nbytes = self.session.budget_nbytes
        return arrow_reader(self._all_variables()[1], budget_nbytes, tensors=tensors, seconds=seconds)

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the rows as a stream of Arrow record batches of at most 64 MB, read as needed."""
        return self._arrow_reader().__arrow_c_stream__(requested_schema)

    # Attributes of an array, from metadata alone

    @property
    def shape(self) -> tuple[int, ...]:
        """``(n_rows, *row_shape)``; stacked variables are on axis 1."""
        variables, is_stacked = self._array("shape")
        n_rows, *row_shape = variables[0].shape
        return (n_rows, len(variables), *row_shape) if is_stacked else (n_rows, *row_shape)

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the rows."""
        variables, _ = self._array("dtype")
        dtype = variables[0].dtype
        for variable in variables[1:]:
            dtype = combined(dtype, variable.dtype)
        return dtype

    @property
    def nbytes(self) -> int:
        """Bytes of all rows of all variables of the view, in memory."""
        return sum(variable.nbytes for variable in self._all_variables()[1])

    @property
    def dims(self) -> tuple[str, ...]:
        """The names of the dimensions, as in `to_xarray`."""
        variables, is_stacked = self._array("dims")
        own = variables[0].dims[1:]
        sample_dim = self.session.table.sample_dim
        return (sample_dim, "variable", *own) if is_stacked else (sample_dim, *own)

    @property
    def chunks(self) -> tuple[tuple[int, ...], ...]:
        """Rows per block of `data`, in dask's form."""
        self._array("chunks")
        lazy: Any = Selected.everything(*self._all_variables()).lazy(self.session.capacity)
        chunks: tuple[tuple[int, ...], ...] = lazy.chunks
        return chunks

    @property
    def plot(self) -> Plots:
        """Pictures of the rows: ``view.plot()``, or one of xarray's plots by name, like ``view.plot.hist()``.

        ``view.plot()`` draws the first rows as a grid of images or as curves if they look like these, and any others
        as a histogram of all rows, or bars of classes, in one pass within the memory limit.

        Raises
        ------
        ModuleNotFoundError
            matplotlib is not installed.

        Examples
        --------
        >>> import matplotlib
        >>> from storegate import StoreGate
        >>> matplotlib.use("Agg")  # draws into files, without a screen
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0.0, 0.5, 1.0])
        >>> gate["train"]["x"].plot().get_xlabel()
        'x'
        """
        variables, _ = self._array("plot")
        require_package("matplotlib", "plot", "view.plot")
        looks = looks_like(variables[0]) if len(variables) == 1 else "values"
        return Plots(looks, self._dataarray, partial(_counted, variables, self.session.budget_nbytes))

    def _dataarray(self) -> xr.DataArray:
        names, dataset = self.var_names, self.to_xarray()
        return dataset[names[0]] if len(names) == 1 else dataset[list(names)].to_dataarray()


def _counted(variables: Sequence[Variable], budget_nbytes: int) -> list[Drawn]:
    from storegate.report import bars_in_one_pass  # deferred on purpose: few programs need it

    found = []
    for variable, bars in zip(variables, bars_in_one_pass(variables, budget_nbytes), strict=True):
        if bars is None:
            why = {"c": "complex numbers", **dict.fromkeys("UST", "texts of many kinds")}
            what = why.get(variable.dtype.kind, "without a finite value") if len(variable) else "none"
            raise ArgumentError(
                f"variable {variable.name!r} has no histogram: its {len(variable)} rows of {variable.dtype} are {what};"
                " choose other rows, or another variable"
            )
        is_time = variable.dtype.kind == "M" and not bars.are_classes
        labels = np.array(bars.labels, "M8") if is_time else bars.labels
        found.append(Drawn(variable.name, list(labels), bars.counts["rows"], bars.are_classes))
    return found
