"""Iterators: single samples stacked into blocks of rows, and hints for iterators of samples given by mistake."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np

from storegate_engine.encodings import encoding_of, is_text
from storegate_engine.errors import DtypeError, ShapeError, shown
from storegate_engine.natives import as_native
from storegate_engine.store import ColumnSource, Source, StreamSource, kind_in

__all__ = ["hint_of_samples", "samples"]

Array: TypeAlias = np.ndarray[Any, Any]

BLOCK_NBYTES = 4 * 2**20
"""Bytes of samples stacked into one block; a larger sample is a block of its own."""


def samples(iterator: Iterable[Any]) -> Iterator[Array]:
    """Stack single samples into blocks of rows, for every call that takes an iterator of blocks.

    Samples are copied, so the iterator may reuse its buffer. A block has at most 4 MiB, or one sample.

    Parameters
    ----------
    iterator : iterable of array-like
        Single samples of shape ``(*row_shape,)``; scalars are samples of shape ``()``.

    Returns
    -------
    iterator of ndarray
        Blocks of shape ``(n_samples, *row_shape)``, in the dtype of the first sample; text may be wider.

    Raises
    ------
    DtypeError
        The argument is not iterable, or a sample cannot be stored or differs in dtype from the first (a TypeError).
    ShapeError
        A sample differs in shape from the first (a ValueError).

    Examples
    --------
    >>> import storegate
    >>> images = (np.full((2, 2), number) for number in range(3))
    >>> [block.shape for block in storegate.samples(images)]
    [(3, 2, 2)]
    """
    is_scalar = getattr(iterator, "shape", None) == ()
    if is_scalar or isinstance(iterator, (str, bytes, Mapping)) or not isinstance(iterator, Iterable):
        raise DtypeError(f"samples takes an iterator of single samples, found {shown(iterator)}; pass iter(samples)")
    return _blocks(iter(iterator))


def _blocks(iterator: Iterator[Any]) -> Iterator[Array]:
    first: Array | None = None
    block, filled, nbytes = np.empty(0), 0, 0
    for number, given in enumerate(iterator):
        sample = as_native(given, f"sample {number}")
        if first is None:
            first = np.array(sample, encoding_of(sample.dtype).logical)
        _require_alike(sample, first, number)
        dtype = np.promote_types(block.dtype, sample.dtype) if filled and is_text(first.dtype) else sample.dtype
        nbytes += _text_nbytes(sample)
        if filled and (filled == len(block) or dtype != block.dtype or nbytes > BLOCK_NBYTES):
            yield block[:filled]
            filled, nbytes = 0, _text_nbytes(sample)
        if not filled:  # a new one, since the caller may keep the last
            rows = max(1, BLOCK_NBYTES // max(1, sample.size * dtype.itemsize))
            block = np.empty((rows, *first.shape), dtype if is_text(first.dtype) else first.dtype)
        block[filled] = sample
        filled += 1
    if filled:
        yield block[:filled]


def _text_nbytes(sample: Array) -> int:
    """Return the bytes of variable-length texts that lie outside their array."""
    return sum(len(text.encode()) for text in sample.reshape(-1).tolist()) if sample.dtype.kind == "T" else 0


def _require_alike(sample: Array, first: Array, number: int) -> None:
    if sample.shape != first.shape:
        raise ShapeError(
            f"sample {number} has shape {sample.shape}, and the first has {first.shape}; give samples of one shape"
        )
    alike = sample.dtype.newbyteorder("=") == first.dtype if sample.dtype.kind != "T" else first.dtype.kind == "T"
    if not alike and not (is_text(first.dtype) and sample.dtype.kind == first.dtype.kind):
        raise DtypeError(
            f"sample {number} has dtype {sample.dtype}, and the first has {first.dtype}; give samples of one dtype, as "
            f"in np.asarray(sample, dtype={first.dtype.name!r})"
        )


def hint_of_samples(
    columns: Mapping[str, Source], *, rows: Iterable[int] = (), row_shapes: Mapping[str, tuple[int, ...]] | None = None
) -> str:
    """Return a hint for an error if an iterator seems to have given single samples, else an empty text.

    Parameters
    ----------
    columns : mapping of str to Source
        The new rows of each variable; iterators have been read as far as needed.
    rows : iterable of int
        Expected numbers of rows; an iterator of that many blocks gave samples.
    row_shapes : mapping of str to tuple of int, optional
        Expected shapes of rows; an iterator whose first block has the shape of a row gave samples.
    """
    expected = set(rows)
    for name, column in columns.items():
        source = column.whole if isinstance(column, ColumnSource) else column
        if not isinstance(source, StreamSource):
            continue
        row_shape = (row_shapes or {}).get(name)
        if kind_in(column) != "dense":
            continue
        block_shape = source.first.shape[1:] if isinstance(column, ColumnSource) else source.first.shape
        if block_shape == row_shape and column.row_shape != row_shape:
            found = f"gives blocks of shape {block_shape}, which is that of one row"
        elif source.n_blocks in expected:
            found = f"gave {source.n_blocks} blocks, and {source.n_blocks} rows belong with them"
        else:
            continue
        return (
            f"; the iterator of {name!r} {found}: its items are taken for blocks of rows, and if they are single "
            "samples, pass storegate.samples(iterator)"
        )
    return ""
