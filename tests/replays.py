"""What streams are to give: every order replayed with plain numpy, and the programs that read them."""

from __future__ import annotations

import threading
from pathlib import Path

import dask
import numpy as np
from hypothesis import strategies as st

from storegate_engine.orders.permutations import forward_rows
from storegate_engine.streams import Epochs
from storegate_engine.streams.epochs import keyed_permutation

ROOT = Path(__file__).parents[1]


SMALL = "300KB"
"""A budget that makes several buckets of an exchange."""


KINDS = {"none": False, "uniform": True, "blocks": "blocks"}


SOURCES = ["memory", "exchange"]


def budget_of(source):
    return SMALL if source == "exchange" else "64MiB"


def exchanging(source):
    """Return a context in which rows that are not read in runs come from this source."""
    return dask.config.set({"storegate.shuffle": "exchange" if source == "exchange" else "auto"})


def replayed(kind, n_rows, *, seed=0, epoch=0, block_rows=None, buffer_blocks=None):
    """Return the rows of an epoch as `epochs` and `blocks` document them, by plain loops."""
    if kind == "none" or n_rows == 0:
        return np.arange(n_rows)
    if kind == "uniform":
        if n_rows <= 2**16:
            return keyed_permutation(n_rows, seed, epoch)
        words = np.array([2, 2, seed % 2**32, seed >> 32, epoch, 0], np.uint32)  # use, length, two words a number
        high, low = np.random.SeedSequence(words).generate_state(2)
        return forward_rows("feistel8-v1", n_rows, int(high) << 32 | int(low), np.arange(n_rows))
    blocks = [np.arange(at, min(at + block_rows, n_rows)) for at in range(0, n_rows, block_rows)]
    sigma = keyed_permutation(len(blocks), seed, epoch)
    whole, rest = divmod(len(blocks), buffer_blocks)
    n_rounds = whole + (rest > 0 and (whole == 0 or 2 * rest >= buffer_blocks))
    rows = []
    for number in range(n_rounds):
        first, last = len(blocks) * number // n_rounds, len(blocks) * (number + 1) // n_rounds
        of_round = np.concatenate([blocks[at] for at in sigma[first:last]])
        lane_of = np.arange(len(rows), len(rows) + len(of_round)) % 64
        tau = keyed_permutation(64, seed, epoch, number)
        lanes, begin = {}, 0
        for lane in np.argsort(tau):
            end = begin + int(np.count_nonzero(lane_of == lane))
            lanes[lane] = iter(of_round[begin:end][keyed_permutation(end - begin, seed, epoch, number, lane)])
            begin = end
        rows += [next(lanes[lane]) for lane in lane_of]
    return np.array(rows)


def steps_of(rows, k, drop_last):
    """Return the rows of every step."""
    n = len(rows)
    if drop_last is True:
        return [rows[at : at + k] for at in range(0, n - n % k, k)]
    if drop_last == "pad":
        return [rows[np.arange(at, at + k) % n] for at in range(0, n, k)]
    return [rows[at : at + k] for at in range(0, n, k)]


def own_threads():
    """Return the threads that the project has started; those of dask and zarr come and go as they please."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("storegate")}


@st.composite
def epochs(draw):
    world = draw(st.integers(1, 5))
    last = draw(st.sampled_from(["split", "drop", "pad"]))
    return Epochs(draw(st.integers(1, 700)), draw(st.integers(1, 200)), last, draw(st.integers(0, world - 1)), world)


def drawn(weights, seed, epoch):
    """Draw rows as `epochs` documents it, all at once."""
    n = len(weights)
    words = np.array([3, 2, seed, 0, epoch, 0], np.uint32)
    fractions = (np.random.PCG64(np.random.SeedSequence(words)).random_raw(n) >> np.uint64(11)) * 2.0**-53
    ends = np.cumsum(weights)
    return np.minimum(np.searchsorted(ends, fractions * ends[-1], side="right"), np.flatnonzero(weights)[-1])
