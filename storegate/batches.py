"""Batches: what ``view.batches`` is asked for, as a stream of the engine; reads labels and weights only."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import numpy as np

from storegate.parsing import Names
from storegate.reading import require_stackable
from storegate_engine.errors import (
    ArgumentError,
    ArgumentTypeError,
    ShapeError,
    VariableNotFoundError,
    shown,
)
from storegate_engine.orders import as_int
from storegate_engine.store import as_native
from storegate_engine.streams import MAX_KEY, Epochs, Last, Shuffle, Stream, class_weights
from storegate_engine.table import Variable

__all__ = ["local_ranks", "open_stream", "parse_last", "parse_shuffle", "parse_weights"]

Array: TypeAlias = np.ndarray[Any, Any]


def open_stream(
    variable: Callable[[str], Variable],
    names: Names | tuple[str, ...],
    *,
    version: int,
    batch_size: Any,
    shuffle: Any,
    seed: Any,
    epoch: Any,
    drop_last: Any,
    rank: Any,
    world: Any,
    prefetch: Any,
    budget_nbytes: int,
    block_rows: Any,
    buffer_blocks: Any,
    label: str | None,
    weights: Any,
    balance: str | None,
    transform: Any,
) -> Stream[Any]:
    """Return a stream of variables, which ``variable`` finds; a tuple of names without a form gives dicts."""
    for what, given in {"label": label, "balance": balance}.items():
        _require_name(what, given)
    if transform is not None and not callable(transform):
        raise ArgumentTypeError(f"transform= takes a function of a batch and a generator, found {shown(transform)}")
    wanted = names.names if isinstance(names, Names) else names
    if not wanted:
        raise VariableNotFoundError("there are no variables to make batches of; add data first")
    variables = [variable(name) for name in wanted]
    if isinstance(names, Names) and names.form == "stack":
        require_stackable(variables)
    n_rows = len(variables[0])
    return Stream(
        variables,
        Epochs(
            n_rows,
            as_int(batch_size, "batch_size"),
            parse_last(drop_last),
            as_int(rank, "rank"),
            as_int(world, "world"),
        ),
        parse_shuffle(
            shuffle,
            seed=seed,
            block_rows=block_rows,
            buffer_blocks=buffer_blocks,
            label=None if label is None else variable(label),
            weights=parse_weights(variable, weights, balance, n_rows),
        ),
        form=_form(names),
        budget_nbytes=budget_nbytes,
        epoch=as_int(epoch, "epoch"),
        prefetch=as_int(prefetch, "prefetch"),
        version=version,
        transform=transform,
    )


def local_ranks(world: Any) -> int:
    """Return how many of the ranks are on this machine: all, where ``LOCAL_WORLD_SIZE`` does not tell."""
    n_ranks = max(1, as_int(world, "world"))
    told = os.environ.get("LOCAL_WORLD_SIZE", "")
    return min(n_ranks, max(1, int(told))) if told.isdecimal() else n_ranks


def _require_name(what: str, given: object) -> None:
    if given is not None and not isinstance(given, str):
        raise ArgumentTypeError(f"{what}= takes the name of a variable, found {shown(given)}")


def parse_last(drop_last: Any) -> Last:
    """Return what happens to a last step that is not full.

    >>> [parse_last(what) for what in (False, "split", True, "pad")]
    ['split', 'split', 'drop', 'pad']
    """
    for value, last in ((False, "split"), ("split", "split"), (True, "drop"), ("pad", "pad")):
        if type(drop_last) is type(value) and drop_last == value:
            return last  # type: ignore[return-value]
    raise ArgumentError(f"drop_last is False (or 'split'), True or 'pad', found {drop_last!r}")


def parse_shuffle(
    shuffle: Any,
    *,
    seed: Any,
    block_rows: Any,
    buffer_blocks: Any,
    label: Variable | None,
    weights: Array | None,
) -> Shuffle:
    """Return how rows are ordered; options of another kind of order are a ValueError."""
    if isinstance(shuffle, (bool, np.bool_)):
        kind = "uniform" if shuffle else "none"
    elif isinstance(shuffle, str) and shuffle == "blocks":
        kind = "blocks"
    else:
        raise ArgumentError(f"shuffle is True, 'blocks' or False, found {shown(shuffle)}; the seed is given with seed=")
    for_blocks = {"block_rows": block_rows, "buffer_blocks": buffer_blocks, "label": label}
    if kind != "blocks" and (given := [name for name, value in for_blocks.items() if value is not None]):
        raise ArgumentError(
            f"{', '.join(given)} describe a block order; use shuffle='blocks', found shuffle={shown(shuffle)}"
        )
    if kind != "uniform" and weights is not None:
        raise ArgumentError(f"weights and balance draw rows anywhere; use shuffle=True, found shuffle={shown(shuffle)}")
    number = as_int(seed, "seed")
    if not 0 <= number < MAX_KEY:
        raise ArgumentError(f"a seed of batches is 0 .. 2**64 - 1, found {number}")
    return Shuffle(
        kind,  # type: ignore[arg-type]
        number,
        None if block_rows is None else as_int(block_rows, "block_rows"),
        None if buffer_blocks is None else as_int(buffer_blocks, "buffer_blocks"),
        label,
        weights,
    )


def parse_weights(variable: Callable[[str], Variable], weights: Any, balance: str | None, n_rows: int) -> Array | None:
    """Return the weights of rows: given, of a variable, or such that classes of a label are drawn equally often."""
    if weights is not None and balance is not None:
        raise ArgumentError("weights= and balance= exclude each other; multiply the weights, and give these")
    if balance is not None:
        labels = variable(balance)
        return class_weights(labels.read(0, len(labels)))
    if weights is None:
        return None
    if isinstance(weights, str):
        stored = variable(weights)
        weights = stored.read(0, len(stored))
    given = as_native(weights, "weights=")
    if given.dtype.kind not in "biuf":
        raise ArgumentTypeError(f"weights= takes numbers, or a variable of them, found dtype {given.dtype}")
    values = given.astype(np.float64)
    if values.shape != (n_rows,):
        raise ShapeError(f"weights= takes one weight for each of the {n_rows} rows, found shape {values.shape}")
    if not (np.isfinite(values).all() and (values >= 0).all() and values.any()):
        raise ArgumentError("weights are finite and not negative, and one of them is more than 0")
    return values


def _form(names: Names | tuple[str, ...]) -> Callable[[list[Array]], Any]:
    if not isinstance(names, Names):
        return partial(_as_dict, names)
    return {"one": _as_one, "stack": _stacked, "each": _as_list}[names.form]


def _as_dict(names: tuple[str, ...], arrays: list[Array]) -> dict[str, Array]:
    return dict(zip(names, arrays, strict=True))


def _as_one(arrays: list[Array]) -> Array:
    return arrays[0]


def _as_list(arrays: list[Array]) -> list[Array]:
    return arrays


def _stacked(arrays: list[Array]) -> Array:
    return np.stack(arrays, axis=1)
