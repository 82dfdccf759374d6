"""Adapters: streams for training frameworks; each module imports its framework, the package itself imports none.

What its files know:

    torch      datasets for ``torch.utils.data.DataLoader``
    lightning  a LightningDataModule
    keras      a ``keras.utils.PyDataset``
    sklearn    a loop over ``partial_fit``
    jax        batches put on a device ahead of time
    devices    batches of PyTorch in pinned memory, or on a device, ahead of time
    pools      agreement between the workers of a DataLoader on what to read
    roles      which variables of a batch are inputs, targets and weights
"""

from __future__ import annotations

from typing import Any

from storegate_engine.errors import ArgumentTypeError, shown
from storegate_engine.streams import Stream

__all__ = ["require_stream"]


def require_stream(found: object, adapter: str) -> Stream[Any]:
    """Return the argument of an adapter, which must be a stream.

    Raises
    ------
    TypeError
        It is not a stream.
    """
    if not isinstance(found, Stream):
        raise ArgumentTypeError(
            f"{adapter} takes a stream, as gate[phase][var_names].batches(...) returns it, not {shown(found)}"
        )
    return found
