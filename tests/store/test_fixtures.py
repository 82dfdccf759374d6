"""Stores of earlier releases, kept in ``tests/fixtures``: each opens, and has its known content, for ever."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate

FIXTURES = Path(__file__).parents[1] / "fixtures"
RELEASES = sorted(path for path in FIXTURES.iterdir() if path.suffix == ".zarr")

spec = importlib.util.spec_from_file_location("make_release", FIXTURES / "make_release.py")
make_release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(make_release)


@pytest.fixture(params=RELEASES, ids=lambda path: path.stem)
def release(request):
    return request.param


def reading(path, data_id="all kinds", **options):
    return StoreGate("zarr", {"output_dir": path, "mode": "r"}, data_id, **options)


def test_there_is_one_of_this_release():
    assert [path.name for path in RELEASES] == ["release-0.1.0.zarr"]


def test_every_row_is_the_known_one(release):
    gate = reading(release)
    order = np.random.RandomState(7).permutation(40)
    again = np.random.RandomState(3).permutation(20)
    for name, rows in make_release.rows().items():
        train, valid, test = np.split(rows[order], [20, 30])
        if name == "i8":
            train[[1, 5, 9]] = [-1, -2, -3]
        train = train[again].astype("f8") if name == "i8" else train[again]
        for phase, expected in {"train": train, "valid": valid, "test": test}.items():
            if (name, phase) == ("f4", "test"):
                assert name not in gate["test"]
                continue
            found = gate.get_data(name, phase)
            assert found.dtype == expected.dtype, name
            np.testing.assert_array_equal(found, expected, err_msg=name)
    np.testing.assert_array_equal(gate.get_data("zeros"), np.zeros((20, 2), "f4"))
    np.testing.assert_array_equal(gate.get_data("active", "all"), np.ones(40, int))


def test_every_version_opens(release):
    gate = reading(release)
    operations = "add_data add_data delete_data update_data shuffle astype onehot argmax create_empty compile".split()
    assert [commit.operation for commit in gate.history()] == operations
    first = reading(release, version=1)
    order = np.random.RandomState(7).permutation(40)
    np.testing.assert_array_equal(first.get_data("i8"), make_release.rows()["i8"][order][:20])
    assert len(reading(release, version=2).get_data("f4", "test")) == 13
    for version in range(1, 4):
        np.testing.assert_array_equal(reading(release, "shards", version=version).get_data("wide"), make_release.wide())


def test_all_is_as_it_was_written(release):
    assert reading(release).verify().problems == ()
    found = reading(release, "shards").verify()
    assert found.problems == ()
    shards = json.loads(next(release.glob("shards/manifests/00000001.json")).read_text())["state"]["arrays"]
    assert shards[0]["n_rows"] > shards[0]["shard_rows"]


def test_fingerprints_are_the_known_ones(release, tmp_path):
    """What is kept, what is computed from stored rows, and what is computed from the same rows in memory."""
    known = {
        "i8": "35fe0381d5356a54dfdb5e16e9458608c969ab7f6a4d8673b13c02518037e746",
        "word": "110a1c1520cb45392ef18652af55f590655acf02a0323f16c2e43e9e8067b4fe",
    }
    gate = reading(release)
    assert gate["train"].to_xarray().encoding["fingerprints"] == known
    plain = StoreGate(data_id="a")
    for name, expected in known.items():
        plain.add_data(name, gate.get_data(name))
        assert gate.fingerprint(name) == plain.fingerprint(name) == expected
    assert plain.fingerprint("i8") != reading(release, version=1).fingerprint("i8")


def test_writing_goes_on(release, tmp_path):
    shutil.copytree(release, tmp_path / "copy")
    gate = StoreGate("zarr", {"output_dir": tmp_path / "copy"}, "all kinds")
    before = gate.get_data("f4")
    gate.add_data("f4", make_release.rows()["f4"][:2])
    gate.compact(var_names="f4", phase="train")
    gate.vacuum(older_than=0)
    np.testing.assert_array_equal(gate.get_data("f4"), np.concatenate([before, make_release.rows()["f4"][:2]]))
    assert gate.verify().problems == ()
