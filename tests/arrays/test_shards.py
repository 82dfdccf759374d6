"""Shards: what is read equals what zarr-python reads of the same files, and nothing that a file claims is believed."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from storegate_engine.arrays import frames
from storegate_engine.arrays import shards as module
from storegate_engine.arrays.shard_files import LocalFiles
from storegate_engine.arrays.shards import Shards, shards_of
from storegate_engine.buffers import crc32c
from storegate_engine.errors import CorruptStoreError
from tests.examples import examples, in_turns

COMPRESSORS = {
    "none": (),
    "lz4": (BloscCodec(cname="lz4", shuffle="shuffle"), Crc32cCodec()),
    "bitshuffle": (BloscCodec(cname="zstd", shuffle="bitshuffle"), Crc32cCodec()),
    "zstd": (ZstdCodec(level=1), Crc32cCodec()),
    "crc32c": (Crc32cCodec(),),
}
CHUNK, SHARD = 8, 32


def write(path: Path, rows: np.ndarray, compressors: tuple = COMPRESSORS["lz4"], shard: int = SHARD) -> zarr.Array:
    tail = rows.shape[1:]
    array = zarr.create_array(
        path,
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=(CHUNK, *tail),
        shards=(shard, *tail),
        compressors=compressors,
        config={"write_empty_chunks": True},
    )
    array[...] = rows
    return array


def files_at(path: Path) -> LocalFiles:
    return LocalFiles(str(path), str(path))


def opened(path: Path, shard: int = SHARD) -> Shards:
    found = shards_of(files_at(path), json.loads((path / "zarr.json").read_text()), CHUNK, shard)
    assert found is not None
    return found


def values(n_rows: int, dtype: str, row_shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(n_rows).integers(0, 100, (n_rows, *row_shape)).astype(dtype)


def noise(rows: np.ndarray) -> np.ndarray:
    """Return rows of the same shape and dtype that no codec shortens, from random bits."""
    return np.frombuffer(np.random.default_rng(7).bytes(rows.nbytes), rows.dtype).reshape(rows.shape).copy()


def stored_nbytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("c/**/*") if file.is_file())


@pytest.fixture(params=COMPRESSORS)
def compressors(request: pytest.FixtureRequest) -> tuple:
    return COMPRESSORS[request.param]


@pytest.mark.parametrize("dtype", ["bool", "i1", "u2", "f2", "f4", "i8", "c16"])
def test_every_dtype_and_codec_reads_as_zarr_python_does(tmp_path, compressors, dtype):
    rows = values(75, dtype, (2, 3))
    array = write(tmp_path / "a", rows, compressors)
    out = np.empty_like(rows)
    opened(tmp_path / "a").read_into(0, 75, out)
    np.testing.assert_array_equal(out, array[...])


@pytest.mark.parametrize(
    ("compressors", "dtype"),
    in_turns(COMPRESSORS, ["bool", "i1", "u2", "f2", "f4", "i8", "c16"]),
    indirect=["compressors"],
)
def test_zarr_python_reads_what_is_written(tmp_path, compressors, dtype):
    rows = values(75, dtype, (2, 3))
    array = write(tmp_path / "a", np.zeros_like(rows), compressors)
    shards = opened(tmp_path / "a")
    for shard, lo in enumerate(range(0, 75, SHARD)):
        shards.write(shard, rows[lo : lo + SHARD, :, :])
    np.testing.assert_array_equal(array[...], rows)
    assert not list(tmp_path.rglob("*.partial"))


class TestPlain:
    """Rows that a codec would hardly shorten are stored as they are, in frames that every reader of blosc knows."""

    @pytest.fixture
    def rows(self) -> np.ndarray:
        return noise(np.empty((75, 50), "u4"))

    def rewrite(self, path: Path, rows: np.ndarray, compressors: tuple = COMPRESSORS["lz4"]) -> zarr.Array:
        array = write(path, np.zeros_like(rows), compressors)
        for shard, lo in enumerate(range(0, len(rows), SHARD)):
            opened(path).write(shard, rows[lo : lo + SHARD])
        return array

    @pytest.mark.parametrize("has_preadv", [True, False])
    def test_read_by_everybody(self, tmp_path, compressors, rows, has_preadv, monkeypatch):
        array = self.rewrite(tmp_path / "a", rows, compressors)
        np.testing.assert_array_equal(array[...], rows)
        if not has_preadv:
            monkeypatch.delattr(os, "preadv", raising=False)
        for start, stop in [(0, 75), (3, 70), (8, 16), (9, 15), (30, 34)]:
            out = np.empty_like(rows[start:stop])
            opened(tmp_path / "a").read_into(start, stop, out)
            np.testing.assert_array_equal(out, rows[start:stop])

    def test_what_saves_less_than_an_eighth_is_not_compressed(self, tmp_path):
        saving = {}
        for kept in (24, 28, 30):  # bits of 32 that are noise
            rows = noise(np.empty((64, 4096), "u4")) >> np.uint32(32 - kept)
            self.rewrite(tmp_path / f"{kept}", rows)
            saving[kept] = 1 - stored_nbytes(tmp_path / f"{kept}") / rows.nbytes
        assert saving[24] == pytest.approx(1 / 4, abs=0.01)
        assert saving[28] == pytest.approx(0, abs=0.001)
        assert saving[30] == pytest.approx(0, abs=0.001)

    def test_one_chunk_in_sixteen_decides_for_a_shard(self, tmp_path, monkeypatch):
        compressed = []
        compress = frames.blosc.compress
        monkeypatch.setattr(frames.blosc, "compress", lambda *args: compressed.append(1) or compress(*args))
        path, rows = tmp_path / "a", noise(np.empty((256, 50), "u4"))
        write(path, np.zeros_like(rows), shard=256)
        compressed.clear()
        frames.blosc_head.cache_clear()
        opened(path, 256).write(0, rows)
        assert len(compressed) == 32 / 16 + 1, "and one for the header"
        rows[16 * CHUNK : 17 * CHUNK] = 0  # the second chunk that is tried
        rows[-CHUNK:] = 0
        opened(path, 256).write(0, rows)
        out = np.empty_like(rows)
        opened(path, 256).read_into(0, 256, out)
        np.testing.assert_array_equal(out, rows)
        assert stored_nbytes(path) < 31 * CHUNK * 200

    def test_a_compressed_frame_of_the_same_length(self, tmp_path):
        """Blosc keeps what it shortened by as much as its tables take: nothing tells it apart but its header."""
        shape = (CHUNK, 512)
        for zeros in range(1, 400):
            chunk = noise(np.empty(shape, "u1"))
            chunk.reshape(-1)[:zeros] = 0
            frame = frames.blosc.compress(chunk, b"lz4", 5, 0)
            if len(frame) == chunk.nbytes + 16 and not frame[2] & 2:
                break
        else:
            pytest.fail("no such frame was found")
        array = write(tmp_path / "a", np.concatenate([chunk] * 4), (BloscCodec(cname="lz4", shuffle="noshuffle"),))
        assert stored_nbytes(tmp_path / "a") == 4 * (chunk.nbytes + 16) + 68
        out = np.empty((SHARD, 512), "u1")
        opened(tmp_path / "a").read_into(0, SHARD, out)
        np.testing.assert_array_equal(out, array[...])

    @pytest.mark.parametrize("at", [0, 2, 5, 13, 100, 16 + 1600, 16 + 1603])
    def test_a_flipped_byte_is_found(self, tmp_path, rows, at):
        self.rewrite(tmp_path / "a", rows)
        shard = tmp_path / "a" / "c" / "0" / "0"
        content = bytearray(shard.read_bytes())
        content[at] ^= 2
        shard.write_bytes(content)
        with pytest.raises(CorruptStoreError, match=r"chunk 0 of .*c/0/0 is not what was written: (?!None)\w"):
            opened(tmp_path / "a").read_into(0, 32, np.empty_like(rows[:32]))


def test_a_shard_that_cannot_be_written_leaves_no_part_of_it(tmp_path, monkeypatch):
    rows = values(32, "f4", (3,))
    write(tmp_path / "a", rows)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        opened(tmp_path / "a").write(0, rows + 1)
    monkeypatch.undo()
    out = np.empty_like(rows)
    opened(tmp_path / "a").read_into(0, 32, out)
    np.testing.assert_array_equal(out, rows)
    assert len(list((tmp_path / "a" / "c" / "0").iterdir())) == 1


@settings(max_examples=examples(60), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_ranges_and_rows_equal_numpy(tmp_path, data, monkeypatch):
    n_rows = data.draw(st.integers(1, 200))
    row_shape = data.draw(st.sampled_from([(), (3,), (2, 2)]))
    fewest, most = sorted(data.draw(st.lists(st.sampled_from([1, 300, 2**21]), min_size=2, max_size=2)))
    monkeypatch.setattr(module, "TASK_NBYTES", (fewest, most))
    monkeypatch.setattr(module, "READ_NBYTES", data.draw(st.sampled_from([1, 400, 2**18])))
    monkeypatch.setattr(module, "PLAIN_NBYTES", data.draw(st.sampled_from([1, 400, 2**20])))
    monkeypatch.setattr(module, "MOST_CHUNKS", data.draw(st.sampled_from([1, 3, 256])))
    rows = values(n_rows, "f4", row_shape)
    if data.draw(st.booleans(), label="noise"):
        rows = noise(rows)
    shutil.rmtree(tmp_path / "a", ignore_errors=True)
    write(tmp_path / "a", rows)
    shards = opened(tmp_path / "a")
    start = data.draw(st.integers(0, n_rows - 1))
    stop = data.draw(st.integers(start + 1, n_rows))
    out = np.empty((stop - start, *row_shape), "f4")
    shards.read_into(start, stop, out)
    np.testing.assert_array_equal(out, rows[start:stop])
    spans, n_placed = [], 0
    for _ in range(data.draw(st.integers(1, 6), label="spans")):  # in any order, some of them twice
        start = data.draw(st.integers(0, n_rows - 1))
        stop = data.draw(st.integers(start + 1, n_rows))
        spans.append((start, stop, n_placed))
        n_placed += stop - start
    out = np.empty((n_placed, *row_shape), "f4")
    shards.read_spans(spans, out)
    np.testing.assert_array_equal(out, np.concatenate([rows[start:stop] for start, stop, _ in spans]))
    index = np.array(data.draw(st.lists(st.integers(0, n_rows - 1), min_size=1, max_size=60)), np.int64)
    out = np.empty((len(index), *row_shape), "f4")
    shards.take_into(index, out)
    np.testing.assert_array_equal(out, rows[index])


def test_a_chunk_that_many_spans_touch_is_decoded_once(tmp_path, monkeypatch):
    rows = values(96, "f4", (2,))
    write(tmp_path / "a", rows)
    read = []
    original = Shards.read_chunks
    monkeypatch.setattr(
        Shards, "read_chunks", lambda self, chunks, *a: read.extend(chunks) or original(self, chunks, *a)
    )
    out = np.empty((24, 2), "f4")
    opened(tmp_path / "a").read_spans(
        [(at, at + 2, place) for place, at in zip(range(0, 24, 2), range(12, 60, 4), strict=True)], out
    )
    np.testing.assert_array_equal(out, np.concatenate([rows[at : at + 2] for at in range(12, 60, 4)]))
    assert read == [1, 2, 3, 4, 5, 6, 7]


def test_what_will_be_read_is_announced_where_it_lies(tmp_path, monkeypatch):
    write(tmp_path / "a", noise(np.empty((96, 50), "u4")))
    announced = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *span: announced.append(span[:2]), raising=False)
    frame = 16 + CHUNK * 200 + 4
    opened(tmp_path / "a").will_read([(0, 8), (20, 40), (90, 96)])
    assert announced == [(0, frame), (2 * frame, 2 * frame), (0, frame), (3 * frame, frame)]
    (tmp_path / "a" / "c" / "0" / "0").unlink()
    opened(tmp_path / "a").will_read([(0, 96)])  # a hint: reading them will tell


class TestOthersAreLeft:
    def test_an_array_of_another_codec_or_layout(self, tmp_path):
        rows = values(64, "f4", ())
        write(tmp_path / "gzip", rows, (GzipCodec(),))
        zarr.create_array(tmp_path / "plain", data=rows, chunks=(CHUNK,))
        for name in ("gzip", "plain"):
            assert shards_of(files_at(tmp_path / name), read_json(tmp_path / name), CHUNK, SHARD) is None

    def test_chunks_that_are_not_as_the_manifest_says(self, tmp_path):
        write(tmp_path / "a", values(64, "f4", ()))
        assert shards_of(files_at(tmp_path / "a"), read_json(tmp_path / "a"), CHUNK // 2, SHARD) is None

    def test_metadata_that_is_none(self, tmp_path):
        for metadata in ({}, {"data_type": "float32"}, {"codecs": 3, "shape": [1], "data_type": "f4"}):
            assert shards_of(files_at(tmp_path), metadata, CHUNK, SHARD) is None


class TestLies:
    """A chunk that lies is told from one that is right before anything is decoded into its place."""

    @pytest.fixture(params=["in order", "here and there"])
    def shard(self, tmp_path, request) -> Path:
        self.is_in_order = request.param == "in order"
        write(tmp_path / "a", values(32, "f4", (4,)), (BloscCodec(cname="lz4", shuffle="shuffle"),))
        return tmp_path / "a" / "c" / "0" / "0"

    def read(self, shard: Path) -> None:
        shards = opened(shard.parents[2])
        if self.is_in_order:
            shards.read_into(0, 32, np.empty((32, 4), "f4"))
        else:
            shards.take_into(np.arange(0, 32, 8), np.empty((4, 4), "f4"))

    def change(self, shard: Path, at: int, content: bytes) -> None:
        found = bytearray(shard.read_bytes())
        found[at : at + len(content)] = content
        shard.write_bytes(found)

    def reseal(self, shard: Path, entry: int, begin: int, nbytes: int) -> None:
        found = shard.read_bytes()
        index = np.frombuffer(found[-68:-4], "<u8").reshape(4, 2).copy()
        index[entry] = begin, nbytes
        content = index.tobytes()
        shard.write_bytes(found[:-68] + content + crc32c(content).to_bytes(4, "little"))

    def test_as_written(self, shard):
        self.read(shard)

    @pytest.mark.parametrize("field", [4, 12])
    def test_a_blosc_header_that_names_another_length(self, shard, field):
        self.change(shard, field, (10**9).to_bytes(4, "little"))
        with pytest.raises(CorruptStoreError, match=r"chunk 0 of .*c/0/0 is not what was written: (?!None)\w"):
            self.read(shard)

    def test_an_index_that_was_changed(self, shard):
        self.change(shard, shard.stat().st_size - 30, b"\xff")
        with pytest.raises(CorruptStoreError, match="checksum of its index"):
            self.read(shard)

    def test_an_index_that_points_beyond_the_file(self, shard):
        self.reseal(shard, 2, 10**12, 100)
        with pytest.raises(CorruptStoreError, match="shorter than what was written"):
            self.read(shard)

    def test_an_index_that_claims_a_huge_chunk(self, shard):
        self.reseal(shard, 2, 0, 2**60)
        with pytest.raises(CorruptStoreError, match="chunk 2 of .* claims"):
            self.read(shard)

    def test_a_chunk_that_was_never_written(self, shard):
        self.reseal(shard, 3, 2**64 - 1, 2**64 - 1)
        with pytest.raises(CorruptStoreError, match="chunk 3 is missing"):
            self.read(shard)

    def test_a_chunk_shorter_than_a_header(self, shard):
        self.reseal(shard, 1, 0, 3)
        with pytest.raises(CorruptStoreError, match="chunk 1 of"):
            self.read(shard)

    def test_a_file_cut_short(self, shard):
        shard.write_bytes(shard.read_bytes()[:20])
        with pytest.raises(CorruptStoreError, match="shorter"):
            self.read(shard)


def test_zstd_frames_that_claim_another_length(tmp_path):
    write(tmp_path / "a", values(32, "f4", (4,)), (ZstdCodec(level=1),))
    shard = tmp_path / "a" / "c" / "0" / "0"
    content = bytearray(shard.read_bytes())
    assert content[4] >> 5 == 1, "one byte of length, at 5"
    content[5] ^= 1
    shard.write_bytes(content)
    with pytest.raises(CorruptStoreError, match="chunk 0"):
        opened(tmp_path / "a").read_into(0, 32, np.empty((32, 4), "f4"))


def read_json(path: Path) -> dict:
    return json.loads((path / "zarr.json").read_text())


def test_rows_are_read_in_the_thread_that_asks_where_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TASK_NBYTES", (64, 64))
    rows = values(320, "f4", (2,))
    write(tmp_path / "a", rows)
    shards = opened(tmp_path / "a")
    threads = set()
    original = Shards.read_wanted
    monkeypatch.setattr(
        Shards, "read_wanted", lambda self, *a: threads.add(threading.get_ident()) or original(self, *a)
    )
    out = np.empty_like(rows)
    shards.read_into(0, 320, out, alone=True)
    np.testing.assert_array_equal(out, rows)
    assert threads == {threading.get_ident()}
    threads.clear()
    shards.read_into(0, 320, out)
    assert threading.get_ident() not in threads
