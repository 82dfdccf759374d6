"""Frames: chunks as the bytes that numcodecs makes of them, and nothing that was changed is taken for rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import blosc, zstd

from storegate_engine.arrays.frames import FrameError, Framing
from storegate_engine.buffers import crc32c
from tests.examples import examples

BYTES = {"name": "bytes", "configuration": {"endian": "little"}}
CRC = {"name": "crc32c"}
BLOSC = {"name": "blosc", "configuration": {"cname": "zstd", "clevel": 3, "shuffle": "bitshuffle", "blocksize": 0}}
ZSTD = {"name": "zstd", "configuration": {"level": 2, "checksum": False}}
NBYTES = 1024
CODECS = [(), (CRC,), (BLOSC,), (BLOSC, CRC), (ZSTD,), (ZSTD, CRC)]


def framing(*codecs: dict) -> Framing:
    found = Framing.of(NBYTES, [BYTES, *codecs])
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("codecs", "codec", "options", "is_checked"),
    [
        ([BYTES], "none", (), False),
        ([{"name": "bytes"}, CRC], "none", (), True),
        ([BYTES, BLOSC], "blosc", (b"zstd", 3, blosc.BITSHUFFLE, 0), False),
        ([BYTES, {"name": "blosc"}, CRC], "blosc", (b"lz4", 5, blosc.SHUFFLE, 0), True),
        (
            [BYTES, {"name": "blosc", "configuration": {"shuffle": "noshuffle", "blocksize": 512}}],
            "blosc",
            (b"lz4", 5, blosc.NOSHUFFLE, 512),
            False,
        ),
        ([BYTES, {"name": "blosc", "configuration": {"shuffle": "shuffle"}}], "blosc", (b"lz4", 5, 1, 0), False),
        ([BYTES, {"name": "blosc", "configuration": {"shuffle": "other"}}], "blosc", (b"lz4", 5, 1, 0), False),
        ([BYTES, ZSTD, CRC], "zstd", (2,), True),
        ([BYTES, {"name": "zstd"}], "zstd", (0,), False),
    ],
)
def test_codecs_of_zarr_are_known_by_their_names_and_defaults(codecs, codec, options, is_checked):
    assert Framing.of(NBYTES, codecs) == Framing(NBYTES, codec, options, is_checked)


@pytest.mark.parametrize(
    "codecs",
    [
        [{"name": "bytes", "configuration": {"endian": "big"}}],
        [{"name": "bytes", "configuration": {"endian": "big"}}, BLOSC, CRC],
        [{"name": "vlen-utf8"}],
        [{"name": "transpose", "configuration": {"order": [0]}}, CRC],
        [BYTES, {"name": "gzip", "configuration": {"level": 1}}],
    ],
)
def test_others_are_left(codecs):
    assert Framing.of(NBYTES, codecs) is None


def chunks_of(seed: int, n_chunks: int) -> np.ndarray:
    """Return chunks that are short in one codec, and such that are in none."""
    rng = np.random.default_rng(seed)
    chunks = np.frombuffer(rng.bytes(n_chunks * NBYTES), "u4").reshape(n_chunks, 32, NBYTES // 128).copy()
    chunks[rng.random(n_chunks) < 0.5] %= 4
    return chunks


@pytest.mark.parametrize("codecs", CODECS)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
@settings(max_examples=examples(50))
def test_frames_are_what_numcodecs_makes_of_chunks_and_are_decoded_to_them(codecs, seed, n_chunks):
    form, chunks = framing(*codecs), chunks_of(seed, n_chunks)
    found = list(form.frames(n_chunks, chunks.__getitem__))
    assert len(found) == n_chunks
    for (head, content, checksum), chunk in zip(found, chunks, strict=True):
        frame = b"".join([head, bytes(content)])
        assert len(head) + len(content) == len(frame)
        assert checksum == (crc32c(frame).to_bytes(4, "little") if form.is_checked else b"")
        if form.codec == "zstd":
            assert frame == zstd.compress(chunk, 2)
        elif form.codec == "none":
            assert frame == chunk.tobytes()
        elif head:
            assert len(frame) == NBYTES + 16
            assert blosc.decompress(frame) == chunk.tobytes()
        else:
            assert frame == blosc.compress(chunk, *form.options)
            assert len(frame) <= NBYTES * 7 / 8
        out = np.empty(NBYTES, "u1")
        form.decode(np.frombuffer(frame + checksum, "u1"), out)
        assert out.tobytes() == chunk.tobytes()
        if form.plain_nbytes and (head or form.codec == "none"):
            assert len(frame + checksum) == form.plain_nbytes
    assert (form.plain_nbytes == 0) == (form.codec == "zstd")


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("nbytes", [1, 100, 1001])
def test_frames_of_few_bytes_and_of_odd_numbers_are_decoded(codecs, nbytes):
    form = Framing.of(nbytes, [BYTES, *codecs])
    assert form is not None
    for chunk in np.zeros(nbytes, "u1"), np.frombuffer(np.random.default_rng(0).bytes(nbytes), "u1"):
        (parts,) = form.frames(1, lambda at, chunk=chunk: chunk)
        out = np.empty(nbytes, "u1")
        form.decode(np.frombuffer(b"".join(map(bytes, parts)), "u1"), out)
        np.testing.assert_array_equal(out, chunk)


def test_a_shard_is_compressed_if_one_chunk_in_sixteen_is_worth_it_each_chunk_once(monkeypatch):
    form, noise = framing(BLOSC), np.frombuffer(np.random.default_rng(0).bytes(NBYTES), "u4")
    list(form.frames(1, lambda at: noise))  # the header of plain frames is made once
    compress, compressed = blosc.compress, []
    monkeypatch.setattr(blosc, "compress", lambda *args: compressed.append(1) or compress(*args))
    for worth, expected in ((16, True), (32, True), (1, False), (17, False)):
        chunks = [np.zeros_like(noise) if at in (worth, 5) else noise for at in range(33)]
        compressed.clear()
        found = [not head for head, _, _ in form.frames(33, chunks.__getitem__)]
        assert found == [expected and at in (worth, 5) for at in range(33)]
        assert len(compressed) == (33 if expected else 3)


def test_a_saving_of_an_eighth_is_worth_it_and_none_of_less():
    form, noise = framing(BLOSC), np.random.default_rng(0).bytes(NBYTES)
    n_compressed = 0
    for n_zeros in range(NBYTES):
        chunk = np.frombuffer(bytes(n_zeros) + noise[n_zeros:], "u4")
        ((head, content, _),) = form.frames(1, lambda at, chunk=chunk: chunk)
        encoded = blosc.compress(chunk, *form.options)
        is_worth = len(encoded) <= NBYTES - NBYTES // 8
        assert (
            (head, bytes(content)) == (b"", encoded)
            if is_worth
            else (len(head), bytes(content)) == (16, chunk.tobytes())
        )
        n_compressed += is_worth
    assert 0 < n_compressed < NBYTES


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("shuffle", ["noshuffle", "shuffle", "bitshuffle"])
def test_a_plain_frame_is_the_one_of_blosc_without_compression(itemsize, shuffle):
    form = framing({"name": "blosc", "configuration": {"cname": "lz4", "shuffle": shuffle}})
    chunk = np.frombuffer(np.random.default_rng(0).bytes(NBYTES), f"V{itemsize}")
    ((head, content, _),) = form.frames(1, lambda at: chunk)
    assert head + bytes(content) == blosc.compress(chunk, b"lz4", 0, form.options[2], NBYTES)


def damaged(frame: bytes, at: int, by: int = 1) -> np.ndarray:
    found = np.frombuffer(frame, "u1").copy()
    found[at] ^= by
    return found


@pytest.mark.parametrize("codecs", [(CRC,), (BLOSC, CRC), (ZSTD, CRC)])
@pytest.mark.parametrize("is_noise", [False, True])
def test_any_changed_byte_is_found_by_its_checksum(codecs, is_noise):
    form = framing(*codecs)
    chunk = np.frombuffer(np.random.default_rng(0).bytes(NBYTES), "u4") % np.uint32(2**32 - 1 if is_noise else 4)
    (parts,) = form.frames(1, lambda at: chunk)
    frame = b"".join(map(bytes, parts))
    for at in range(len(frame)):
        with pytest.raises(ValueError, match=r"^its checksum does not match$"):
            form.decode(damaged(frame, at), np.empty(NBYTES, "u1"))


def test_a_frame_of_other_lengths_is_refused_before_it_is_decoded():
    chunk, out = np.zeros(NBYTES, "u1"), np.empty(NBYTES + 1, "u1")
    frame = blosc.compress(chunk, *framing(BLOSC).options)
    for codec, content in ((), chunk.tobytes()), ((BLOSC,), frame), ((ZSTD,), zstd.compress(chunk, 2)):
        with pytest.raises(ValueError, match=r"^it holds 1024 bytes, expected 1025$"):
            framing(*codec).decode(np.frombuffer(content, "u1"), out)
    for longer, says in ((frame + b"0", len(frame)), (frame[:-1], len(frame))):
        what = f"^it is {len(longer)} bytes long, and its header says {says}$"
        with pytest.raises(ValueError, match=what):
            framing(BLOSC).decode(np.frombuffer(longer, "u1"), out[:-1])
    content = zstd.compress(chunk, 2)
    for wrong in (content + b"0", content[:-1], content + content, b"0" + content[1:]):
        with pytest.raises(ValueError, match=r"^it is not one frame that says how many bytes it holds$"):
            framing(ZSTD).decode(np.frombuffer(wrong, "u1"), out[:-1])


class TestSettle:
    """Plain frames whose rows are in place: what lies between them is checked."""

    N = 5

    def read(self, form: Framing, frames: list[bytes]) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return what lies between the chunks, and the chunks, as a reader splits a file of frames."""
        head, tail = form.head_nbytes, form.tail_nbytes
        assert {len(frame) for frame in frames} == {form.plain_nbytes}
        between = np.zeros((len(frames) + 1, tail + head), "u1")
        for at, frame in enumerate(frames):
            between[at, tail:] = np.frombuffer(frame[:head], "u1")
            between[at + 1, :tail] = np.frombuffer(frame[len(frame) - tail :], "u1")
        return between, [np.frombuffer(frame[head : len(frame) - tail], "u1").copy() for frame in frames]

    def plain(self, form: Framing, n_chunks: int = N) -> tuple[list[bytes], np.ndarray]:
        chunks = np.frombuffer(np.random.default_rng(1).bytes(n_chunks * NBYTES), "u4").reshape(n_chunks, -1)
        return [b"".join(map(bytes, parts)) for parts in form.frames(n_chunks, chunks.__getitem__)], chunks

    @pytest.mark.parametrize("codecs", [(), (CRC,), (BLOSC,), (BLOSC, CRC)])
    @pytest.mark.parametrize("n_chunks", [1, N])
    def test_rows_stay_in_place_and_nothing_is_decoded(self, codecs, n_chunks, monkeypatch):
        monkeypatch.setattr(Framing, "decode", lambda *args: pytest.fail("a plain frame was decoded"))
        form = framing(*codecs)
        frames, chunks = self.plain(form, n_chunks)
        between, found = self.read(form, frames)
        form.settle(between, found)
        assert b"".join(map(bytes, found)) == chunks.tobytes()

    @pytest.mark.parametrize("codecs", [(CRC,), (BLOSC, CRC)])
    @pytest.mark.parametrize("bad", range(N))
    @pytest.mark.parametrize("at", [0, 2, 5, 13, 500, -5, -4, -1])
    def test_a_changed_byte_is_found_in_the_frame_that_has_it(self, codecs, bad, at):
        form = framing(*codecs)
        frames, _ = self.plain(form)
        frames[bad] = damaged(frames[bad], at, 2).tobytes()
        with pytest.raises(FrameError, match=r"\w") as caught:
            form.settle(*self.read(form, frames))
        assert caught.value.at == bad
        if at not in (2, 5, 13) or not form.head_nbytes:
            assert str(caught.value) == "its checksum does not match"

    @pytest.mark.parametrize("field", [4, 12])
    @pytest.mark.parametrize("bad", [range(1), range(3, 4), range(N)])
    def test_headers_of_another_length_are_not_plain(self, field, bad):
        form = framing(BLOSC)
        frames, _ = self.plain(form)
        for at in bad:
            frames[at] = damaged(frames[at], field).tobytes()
        with pytest.raises(FrameError, match="it holds|its header says") as caught:
            form.settle(*self.read(form, frames))
        assert caught.value.at == bad[0]

    @pytest.mark.parametrize("codecs", [(), (CRC,)])
    @pytest.mark.parametrize("places", [[0], [2], [0, 4], [0, 1, 2, 3, 4]])
    def test_a_compressed_frame_as_long_as_a_plain_one_is_decoded(self, codecs, places):
        """Blosc keeps what it shortened by as much as its tables take."""
        form = framing({"name": "blosc", "configuration": {"shuffle": "noshuffle"}}, *codecs)
        frames, chunks = self.plain(form)
        chunks = chunks.copy()
        for n_zeros in range(1, 400):
            chunk = np.frombuffer(bytes(n_zeros) + chunks[0].tobytes()[n_zeros:], "u1")
            frame = blosc.compress(chunk, b"lz4", 5, 0)
            if len(frame) == NBYTES + 16 and not frame[2] & 2:
                break
        else:
            pytest.fail("no such frame was found")
        for at in places:
            chunks[at] = chunk.view("u4")
            frames[at] = frame + (crc32c(frame).to_bytes(4, "little") if codecs else b"")
        between, found = self.read(form, frames)
        form.settle(between, found)
        assert b"".join(map(bytes, found)) == chunks.tobytes()
