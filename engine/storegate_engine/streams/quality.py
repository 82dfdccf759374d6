"""Quality: how far the batches of a block order are from uniform ones; reads a sample of a label's rows."""

from __future__ import annotations

import warnings

import numpy as np

from storegate_engine.streams.blocks import Blocks, variance_factor
from storegate_engine.streams.epochs import keyed_permutation
from storegate_engine.table import Variable

__all__ = ["quality_of", "warn_of"]

QUALITY_LIMIT = 1.1
"""A block order whose batches have means of more than so many times the variance of uniform ones gets a warning."""
SAMPLED_BLOCKS = 32
"""Blocks from which the correlation of a label within a block is estimated."""


def quality_of(blocks: Blocks | None, label: Variable | None) -> float:
    """Return the variance of a batch's mean over that of a uniform batch; 1 unless in blocks, see `blocks`.

    Rows of a block are taken to be equal, the worst case, or as correlated as those of the label are.
    """
    if blocks is None:
        return 1.0
    return variance_factor(blocks, 1.0 if label is None else _correlation(label, blocks))


def warn_of(quality: float, blocks: Blocks | None, label: Variable | None, *, stacklevel: int) -> None:
    """Warn where a quality is not good enough."""
    if blocks is None or quality <= QUALITY_LIMIT:
        return
    known = "if rows of a block are alike" if label is None else "as far as the label tells"
    warnings.warn(
        f"shuffle='blocks', {blocks.buffer_blocks} blocks of {blocks.block_rows} rows a buffer: "
        f"the means of batches vary {quality:.2f} times as much as in a uniform order, {known}; "
        "shuffle() and then compact() the phase once (and name a variable with label=, to see that it is "
        "enough), raise buffer_blocks= and budget=, or use shuffle=True",
        UserWarning,
        stacklevel=stacklevel + 1,
    )


def _correlation(label: Variable, blocks: Blocks) -> float:
    """Return the correlation of a label's rows within blocks: the intraclass correlation of an analysis of variance."""
    b = blocks.block_rows
    whole = blocks.epochs.n_rows // b
    if whole < 2 or b < 2:
        return 1.0
    sample = np.sort(keyed_permutation(whole, blocks.seed)[:SAMPLED_BLOCKS]).tolist()
    values = np.stack([label.read(at * b, (at + 1) * b).reshape(b, -1).astype(np.float64) for at in sample])
    means = values.mean(axis=1)
    between = b * ((means - means.mean(axis=0)) ** 2).sum() / (len(sample) - 1)
    within = ((values - means[:, None]) ** 2).sum() / (len(sample) * (b - 1))
    total = between + (b - 1) * within
    return float(np.clip((between - within) / total, 0, 1)) if total else 0.0
