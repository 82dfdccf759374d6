"""Lightning: a gate as a LightningDataModule; each loader is a stream, which Lightning resumes itself."""

from __future__ import annotations

from typing import Any, Unpack

from storegate_engine.errors import ArgumentTypeError, VariableNotFoundError, shown
from storegate_engine.optional import require_package

require_package("lightning", "lightning", "storegate.adapters.lightning")

from lightning import LightningDataModule  # noqa: E402 (after the check)

from storegate.adapters.devices import require_pin  # noqa: E402 (after the check)
from storegate.adapters.torch import StreamDataset  # noqa: E402 (after the check)
from storegate.gate import StoreGate  # noqa: E402
from storegate.parsing import BatchArgs, BatchTransform, VarNames  # noqa: E402

__all__ = ["DataModule"]


class LoaderArgs(BatchArgs, total=False):
    """Keywords of :meth:`View.batches` except ``var_names``."""

    transform: BatchTransform | None


class DataModule(LightningDataModule):
    """Phases of a gate for ``trainer.fit(model, datamodule=DataModule(gate, ["x", "y"], 64))``.

    Training batches come from phase train, shuffled; validation batches from valid, and those of ``trainer.test`` and
    ``trainer.predict`` from test, in order, so that every pass sees the same rows. A checkpoint within an epoch resumes
    at the next batch. With several processes, each gets its part of every step: ``batch_size`` counts the rows of all
    processes.

    Parameters
    ----------
    gate : StoreGate
        An open gate with a data_id.
    var_names : str, tuple or list of str
        The variables of a batch, in the form of ``gate[phase][var_names]``.
    batch_size : int
        Rows of one step, over all processes.
    pin : bool
        Read batches into pinned memory, from which Lightning sends them to a GPU beside other work; see
        :class:`storegate.adapters.torch.StreamDataset`.
    **options
        Options of ``batches`` for phase train: seed, shuffle, drop_last, weights and so on; `transform`, `prefetch`
        and `budget` also apply to the other phases.

    Raises
    ------
    VariableNotFoundError
        Phase train lacks a variable.

    Examples
    --------
    >>> from storegate import StoreGate
    >>> from storegate.adapters.lightning import DataModule
    >>> gate = StoreGate(data_id="example")
    >>> gate.add_data({"x": [0.0, 1.0, 2.0, 3.0], "y": [0, 1, 0, 1]})
    >>> data = DataModule(gate, ["x", "y"], batch_size=2, shuffle=False)
    >>> [y.tolist() for x, y in data.train_dataloader()]
    [[0, 1], [0, 1]]
    """

    def __init__(
        self,
        gate: StoreGate,
        var_names: VarNames,
        batch_size: int,
        *,
        pin: bool = False,
        **options: Unpack[LoaderArgs],
    ) -> None:
        super().__init__()
        if not isinstance(gate, StoreGate):
            raise ArgumentTypeError(f"a DataModule is made of a StoreGate, found {shown(gate)}")
        self.gate = gate
        self.var_names = var_names
        self.batch_size = batch_size
        self.pin = require_pin(pin)
        self.options = options
        self._stream("train", **options).close()  # so that invalid options raise here

    def _stream(self, phase: str, **options: Any) -> Any:
        trainer = getattr(self, "trainer", None)
        ranks = {} if trainer is None else {"rank": trainer.global_rank, "world": trainer.world_size}
        return self.gate[phase][self.var_names].batches(self.batch_size, **{**ranks, **options})

    def _in_order(self, phase: str) -> Any:
        """Return the loader of a phase; an empty list if the phase has no rows."""
        shared = {name: value for name, value in self.options.items() if name in ("transform", "prefetch", "budget")}
        try:
            return StreamDataset(self._stream(phase, shuffle=False, **shared), pin=self.pin)
        except VariableNotFoundError:
            return []

    def train_dataloader(self) -> Any:
        """Return batches of phase train."""
        return StreamDataset(self._stream("train", **self.options), pin=self.pin)

    def val_dataloader(self) -> Any:
        """Return batches of phase valid, in order."""
        return self._in_order("valid")

    def test_dataloader(self) -> Any:
        """Return batches of phase test, in order."""
        return self._in_order("test")

    def predict_dataloader(self) -> Any:
        """Return batches of phase test, in order."""
        return self._in_order("test")
