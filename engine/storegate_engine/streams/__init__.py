"""Streams: batches of rows for training that do not go through dask.

What its files know:

    stream   batches, resumable and shared by ranks
    epochs   which rows make which batch of which rank, in every epoch
    blocks   orders in which rows that lie together are read together
    loaders  reads the rows of an epoch into buffers, ahead of the batches
    spilled  the rows of an epoch in any order, by an exchange over spill files
"""

from __future__ import annotations

from storegate_engine.streams.epochs import LANES, MAX_KEY, Epochs, Last
from storegate_engine.streams.stream import Shuffle, Stream, class_weights

__all__ = [
    "LANES",
    "MAX_KEY",
    "Epochs",
    "Last",
    "Shuffle",
    "Stream",
    "class_weights",
]
