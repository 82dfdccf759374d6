"""Batches: the options of ``view.batches`` as one value; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, TypedDict

import numpy as np
import numpy.typing as npt

from storegate_engine.errors import ArgumentError, ArgumentTypeError, shown
from storegate_engine.orders import as_int
from storegate_engine.ragged import Ragged
from storegate_engine.streams import MAX_KEY, Last

__all__ = ["BatchArgs", "BatchOptions", "BatchTransform", "Collate", "DropLast", "First", "ShuffleBatches"]

ShuffleBatches: TypeAlias = bool | Literal["blocks"]
"""A uniform permutation in every epoch, blocks in random order, or the order of the phase."""
DropLast: TypeAlias = bool | Literal["split", "pad"]
"""What happens to a last step that is not full."""
First: TypeAlias = Literal["stored"]
"""The order of epoch 0 that is not drawn: that of the phase."""
BatchTransform: TypeAlias = Callable[[Any, np.random.Generator], Any]
"""Returns what the stream gives instead of a batch."""
Collate: TypeAlias = Callable[[Ragged], Any] | Mapping[str, Callable[[Ragged], Any]]
"""Makes an array of rows that differ in length; a mapping has one for each variable."""

_INTEGERS = ("batch_size", "seed", "epoch", "rank", "world", "prefetch")
_OPTIONAL = ("epochs", "block_rows", "buffer_blocks")


class BatchArgs(TypedDict, total=False):
    """Keywords of :meth:`View.batches` except ``var_names`` and ``transform``, for functions that pass them on."""

    shuffle: ShuffleBatches
    seed: int
    epoch: int
    epochs: int | None
    drop_last: DropLast
    rank: int
    world: int
    prefetch: int
    budget: int | str | None
    block_rows: int | None
    buffer_blocks: int | None
    label: str | None
    weights: npt.ArrayLike | None
    balance: str | None
    bucket_by: str | None
    collate: Collate | None
    first: First | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class BatchOptions:
    """The options of :meth:`View.batches`, with the same names."""

    batch_size: int
    """Rows of one step, over all ranks."""
    shuffle: ShuffleBatches = True
    """The kind of order."""
    seed: int = 0
    """The seed of the order."""
    epoch: int = 0
    """The first epoch."""
    epochs: int | None = None
    """The number of epochs, those before the first one included; None for no end."""
    drop_last: DropLast = False
    """What happens to a last step that is not full."""
    rank: int = 0
    """The part of every step that this stream gives."""
    world: int = 1
    """The number of parts of a step."""
    prefetch: int = 2
    """Number of buffers to read ahead."""
    budget: int | str | None = None
    """Memory limit of this rank; the gate's if None."""
    block_rows: int | None = None
    """Rows of a block; derived from the data if None."""
    buffer_blocks: int | None = None
    """Blocks of a buffer; derived from the data if None."""
    label: str | None = None
    """The variable that the quality of a block order is judged by."""
    weights: npt.ArrayLike | None = None
    """The weight of each row, or the name of a variable with the weights."""
    balance: str | None = None
    """The variable whose classes are drawn equally often."""
    bucket_by: str | None = None
    """``"length"``, or the variable whose rows of about the same length share a batch."""
    collate: Collate | None = None
    """Makes arrays of rows that differ in length."""
    first: First | None = None
    """``"stored"`` if epoch 0 is the order in which a shuffled phase was compacted."""
    transform: BatchTransform | None = None
    """Returns what the stream gives instead of a batch."""

    def __post_init__(self) -> None:
        """Check what can be checked without the data; numpy integers become plain ones.

        Raises
        ------
        ArgumentTypeError
            A value has the wrong type (a TypeError).
        ArgumentError
            A value is unknown, or belongs to another kind of order (a ValueError).
        """
        for what, given in {"label": self.label, "balance": self.balance, "bucket_by": self.bucket_by}.items():
            if given is not None and not isinstance(given, str):
                raise ArgumentTypeError(f"{what}= takes the name of a variable, found {shown(given)}")
        makers = list(self.collate.values()) if isinstance(self.collate, Mapping) else [self.collate]
        if self.collate is not None and not all(map(callable, makers)):
            raise ArgumentTypeError(
                "collate= takes a function of rows of various lengths, such as storegate.pad(0), or a mapping of them "
                f"by variable, found {shown(self.collate)}"
            )
        if self.transform is not None and not callable(self.transform):
            raise ArgumentTypeError(
                f"transform= takes a function of a batch and a generator, found {shown(self.transform)}"
            )
        for name in (*_INTEGERS, *_OPTIONAL):
            value = getattr(self, name)
            if value is not None or name not in _OPTIONAL:
                object.__setattr__(self, name, as_int(value, name))
        self._require_order()
        if _last_of(self.drop_last) is None:
            raise ArgumentError(f"drop_last is False (or 'split'), True or 'pad', found {self.drop_last!r}")

    def _require_order(self) -> None:
        shuffle: object = self.shuffle
        if not isinstance(shuffle, (bool, np.bool_)) and not (isinstance(shuffle, str) and shuffle == "blocks"):
            raise ArgumentError(
                f"shuffle is True, 'blocks' or False, found {shown(shuffle)}; the seed is given with seed="
            )
        for_blocks = {"block_rows": self.block_rows, "buffer_blocks": self.buffer_blocks, "label": self.label}
        if self.kind != "blocks" and (given := [name for name, value in for_blocks.items() if value is not None]):
            raise ArgumentError(
                f"{', '.join(given)} describe a block order; use shuffle='blocks', found shuffle={shown(shuffle)}"
            )
        if self.bucket_by is not None and self.kind == "blocks":
            raise ArgumentError(
                "bucket_by= sorts rows of 64 batches, and blocks are mixed otherwise; use shuffle=True, or "
                "shuffle=False of a phase that was shuffled and compacted"
            )
        if self.weights is not None and self.balance is not None:
            raise ArgumentError("weights= and balance= exclude each other; multiply the weights, and pass the product")
        if self.kind != "uniform" and not (self.weights is None and self.balance is None):
            raise ArgumentError(
                f"weights and balance draw rows anywhere; use shuffle=True, found shuffle={shown(shuffle)}"
            )
        if self.first is not None:
            self._require_first(shuffle)
        if not 0 <= self.seed < MAX_KEY:
            raise ArgumentError(f"a seed of batches is 0 .. 2**64 - 1, found {self.seed}")

    def _require_first(self, shuffle: object) -> None:
        first: object = self.first
        if first != "stored":
            raise ArgumentError(f"first is 'stored' or None, found {shown(first)}")
        drawn = {"weights": self.weights, "balance": self.balance, "bucket_by": self.bucket_by}
        if self.kind != "uniform" or (given := [name for name, value in drawn.items() if value is not None]):
            found = f"shuffle={shown(shuffle)}" if self.kind != "uniform" else f"{', '.join(given)}="
            raise ArgumentError(f"first='stored' is for uniform epochs of all rows, shuffle=True, found {found}")

    @property
    def kind(self) -> Literal["none", "uniform", "blocks"]:
        """The kind of order."""
        if self.shuffle == "blocks":
            return "blocks"
        return "uniform" if self.shuffle else "none"

    @property
    def last(self) -> Last:
        """The engine's word for what happens to a last step that is not full.

        >>> [BatchOptions(batch_size=1, drop_last=what).last for what in (False, "split", True, "pad")]
        ['split', 'split', 'drop', 'pad']
        """
        last = _last_of(self.drop_last)
        assert last is not None, "checked when it was made"
        return last


def _last_of(drop_last: object) -> Last | None:
    if isinstance(drop_last, str):
        return "pad" if drop_last == "pad" else "split" if drop_last == "split" else None
    return "drop" if drop_last is True else "split" if drop_last is False else None
