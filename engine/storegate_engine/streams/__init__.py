"""Streams: batches of rows for training that do not go through dask.

What its files know:

    stream          batches, resumable and shared by ranks
    shuffles        how rows are ordered, and which loader gives that order
    epochs          which rows make which batch of which rank, in every epoch
    blocks          orders in which rows that lie together are read together
    quality         how far batches in blocks are from uniform ones
    weights         weights that draw every class equally often
    states          where a stream is, and whether another one can go on from there
    loops           one loop over a stream, and batches cut out of loads
    loaders         what loaders are: they read the rows of an epoch into buffers, ahead of the batches
    span_loaders    rows that lie in runs
    memory_loaders  any order of rows that fit the memory, or of text that does not
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
