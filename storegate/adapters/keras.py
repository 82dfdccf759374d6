"""Keras 3: a stream as a PyDataset; works with every backend of Keras."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from storegate.adapters import require_stream
from storegate.adapters.roles import Named, parse_roles
from storegate_engine.optional import require_package
from storegate_engine.streams import Stream

require_package("keras", "keras", "storegate.adapters.keras")

from keras.utils import PyDataset  # noqa: E402 (after the check)

__all__ = ["StreamDataset"]


class StreamDataset(PyDataset):
    """Batches of a stream for ``model.fit``.

    Item i is the batch of step i of the current epoch; reading items in order is cheap, any other order reads a buffer
    per item. While Keras trains, batches come in the order of the stream, which shuffles better, whatever indices
    Keras asks for: ``shuffle=True``, the default of ``fit``, and ``shuffle=False`` give the same. With
    ``steps_per_epoch``, each epoch of Keras continues where the one before ended.

    Parameters
    ----------
    stream : Stream
        From ``gate[phase][["x", "y"]].batches(...)``: a list of inputs, targets and sample weights; or of any
        variables, if ``inputs`` and so on name them.
    inputs, targets : str, list of str or dict, optional
        The variables that the model sees and those it learns: one, several in the order of the model's inputs and
        outputs, or a dict from the model's names to variables.
    sample_weight : str, optional
        The variable with sample weights.

    Raises
    ------
    TypeError
        ``stream`` is not a stream.

    Examples
    --------
    >>> from storegate import StoreGate
    >>> from storegate.adapters.keras import StreamDataset
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data({"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 1, 0, 1]})
    >>> data = StreamDataset(gate["train"][["x", "y"]].batches(2, shuffle=False))
    >>> len(data), data[0]
    (2, (array([0., 1.]), array([0, 1])))
    """

    def __init__(
        self, stream: Stream[Any], *, inputs: Named = None, targets: Named = None, sample_weight: str | None = None
    ) -> None:
        super().__init__()
        self.stream = require_stream(stream, "StreamDataset")
        self._roles = parse_roles(stream.names, inputs, targets, sample_weight)
        self._lock = threading.Lock()
        self._place = self._epoch, _ = stream.epoch, stream.step
        self._steps: dict[int, int] = {}
        self._trains = False
        self._batches: Iterator[Any] | None = None
        self._last: tuple[int, Any] | None = None

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.stream)

    def __getitem__(self, index: int) -> Any:
        """Return the batch of one step; while Keras trains, the next batch for each new index."""
        with self._lock:
            if self._place != (self.stream.epoch, self.stream.step):  # the stream was moved from outside
                self._begin(self.stream.epoch)
            step = self._steps.setdefault(index, len(self._steps)) if self._trains else index
            if self._last is None or self._last[0] != step:
                self._last = step, self._read(step)
            return self._last[1]

    def _read(self, step: int) -> Any:
        if self._batches is None or self._place != (self._epoch, step):
            self.stream.seek(self._epoch, step)
            self._batches = iter(self.stream)
        batch = next(self._batches)
        self._place = self.stream.epoch, self.stream.step
        parts = self._roles.split(batch)
        return parts if len(parts) > 1 else parts[0]

    def _begin(self, epoch: int) -> None:
        self._epoch, self._batches, self._last = epoch, None, None
        self._place = self.stream.epoch, self.stream.step
        self._steps.clear()

    def on_epoch_begin(self) -> None:
        """Give batches in order from here on: Keras asks for all of them, in any order."""
        self._trains = True

    def on_epoch_end(self) -> None:
        """Go to the next epoch if all batches of this one were given; Keras also calls this after a first look."""
        with self._lock:
            last = self._last is not None and self._last[0] == len(self.stream) - 1
            if len(self._steps) == len(self.stream) if self._trains else last:
                self.stream.seek(self._epoch + 1)
                self._begin(self._epoch + 1)
            self._trains = False
