"""The cache of shards: nothing is fetched twice, a damaged copy is fetched again, and the limit holds."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import threading

import dask
import numpy as np
import obstore
import pytest

from storegate import StoreGate
from storegate_engine.arrays.shard_cache import ShardCache
from storegate_engine.errors import ArgumentError, CorruptStoreError
from storegate_engine.locations import Location

SHARD, N_ROWS = 256, 2000
ROWS = np.random.default_rng(0).integers(0, 2**63, (N_ROWS, 8))


@pytest.fixture
def place(tmp_path):
    with dask.config.set({"storegate.cache-directory": str(tmp_path / "cache")}):
        yield tmp_path / "cache"


def stored(args):
    """Write rows of 64 bytes in 8 shards of 256."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storegate_engine.budget.SHARD_NBYTES", 64 * SHARD)
        with StoreGate("zarr", {**args, "chunk": 2}, "a") as gate:
            gate.add_data("x", ROWS)
    return {**args, "mode": "r"}


@pytest.fixture(scope="module")
def args(new_s3_args):
    """A store that tests leave as it is."""
    return stored(new_s3_args())


@pytest.fixture
def requests(monkeypatch):
    found = []
    for name in ("get", "get_range"):
        original = getattr(obstore, name)

        def counted(store, path, original=original, name=name, **options):
            found.append((name, path))
            return original(store, path, **options)

        monkeypatch.setattr(obstore, name, counted)
    return found


def read(args):
    return StoreGate("zarr", args, "a")["train"]["x"][...]


def copies(place):
    return sorted(place.glob("*.shard"))


def test_a_second_read_fetches_nothing(args, place, requests):
    np.testing.assert_array_equal(read(args), ROWS)
    assert len(copies(place)) == 8
    assert place.stat().st_mode & 0o77 == 0
    requests.clear()
    np.testing.assert_array_equal(read(args), ROWS)
    view = StoreGate("zarr", args, "a")["train"]["x"]
    np.testing.assert_array_equal(view[[1999, 3, 700]], ROWS[[1999, 3, 700]])
    for shuffle in (False, "blocks", True):
        with view.batches(100, shuffle=shuffle, seed=1) as stream:
            rows = stream.rows(0)
            np.testing.assert_array_equal(np.concatenate(list(stream)), ROWS[rows])
    assert requests == []


def test_a_row_alone_is_not_worth_a_copy(s3_args, place, requests):
    args = stored(s3_args)
    np.testing.assert_array_equal(StoreGate("zarr", args, "a")["train"]["x"][300], ROWS[300])
    assert not copies(place)
    assert len(requests) == 2


@pytest.mark.parametrize("damage", ["a chunk", "the index", "its end", "everything", "no content"])
def test_a_damaged_copy_is_fetched_again(args, place, requests, damage):
    read(args)
    requests.clear()
    changed = copies(place)[3]
    content = bytearray(changed.read_bytes())
    if damage in ("a chunk", "the index"):
        content[500 if damage == "a chunk" else -30] ^= 1
    found = {"its end": content[:-100], "everything": os.urandom(len(content)), "no content": b""}.get(damage, content)
    changed.write_bytes(found)
    np.testing.assert_array_equal(read(args), ROWS)
    assert 1 <= len(requests) <= 3
    assert len(copies(place)) == 8
    requests.clear()
    np.testing.assert_array_equal(read(args), ROWS)
    assert requests == []


def test_what_is_damaged_in_the_store_is_found_past_the_copies(s3_args, place):
    args = stored(s3_args)
    read(args)
    location = StoreGate("zarr", args, "a").repository().location
    key = next(entry.key for entry in location.entries() if entry.key.endswith("x/c/2/0"))
    content = bytearray(location.read(key))
    content[500] ^= 1
    location.write(key, bytes(content))
    np.testing.assert_array_equal(read(args), ROWS)
    problems = StoreGate("zarr", args, "a").verify().problems
    assert [row.key.endswith("x/c/2/0") for row in problems] == [True]
    for copy in copies(place):
        copy.unlink()
    with pytest.raises(CorruptStoreError, match="its checksum does not match"):
        read(args)


def test_what_was_used_least_recently_goes_first(tmp_path):
    cache = ShardCache(tmp_path / "cache", 100_000)
    place = Location("s3://bucket/store")
    for at in range(20):
        path = cache.path(place, f"{at}")
        cache.put(path, 10_000, [bytes(10_000)])
        os.utime(path, ns=(at, at))
        os.utime(cache.path(place, "0"), ns=(10**9, 0))
    names = {path.name for path in copies(tmp_path / "cache")}
    assert sum(path.stat().st_size for path in copies(tmp_path / "cache")) <= 100_000
    assert {cache.path(place, name).name for name in ("0", "18", "19")} <= names
    cache.put(cache.path(place, "large"), 100_001, [bytes(100_001)])
    assert cache.path(place, "large").name not in {path.name for path in copies(tmp_path / "cache")}


def test_copies_of_several_stores_and_servers_are_apart(tmp_path):
    cache = ShardCache(tmp_path, 100)

    def named(url, key="k", **options):
        return cache.path(Location(url, options=json.dumps(options)), key).name

    first = named("s3://a", endpoint="http://one", secret_access_key="x")
    assert first == named("s3://a", endpoint="http://one", secret_access_key="rotated", session_token="new")
    assert len({first, named("s3://b", endpoint="http://one"), named("s3://a", endpoint="http://two")}) == 3
    assert named("s3://a/b", "c") == named("s3://a/b", "c") != named("s3://a/b", "d")


def test_a_directory_that_cannot_be_written_is_reported_once(args, tmp_path, caplog):
    (tmp_path / "file").write_bytes(b"")
    with dask.config.set({"storegate.cache-directory": str(tmp_path / "file" / "cache")}):
        np.testing.assert_array_equal(read(args), ROWS)
    reports = [record.message for record in caplog.records if "storegate.cache-directory" in record.message]
    assert len(reports) == 1
    assert "cannot be written" in reports[0]


def test_a_limit_that_is_no_size_is_refused(args, place):
    with dask.config.set({"storegate.cache-limit": "much"}), pytest.raises(ArgumentError, match="number of bytes"):
        read(args)


def keep(directory, number, n_rounds):
    cache = ShardCache(directory, 50_000)
    for at in range(n_rounds):
        content = np.random.default_rng(at % 20).bytes(5_000)
        path = cache.path(Location("s3://bucket/store"), f"{at % 20}")
        if path.exists():
            with contextlib.suppress(FileNotFoundError):  # another process has removed it
                assert path.read_bytes() == content
        else:
            cache.put(path, len(content), [content])


@pytest.mark.slow
def test_processes_share_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=keep, args=(tmp_path / "cache", number, 200)) for number in range(2)]
    for worker in workers:
        worker.start()
    keep(tmp_path / "cache", 2, 200)
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert not list((tmp_path / "cache").glob("*.partial"))
    assert sum(path.stat().st_size for path in copies(tmp_path / "cache")) <= 50_000 + 2 * 5_000


def test_threads_share_it(args, place, requests):
    found = []
    view = StoreGate("zarr", args, "a")["train"]["x"]
    threads = [threading.Thread(target=lambda: found.append(view[...])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert sum(name == "get_range" for name, _ in requests) == 8
    for rows in found:
        np.testing.assert_array_equal(rows, ROWS)


def test_a_directory_that_is_no_path_is_named(args):
    gate = StoreGate("zarr", args, "a")
    with dask.config.set({"storegate.cache-directory": 5}), pytest.raises(ArgumentError, match="cache-directory.*5"):
        gate["train"]["x"][:10]
