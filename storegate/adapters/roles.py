"""Roles: the variables of a batch that are inputs, targets and sample weights; knows no framework."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from storegate_engine.errors import ArgumentError, ArgumentTypeError, VariableNotFoundError, near_match, shown

__all__ = ["Named", "Roles", "parse_roles"]

Named: TypeAlias = str | Sequence[str] | Mapping[str, str] | None
"""A variable, several (a tuple of arrays), or a dict from the model's names (a dict of arrays)."""


@dataclass(frozen=True, slots=True)
class Roles:
    """The roles of the parts of a batch."""

    names: tuple[str, ...]
    """The variables of the stream, in order."""
    inputs: Named = None
    """The inputs; None takes a batch as it is: inputs, or a list of inputs, targets and weights."""
    targets: Named = None
    """The targets; None for models without targets."""
    sample_weight: str | None = None
    """The variable with sample weights; None if all samples count equally."""

    def split(self, batch: Any) -> tuple[Any, ...]:
        """Return inputs, then targets and weights if there are any.

        Raises
        ------
        ValueError
            The inputs of a dict are not named, or a list has more than three parts.
        VariableNotFoundError
            The batch lacks a variable.
        """
        if self.inputs is None:
            if isinstance(batch, Mapping):
                raise ArgumentError(
                    f"a batch is a dict of {sorted(batch)}: say which are inputs=, targets= and sample_weight=, or "
                    'stream a list of inputs and targets: gate[phase][["x", "y"]].batches(...)'
                )
            parts = tuple(batch) if isinstance(batch, (list, tuple)) else (batch,)
            if not 1 <= len(parts) <= 3:
                raise ArgumentError(
                    f"a batch has {len(parts)} parts, and one to three are inputs, targets and weights; say which are "
                    "inputs=, targets= and sample_weight="
                )
            return parts
        given = batch if isinstance(batch, Mapping) else self._as_dict(batch)
        wanted = [self.inputs, self.targets, self.sample_weight]
        while wanted[-1] is None:
            wanted.pop()
        return tuple(None if named is None else _pick(named, given) for named in wanted)

    def _as_dict(self, batch: Any) -> dict[str, Any]:
        parts = batch if isinstance(batch, (list, tuple)) else [batch]
        if len(parts) != len(self.names):
            raise ArgumentError(f"a batch has {len(parts)} parts, and the stream has the variables {list(self.names)}")
        return dict(zip(self.names, parts, strict=True))


def _pick(named: Named, batch: Mapping[str, Any]) -> Any:
    if isinstance(named, str):
        if named not in batch:
            raise VariableNotFoundError(
                f"no variable {named!r} in a batch of {sorted(batch)}{near_match(named, batch)}"
            )
        return batch[named]
    if isinstance(named, Mapping):
        return {ours: _pick(theirs, batch) for ours, theirs in named.items()}
    return tuple(_pick(name, batch) for name in named or ())


def parse_roles(names: Sequence[str], inputs: Any, targets: Any, sample_weight: Any) -> Roles:
    """Return roles, with checked types.

    Raises
    ------
    TypeError
        An argument is not a name or names.
    ValueError
        Targets or weights are given without inputs.
    """
    for what, named in {"inputs": inputs, "targets": targets}.items():
        if named is not None and not _are_names(named):
            raise ArgumentTypeError(f"{what}= takes names of variables, found {shown(named)}")
    if sample_weight is not None and not isinstance(sample_weight, str):
        raise ArgumentTypeError(f"sample_weight= takes the name of a variable, found {shown(sample_weight)}")
    if inputs is None and (targets is not None or sample_weight is not None):
        raise ArgumentError("targets= and sample_weight= need inputs=, the names of the variables that a model sees")
    return Roles(tuple(names), inputs, targets, sample_weight)


def _are_names(named: Any) -> bool:
    listed = list(named.values()) if isinstance(named, Mapping) else named
    if isinstance(listed, (list, tuple)):
        return bool(listed) and all(isinstance(name, str) for name in listed)
    return isinstance(named, str)
