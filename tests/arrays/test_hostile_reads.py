"""Stores that mean harm while their rows are read, and objects that are larger than what they should be."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import struct
import time
import zlib

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from zarr.core.sync import sync

from storegate import StoreGate
from storegate_engine import documents, locations
from storegate_engine.arrays import inspection
from storegate_engine.arrays import stored as arrays
from storegate_engine.errors import CorruptStoreError, MemoryBudgetError, StoreError
from tests.examples import in_turns

ROWS = np.random.default_rng(0).random((64, 16), dtype="f4")
TEXTS = np.array(["a", "bc"] * 32, np.dtypes.StringDType())
VALUES = {"x": ROWS, "t": TEXTS}
DECODERS = {
    "x": ["storegate_engine.arrays.frames.Framing.decode", "storegate_engine.arrays.frames.Framing.settle"],
    "t": ["zarr.codecs.vlen_utf8.VLenUTF8Codec._decode_single"],
}


def array_path(store, name):
    return next(path for path in sorted(store.glob(f"a/segments/*/{name}")) if (path / "c").exists())


@pytest.fixture
def store(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 16, "budget": "1MiB"}, "a") as gate:
        gate.add_data(["x", "t"], [ROWS, TEXTS])
    return tmp_path / "store"


class TestObjects:
    """What lies at a URL is not fetched before its size is known to be legal."""

    PLACES = ("memory", "fsspec", pytest.param("s3", marks=pytest.mark.slow), "disk")

    @pytest.fixture(params=PLACES)
    def args(self, request, tmp_path):
        fsspec.register_implementation("fsspectest", MemoryFileSystem, clobber=True)
        MemoryFileSystem.store.clear()
        urls = {"memory": f"memory://{tmp_path}", "fsspec": "fsspectest://bucket/store", "disk": tmp_path / "store"}
        return request.getfixturevalue("s3_args") if request.param == "s3" else {"output_dir": urls[request.param]}

    @pytest.fixture
    def gate(self, args):
        gate = StoreGate("zarr", {**args, "chunk": 16}, "a")
        gate.add_data("x", iter([ROWS, ROWS]))
        gate.add_data("t", TEXTS)
        return gate

    @pytest.fixture
    def fetched(self, gate, monkeypatch):
        """How many bytes each read of the store gave."""
        found = []
        kind = type(gate.repository().location.store)
        get = kind.get

        async def counting(self, *args, **kwargs):
            buffer = await get(self, *args, **kwargs)
            found.append(0 if buffer is None else len(buffer))
            return buffer

        monkeypatch.setattr(kind, "get", counting)
        return found

    def key_of(self, gate, ending):
        location = gate.repository().location
        return next(entry.key for entry in location.entries() if entry.key.endswith(ending))

    @pytest.mark.parametrize(
        ("args", "limited"),
        in_turns(
            ["memory", "fsspec", "s3", "disk"],
            [("00000002.json", documents.MAX_NBYTES), ("t/zarr.json", inspection.MAX_METADATA_NBYTES)],
            first=1,
        ),
        indirect=["args"],
    )
    def test_a_large_one_is_refused_before_it_is_fetched(self, args, gate, fetched, limited):
        ending, limit = limited
        key = self.key_of(gate, ending)
        gate.repository().location.write(key, b" " * (limit + 2**20))
        fetched.clear()
        arrays.open_array.cache_clear()
        arrays.inspect_array.cache_clear()
        with pytest.raises(CorruptStoreError, match=f"{key} has more than {limit} bytes"):
            StoreGate("zarr", args, "a").get_data("t")
        assert max(fetched, default=0) <= limit + 1

    def test_a_large_marker(self, args, gate, fetched):
        root = gate.repository().location
        locations.parse_location(args["output_dir"], args.get("storage_options")).write(
            "storegate.json", b" " * (documents.MAX_NBYTES + 2**20)
        )
        fetched.clear()
        for mode in ("r", "a", "w"):
            with pytest.raises(StoreError, match=r"storegate\.json has more than"):
                StoreGate("zarr", {**args, "mode": mode}, "a")
        assert max(fetched, default=0) <= documents.MAX_NBYTES + 1
        assert root.children("manifests")

    @pytest.mark.parametrize("ending", ["00000002.json", "t/zarr.json"])
    def test_an_empty_one(self, args, gate, ending):
        key = self.key_of(gate, ending)
        gate.repository().location.write(key, b"")
        arrays.open_array.cache_clear()
        arrays.inspect_array.cache_clear()
        with pytest.raises(CorruptStoreError, match=f"{key} is not JSON"):
            StoreGate("zarr", args, "a").get_data("t")

    def test_those_that_are_not_there(self, gate):
        location = gate.repository().location
        assert location.read("none") is None
        assert location.read("none/below") is None

    def test_what_lies_beside_the_metadata_is_not_fetched(self, args, gate, fetched):
        location = gate.repository().location
        key = self.key_of(gate, "t/zarr.json")
        for name in (".zarray", ".zattrs"):
            location.write(key.replace("zarr.json", name), b" " * 2**22)
        fetched.clear()
        arrays.open_array.cache_clear()
        np.testing.assert_array_equal(StoreGate("zarr", args, "a").get_data("t"), TEXTS)
        assert max(fetched, default=0) < 2**16


def exhaust(stream):
    for _ in stream:
        pass


def whatever_is_raised():
    yield MemoryError()
    yield OverflowError("too large")
    yield struct.error("unpack requires a buffer of 4 bytes")
    yield zlib.error("invalid distance code")
    yield RuntimeError("error -1 while decompressing data")
    yield RecursionError()
    yield EOFError()
    yield AssertionError()
    yield BufferError("not writable")
    yield UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    yield KeyError("x")
    yield ExceptionGroup("several", [MemoryError(), ValueError("x")])


READS = {
    "get_data": lambda gate, name: gate.get_data(name),
    "rows": lambda gate, name: gate["train"][name][[3, 40]],
    "one row": lambda gate, name: gate["train"][name][5],
    "dask": lambda gate, name: gate["train"][name].data.compute(scheduler="sync"),
    "threads": lambda gate, name: gate["train"].to_xarray()[name].compute(),
    "batches": lambda gate, name: exhaust(gate["train"][name].batches(8)),
    "compact": lambda gate, name: (gate.shuffle("train", 1), gate.compact()),
    "fingerprint": lambda gate, name: gate.fingerprint(name),
    "update": lambda gate, name: gate.update_data(name, gate["train"][name].data[::-1]),
    "memory": lambda gate, name: gate["train"][name][...],
}


@pytest.mark.parametrize(
    ("error", "name"),
    in_turns(whatever_is_raised(), VALUES),
    ids=lambda of: of if isinstance(of, str) else type(of).__name__,
)
def test_whatever_a_codec_raises_is_an_error_that_names_the_array(store, monkeypatch, name, error):
    gate = StoreGate("zarr", {"output_dir": store}, "a")

    def failing(*args, **kwargs):
        raise error

    for codec in DECODERS[name]:
        monkeypatch.setattr(codec, failing)
    for use, read in READS.items():
        with pytest.raises(CorruptStoreError, match=f"array '{name}' of segment .*/segments/") as found:
            read(gate, name)
        text = str(found.value)
        assert text.rstrip().endswith("claim more than was written") or not text.rstrip().endswith(":"), use
        if isinstance(error, (MemoryError, ExceptionGroup)):
            assert isinstance(found.value, MemoryError)
    problems = gate.verify().problems
    assert [name in row.key for row in problems] == [True], "verify goes on, and names it"


def claim(store, name, *, n_rows=64, shard_rows=None):
    """Let manifest and metadata say that an array has more rows, or larger shards, than were written."""

    manifest = max((store / "a" / "manifests").glob("*.json"))
    document = json.loads(manifest.read_text())
    del document["checksum"]
    state = document["state"]
    number = next(at for at, array in enumerate(state["arrays"]) if array.get("name") == name)
    state["arrays"][number].update({"n_rows": n_rows, "shard_rows": shard_rows or 64})
    variable = next(variable for variable in state["phases"]["train"] if variable["name"] == name)
    variable.update(pieces=[[number, 0, n_rows, []]], order=["range", 0, n_rows])
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    document["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    manifest.write_text(json.dumps(document, ensure_ascii=False))
    path = array_path(store, name) / "zarr.json"
    document = json.loads(path.read_text())
    document["shape"][0] = n_rows
    document["chunk_grid"]["configuration"]["chunk_shape"][0] = shard_rows or 64
    path.write_text(json.dumps(document))


CLAIMS = [(2**17, None), (2**50, None), (64, 2**50), (2**50, 2**50)]
"""Rows, and rows of a shard."""


@pytest.mark.parametrize(("name", "claimed"), in_turns(VALUES, CLAIMS))
def test_rows_that_a_store_claims_and_has_not(store, name, claimed):
    """In a few megabytes, and in no time: nothing is allocated or listed for what is only claimed."""
    n_rows, shard_rows = claimed
    claim(store, name, n_rows=n_rows, shard_rows=shard_rows)
    gate = StoreGate("zarr", {"output_dir": store, "mode": "r", "budget": "64MiB"}, "a")
    reads = {
        "all": lambda: gate.get_data(name),
        "last": lambda: gate["train"][name][-1],
        "some": lambda: gate["train"][name][[n_rows - 1, 3]],
        "dask": lambda: gate["train"][name].data[-2:].compute(scheduler="sync"),
        "batches": lambda: exhaust(gate["train"][name].batches(64, seed=1)),
        "shuffled": lambda: exhaust(gate["train"][name].batches(64, seed=1, shuffle=True)),
        "in order": lambda: exhaust(gate["train"][name].batches(64, shuffle=False)),
        "fingerprint": lambda: gate.fingerprint(name),
    }
    for read in reads.values():
        with pytest.raises((CorruptStoreError, MemoryBudgetError)):
            read()


def test_a_read_that_failed_goes_on_with_few_shards(store):
    """A loop that is busy with what nobody waits for makes every later read of the process slow."""

    async def count_tasks():
        return len(asyncio.all_tasks())

    claim(store, "t", n_rows=2**17, shard_rows=None)
    gate = StoreGate("zarr", {"output_dir": store, "mode": "r", "budget": "64MiB"}, "a")
    shuffled = np.random.default_rng(0).permutation(2**17)
    for read in (lambda: gate.get_data("t"), lambda: gate["train"]["t"][shuffled]):
        with pytest.raises(CorruptStoreError):
            read()
        assert sync(count_tasks()) < 4 * arrays.SHARDS_AT_ONCE  # and not one for each of 2,048 shards


@pytest.mark.parametrize("n_shards", [1, 3, pytest.param(100, marks=pytest.mark.slow)])
def test_texts_of_any_number_of_shards(tmp_path, n_shards):
    values = np.array([f"row {at}" for at in range(n_shards * 16 - 3)], np.dtypes.StringDType())
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 8, "budget": 20_000}, "a") as gate:
        gate.add_data("t", values)
        assert len(list(tmp_path.glob("store/a/segments/*/t/c/*"))) == n_shards
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, "a") as gate:  # with room for all
        array = gate["train"]["t"]
        rows = np.random.default_rng(0).integers(0, len(values), 3 * len(values))
        for chosen in (slice(None), slice(5, -2), rows, rows[:1], np.sort(rows), -1 - rows):
            assert (array[chosen] == values[chosen]).all()


def opened_files(directory):
    """Return the files below a directory that this process has open; a gate keeps some directories."""
    links = []
    for descriptor in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # of the listing itself, and what other threads close meanwhile
            links.append(os.readlink(f"/proc/self/fd/{descriptor}"))
    return [link for link in links if link.startswith(str(directory)) and not os.path.isdir(link)]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="looks at what is open")
@pytest.mark.parametrize("name", VALUES)
def test_errors_hold_nothing_open(store, name):
    claim(store, name, n_rows=2**16)
    gate = StoreGate("zarr", {"output_dir": store, "mode": "r"}, "a")
    kept = []
    for _ in range(3):
        with pytest.raises(CorruptStoreError) as found:
            gate.get_data(name)
        kept.append(found.value)
    deadline = time.monotonic() + 60  # chunks beside the missing one are still being read
    while opened_files(store) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert opened_files(store) == []


@pytest.mark.parametrize("what", ["link", "directory", "pipe"])
def test_durable_commits_sync_nothing_outside_of_the_root(store, tmp_path, monkeypatch, what):
    """Segments that an earlier process did not sync are synced by a later one, which follows no link out of it."""
    segment = array_path(store, "x").parent
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(b"x")
    shard = next(path for path in (segment / "x" / "c").rglob("*") if path.is_file())
    if what == "directory":
        shutil.move(segment, elsewhere / "segment")
        segment.symlink_to(elsewhere / "segment", target_is_directory=True)
    else:
        shard.unlink()
        shard.symlink_to(elsewhere / "file") if what == "link" else os.mkfifo(shard)
    synced = []
    monkeypatch.setattr(
        locations, "sync_descriptor", lambda descriptor, path: synced.append(os.fstat(descriptor).st_ino)
    )
    gate = StoreGate("zarr", {"output_dir": store, "durability": "power"}, "a")
    with pytest.raises(StoreError, match=r"link|not a file"):
        gate.shuffle("train", 1)
    outside = {path.lstat().st_ino for path in [elsewhere, *elsewhere.rglob("*")]}
    assert not outside & set(synced)


def test_sizes_are_asked_below_the_root(store, tmp_path):
    location = StoreGate("zarr", {"output_dir": store}, "a").repository().location
    shard = next(path for path in (array_path(store, "t") / "c").rglob("*") if path.is_file())
    key = str(shard.relative_to(store))
    assert sync(location.store.getsize(key)) == shard.stat().st_size
    shutil.move(shard, tmp_path / "moved")
    with pytest.raises(FileNotFoundError):
        sync(location.store.getsize(key))
    shard.symlink_to(tmp_path / "moved")
    with pytest.raises(CorruptStoreError, match="leaves the store's directory"):
        sync(location.store.getsize(key))
    shard.unlink()
    os.mkfifo(shard)
    with pytest.raises(CorruptStoreError, match="is not a file"):
        sync(location.store.getsize(key))
