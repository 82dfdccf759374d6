"""Real files of CMS: events of NanoAOD, as a TTree and as an RNTuple, in which flat branches stand beside jagged ones.

``nanoaod.root`` and ``nanoaod-rntuple.root`` are the samples ``nano_tree`` of coffea, (c) 2018 Fermilab,
under the license BSD-3-Clause.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate_engine.errors import ArgumentError

uproot = pytest.importorskip("uproot")
FEW = ("run", "event", "MET_pt", "nMuon")
HERE = Path(__file__).parent
KINDS = {"TTree": "nanoaod.root", "RNTuple": "nanoaod-rntuple.root"}


@pytest.fixture
def gate():
    return StoreGate(data_id="a")


def is_flat(branch):
    kind = type(getattr(branch, "interpretation", None)).__name__
    return kind not in ("AsJagged", "AsObjects") and "RVec" not in branch.typename


@pytest.fixture(scope="module", params=KINDS)
def path(request):
    return HERE / KINDS[request.param]


@pytest.fixture(scope="module")
def oracle(path):
    with uproot.open(path) as file:
        tree = file["Events"]
        names = [name for name in tree.keys(recursive=False) if name[0] != "_" and is_flat(tree[name])]
        assert len(names) > 600
        return {name: tree[name].array(library="np") for name in {*FEW, *names[::10]}}


def test_flat_branches_are_those_of_uproot(gate, path, oracle):
    gate.read(path, list(oracle), group="Events", shuffle=3)
    order = np.random.RandomState(3).permutation(len(oracle["run"]))
    for name, rows in oracle.items():
        found = gate.get_data(name)
        assert found.dtype == rows.dtype
        np.testing.assert_array_equal(found, rows[order])


def test_jagged_branches_are_lists(gate, path):
    gate.read(path, ["run", "Muon_pt", "Jet_jetId"], group="Events")
    with uproot.open(path) as file:
        for name in ("Muon_pt", "Jet_jetId"):
            assert gate["train"][name][:].tolist() == file["Events"][name].array().to_list()


def test_one_of_several_trees_is_chosen(gate, unchanged):
    with unchanged(gate), pytest.raises(ArgumentError, match="it has the trees Events, Runs; choose one"):
        gate.read(HERE / KINDS["TTree"], "run")
    gate.read(HERE / KINDS["TTree"], "run", group="Runs")


def test_a_cut_selects_events(gate, oracle, path):
    if "rntuple" in path.name:
        pytest.skip("uproot does not apply cuts to an RNTuple")
    gate.read(path, ["event", "MET_pt"], group="Events", cut="MET_pt > 20")
    np.testing.assert_array_equal(gate.get_data("event"), oracle["event"][oracle["MET_pt"] > 20])
