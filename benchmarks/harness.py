"""Harness: interleaved times, peak memory of a process tree, and tables; knows no case.

A group of cases that are compared with each other runs in one fresh process, in turns (A B A B ...), so that a slow
moment of the machine hits all of them. The child reports when each turn began and ended; its parent samples the memory
of the child's whole process tree and finds the peak of each turn afterwards, on the same clock.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import importlib.metadata
import os
import pickle
import platform
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

__all__ = [
    "Line",
    "Outcome",
    "Table",
    "Turns",
    "interleave",
    "isolated",
]

MIB, GIB = 2**20, 2**30
SAMPLE_S = 0.01
"""Seconds between two looks at the memory."""
SHARED_NBYTES = 16 * MIB
"""Shared memory below this is not worth the walk over pages that tells who else has it."""

Turns = dict[str, list[tuple[float, float]]]
"""When each turn of each case began and ended, in seconds of ``time.perf_counter`` (one clock for all processes)."""


# ---------------------------------------------------------------------------------------------------------- in a child


def interleave(
    cases: Mapping[str, Callable[[], object]],
    *,
    repeat: int,
    before: Callable[[str], object] | None = None,
    after: Callable[[str], object] | None = None,
    warm: bool = False,
) -> Turns:
    """Run the cases in turns, ``repeat`` times each; ``before`` and ``after`` are not timed.

    With ``warm``, one more turn of each comes first, and is forgotten: it imports what is imported when it is needed.
    """
    turns: Turns = {name: [] for name in cases}
    for turn in range(repeat + warm):
        for name, case in cases.items():
            if before is not None:
                before(name)
            start = time.perf_counter()
            case()
            if turn >= warm:
                turns[name].append((start, time.perf_counter()))
            if after is not None:
                after(name)
    return turns


def merge_turns(*several: Turns) -> Turns:
    """Return the turns of several runs as one."""
    merged: Turns = {}
    for turns in several:
        for name, spans in turns.items():
            merged.setdefault(name, []).extend(spans)
    return merged


# --------------------------------------------------------------------------------------------------------- in a parent


@dataclass(frozen=True)
class Outcome:
    """What a child did."""

    value: Any
    """What its function returned, None when it did not finish."""
    samples: list[tuple[float, int]] = field(repr=False)
    """Moments and the memory of the process tree at each."""
    seconds: float
    """From start to end, imports included."""
    error: str = ""
    """Why it did not finish."""

    @property
    def peak_nbytes(self) -> int:
        """The largest memory of the process tree."""
        return max((nbytes for _, nbytes in self.samples), default=0)

    def peak_of(self, name: str) -> int:
        """Return the largest memory of the process tree during the turns of one case."""
        spans = self.value[name]
        inside = [n for moment, n in self.samples if any(lo <= moment <= hi for lo, hi in spans)]
        return max(inside, default=0)

    def seconds_of(self, name: str) -> float:
        """Return the median time of one case."""
        spans: list[tuple[float, float]] = self.value[name]
        return statistics.median(hi - lo for lo, hi in spans)


def isolated(function: Callable[..., Any], /, *args: Any, limit_s: float | None = None, **options: Any) -> Outcome:
    """Run a function of an importable module in a fresh process; kill its tree when ``limit_s`` have passed."""
    with tempfile.TemporaryDirectory(prefix="storegate-bench-") as directory:
        call, answer = Path(directory, "call"), Path(directory, "answer")
        call.write_bytes(pickle.dumps((function.__module__, function.__qualname__, args, options)))
        program = f"from benchmarks.harness import _child; _child({str(call)!r}, {str(answer)!r})"
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with _sampled(process.pid) as samples:
            try:
                _, errors = process.communicate(timeout=limit_s)
            except subprocess.TimeoutExpired:
                _kill_session(process)
                return Outcome(None, samples, time.perf_counter() - start, f"not finished in {limit_s:.0f} s")
            except BaseException:
                _kill_session(process)
                raise
        seconds = time.perf_counter() - start
        _kill_session(process)  # what it may have left behind
        if not answer.exists():
            last = (errors.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
            return Outcome(None, samples, seconds, f"failed: {last[:300]}")
        return Outcome(pickle.loads(answer.read_bytes()), samples, seconds)


def _child(call: str, answer: str) -> None:
    module, name, args, options = pickle.loads(Path(call).read_bytes())
    value = getattr(importlib.import_module(module), name)(*args, **options)
    Path(answer + ".new").write_bytes(pickle.dumps(value))
    os.replace(answer + ".new", answer)


def _kill_session(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stderr is not None:
        process.stderr.close()


@contextlib.contextmanager
def _sampled(pid: int) -> Iterator[list[tuple[float, int]]]:
    """Sample the memory of a process tree in a thread."""
    samples: list[tuple[float, int]] = []
    ended = threading.Event()

    def sample() -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(pid)
            tree: list[psutil.Process] = []
            listed = 0.0
            while not ended.wait(SAMPLE_S):
                moment = time.perf_counter()
                if moment - listed > 0.2:  # listing processes costs more than reading their memory
                    tree = [root, *root.children(recursive=True)]
                    listed = moment
                samples.append((moment, sum(map(_private_nbytes, tree))))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


def _private_nbytes(process: psutil.Process) -> int:
    """Return the memory of one process that is not page cache.

    On Linux: ``RssAnon``, and its share of shared memory (``Pss_Shmem``); mapped files, which the kernel can drop at
    any time, do not count. Elsewhere: psutil's ``uss``.
    """
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return 0 if sys.platform == "linux" else _unique_nbytes(process)
    anonymous, shared = (_field(status, name) for name in ("RssAnon:", "RssShmem:"))
    if shared > SHARED_NBYTES:
        with contextlib.suppress(OSError):
            shared = _field(Path(f"/proc/{process.pid}/smaps_rollup").read_text(), "Pss_Shmem:")
    return anonymous + shared


def _field(text: str, name: str) -> int:
    _, found, rest = text.partition(name)
    return int(rest.split(None, 1)[0]) * 1024 if found else 0


def _unique_nbytes(process: psutil.Process) -> int:
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:
        return 0


# ---------------------------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Line:
    """One line of a table."""

    case: str
    """What was measured."""
    measured: str
    """The time, or the number."""
    reference: str = ""
    """What it is compared with, and that time."""
    ratio: float | None = None
    """Measured over reference."""
    target: str = ""
    """What it should be."""
    peak_nbytes: int = 0
    """The largest memory of the process tree."""

    def cells(self) -> list[str]:
        """Return the line as text."""
        return [
            self.case,
            self.measured,
            self.reference,
            "" if self.ratio is None else f"{self.ratio:.2f}" if self.ratio >= 0.01 else f"{self.ratio:.1g}",
            self.target,
            f"{self.peak_nbytes / MIB:,.0f} MiB" if self.peak_nbytes else "",
        ]


HEADER = ["case", "measured", "reference", "ratio", "target", "peak memory"]


class Table:
    """Prints lines as they come, and all of them as Markdown in the end."""

    def __init__(self, title: str, *, markdown: bool = False, packages: Iterable[str] = ()) -> None:
        self.title = title
        self.markdown = markdown
        self.lines: list[Line] = []
        self._print(f"{'## ' if markdown else ''}{title}\n")
        for fact in facts([*PACKAGES, *packages]):
            self._print(f"{'- ' if markdown else ''}{fact}")
        self._print()
        if markdown:
            self._print("| " + " | ".join(HEADER) + " |")
            self._print("|" + "---|" * len(HEADER))

    def add(self, lines: Iterable[Line]) -> None:
        """Print lines."""
        for line in lines:
            self.lines.append(line)
            cells = line.cells()
            if self.markdown:
                self._print("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
            else:
                case, measured, reference, ratio, target, peak = cells
                self._print(f"{case}\n    {measured}", end="")
                for name, cell in [("against", reference), ("ratio", ratio), ("target", target), ("peak", peak)]:
                    self._print(f"; {name} {cell}" if cell else "", end="")
                self._print()

    @staticmethod
    def _print(text: str = "", end: str = "\n") -> None:
        print(text, end=end, flush=True)


PACKAGES = ["storegate", "numpy", "dask", "distributed", "xarray", "zarr", "numcodecs"]


def facts(packages: Iterable[str]) -> list[str]:
    """Return the machine, the versions, the date and the command."""
    memory = psutil.virtual_memory().total / GIB
    found = [f"{name} {version}" for name in packages if (version := version_of(name))]
    return [
        f"machine: {platform.machine()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()} "
        f"{platform.release()}",
        f"versions: Python {platform.python_version()}, {', '.join(found)}",
        f"date: {datetime.date.today().isoformat()}",
        f"command: python -m benchmarks {shlex.join(sys.argv[1:])}",
    ]


def version_of(package: str) -> str:
    """Return the version of a package, empty where it is not installed."""
    if package == "storegate":  # also from a work tree
        return str(importlib.import_module("storegate").__version__)
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def in_seconds(seconds: float) -> str:
    """Return a time as people write it."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.0f} µs"
    return f"{seconds * 1e3:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"


def compared(case: str, outcome: Outcome, name: str, reference: str, target: str, label: str = "") -> Line:
    """Return the line of one case of a group against another one of it."""
    if outcome.value is None:
        return Line(case, outcome.error, target=target, peak_nbytes=outcome.peak_nbytes)
    seconds, raw = outcome.seconds_of(name), outcome.seconds_of(reference)
    return Line(
        case,
        in_seconds(seconds),
        f"{label or reference} {in_seconds(raw)}",
        seconds / raw,
        target,
        outcome.peak_of(name),
    )
