"""Stores some of whose manifests are damaged: what can be read is shown, and what cannot is named."""

from __future__ import annotations

import json

import numpy as np
import pytest

from storegate import StoreGate
from storegate.cli import main
from storegate_engine.errors import CorruptStoreError, SnapshotExpired, StoreError
from storegate_engine.store.logs import StoredLog
from storegate_engine.store.manifests import parse_manifest
from tests.examples import in_turns


def path_of(store, version, data_id="a"):
    return store / data_id / StoredLog.key(version)


def replaced(content):
    return lambda path: path.write_bytes(content)


def no_table(path):
    manifest = parse_manifest(path.read_bytes(), int(path.stem), "")
    path.write_bytes(type(manifest)(manifest.version, {**manifest.state, "arrays": []}).to_bytes())


def cut(path):
    path.write_bytes(path.read_bytes()[:-100])


def missing(path):
    path.unlink()


def newer(path):
    path.write_text(json.dumps({**json.loads(path.read_text()), "format_version": 2}))


DAMAGES = {
    "no JSON": replaced(b"{"),
    "empty": replaced(b""),
    "not UTF-8": replaced(b"\xff\xfe"),
    "cut": cut,
    "no table": no_table,
    "of a newer format": newer,
    "missing": missing,
}
VERSIONS = [1, 2, 3, 4]
ROWS = {1: [0, 1], 2: [0, 1, 2], 3: [0, 1, 2, 3], 4: [0, 1, 2, 3, 4]}


@pytest.fixture
def store(tmp_path):
    for data_id in "ab":
        with StoreGate("zarr", {"output_dir": tmp_path / "store"}, data_id=data_id) as gate:
            for version in VERSIONS:
                gate.add_data("x", ROWS[version] if version == 1 else ROWS[version][-1:])
    return tmp_path / "store"


def opened(store, mode="a", **args):
    return StoreGate("zarr", {"output_dir": store, "mode": mode}, data_id="a", **args)


@pytest.fixture(params=DAMAGES)
def damage(request):
    return request.param


@pytest.mark.parametrize(
    ("version", "damage", "is_repaired"), in_turns(VERSIONS, DAMAGES, [False, True], every=3), indirect=["damage"]
)
def test_what_can_be_read_is_shown_and_what_cannot_is_named(store, damage, version, is_repaired, capsys):
    DAMAGES[damage](path_of(store, version))
    is_newest = version == VERSIONS[-1] and damage != "missing"  # without it the one before is the newest
    if is_repaired:
        with StoreGate("zarr", {"output_dir": store}) as gate:
            if is_newest and damage == "of a newer format":
                with pytest.raises(StoreError, match="install a newer storegate"):
                    gate.repair("a")
                return
            assert gate.repair("a") == (3 if is_newest else None)
    good = [number for number in VERSIONS if number != version]
    opens = is_repaired or not is_newest
    gate = opened(store) if opens else opened(store, version=good[-1])
    if not opens and damage != "of a newer format":
        with pytest.raises(CorruptStoreError, match="version 3 can be opened"):
            opened(store)
    head = [5] if is_repaired and is_newest else []

    found = gate.history()
    is_seen = damage != "missing" or version not in (1, 4)
    assert [row.version for row in found] == [number for number in VERSIONS if number != version or is_seen] + head
    problems = {row.version: row.problem for row in found if row.problem}
    assert list(problems) == ([version] if is_seen and damage != "no table" else [])
    assert all(StoredLog.key(version) in problem for problem in problems.values())
    assert ("problem" in repr(found).splitlines()[0]) == bool(problems)

    checked = gate.verify()
    assert [row.key for row in checked.problems] == ([StoredLog.key(version)] if is_seen else [])

    for first in good:
        for second in good:
            assert [row.what for row in gate.diff(first, second)] == (["rows, values"] if first != second else [])
        with pytest.raises((StoreError, ValueError), match=rf"{version:08d}"):
            gate.diff(first, version)

    assert main(["history", str(store)]) == 0
    output = capsys.readouterr().out
    assert output.count("add_data") == len(VERSIONS) + len(good)
    assert main(["verify", str(store)]) == (1 if is_seen else 0)
    output = capsys.readouterr()
    assert "data_id : b" in output.out
    assert (StoredLog.key(version) in output.out) == is_seen
    assert main(["info", str(store)]) == (0 if opens else 2)
    output = capsys.readouterr()
    assert "data_id : 'b'" in output.out or "data_id : b" in output.out, "the other data_id is shown"
    assert opens or ("data_id a: " in output.err and StoredLog.key(version) in output.err)


@pytest.mark.parametrize(("version", "damage"), in_turns([1, 2, 3], DAMAGES), indirect=["damage"])
def test_vacuum_keeps_all_rows_while_it_does_not_know_which_are_needed(store, damage, version):
    intact = path_of(store, version).read_bytes()
    with opened(store) as gate, gate.repository().begin("x") as change:  # rows that no version needs
        change.store({})
    DAMAGES[damage](path_of(store, version))
    gate = opened(store)
    segments = sorted((store / "a" / "segments").iterdir())
    before = gate.get_data("x").tolist()
    for dry_run in (True, False):
        done = gate.vacuum(older_than=0, keep_versions=10, dry_run=dry_run)
        is_known = damage == "missing"
        assert done.unreadable == ([] if is_known else [version])
        assert done.versions == []
        assert is_known or f"versions {version} cannot be read" in str(done)
        assert sorted((store / "a" / "segments").iterdir()) == segments
    path_of(store, version).write_bytes(intact)  # from a copy
    assert opened(store, version=version).get_data("x").tolist() == ROWS[version]
    DAMAGES[damage](path_of(store, version))
    done = opened(store).vacuum(older_than=0)
    assert done.unreadable == []
    assert not path_of(store, version).exists()
    with opened(store) as again:
        assert again.get_data("x").tolist() == before
        assert again.verify().problems == ()
        with pytest.raises(SnapshotExpired):
            again.diff(version, 4)


def test_vacuum_after_a_repair(store):
    path_of(store, 3).write_bytes(b"")
    path_of(store, 4).write_bytes(b"{")
    with StoreGate("zarr", {"output_dir": store}) as gate:
        assert gate.repair("a") == 2
    with opened(store) as gate:
        assert gate.vacuum(older_than="1d").unreadable == [3, 4]
        assert gate.get_data("x").tolist() == ROWS[2]
        gate.add_data("x", [9])
        done = gate.vacuum(older_than=0)
        assert done.versions == [1, 2, 3, 4, 5]
        assert len(done.segments) == 2
        assert gate.get_data("x").tolist() == [*ROWS[2], 9]
        assert gate.verify().problems == ()


def test_a_number_far_away_is_named_at_once(store):
    far = path_of(store, 10**17)
    far.write_bytes(b"{")
    with pytest.raises(CorruptStoreError, match="version 4 can be opened"):
        opened(store)
    gate = opened(store, "r", version=4)
    assert [row.version for row in gate.history()] == [1, 2, 3, 4, 10**17 - 1, 10**17]
    assert next(row.problem for row in gate.verify().problems).startswith(
        f"manifest {StoredLog.key(5)} is missing, and"
    )
    far.write_bytes(path_of(store, 4).read_bytes())
    with StoreGate("zarr", {"output_dir": store}) as whole:
        assert whole.repair("a") == 4
    with opened(store) as again:
        np.testing.assert_array_equal(again.get_data("x"), ROWS[4])


def test_a_writer_that_is_open_finds_later_versions_where_the_next_one_is_missing(store):
    """What it commits on an old version would be acknowledged and not seen: later ones stand before it."""
    gate, other = opened(store), opened(store)
    for row in (5, 6):
        other.add_data("x", [row])
    missing(store / "a" / StoredLog.key(VERSIONS[-1] + 1))
    gate.add_data("x", [7])
    for found in (gate, opened(store)):
        assert found.get_data("x").tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
