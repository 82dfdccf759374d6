"""Objects: a store on an S3 server, read as fast as obstore gets the same objects, on loopback and over slow links."""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from typing import Any
from unittest import mock

import dask
import numpy as np

from benchmarks import disk, harness, object_peers
from benchmarks.harness import Line, Outcome, Table, interleave, isolated
from benchmarks.object_servers import files_server, options_of, proxy, server
from storegate import StoreGate
from storegate.types import BackendArgs
from storegate_engine.budget import format_nbytes, parse_nbytes

WIDTH, BATCH = 256, 1024
LATENCY_S, NBYTES_PER_S = 0.05, 200e6
BUDGET = "600MB"
EACH_LATENCY_S, EACH_NBYTES_PER_S = 0.03, 90e6
"""What S3 gives to a request; its guide counts on 85 to 90 MB/s of a connection."""
RAW_THREADS, MANY_RAW_THREADS = 8, 32
"""Objects of 16 MiB that the reference gets at the same time, and where a connection gets only a part of the link."""
ROWS = 50
"""Single rows that are read."""
RANGE_NBYTES, RANGE_THREADS = 384 * 2**10, 32
"""Bytes of the ranges that blocks read by default, and how many of them the reference gets at the same time."""
LARGE_BLOCK_ROWS = 4096
"""Rows of blocks of 4 MiB, in buffers as large as by default."""
RANGES = "raw, small ranges at random"
SCATTERED = "uniform, until all is scattered"
TARGETED = ("in order", "blocks", "blocks of 4 MiB", SCATTERED, "blocks, second epoch")


def run(arguments: argparse.Namespace) -> None:
    """Print the table."""
    nbytes = parse_nbytes(arguments.size) if arguments.size else (128 if arguments.quick else 1024) * harness.MIB
    repeat = arguments.repeat or (1 if arguments.quick else 3)
    n_rows = nbytes // (4 * WIDTH)
    if find_spec("obstore") is None:
        raise SystemExit("this benchmark reads with obstore: python -m pip install obstore")
    title = f"{format_nbytes(nbytes)} in an S3 server, within {BUDGET}"
    table = Table(title, markdown=arguments.markdown, packages=["obstore"])
    with disk.workplace(arguments.directory) as at, server(at / "server") as port:
        args = options_of(port)
        table.add(_written(args, n_rows))
        _compare(table, "loopback", args, n_rows, repeat, 0.85)
        with contextlib.ExitStack() as servers:
            fast = port
            if shutil.which("nginx") is not None:
                fast = servers.enter_context(files_server(port, at / "files"))
                _compare(table, "nginx", options_of(fast), n_rows, repeat, 0.85)
            each = servers.enter_context(proxy(fast, latency_s=EACH_LATENCY_S, each_nbytes_per_s=EACH_NBYTES_PER_S))
            where = f"{EACH_LATENCY_S * 1000:.0f} ms, {EACH_NBYTES_PER_S / 1e6:.0f} MB/s a connection"
            _compare(table, where, options_of(each), n_rows, repeat, n_raw=MANY_RAW_THREADS)
        with proxy(port, latency_s=LATENCY_S, nbytes_per_s=NBYTES_PER_S) as slow:
            where = f"{LATENCY_S * 1000:.0f} ms, {NBYTES_PER_S / 1e6:.0f} MB/s"
            _compare(table, where, options_of(slow), n_rows, repeat, 0.8)
            outcome = isolated(measure_copies, options_of(slow), n_rows, str(at / "cache"))
            table.add(_lines(f"{where}, with a cache", outcome, 0.8))
        outcome = isolated(single_rows, args, n_rows)
        found = outcome.error if outcome.value is None else f"{max(outcome.value)} requests at most"
        table.add([Line(f"each of {ROWS} single rows", found, target="≤ 2", peak_nbytes=outcome.peak_nbytes)])


def _compare(
    table: Table,
    where: str,
    args: BackendArgs,
    n_rows: int,
    repeat: int,
    target: float | None = None,
    *,
    n_raw: int = RAW_THREADS,
) -> None:
    """Add the lines of one server; peers run in a process of their own, in which their threads and memory stay."""
    table.add(_lines(where, isolated(measure, args, n_rows, repeat, n_raw=n_raw), target))
    table.add(_lines(where, isolated(measure, args, n_rows, repeat, n_raw=n_raw, peers=True), target))


def _written(args: BackendArgs, n_rows: int) -> Iterator[Line]:
    outcome = isolated(write, args, n_rows)
    if outcome.value is None:
        raise SystemExit(f"the rows could not be written: {outcome.error}")
    raw, own = outcome.seconds_of("raw"), outcome.seconds_of("write")
    nbytes = n_rows * 4 * WIDTH
    rates = [f"{nbytes / seconds / 1e6:,.0f} MB/s" for seconds in (own, raw)]
    yield Line("write", rates[0], f"the same bytes put by obstore {rates[1]}", raw / own, "", outcome.peak_of("write"))


def _lines(where: str, outcome: Outcome, target: float | None) -> Iterator[Line]:
    if outcome.value is None:
        yield Line(where, outcome.error, peak_nbytes=outcome.peak_nbytes)
        return
    requests, nbytes = outcome.value.pop("requests"), outcome.value.pop("nbytes")
    for name in outcome.value:
        if name == "raw" and any(peer in outcome.value for peer in object_peers.NAMES):
            continue  # only what they are compared with
        # small ranges at random places take longer, whoever gets them
        reference = RANGES if name == "blocks" and RANGES in outcome.value else "raw"
        seconds, raw = outcome.seconds_of(name), outcome.seconds_of(reference)
        sizes = requests[name]
        mean = sum(sizes) / max(1, len(sizes)) / harness.MIB
        counted = (
            "" if name in object_peers.NAMES else f", {len(sizes)} requests, {mean:.1f} MiB each"
        )  # only ours are known
        yield Line(
            f"{name}, {where}",
            f"{nbytes / seconds / 1e6:,.0f} MB/s{counted}",
            f"{reference} {nbytes / raw / 1e6:,.0f} MB/s",
            raw / seconds,
            f"≥ {target}" if name in TARGETED and target is not None else "",
            outcome.peak_of(name),
        )


def write(args: BackendArgs, n_rows: int) -> dict[str, Any]:
    """Write rows that no codec shortens, and the same bytes in the same sizes with obstore."""
    import obstore

    rows = disk.random_rows(n_rows, WIDTH)
    gate = StoreGate("zarr", args, data_id="bench")
    client = gate.repository().require_versions("reading objects").location.objects
    step = 16 * harness.MIB // (4 * WIDTH)

    def put(lo: int) -> None:
        obstore.put(client, f"raw/{lo}", rows[lo : lo + step].data.cast("B"))

    def put_all() -> None:
        with ThreadPoolExecutor(4) as pool:
            deque(pool.map(put, range(0, n_rows, step)), maxlen=0)

    def add() -> None:
        gate.add_data(["x", "y"], [rows, np.arange(n_rows)])

    turns: dict[str, Any] = interleave({"raw": put_all, "write": add}, repeat=1)
    obstore.delete(client, [f"raw/{lo}" for lo in range(0, n_rows, step)])
    gate.compile()
    location = gate.repository().require_versions("writing objects").location
    object_peers.write_for_peers(location, rows, np.arange(n_rows), dict(args["storage_options"] or {}))
    return turns


def measure(
    args: BackendArgs,
    n_rows: int,
    repeat: int,
    only: Sequence[str] = (),
    *,
    n_raw: int = RAW_THREADS,
    peers: bool = False,
) -> dict[str, Any]:
    """Get all objects, and read all rows in each order, or with peers; also count the requests of each."""
    import obstore

    gate = StoreGate("zarr", {**args, "mode": "r", "budget": BUDGET}, data_id="bench")
    location = gate.repository().require_versions("reading objects").location
    objects = [entry for entry in location.entries() if "/c/" in entry.key]
    warnings.simplefilter("ignore", UserWarning)  # how random the blocks are is not what is measured
    counted: list[int] = []
    requests: dict[str, list[int]] = {}
    _count(counted)

    def raw() -> None:
        get = obstore.get

        def one(key: str) -> int:
            return len(memoryview(get(location.objects, location.key(key)).bytes()))

        with ThreadPoolExecutor(n_raw) as pool:
            assert sum(pool.map(one, [entry.key for entry in objects])) == sum(entry.nbytes for entry in objects)

    def ranges() -> None:
        spans = [(of, lo) for of in objects for lo in range(0, of.nbytes, RANGE_NBYTES)]
        random.Random(0).shuffle(spans)

        def one(span: tuple[Any, int]) -> int:
            (of, lo), get = span, obstore.get_range
            key, end = location.key(of.key), min(lo + RANGE_NBYTES, of.nbytes)
            return len(memoryview(get(location.objects, key, start=lo, end=end)))

        with ThreadPoolExecutor(RANGE_THREADS) as pool:
            assert sum(pool.map(one, spans)) == sum(entry.nbytes for entry in objects)

    def epoch(shuffle: Any, **options: Any) -> None:
        with gate["train"][["x", "y"]].batches(BATCH, shuffle=shuffle, seed=0, **options) as stream:
            n_seen = sum(len(batch[1]) for batch in stream)
        assert n_seen == n_rows

    def scattered() -> None:
        # the first steps are picked by small requests; the next one comes when all rows were fetched by large ones
        with gate["train"][["x", "y"]].batches(BATCH, shuffle=True, seed=0, epochs=1) as stream:
            for _ in stream:
                if sum(nbytes for nbytes in counted if nbytes > harness.MIB) > 0.98 * n_rows * 4 * WIDTH:
                    return
        raise RuntimeError(f"an epoch has fetched {sum(counted)} bytes of {n_rows * 4 * WIDTH}")

    arrays = sorted({entry.key.partition("/c/")[0] for entry in objects})
    own: dict[str, Callable[[], None]] = {
        RANGES: ranges,
        "in order": partial(epoch, False),
        "blocks": partial(epoch, "blocks"),
        "blocks of 4 MiB": partial(epoch, "blocks", block_rows=LARGE_BLOCK_ROWS),
        SCATTERED: scattered,
    }
    others = object_peers.of_objects(location, arrays, BATCH, n_rows, dict(args["storage_options"] or {}))
    cases = {"raw": raw, **(others if peers else own)}
    if only:
        cases["blocks, second epoch"] = cases["blocks"]
        cases = {name: cases[name] for name in only}
    raw()  # connections are open, and modules are imported
    turns: dict[str, Any] = interleave(
        cases,
        repeat=repeat,
        before=lambda _: counted.clear(),
        after=lambda name: requests.update({name: list(counted)}),
    )
    return {**turns, "requests": requests, "nbytes": sum(entry.nbytes for entry in objects)}


def measure_copies(args: BackendArgs, n_rows: int, directory: str) -> dict[str, Any]:
    """Read two epochs in blocks, the second from the copies that the first one keeps."""
    with dask.config.set({"storegate.cache-directory": directory, "storegate.cache-limit": "64GiB"}):
        return measure(args, n_rows, 1, only=("raw", "blocks", "blocks, second epoch"))


def single_rows(args: BackendArgs, n_rows: int) -> list[int]:
    """Return the number of requests of each row that is read, from a store that was just opened."""
    gate = StoreGate("zarr", {**args, "mode": "r"}, data_id="bench")
    counted: list[int] = []
    _count(counted)
    view, found = gate["train"]["x"], []
    for row in np.random.default_rng(0).integers(0, n_rows, ROWS):
        counted.clear()
        assert view[int(row)][0] == row % 2**24
        found.append(len(counted))
    return found


def _count(sizes: list[int]) -> None:
    """Append the bytes of each request of this process for a part of an object."""
    import obstore

    get, get_range = obstore.get, obstore.get_range

    def counted_get(client: Any, path: str, **options: Any) -> Any:
        found = get(client, path, **options)
        start, end = found.range
        sizes.append(end - start)
        return found

    def counted_range(client: Any, path: str, *, start: int, end: int) -> Any:
        sizes.append(end - start)
        return get_range(client, path, start=start, end=end)

    mock.patch.multiple(obstore, get=counted_get, get_range=counted_range).start()
