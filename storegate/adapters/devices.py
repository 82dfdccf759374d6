"""Devices of PyTorch: batches put into pinned memory, or sent to a device, ahead of their use."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from storegate_engine.errors import ArgumentError, ArgumentTypeError, shown
from storegate_engine.locations import first_line
from storegate_engine.optional import require_package

torch = require_package("torch", "torch", "storegate.adapters.torch")

__all__ = ["Sender", "Sent", "require_device", "require_pin"]

QUEUED = 2
"""Batches whose work may wait on a device: with the next one at hand, a device has no reason to pause."""


class Sent(NamedTuple):
    """A batch on its way."""

    batch: Any
    is_there: Any
    """The CUDA event that ends its copies; None if they have ended."""


class Sender:
    """Copies batches for one loop: `send` in the threads of a stream, `arrived` where the batch is used.

    Parameters
    ----------
    device : torch.device or None
        Where they go; None for pinned memory.
    """

    def __init__(self, device: Any) -> None:
        self._device = device
        # copies wait in the order of their stream: one of their own does not wait for what trains
        self._copies = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None
        self._uses: deque[Any] = deque()

    def send(self, batch: Any) -> Sent:
        """Begin to copy the tensors of a batch."""
        if self._device is None:
            return Sent(_each(batch, lambda tensor: tensor.pin_memory()), None)
        if self._copies is None:
            return Sent(_each(batch, lambda tensor: tensor.to(self._device)), None)
        with torch.cuda.stream(self._copies):  # of this thread alone
            sent = _each(batch, lambda tensor: tensor.pin_memory().to(self._device, non_blocking=True))
            return Sent(sent, self._copies.record_event())

    def arrived(self, sent: Sent) -> Any:
        """Return a batch, for work that is begun from now on: the device waits for it, and this process does not.

        It waits for work on the batches before: a loop that only hands out work would fill the device with batches.
        """
        if sent.is_there is not None:
            used_by = torch.cuda.current_stream(self._device)
            self._uses.append(used_by.record_event(torch.cuda.Event(blocking=True)))
            if len(self._uses) > QUEUED:
                self._uses.popleft().synchronize()
            used_by.wait_event(sent.is_there)
            _each(sent.batch, lambda tensor: tensor.record_stream(used_by))  # whose work its memory then outlives
        return sent.batch


def require_pin(pin: object) -> bool:
    """Return whether memory is to be pinned; warns, as a DataLoader does, if no accelerator would read from it."""
    if not isinstance(pin, bool):
        raise ArgumentTypeError(f"pin is True or False, found {shown(pin)}")
    if pin and not torch.cuda.is_available():
        warnings.warn(
            "pin=True was requested, and PyTorch finds no CUDA device: tensors stay in ordinary memory",
            UserWarning,
            stacklevel=3,
        )
        return False
    return pin


def require_device(device: object) -> Any:
    """Return the device of a name, which must be one that tensors can be put on."""
    if not isinstance(device, (str, torch.device)):
        raise ArgumentTypeError(f"prefetch_to is the name of a device, such as 'cuda', found {shown(device)}")
    try:
        return torch.empty(0, device=device).device  # with its number
    except (AssertionError, NotImplementedError, RuntimeError) as err:  # by build and driver
        raise ArgumentError(
            f"prefetch_to={shown(str(device))} is no device that PyTorch can use here: {first_line(err)}"
        ) from err


def _each(batch: Any, change: Callable[[Any], Any]) -> Any:
    """Return a batch with every tensor changed; text is none."""
    if isinstance(batch, Mapping):
        return {name: _each(part, change) for name, part in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [_each(part, change) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    return change(batch) if isinstance(batch, torch.Tensor) else batch
