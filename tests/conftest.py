"""Fixtures that several test modules share."""

from __future__ import annotations

import gc
import multiprocessing
import multiprocessing.util
import os
import re
import shutil
import tempfile
import urllib.request
import uuid
import zlib

import dask
import pytest
from distributed import Client, LocalCluster, get_client
from distributed.utils import get_mp_context
from hypothesis import Phase, settings
from selenium import webdriver

from storegate import StoreGate
from storegate_engine import arrays
from tests.clusters import (
    SCHEDULERS,
    becomes_true,
    dask_processes,
    scheduler_here,
    scheduler_process,
    spill_below,
    started_processes,
)

# The processes that tests start, workers of dask among them, are forked from one that has imported what they need.
dask.config.set({"distributed.worker.multiprocessing-method": "forkserver", "multiprocessing.context": "forkserver"})
get_mp_context()  # distributed names its own modules first, once
multiprocessing.get_context("forkserver").set_forkserver_preload(["storegate.gate", "distributed"])

settings.register_profile("few", max_examples=20, deadline=None)
settings.register_profile("many", max_examples=100, deadline=None)
settings.register_profile("any", max_examples=20, deadline=None, phases=[Phase.generate])  # one that fails will do
settings.load_profile("few")  # or the one of --hypothesis-profile


def pytest_configure(config):
    """Give each process of pytest-xdist its own temporary directory: the spill there is looked through by vacuum."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        own = tempfile.mkdtemp(prefix="storegate-tests-")
        os.environ["TMPDIR"] = tempfile.tempdir = own
        # behind what multiprocessing itself tidies up in it
        multiprocessing.util.Finalize(None, shutil.rmtree, (own, True), exitpriority=-1000)


@pytest.hookimpl(wrapper=True)
def pytest_collection():
    """Collect no garbage among what the tests are made of: all of it stays."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Let what runs on every backend be fast on zarr or on hybrid, in turns: hybrid has zarr's storage in it."""
    found = {item.nodeid: item for item in items}
    for name, item in found.items():
        params = item.callspec.params if hasattr(item, "callspec") else {}
        if "hybrid" not in (params.get("backend"), params.get("gate")):
            continue
        twins = [item, found.get(re.sub(r"(?<=[\[-])hybrid(?=[\]-])", "zarr", name, count=1))]
        if all(twin is not None and twin.get_closest_marker("slow") is None for twin in twins):
            twins[zlib.crc32(name.encode()) % 2].add_marker(pytest.mark.slow)


@pytest.fixture(scope="module", autouse=True)
def frozen():
    """Leave what is there, modules and thousands of tests, out of the collections of garbage that tests ask for."""
    gc.collect()
    gc.freeze()


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
    return multiprocessing.get_context("forkserver")


def take_back_scheduler():
    """Take back what clients set as dask's scheduler, unless somebody still has one."""
    try:
        get_client()
    except ValueError:
        dask.config.config.pop("scheduler", None)


@pytest.fixture(autouse=True)
def dask_scheduler():
    """Keep what a client sets to its test: it stays where a client or its cluster went late, or in another order."""
    take_back_scheduler()
    yield
    take_back_scheduler()


@pytest.fixture(scope="session")
def of_processes():
    """What starts a cluster of processes, and gives its client; for those who need other workers than `cluster` has."""
    return dask_processes


@pytest.fixture(params=SCHEDULERS)
def growing(request, tmp_path):
    """A client of a cluster that has no workers, and what starts one of a number of threads and a memory limit."""
    start = scheduler_here if request.param == "in this process" else scheduler_process
    with start(tmp_path / "dask") as client_and_start_worker:
        yield client_and_start_worker


@pytest.fixture(autouse=True)
def spill_goes(request):
    """What uses a cluster leaves no spill below the test's directory, while the cluster still runs."""
    clusters = [name for name in ("cluster", "growing", "to_scale", "one_thread") if name in request.fixturenames]
    if not clusters and "of_processes" not in request.fixturenames:
        yield
        return
    for name in clusters:
        request.getfixturevalue(name)  # it is closed after this fixture has looked
    directory = request.getfixturevalue("tmp_path")
    before = spill_below(directory)
    yield
    assert becomes_true(lambda: spill_below(directory) == before), spill_below(directory)


@pytest.fixture(scope="module")
def worker_processes(tmp_path_factory):
    """Two single-thread workers in processes of their own, on loopback, which come back where a test kills them."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        memory_limit="700MB",
        host="127.0.0.1",
        dashboard_address="127.0.0.1:0",
        local_directory=str(tmp_path_factory.mktemp("dask")),
    ) as running:
        yield running


@pytest.fixture(scope="module")
def all_processes(tmp_path_factory):
    """The address of the scheduler of two such workers, which has a process of its own."""
    with started_processes(tmp_path_factory.mktemp("dask")) as (file, start_worker):
        for _ in range(2):
            start_worker()
        with Client(scheduler_file=str(file), timeout=120) as starter:  # left again: it would be that of all tests
            address = starter.scheduler.address
        yield address


@pytest.fixture(params=SCHEDULERS)
def cluster(request):
    """A client of two such workers; with a scheduler here, or in a process too."""
    running = request.getfixturevalue("all_processes" if request.param == "of its own" else "worker_processes")
    with Client(running) as client:
        client.wait_for_workers(2, timeout=120)
        yield client


@pytest.fixture
def counted_reads(monkeypatch):
    """A list to which every read of data bytes, from storage or memory, is appended."""
    reads = []
    of_all = ("read_into", "take_into")
    for kind, methods in ((arrays.StoredArray, (*of_all, "read_spans")), (arrays.MemoryArray, of_all)):
        for method in methods:
            original = getattr(kind, method)

            def counting(self, *args, original=original, method=method, **options):
                reads.append(method)
                return original(self, *args, **options)

            monkeypatch.setattr(kind, method, counting)
    return reads


@pytest.fixture(scope="session")
def s3_server():
    """An S3 server of moto's on loopback, as the storage options that reach it."""
    from moto.server import ThreadedMotoServer  # half a second, which few processes need to spend

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


@pytest.fixture(scope="session")
def new_s3_args(s3_server):
    """A function that returns ``backend_args`` of a fresh bucket."""

    def make():
        bucket = f"bucket-{uuid.uuid4().hex}"
        urllib.request.urlopen(urllib.request.Request(f"{s3_server['endpoint']}/{bucket}", method="PUT")).close()
        return {"output_dir": f"s3://{bucket}/store", "storage_options": s3_server}

    return make


@pytest.fixture
def s3_args(new_s3_args):
    """``backend_args`` of a fresh bucket."""
    return new_s3_args()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A browser that runs no script of a page."""
    if shutil.which("chromedriver") is None and "STOREGATE_CI" not in os.environ:  # .ci/run must not skip these
        pytest.skip("chromium and chromium-driver are not installed")
    options = webdriver.ChromeOptions()
    for word in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(word)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    yield driver
    driver.quit()
