"""The demo: build, shuffle and read a store of real data in less memory than the data take.

It uses only the public interface of StoreGate, xarray and numpy. The data are files of the KM3NeT
neutrino telescope, from the package ``km3net-testdata``.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import numpy as np
import numpy.typing as npt
import uproot
import xarray as xr
from km3net_testdata import data_path

from storegate import StoreGate

__all__ = ["BUDGET", "run"]

BUDGET = "64MiB"  # the decoded data are 106 MiB
SPLIT = (0.8, 0.1, 0.1)  # train, valid, test
SEED = 7

# Simulated events of the ORCA detector: one row is a kind of event, with its weight W. AnaClass, 1 to 3, is
# the class that the analysis assigned to it.
EVENTS = "oscillations/ORCA6_433kt-y_opendata_v0.5_testdata.root"
EVENT_FEATURES = ["E_reco_bin_center", "Ct_reco_bin_center", "E_true_bin_center", "Ct_true_bin_center"]

# The light that atmospheric muons left in the detector: one row is a hit, with its time and its time over
# threshold (tot). The class says whether the hit took part in the trigger.
HITS = "hdf5/atmospheric_muons_sample.h5"
HIT_FEATURES = ["tot", "channel_id"]

Column = Callable[[str], npt.NDArray[Any]]


def run(directory: str | None = None, *, budget: str = BUDGET) -> None:
    """Build the store, look at it, check it and read it in batches, printing what happens.

    Parameters
    ----------
    directory : str, optional
        Where to build the store; replaces what an earlier run left there. Default: a new temporary
        directory, which is kept.
    budget : str
        The memory to stay within, as in ``"64MiB"``.
    """
    directory = directory or str(Path(tempfile.mkdtemp(prefix="storegate-"), "demo.zarr"))
    print(f"Building a store with a budget of {budget} in {directory}")
    start = time.perf_counter()
    load_libraries()
    memory = PeakMemory()
    with (
        StoreGate("zarr", {"output_dir": directory, "mode": "w", "budget": budget}) as gate,
        h5py.File(data_path(HITS), rdcc_nbytes=2**20) as hits_file,  # a small cache for each column
    ):
        tree = uproot.open(data_path(EVENTS))["binned_nu_response"]
        hits = {name: column for name, column in hits_file["hits"].items() if name != "_indices"}

        gate.set_data_id("events")
        decoded_nbytes = add_events(gate, tree)
        prepare(gate, EVENT_FEATURES, label="AnaClass", num_classes=3)
        show(gate, EVENT_FEATURES, label="AnaClass")
        memory.end_of_step("add, shuffle, means")
        check(gate, tree.keys(), lambda name: event_column(name, tree[name].array(library="np")))
        memory.end_of_step("check")
        read_batches(gate, EVENT_FEATURES, label="AnaClass", batch_rows=1024)
        memory.end_of_step("batches")

        gate.set_data_id("hits")
        decoded_nbytes += add_hits(gate, hits)
        prepare(gate, HIT_FEATURES, label="triggered", num_classes=2)
        show(gate, HIT_FEATURES, label="triggered")
        memory.end_of_step("add, shuffle, means")
        check(gate, list(hits), lambda name: hits[name][:])
        memory.end_of_step("check")
        read_batches(gate, HIT_FEATURES, label="triggered", batch_rows=65_536)
        memory.end_of_step("batches")

    print(f"\nIn memory the data would take {mib(decoded_nbytes)}. {memory.report()}")
    print(f"The budget of {budget} covers what each call of StoreGate holds while it runs. It")
    print("does not cover Python and its libraries, memory that they keep for later, or")
    print("arrays of your own: the check holds a column of the file beside its rows.")
    print(f"Done in {time.perf_counter() - start:.0f} s. To look again: storegate info {directory}")


def add_events(gate: StoreGate, tree: Any) -> int:
    """Add the events in blocks of some thousands, and return their size in bytes."""
    decoded_nbytes = 0
    for step, report in tree.iterate(step_size=10_000, library="np", report=True):
        columns = {name: event_column(name, values) for name, values in step.items()}
        decoded_nbytes += sum(values.nbytes for values in columns.values())
        columns["row"] = np.arange(report.tree_entry_start, report.tree_entry_stop)  # for check()
        gate.add_data(list(columns), list(columns.values()), phase=SPLIT)
    return decoded_nbytes


def event_column(name: str, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the column as it is stored: classes count from 0."""
    return values - 1 if name == "AnaClass" else values


def add_hits(gate: StoreGate, hits: dict[str, h5py.Dataset]) -> int:
    """Add the hits from their file, block by block, and return their size in bytes."""
    n_rows = len(hits["time"])
    row = da.arange(n_rows, chunks=2**18)  # for check()
    gate.add_data([*hits, "row"], [*hits.values(), row], phase=SPLIT, shuffle=SEED)
    return sum(column.nbytes for column in hits.values())


def prepare(gate: StoreGate, features: list[str], *, label: str, num_classes: int) -> None:
    """Shuffle, cast and encode; all three are lazy and move no rows."""
    gate.shuffle("all", seed=SEED)
    gate.astype(features, "float32", phase="all")
    gate.onehot(label, num_classes, phase="all")
    gate.compile()


def show(gate: StoreGate, features: list[str], *, label: str) -> None:
    """Print what the store holds of these variables, and the means of the training rows in each class."""
    means = class_means(gate["train"].to_xarray(), features, label=label).compute().to_pandas()
    table = means.rename(lambda at: f"class {at}").rename_axis(None).rename("mean of {}".format, axis=1).T
    print(f"\n{gate[[*features, label]]}\n{table.to_string(float_format='%.3f')}")


def class_means(data: xr.Dataset, features: list[str], *, label: str) -> xr.Dataset:
    """Return the mean of each feature in each class: one-hot labels are the weights of a row."""
    weights = data[label]
    return (data[features] * weights).sum("sample") / weights.sum("sample")


def check(gate: StoreGate, names: Sequence[str], column: Column) -> None:
    """Compare every stored value with the file, using the number of the row it came from."""
    for name in names:
        n_rows = check_column(gate, name, column(name))
    print(f"\nAligned: all {len(names)} columns of all {n_rows:,} rows are those of the file.")


def check_column(gate: StoreGate, name: str, expected: npt.NDArray[Any]) -> int:
    """Compare one variable with its column of the file, and return the number of rows."""
    missing = np.ones(len(expected), dtype=bool)
    for phase in ("train", "valid", "test"):
        for block in slices(len(gate[phase]), 2**16):
            row, values = gate[phase][["row", name]][block]
            if values.ndim == 2:  # one-hot
                values = values.argmax(axis=1)
            if not np.array_equal(values, expected[row].astype(values.dtype)):
                raise RuntimeError(f"{name!r} in {phase!r} is out of line with the file")
            missing[row] = False
    if missing.any():
        raise RuntimeError(f"{np.count_nonzero(missing):,} rows of the file are missing")
    return len(expected)


def read_batches(gate: StoreGate, features: list[str], *, label: str, batch_rows: int) -> None:
    """Read the training rows once, in a new order, as a training loop does."""
    start, n_batches = time.perf_counter(), 0
    for *columns, y in gate["train"][[*features, label]].batches(batch_rows, seed=SEED):
        assert all(len(x) == len(y) for x in columns)  # here a model would learn
        n_batches += 1
    seconds = time.perf_counter() - start
    print(f"One pass: {n_batches} batches of up to {batch_rows:,} shuffled rows in {seconds:.1f} s.")


def slices(n_rows: int, block_rows: int) -> Iterator[slice]:
    """Cut rows into slices of equal length, the last one shorter.

    >>> list(slices(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    return (slice(start, min(start + block_rows, n_rows)) for start in range(0, n_rows, block_rows))


def load_libraries() -> None:
    """Do a little of everything, so that no library is loaded while memory is measured."""
    with StoreGate("zarr", data_id="small") as gate:  # in a temporary directory
        gate.add_data("x", np.zeros(10), phase=SPLIT, shuffle=SEED)
        gate.compile()
        gate["train"].to_xarray()[["x"]].sum("sample").compute().to_pandas()
        next(iter(gate["train"]["x"].batches(2, seed=SEED)))


class PeakMemory:
    """Peaks of resident memory, as counted by the operating system: of the process, and what each step added."""

    def __init__(self) -> None:
        self.before_nbytes = self._peak_nbytes = self._begin_step()
        self._begin_nbytes = self.before_nbytes
        self._added: dict[str, int] = {}

    @staticmethod
    def _begin_step() -> int | None:
        # Only Linux can reset the count; elsewhere a peak of an earlier step hides a lower one after it.
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")
        return peak_nbytes()

    def end_of_step(self, step: str) -> None:
        """Note what the step that ends here added at its peak; the highest counts for steps of the same name."""
        peak = peak_nbytes()
        if peak is not None and self._begin_nbytes is not None and self._peak_nbytes is not None:
            self._added[step] = max(self._added.get(step, 0), peak - self._begin_nbytes)
            self._peak_nbytes = max(self._peak_nbytes, peak)
        self._begin_nbytes = self._begin_step()

    def report(self) -> str:
        """Return the peaks as text."""
        if self._peak_nbytes is None or self.before_nbytes is None:
            return "Peak memory: not available on this system."
        steps = ", ".join(f"{step} {mib(nbytes)}" for step, nbytes in self._added.items())
        return (
            f"Each step added at most:\n{steps}.\n"
            f"The process took {mib(self._peak_nbytes)}, of which {mib(self.before_nbytes)} before the first step."
        )


def peak_nbytes() -> int | None:
    """Return the high-water mark of resident memory in bytes, or None if it is not available."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    if sys.platform == "win32":
        return None
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def mib(nbytes: int) -> str:
    """Return a number of bytes as text.

    >>> mib(3 * 2**20)
    '3 MiB'
    """
    return f"{nbytes / 2**20:,.0f} MiB"
