"""zarr, AnnData and images: what their own libraries wrote comes in as numpy has it."""

from __future__ import annotations

import sys
from pathlib import Path

import anndata
import numcodecs
import numpy as np
import pandas as pd
import PIL.Image
import pytest
import zarr

from storegate import StoreGate
from storegate_engine.errors import (
    ArgumentError,
    DtypeError,
    FilesNotFoundError,
    MissingValueError,
    ShapeError,
    UnreadableFileError,
    VariableNotFoundError,
)
from tests.examples import in_turns
from tests.readers.measuring import MIB, grown

FIXTURES = Path(__file__).parent


def assert_rows(gate, expected, phase="train"):
    assert gate.get_var_names(phase) == list(expected)
    for name, rows in expected.items():
        found = gate.get_data(name, phase)
        assert found.dtype == rows.dtype
        np.testing.assert_array_equal(found, rows)


# -------------------------------------------------------------------------------------------- zarr


def columns(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    return {"x": rng.random((n_rows, 3), dtype="f4"), "y": rng.integers(0, 9, n_rows)}


def write(path, rows, zarr_format, group=""):
    root = zarr.open_group(path, mode="a", zarr_format=zarr_format)
    root = root.require_group(group) if group else root
    for name, part in rows.items():
        array = root.create_array(name, shape=part.shape, dtype=part.dtype, chunks=(7, *part.shape[1:]))
        array[...] = part


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_globs_of_zarr(gate, tmp_path, zarr_format):
    parts = [columns(n_rows, n_rows) for n_rows in (30, 1, 12)]
    for at, part in enumerate(parts):
        write(tmp_path / f"{at}.zarr", part, zarr_format)
    write(tmp_path / "other", parts[2], zarr_format, "a/b")
    gate.read(tmp_path / "*.zarr")
    gate.read(tmp_path / "other", group="a/b", phase="test")
    gate.read(f"{tmp_path}/0.zarr:y", "y", "valid")
    assert_rows(gate, {name: np.concatenate([part[name] for part in parts]) for name in "xy"})
    assert_rows(gate, parts[2], "test")
    assert_rows(gate, {"y": parts[0]["y"]}, "valid")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups_of_zarr(gate, tmp_path, zarr_format, unchanged):
    part = columns(30)
    write(tmp_path / "a.zarr", part, zarr_format, "deep")
    write(tmp_path / "b.zarr", part, zarr_format, "deep")
    with unchanged(gate):
        with pytest.raises(DtypeError, match=r"a\.zarr: 'deep' of '' are groups; choose one, as in group='deep'"):
            gate.read(tmp_path / "a.zarr")
        with pytest.raises(VariableNotFoundError, match="no group or array 'deeb'; did you mean 'deep'"):
            gate.read(tmp_path / "a.zarr", group="deeb")


CODECS = {
    (2, "blosc"): numcodecs.Blosc("lz4"),
    (2, "zstd"): numcodecs.Zstd(),
    (2, "none"): None,
    (3, "blosc"): zarr.codecs.BloscCodec(cname="zstd"),
    (3, "zstd"): zarr.codecs.ZstdCodec(),
    (3, "none"): None,
}


@pytest.mark.parametrize(("cut", "zarr_format_and_codec"), in_turns([1, 5, 30], CODECS, every=4))
def test_truncated_chunks_of_zarr(gate, tmp_path, zarr_format_and_codec, cut, unchanged):
    zarr_format, codec = zarr_format_and_codec
    rows = np.random.default_rng(0).integers(0, 1000, 30)
    for name in "abc":
        root = zarr.open_group(tmp_path / f"{name}.zarr", mode="w", zarr_format=zarr_format)
        made = root.create_array("y", shape=(30,), dtype="i8", chunks=(7,), compressors=CODECS[zarr_format, codec])
        made[...] = rows
    chunk = next(path for path in (tmp_path / "b.zarr/y").rglob("2") if path.is_file())
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-cut])
    with unchanged(gate), pytest.raises(UnreadableFileError, match=r"^\S+/b\.zarr"):
        gate.read(tmp_path / "*.zarr")
    chunk.write_bytes(whole)
    gate.read(tmp_path / "*.zarr")
    np.testing.assert_array_equal(gate.get_data("y"), np.tile(rows, 3))


def test_a_store_of_the_predecessor(gate):
    for phase, numbers in (("train", range(6)), ("valid", range(6, 8)), ("test", range(8, 10))):
        gate.read(FIXTURES / "multiml-v2.zarr", phase=phase, group=f"conf/{phase}")
        i = np.array(numbers)
        expected = {"f": i / 2, "i": i, "s": i.astype("U3"), "v": i[:, np.newaxis] * 3 + np.arange(3)}
        assert_rows(gate, expected, phase)
    with pytest.raises(DtypeError, match="'conf' of '' are groups"):
        gate.read(FIXTURES / "multiml-v2.zarr")
    with pytest.raises(DtypeError, match="'test', 'train', 'valid' of 'conf' are groups; .*group='conf/test'"):
        gate.read(FIXTURES / "multiml-v2.zarr", group="conf")


# ----------------------------------------------------------------------------------------- AnnData


def cells(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.random((n_rows, 5), dtype="f4")
    frame = pd.DataFrame(
        {"kind": pd.Categorical(rng.choice(["T", "B"], n_rows)), "depth": rng.integers(0, 99, n_rows)},
        index=[f"cell{seed}-{at}" for at in range(n_rows)],
    )
    return anndata.AnnData(x, obs=frame, layers={"raw": x * 2})


def test_anndata(gate, tmp_path):
    parts = [cells(20, 1), cells(3, 2)]
    for at, part in enumerate(parts):
        part.write_h5ad(tmp_path / f"{at}.h5ad")
    gate.read(tmp_path / "*.h5ad")
    for name, rows in (
        ("X", [part.X for part in parts]),
        ("raw", [part.layers["raw"] for part in parts]),
        ("depth", [part.obs["depth"].to_numpy() for part in parts]),
        ("obs_names", [part.obs_names.to_numpy(str) for part in parts]),
    ):
        np.testing.assert_array_equal(gate.get_data(name), np.concatenate(rows))
    values = gate.table["train"]["kind"].about.categories
    assert [values[code] for code in gate.get_data("kind")] == [kind for part in parts for kind in part.obs["kind"]]


def test_columns_of_observations(gate, tmp_path, unchanged):
    frame = pd.DataFrame(
        {
            "ok": [True, False, True],
            "score": np.array([0.5, np.nan, 2.0], "f4"),
            "text": ["é", "", "c"],
            "stage": pd.Categorical(["late", "early", "late"], ["early", "late"], ordered=True),
            "count": pd.array([1, 2, 3], "Int64"),
            "number": pd.Categorical([30, 10, 30]),
        },
        index=["a", "b", "c"],
    )
    anndata.AnnData(obs=frame).write_h5ad(tmp_path / "a.h5ad")
    gate.read(tmp_path / "a.h5ad")
    assert gate.get_var_names() == ["obs_names", *frame]
    for name in ("ok", "score", "text", "count"):
        np.testing.assert_array_equal(gate.get_data(name), frame[name].to_numpy())
    table = gate.table["train"]
    assert (table["stage"].about.categories, table["stage"].about.is_ordered) == (("early", "late"), True)
    assert (table["number"].about.categories, gate.get_data("number").tolist()) == ((10, 30), [1, 0, 1])
    frame["stage"] = pd.Categorical(["late", None, "late"], ["early", "late"], ordered=True)
    anndata.AnnData(obs=frame).write_h5ad(tmp_path / "b.h5ad")
    with unchanged(gate), pytest.raises(MissingValueError, match=r"b\.h5ad: variable 'stage': 1 values are null"):
        gate.read(tmp_path / "*.h5ad", phase="test")
    frame["number"] = pd.Categorical(list("aba"))
    anndata.AnnData(obs=frame).write_h5ad(tmp_path / "b.h5ad")
    with (
        unchanged(gate),
        pytest.raises(DtypeError, match=r"b\.h5ad: column 'number': .* of int and str"),
    ):
        gate.read(tmp_path / "*.h5ad", ["number"], phase="test")
    gate.read(tmp_path / "*.h5ad", ["score", "obs_names"], phase="test")
    assert gate.get_data("obs_names", "test").tolist() == list("abcabc")


def test_a_truncated_anndata(gate, tmp_path, unchanged):
    for at in range(2):
        cells(200, at).write_h5ad(tmp_path / f"{at}.h5ad")
    whole = (tmp_path / "1.h5ad").read_bytes()
    (tmp_path / "1.h5ad").write_bytes(whole[: len(whole) // 2])
    with unchanged(gate), pytest.raises(UnreadableFileError, match=r"1\.h5ad cannot be read"):
        gate.read(tmp_path / "*.h5ad")


# ------------------------------------------------------------------------------------------ images


@pytest.fixture
def imgs(tmp_path):
    """Return a folder of images of two classes, and their pixels in the order of their paths."""
    rng = np.random.default_rng(0)
    pixels = []
    for folder, numbers in (("cat", (1, 2, 10)), ("dog", (3, 20))):
        (tmp_path / "imgs" / folder).mkdir(parents=True)
        for number in numbers:
            pixels.append(rng.integers(0, 256, (8, 6, 3), dtype="u1"))
            PIL.Image.fromarray(pixels[-1]).save(tmp_path / "imgs" / folder / f"{number}.png")
    return tmp_path / "imgs", np.stack(pixels)


def test_folders_of_images(gate, imgs):
    folder, pixels = imgs
    gate.read(folder / "*" / "*", label="folder")
    assert_rows(gate, {"image": pixels, "label": np.array([0, 0, 0, 1, 1], "i4")})
    assert gate.table["train"]["label"].about.categories == ("cat", "dog")
    gate.read(folder / "dog" / "*", ["label"], "test", label="folder")  # the codes go on
    assert gate.get_data("label", "test").tolist() == [1, 1]


def test_sizes_and_colors(gate, imgs):
    folder, pixels = imgs
    PIL.Image.fromarray(pixels[0, :4, :, 0]).save(folder / "cat" / "11.png")  # grey, and lower
    with pytest.raises(ShapeError, match=r"11\.png: column 'image' has rows of shape \(4, 6\).*size=.*colors='RGB'"):
        gate.read(folder / "*" / "*")
    gate.read(folder / "*" / "*", size=(4, 2), colors="RGB")
    images = [PIL.Image.fromarray(rows) for rows in (*pixels[:3], pixels[0, :4, :, 0], *pixels[3:])]
    expected = np.stack([np.asarray(image.convert("RGB").resize((2, 4))) for image in images])
    np.testing.assert_array_equal(gate.get_data("image"), expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "I;16", "I", "F"])
def test_modes_of_images(tmp_path, mode):
    rng = np.random.default_rng(0)
    rows = {
        "1": rng.random((5, 4)) < 0.5,
        "I;16": rng.integers(0, 2**16, (5, 4), dtype="u2"),
        "I": rng.integers(0, 2**30, (5, 4), dtype="i4"),
        "F": rng.random((5, 4), dtype="f4"),
    }.get(mode, rng.integers(0, 256, (5, 4, len(mode))[: 2 + (len(mode) > 1)], dtype="u1"))
    image = PIL.Image.fromarray(rows)
    assert image.mode == mode
    image.save(tmp_path / ("a.tiff" if mode in ("I", "F") else "a.png"))
    with StoreGate(data_id="a") as gate:
        gate.read(tmp_path / "a.*")
        assert_rows(gate, {"image": rows[np.newaxis]})


def test_images_that_cannot_be_read(gate, imgs, unchanged):
    folder, pixels = imgs
    with unchanged(gate):
        with pytest.raises(ArgumentError, match=r"1\.png: size is \(height, width\) in pixels, found 64"):
            gate.read(folder / "*" / "*", size=64)
        with pytest.raises(ArgumentError, match="label='name' is not known; give label='folder'"):
            gate.read(folder / "*" / "*", label="name")
        with pytest.raises(FilesNotFoundError, match="no file"):
            gate.read(folder / "*" / "*" / "*")
        PIL.Image.fromarray(pixels[0]).convert("P").save(folder / "cat" / "3.png")
        with pytest.raises(DtypeError, match=r"3\.png: its pixels are of mode 'P'.*colors='RGB'"):
            gate.read(folder / "*" / "*")
        whole = (folder / "cat" / "1.png").read_bytes()
        (folder / "cat" / "3.png").write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(UnreadableFileError, match=r"3\.png cannot be read"):
            gate.read(folder / "*" / "*")


# ------------------------------------------------------------------------------------------ memory


def large(path, rows):
    """Write 200 MB as zarr or h5ad."""
    rng = np.random.default_rng(1)
    if path.suffix == ".zarr":
        array = zarr.open_group(path, mode="w").create_array("X", shape=(rows, 64), dtype="f4", chunks=(5000, 64))
        for lo in range(0, rows, 50_000):
            array[lo : lo + 50_000] = rng.random((min(50_000, rows - lo), 64), dtype="f4")
        return
    frame = pd.DataFrame({"depth": np.arange(rows)}, index=np.arange(rows).astype(str))
    x = rng.random((rows, 64), dtype="f4")
    anndata.AnnData(x, obs=frame, layers={"raw": x}).write_h5ad(path)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a single call is known on Linux alone")
@pytest.mark.parametrize(("form", "names"), [("zarr", ["X"]), ("h5ad", ["X", "raw", "depth"])])
def test_large_stores_are_read_within_the_budget(tmp_path, form, names):
    large(tmp_path / f"warm.{form}", 100)
    large(tmp_path / f"large.{form}", 600_000)
    found = grown(tmp_path, tmp_path / f"large.{form}", tmp_path / f"warm.{form}", 64 * MIB, names)
    print(f"{form}: {found / MIB:.1f} MiB")
    assert found <= 64 * MIB
    with StoreGate.open(tmp_path / "store") as gate:
        assert gate.sizes["train"] == 600_000


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a single call is known on Linux alone")
def test_many_images_are_read_within_the_budget(tmp_path):
    rng = np.random.default_rng(1)
    for folder, count in (("warm", 2), ("large", 400)):
        (tmp_path / folder).mkdir()
        for at in range(count):
            PIL.Image.fromarray(rng.integers(0, 256, (512, 512, 3), dtype="u1")).save(tmp_path / folder / f"{at}.bmp")
    found = grown(tmp_path, tmp_path / "large" / "*", tmp_path / "warm" / "*", 64 * MIB, label="folder")
    print(f"images: {found / MIB:.1f} MiB")
    assert found <= 64 * MIB
