"""Fuzzing: manifests, ``zarr.json`` and shards that were changed anywhere are read as written, or refused by name."""

from __future__ import annotations

import hashlib
import json
import random
import resource
import shutil
import struct
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from crc32c import crc32c

from storegate import StoreGate
from storegate_engine.errors import CorruptStoreError, MemoryBudgetError, StoreError

GROWTH_NBYTES = 512 * 2**20
VALUES = (
    None, True, False, 0, 1, -1, 2, 7, 63, 64, 65, 2**31, 2**32, 2**53, 2**63, 2**64, -(2**63), 10**30, 0.5, 1e308,
    float("nan"), "", "x", "../x", "/etc", "\x00", "\ud800", "f8", "O", "U9999999", "M8[99999999999s]", "string",
    "zstd", [], [0], [[]], [-1, 2], {}, {"name": "x"}, ["range", 0, 2**40], ["cast", "<U2000000"],
    ["permute", ["range", 0, 64], "numpy", 0],
)  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "store"
    with StoreGate("zarr", {"output_dir": path, "chunk": 16, "compressor": "zstd"}, "a") as gate:
        rows = np.random.default_rng(0).integers(0, 9, (64, 3))
        text = np.array(["a", "bc", "é", ""] * 16)
        gate.add_data(["x", "t", "v"], [rows, text, text.astype(np.dtypes.StringDType())])
        gate["train"]["x"][[1, 5, 9]] = rows[:3]
        gate.astype("x", "f4")
        gate.shuffle("train", 1)
        gate.create_empty("z", (64, 2))
    return path


def places(document, path=()):
    """Yield where every value of a JSON document is."""
    yield path
    children = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, child in children:
        yield from places(child, (*path, key))


def replaced(document, path, value):
    if not path:
        return value
    copy = dict(document) if isinstance(document, dict) else list(document)
    copy[path[0]] = replaced(document[path[0]], path[1:], value)
    return copy


def change_json(path, rng):
    """Put other values in some places; a manifest gets the checksum that belongs to them."""
    document = json.loads(path.read_text())
    signed = document.pop("checksum", None)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        known = list(places(document))
        place, value = rng.choice(known), rng.choice(VALUES)
        if rng.random() < 0.3:  # another part of the same document
            value = document
            for key in rng.choice(known):
                value = value[key]
        document = replaced(document, place, value)
    if signed is not None and isinstance(document, dict):
        canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        document["checksum"] = hashlib.sha256(canonical.encode(errors="surrogatepass")).hexdigest()
    path.write_text(json.dumps(document))


def change_bytes(path, rng):
    """Flip, cut, repeat or insert bytes; often with checksums of chunks and index that fit."""
    content = bytearray(path.read_bytes())
    for _ in range(rng.choice((1, 1, 2, 5))):
        at = rng.randrange(len(content) + 1)
        match rng.randrange(4):
            case 0 if at < len(content):
                content[at] ^= 1 << rng.randrange(8)
            case 1:
                del content[at : at + rng.choice((1, 4, 100))]
            case 2:
                content[at:at] = content[: rng.randrange(200)]
            case _:
                content[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 2**32 - 1, 2**40, 2**63, 2**64 - 1, at)))
    if rng.random() < 0.7:
        content = sealed(content)
    path.write_bytes(content)


def sealed(content):
    """Give the chunks that the index names, and the index, checksums that fit."""
    index = content[-(16 * 4 + 4) : -4]
    if len(index) == 16 * 4:
        for begin, nbytes in np.frombuffer(bytes(index), "<u8").reshape(4, 2).tolist():
            if nbytes >= 4 and begin + nbytes <= len(content) - 68:
                end = begin + nbytes
                content[end - 4 : end] = struct.pack("<I", crc32c(bytes(content[begin : end - 4])))
        content[-4:] = struct.pack("<I", crc32c(bytes(index)))
    return content


def read_all(store):
    gate = StoreGate("zarr", {"output_dir": store, "mode": "r", "budget": "64MiB"}, "a")
    for name in gate.get_var_names():
        gate.get_data(name)
        variable = gate.table["train"][name]
        variable.read(0, min(3, len(variable)))
    repr(gate.history())
    gate.verify()


def outcome(store):
    """Return what reading came to: nothing, or a refusal that names where; anything else is raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # values that overflow a cast are the store's affair
        try:
            read_all(store)
        except CorruptStoreError as err:
            if "/" not in str(err):
                raise AssertionError("which file?") from err
            return "corrupt"
        except (StoreError, MemoryBudgetError) as err:
            return type(err).__name__
    return "read"


def fuzz(store, tmp_path, seed):
    rng = random.Random(seed)
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and path.name != "storegate.json"]
    manifest = max((store / "a/manifests").iterdir())
    path = manifest if rng.random() < 0.5 else rng.choice(files)
    case = tmp_path / f"case{seed}"
    shutil.copytree(store, case)
    changed = case / path.relative_to(store)
    (change_json if path.suffix == ".json" and rng.random() < 0.9 else change_bytes)(changed, rng)
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        found = outcome(case)
    except BaseException as err:
        raise AssertionError(f"seed {seed}: {Path(*changed.parts[-3:])} gave {err!r}") from err
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < GROWTH_NBYTES, f"seed {seed}: {path} took {grown} bytes"
    assert time.monotonic() - began < 30, f"seed {seed}: {path} took long"
    shutil.rmtree(case)
    return found


def run(store, tmp_path, seconds, first):
    ends, seed, found = time.monotonic() + seconds, first, set()
    while time.monotonic() < ends:
        found.add(fuzz(store, tmp_path, seed))
        seed += 1
    return found


def test_changed_stores_are_read_or_refused_by_name(store, tmp_path):
    assert {fuzz(store, tmp_path, seed) for seed in range(40)} >= {"read", "corrupt"}


@pytest.mark.slow
def test_changed_stores_for_two_minutes(store, tmp_path):
    """Other seeds every time; a failure names its own."""
    assert run(store, tmp_path, 120, random.SystemRandom().randrange(2**40)) >= {"read", "corrupt"}
