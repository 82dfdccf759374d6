"""Quality: how far the batches of a block order are from uniform ones; reads a sample of a label's rows."""

from __future__ import annotations

import warnings
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from storegate_engine.streams.blocks import Blocks
from storegate_engine.streams.epochs import LANES, keyed_permutation
from storegate_engine.table import Variable

__all__ = ["quality_of", "variance_factor", "warn_of"]

Int64Array: TypeAlias = npt.NDArray[np.int64]

QUALITY_LIMIT = 1.1
"""Batch means that vary more than this many times as much as uniform ones cause a warning."""
SAMPLED_BLOCKS = 32
"""Number of blocks from which the correlation of a label within a block is estimated."""
SAMPLES = 64
"""Number of places of a short block, and of longer lanes, over which the quality is averaged."""


def quality_of(blocks: Blocks | None, label: Variable | None) -> float:
    """Return the variance of a batch's mean relative to a uniform batch; 1 unless in blocks, see `blocks`.

    Rows of a block are assumed to be equal, the worst case, or as correlated as those of the label.
    """
    if blocks is None:
        return 1.0
    return variance_factor(blocks, 1.0 if label is None else _correlation(label, blocks))


def warn_of(quality: float, blocks: Blocks | None, label: Variable | None, *, stacklevel: int) -> None:
    """Warn if the batches of a block order are much less random than uniform ones."""
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


def variance_factor(blocks: Blocks, correlation: float) -> float:
    """Return the variance of the mean of a step's rows, relative to as many rows of a uniform order.

    With batches of k rows, blocks of b and rounds of W it is at most ``1 + ρ(k-1)(b-1)/(W-1)`` for the correlation
    ρ of rows of a block (Cochran, *Sampling Techniques*, 3rd edition, chapters 8 and 9), and exactly, for N rows::

        p = the chance that two rows of a step are from the same block, over all full steps
        c = -(1 + (b-1)ρ) / (N-b)                     correlation of rows of different blocks
        (1 + (k-1)(pρ + (1-p)c)) / (1 - (k-1)/(N-1))

    p is less than (b-1)/(W-1), because a step takes its rows evenly from all lanes.
    """
    n_rows, b, k = blocks.epochs.n_rows, blocks.block_rows, blocks.epochs.batch_rows
    if k < 2 or k >= n_rows or b >= n_rows:
        return 1.0
    same = _same_block_pairs(blocks) / (k * (k - 1))
    between = -(1 + (b - 1) * correlation) / (n_rows - b)
    return float((1 + (k - 1) * (same * correlation + (1 - same) * between)) / (1 - (k - 1) / (n_rows - 1)))


def _same_block_pairs(blocks: Blocks) -> float:
    """Return the expected ordered pairs of rows of one block in a full step, averaged over the steps of an epoch."""
    k, n_steps, n_blocks = blocks.epochs.batch_rows, blocks.epochs.n_rows // blocks.epochs.batch_rows, blocks.n_blocks
    cuts = blocks.round_blocks
    # the last block may be short, and lanes one row longer; both have random places, and shift blocks
    short = blocks.epochs.n_rows - (n_blocks - 1) * blocks.block_rows
    total = 0.0
    for sample in range(SAMPLES):
        place = (2 * sample + 1) * n_blocks // (2 * SAMPLES)
        tau = keyed_permutation(LANES, sample)
        at = int(np.searchsorted(cuts, place, side="right")) - 1
        ends = cuts * blocks.block_rows
        ends[at + 1 :] -= blocks.block_rows - short
        kinds = np.diff(cuts)
        kinds[at] = -1
        for kind in np.unique(kinds).tolist():  # rounds of one kind are alike
            rounds = np.flatnonzero(kinds == kind)
            sizes = np.full(int(np.diff(cuts)[rounds[0]]), blocks.block_rows)
            if kind < 0:
                sizes[place - cuts[at]] = short
            total += _pairs_in_rounds(sizes, tau, ends[rounds], k, n_steps * k)
    return total / SAMPLES / n_steps


def _pairs_in_rounds(sizes: Int64Array, tau: Int64Array, firsts: Int64Array, k: int, stop: int) -> float:
    """Return the sum of these over the full steps of rounds with blocks of these sizes, which begin at ``firsts``."""
    lasts = np.minimum(firsts + sizes.sum(), stop)
    firsts, lasts = firsts[firsts < lasts], lasts[firsts < lasts]
    # a round ends a step, has whole ones, and begins another; or is within one
    head, tail = -(-firsts // k) * k, lasts // k * k
    is_within = head > tail
    lengths = [np.where(is_within, lasts, head) - firsts, np.where(is_within, 0, lasts - tail)]
    pairs = _pairs(sizes, tau, np.concatenate([*lengths, [k]]))
    return float(pairs[:-1].sum() + pairs[-1] * (np.maximum(0, tail - head) // k).sum())


def _pairs(sizes: Int64Array, tau: Int64Array, positions: Int64Array) -> npt.NDArray[np.float64]:
    """Return the expected ordered pairs of rows of one block among neighbouring positions of a round."""
    ends = np.cumsum(sizes)
    least, longer = divmod(int(ends[-1]), LANES)
    bounds = np.concatenate([[0], np.cumsum(least + (tau < longer))])
    edges = np.unique(np.concatenate([bounds, ends]))
    slices = np.searchsorted(bounds, edges[:-1], side="right") - 1
    slice_rows = np.diff(bounds)[slices].astype(np.float64)
    shares, block = np.diff(edges) / slice_rows, np.searchsorted(ends, edges[:-1], side="right")
    # the chance that two rows of one lane, and of two lanes, are from the same block
    alike = (shares * (np.diff(edges) - 1) / np.maximum(slice_rows - 1, 1)).sum() / LANES
    across = (np.bincount(block, shares) ** 2 - np.bincount(block, shares**2)).sum() / (LANES * (LANES - 1))
    turns, rest = np.divmod(positions, LANES)
    of_one_lane = rest * turns * (turns + 1) + (LANES - rest) * turns * (turns - 1)
    expected: npt.NDArray[np.float64] = of_one_lane * alike + (positions * (positions - 1) - of_one_lane) * across
    return expected
