"""JAX: batches put on a device ahead of their use; the arrays on the host are the stream's, and given away."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from storegate.adapters import require_package, require_stream
from storegate_engine.errors import ArgumentError, DtypeError, shown
from storegate_engine.orders import as_int
from storegate_engine.streams import Stream, StreamState

jax = require_package("jax", "jax")

__all__ = ["DeviceBatches"]


class DeviceBatches:
    """Batches of a stream on a device; iterate over it once for every epoch.

    Without ``jax_enable_x64`` JAX makes 32-bit numbers of 64-bit ones: whole numbers that are beyond them are refused,
    other ones become float32.

    Parameters
    ----------
    stream : Stream
        From ``gate[phase][var_names].batches(...)``.
    device : jax.Device or jax.sharding.Sharding, optional
        Where batches go; default: JAX's own default.
    prefetch : int
        Batches that are on their way to the device while one is used; 0 for none.

    Raises
    ------
    TypeError
        ``stream`` is none, or ``prefetch`` is no integer.
    ValueError
        ``prefetch`` is negative, or JAX knows no such device.
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
            raise ArgumentError(f"device {shown(device)} is none that JAX puts arrays on: {err}") from err
        self._place = stream.epoch, stream.step

    def __len__(self) -> int:
        """Return the batches of an epoch."""
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
        """Return the state after the last batch that was given out, see :meth:`Stream.state_dict`."""
        epoch, step = self._place
        return {**self.stream.state_dict(), "epoch": epoch, "step": step}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go to where a stream was, see :meth:`Stream.load_state_dict`."""
        self.stream.load_state_dict(state)
        self._place = self.stream.epoch, self.stream.step


def _whole(batch: Any) -> Any:
    """Return a batch; whole numbers that JAX would cut are refused."""
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
