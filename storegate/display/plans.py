"""Plans: how lazy variables would be read, in words; reads nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from storegate_engine import graphs
from storegate_engine.errors import ArgumentTypeError, shown
from storegate_engine.exchange import Plan

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Explainable", "explain", "plans_of"]


class Explainable(Protocol):
    """Anything that gives a lazy Dataset, as views do."""

    def to_xarray(self) -> xr.Dataset:
        """Return the Dataset."""


PEEK_ROWS = 256


def explain(dataset: xr.Dataset | Explainable) -> str:
    """Return how a full pass and a read of 256 rows would read every lazy variable; nothing is read.

    Parameters
    ----------
    dataset : xr.Dataset or View
        A lazy Dataset of a phase, or a view.

    Returns
    -------
    str
        One line per variable and pass: the plan, its tasks, the bytes read, the spill and the projected memory.

    Examples
    --------
    >>> from storegate import StoreGate, explain
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("x", [1.0, 2.0])
    >>> print(explain(gate["train"].to_xarray()))
    x  full pass  read: 1 tasks, reads 16 B, projected memory 24.0 MiB
    x  256 rows   read: 1 tasks, reads 16 B, projected memory 24.0 MiB
    """
    lines = [(name, what, plan if isinstance(plan, str) else plan.describe()) for name, what, plan in plans_of(dataset)]
    width = max((len(name) for name, *_ in lines), default=0)
    return "\n".join(f"{name.ljust(width)}  {what.ljust(9)}  {plan}" for name, what, plan in lines)


def plans_of(dataset: xr.Dataset | Explainable) -> list[tuple[str, str, Plan | str]]:
    """Return name, pass and plan of a full pass and of a read of 256 rows of every lazy variable; lists have words."""
    import xarray as xr  # deferred on purpose: it takes half a second

    if not hasattr(dataset, "to_xarray") and not isinstance(dataset, xr.Dataset):
        raise ArgumentTypeError(f"explain takes a view or a Dataset of to_xarray(), found {shown(dataset)}")
    lazy = dataset if isinstance(dataset, xr.Dataset) else dataset.to_xarray()
    found: list[tuple[str, str, Plan | str]] = []
    plans = graphs.plans_of(lazy, PEEK_ROWS)
    for name, array in lazy.variables.items():
        if array.chunks is not None and graphs.is_of_lists(array.data):
            found.append((str(name), "full pass", f"{len(array.chunks[0])} tasks, each reads its rows in place"))
    for name, (full, peek) in plans.items():
        found.append((name, "full pass", full))
        found.append((name, f"{PEEK_ROWS} rows", peek))
    return found
