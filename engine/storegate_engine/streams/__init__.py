"""Streams: batches of rows for training, read without dask.

What its files know:

    stream          batches, resumable and shared by ranks
    shuffles        the order of rows, and the loader for it
    epochs          steps of an epoch, and keyed randomness
    shares          the rows of one rank, or of several on one machine, in the order of an epoch
    buckets         steps of rows of about the same length
    blocks          orders in which adjacent rows are read together
    quality         how far batches in blocks are from uniform ones
    drawing         pictures of orders
    weights         weights that draw every class equally often
    states          the place of a stream, and checks before another stream resumes from it
    loops           one loop over a stream, and batches cut out of loads
    loaders         the interface of loaders, which read the rows of an epoch ahead of the batches
    span_loaders    rows in runs
    memory_loaders  any order of rows that fit in memory, or of text that does not
    copied          windows in any order, from a copy of their rows
    spilled         any order of more rows, by an exchange over spill files
"""

from __future__ import annotations

from storegate_engine.streams.epochs import LANES, MAX_KEY, Epochs, Last
from storegate_engine.streams.shuffles import Shuffle
from storegate_engine.streams.states import StreamState
from storegate_engine.streams.stream import Stream
from storegate_engine.streams.weights import class_weights

__all__ = [
    "LANES",
    "MAX_KEY",
    "Epochs",
    "Last",
    "Shuffle",
    "Stream",
    "StreamState",
    "class_weights",
]
