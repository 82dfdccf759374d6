"""Fetched shards: a range of an object is read as its pieces arrive, whatever their sizes and whatever is wanted."""

from __future__ import annotations

import contextlib
import errno
import threading
from concurrent.futures import CancelledError
from functools import partial

import dask
import numpy as np
import obstore
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine.arrays import fetching_until, reading_threads, shard_cache, shard_files, shard_objects, shards
from storegate_engine.arrays.shard_index import packed_index
from storegate_engine.arrays.shard_objects import FetchedShard, ShardObjects
from storegate_engine.budget import ROW_OVERHEAD_NBYTES
from storegate_engine.errors import CorruptStoreError, MemoryBudgetError, StoreError
from storegate_engine.locations import Location
from storegate_engine.streams import loaders, span_loaders
from tests.examples import examples

CONTENT = np.random.default_rng(0).integers(0, 256, 1000).astype("u1")
N_ROWS, CHUNK, SHARD = 1000, 16, 256
ROWS = np.random.default_rng(0).integers(0, 2**63, (N_ROWS, 8))


class InPieces(ShardObjects):
    """An object whose answers come in pieces of given sizes, the first of which may be empty."""

    def __init__(self, sizes):
        super().__init__(Location("memory://"))
        object.__setattr__(self, "sizes", sizes)
        object.__setattr__(self, "begins", [])

    def pieces(self, key, start, end):
        self.begins.append(start)
        at, end = start, min(end, len(CONTENT))
        yield b""
        for size in self.sizes * 1000:
            if at == end:
                return
            yield CONTENT[at : min(at + size, end)].tobytes()
            at = min(at + size, end)


READS = st.lists(st.tuples(st.integers(0, 990), st.lists(st.integers(0, 60), min_size=1, max_size=4)), max_size=12)


@settings(max_examples=examples(200))
@given(READS, st.lists(st.integers(1, 300), min_size=1, max_size=5), st.booleans())
def test_bytes_equal_those_of_the_object(reads, sizes, is_sorted):
    if is_sorted:
        reads = sorted(reads)
    files = InPieces(sizes)
    with FetchedShard(files, "key", len(CONTENT)) as shard:
        for start, lengths in reads:
            if len(lengths) == 1:
                if start + lengths[0] <= len(CONTENT):
                    found = shard.view(start, lengths[0], "it")
                    np.testing.assert_array_equal(found, CONTENT[start : start + lengths[0]])
                continue
            buffers = [np.zeros(length, "u1") for length in lengths]
            expected = CONTENT[start : start + sum(lengths)]
            assert shard.fill([buffer.data for buffer in buffers], start) == len(expected)
            np.testing.assert_array_equal(np.concatenate(buffers)[: len(expected)], expected)
    ends = [start + sum(lengths) for start, lengths in reads]
    if all(end <= start for end, (start, _) in zip(ends, reads[1:], strict=False)):
        assert len(files.begins) <= 1, "who does not go back is answered once"


def test_an_object_that_ends_early_is_said():
    with FetchedShard(InPieces([7]), "key", 2000) as shard, pytest.raises(CorruptStoreError, match="it is shorter"):
        shard.view(990, 20, "it")


def stored(args, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storegate_engine.budget.SHARD_NBYTES", 64 * SHARD)
        with StoreGate("zarr", {**args, "chunk": CHUNK, **options}, "a") as gate:
            gate.add_data("x", ROWS if options.get("compressor") != "zstd" else ROWS % 7)
    return {**args, "mode": "r"}


@pytest.fixture
def in_pieces(monkeypatch):
    """Let answers come in pieces that end within chunks."""
    monkeypatch.setattr(shard_objects, "PIECE_NBYTES", 700)
    monkeypatch.setattr(shard_objects, "HELD_NBYTES", 700)


@pytest.mark.parametrize("compressor", ["none", "lz4", "zstd"])
def test_rows_that_come_in_pieces_equal_numpy(s3_args, in_pieces, compressor):
    view = StoreGate("zarr", stored(s3_args, compressor=compressor), "a")["train"]["x"]
    rows = ROWS % 7 if compressor == "zstd" else ROWS
    random = np.random.default_rng(1).integers(0, N_ROWS, 500)
    for index in (slice(None), slice(5, 700), slice(None, None, -3), random, np.sort(random), [300], slice(0, 0)):
        np.testing.assert_array_equal(view[index], rows[index])
    for shuffle in (False, "blocks", True):
        with view.batches(100, shuffle=shuffle, seed=1) as stream:
            order = stream.rows(0)
            np.testing.assert_array_equal(np.concatenate(list(stream)), rows[order])


@pytest.mark.parametrize("order", ["backwards", "all at one place"])
def test_chunks_that_lie_in_any_order(s3_args, in_pieces, order):
    gate = StoreGate("zarr", stored(s3_args, compressor="none"), "a")
    location = gate.repository().location
    key = next(entry.key for entry in location.entries() if entry.key.endswith("/x/c/0/0"))
    content, n_chunks = location.read(key), SHARD // CHUNK
    nbytes = (len(content) - 16 * n_chunks - 4) // n_chunks
    chunks = [content[at * nbytes : (at + 1) * nbytes] for at in range(n_chunks)]
    numbers = list(reversed(range(n_chunks))) if order == "backwards" else [3] * n_chunks
    places = np.array([[(n_chunks - 1 - at) * nbytes, nbytes] for at in range(n_chunks)], "<u8")
    if order == "all at one place":
        places[:] = 3 * nbytes, nbytes
        numbers = range(n_chunks)
    location.write(key, b"".join(chunks[at] for at in numbers) + packed_index(places))
    expected = ROWS[:SHARD] if order == "backwards" else np.tile(ROWS[3 * CHUNK : 4 * CHUNK], (n_chunks, 1))
    view = StoreGate("zarr", {**s3_args, "mode": "r"}, "a")["train"]["x"]
    np.testing.assert_array_equal(view[:SHARD], expected)
    np.testing.assert_array_equal(view[SHARD - 1 :: -1][:SHARD], expected[::-1])


def test_a_loop_in_order_has_the_requests_of_several_loads_under_way(s3_args, monkeypatch):
    args = stored(s3_args, compressor="none")
    monkeypatch.setattr(span_loaders, "REMOTE_RUN_NBYTES", (64 + ROW_OVERHEAD_NBYTES) * SHARD // 2)
    monkeypatch.setattr(shard_objects, "REQUEST_NBYTES", 2 * (64 * CHUNK + 4))
    monkeypatch.setattr(shard_objects, "GAP_NBYTES", 0)
    view = StoreGate("zarr", args, "a")["train"]["x"]
    meeting, get_range = threading.Barrier(16, timeout=60), obstore.get_range

    def meeting_range(store, path, **options):
        if path.endswith(("/2/0", "/3/0")):  # the last loads, of 16 requests together
            meeting.wait()
        return get_range(store, path, **options)

    monkeypatch.setattr(obstore, "get_range", meeting_range)
    with view.batches(32, shuffle=False, budget="64MiB") as stream:
        np.testing.assert_array_equal(np.concatenate(list(stream)), ROWS)
    assert not meeting.broken


def test_the_first_batch_waits_for_a_small_load(s3_args, monkeypatch):
    args = stored(s3_args, compressor="none")
    monkeypatch.setattr(span_loaders, "REMOTE_RUN_NBYTES", (64 + ROW_OVERHEAD_NBYTES) * 2 * SHARD)
    monkeypatch.setattr(shard_objects, "REQUEST_NBYTES", 64 * CHUNK)
    begun, get_range = [], obstore.get_range
    monkeypatch.setattr(obstore, "get_range", lambda *args, **options: begun.append(1) or get_range(*args, **options))
    with StoreGate("zarr", args, "a")["train"]["x"].batches(32, shuffle=False, budget="64MiB") as stream:
        loop = iter(stream)
        np.testing.assert_array_equal(next(loop), ROWS[:32])
        n_chunks = 2 * SHARD // CHUNK // span_loaders.FIRST_PARTS
        assert len(begun) <= 3 * n_chunks, "those of the first load, and of the second, which is twice as large"
        np.testing.assert_array_equal(np.concatenate(list(loop)), ROWS[32:])


def test_the_memory_of_requests_is_bounded(s3_args, monkeypatch):
    # of a chunk, and of a piece that was read with the one that comes
    monkeypatch.setattr(shard_objects, "HELD_NBYTES", 3_000)
    monkeypatch.setattr(reading_threads, "FETCHED_NBYTES", 9_000)
    monkeypatch.setattr(shard_objects, "REQUEST_NBYTES", 4_000)
    monkeypatch.setattr(shard_objects, "GAP_NBYTES", 0)
    view = StoreGate("zarr", stored(s3_args, compressor="none"), "a")["train"]["x"]
    pieces, lock, running, most = ShardObjects.pieces, threading.Lock(), [], []

    def counted_pieces(self, key, start, end):
        held = min(end - start, 3_000) + 64 * CHUNK
        with lock:
            running.append(held)
            most.append(sum(running))
        try:
            yield from pieces(self, key, start, end)
        finally:
            with lock:
                running.remove(held)

    monkeypatch.setattr(ShardObjects, "pieces", counted_pieces)
    np.testing.assert_array_equal(view[...], ROWS)
    assert 8_000 < max(most) <= 9_000


def test_threads_keep_little_memory(s3_args, monkeypatch):
    kept, trim = [], shards.trim_workspace

    def trimmed(nbytes):
        trim(nbytes)
        kept.append(shard_files.thread_workspace("chunks", 1).base.nbytes)

    monkeypatch.setattr(shards, "KEPT_NBYTES", 900)
    monkeypatch.setattr(shards, "trim_workspace", trimmed)
    view = StoreGate("zarr", stored(s3_args, compressor="zstd"), "a")["train"]["x"]
    np.testing.assert_array_equal(view[::17], (ROWS % 7)[::17])
    assert kept == [1] * 4, "new memory, not that of a chunk"


def test_more_loads_ahead_do_not_need_a_larger_budget(s3_args, monkeypatch):
    gate = StoreGate("zarr", {**s3_args, "chunk": 2}, "a")
    gate.add_data("x", np.zeros((100, 2**16), "u1"))

    def accepted(n_loads):
        monkeypatch.setattr(span_loaders, "REMOTE_LOADS", n_loads)
        for budget in range(2**20, 30 * 2**20, 2**18):
            with contextlib.suppress(MemoryBudgetError), gate["train"]["x"].batches(8, shuffle=False, budget=budget):
                yield budget

    budgets = list(accepted(1))
    assert 10 < len(budgets) < 110
    assert list(accepted(2)) == budgets


class TestCopies:
    @pytest.fixture
    def cached(self, s3_args, in_pieces, tmp_path):
        args = stored(s3_args)
        with dask.config.set({"storegate.cache-directory": str(tmp_path / "cache")}):
            yield partial(StoreGate, "zarr", args, "a"), tmp_path / "cache"

    def test_a_disk_that_is_full_within_a_copy(self, cached, monkeypatch, caplog):
        opened, place = cached
        write_all, pieces = shard_cache.write_all, ShardObjects.pieces

        def full(file, *contents):
            if file.tell() >= 1000:
                raise OSError(errno.ENOSPC, "No space left on device")
            write_all(file, *contents)

        def small(self, key, start, end):
            for piece in pieces(self, key, start, end):
                yield from (bytes(piece)[at : at + 500] for at in range(0, len(piece), 500))

        monkeypatch.setattr(shard_cache, "write_all", full)
        monkeypatch.setattr(ShardObjects, "pieces", small)
        np.testing.assert_array_equal(opened()["train"]["x"][...], ROWS)
        assert list(place.iterdir()) == []
        assert [record.message for record in caplog.records if "No space left" in record.message]
        monkeypatch.undo()
        np.testing.assert_array_equal(opened()["train"]["x"][...], ROWS)
        assert len(list(place.glob("*.shard"))) == 4

    def test_a_server_that_fails_within_a_copy(self, cached, monkeypatch):
        opened, place = cached
        pieces = ShardObjects.pieces

        def broken(self, key, start, end):
            yield next(pieces(self, key, start, end))
            raise OSError("the connection was closed")

        view = opened()["train"]["x"]
        with monkeypatch.context() as patch:
            patch.setattr(ShardObjects, "pieces", broken)
            with pytest.raises(StoreError, match="the connection was closed"):
                view[...]
        assert list(place.iterdir()) == []
        np.testing.assert_array_equal(view[...], ROWS)

    def test_an_object_that_ends_early_is_not_kept(self, cached):
        cache = shard_cache.ShardCache(cached[1], 10**6)
        path = cache.path(Location("s3://bucket/store"), "key")
        assert not cache.put(path, 100, [bytes(40), bytes(59)])
        assert cache.put(path, 100, [bytes(40), bytes(60)])
        assert path.stat().st_size == 100
        assert list(cached[1].iterdir()) == [path]


class TestLeaving:
    def test_requests_that_nobody_waits_for_are_not_begun(self, monkeypatch):
        monkeypatch.setattr(reading_threads, "FETCHED_NBYTES", 10)
        stopping, begun, found = threading.Event(), [], []

        def task():
            begun.append(1)
            if len(begun) >= 5:
                stopping.set()
            stopping.wait(60)

        def fetch():
            try:
                with fetching_until(stopping):
                    reading_threads.run_fetches([(1, task)] * 100)
            except CancelledError as err:
                found.append(err)

        thread = threading.Thread(target=fetch)
        thread.start()
        thread.join()
        assert found
        assert 5 <= len(begun) <= 10
        reading_threads.run_fetches([(1, lambda: begun.append(2))] * 3)  # of a caller without a loop
        assert begun.count(2) == 3

    def test_a_loop_that_was_left_waits_for_no_answer_but_its_transforms_do(self):
        with loaders.Threads(1, 1) as threads:
            threads.stopping.set()
            with pytest.raises(CancelledError):
                threads.loads.submit(threads.wanted(reading_threads.require_wanted)).result()
            with pytest.raises(CancelledError):
                threads.run(iter([reading_threads.require_wanted] * 2))
            threads.reads.submit(reading_threads.require_wanted).result()  # as transforms are

    def test_what_is_given_up_is_no_error_of_the_store(self, s3_args, in_pieces, monkeypatch):
        view = StoreGate("zarr", stored(s3_args), "a")["train"]["x"]
        view[:1]  # the index of the first shard is known
        stopping, asked, get = threading.Event(), [], obstore.get
        stopping.set()
        monkeypatch.setattr(obstore, "get", lambda *args, **options: asked.append(args[1]) or get(*args, **options))
        with pytest.raises(CancelledError), fetching_until(stopping):
            view[:SHARD]
        assert asked in ([], [key for key in asked if "/x/c/0/0" in f"/{key}"])
        asked.clear()
        np.testing.assert_array_equal(view[:10], ROWS[:10])
        assert len(asked) == 1, "the index is still known"

    def test_an_answer_ends_with_the_piece_that_has_come(self, s3_args, in_pieces):
        args = stored(s3_args, compressor="none")
        location = StoreGate("zarr", args, "a").repository().location
        key = next(entry.key for entry in location.entries() if entry.key.endswith("/x/c/0/0"))
        stopping, found = threading.Event(), []

        def fetch():
            pieces = ShardObjects(location).pieces(key, 0, 64 * SHARD)
            try:
                with fetching_until(stopping):
                    found.append(len(next(pieces)))
                    stopping.set()
                    next(pieces)
            except CancelledError as err:
                found.append(err)

        thread = threading.Thread(target=fetch)
        thread.start()
        thread.join()
        assert found[0] >= 700
        assert isinstance(found[1], CancelledError)
