"""What is known of the values of a variable without reading: exact where it says so, and never wrong."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from storegate import StoreGate
from storegate_engine.arrays import Tally
from storegate_engine.casts import overflows
from storegate_engine.table import known_of
from tests.examples import examples, in_turns

DTYPES = "b1 i1 i2 i8 u1 u8 f2 f4 f8 c8 M8[D] M8[ns] M8[Y] m8[s] m8[ns] m8[M]".split()


def require_right(variable):
    """Compare what is known with all values."""
    known = known_of(variable)
    if known is None:
        return
    tally = Tally(variable.dtype)
    rows = variable.read(0, len(variable))
    if rows.size:
        tally.add(rows)
    found, said = tally.found(), known.statistics
    if known.is_exact:
        assert repr(found) == repr(said)
        return
    if found.least is not None:
        assert said.least <= found.least
        assert said.most >= found.most
    assert said.n_missing >= found.n_missing
    assert said.n_infinite >= found.n_infinite


def rows_of(dtype):
    dtype = np.dtype(dtype)
    shape = st.tuples(st.integers(1, 6), st.just(2))
    if dtype.kind in "mM":
        ticks = st.integers(-500, 500) | st.just(-(2**63))
        return hnp.arrays("i8", shape, elements=ticks).map(lambda a: a.view(dtype))
    if dtype.kind == "f":
        special = st.sampled_from([np.nan, np.inf, -np.inf, -0.0, 0.0, 0.5, -0.5, 255.7, 60000.0])
        floats = special | st.floats(-300, 300, width=16)
        return hnp.arrays("f8", shape, elements=floats).map(lambda a: a.astype(dtype))
    return hnp.arrays(dtype, shape)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow", "ignore:Casting complex")
@pytest.mark.parametrize("dtype", in_turns(DTYPES))
def test_it_is_never_wrong(dtype):
    @settings(max_examples=examples(100), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def check(data):
        gate = StoreGate(data_id="a")
        for _ in range(data.draw(st.integers(1, 3))):
            rows = data.draw(rows_of(dtype))
            split = data.draw(st.sampled_from(["train", (0, len(rows), 0), (len(rows) - 1, 1, 0)]))
            gate.add_data("x", rows, phase=split, shuffle=data.draw(st.booleans()))
        if "train" in gate.phases and gate.sizes["train"] and data.draw(st.booleans()):
            gate.update_data("x", gate.get_data("x", index=[0])[::-1], index=[0])
        for phase in gate.phases:
            for _ in range(data.draw(st.integers(0, 3))):
                variable = gate.table[phase]["x"]
                step = data.draw(st.sampled_from([*DTYPES, "argmax", "onehot", "shuffle"]))
                if step == "argmax":
                    if len(variable.row_shape) and variable.dtype.kind != "c":
                        gate.argmax("x", 1, phase)
                elif step == "onehot":
                    if variable.dtype.kind in "iub" and len(variable.row_shape) < 3:
                        labels = variable.read(0, len(variable))
                        if labels.size and labels.min() >= 0 and labels.max() < 7:
                            gate.onehot("x", 7, phase)
                elif step == "shuffle":
                    gate.shuffle(phase, 3)
                elif np.can_cast(variable.dtype, np.dtype(step), "unsafe") and not overflows(
                    np.dtype(step), variable.read(0, len(variable))
                ):
                    gate.astype("x", step, phase)
            variable = gate.table[phase]["x"]
            require_right(variable)
            require_right(variable.cut(0, len(variable) // 2))
            require_right(variable.cut(len(variable) // 2, len(variable)))

    check()


def exact(gate, phase="train", name="x"):
    known = known_of(gate.table[phase][name])
    return known is not None and known.is_exact


def test_when_it_is_exact():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.arange(10))
    gate.add_data("x", np.arange(5))
    assert exact(gate)
    gate.shuffle("train", 1)
    gate.astype("x", "f4")
    assert exact(gate)
    gate.update_data("x", [3.0], index=0)
    assert not exact(gate)  # the row that is gone may have been the largest
    gate.compact()
    assert exact(gate)
    gate.add_data("x", np.arange(10), phase=(0.5, 0.5, 0.0))
    assert not exact(gate, "valid")
    gate.create_empty("z", 10, phase=(0.5, 0.5, 0.0))
    assert exact(gate, "valid", "z")
    gate.update_data("x", np.zeros(len(gate["train"]["x"][:])), do_compile=False)
    assert exact(gate)


def test_nothing_is_known_of_rows_that_their_owner_may_change():
    gate = StoreGate("numpy", {"copy": False}, "a")
    gate.add_data("x", np.arange(10))
    assert known_of(gate.table["train"]["x"]) is None
