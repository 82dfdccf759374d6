"""Texts in files of other programs are read where they are; numpy has the values to compare with."""

from __future__ import annotations

import itertools

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zarr

from storegate import StoreGate, errors

N = 1000
CUTS = [0, 100, 100, 101, 640, N]
"""Files of different lengths, one of which has no rows."""


@pytest.fixture(params=["numpy", "zarr", "hybrid"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store"}
    with StoreGate(request.param, args, data_id="a") as gate:
        yield gate


@pytest.fixture
def files(tmp_path):
    (tmp_path / "files").mkdir()
    return tmp_path / "files"


TEXTS = np.array([f"é{at}" * (at % 5) for at in range(N)], object)


def hdf5_texts(directory):
    for at, (lo, hi) in enumerate(itertools.pairwise(CUTS)):
        with h5py.File(directory / f"run{at}.h5", "w") as file:
            options = {"chunks": (16,), "compression": "gzip"} if at % 2 and hi > lo else {}
            file.create_dataset("t", data=TEXTS[lo:hi], dtype=h5py.string_dtype(), **options)
    return directory / "*.h5"


def parquet_texts(directory):
    for at, (lo, hi) in enumerate(itertools.pairwise(CUTS)):
        kind = [pa.string(), pa.large_string()][at % 2]
        table = pa.table({"t": pa.array(TEXTS[lo:hi], kind)})
        pyarrow.parquet.write_table(table, directory / f"run{at}.parquet", row_group_size=70)
    return directory / "*.parquet"


def zarr_texts(version):
    def write(directory):
        for at, (lo, hi) in enumerate(itertools.pairwise(CUTS)):
            group = zarr.open_group(directory / f"run{at}.zarr", mode="w", zarr_format=version)
            array = group.create_array("t", shape=(hi - lo,), chunks=(50,), dtype=str)
            array[:] = TEXTS[lo:hi]
        return directory / "*.zarr"

    return write


@pytest.mark.parametrize("write", [hdf5_texts, parquet_texts, zarr_texts(2), zarr_texts(3)])
def test_texts_of_any_length_are_read_where_they_are(gate, files, write):
    gate.attach(write(files), shuffle=3)
    expected = TEXTS[np.random.RandomState(3).permutation(N)]
    assert gate["train"]["t"].dtype == np.dtypes.StringDType()
    np.testing.assert_array_equal(gate["train"]["t"][:], expected)
    np.testing.assert_array_equal(gate["train"]["t"][[999, 4, 4]], expected[[999, 4, 4]])
    for shuffle in (True, False):
        batches = list(gate["train"]["t"].batches(64, shuffle=shuffle))
        assert sorted(np.concatenate(batches).tolist()) == sorted(TEXTS)
    with StoreGate(data_id="b") as direct:
        direct.add_data("t", TEXTS.astype(np.dtypes.StringDType()), shuffle=3)
        assert gate.fingerprint("t") == direct.fingerprint("t")
    size = gate.table["train"]["t"].pieces[0].array.text
    nbytes = [4 + len(text.encode()) for text in TEXTS]
    assert (size.nbytes, size.largest_nbytes) == (sum(nbytes), max(nbytes))
    if gate.backend != "numpy":
        with StoreGate.open(gate.repository().location.path.parent, references=[files]) as again:
            assert again.table["train"]["t"].pieces[0].array.text == size
    gate.compact()
    np.testing.assert_array_equal(gate["train"]["t"][:], expected)


@pytest.mark.parametrize("charset", ["ascii", "utf-8"])
def test_texts_of_one_width_are_those_of_numpy(gate, files, charset):
    texts = np.array([b"a", b"", b"abc"], "S5")
    with h5py.File(files / "a.h5", "w") as file:
        file["t"] = texts.astype(h5py.string_dtype(charset, 5))
        rows = np.tile(texts, (2, 1)).T.astype(h5py.string_dtype(charset, 5))
        file.create_dataset("rows", data=rows, chunks=(2, 2), compression="lzf")
    np.save(files / "u.npy", np.array(["é", "ab"]))
    gate.attach(files / "a.h5")
    gate.attach(files / "u.npy", "u", phase="test")
    assert gate["train"]["t"].dtype == np.dtype("S5")
    np.testing.assert_array_equal(gate["train"]["t"][:], texts)
    np.testing.assert_array_equal(gate["train"]["rows"][[2, 0]], np.tile(texts, (2, 1)).T[[2, 0]])
    np.testing.assert_array_equal(gate["test"]["u"][:], ["é", "ab"])


def test_what_is_no_text_names_the_file(gate, files):
    with h5py.File(files / "a.h5", "w") as file:
        file.create_dataset("t", data=np.array([b"\xff\xfe"], object), dtype=h5py.string_dtype())
    with pytest.raises(errors.SourceError, match=r"rows 0 to 1 of .*a\.h5 cannot be read: .*decode"):
        gate.attach(files / "a.h5")
    pyarrow.parquet.write_table(pa.table({"t": ["a", None]}), files / "n.parquet")
    with pytest.raises(errors.SourceError, match=r"n\.parquet .* column 't': 1 values are null"):
        gate.attach(files / "n.parquet")
    assert gate.variables == ()
