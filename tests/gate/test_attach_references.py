"""References of kerchunk are read from the files that they name; numpy and h5py have the values to compare with."""

from __future__ import annotations

import base64
import gzip
import json
import os
import pickle
import zlib

import fsspec
import h5py
import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from tests.examples import examples

N = 100
RNG = np.random.default_rng(0)
X = RNG.normal(size=(N, 4)).astype("f4")
Y = RNG.integers(-99, 99, N)


def described(values, chunks, *, fill=0, filters=None, compressor=None, **others):
    return json.dumps(
        {
            "zarr_format": 2,
            "shape": list(values.shape),
            "chunks": list(chunks),
            "dtype": values.dtype.str,
            "fill_value": fill,
            "order": "C",
            "filters": filters,
            "compressor": compressor,
            **others,
        }
    )


def of_hdf5(path, name, prefix=None):
    """Return references to a dataset, from the places that HDF5 tells."""
    prefix = name if prefix is None else prefix
    with h5py.File(path, "r") as file:
        data = file[name]
        filters = [{"id": "shuffle", "elementsize": data.dtype.itemsize}] if data.shuffle else []
        compressor = {"id": "zlib", "level": 4} if data.compression else None
        chunks = data.chunks or data.shape
        refs = {f"{prefix}/.zarray": described(data, chunks, filters=filters, compressor=compressor)}
        if data.chunks is None:
            key = ".".join(["0"] * data.ndim)
            refs[f"{prefix}/{key}"] = [str(path), data.id.get_offset(), data.id.get_storage_size()]
            return refs
        for at in range(data.id.get_num_chunks()):
            info = data.id.get_chunk_info(at)
            key = ".".join(str(first // size) for first, size in zip(info.chunk_offset, chunks, strict=True))
            refs[f"{prefix}/{key}"] = [str(path), info.byte_offset, info.size]
        return refs


def save(path, refs, **others):
    path.write_text(json.dumps({"version": 1, "refs": {".zgroup": '{"zarr_format": 2}', **refs}, **others}))
    return path


@pytest.fixture
def files(tmp_path):
    """A directory of two files of HDF5, with all layouts."""
    (tmp_path / "files").mkdir()
    for at, (lo, hi) in enumerate(((0, 60), (60, N))):
        with h5py.File(tmp_path / "files" / f"{at}.h5", "w") as file:
            file.create_dataset("x", data=X[lo:hi], chunks=(20, 3), compression="gzip", shuffle=bool(at))
            file.create_dataset("y", data=Y[lo:hi], chunks=(20,))
            file["z"] = X[lo:hi]
    return tmp_path / "files"


@pytest.fixture
def joined(files):
    """References that make one array of the chunks of both."""
    refs = of_hdf5(files / "0.h5", "y")
    more = of_hdf5(files / "1.h5", "y")
    refs |= {f"y/{int(key[2:]) + 3}": ref for key, ref in more.items() if key != "y/.zarray"}
    return save(files / "joined.json", refs | {"y/.zarray": described(Y, (20,))})


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


class TestRows:
    @pytest.mark.parametrize("name", ["x", "y", "z"])
    def test_every_layout_of_hdf5(self, gate, files, name):
        for at in range(2):
            save(files / f"{at}.json", of_hdf5(files / f"{at}.h5", name))
        gate.attach(files / "*.json", phase=(0.5, 0.3, 0.2), shuffle=3)
        expected = (Y if name == "y" else X)[np.random.RandomState(3).permutation(N)]
        found = [gate[phase][name][:] for phase in ("train", "valid", "test")]
        np.testing.assert_array_equal(np.concatenate(found), expected)
        np.testing.assert_array_equal(gate["train"][name][[7, 3, 7, 49]], expected[[7, 3, 7, 49]])

    def test_chunks_of_several_files_are_one_array(self, gate, files, joined):
        gate.attach(joined)
        np.testing.assert_array_equal(gate["train"]["y"][:], Y)
        np.testing.assert_array_equal(gate["train"]["y"][55:65], Y[55:65])
        gate.shuffle("train", seed=1)
        batches = list(gate["train"]["y"].batches(16, shuffle=True, seed=2))
        assert sorted(np.concatenate(batches)) == sorted(Y)
        fingerprint = gate.fingerprint(["y"], "train")
        if gate.backend != "numpy":
            assert not gate.verify().problems
            gate.compact()
            for path in files.iterdir():
                path.unlink()
        assert gate.fingerprint(["y"], "train") == fingerprint

    def test_names_groups_and_relative_paths(self, gate, files):
        refs = of_hdf5(files / "0.h5", "x", "deep/x") | of_hdf5(files / "0.h5", "y", "deep/y")
        refs |= of_hdf5(files / "1.h5", "y", "other")
        refs = {
            key: [os.path.basename(ref[0]), *ref[1:]] if isinstance(ref, list) else ref for key, ref in refs.items()
        }
        path = save(files / "refs.json", refs)
        gate.attach(f"{path}:deep")
        gate.attach(path, phase="valid")
        gate.attach(f"{path}:deep/y", phase="test")
        np.testing.assert_array_equal(gate["train"]["x"][:], X[:60])
        np.testing.assert_array_equal(gate["train"]["y"][:], Y[:60])
        np.testing.assert_array_equal(gate["valid"]["other"][:], Y[60:])
        np.testing.assert_array_equal(gate["test"]["y"][:], Y[:60])

    def test_forms_of_references(self, gate, files):
        """Inline chunks as text and in the base of 64, whole files, templates, URLs of files, metadata as JSON."""
        values = np.arange(65, 105, dtype="u1")
        values[10:20].tofile(files / "part.bin")
        values.tofile(files / "whole.bin")
        refs = {
            "x/.zarray": json.loads(described(values, (10,))),
            "x/0": values[:10].tobytes().decode(),
            "x/1": ["{{ here }}/part.bin"],
            "x/2": "base64:" + base64.b64encode(values[20:30].tobytes()).decode(),
            "x/3": [f"file://{files}/whole.bin", 30, 10],
            "x/4": "beyond the array",
        }
        gate.attach(save(files / "refs.json", refs, templates={"here": str(files)}))
        np.testing.assert_array_equal(gate["train"]["x"][:], values)

    @pytest.mark.parametrize(
        ("dtype", "fill", "expected"),
        [
            ("<f4", "NaN", np.nan),
            (">f8", "-Infinity", -np.inf),
            ("<i2", 7, 7),
            ("|b1", True, True),
            ("<c8", [1.0, "NaN"], complex(1, np.nan)),
            ("|S3", base64.b64encode(b"ab").decode(), b"ab"),
            ("<U2", "é", "é"),
            ("<M8[s]", 86400, np.datetime64(86400, "s")),
            ("<f4", None, 0),
        ],
    )
    def test_missing_chunks_are_the_fill_value(self, gate, files, dtype, fill, expected):
        values = np.full((5, 2), expected, dtype)
        values[2:4] = 1
        refs = {"x/.zarray": described(values, (2, 2), fill=fill)}
        refs["x/1.0"] = "base64:" + base64.b64encode(values[2:4].tobytes()).decode()
        gate.attach(save(files / "refs.json", refs))
        np.testing.assert_array_equal(gate["train"]["x"][:], values)
        assert gate["train"]["x"].dtype == values.dtype.newbyteorder("=")

    @settings(max_examples=examples(60), deadline=None)
    @given(data=st.data())
    def test_any_chunks_codecs_and_rows(self, tmp_path_factory, data):
        files = tmp_path_factory.mktemp("files")
        shape = data.draw(st.lists(st.integers(1, 9), min_size=1, max_size=3).map(tuple))
        chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
        dtype = data.draw(st.sampled_from(["<i4", ">i4", "<f8", "u1", ">c16"]))
        values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
        config = data.draw(
            st.sampled_from([None, numcodecs.Zlib(), numcodecs.GZip(), numcodecs.Blosc(), numcodecs.Zstd()])
        )
        size = np.dtype(dtype).itemsize
        filters = [numcodecs.Shuffle(size)] if data.draw(st.booleans()) else None
        separator = data.draw(st.sampled_from([".", "/"]))
        array = zarr.create_array(
            files / "x.zarr",
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            zarr_format=2,
            filters=filters,
            compressors=config,
            chunk_key_encoding={"name": "v2", "separator": separator},
            fill_value=3,
        )
        array[...] = values
        refs, begin = {}, 0
        content = bytearray()
        for item in (path for path in (files / "x.zarr").rglob("*") if path.is_file()):
            key, held = item.relative_to(files / "x.zarr").as_posix(), item.read_bytes()
            if key.startswith(".z"):
                refs[f"x/{key}"] = held.decode()
            elif data.draw(st.booleans()):
                refs[f"x/{key}"] = [str(files / "all.bin"), len(content), len(held)]
                content += held
            else:
                (files / f"{begin}.bin").write_bytes(held)
                refs[f"x/{key}"], begin = [f"{begin}.bin"], begin + 1
        (files / "all.bin").write_bytes(content)
        with StoreGate(data_id="a") as gate:
            gate.attach(save(files / "refs.json", refs))
            lo = data.draw(st.integers(0, len(values)))
            hi = data.draw(st.integers(lo, len(values)))
            np.testing.assert_array_equal(gate["train"]["x"][lo:hi], values[lo:hi])
            picked = data.draw(st.lists(st.integers(0, len(values) - 1), max_size=9))
            np.testing.assert_array_equal(gate["train"]["x"][picked], values[picked])

    def test_files_behind_urls(self, gate, files):
        memory = fsspec.filesystem("memory")
        memory.pipe("/references/y.bin", Y.tobytes())
        refs = {"y/.zarray": described(Y, (N,)), "y/0": ["memory://references/y.bin", 0, Y.nbytes]}
        path = save(files / "refs.json", refs)
        with pytest.raises(errors.SourceNotAllowedError, match="memory://references"):
            gate.attach(path)
        with StoreGate(data_id="b", backend_args={"references": ["memory://references"]}) as allowed:
            allowed.attach(path)
            np.testing.assert_array_equal(allowed["train"]["y"][:], Y)
            memory.pipe("/references/y.bin", Y[::-1].tobytes())
            with pytest.raises(errors.SourceChangedError, match=r"memory://references/y\.bin"):
                allowed["train"]["y"][:]
        memory.rm("/references", recursive=True)


class TestTrust:
    def test_references_lead_only_where_it_is_allowed(self, tmp_path, files, joined):
        """Not even to look whether there is such a file."""
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        joined.rename(elsewhere / "refs.json")
        for name in ("numpy", "zarr"):
            with StoreGate(name, {}, data_id="a") as gate:
                for refs in (elsewhere / "refs.json", save(elsewhere / "no.json", of_hdf5(files / "0.h5", "y"))):
                    with pytest.raises(errors.SourceNotAllowedError, match=rf"references': \['{files}'\]"):
                        gate.attach(refs)
                assert gate.variables == ()
            with StoreGate(name, {"references": [files]}, data_id="a") as gate:
                gate.attach(elsewhere / "refs.json")
                np.testing.assert_array_equal(gate["train"]["y"][:], Y)
                np.testing.assert_array_equal(pickle.loads(pickle.dumps(gate["train"]["y"]))[:], Y)

    def test_links_lead_nowhere_else(self, tmp_path, files):
        (tmp_path / "secret").mkdir()
        Y.tofile(tmp_path / "secret" / "y.bin")
        (files / "y.bin").symlink_to(tmp_path / "secret" / "y.bin")
        for target in ("y.bin", "../secret/y.bin", f"file://{files}/../secret/y.bin"):
            path = save(files / "refs.json", {"y/.zarray": described(Y, (N,)), "y/0": [target, 0, Y.nbytes]})
            with StoreGate(data_id="a") as gate, pytest.raises(errors.SourceNotAllowedError):
                gate.attach(path)

    def test_who_opens_a_store_allows_the_files_that_are_referred_to(self, tmp_path, files, joined):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        joined.rename(elsewhere / "refs.json")
        args = {"output_dir": tmp_path / "store", "references": [files]}
        with StoreGate("zarr", args, data_id="a") as gate:
            gate.attach(elsewhere / "refs.json")
        with StoreGate.open(tmp_path / "store", references=[files, elsewhere]) as gate:
            np.testing.assert_array_equal(gate["train"]["y"][:], Y)
            assert not gate.verify().problems
        for allowed in ([files], [elsewhere]):
            with StoreGate.open(tmp_path / "store", references=allowed) as gate:
                with pytest.raises(errors.SourceNotAllowedError):
                    gate["train"]["y"][:]
                assert gate.verify().problems

    @pytest.mark.parametrize("change", ["replaced", "truncated", "touched", "removed"])
    def test_a_file_that_changed_is_named(self, gate, files, joined, change):
        gate.attach(joined)
        gate["train"]["y"][:]
        path = files / "1.h5"
        match change:
            case "replaced":
                path.write_bytes((files / "0.h5").read_bytes())
            case "truncated":
                os.truncate(path, 100)
            case "touched":
                os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))
            case "removed":
                path.unlink()
        np.testing.assert_array_equal(gate["train"]["y"][:60], Y[:60])
        for rows in (slice(None), slice(60, 61), [99, 3]):
            with pytest.raises(errors.SourceChangedError, match=r"1\.h5 is not as it was .* or attach it anew"):
                gate["train"]["y"][rows]
        if gate.backend != "numpy":
            assert "1.h5" in repr(gate.verify().problems)

    def test_references_that_changed_are_named(self, gate, files, joined):
        gate.attach(joined)
        joined.write_text(joined.read_text() + " ")
        with pytest.raises(errors.SourceChangedError, match=r"joined\.json is not as it was"):
            gate["train"]["y"][:]


GOOD = described(Y, (N,))
BAD = {
    "no target": ({"y/.zarray": GOOD, "y/0": ["gone.bin", 0, 8]}, r"refers to .*gone\.bin, where there is no file"),
    "codec": ({"y/.zarray": described(Y, (N,), filters=[{"id": "fletcher32"}])}, "the codec 'fletcher32'"),
    "order": ({"y/.zarray": described(X, (N, 2), order="F")}, r"column after column \(order F\)"),
    "records": ({"y/.zarray": described(Y, (N,), dtype=[["a", "<i4"]])}, "its rows are records"),
    "objects": ({"y/.zarray": described(Y, (N,), dtype="|O")}, "has dtype object, which is not read in place"),
    "packed": ({"y/.zarray": GOOD, "y/.zattrs": '{"scale_factor": 2.0}'}, "has the attribute scale_factor = 2.0"),
    "missing": ({"y/.zarray": GOOD, "y/.zattrs": '{"_FillValue": -1}'}, "has the attribute _FillValue = -1"),
    "missing text": ({"y/.zarray": GOOD, "y/.zattrs": '{"missing_value": "none"}'}, "has the attribute missing_value"),
    "format 3": ({"y/zarr.json": "{}"}, "metadata of zarr's format 3"),
    "template": ({"y/.zarray": GOOD, "y/0": ["{{ f(c=1) }}/y", 0, 8]}, "a template of jinja"),
    "range": ({"y/.zarray": GOOD, "y/0": ["y", -1, 8]}, r"\['y', -1, 8\] is no URL"),
    "metadata": ({"y/.zarray": "[]"}, "no JSON of zarr"),
    "metadata elsewhere": ({"y/.zarray": ["y", 0, 8]}, "its metadata is elsewhere"),
    "shape": ({"y/.zarray": described(Y, (N,), shape=[-3])}, "cannot be"),
    "nothing": ({}, r"it has no arrays there \(arrays: none\)"),
    "fill": ({"y/.zarray": described(Y, (N,), fill="two")}, "cannot be opened as kerchunk"),
}


class TestRefusals:
    @pytest.mark.parametrize("bad", BAD)
    def test_what_is_not_read_is_named(self, gate, files, bad):
        refs, message = BAD[bad]
        path = save(files / "refs.json", refs)
        with pytest.raises((errors.SourceError, errors.DtypeError), match=message) as caught:
            gate.attach(path)
        assert "refs.json" in str(caught.value)
        assert gate.variables == ()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("[]", "no JSON of kerchunk's references, version 1"),
            ('{"x/.zarray": {}}', "no JSON of kerchunk's references, version 1"),
            ('{"version": 2, "refs": {}}', "no JSON of kerchunk's references, version 1"),
            ('{"version": 1, "refs": {}, "gen": [{}]}', "generates references"),
            ("{", "refs.json cannot be opened as kerchunk"),
        ],
    )
    def test_other_json(self, gate, files, text, message):
        (files / "refs.json").write_text(text)
        with pytest.raises(errors.SourceError, match=message):
            gate.attach(files / "refs.json")

    def test_references_in_parquet(self, gate, files):
        (files / "refs.parq").mkdir()
        (files / "refs.parq" / ".zmetadata").write_text("{}")
        with pytest.raises(errors.SourceError, match="references in Parquet are not read"):
            gate.attach(files / "refs.parq")

    @pytest.mark.parametrize(
        ("reference", "compressor"),
        [
            (["y.bin", 0, Y.nbytes - 1], None),
            (["y.bin", 8, Y.nbytes], None),
            (["y.bin", 0, 2**60], None),
            (["y.bin", 2**61, 8], None),
            (["y.bin", 0, Y.nbytes], {"id": "zlib"}),
            (["bomb.bin"], {"id": "zlib"}),
            (["bomb.gz"], {"id": "gzip"}),
            (["y.bin"], {"id": "blosc"}),
            (["y.bin"], {"id": "zstd"}),
            (["bomb.zst"], {"id": "zstd"}),
            ("short", None),
        ],
    )
    def test_chunks_that_are_damaged(self, gate, files, reference, compressor):
        Y.tofile(files / "y.bin")
        (files / "bomb.bin").write_bytes(zlib.compress(bytes(10**6)))
        (files / "bomb.gz").write_bytes(gzip.compress(bytes(10**6)))
        (files / "bomb.zst").write_bytes(numcodecs.Zstd().encode(bytes(10**6)))
        refs = {"y/.zarray": described(Y, (N,), compressor=compressor), "y/0": reference}
        gate.attach(save(files / "refs.json", refs))
        with pytest.raises(errors.SourceError, match=r"rows 0 to 100 of .*refs\.json cannot be read"):
            gate["train"]["y"][:]
