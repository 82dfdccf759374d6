"""Fixtures that several test modules share."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import dask
import pytest
from distributed import Client, LocalCluster, get_client
from moto.server import ThreadedMotoServer

from storegate import StoreGate
from storegate_engine import arrays


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def backend(request):
    return request.param


@pytest.fixture
def gate(backend, tmp_path):
    """An empty gate of every backend."""
    args = None if backend == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(backend, args, data_id="test_id") as opened:
        yield opened


@pytest.fixture
def stored(tmp_path):
    """An empty gate on storage."""
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id="test_id") as opened:
        yield opened


@pytest.fixture(scope="session")
def processes():
    """Start processes quickly: the server imports once, and has used nothing that cannot be forked."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["storegate.gate"])
    return context


@pytest.fixture(autouse=True)
def dask_scheduler():
    """Take back what clients set as dask's scheduler: it stays where a client or its cluster went in another order."""
    yield
    try:
        get_client()
    except ValueError:  # nobody's any more
        dask.config.config.pop("scheduler", None)


@contextlib.contextmanager
def dask_processes(directory, n_workers=2, n_threads=1, memory_limit="700MB"):
    """Start a scheduler and workers as people do, each in a process and a working directory of its own."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (root, root / "engine")))}
    file = directory / "scheduler.json"
    running = []

    def start(name, *options):
        (directory / name).mkdir(parents=True)
        loopback = ("--host", "127.0.0.1", "--dashboard-address", "127.0.0.1:0")  # without the latter: all interfaces
        command = [sys.executable, "-m", "dask", *options, *loopback]
        with open(directory / f"{name}.log", "wb") as log:
            running.append(
                subprocess.Popen(
                    command,
                    cwd=directory / name,
                    env=environment,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
            )

    try:
        start("scheduler", "scheduler", "--port", "0", "--scheduler-file", str(file))
        with Client(scheduler_file=str(file), timeout=120) as client:  # waits for the file
            limits = ("--nthreads", str(n_threads), "--memory-limit", memory_limit)
            for number in range(n_workers):
                start(f"worker-{number}", "worker", "--scheduler-file", str(file), *limits)
            client.wait_for_workers(n_workers, timeout=120)
            yield client
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)  # with the workers of nannies
            process.wait()


@pytest.fixture(scope="session")
def of_processes():
    """What starts a cluster of processes, and gives its client; for those who need other workers than `cluster` has."""
    return dask_processes


@pytest.fixture(params=["in this process", "of its own"])
def cluster(request, tmp_path):
    """Two single-thread workers in processes of their own, on loopback; with a scheduler here, or in one too."""
    if request.param == "of its own":
        with dask_processes(tmp_path / "dask") as client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            memory_limit="700MB",
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            local_directory=str(tmp_path / "dask"),
        ) as running,
        Client(running) as client,
    ):
        yield client


@pytest.fixture
def counted_reads(monkeypatch):
    """A list to which every read of data bytes, from storage or memory, is appended."""
    reads = []
    of_all = ("read_into", "take_into")
    for kind, methods in ((arrays.StoredArray, (*of_all, "read_spans")), (arrays.MemoryArray, of_all)):
        for method in methods:
            original = getattr(kind, method)

            def counting(self, *args, original=original, method=method):
                reads.append(method)
                return original(self, *args)

            monkeypatch.setattr(kind, method, counting)
    return reads


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server of moto's on loopback, as the storage options that reach it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield {
        "endpoint": f"http://{host}:{port}",
        "access_key_id": "testing",
        "secret_access_key": "secret-key",
        "region": "us-east-1",
        "virtual_hosted_style_request": False,
        "client_options": {"allow_http": True},
    }
    server.stop()


@pytest.fixture
def s3_args(s3_server, request):
    """``backend_args`` of a fresh bucket."""
    bucket = f"bucket-{abs(hash(request.node.nodeid)) % 10**8}"
    urllib.request.urlopen(urllib.request.Request(f"{s3_server['endpoint']}/{bucket}", method="PUT")).close()
    return {"output_dir": f"s3://{bucket}/store", "storage_options": s3_server}
