"""PyTorch: streams and views as datasets for a DataLoader; shares memory with the arrays, copies nothing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from storegate.adapters import require_package
from storegate.views import View
from storegate_engine.streams import Stream

torch = require_package("torch", "torch")

from torch.utils.data import Dataset, IterableDataset, get_worker_info  # noqa: E402 (after the check)

__all__ = ["MapDataset", "StreamDataset", "as_tensors"]


def as_tensors(batch: Any) -> Any:
    """Return arrays, or dicts, tuples and lists of them, as tensors on the same memory; text stays as it is."""
    if isinstance(batch, Mapping):
        return {name: as_tensors(part) for name, part in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(as_tensors(part) for part in batch)
    array = np.asarray(batch)
    if array.dtype.kind not in "biufc":
        return batch
    return torch.from_numpy(array) if array.ndim else torch.tensor(batch)


class StreamDataset(IterableDataset):
    """Batches of a stream as tensors, for ``DataLoader(dataset, batch_size=None)``.

    With worker processes, worker w of n is rank ``r·n + w`` of ``world·n``: each gives its part of every step, so
    that all rows come once. Every new pool of workers begins at the place of this dataset in the main process: call
    :meth:`set_epoch` before each epoch, or keep the workers (``persistent_workers=True``). Without worker processes,
    which is faster as a rule, because the stream has threads of its own, epochs follow each other by themselves.

    Parameters
    ----------
    stream : Stream
        From ``gate[phase][var_names].batches(...)``.
    """

    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self.stream = stream
        self._worker: tuple[int, int] | None = None

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the epoch, this worker's part of every batch."""
        info = get_worker_info()
        if info is not None and self._worker is None:  # once in a worker's life
            self._worker = info.id, info.num_workers
            rank, world = self.stream.world
            self.stream = self.stream.on_rank(rank * info.num_workers + info.id, world * info.num_workers)
        return map(as_tensors, self.stream)

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; the current one is not left: a stream that goes on in it keeps its place."""
        if epoch != self.stream.epoch:
            self.stream.seek(epoch)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the stream, see :meth:`Stream.state_dict`; in a worker, of its part."""
        return self.stream.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to where a stream was, see :meth:`Stream.load_state_dict`."""
        self.stream.load_state_dict(state)


class MapDataset(Dataset):
    """Rows of a view by index, for samplers of PyTorch's own; the rows of a batch are read together.

    Parameters
    ----------
    view : View
        ``gate[phase][var_names]``.
    """

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view
        self._n_rows = len(view.data[0] if isinstance(view.data, list) else view.data)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._n_rows

    def __getitem__(self, index: Any) -> Any:
        """Return one row for an int, rows for a slice, a list, an array or a tensor; as tensors."""
        return as_tensors(self.view[index])

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return rows, read at once, one by one as a collate function wants them."""
        rows = as_tensors(self.view[list(indices)])
        return [list(parts) for parts in zip(*rows, strict=True)] if isinstance(rows, list) else list(rows)
