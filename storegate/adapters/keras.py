"""Keras 3: a stream as a PyDataset; works with every backend of Keras, and knows none of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from storegate.adapters import require_package
from storegate_engine.streams import Stream

require_package("keras", "keras")

from keras.utils import PyDataset  # noqa: E402 (after the check)

__all__ = ["StreamDataset"]


class StreamDataset(PyDataset):
    """Batches of a stream for ``model.fit``.

    Item i is the batch of step i of the current epoch; items are cheap in order, and any other costs the reading
    of a buffer: call ``model.fit(dataset, shuffle=False)``, the stream shuffles better.

    Parameters
    ----------
    stream : Stream
        From ``gate[phase][["x", "y"]].batches(...)``: a list of inputs and targets (and weights).
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self._lock = threading.Lock()
        self._batches: Iterator[Any] | None = None
        self._last: tuple[int, int, Any] | None = None

    def __len__(self) -> int:
        """Return the batches of an epoch."""
        return len(self.stream)

    def __getitem__(self, index: int) -> Any:
        """Return the batch of one step."""
        with self._lock:
            epoch = self.stream.epoch
            if self._last is None or self._last[:2] != (epoch, index):
                if self._batches is None or self.stream.step != index:
                    self.stream.seek(epoch, index)
                    self._batches = iter(self.stream)
                batch = next(self._batches)
                self._last = epoch, index, tuple(batch) if isinstance(batch, list) else batch
            return self._last[2]

    def on_epoch_end(self) -> None:
        """Go on to the next epoch if all batches of this one were given: Keras also calls this after a first look."""
        with self._lock:
            if self._last is not None and self._last[1] == len(self.stream) - 1:
                self.stream.seek(self._last[0] + 1)
                self._batches = self._last = None
