"""Scaling: methods of a gate that standardize, normalize, clip or bin variables, by values fitted to one phase."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from storegate import edits
from storegate.parsing import Phase, PhaseName, VarNames, parse_names, parse_reading_phase
from storegate.session import Session
from storegate_engine.errors import ArgumentError, ShapeError
from storegate_engine.orders import as_int
from storegate_engine.table import Clip

__all__ = ["Scaling"]


class Scaling:
    """Methods of a gate that scale values when they are read; the fitted numbers are stored, and no row changes."""

    _session: Session

    def standardize(
        self,
        var_names: VarNames,
        fit: PhaseName = "train",
        phase: Phase | None = "all",
        *,
        axis: int | Sequence[int] | None = 0,
    ) -> None:
        """Shift and divide values so that those of the phase ``fit`` have mean 0 and standard deviation 1.

        The rows of ``fit`` are read once. The same numbers scale every phase, so that valid and test tell train
        nothing. Missing values are left out, and stay missing. A value that never varies becomes 0. Integers beyond
        2**53 are rounded to float64 first.

        Rows that are added later are taken to be on that scale; ``gate[phase][name].scaled(rows)`` brings them there.

        Parameters
        ----------
        var_names : str or list of str
            The variables.
        fit : {"train", "valid", "test"}
            The phase to fit to.
        phase : str
            The phase to scale, by default each.
        axis : int, sequence of int or None
            The axes that share a mean, the samples (0) among them. 0: each element of a row has its own; ``(0, 2, 3)``:
            one for each channel of ``(n, channel, y, x)``; None: one for the variable.

        Raises
        ------
        DtypeError
            The values are no numbers.
        ShapeError
            There is no such axis, or the phases have rows of different shapes.
        ArgumentError
            The phase has no values, infinite ones, or those that float64 cannot scale: their differences are beyond
            its range, or lost beside their size.

        See Also
        --------
        View.inverse : values as they were before.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [[1.0, 10.0], [3.0, 30.0]])
        >>> gate.add_data("x", [[5.0, 20.0]], phase="test")
        >>> gate.standardize("x")
        >>> gate["train"]["x"][:].tolist(), gate["test"]["x"][:].tolist()
        ([[-1.0, -1.0], [1.0, 1.0]], [[3.0, 0.0]])
        >>> gate["test"]["x"].inverse([[3.0, 0.0]])
        array([[ 5., 20.]])
        """
        self._rescale("standardize", var_names, fit, phase, axis)

    def normalize(
        self,
        var_names: VarNames,
        fit: PhaseName = "train",
        phase: Phase | None = "all",
        *,
        axis: int | Sequence[int] | None = 0,
    ) -> None:
        """Shift and divide values so that those of the phase ``fit`` lie between 0 and 1.

        Otherwise as :meth:`standardize`. Values of other phases may lie outside.

        Parameters
        ----------
        var_names : str or list of str
            The variables.
        fit : {"train", "valid", "test"}
            The phase to fit to.
        phase : str
            The phase to scale, by default each.
        axis : int, sequence of int or None
            The axes that share their ends, the samples (0) among them.

        Raises
        ------
        DtypeError, ShapeError, ArgumentError
            As by :meth:`standardize`.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [2, 4, 6])
        >>> gate.normalize("x")
        >>> gate["train"]["x"][:].tolist()
        [0.0, 0.5, 1.0]
        """
        self._rescale("normalize", var_names, fit, phase, axis)

    def clip(
        self,
        var_names: VarNames,
        low: float | None = None,
        high: float | None = None,
        phase: Phase | None = "all",
    ) -> None:
        """Limit numbers when they are read, as ``np.clip`` does; the dtype stays.

        Parameters
        ----------
        var_names : str or list of str
            The variables.
        low, high : float, optional
            The limits; integers for variables of integers. ``low=-np.inf`` and ``high=np.inf`` are none.
        phase : str
            The phase, by default each that has the variables.

        Raises
        ------
        DtypeError
            The values are no numbers, but times for example, or a limit is no value of their dtype.
        ArgumentError
            There is no limit, or the first one is the larger.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [-5, 1, 7])
        >>> gate.clip("x", 0, 5)
        >>> gate["train"]["x"][:]
        array([0, 1, 5])
        """
        names, at = parse_names(var_names), parse_reading_phase(phase)
        lowest, highest = _plain(low), _plain(high)
        transform = Clip(None if lowest == -np.inf else lowest, None if highest == np.inf else highest)
        with self._session.begin(
            "clip", var_names=var_names, low=transform.low, high=transform.high, phase=at
        ) as change:
            edits.transform(change, names, at, transform, "clip")

    def quantile_bins(
        self, var_names: VarNames, n_bins: int = 10, fit: PhaseName = "train", phase: Phase | None = "all"
    ) -> None:
        """Replace values, when they are read, by int64 numbers of bins with equally many values of the phase ``fit``.

        Each bin has some: edges that no value lies between are one, so that there are fewer bins where a value is
        frequent. Missing values get -1.

        Parameters
        ----------
        var_names : str or list of str
            The variables.
        n_bins : int
            The number of bins.
        fit : {"train", "valid", "test"}
            The phase whose quantiles are the edges, over all elements of its rows.
        phase : str
            The phase to encode, by default each.

        Raises
        ------
        DtypeError, ShapeError, ArgumentError
            As by :meth:`standardize`, or there are too few distinct values for two bins.
        MemoryBudgetError
            The values of the phase do not fit in memory.

        Examples
        --------
        >>> from storegate import StoreGate
        >>> gate = StoreGate(data_id="example")
        >>> gate.add_data("x", [0.1, 5.0, 0.2, 90.0])
        >>> gate.quantile_bins("x", 2)
        >>> gate["train"]["x"][:]
        array([0, 1, 0, 1])
        """
        names, number = parse_names(var_names), as_int(n_bins, "n_bins")
        fitted, at = _one_phase(fit), parse_reading_phase(phase)
        said = {"var_names": var_names, "n_bins": number, "fit": fitted, "phase": at}
        with self._session.begin("quantile_bins", **said) as change:
            edits.quantile_bins(change, names, number, fitted, at, self._session.budget_nbytes)

    def _rescale(
        self, kind: str, var_names: VarNames, fit: PhaseName, phase: Phase | None, axis: int | Sequence[int] | None
    ) -> None:
        names, fitted, at = parse_names(var_names), _one_phase(fit), parse_reading_phase(phase)
        said = {"var_names": var_names, "fit": fitted, "phase": at, "axis": axis}
        with self._session.begin(kind, **said) as change:
            for name in names.names:
                n_axes = len(change.table.variable(fitted, name).shape)
                one = parse_names(name)
                edits.rescale(change, kind, one, fitted, at, _axes(axis, n_axes), self._session.budget_nbytes)


def _one_phase(fit: PhaseName) -> str:
    at = parse_reading_phase(fit)
    if at == "all":
        raise ArgumentError("fit takes one phase, most often 'train': values of the others would tell it about them")
    return at


def _axes(axis: int | Sequence[int] | None, n_axes: int) -> tuple[int, ...]:
    """Return axes from 0 on, the samples among them."""
    given = range(n_axes) if axis is None else axis if isinstance(axis, Sequence) else [axis]
    axes = sorted({number + n_axes * (number < 0) for number in (as_int(one, "axis") for one in given)})
    if 0 not in axes:
        raise ShapeError(f"axis={axis} has not the samples, axis 0, among the axes that share a value")
    return tuple(axes)


def _plain(bound: float | None) -> float | int | None:
    item = getattr(bound, "item", None)
    return item() if item is not None else bound
