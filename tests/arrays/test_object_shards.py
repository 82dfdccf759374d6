"""Shards in object stores: few requests, many under way, and nothing that an object claims is believed."""

from __future__ import annotations

import json
import threading
import uuid
from itertools import pairwise

import dask
import numpy as np
import obstore
import obstore.exceptions
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine.arrays import shard_objects
from storegate_engine.arrays import stored as arrays
from storegate_engine.arrays.shard_index import MISSING, ShardIndex, packed_index
from storegate_engine.errors import CorruptStoreError, SnapshotExpired, StoreError
from storegate_engine.streams import spilled
from tests.examples import examples

CHUNK, SHARD, N_ROWS = 16, 256, 1000
ROWS = np.random.default_rng(0).integers(0, 2**63, (N_ROWS, 8))


def stored(args):
    """Return rows of 64 bytes in 4 shards of 16 chunks of 1 kB, which do not compress."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("storegate_engine.budget.SHARD_NBYTES", 64 * SHARD)
        gate = StoreGate("zarr", {**args, "chunk": CHUNK}, "a")
        gate.add_data("x", ROWS)
    gate.compile()
    return gate


@pytest.fixture
def fresh(s3_args):
    """A gate whose shards nobody has read."""
    return stored(s3_args)


@pytest.fixture(scope="module")
def gate(new_s3_args):
    """A gate that tests leave as it is."""
    return stored(new_s3_args())


@pytest.fixture
def requests(monkeypatch):
    """Every request for bytes of objects: its kind, and the bytes."""
    found = []
    get, get_range = obstore.get, obstore.get_range

    def counted_get(store, path, **options):
        found.append(("index", path))
        return get(store, path, **options)

    def counted_range(store, path, *, start, end):
        found.append((end - start, path))
        return get_range(store, path, start=start, end=end)

    monkeypatch.setattr(obstore, "get", counted_get)
    monkeypatch.setattr(obstore, "get_range", counted_range)
    return found


def sizes_of(requests):
    return [what for what, _ in requests if what != "index"]


def keys_of(gate):
    location = gate.repository().location
    return sorted(entry.key for entry in location.entries() if "/x/c/" in f"/{entry.key}")


def location_of(gate):
    return gate.repository().location


class TestRequests:
    def test_a_row_takes_two_and_then_one(self, fresh, requests):
        gate = fresh
        np.testing.assert_array_equal(gate["train"]["x"][300], ROWS[300])
        assert [what == "index" for what, _ in requests] == [True, False]
        requests.clear()
        np.testing.assert_array_equal(gate["train"]["x"][301], ROWS[301])
        np.testing.assert_array_equal(gate["train"]["x"][511], ROWS[511])
        assert [what == "index" for what, _ in requests] == [False, False]
        assert max(sizes_of(requests)) < 2 * 64 * CHUNK

    def test_all_rows_take_an_index_and_a_range_for_each_shard(self, fresh, requests):
        np.testing.assert_array_equal(fresh["train"]["x"][...], ROWS)
        assert len(requests) == 8
        assert len(sizes_of(requests)) == 4
        assert sum(sizes_of(requests)) >= ROWS.nbytes

    def test_large_ranges_are_split_and_those_with_small_gaps_merged(self, gate, requests, monkeypatch):
        monkeypatch.setattr(shard_objects, "REQUEST_NBYTES", 5 * 1100)
        np.testing.assert_array_equal(gate["train"]["x"][:SHARD], ROWS[:SHARD])
        assert len(sizes_of(requests)) == 4
        requests.clear()
        monkeypatch.setattr(shard_objects, "GAP_NBYTES", 2 * 1100)
        rows = [0, 16 * 3, 16 * 7, 16 * 8]
        np.testing.assert_array_equal(gate["train"]["x"][rows], ROWS[rows])
        assert len(sizes_of(requests)) == 2

    def test_they_are_under_way_together(self, gate, monkeypatch):
        meeting = threading.Barrier(4, timeout=60)
        get_range = obstore.get_range

        def meeting_range(*args, **options):
            meeting.wait()
            return get_range(*args, **options)

        monkeypatch.setattr(obstore, "get_range", meeting_range)
        np.testing.assert_array_equal(gate["train"]["x"][...], ROWS)

    @pytest.mark.parametrize("order", [slice(5, 700), slice(None, None, -3), "scattered", "one chunk"])
    def test_rows_equal_numpy(self, gate, order):
        random = np.random.default_rng(1)
        index = {"scattered": random.integers(0, N_ROWS, 500), "one chunk": random.integers(0, CHUNK, 9)}
        chosen = order if isinstance(order, slice) else index[order]
        np.testing.assert_array_equal(gate["train"]["x"][chosen], ROWS[chosen])

    @pytest.mark.parametrize("compressor", ["none", "zstd"])
    def test_what_is_compressed(self, s3_args, compressor):
        gate = StoreGate("zarr", {**s3_args, "chunk": CHUNK, "compressor": compressor}, "a")
        small = (ROWS % 7).astype("i2")
        gate.add_data("x", small)
        np.testing.assert_array_equal(gate["train"]["x"][...], small)
        np.testing.assert_array_equal(gate["train"]["x"][[999, 3]], small[[999, 3]])

    @pytest.mark.parametrize("batch_rows", [2, 8])
    def test_a_uniform_epoch_fetches_hardly_more_than_all_rows(self, gate, requests, monkeypatch, batch_rows):
        monkeypatch.setattr(shard_objects, "GAP_NBYTES", 0)
        with dask.config.set({"storegate.shuffle": "exchange"}):
            stream = gate["train"]["x"].batches(batch_rows, seed=1, epochs=1, budget="64MiB")
        with stream:
            rows = np.concatenate(list(stream))
        np.testing.assert_array_equal(np.sort(rows[:, 0]), np.sort(ROWS[:, 0]))
        assert sum(sizes_of(requests)) <= (1 + spilled.PICKED_SHARE) * N_ROWS / CHUNK * (CHUNK * 64 + 20)

    def test_batches_of_every_order(self, gate):
        with gate["train"]["x"].batches(100, shuffle=False) as stream:
            np.testing.assert_array_equal(np.concatenate(list(stream)), ROWS)
        for shuffle in ("blocks", True):
            with gate["train"]["x"].batches(100, seed=1, shuffle=shuffle) as stream:
                order = stream.rows(0)
                np.testing.assert_array_equal(np.concatenate(list(stream)), ROWS[order])


class TestWrites:
    def test_zarr_python_reads_them(self, gate):
        location = location_of(gate)
        key = keys_of(gate)[0].partition("/x/c/")[0]
        stored = zarr.open_array(location.store, path=location.key(f"{key}/x"), mode="r")
        np.testing.assert_array_equal(stored[...], ROWS)

    def test_each_shard_is_one_object(self, gate):
        assert [key.partition("/x/c/")[2] for key in keys_of(gate)] == ["0/0", "1/0", "2/0", "3/0"]

    def test_what_was_read_is_verified(self, fresh):
        gate = fresh
        gate.shuffle("train", 1)
        gate.compact()
        assert not list(gate.verify().problems)
        np.testing.assert_array_equal(np.sort(gate.get_data("x"), axis=0), np.sort(ROWS, axis=0))


SLOW = pytest.mark.slow
LIES = [(0, 2**40), (MISSING, MISSING), *(pytest.param(span, marks=SLOW) for span in [(2**62, 100), (2**64 - 10, 20)])]
"""Offsets and lengths of a chunk."""


class TestDamage:
    def read(self, gate):
        return gate["train"]["x"][...]

    @pytest.fixture
    def other(self, gate):
        """The same store in other words, of which nothing is known yet."""
        location = location_of(gate)
        options = json.loads(location.options)
        options["client_options"]["user_agent"] = uuid.uuid4().hex
        return StoreGate("zarr", {"output_dir": location.url, "storage_options": options, "mode": "r"}, "a")

    @pytest.fixture
    def damaged(self, gate, other):
        """Replace the third object, and return what its error says."""
        key = keys_of(gate)[2]
        location = location_of(gate)
        content = location.read(key)

        def damage(change):
            location.write(key, change(bytearray(content)))
            with pytest.raises(CorruptStoreError) as found:
                self.read(other)
            assert "array 'x' of segment" in str(found.value)
            assert key in str(found.value)
            assert [problem.key.endswith("x/c/2/0") for problem in gate.verify().problems] == [True]
            location.write(key, content)
            np.testing.assert_array_equal(self.read(other), ROWS)
            return str(found.value)

        return damage

    def test_a_chunk(self, damaged):
        def change(content):
            content[500] ^= 1
            return bytes(content)

        assert "its checksum does not match" in damaged(change)

    def test_the_index(self, damaged):
        def change(content):
            content[-20] ^= 1
            return bytes(content)

        assert "the checksum of its index does not match" in damaged(change)

    @pytest.mark.parametrize("nbytes", [0, pytest.param(3, marks=SLOW), pytest.param(100, marks=SLOW), 5000])
    def test_a_short_one(self, damaged, nbytes):
        damaged(lambda content: bytes(content[:nbytes]))

    @pytest.mark.parametrize("span", LIES)
    def test_an_index_that_lies(self, damaged, span):
        def change(content):
            index = np.frombuffer(bytes(content[-16 * 16 - 4 : -4]), "<u8").reshape(-1, 2).copy()
            index[5] = span
            return bytes(content[: -16 * 16 - 4]) + packed_index(index)

        assert "chunk 37" in damaged(change)

    def test_a_missing_one(self, gate):
        key = keys_of(gate)[2]
        content = location_of(gate).read(key)
        location_of(gate).delete(key)
        with pytest.raises(CorruptStoreError, match=rf"{key} is missing"):
            self.read(gate)
        np.testing.assert_array_equal(gate["train"]["x"][:512], ROWS[:512])
        location_of(gate).write(key, content)

    def test_a_refusing_server_is_no_damage(self, gate, other, monkeypatch):
        def refused(store, path, **options):
            raise obstore.exceptions.PermissionDeniedError("the key has expired\n\nDebug source: ...")

        monkeypatch.setattr(obstore, "get_range", refused)
        with pytest.raises(
            StoreError, match=r"because the object store failed: s3://.* has expired; try again"
        ) as found:
            self.read(other)
        assert not isinstance(found.value, CorruptStoreError)

    def test_a_vacuumed_one(self, fresh, s3_args):
        gate = fresh
        old = StoreGate("zarr", {**s3_args, "mode": "r"}, "a")
        assert len(old["train"]["x"]) == N_ROWS
        gate.update_data("x", ROWS + 1)
        gate.vacuum(older_than=0)
        arrays.open_array.cache_clear()
        with pytest.raises(SnapshotExpired, match="was vacuumed"):
            old["train"]["x"][...]


LENGTHS = st.lists(st.integers(1, 50), min_size=1, max_size=20)


@settings(max_examples=examples(100))
@given(LENGTHS, st.integers(0, 60), st.integers(1, 200), st.randoms(use_true_random=False), st.data())
def test_merged_ranges_hold_each_chunk_once(lengths, gap, most, random, data):
    numbers = list(range(len(lengths)))
    random.shuffle(numbers)  # a shard may hold its chunks in any order
    index, end = np.empty((len(lengths), 2), "<u8"), 0
    for at in numbers:
        index[at] = end, lengths[at]
        end += lengths[at]
    parsed = ShardIndex.parse(index.reshape(-1).view("u1"), end, 50)
    wanted = data.draw(st.lists(st.sampled_from(range(len(lengths))), unique=True).map(sorted))
    groups = list(parsed.merged(wanted, gap, most))
    assert sorted(at for _, group in groups for at in group) == wanted
    for nbytes, group in groups:
        spans = sorted(parsed.span(at) for at in group)
        assert nbytes == sum(spans[-1]) - spans[0][0]
        assert len(group) == 1 or nbytes <= most
        assert all(after[0] - sum(before) <= gap for before, after in pairwise(spans))
