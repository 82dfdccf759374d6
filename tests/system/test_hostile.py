"""Stores and names that mean harm: a typed error for each; nothing run, no memory taken, nothing changed elsewhere."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate.cli import main
from storegate_engine import directories
from storegate_engine.errors import CorruptStoreError, MemoryBudgetError, NotAStoreError, StoreGateError
from tests.processes import environment
from tests.system.hostile_cases import (
    CORPUS,
    ROWS,
    SECRET,
    array_path,
    read_all,
    replace_by_link,
    set_in_manifest,
    shard_of,
)


@pytest.fixture
def store(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "store", "chunk": 16}, "a") as gate:
        gate.add_data(["x", "t"], [ROWS, np.array(["a", "bc"] * 32)])
        gate["train"]["x"][[1, 5, 9]] = ROWS[:3]
    (tmp_path / "secret").write_bytes(SECRET)
    return tmp_path / "store"


def test_the_corpus_is_large_enough():
    assert len(CORPUS) >= 80


READER = """
import faulthandler, json, resource, sys
from pathlib import Path
import numpy as np
from storegate import StoreGate
from storegate_engine.errors import StoreGateError

faulthandler.dump_traceback_later(100, exit=True)
sys.path.insert(0, sys.argv[1])
from hostile_cases import read_all
FORBIDDEN = {"os.system", "subprocess.Popen", "os.exec", "pickle.find_class", "os.posix_spawn"}
seen = set()
sys.addaudithook(lambda event, args: event in FORBIDDEN and seen.add(repr((event, args[:2]))))
read_all(Path(sys.argv[2]))  # what is loaded once is no part of what a hostile store takes
honest, results = set(seen), {}
for store in sorted(Path(sys.argv[3]).iterdir()):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        read_all(store / "store")
        outcome = "nothing"
    except StoreGateError as err:
        outcome = "typed"
        text = str(err)
        assert "do not read me" not in text
    except BaseException as err:
        outcome = repr(err)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    results[store.name] = [outcome, grown]
print(json.dumps([results, sorted(seen - honest)]))
"""


@pytest.mark.slow
def test_every_hostile_store_is_refused_with_a_typed_error(store, tmp_path):
    """In one process of its own, whose peak memory is measured; what lies beside the roots must not change."""
    cases = tmp_path / "cases"
    for number, damage in enumerate(CORPUS.values()):
        (cases / f"{number:03d}").mkdir(parents=True)
        shutil.copytree(store, cases / f"{number:03d}" / "store")
        damage(cases / f"{number:03d}" / "store")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER, Path(__file__).parent, store, cases],
        check=False, capture_output=True, text=True, env=environment(), timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results, seen = json.loads(done.stdout)
    assert seen == []
    names = list(CORPUS)
    wrong = {names[int(case)]: found for case, (found, _) in results.items() if found != "typed"}
    assert wrong == {}
    grown = {names[int(case)]: kib // 1024 for case, (_, kib) in results.items() if kib > 100 * 1024}
    assert grown == {}
    assert len(results) == len(CORPUS)
    assert (tmp_path / "secret").read_bytes() == SECRET


@pytest.mark.parametrize("place", ["segments", "manifests", "a"])
def test_nothing_is_written_through_a_link_out_of_the_root(store, tmp_path, place):
    target = store / "a" if place == "a" else store / "a" / place
    elsewhere = tmp_path / "elsewhere"
    shutil.move(target, elsewhere)
    target.symlink_to(elsewhere, target_is_directory=True)

    def files():
        return {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}

    before = files()
    for change in (lambda gate: gate.add_data("x", ROWS), lambda gate: gate.vacuum(older_than=0)):
        with pytest.raises(StoreGateError, match="link"):
            change(StoreGate("zarr", {"output_dir": store}, "a"))
    assert files() == before


def test_vacuum_and_emptying_leave_links_and_name_them(store, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "file").write_bytes(SECRET)
    link = store / "a" / "segments" / ("0" * 32)
    link.symlink_to(elsewhere, target_is_directory=True)
    done = StoreGate("zarr", {"output_dir": store}, "a").vacuum(older_than=0)
    assert done.refused == [str(link)]
    assert link.is_symlink()
    (store / "b").symlink_to(elsewhere, target_is_directory=True)
    with pytest.raises(NotAStoreError, match=f"a/segments/{link.name}, b in "):
        StoreGate("zarr", {"output_dir": store, "mode": "w"}, "a")
    assert os.listdir(elsewhere) == ["file"]
    read_all(store)


def test_links_within_the_root_and_to_it_are_followed(store, tmp_path):
    (tmp_path / "alias").symlink_to(store, target_is_directory=True)
    np.testing.assert_array_equal(read_all(tmp_path / "alias").get_data("x"), read_all(store).get_data("x"))
    shutil.move(store / "a", store / "b")
    (store / "a").symlink_to("b", target_is_directory=True)
    read_all(store)


@pytest.mark.parametrize("name", ["x", "t"])
@pytest.mark.parametrize("what", ["link", "pipe", "directory behind a link"])
def test_what_is_exchanged_after_the_first_look_is_refused(store, tmp_path, name, what):
    gate = read_all(store)
    path = shard_of(store, name)
    if what == "directory behind a link":
        replace_by_link(lambda store: array_path(store, name) / "c", None)(store)
    elif what == "link":
        replace_by_link(lambda store: path, None)(store)
    else:
        path.unlink()
        os.mkfifo(path)
    for read in (lambda: gate.get_data(name), lambda: gate["train"][name].data.compute(scheduler="sync")):
        try:
            read()
        except CorruptStoreError:
            continue
        assert what == "directory behind a link", "the directory that was opened first is read on"


@pytest.mark.parametrize("step", ["a", "segments", "segment"])
def test_directories_that_are_exchanged_while_vacuum_removes(store, tmp_path, monkeypatch, step):
    """Just before a directory is opened, another process puts a link to somewhere else in its place."""
    elsewhere = tmp_path / "elsewhere"
    gate = StoreGate("zarr", {"output_dir": store}, "a")
    gate.delete_data("x")
    name = sorted(os.listdir(store / "a" / "segments"))[0] if step == "segment" else step
    (elsewhere / "segments" / name).mkdir(parents=True)
    for place in (elsewhere, elsewhere / "segments", elsewhere / "segments" / name):
        (place / "zarr.json").write_bytes(SECRET)
    child, rename = directories.Directory.child, os.rename
    removing = []

    def exchanged(self, asked):
        path = Path(self.path, asked)
        if removing and asked == name and not path.is_symlink():
            rename(path, tmp_path / "moved")
            path.symlink_to(elsewhere, target_is_directory=True)
        return child(self, asked)

    remove = directories.Directory.remove
    monkeypatch.setattr(directories.Directory, "child", exchanged)
    monkeypatch.setattr(directories.Directory, "remove", lambda self, *a: removing.append(1) or remove(self, *a))
    before = {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()}
    with contextlib.suppress(StoreGateError):
        gate.vacuum(older_than=0)
    assert {path: path.read_bytes() for path in elsewhere.rglob("*") if path.is_file()} == before


def test_nothing_that_a_store_says_reaches_the_terminal_raw(store, tmp_path, capsys):
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e"
    set_in_manifest(operation=evil, arguments={evil: evil, "x": [evil]})(store)
    assert main(["history", str(store)]) == 0
    set_in_manifest(format=evil)(store)
    assert main(["history", str(store)]) == 0  # it names the version that it cannot read
    main(["verify", str(store)])
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / evil).write_bytes(b"")
    assert main(["info", str(tmp_path / "other")]) == 2
    with pytest.raises(NotAStoreError) as found:
        StoreGate("zarr", {"output_dir": tmp_path / "other"}, "a")
    (tmp_path / "other" / evil).unlink()
    captured = capsys.readouterr()
    for text in (captured.out, captured.err, str(found.value)):
        assert not set(evil) & set(text) - set("0123456789;[]ownedJm ")
        assert "x1b" in text or not text or text == captured.err


def test_more_rows_than_memory_can_hold_are_a_typed_error(stored):
    stored.create_empty("x", (2**50,))
    with pytest.raises(MemoryBudgetError, match="fewer at a time"):
        stored.get_data("x")
    assert stored["train"]["x"][2**49] == 0


def test_what_could_not_be_read_is_not_written(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path, "chunk": 2**20, "budget": "8GiB"}, "a") as gate:
        with pytest.raises(ValueError, match="chunk"):
            gate.add_data("x", iter([np.zeros((1, 100))]))
        assert gate.get_var_names() == []


def calls_of(name):
    """Yield the calls of a function in all Python of the project, with the file and the keyword arguments."""
    root = Path(__file__).parents[2]
    for path in sorted(
        path for part in ("storegate", "engine", "benchmarks", "tests") for path in (root / part).rglob("*.py")
    ):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == name:
                yield path.name, {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}


@pytest.mark.slow
def test_every_cluster_that_is_started_listens_on_loopback_only():
    found = list(calls_of("LocalCluster"))
    assert len(found) >= 2
    for where, keywords in found:
        assert keywords.get("host") == "'127.0.0.1'", where
        assert keywords.get("dashboard_address") == "'127.0.0.1:0'", where
