"""Groups: the arrays of a group of HDF5 or zarr that are variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from storegate.readers.cf_values import require_not_packed
from storegate_engine.errors import DtypeError, VariableNotFoundError, near_match

__all__ = ["no_group", "variables_in"]


def no_group(group: str, known: Sequence[str]) -> VariableNotFoundError:
    """Return the error that there is no such group."""
    return VariableNotFoundError(
        f"it has no group or array {group!r}{near_match(group, known)} (groups: {', '.join(known) or 'none'})"
    )


def variables_in(items: Mapping[str, Any], group: str, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the arrays of a group by name; what is not asked for is not looked at.

    Raises
    ------
    DtypeError
        All are asked for, and some are groups; or a variable is packed.
    """
    wanted = list(items) if names is None else [name for name in names if name in items]
    if groups := [name for name in wanted if not hasattr(items[name], "dtype")]:
        raise DtypeError(
            f"{', '.join(map(repr, groups))} of {group!r} are groups; choose one, as in "
            f"group={f'{group}/{groups[0]}'.strip('/')!r}, or arrays by var_names"
        )
    for name in wanted:
        require_not_packed(name, items[name])
    return dict(items)
