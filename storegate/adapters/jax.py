"""JAX: batches put on a device ahead of their use."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from storegate.adapters import require_stream
from storegate_engine.errors import ArgumentError, DtypeError, shown
from storegate_engine.optional import require_package
from storegate_engine.orders import as_int
from storegate_engine.streams import Stream, StreamState

jax = require_package("jax", "jax", "storegate.adapters.jax")

__all__ = ["DeviceBatches"]


class DeviceBatches:
    """Batches of a stream on a device; iterate over it once per epoch.

    Without ``jax_enable_x64``, JAX cuts 64-bit numbers to 32 bits: integers that do not fit are refused, floats
    become float32.

    Parameters
    ----------
    stream : Stream
        From ``gate[phase][var_names].batches(...)``.
    device : jax.Device or jax.sharding.Sharding, optional
        The device for the batches; default: JAX's own default.
    prefetch : int
        Number of batches sent to the device ahead of the one in use; 0 for none.

    Raises
    ------
    TypeError
        ``stream`` is not a stream, or ``prefetch`` is not an integer.
    ValueError
        ``prefetch`` is negative, or JAX does not know the device.

    Examples
    --------
    >>> import numpy as np
    >>> from storegate import StoreGate
    >>> from storegate.adapters.jax import DeviceBatches
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("x", np.arange(4, dtype="f4"))
    >>> [batch.tolist() for batch in DeviceBatches(gate["train"]["x"].batches(2, shuffle=False))]
    [[0.0, 1.0], [2.0, 3.0]]
    """

    def __init__(self, stream: Stream[Any], device: Any = None, *, prefetch: int = 2) -> None:
        self.stream = require_stream(stream, "DeviceBatches")
        self.device = device
        self.prefetch = as_int(prefetch, "prefetch")
        if self.prefetch < 0:
            raise ArgumentError(f"prefetch is 0 or more batches, found {prefetch}")
        try:
            jax.device_put(np.zeros(0), device)
        except (TypeError, ValueError) as err:
            raise ArgumentError(f"device {shown(device)} is not one that JAX can put arrays on: {err}") from err
        self._place = stream.epoch, stream.step

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return len(self.stream)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the epoch."""
        self.stream.seek(*self._place)
        sent: deque[tuple[tuple[int, int], Any]] = deque()
        for batch in self.stream:
            sent.append(((self.stream.epoch, self.stream.step), jax.device_put(_whole(batch), self.device)))
            if len(sent) > self.prefetch:
                yield self._next(sent)
        while sent:
            yield self._next(sent)
        self._place = self.stream.epoch, self.stream.step

    def _next(self, sent: deque[tuple[tuple[int, int], Any]]) -> Any:
        self._place, batch = sent.popleft()
        return batch

    def state_dict(self) -> StreamState:
        """Return the state after the last batch given, see :meth:`Stream.state_dict`."""
        epoch, step = self._place
        return {**self.stream.state_dict(), "epoch": epoch, "step": step}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume from a state, see :meth:`Stream.load_state_dict`."""
        self.stream.load_state_dict(state)
        self._place = self.stream.epoch, self.stream.step


def _whole(batch: Any) -> Any:
    """Return a batch; integers that JAX would cut are refused."""
    for array in jax.tree.leaves(batch):
        kept = jax.dtypes.canonicalize_dtype(array.dtype) if array.dtype.kind in "iu" else array.dtype
        if kept != array.dtype and array.size:
            least, most = array.min(), array.max()
            if least < np.iinfo(kept).min or most > np.iinfo(kept).max:
                raise DtypeError(
                    f"JAX would cut {array.dtype} to {kept}, and a batch has values from {least} to {most}; call "
                    "jax.config.update('jax_enable_x64', True) before, or store what 32 bits hold"
                )
    return batch
