"""ROOT: branches of TTrees and fields of RNTuples that uproot wrote; cuts as numpy's masks."""

from __future__ import annotations

import sys

import awkward as ak
import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import ArgumentError, UnreadableFileError, VariableNotFoundError
from tests.readers.measuring import MIB, grown

uproot = pytest.importorskip("uproot")


def columns(n_rows, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "pt": rng.random(n_rows, dtype="f4"),
        "n": rng.integers(-5, 5, n_rows),
        "ok": rng.random(n_rows) < 0.5,
        "p4": rng.random((n_rows, 4)),
    }


def write(path, rows, kind="TTree", name="events"):
    with uproot.recreate(path) as file:
        if kind == "TTree":
            file.mktree(name, {key: (part.dtype, part.shape[1:]) for key, part in rows.items()})
            half = len(next(iter(rows.values()))) // 2
            file[name].extend({key: part[:half] for key, part in rows.items()})
            file[name].extend({key: part[half:] for key, part in rows.items()})
        else:
            file.mkrntuple(name, {key: ak.from_numpy(part) for key, part in rows.items() if part.ndim == 1})


def joined(*parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def assert_rows(gate, expected, phase="train"):
    assert gate.get_var_names(phase) == list(expected)
    for name, rows in expected.items():
        found = gate.get_data(name, phase)
        assert found.dtype == rows.dtype
        np.testing.assert_array_equal(found, rows)


@pytest.mark.parametrize("kind", ["TTree", "RNTuple"])
def test_globs(gate, tmp_path, kind):
    parts = [columns(n_rows, n_rows) for n_rows in (300, 2, 40)]
    for at, part in enumerate(parts):
        write(tmp_path / f"{at}.root", part, kind)
    expected = joined(*parts)
    if kind == "RNTuple":  # which uproot writes in the order of their names
        expected = {name: expected[name] for name in ("n", "ok", "pt")}
    gate.read(tmp_path / "*.root")
    gate.read(f"{tmp_path}/*.root:events", ["n", "pt"], "test")
    assert_rows(gate, expected)
    assert_rows(gate, {name: expected[name] for name in ("n", "pt")}, "test")


def test_cuts(gate, tmp_path):
    parts = [columns(500, at) for at in range(2)]
    for at, part in enumerate(parts):
        write(tmp_path / f"{at}.root", part)
    whole = joined(*parts)
    passing = (whole["pt"] > 0.4) & (whole["n"] == 3)
    gate.read(tmp_path / "*.root", ["ok", "pt"], cut="(pt > 0.4) & (n == 3)")
    assert_rows(gate, {name: whole[name][passing] for name in ("ok", "pt")})
    with pytest.raises(UnreadableFileError, match=r"0\.root.*nothing"):
        gate.read(tmp_path / "*.root", ["ok"], cut="nothing > 3")
    write(tmp_path / "tuple.root", parts[0], "RNTuple")
    with pytest.raises(ArgumentError, match=r"tuple\.root: uproot does not apply cuts to an RNTuple"):
        gate.read(tmp_path / "tuple.root", cut="n == 3")


def test_trees_are_named_where_one_must_be_chosen(gate, tmp_path, unchanged):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("events", {"x": "f8"})
        file["events"].extend({"x": np.arange(3.0)})
        file.mktree("deep/runs", {"run": "i4"})
        file["deep/runs"].extend({"run": np.arange(2, dtype="i4")})
    with uproot.recreate(tmp_path / "none.root") as file:
        file["h"] = np.histogram(np.arange(10))
    with unchanged(gate):
        with pytest.raises(ArgumentError, match=r"a\.root: it has the trees events, deep/runs; choose one"):
            gate.read(tmp_path / "a.root")
        with pytest.raises(VariableNotFoundError, match="no tree 'event'; did you mean 'events'"):
            gate.read(tmp_path / "a.root", group="event")
        with pytest.raises(VariableNotFoundError, match=r"none\.root: it has no tree \(trees: none\)"):
            gate.read(tmp_path / "none.root")
        with pytest.raises(VariableNotFoundError, match=r"a\.root: .*no column 'y'"):
            gate.read(tmp_path / "a.root", "y", group="events")
        with pytest.raises(VariableNotFoundError, match=r"a\.root: .*no column 'y'"):
            gate.read(tmp_path / "a.root", ["y"], group="events", cut="x > 0")
    gate.read(f"{tmp_path}/a.root:deep/runs")
    assert_rows(gate, {"run": np.arange(2, dtype="i4")})


def test_jagged_branches_are_lists_also_after_a_cut(gate, tmp_path):
    with uproot.recreate(tmp_path / "a.root") as file:
        file.mktree("events", {"x": np.dtype("f8"), "hits": "var * float32"})
        hits = ak.values_astype(ak.Array([[1.0], [], [2.0, 3.0]]), "float32")
        file["events"].extend({"x": np.arange(3.0), "hits": hits})
    gate.read(tmp_path / "a.root")
    assert gate["train"]["hits"][:].tolist() == [[1.0], [], [2.0, 3.0]]
    assert gate.get_data("nhits").tolist() == [1, 0, 2]
    gate.read(tmp_path / "a.root", cut="x > 0", phase="valid")
    assert gate["valid"]["hits"][:].tolist() == [[], [2.0, 3.0]]


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_truncated_file_in_the_middle(gate, tmp_path, share, unchanged):
    parts = [columns(5000, at) for at in range(3)]
    for at, part in enumerate(parts):
        write(tmp_path / f"{at}.root", part)
    whole = (tmp_path / "1.root").read_bytes()
    (tmp_path / "1.root").write_bytes(whole[: int(share * len(whole))])
    with unchanged(gate), pytest.raises(UnreadableFileError, match=f"^{tmp_path}/1.root "):
        gate.read(tmp_path / "*.root")
    (tmp_path / "1.root").write_bytes(whole)
    gate.read(tmp_path / "*.root")
    assert_rows(gate, joined(*parts))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the peak of a single call is known on Linux alone")
@pytest.mark.parametrize("options", [{}, {"cut": "x > 0.1"}])
def test_large_files_are_read_within_the_budget(tmp_path, options):
    rng = np.random.default_rng(1)
    for name, n_baskets in (("warm", 1), ("large", 42)):
        with uproot.recreate(tmp_path / f"{name}.root") as file:
            file.mktree("events", {"x": "f8", "y": "i8", "z": "f8"})
            for _ in range(n_baskets):
                part = {"x": rng.random(100_000), "y": rng.integers(0, 2**60, 100_000), "z": rng.random(100_000)}
                file["events"].extend(part)
    found = grown(tmp_path, tmp_path / "large.root", tmp_path / "warm.root", 64 * MIB, **options)
    print(f"{options}: {found / MIB:.1f} MiB")
    assert found <= 64 * MIB
    with StoreGate.open(tmp_path / "store") as gate:
        assert 3_500_000 < gate.sizes["train"] <= 4_200_000
