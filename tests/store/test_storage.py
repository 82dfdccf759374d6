"""Stores on disk and elsewhere: what lies there, who else can open it, and what is refused."""

from __future__ import annotations

import copy
import gc
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr

from storegate import StoreGate
from storegate_engine.errors import CorruptStoreError, NotAStoreError, SnapshotExpired, StoreError, StoreNotFoundError
from storegate_engine.streams import Stream
from tests.processes import environment
from tests.store.storage_cases import ROWS, segment_paths


class TestFormat:
    def test_every_segment_opens_with_plain_xarray(self, stored, tmp_path):
        stored.add_data(list(ROWS), list(ROWS.values()), phase=(200, 50, 50))
        (segment,) = segment_paths(tmp_path / "store")
        with xr.open_zarr(segment, consolidated=False) as opened:
            assert opened["f"].dims == ("sample", "f_1")
            for name, rows in ROWS.items():
                found = opened[name].to_numpy()
                if name == "s":
                    found = np.array([text.encode("latin-1") for text in found.tolist()])
                elif name in "td":
                    found = found.astype(rows.dtype)
                np.testing.assert_array_equal(found.astype(rows.dtype), rows)

    def test_every_dtype_comes_back_in_another_process(self, stored, tmp_path):
        for name, rows in ROWS.items():
            stored.add_data(name, rows)
            for how in (slice(None), slice(7, 9), [5, 1, 299]):
                found = stored["train"][name][how]
                assert found.dtype == rows.dtype
                np.testing.assert_array_equal(found, rows[how])
        code = (
            "import sys, numpy as np; from storegate import StoreGate\n"
            f"gate = StoreGate('zarr', {{'output_dir': {str(tmp_path / 'store')!r}, 'mode': 'r'}}, 'test_id')\n"
            "for name in gate.get_var_names():\n"
            "    np.save(f'{sys.argv[1]}/{name}.npy', gate.get_data(name), allow_pickle=False)"
        )
        subprocess.run([sys.executable, "-c", code, tmp_path], check=True, env=environment())
        for name, rows in ROWS.items():
            np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), rows, err_msg=name)

    def test_chunks_are_checksummed_and_shards_hold_them(self, stored, tmp_path):
        stored.add_data("x", np.zeros((5000, 100), "f4"))
        (segment,) = segment_paths(tmp_path / "store")
        metadata = json.loads((segment / "x" / "zarr.json").read_text())
        (sharding,) = metadata["codecs"]
        assert sharding["name"] == "sharding_indexed"
        assert sharding["configuration"]["codecs"][-1]["name"] == "crc32c"

    @pytest.mark.parametrize("compressor", ["none", "zstd", zarr.codecs.GzipCodec(level=1)])
    def test_compressors(self, tmp_path, compressor):
        with StoreGate("zarr", {"output_dir": tmp_path, "compressor": compressor, "chunk": 10}, "a") as gate:
            gate.add_data("x", ROWS["f"])
            np.testing.assert_array_equal(gate.get_data("x"), ROWS["f"])

    def test_numcodecs_objects_as_the_predecessor_took_them(self, tmp_path):
        with StoreGate("zarr", {"output_dir": tmp_path, "compressor": numcodecs.Blosc("zstd", 3)}, "a") as gate:
            gate.add_data("x", ROWS["f"])
            np.testing.assert_array_equal(gate.get_data("x"), ROWS["f"])

    def test_no_byte_is_ever_changed(self, stored, tmp_path):
        """Every file that a later change finds is the same afterwards."""

        def files():
            return {path: path.read_bytes() for path in Path(tmp_path).rglob("*") if path.is_file()}

        stored.add_data(["x", "y"], [ROWS["f"], np.arange(300)], phase=(0.5, 0.25, 0.25))
        changes = [
            lambda: stored.add_data("x", ROWS["f"]),
            lambda: stored.update_data("y", [1, 2], index=(3, 5), do_compile=False),
            lambda: stored.astype("x", "f8"),
            lambda: stored.delete_data("x", "test", do_compile=False),
            lambda: stored.compact(),
            lambda: stored.clear_data(),
        ]
        for change in changes:
            before = files()
            change()
            after = files()
            assert before.items() <= after.items()


class TestOpening:
    def test_reading_only(self, stored, tmp_path):
        stored.add_data("x", np.arange(4), phase=(2, 1, 1))
        gate = StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "r"}, "test_id")
        changes = [
            lambda: gate.add_data("x", [1]),
            lambda: gate.update_data("x", [1], index=0),
            lambda: gate.delete_data("x"),
            lambda: gate.clear_data(),
            lambda: gate.create_empty("z", (2,)),
            lambda: gate.shuffle(),
            lambda: gate.astype("x", "f4"),
            lambda: gate.compact(),
            lambda: gate.compile(reset=True),
        ]
        for change in changes:
            with pytest.raises(PermissionError, match="mode='r'"):
                change()
        gate.compile()
        np.testing.assert_array_equal(gate.get_data("x", "all"), np.arange(4))

    def test_mode_w_starts_empty_and_spares_what_is_not_ours(self, stored, tmp_path):
        stored.add_data("x", [1, 2])
        again = StoreGate("zarr", {"output_dir": tmp_path / "store", "mode": "w"}, "test_id")
        assert again.get_var_names() == []
        other = tmp_path / "other"
        other.mkdir()
        (other / "thesis.tex").write_text("years of work")
        for mode in "wa":
            with pytest.raises(NotAStoreError, match="thesis.tex"):
                StoreGate("zarr", {"output_dir": other, "mode": mode}, "a")
        assert (other / "thesis.tex").read_text() == "years of work"
        with pytest.raises(OSError, match="no store"):
            StoreGate("zarr", {"output_dir": tmp_path / "none", "mode": "r"}, "a")
        assert not (tmp_path / "none").exists()

    def test_the_predecessors_format_is_not_read_as_ours(self, tmp_path):
        v2 = zarr.open_group(tmp_path / "v2", mode="w", zarr_format=2)
        v2.create_array("x", shape=(3,), dtype="f4")
        with pytest.raises(NotAStoreError, match="not a store"):
            StoreGate("zarr", {"output_dir": tmp_path / "v2"}, "a")

    def test_a_newer_format_is_refused(self, stored, tmp_path):
        (tmp_path / "store" / "storegate.json").write_text('{"format": "storegate", "format_version": 2}')
        with pytest.raises(StoreError, match="newer storegate"):
            StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")

    def test_temporary_directories_go(self):
        gate = StoreGate("zarr", data_id="a")
        directory = gate.repository().location.path
        gate.add_data("x", [1])
        assert directory.exists()
        gate.close()
        assert not directory.exists()
        with StoreGate("hybrid", data_id="a") as gate:
            directory = gate.repository().location.path
        assert not directory.exists()

    @pytest.mark.parametrize("shuffle", [None, 3])
    @pytest.mark.parametrize(
        "lazy",
        [
            lambda gate: gate["train"].to_xarray(),
            lambda gate: gate["train"].to_xarray()["x"][5:] + 1,
            lambda gate: gate["train"]["x"].data[::-1],
            lambda gate: gate["train"]["x"].data[[3, 1, 2]],
            lambda gate: gate.to_datatree()["train"]["x"],
            lambda gate: gate["train"]["x"].batches(64),
            lambda gate: pickle.loads(pickle.dumps(gate["train"].to_xarray()["x"])),
            lambda gate: copy.deepcopy(gate["train"].to_xarray()["x"]),
        ],
    )
    def test_a_temporary_directory_stays_with_what_reads_it(self, lazy, shuffle):
        def made():
            gate = StoreGate("zarr", None, "d")
            gate.add_data("x", ROWS["f"], shuffle=shuffle)
            return lazy(gate), lazy(gate), gate.repository().location.path

        def rows(data):
            return np.concatenate(list(data)) if isinstance(data, Stream) else np.asarray(data)

        kept, again, directory = made()
        gc.collect()
        assert directory.exists()
        found = [rows(data["x"] if isinstance(data, xr.Dataset) else data) for data in (kept, again)]
        np.testing.assert_array_equal(*found)
        assert np.isfinite(found[0]).all()
        del kept
        gc.collect()
        assert directory.exists()
        del again
        gc.collect()
        assert not directory.exists()

    def test_a_closed_temporary_store_says_so(self):
        with StoreGate("zarr", None, "d") as gate:
            gate.add_data("x", ROWS["f"])
            dataset = gate["train"].to_xarray()
        with pytest.raises(StoreNotFoundError, match="temporary one of a gate that has been closed"):
            dataset.compute()

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forked children")
    @pytest.mark.filterwarnings("ignore:This process.*fork:DeprecationWarning")
    def test_a_forked_child_leaves_the_temporary_directory(self):
        gate = StoreGate("zarr", None, "d")
        gate.add_data("x", ROWS["f"])
        child = os.fork()
        if not child:
            del gate
            gc.collect()
            os._exit(0)
        os.waitpid(child, 0)
        np.testing.assert_array_equal(gate.get_data("x"), ROWS["f"])

    def test_two_gates_see_each_others_commits(self, stored, tmp_path):
        other = StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")
        stored.add_data("x", [1, 2])
        np.testing.assert_array_equal(other.get_data("x"), [1, 2])
        other.add_data("x", [3])
        np.testing.assert_array_equal(stored.get_data("x"), [1, 2, 3])
        assert stored.get_data_ids() == ["test_id"]


class TestUrls:
    def test_memory(self):
        args = {"output_dir": "memory://test_urls"}
        gate = StoreGate("zarr", args, "a")
        for name, rows in ROWS.items():
            gate.add_data(name, rows, shuffle=1)
        again = StoreGate("zarr", args, "a")
        for name, rows in ROWS.items():
            np.testing.assert_array_equal(again.get_data(name), rows[np.random.RandomState(1).permutation(300)])
        assert again.get_data_ids() == ["a"]
        assert StoreGate("zarr", {**args, "mode": "w"}, "a").get_var_names() == []

    def test_rows_of_nothing_but_zeros_are_stored(self, stored):
        for gate in (StoreGate("zarr", {"output_dir": "memory://test_zeros", "chunk": 4}, "a"), stored):
            for name, rows in {"z": np.zeros((50, 3)), "b": np.zeros(9, bool), "s": np.array([""] * 9)}.items():
                gate.add_data(name, rows)
                np.testing.assert_array_equal(gate.get_data(name), rows)

    def test_file_url(self, tmp_path):
        gate = StoreGate("zarr", {"output_dir": f"file://{tmp_path}/store"}, "a")
        gate.add_data("x", [1])
        assert (tmp_path / "store" / "a" / "manifests").is_dir()

    def test_s3(self, s3_args):
        gate = StoreGate("zarr", s3_args, "a")
        gate.add_data(["f", "u"], [ROWS["f"], ROWS["u"]], phase=(200, 50, 50), shuffle=3)
        gate.compile()
        again = StoreGate("zarr", {**s3_args, "mode": "r"}, "a")
        order = np.random.RandomState(3).permutation(300)
        np.testing.assert_array_equal(again.get_data("f", "all"), ROWS["f"][order])
        np.testing.assert_array_equal(again["valid"].to_xarray()["u"].values, ROWS["u"][order][200:250])
        assert again.get_data_ids() == ["a"]

    def test_storage_options_stay_out_of_the_store(self, s3_args):
        gate = StoreGate("zarr", s3_args, "a")
        gate.add_data("x", [1])
        assert "secret" not in repr(gate.repository().location)
        content = gate.repository().location.read("manifests/00000001.json")
        assert b"secret" not in content


class TestBrokenStores:
    def broken(self, stored, tmp_path, damage):
        stored.add_data("x", np.random.default_rng(0).random((100, 10)))
        (segment,) = segment_paths(tmp_path / "store")
        (chunk,) = (path for path in (segment / "x" / "c").rglob("*") if path.is_file())
        damage(chunk)
        return StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")

    def test_a_flipped_bit(self, stored, tmp_path):
        def flip(path):
            content = bytearray(path.read_bytes())
            content[100] ^= 1
            path.write_bytes(content)

        with pytest.raises(CorruptStoreError, match="'x'"):
            self.broken(stored, tmp_path, flip).get_data("x")

    def test_a_truncated_file(self, stored, tmp_path):
        with pytest.raises(CorruptStoreError, match="'x'"):
            self.broken(stored, tmp_path, lambda path: path.write_bytes(path.read_bytes()[:50])).get_data("x")

    def test_a_missing_chunk_is_never_zeros(self, stored, tmp_path):
        with pytest.raises(CorruptStoreError, match="'x'"):
            self.broken(stored, tmp_path, Path.unlink).get_data("x")

    def test_a_missing_chunk_read_with_zarr_python(self):
        gate = StoreGate("zarr", {"output_dir": "memory://test_missing"}, "a")
        gate.add_data("x", np.random.default_rng(0).random((100, 10)))
        location = gate.repository().location
        (key,) = (entry.key for entry in location.entries() if "/c/" in entry.key)
        location.delete(key)
        with pytest.raises(CorruptStoreError, match="missing"):
            gate.get_data("x")

    def test_a_missing_segment(self, stored, tmp_path):
        import shutil

        with pytest.raises(SnapshotExpired, match="vacuumed"):
            self.broken(stored, tmp_path, lambda path: shutil.rmtree(path.parents[3])).get_data("x")

    def test_a_changed_manifest(self, stored, tmp_path):
        stored.add_data("x", [1, 2, 3])
        manifest = tmp_path / "store" / "test_id" / "manifests" / "00000001.json"
        manifest.write_text(manifest.read_text().replace('"add_data"', '"add_dat"'))
        with pytest.raises(CorruptStoreError, match="checksum"):
            StoreGate("zarr", {"output_dir": tmp_path / "store"}, "test_id")
