"""Verification and fingerprints: whether rows are what was written, and what they are."""

from __future__ import annotations

import os
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine import testing
from storegate_engine.arrays import checks
from tests import unchecked
from tests.examples import examples
from tests.store.versions_cases import X


class TestVerify:
    @pytest.fixture
    def sharded(self, tmp_path):
        """An array of many shards of one chunk, one of a single shard, text and an index."""
        with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 4, "budget": "4MiB"}, "test_id") as gate:
            gate.add_data(["x", "t"], [np.random.default_rng(0).random((64, 4000)), np.array(["a", "bc"] * 32)])
            gate["train"]["t"][list(range(0, 64, 2))] = ["z"] * 32
            yield gate

    def shards(self, tmp_path):
        return sorted(p for p in tmp_path.glob("store/test_id/segments/*/x/c/**/*") if p.is_file())

    def test_all_is_well(self, sharded, tmp_path):
        found = sharded.verify()
        assert found.problems == ()
        assert {row.used_by for row in found if row.used_by} == {"train/x", "train/t"}
        assert len(self.shards(tmp_path)) > 4
        assert repr(found).splitlines()[0].split() == ["key", "used_by", "nbytes", "problem"]

    def test_a_shard_exchanged_for_another_is_found(self, sharded, tmp_path):
        first, second, *_ = self.shards(tmp_path)
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        sharded.get_data("x")  # each decodes, and has the checksum of its chunks
        wrong = [row.key for row in sharded.verify().problems]
        assert wrong == [str(path.relative_to(tmp_path / "store/test_id")) for path in (first, second)]

    def test_the_same_with_one_shard(self, stored, tmp_path):
        """Here the manifest alone knows."""
        stored.add_data("x", X)
        stored.add_data("x", X + 1)
        first, second = (p for p in tmp_path.glob("store/test_id/segments/*/x/c/**/*") if p.is_file())
        first.write_bytes(second.read_bytes())
        (problem,) = stored.verify().problems
        assert "checksum does not match" in problem.problem
        assert problem.used_by == "train/x"
        assert first.parents[3].name in problem.key

    @pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
    def test_broken_shards_are_named(self, sharded, tmp_path, damage):
        path = self.shards(tmp_path)[2]
        content = bytearray(path.read_bytes())
        content[50] ^= 1
        damages = {"flip": content, "truncate": content[:20]}
        path.write_bytes(damages[damage]) if damage in damages else path.unlink()
        (problem,) = sharded.verify().problems
        assert problem.key == str(path.relative_to(tmp_path / "store/test_id"))

    def test_an_array_of_endless_wrong_shards_ends(self, sharded, tmp_path, monkeypatch):
        monkeypatch.setattr(checks, "MAX_WRONG", 3)
        for path in self.shards(tmp_path):
            path.unlink()
        *first, last = sharded.verify().problems
        assert len(first) == 3
        assert "3 shards are damaged" in last.problem

    @pytest.mark.parametrize("content", [None, b"", b"1234567", b"\0" * 32, b"x" * 10**6], ids=range(5))
    def test_broken_checksums_are_named(self, sharded, tmp_path, content):
        (path,) = tmp_path.glob("store/test_id/segments/*/x/shards.crc32c")
        path.unlink() if content is None else path.write_bytes(content)
        keys = [row.key for row in sharded.verify().problems]
        assert keys == [str(path.relative_to(tmp_path / "store/test_id"))]

    def test_a_missing_version_in_between_is_named(self, sharded, tmp_path):
        sharded.shuffle()
        (tmp_path / "store/test_id/manifests/00000002.json").unlink()
        (problem,) = sharded.verify().problems
        assert problem.key == "manifests/00000002.json"

    @pytest.mark.parametrize("plan", ["gather", "exchange"])
    def test_rewritten_rows_have_checksums_too(self, sharded, plan, tmp_path):
        import dask

        sharded.shuffle()
        with dask.config.set({"storegate.shuffle": plan}):
            sharded.compact()
        sharded.vacuum(older_than=0)
        assert sharded.verify().problems == ()
        first, second, *_ = self.shards(tmp_path)
        first.write_bytes(second.read_bytes())
        assert len(sharded.verify().problems) == 1

    @pytest.mark.parametrize("dtype", ["U3", "S4", "M8[M]", "m8[ms]", "f2", "bool", "c8", "T"])
    def test_every_dtype(self, stored, dtype):
        kind = np.dtypes.StringDType() if dtype == "T" else np.dtype(dtype)
        rows = testing.random_rows(np.random.default_rng(0), 50, np.dtype("U3") if dtype == "T" else kind, (2,))
        stored.add_data("x", rows.astype(kind))
        assert stored.verify().problems == ()


class TestFingerprints:
    @given(st.data())
    @settings(max_examples=examples(25), deadline=None)
    def test_equal_rows_have_equal_fingerprints_however_they_were_made(self, tmp_path_factory, data):
        rows = data.draw(testing.arrays(max_rows=30))
        seed = data.draw(st.integers(0, 99))
        cut = data.draw(st.integers(0, len(rows)))
        tmp_path = tmp_path_factory.mktemp("store")
        plain = StoreGate(data_id="a")
        plain.add_data("x", rows)
        other = StoreGate("zarr", {"output_dir": tmp_path, "chunk": 3, "compressor": "zstd"}, "b")
        order = np.argsort(np.random.RandomState(seed).permutation(len(rows)))
        other.add_data("y", rows[order][:cut])
        other.add_data("y", rows[order][cut:])
        other.shuffle(seed=seed)
        expected = plain.fingerprint("x")
        assert other.fingerprint("y") == expected
        other.compact()
        assert other.fingerprint("y") == expected
        assert len(expected) == 64

    def test_other_rows_have_others(self):
        def of(rows):
            gate = StoreGate(data_id="a")
            gate.add_data("x", rows)
            return gate.fingerprint("x")

        rows = [X, X[::-1], X.astype("f8"), X.reshape(40), X.reshape(10, 4), X[:19], X + 1e-6]
        texts = [np.array(t, np.dtypes.StringDType()) for t in (["ab", "c"], ["a", "bc"], ["abc"], ["ab", "c", ""])]
        assert len({of(value) for value in [*rows, *texts]}) == len(rows) + len(texts)

    def test_known_ones_are_in_attrs_and_outlive_the_process(self, stored, tmp_path, counted_reads):
        stored.add_data(["x", "y"], [X, np.arange(20)])
        assert "fingerprints" not in stored["train"].to_xarray().encoding
        found = stored.fingerprint()
        assert set(found) == {"x", "y"}
        stored.shuffle("train", 1)
        stored.rollback(1)
        os.rename(tmp_path / "store", tmp_path / "moved")
        moved = StoreGate("zarr", {"output_dir": tmp_path / "moved", "mode": "r"}, "test_id")
        counted_reads.clear()
        dataset = moved["train"].to_xarray()
        assert dataset.encoding["fingerprints"] == found
        assert moved.fingerprint("x") == found["x"]
        assert counted_reads == []
        assert isinstance(dataset, xr.Dataset)
        again = StoreGate("zarr", {"output_dir": tmp_path / "moved"}, "test_id")
        again.shuffle("train", 1)
        assert "fingerprints" not in again["train"].to_xarray().encoding
        again.vacuum(older_than=0)
        assert len(list(Path(tmp_path / "moved/test_id/fingerprints").iterdir())) == 0

    def test_every_version_carries_them_where_that_is_set(self, tmp_path, counted_reads):
        stored = StoreGate("hybrid", {"output_dir": tmp_path}, "a")
        stored.set_mode("zarr")  # version 1, which is empty
        model = {"x": X, "y": np.arange(20)}
        expected = {}

        def carried():
            plain = StoreGate(data_id="a")
            for name, rows in model.items():
                plain.add_data(name, rows)
            expected[stored.history()[-1].version] = plain.fingerprint()

        with dask.config.set({"storegate.fingerprints": True}):
            stored.add_data(["x", "y"], list(model.values()))
            carried()
            stored.shuffle("train", 1)
            model = {name: rows[np.random.RandomState(1).permutation(20)] for name, rows in model.items()}
            carried()
            stored.astype("x", "f2")
            model["x"] = model["x"].astype("f2")
            carried()
            stored.to_memory("y", output_var_names="z")
            stored.to_storage("z")
            model["z"] = model["y"]
            carried()
            stored.compact()
            carried()
            assert [1, *expected] == [commit.version for commit in stored.history()]
        for version, found in expected.items():
            old = StoreGate("zarr", {"output_dir": tmp_path}, "a", version=version)
            counted_reads.clear()
            assert old["train"].to_xarray().encoding["fingerprints"] == found, version
            assert counted_reads == []

    def test_a_version_is_committed_also_where_its_fingerprint_cannot_be_made(self, stored):
        with dask.config.set({"storegate.fingerprints": True}):
            stored.add_data(["x", "y"], [X, np.arange(20)])
            unchecked.onehot(stored, "y", 10)
            with pytest.warns(
                UserWarning, match=r"version 3 was committed without a fingerprint of train/y: .*found 10"
            ):
                stored.astype("x", "f8")
        assert len(stored.history()) == 3
        assert set(stored["train"].to_xarray().encoding["fingerprints"]) == {"x"}

    def test_within_the_memory_limit_by_an_exchange(self, tmp_path, monkeypatch):
        from storegate_engine.exchange import driver

        collected = []
        collect = driver.collect
        monkeypatch.setattr(driver, "collect", lambda *a, **k: collected.append(1) or collect(*a, **k))
        rows = np.random.default_rng(0).random((20_000, 32), dtype="f4")
        gate = StoreGate("zarr", {"output_dir": tmp_path, "budget": "2MiB"}, "a")
        gate.add_data("x", rows, shuffle=5)
        plain = StoreGate(data_id="a")
        plain.add_data("x", rows[np.random.RandomState(5).permutation(20_000)])
        assert gate.fingerprint("x") == plain.fingerprint("x")
        assert len(collected) > 1
