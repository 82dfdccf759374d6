"""PyTorch: streams and views as datasets for a DataLoader; tensors share memory with the arrays."""

from __future__ import annotations

import gc
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np

from storegate.adapters import require_stream
from storegate.adapters.devices import Sender, require_device, require_pin
from storegate.adapters.pools import Loop, Pools
from storegate.views import View
from storegate_engine.errors import ArgumentError, ArgumentTypeError, shown
from storegate_engine.optional import require_package
from storegate_engine.orders import as_int
from storegate_engine.streams import Stream, StreamState

torch = require_package("torch", "torch", "storegate.adapters.torch")

from torch import distributed  # noqa: E402 (after the check)
from torch.utils.data import DataLoader, Dataset, IterableDataset, get_worker_info  # noqa: E402

__all__ = ["MapDataset", "StreamDataset", "as_tensors"]


def as_tensors(batch: Any) -> Any:
    """Return arrays, or dicts, tuples and lists of them, as tensors on the same memory; text is unchanged.

    Arrays in the other byte order or with negative strides are copied, since tensors have neither. Dates and durations
    become int64 in their unit (dates count from 1970); NaT is the smallest int64.

    Examples
    --------
    >>> import numpy as np
    >>> from storegate.adapters.torch import as_tensors
    >>> as_tensors({"x": np.arange(3), "name": np.array(["a"])})
    {'x': tensor([0, 1, 2]), 'name': array(['a'], dtype='<U1')}
    """
    if isinstance(batch, Mapping):
        return {name: as_tensors(part) for name, part in batch.items()}
    if isinstance(batch, (list, tuple)):
        parts = [as_tensors(part) for part in batch]
        return type(batch)(*parts) if hasattr(batch, "_fields") else type(batch)(parts)
    array = np.asarray(batch)
    if array.dtype.kind in "mM":
        batch = array = array.view(np.dtype(np.int64).newbyteorder(array.dtype.byteorder))
    if array.dtype.kind not in "biufc":
        return batch
    if not array.dtype.isnative or any(step < 0 for step in array.strides):  # no tensor can share such memory
        array = np.array(array, array.dtype.newbyteorder("="))
    return torch.from_numpy(array) if array.ndim else torch.tensor(batch)


def _tell_of_dates(dtypes: Mapping[str, Any]) -> None:
    """Warn of variables whose tensors are integers instead of dates."""
    if dates := [f"{name!r} ({dtype})" for name, dtype in dtypes.items() if dtype.kind in "mM"]:
        warnings.warn(
            f"tensors have no dates: {', '.join(dates)} become int64, which count the unit (a date's from 1970 on), "
            "and NaT becomes the least int64",
            UserWarning,
            stacklevel=3,
        )


class StreamDataset(IterableDataset):
    """Batches of a stream as tensors, for ``DataLoader(dataset, batch_size=None)``, or as a loader itself.

    A loop gives the rest of an epoch, and the next loop another epoch. After a loop that was left early, the next one
    gives the rest of its epoch; under ``torch.no_grad()``, as in validation, it begins the epoch again.

    With worker processes, worker w of n is rank ``r·n + w`` of ``world·n``: each gives its part of every step, so that
    all rows come once; parts without rows are left out. Workers share the memory limit of the stream. Every loop gives
    another epoch, with ``persistent_workers=True`` and without. Workers read ahead, so leaving a loop early loses the
    rest of its epoch, with a warning. To stop within epochs, use ``torchdata``'s ``StatefulDataLoader``, or no workers:
    the stream has its own threads.

    Parameters
    ----------
    stream : Stream
        From ``gate[phase][var_names].batches(...)``.
    pin : bool
        Give tensors in pinned memory, from which ``tensor.to("cuda", non_blocking=True)`` copies beside other work. The
        threads of the stream copy them there, ``prefetch`` batches ahead. Without an accelerator it warns, and tensors
        are as they were.
    prefetch_to : str or torch.device, optional
        Give tensors on this device, such as ``"cuda"``. The threads of the stream send them, ``prefetch`` batches
        ahead, which the device has to hold as well; to CUDA through pinned memory and on a CUDA stream of their own, so
        that copies and training overlap. Text stays as it is. The state is that of the batches given.

    Raises
    ------
    ArgumentError
        PyTorch does not have the device; or, from the loop, pin or prefetch_to with worker processes of a DataLoader,
        which pins itself, with ``pin_memory=True`` (a ValueError).

    Examples
    --------
    >>> from storegate import StoreGate
    >>> from storegate.adapters.torch import StreamDataset
    >>> from torch.utils.data import DataLoader
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data("x", [0.0, 1.0, 2.0, 3.0])
    >>> dataset = StreamDataset(gate["train"]["x"].batches(2, shuffle=False))
    >>> [batch.tolist() for batch in DataLoader(dataset, batch_size=None)]
    [[0.0, 1.0], [2.0, 3.0]]
    """

    def __init__(self, stream: Stream[Any], *, pin: bool = False, prefetch_to: Any = None) -> None:
        super().__init__()
        self.stream = require_stream(stream, "StreamDataset")
        self._pin = require_pin(pin)
        self._device = None if prefetch_to is None else require_device(prefetch_to)
        _tell_of_dates(stream.dtypes)
        self._pools = Pools()
        self._worker: _Worker | None = None
        self._left_at: tuple[int, int] | None = None
        self._knows_ranks = False
        self._warn_of_ranks()

    def __len__(self) -> int:
        """Return the number of batches in an epoch: of this worker, or of all workers if a DataLoader asks."""
        if self._worker is not None:
            return self.stream.n_batches
        asking = sys._getframe(1).f_locals.get("self")  # torch tells a dataset nothing of its loader
        if isinstance(asking, DataLoader) and asking.dataset is self and asking.num_workers:
            return _n_batches(self.stream, asking.num_workers)
        return len(self.stream)

    def __iter__(self) -> Iterator[Any]:
        """Yield the rest of the epoch, this worker's part of every batch."""
        worker = self._in_worker()
        if worker is not None:
            return worker.loop(self.stream, self._pools)
        self._warn_of_ranks()
        return self._give()

    def _give(self) -> Iterator[Any]:
        """Yield batches in the main process."""
        stream = self.stream
        if (place := self._place()) != (stream.epoch, stream.step):
            self._go(*place)
        if self._left_at == place and not torch.is_grad_enabled():
            stream.seek(stream.epoch)
        if not self._pin and self._device is None:
            batches = map(as_tensors, stream)
        else:
            sender = Sender(self._device)
            batches = map(sender.arrived, stream.map(lambda batch: sender.send(as_tensors(batch))))
        for batch in batches:
            self._left_at = stream.epoch, stream.step
            yield batch

    def _in_worker(self) -> _Worker | None:
        """Return this process's worker, if it is one, and take its part of the stream, once per process."""
        info = get_worker_info()
        if info is not None and self._worker is None:
            if self._pin or self._device is not None:
                raise ArgumentError(
                    "a StreamDataset with pin= or prefetch_to= was given to a DataLoader with worker processes, whose "
                    "batches come from there to this one: let the loader pin them, DataLoader(..., pin_memory=True), "
                    "or use no workers, as the stream has its own threads"
                )
            self._worker = _Worker(self.stream, info)
            self.stream = self.stream.on_worker(info.id, info.num_workers)
        return self._worker

    def __getstate__(self) -> dict[str, Any]:
        """Pickle without the rest of a loop."""
        self._warn_of_ranks()
        return {**self.__dict__, "_left_at": None}

    def set_epoch(self, epoch: int) -> None:
        """Go to the beginning of an epoch; if it is the next one to be given anyway, nothing changes.

        A running loop with workers ends as it began; the next one starts at the new epoch. If a resumed trainer counts
        epochs from 0 again, the stream does not return to epochs that it has given: it warns, and goes on.
        """
        epoch = as_int(epoch, "epoch")
        last = self._pools.last(self.stream.epoch, self.stream.step)
        following = self.stream.epoch if last is None else last.epoch + 1
        if epoch < following and self._pools.resumed:
            warnings.warn(
                f"set_epoch({epoch}) after a state was loaded, and the stream is at epoch {following} by now: it stays "
                f"there; tell the trainer that it is at epoch {following} (with Accelerate, "
                f"loader.set_epoch({following}) before the loop), or go back with dataset.stream.seek({epoch})",
                UserWarning,
                stacklevel=2,
            )
        elif epoch != following:
            self._go(epoch, 0)

    def state_dict(self) -> StreamState:
        """Return the state of the stream, see :meth:`Stream.state_dict`.

        With workers of a DataLoader, the state is that of the batches given by the loader, at the last complete step.
        A ``StatefulDataLoader`` keeps its own state.
        """
        if self._worker is not None:
            return self._worker.state_of(self.stream)
        epoch, step = self._place()
        return {**self.stream.state_dict(), "epoch": epoch, "step": step}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Resume from a state, see :meth:`Stream.load_state_dict`."""
        worker = self._in_worker()
        self.stream.load_state_dict(state)
        self._pools.resume()
        if worker is not None:
            given = cast(StreamState, state)  # checked by the stream, which turns the end of an epoch into the next one
            worker.loaded = given["epoch"], given["step"]
        else:
            self._go(self.stream.epoch, self.stream.step)

    def _go(self, epoch: int, step: int) -> None:
        self.stream.seek(epoch, step)
        self._left_at = None
        self._pools.send(self.stream.epoch, self.stream.step)

    def _place(self) -> tuple[int, int]:
        """Return the place at which the stream continues, in the main process or after a resume."""
        place = self.stream.epoch, self.stream.step
        last = self._pools.last(*place)
        if last is None:
            return place
        n_given, n_workers = _given_by_workers(self) or (None, 0)
        if n_given is None or n_given >= _n_batches(self.stream, n_workers, last.step):
            return last.epoch + 1, 0
        return last.epoch, last.step + n_given // len(self.stream.workers_with_batches(0, n_workers))

    def _warn_of_ranks(self) -> None:
        """Warn if several processes train, and the stream was not told its rank."""
        if self._knows_ranks or get_worker_info() is not None:
            return
        if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
            self._knows_ranks = True
            if self.stream.world == (0, 1):
                rank, world = distributed.get_rank(), distributed.get_world_size()
                warnings.warn(
                    f"torch.distributed runs {world} processes, and this stream gives all rows to each of them: make "
                    f"it with batches(..., rank={rank}, world={world}) here, which is torch.distributed.get_rank() "
                    "and get_world_size(), unless one process reads for all, as Accelerate's prepare(loader) has it "
                    f"(the states of such a loader are {world - 1} batches ahead)",
                    UserWarning,
                    stacklevel=3,
                )


class _Worker:
    """A dataset in a worker process of a DataLoader: its loop, and the batches it has given."""

    def __init__(self, stream: Stream[Any], info: Any) -> None:
        self.id, self.n_workers, self.seed = info.id, info.num_workers, info.seed - info.id
        self.began_at = stream.epoch, stream.step
        self.loaded: tuple[int, int] | None = None
        self._turn = 0
        self._loop: Loop | None = None

    def loop(self, stream: Stream[Any], pools: Pools) -> Iterator[Any]:
        """Begin a loop where all its workers begin."""
        self._turn += 1
        self._loop, left = pools.begin(self.id, self.seed, self._turn, self.began_at, self.loaded)
        if left is not None and self.loaded is None and stream.kind != "none":
            warnings.warn(
                f"a loop over a DataLoader was left, whose workers had read ahead: the rest of epoch {left.epoch} is "
                f"not given, and epoch {self._loop.epoch} begins; set_epoch({left.epoch}) begins it again, and a "
                "StatefulDataLoader or num_workers=0 goes on where a loop was left",
                UserWarning,
                stacklevel=2,
            )
        self.loaded = None
        stream.seek(self._loop.epoch, self._loop.step)
        return self._give(stream, pools, self._loop)

    def _give(self, stream: Stream[Any], pools: Pools, loop: Loop) -> Iterator[Any]:
        if 0 < len(stream) == loop.step:  # the loaded state comes after this worker's last part
            if not pools.all_ended(loop, self.n_workers):
                pools.end(self.id, loop)
                return
            self._loop = loop = replace(loop, epoch=loop.epoch + 1, step=0)
            pools.write(self.id, loop)
        yield from map(as_tensors, stream)
        pools.end(self.id, loop)

    def state_of(self, stream: Stream[Any]) -> StreamState:
        """Return the state of this worker: after its last batch, that of the end of the epoch."""
        state = stream.state_dict()
        if self._loop is None or (stream.epoch == self._loop.epoch and stream.gives_after(stream.step)):
            return state
        return {**state, "epoch": self._loop.epoch, "step": len(stream)}


def _n_batches(stream: Stream[Any], n_workers: int, first: int = 0) -> int:
    """Return the number of batches that the workers of a rank give from a step to the end of an epoch."""
    n_steps = len(stream)
    if first >= n_steps:
        return 0
    full, last = (len(stream.workers_with_batches(step, n_workers)) for step in (0, n_steps - 1))
    return full * (n_steps - 1 - first) + last


def _given_by_workers(dataset: StreamDataset) -> tuple[int, int] | None:
    """Return the batches that a DataLoader has given in its running loop, and its workers; None if no loop runs.

    Only the loop knows its iterator, which counts the batches: it is found among the objects that refer to the dataset.
    """
    for found in gc.get_referrers(dataset):
        known = found if isinstance(found, dict) else getattr(found, "__dict__", {})
        if known.get("_dataset") is dataset and known.get("_num_workers") and not known.get("_shutdown"):
            return known["_num_yielded"], known["_num_workers"]
    return None


class MapDataset(Dataset):
    """Rows of a view by index, for PyTorch's own samplers; the rows of a batch are read together.

    Parameters
    ----------
    view : View
        ``gate[phase][var_names]``; for a phase without names, ``gate[phase]``, a row is a dict of all variables.

    Raises
    ------
    ArgumentTypeError
        It is not a view (a TypeError).

    Examples
    --------
    >>> from storegate import StoreGate
    >>> from storegate.adapters.torch import MapDataset
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data({"x": [0.5, 1.5], "y": [0, 1]})
    >>> dataset = MapDataset(gate["train"])
    >>> len(dataset), dataset[1]
    (2, {'x': tensor(1.5000, dtype=torch.float64), 'y': tensor(1)})
    """

    def __init__(self, view: View[Any]) -> None:
        super().__init__()
        if not isinstance(view, View):
            raise ArgumentTypeError(
                f"MapDataset takes a view, gate[phase][var_names], not {shown(view)}; streams go into StreamDataset"
            )
        self._names = view.var_names if view.names is None else None
        self.view = view if self._names is None else view[list(self._names)]
        data = self.view.data if isinstance(self.view.data, list) else [self.view.data]
        _tell_of_dates(dict(zip(self.view.var_names, (part.dtype for part in data), strict=False)))
        self._n_rows = len(data[0])

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._n_rows

    def __getitem__(self, index: Any) -> Any:
        """Return one row for an int, or rows for a slice, a list, an array or a tensor; as tensors."""
        return self._named(self._rows(index))

    def _rows(self, index: Any) -> Any:
        if isinstance(index, str) or (isinstance(index, (list, tuple)) and any(isinstance(i, str) for i in index)):
            raise ArgumentTypeError(f"rows are picked by numbers, not by {shown(index)}")
        return as_tensors(self.view[index])

    def __getitems__(self, indices: Any) -> list[Any]:
        """Return a list of rows, read together."""
        if not isinstance(indices, Iterable) or isinstance(indices, str):
            raise ArgumentTypeError(f"rows are picked by a list of numbers, not by {shown(indices)}")
        rows = self._rows(list(indices))
        return [self._named(list(parts)) for parts in zip(*rows, strict=True)] if isinstance(rows, list) else list(rows)

    def _named(self, parts: Any) -> Any:
        return parts if self._names is None else dict(zip(self._names, parts, strict=True))
