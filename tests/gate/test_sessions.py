"""What a gate and its views share, and where in the user's program a warning belongs."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest

import storegate
from storegate import StoreGate


@pytest.fixture
def gate():
    with StoreGate("hybrid", data_id="a") as gate:
        gate.set_mode("numpy")
        gate.add_data("x", np.arange(5))
        yield gate


def test_a_view_sees_what_its_gate_sees(gate):
    view = gate["train"]["x"]
    gate.set_data_id("b")
    gate.add_data("x", np.arange(3))
    assert view[:].tolist() == [0, 1, 2]
    gate.set_data_id("a")
    gate.set_mode("zarr")
    gate.add_data("x", [7])
    assert view[:].tolist() == [7]


def test_a_copy_has_a_data_id_and_a_mode_of_its_own(gate):
    other = copy.copy(gate)
    gate.set_mode("zarr")
    gate.set_data_id("b")
    assert (other.data_id, other.mode) == ("a", "numpy")
    assert other["train"]["x"][:].tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda view: pickle.loads(pickle.dumps(view))])
def test_a_view_travels_with_what_it_sees(gate, copied):
    view = copied(gate["train"]["x"])
    gate.delete_data("x")
    assert view[1:3].tolist() == [1, 2]


def test_who_made_a_temporary_directory_removes_it_and_no_copy_does():
    with StoreGate("zarr", data_id="a") as gate:
        gate.add_data("x", [1, 2])
        for other in (copy.copy(gate), copy.deepcopy(gate), pickle.loads(pickle.dumps(gate))):
            assert other["train"]["x"][:].tolist() == [1, 2]
            other.close()
        assert gate["train"]["x"][:].tolist() == [1, 2]


def misaligned(gate):
    gate.add_data("y", np.arange(5), shuffle=3)
    return gate


WARNINGS = {
    "names in a list, data of samples": lambda gate: gate.add_data(["p", "q"], np.zeros((5, 2))),
    "the same, all replaced": lambda gate: gate.update_data(["p", "q"], np.zeros((5, 2))),
    "the same, through a view": lambda gate: gate["train"][["p", "q"]].__setitem__(slice(None), np.zeros((5, 2))),
    "rows that a phase does not have": lambda gate: gate.add_data("p", iter(np.zeros((5, 2)))),
    "orders, when they are added": lambda gate: gate.add_data("y", np.arange(5), shuffle=3, do_compile=True),
    "orders, when others are replaced": lambda gate: misaligned(gate).update_data("x", np.arange(5)),
    "orders, when they are compiled": lambda gate: misaligned(gate).compile(),
    "orders, in another mode": lambda gate: (misaligned(gate).set_mode("zarr"), gate.set_mode("numpy")),
    "a mode of a gate without modes": lambda gate: StoreGate().set_mode("zarr"),
    "blocks that are not random enough": lambda gate: (
        gate.add_data("w", np.arange(1000), phase="test"),
        gate["test"]["w"].batches(100, shuffle="blocks", block_rows=100, buffer_blocks=1),
    ),
}


@pytest.mark.parametrize("call", WARNINGS.values(), ids=list(WARNINGS))
def test_a_warning_names_the_line_of_the_user(gate, call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(gate)
    assert [warning.filename for warning in caught] == [__file__]


def test_a_view_leads_to_no_gate(gate):
    held = vars(gate["train"]["x"].session).values()
    assert not any(isinstance(value, storegate.StoreGate) for value in held)
