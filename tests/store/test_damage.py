"""Every file of a small store flipped, truncated, deleted or exchanged: an error that names it, or nothing lost."""

from __future__ import annotations

import itertools
import shutil

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.arrays.checksums import SHARDS_KEY
from storegate_engine.errors import CorruptStoreError, SnapshotExpired, StoreError, VersionNotFoundError
from tests.examples import in_turns

X = np.random.default_rng(0).random((48, 4000))
Y = np.arange(48)
T = np.array(["a", "bc"] * 24)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """Variables of several shards, of one and of text; three versions."""
    path = tmp_path_factory.mktemp("damage") / "store"
    with StoreGate("zarr", {"output_dir": path, "chunk": 4, "budget": "4MiB"}, "a") as gate:
        gate.add_data(["x", "t"], [X, T])
        gate.add_data("y", Y)
        gate["train"]["y"][[1, 7, 9]] = [0, 0, 0]
    return path


EXPECTED = {"x": X, "y": np.where(np.isin(np.arange(48), [1, 7, 9]), 0, Y), "t": T}


def keys(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 0x10]) + content[middle + 1 :]


DAMAGES = {"flip": flip, "truncate": lambda content: content[: len(content) // 2], "empty": lambda content: b""}


def find_out(store, *, reading=True):
    """Read and verify; return the texts of what was found wrong."""
    texts = []
    try:
        gate = StoreGate("zarr", {"output_dir": store, "mode": "r"}, "a")
        for name, rows in EXPECTED.items() if reading else ():
            try:
                np.testing.assert_array_equal(gate.get_data(name), rows)
            except StoreError as err:
                texts.append(str(err))
        texts += [f"{problem.key}: {problem.problem}" for problem in gate.verify().problems]
        for version in range(1, 4):
            StoreGate("zarr", {"output_dir": store}, "a", version=version)
    except (CorruptStoreError, SnapshotExpired, VersionNotFoundError) as err:
        texts.append(str(err))
    except StoreError as err:
        texts.append(f"{store}/storegate.json: {err}")
    return texts


def is_needed(key):
    """Whether our reader uses a file: the metadata of groups are for other programs."""
    return not key.endswith("zarr.json") or key.count("/") == 4


@pytest.mark.parametrize("damage", in_turns([*DAMAGES, "delete"], every=3))
def test_a_damaged_file_is_named_or_nothing_is_lost(original, tmp_path, damage):
    found, silent = 0, []
    for number, key in enumerate(keys(original)):
        store = tmp_path / f"store{number}"
        shutil.copytree(original, store)
        path = store / key
        path.write_bytes(DAMAGES[damage](path.read_bytes())) if damage in DAMAGES else path.unlink()
        newest = damage == "delete" and key == keys_of_manifests(original)[-1]  # what is read is the version before
        texts = find_out(store, reading=not newest)
        if texts:
            name = key.removeprefix("a/")
            where = {name, name.rpartition("/c/")[0] or name, f"{store}/{key}"}
            assert any(part in text for part in where for text in texts), (key, texts)
            found += 1
        else:
            silent.append(key)
    assert [key for key in silent if is_needed(key) and not harmless(key, damage)] == []
    assert found >= 10


def harmless(key, damage):
    """A bit of metadata that means nothing to us, such as one of an attribute, may flip."""
    return key.endswith("zarr.json") and damage == "flip"


def keys_of_manifests(path):
    return [key for key in keys(path) if "/manifests/" in key]


def test_without_its_newest_manifest_a_store_is_at_the_version_before(original, tmp_path):
    """Nothing else tells that there was a newer one: what can be said is that the rest is whole."""
    shutil.copytree(original, tmp_path / "store")
    (tmp_path / "store" / keys_of_manifests(original)[-1]).unlink()
    with StoreGate("zarr", {"output_dir": tmp_path / "store"}, "a") as gate:
        np.testing.assert_array_equal(gate.get_data("y"), Y)
        assert gate.verify().problems == ()


def exchangeable(path):
    """Pairs of files of the same kind: shards, manifests, metadata and checksums."""
    files = keys(path)
    kinds = {
        "shard": [key for key in files if "/c/" in key],
        "manifest": keys_of_manifests(path),
        "metadata": [key for key in files if key.endswith("zarr.json") and key.count("/") == 4],
        SHARDS_KEY: [key for key in files if key.endswith(SHARDS_KEY)],
    }
    for kind, names in kinds.items():
        yield from ((kind, first, second) for first, second in itertools.combinations(names, 2))


def test_exchanged_files_are_found_by_verify(original, tmp_path):
    pairs = list(exchangeable(original))
    kinds = [kind for kind, *_ in pairs]
    assert kinds.count("shard") >= 6
    assert kinds.count("manifest") >= 1
    for number, (_, first, second) in enumerate(pairs):
        if (original / first).read_bytes() == (original / second).read_bytes():
            continue
        store = tmp_path / f"store{number}"
        shutil.copytree(original, store)
        (store / first).write_bytes((original / second).read_bytes())
        (store / second).write_bytes((original / first).read_bytes())
        texts = find_out(store, reading=False)  # whole files of the right form are read as they are
        for key in (first, second):
            name = key.removeprefix("a/").rpartition("/c/")[0] or key.removeprefix("a/")
            if "/manifests/" in key and key != keys_of_manifests(original)[-1] and len(texts) == 1:
                continue  # the newest manifest is wrong: the store does not open, and no other one is looked at
            assert any(name.removesuffix("/zarr.json") in text for text in texts), (first, second, texts)
