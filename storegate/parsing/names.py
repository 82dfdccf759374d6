"""Names: the variables of ``var_names``, the form of their data, and the order of names; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

from storegate.parsing.phases import ALL, PHASES
from storegate_engine.errors import DtypeError, InvalidNameError, ShapeError
from storegate_engine.names import validate_name

__all__ = ["Form", "Names", "VarNames", "are_names", "natural_key", "parse_names"]

VarNames: TypeAlias = str | tuple[str, ...] | list[str]
"""One variable; several, stacked into one array; or several, one array each."""
Form: TypeAlias = Literal["one", "stack", "each", "dict"]
"""``one`` (a string: one array), ``stack`` (a tuple: one array, stacked), ``each`` (a list: a list of arrays) or
``dict`` (all variables of a phase: arrays by name)."""


@dataclass(frozen=True, slots=True)
class Names:
    """Variable names, and the form of their data."""

    names: tuple[str, ...]
    """One or more names, in order."""
    form: Form
    """The form of the data."""

    @property
    def given(self) -> VarNames:
        """The names in the type that stands for their form: str, tuple or list."""
        return self.names[0] if self.form == "one" else self.names if self.form == "stack" else list(self.names)


def parse_names(var_names: object, *, validate: bool = False) -> Names:
    """Return the names of a string, tuple or list.

    Raises
    ------
    TypeError
        The argument has another type.
    InvalidNameError
        A name cannot be stored, or is that of a phase (only with ``validate``).
    """
    if isinstance(var_names, str):
        names = Names((str.__str__(var_names),), "one")  # numpy's and other subclasses become plain
    elif isinstance(var_names, (tuple, list)) and all(isinstance(name, str) for name in var_names):
        names = Names(tuple(map(str.__str__, var_names)), "stack" if isinstance(var_names, tuple) else "each")
    else:
        raise DtypeError(f"var_names is a string, or a tuple or list of strings; found {var_names!r}")
    if not names.names:
        raise ShapeError("var_names is empty; name at least one variable")
    if validate:
        for name in names.names:
            validate_name(name)
            if name in (*PHASES, ALL):
                raise InvalidNameError(
                    f"{name!r} cannot name a variable: gate[{name!r}] is the phase of that name; rename it, as in "
                    f"'{name}_values'"
                )
        if len(set(names.names)) != len(names.names):
            raise ShapeError(f"var_names repeats a name: {list(names.names)}")
    return names


def are_names(item: object) -> bool:
    """Return whether an item in ``[]`` names variables rather than selecting rows."""
    return isinstance(item, str) or (
        isinstance(item, (tuple, list)) and len(item) > 0 and all(isinstance(name, str) for name in item)
    )


def natural_key(name: str) -> tuple[tuple[str, int], ...]:
    """Return a key that sorts numbers in names by their value.

    >>> sorted(["x10", "x2", "x²"], key=natural_key)
    ['x2', 'x10', 'x²']
    """
    parts = re.split(r"([0-9]+)", name)  # texts and numbers in turn
    return tuple((text, int(number)) for text, number in zip(parts[::2], [*parts[1::2], "-1"], strict=True))
