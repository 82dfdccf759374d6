"""Guards: what zarr-python reads is looked at before a codec sees it, at URLs as on a file system."""

from __future__ import annotations

import functools
import gzip
import struct

import numcodecs
import numpy as np
import pytest
from crc32c import crc32c
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from storegate import StoreGate
from storegate_engine.arrays import guards
from storegate_engine.errors import CorruptStoreError
from tests.examples import in_turns

CHUNK, N_CHUNKS = 64, 4
ROWS = np.random.default_rng(0).random((CHUNK * N_CHUNKS, 128))
ENCODERS = {
    "lz4": lambda content: numcodecs.Blosc("zstd", 9, shuffle=0).encode(content),
    "zstd": lambda content: numcodecs.Zstd(3).encode(content),
    "gzip": gzip.compress,
}
SELECTIONS = {"all": slice(None), "one chunk": slice(0, 3), "some rows": [1, 70, 200], "one row": 5}


@pytest.fixture(params=ENCODERS)
def compressor(request):
    return request.param


@pytest.fixture
def gate(tmp_path, compressor, request):
    codec = numcodecs.GZip(1) if compressor == "gzip" else compressor
    args = {"output_dir": f"memory://{abs(hash(request.node.nodeid))}", "chunk": CHUNK, "compressor": codec}
    with StoreGate("zarr", args, "a") as opened:
        opened.add_data("x", ROWS)
        yield opened


def shard_key(gate):
    location = gate.repository().location

    async def keys():
        return [key async for key in location.store.list_prefix(location.prefix)]

    return next(key for key in sync(keys()) if "/c/" in key)


def replace_shard(gate, change):
    """Give the one shard another content, and the index of another first chunk."""
    store, key = gate.repository().location.store, shard_key(gate)
    prototype = default_buffer_prototype()
    content = sync(store.get(key, prototype)).to_bytes()
    sync(store.set(key, prototype.buffer.from_bytes(change(content))))


def with_first_chunk(chunk, *, claimed=None):
    def change(content):
        index = np.frombuffer(content[-(16 * N_CHUNKS + 4) : -4], "<u8").reshape(N_CHUNKS, 2).copy()
        sealed = chunk + struct.pack("<I", crc32c(chunk))
        body = content[: -(16 * N_CHUNKS + 4)]
        index[0] = len(body), claimed or len(sealed)
        packed = index.tobytes()
        return body + sealed + packed + struct.pack("<I", crc32c(packed))

    return change


@pytest.mark.parametrize("rows", SELECTIONS.values(), ids=SELECTIONS)
def test_an_honest_chunk_in_another_place_is_read(gate, compressor, rows):
    replace_shard(gate, with_first_chunk(bytes(ENCODERS[compressor](ROWS[:CHUNK].tobytes()))))
    np.testing.assert_array_equal(gate["train"]["x"][rows], ROWS[rows])


@functools.cache
def bomb_of(compressor):
    return bytes(ENCODERS[compressor](bytes(300 * 2**20)))


@pytest.mark.parametrize(
    ("compressor", "rows"), in_turns(ENCODERS, SELECTIONS.values(), first=1), indirect=["compressor"]
)
def test_a_bomb_is_not_decoded(gate, compressor, rows, monkeypatch):
    bomb = bomb_of(compressor)
    replace_shard(gate, with_first_chunk(bomb))
    decoded = []
    for name in ("Blosc", "Zstd", "GZip"):
        codec = getattr(numcodecs, name)
        decode = codec.decode
        monkeypatch.setattr(
            codec,
            "decode",
            lambda self, chunk, *a, decode=decode: decoded.append(len(chunk)) or decode(self, chunk, *a),
        )
    with pytest.raises(CorruptStoreError, match=r"bytes, more than|would decode to"):
        gate["train"]["x"][rows]
    assert len(bomb) + 4 not in decoded


def test_a_chunk_that_claims_to_be_huge(gate):
    replace_shard(gate, with_first_chunk(b"x" * 100, claimed=2**40))
    for rows in SELECTIONS.values():
        with pytest.raises(CorruptStoreError, match="bytes, more than"):
            gate["train"]["x"][rows]


def test_a_shard_shorter_than_its_index(gate):
    replace_shard(gate, lambda content: content[-20:])
    for rows in SELECTIONS.values():
        with pytest.raises(CorruptStoreError, match="where the index of 4 chunks belongs"):
            gate["train"]["x"][rows]


def test_a_missing_shard_is_never_zeros(gate):
    sync(gate.repository().location.store.delete(shard_key(gate)))
    for rows in SELECTIONS.values():
        with pytest.raises(CorruptStoreError, match="is missing"):
            gate["train"]["x"][rows]


def test_many_shards(monkeypatch, request):
    monkeypatch.setattr(guards, "KEPT", 2)
    args = {"output_dir": f"memory://{abs(hash(request.node.nodeid))}", "chunk": 4096}
    rows = np.random.default_rng(1).random((3 * 32768, 64))
    with StoreGate("zarr", args, "a") as opened:
        opened.add_data("x", rows)
        for index in ([1, 50_000, 90_000, 2], slice(30_000, 70_000), [90_001, 3]):
            np.testing.assert_array_equal(opened["train"]["x"][index], rows[index])
