"""Names: which variables ``var_names`` names, and in which form their data come and go; pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from storegate_engine.errors import DtypeError, ShapeError
from storegate_engine.names import validate_name

__all__ = ["Form", "Names", "VarNames", "are_names", "parse_names"]

VarNames: TypeAlias = str | tuple[str, ...] | list[str]
"""One variable; several, stacked into one array; or several, an array each."""
Form: TypeAlias = Literal["one", "stack", "each", "dict"]
"""``one`` (a string: one array), ``stack`` (a tuple: one array, stacked), ``each`` (a list: a list of arrays) or, for
all variables of a phase, ``dict`` (an array for each name)."""


@dataclass(frozen=True, slots=True)
class Names:
    """Variable names, and the shape in which their data come and go."""

    names: tuple[str, ...]
    """One name or more, in order."""
    form: Form
    """The shape of their data."""

    @property
    def given(self) -> VarNames:
        """The names as a caller gives them in this form."""
        return self.names[0] if self.form == "one" else self.names if self.form == "stack" else list(self.names)


def parse_names(var_names: object, *, validate: bool = False) -> Names:
    """Return the names of a string, tuple or list.

    Raises
    ------
    TypeError
        Anything else.
    InvalidNameError
        With ``validate``, a name that cannot be stored.
    """
    if isinstance(var_names, str):
        names = Names((var_names,), "one")
    elif isinstance(var_names, (tuple, list)) and all(isinstance(name, str) for name in var_names):
        names = Names(tuple(var_names), "stack" if isinstance(var_names, tuple) else "each")
    else:
        raise DtypeError(f"var_names is a string, or a tuple or list of strings; found {var_names!r}")
    if not names.names:
        raise ShapeError("var_names is empty; name at least one variable")
    if validate:
        for name in names.names:
            validate_name(name)
        if len(set(names.names)) != len(names.names):
            raise ShapeError(f"var_names has a name twice: {list(names.names)}")
    return names


def are_names(item: object) -> bool:
    """Return whether what stands in ``[]`` names variables, rather than rows."""
    return isinstance(item, str) or (
        isinstance(item, (tuple, list)) and len(item) > 0 and all(isinstance(name, str) for name in item)
    )
