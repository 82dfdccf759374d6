"""Rows at known places of files equal what the library of their format reads; h5py is the oracle."""

from __future__ import annotations

import os

import h5py
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from storegate_engine.arrays import byte_ranges, foreign_formats, open_foreign
from tests.examples import examples

N = 300
RNG = np.random.default_rng(5)


def written(path, values, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, **options)
    return path


def ranges_of(path):
    return open_foreign("hdf5", str(path), "x").ranges()


@pytest.fixture(autouse=True)
def small_chunks_too(monkeypatch):
    monkeypatch.setattr(foreign_formats, "CHUNK_NBYTES", {True: 1, False: 1})


class TestHdf5:
    @pytest.mark.parametrize("dtype", ["?", "i1", "<u2", ">i4", "<i8", "f2", ">f4", "f8", "c8", ">c16"])
    @pytest.mark.parametrize(
        "options",
        [
            {},
            {"chunks": (7, 2)},
            {"chunks": (64, 5), "compression": "gzip"},
            {"chunks": (16, 3), "shuffle": True},
            {"chunks": (50, 4), "compression": "gzip", "shuffle": True},
        ],
        ids=["contiguous", "chunks", "deflated", "shuffled", "both"],
    )
    def test_all_dtypes_and_layouts(self, tmp_path, dtype, options):
        values = (RNG.normal(size=(N, 5)) * 100).astype(dtype)
        path = written(tmp_path / "x.h5", values, **options)
        assert ranges_of(path) is not None
        gate = StoreGate(data_id="a")
        gate.attach(path, "x")
        np.testing.assert_array_equal(gate["train"]["x"][:], values)
        np.testing.assert_array_equal(gate["train"]["x"][[5, 299, 5, 64]], values[[5, 299, 5, 64]])
        assert gate["train"]["x"].dtype == values.dtype.newbyteorder("=")

    @settings(max_examples=examples(60), deadline=None)
    @given(data=st.data())
    @pytest.mark.parametrize("compression", [None, "gzip"])
    def test_any_chunks_and_any_rows(self, tmp_path_factory, compression, data):
        directory = tmp_path_factory.mktemp("files")
        shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple))
        chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
        values = np.arange(np.prod(shape), dtype="i4").reshape(shape)
        options = {"chunks": chunks, "compression": compression, "shuffle": data.draw(st.booleans())}
        gate = StoreGate(data_id="a")
        gate.attach(written(directory / "x.h5", values, **options), "x")
        assert ranges_of(directory / "x.h5") is not None
        lo = data.draw(st.integers(0, len(values)))
        hi = data.draw(st.integers(lo, len(values)))
        np.testing.assert_array_equal(gate["train"]["x"][lo:hi], values[lo:hi])
        picked = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=9))
        np.testing.assert_array_equal(gate["train"]["x"][picked], values[picked])

    def test_chunks_that_were_never_written_have_the_fill_value(self, tmp_path):
        with h5py.File(tmp_path / "x.h5", "w") as file:
            data = file.create_dataset("x", (N, 3), "f4", chunks=(50, 3), compression="gzip", fillvalue=7)
            data[120:130] = 1
        gate = StoreGate(data_id="a")
        gate.attach(tmp_path / "x.h5")
        expected = np.full((N, 3), 7, "f4")
        expected[120:130] = 1
        np.testing.assert_array_equal(gate["train"]["x"][:], expected)
        assert ranges_of(tmp_path / "x.h5") is not None

    @pytest.mark.parametrize("form", ["lzf", "checksums", "scaled", "masked", "user block", "compact", "late", "bits"])
    def test_the_library_reads_all_else(self, tmp_path, form):
        values = RNG.integers(0, 99, (N, 3))
        path = tmp_path / "x.h5"
        match form:
            case "lzf":
                written(path, values, chunks=(50, 3), compression="lzf")
            case "checksums":
                written(path, values, chunks=(50, 3), fletcher32=True)
            case "scaled":
                written(path, values, chunks=(50, 3), scaleoffset=0)
            case "masked":
                written(path, values, chunks=(50, 3), compression="gzip")
                with h5py.File(path, "a") as file:  # one chunk without its filter
                    file["x"].id.write_direct_chunk((50, 0), values[50:100].tobytes(), filter_mask=1)
            case "user block":
                with h5py.File(path, "w", userblock_size=512) as file:
                    file["x"] = values
                    file.create_dataset("y", data=values, chunks=(50, 3))
            case "compact":
                with h5py.File(path, "w") as file:
                    made = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
                    made.set_layout(h5py.h5d.COMPACT)
                    space = h5py.h5s.create_simple(values.shape)
                    h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_INT64, space, made)
                    file["x"][:] = values
            case "late":  # nothing was written, so that there are no bytes
                with h5py.File(path, "w") as file:
                    file.create_dataset("x", values.shape, values.dtype)
                values[:] = 0
            case "bits":  # integers of 24 bits, in four bytes
                with h5py.File(path, "w") as file:
                    kind = h5py.h5t.NATIVE_INT32.copy()
                    kind.set_precision(24)
                    h5py.h5d.create(file.id, b"x", kind, h5py.h5s.create_simple(values.shape))
                    file["x"][:] = values
        assert ranges_of(path) is None
        gate = StoreGate(data_id="a")
        gate.attach(path, "x")
        np.testing.assert_array_equal(gate["train"]["x"][:], values)
        np.testing.assert_array_equal(gate["train"]["x"][[99, 3]], values[[99, 3]])

    @pytest.mark.parametrize("way", ["link", "external", "virtual"])
    def test_a_file_does_not_lead_to_another_one(self, tmp_path, way):
        """Nobody would know whether the other file is allowed, or has changed."""
        other = written(tmp_path / "secret.h5", RNG.normal(size=(N, 3)))
        with h5py.File(tmp_path / "x.h5", "w") as file:
            match way:
                case "link":
                    file["x"] = h5py.ExternalLink(str(other), "x")
                case "external":
                    file.create_dataset("x", (N, 3), "f8", external=str(other))
                case "virtual":
                    layout = h5py.VirtualLayout((N, 3), "f8")
                    layout[:] = h5py.VirtualSource(str(other), "x", (N, 3))
                    file.create_virtual_dataset("x", layout)
        gate = StoreGate(data_id="a")
        with pytest.raises(errors.SourceError, match="its values are in another file; attach that"):
            gate.attach(tmp_path / "x.h5", "x")

    def test_a_virtual_dataset_of_its_own_file_is_read(self, tmp_path):
        values = RNG.normal(size=(N, 3))
        with h5py.File(tmp_path / "x.h5", "w") as file:
            file["y"] = values
            layout = h5py.VirtualLayout((N, 3), "f8")
            layout[:] = h5py.VirtualSource(".", "y", (N, 3))
            file.create_virtual_dataset("x", layout)
        gate = StoreGate(data_id="a")
        gate.attach(tmp_path / "x.h5", ["x", "y"])
        np.testing.assert_array_equal(gate["train"]["x"][:], values)

    def test_damaged_chunks_name_the_file(self, tmp_path):
        path = written(tmp_path / "x.h5", RNG.normal(size=(N, 3)), chunks=(50, 3), compression="gzip")
        before = path.stat()
        at = int(ranges_of(path).begins[2, 0])
        gate = StoreGate(data_id="a")
        gate.attach(path)
        with path.open("r+b") as file:
            file.seek(at)
            file.write(bytes(8))
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        np.testing.assert_array_equal(gate["train"]["x"][:100].shape, (100, 3))
        with pytest.raises(errors.SourceError, match=r"rows 90 to 110 of .*x\.h5 cannot be read: .*decompress"):
            gate["train"]["x"][90:110]


class TestOtherFormats:
    @pytest.mark.parametrize("order", ["C", "F"])
    def test_npy_in_both_orders(self, tmp_path, order):
        values = np.asarray(RNG.normal(size=(N, 4)).astype(">f4"), order=order)
        np.save(tmp_path / "x.npy", values)
        assert (open_foreign("npy", str(tmp_path / "x.npy"), "").ranges() is None) == (order == "F")
        gate = StoreGate(data_id="a")
        gate.attach(tmp_path / "x.npy", "x")
        np.testing.assert_array_equal(gate["train"]["x"][:], values)
        np.testing.assert_array_equal(gate["train"]["x"][[7, 0, 299]], values[[7, 0, 299]])

    def test_rows_of_no_bytes(self, tmp_path):
        np.save(tmp_path / "x.npy", np.empty((N, 0)))
        gate = StoreGate(data_id="a")
        gate.attach(tmp_path / "x.npy", "x")
        assert gate["train"]["x"][:].shape == (N, 0)


class TestOpening:
    """What a read costs besides its bytes."""

    def attached(self, directory, n_files):
        for at in range(n_files):
            written(directory / f"{at}.h5", np.full((200, 2), at), chunks=(100, 2) if at % 2 else None)
        gate = StoreGate(data_id="a")
        gate.attach(directory / "*.h5")
        return gate

    def test_a_file_is_opened_and_its_directories_are_looked_at_once(self, tmp_path, monkeypatch):
        gate = self.attached(tmp_path, 5)
        done = []

        def counted(place, name):
            real = getattr(place, name)

            def call(*args):
                done.append(name)
                return real(*args)

            monkeypatch.setattr(place, name, call)

        counted(byte_ranges.OpenFile, "__init__")
        counted(os.path, "realpath")
        for _ in range(3):
            for _ in gate["train"]["x"].batches(32, shuffle="blocks", block_rows=16):
                pass
        assert done.count("__init__") == 5
        assert done.count("realpath") == 5 * 2  # of the file, and of the directory that is allowed

    def test_a_chunk_is_decoded_once_for_a_load(self, tmp_path, monkeypatch):
        written(tmp_path / "x.h5", np.arange(2000.0), chunks=(100,), compression="gzip")
        gate = StoreGate(data_id="a")
        gate.attach(tmp_path / "x.h5")
        decoded = []
        real = byte_ranges.zlib.decompress
        monkeypatch.setattr(byte_ranges.zlib, "decompress", lambda *a, **k: (decoded.append(1), real(*a, **k))[1])
        batches = list(gate["train"]["x"].batches(64, shuffle="blocks", block_rows=10))
        assert sorted(np.concatenate(batches)) == list(range(2000))
        assert len(decoded) == 20

    def test_few_files_are_open_at_a_time(self, tmp_path):
        gate = self.attached(tmp_path, 300)
        np.testing.assert_array_equal(gate["train"]["x"][:], np.repeat(np.arange(300), 200)[:, None].repeat(2, 1))
        assert len(psutil.Process().open_files()) <= 128 + 64 + 16

    def test_threads_read_what_one_reads(self, tmp_path):
        values = RNG.normal(size=(400_000, 4))
        written(tmp_path / "x.h5", values, chunks=(20_000, 4), compression="gzip")
        gate = StoreGate(data_id="a")
        gate.attach(tmp_path / "x.h5")
        np.testing.assert_array_equal(gate["train"]["x"][:], values)
        picked = RNG.integers(0, len(values), 5000)
        np.testing.assert_array_equal(gate["train"]["x"][picked], values[picked])
