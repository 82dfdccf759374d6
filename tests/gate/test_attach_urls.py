"""Attached files behind URLs: read by ranges, known by their versions, and only below what is allowed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import urllib.request

import fsspec
import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from storegate import StoreGate, errors
from storegate_engine.arrays import ForeignArray, list_of
from storegate_engine.store import ArraySource
from tests.processes import environment

X = np.random.default_rng(0).normal(size=(4000, 4))
TEXT = np.array([f"é{at}" for at in range(len(X))], object)


def content_of(form):
    file = io.BytesIO()
    match form:
        case "h5":
            with h5py.File(file, "w") as made:
                made["x"] = X.astype(">f8")
                made.create_dataset("z", data=X, chunks=(1000, 4), compression="gzip", shuffle=True)
                made.create_dataset("small", data=X, chunks=(10, 4))
                made.create_dataset("t", data=TEXT, dtype=h5py.string_dtype())
        case "npy":
            np.save(file, X)
        case "parquet":
            pyarrow.parquet.write_table(pa.table({"x": X[:, 0], "t": TEXT}), file, row_group_size=700)
        case "bin":
            file.write(X.tobytes())
    return file.getvalue()


@pytest.fixture
def files(request):
    """A directory of fsspec's memory, which is emptied afterwards."""
    memory, place = fsspec.filesystem("memory"), f"/{abs(hash(request.node.nodeid))}"
    memory.makedirs(place, exist_ok=True)
    yield memory, place
    memory.rm(place, recursive=True)


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {"output_dir": tmp_path / "store"} if request.param == "zarr" else {}
    with StoreGate(request.param, args, data_id="a") as made:
        yield made


def test_every_format(gate, files):
    memory, place = files
    for form in ("h5", "npy", "parquet", "bin"):
        for at in range(2):
            memory.pipe_file(f"{place}/{at}.{form}", content_of(form))
    twice = np.concatenate([X, X])
    gate.attach(f"memory:/{place}/*.h5", shuffle=3)
    order = np.random.RandomState(3).permutation(len(twice))
    for name in ("x", "z", "small"):
        np.testing.assert_array_equal(gate["train"][name][:], twice[order])
        np.testing.assert_array_equal(gate["train"][name][[5, 7000, 5]], twice[order][[5, 7000, 5]])
    np.testing.assert_array_equal(gate["train"]["t"][:], np.concatenate([TEXT, TEXT])[order])
    batches = list(gate["train"]["z"].batches(100, seed=1))
    assert sorted(np.concatenate(batches)[:, 0]) == sorted(twice[:, 0])
    gate.attach(f"memory:/{place}/*.npy", "n", phase="valid")
    gate.attach(f"memory:/{place}/*.bin", "r", phase="valid", dtype="f8", row_shape=4)
    gate.attach([f"memory:/{place}/{at}.parquet" for at in range(2)], phase="test")
    np.testing.assert_array_equal(gate["valid"]["n"][:], twice)
    np.testing.assert_array_equal(gate["valid"]["r"][:], twice)
    np.testing.assert_array_equal(gate["test"]["x"][:], twice[:, 0])
    np.testing.assert_array_equal(gate["test"]["t"][699:702], TEXT[699:702])


@pytest.mark.parametrize("change", ["replaced", "truncated", "removed"])
def test_a_file_that_changed_is_named(gate, files, change):
    memory, place = files
    memory.pipe_file(f"{place}/x.npy", content_of("npy"))
    gate.attach(f"memory:/{place}/x.npy", "x")
    np.testing.assert_array_equal(gate["train"]["x"][:5], X[:5])
    match change:
        case "replaced":
            memory.pipe_file(f"{place}/x.npy", content_of("npy"))
        case "truncated":
            memory.pipe_file(f"{place}/x.npy", content_of("npy")[:-9])
        case "removed":
            memory.rm(f"{place}/x.npy")
    with pytest.raises(errors.SourceChangedError, match=r"memory:.*x\.npy is not as it was"):
        gate["train"]["x"][:5]


def test_a_store_opens_urls_only_below_those_that_are_allowed(tmp_path, files):
    memory, place = files
    memory.pipe_file(f"{place}/in/x.npy", content_of("npy"))
    memory.pipe_file(f"{place}/inner/x.npy", content_of("npy"))
    with StoreGate.open(tmp_path / "store", "a", mode="a") as gate:
        gate.attach(f"memory:/{place}/in/x.npy", "x")
    with StoreGate.open(tmp_path / "store", references=[f"memory://{place}/in"]) as gate:
        np.testing.assert_array_equal(gate["train"]["x"][:], X)
    for allowed in ([], [f"memory://{place}/inner"], [f"memory://{place}/i"], [place], ["/"]):
        with (
            StoreGate.open(tmp_path / "store", references=allowed) as gate,
            pytest.raises(errors.SourceNotAllowedError, match=rf"'references': \['memory://{place}/in'\]"),
        ):
            gate["train"]["x"][:]


@pytest.mark.parametrize(
    "end", ["../inner/x.npy", "%2e%2e/inner/x.npy", "x.npy::file:///etc/passwd", "./x.npy", "file:///etc/passwd"]
)
def test_urls_that_lead_elsewhere_are_refused(tmp_path, files, end):
    memory, place = files
    memory.pipe_file(f"{place}/in/x.npy", content_of("npy"))
    with StoreGate.open(tmp_path / "store", "a", mode="a") as gate:
        gate.attach(f"memory:/{place}/in/x.npy", "x")
        old = gate.table["train"]["x"].pieces[0].array
        url = end if "://" in end[:9] else f"memory://{place}/in/{end}"
        with gate.repository().begin("forge") as change:
            listed = change.store({"files": ArraySource(list_of([(url, len(X), 1, 1)]))})["files"]
        forged = ForeignArray(old.form, old.inside, listed, old.dtype, old.row_shape, len(X), 1, old.roots)
        with pytest.raises((errors.SourceError, errors.SourceNotAllowedError)):
            forged.read_into(0, 5, np.empty((5, 4)))


def test_local_references_do_not_allow_urls_nor_urls_files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    with StoreGate.open(tmp_path / "store", "a", mode="a") as gate:
        gate.attach(tmp_path / "x.npy", "x")
    with (
        StoreGate.open(tmp_path / "store", references=[f"file://{tmp_path}", "memory://"]) as gate,
        pytest.raises(errors.SourceNotAllowedError),
    ):
        gate["train"]["x"][:]


def test_a_server_that_tells_no_version_is_refused(gate, files, monkeypatch):
    memory, place = files
    memory.pipe_file(f"{place}/x.npy", content_of("npy"))
    real = type(memory).info

    def without_time(self, path, **options):
        return {key: value for key, value in real(self, path, **options).items() if key != "created"}

    monkeypatch.setattr(type(memory), "info", without_time)
    with pytest.raises(errors.SourceError, match=r"tells no size, or no version.*copy it"):
        gate.attach(f"memory:/{place}/x.npy", "x")


def test_zarr_behind_a_url_is_refused(gate, files):
    memory, place = files
    memory.pipe_file(f"{place}/x.zarr/zarr.json", b"{}")
    with pytest.raises(errors.SourceError, match=r"zarr stores behind URLs are not read in place; copy them"):
        gate.attach(f"memory:/{place}/x.zarr")


S3 = """
import json, os, sys
import fsspec, h5py, numpy as np
from obstore.fsspec import register
from storegate import StoreGate, errors
register("s3")
url, options, content = sys.argv[1], json.loads(sys.argv[2]), open(sys.argv[3], "rb").read()
fsspec.config.conf["s3"] = options
files, name = fsspec.core.url_to_fs(url)
files.pipe_file(name, content)
with StoreGate(data_id="a") as gate:
    gate.attach(url, ["x", "z", "small"])
    print(json.dumps([gate["train"][name][:].sum() for name in ("x", "z", "small")]))
    print(sum(len(batch) for batch in gate["train"]["z"].batches(100, shuffle="blocks", label="z")), flush=True)
    if not os.fork():
        try:
            gate["train"]["x"][:]
        except errors.SourceError as err:
            print(err, flush=True)
        os._exit(0)
    os.wait()
    files.pipe_file(name, content + b"0")
    try:
        gate["train"]["x"][:]
    except errors.SourceChangedError as err:
        print(err)
sys.stdout.flush()
os._exit(0)  # one in ten processes that have used obstore's file system of fsspec aborts when Python ends
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:shuffle='blocks'")
def test_objects_of_s3(tmp_path, s3_server):
    urllib.request.urlopen(urllib.request.Request(f"{s3_server['endpoint']}/attached", method="PUT")).close()
    (tmp_path / "x.h5").write_bytes(content_of("h5"))
    command = [sys.executable, "-W", "ignore", "-c", S3, "s3://attached/runs/x.h5", json.dumps(s3_server)]
    done = subprocess.run(
        [*command, str(tmp_path / "x.h5")], capture_output=True, text=True, env=environment(), timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    sums, n_rows, forked, changed = done.stdout.splitlines()
    assert "cannot be read in a forked process, which lacks the client's threads; use spawn" in forked
    np.testing.assert_allclose(json.loads(sums), X.sum())
    assert int(n_rows) == len(X)
    assert "s3://attached/runs/x.h5 is not as it was" in changed
