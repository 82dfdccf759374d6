"""Bad calls: each is a StoreGateError that is also the expected built-in, says what was found, and changes nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from storegate import StoreGate, explain
from storegate_engine.errors import StoreGateError
from tests.gate.bad_cases import BACKENDS, NO_INTEGERS, SURROGATE, files_in

Call = Callable[[StoreGate], Any]


CALLS: dict[str, tuple[Call, type[Exception]]] = {
    # create_empty
    "shape of a float": (lambda g: g.create_empty("z", (20, 1.5)), TypeError),
    "shape of a bool": (lambda g: g.create_empty("z", (True, 2)), TypeError),
    "shape of a text": (lambda g: g.create_empty("z", "20"), TypeError),
    "shape of texts": (lambda g: g.create_empty("z", ("20",)), TypeError),
    "shape of none": (lambda g: g.create_empty("z", None), TypeError),
    "shape of no rows": (lambda g: g.create_empty("z", ()), ValueError),
    "shape of a dict": (lambda g: g.create_empty("z", {4: 1}), TypeError),
    "shape negative": (lambda g: g.create_empty("z", (5, -2)), ValueError),
    "shape beyond int64": (lambda g: g.create_empty("z", (2**70, 2)), ValueError),
    "shape of floats in numpy": (lambda g: g.create_empty("z", np.array([4.0, 2.0])), TypeError),
    "shape of more axes": (lambda g: g.create_empty("z", (4, *[1] * 70)), ValueError),
    "empty of no dtype": (lambda g: g.create_empty("z", (4,), dtype="no such"), TypeError),
    "empty of the dtype None": (lambda g: g.create_empty("z", (4,), dtype=None), TypeError),
    "empty of objects": (lambda g: g.create_empty("z", (4,), dtype=object), TypeError),
    "empty of records": (lambda g: g.create_empty("z", (4,), dtype=[("a", "i4")]), TypeError),
    # transforms
    "astype None": (lambda g: g.astype("x", None), TypeError),
    "astype of no dtype": (lambda g: g.astype("x", "no such"), TypeError),
    "astype of a number": (lambda g: g.astype("x", 3), TypeError),
    "astype object": (lambda g: g.astype("x", object), TypeError),
    "astype of subarrays": (lambda g: g.astype("x", "3i4"), TypeError),
    "onehot of no classes": (lambda g: g.onehot("n", 0), ValueError),
    "onehot beyond": (lambda g: g.onehot("n", 2**70), ValueError),
    "onehot of floats": (lambda g: g.onehot("x", 3), TypeError),
    "argmax of samples": (lambda g: g.argmax("x", 0), ValueError),
    "argmax beyond": (lambda g: g.argmax("x", 2), ValueError),
    "argmax far beyond": (lambda g: g.argmax("x", 2**70), ValueError),
    "argmax of text": (lambda g: g.argmax("t", 1), ValueError),
    # data
    "data h5py.Empty": (lambda g: g.add_data("e", h5py.Empty("f4")), TypeError),
    "data h5py.Empty in a list": (lambda g: g.add_data(["e", "f"], [h5py.Empty("f4"), [1]]), TypeError),
    "update h5py.Empty": (lambda g: g.update_data("x", h5py.Empty("f4")), TypeError),
    "row h5py.Empty": (lambda g: g.update_data("x", h5py.Empty("f4"), index=0), (TypeError, ValueError)),
    "assign h5py.Empty": (lambda g: _assign(g, slice(0, 2), h5py.Empty("f4")), TypeError),
    "data of a scalar": (lambda g: g.add_data("e", 3), TypeError),
    "data of None": (lambda g: g.add_data("e", None), TypeError),
    "data of a text": (lambda g: g.add_data("e", "text"), TypeError),
    "data of a dict": (lambda g: g.add_data("e", {"a": 1}), KeyError),
    "data of a set": (lambda g: g.add_data("e", {1, 2}), TypeError),
    "data of objects": (lambda g: g.add_data("e", [object()]), TypeError),
    "data ragged": (lambda g: g.add_data("e", [[[1], [2, 3]], [[1]]]), ValueError),
    "data of records": (lambda g: g.add_data("e", np.zeros(2, [("a", "i4")])), TypeError),
    "data of generators": (lambda g: g.add_data("e", (None for _ in range(2))), TypeError),
    "data of surrogates": (lambda g: g.add_data("e", [SURROGATE]), (TypeError, ValueError)),
    "data of surrogates in numpy": (lambda g: g.add_data("e", np.array([SURROGATE])), (TypeError, ValueError)),
    "data of surrogates of an iterator": (
        lambda g: g.add_data("e", iter([np.array([SURROGATE])])),
        (TypeError, ValueError),
    ),
    "update of surrogates": (lambda g: _assign(g, 0, SURROGATE, "t"), (TypeError, ValueError)),
    "text to numbers": (lambda g: g.add_data("x", [["a", "b"]]), TypeError),
    "numbers to text": (lambda g: g.add_data("t", [1.0]), TypeError),
    "dates to numbers": (lambda g: g.add_data("n", np.array([1], "M8[s]")), TypeError),
    "update of text": (lambda g: _assign(g, [0, 1], ["a", "b"], "n"), TypeError),
    "rows of another shape": (lambda g: g.add_data("x", np.zeros((2, 5))), ValueError),
    "stacked by one": (lambda g: g.add_data(("e", "f"), np.zeros((4, 3))), ValueError),
    "dtypes that do not stack": (lambda g: g.get_data(("n", "t")), TypeError),
    "dtypes that do not stack in a view": (lambda g: g["train"][("n", "t")][:], TypeError),
    "dtypes that do not stack in one row": (lambda g: g["train"][("n", "t")][0], TypeError),
    "dtypes that do not stack lazily": (lambda g: g.get_data(("n", "d"), compute=False), TypeError),
    "dtypes that do not stack in batches": (lambda g: list(g["train"][("n", "t")].batches(2)), TypeError),
    "dtypes that do not stack by iteration": (lambda g: list(g["train"][("n", "d")]), TypeError),
    "shapes that do not stack": (lambda g: g.get_data(("n", "x")), ValueError),
    "shapes that do not stack in batches": (lambda g: list(g["train"][("n", "x")].batches(2)), ValueError),
    # names
    "name of a surrogate": (lambda g: g.add_data(SURROGATE, [1]), ValueError),
    "name of a number": (lambda g: g.add_data(3, [1]), TypeError),
    "name of none": (lambda g: g.get_data(None), TypeError),
    "names of numbers": (lambda g: g.get_data([1, 2]), TypeError),
    "no names": (lambda g: g.get_data([]), ValueError),
    "read of a surrogate": (lambda g: g.get_data(SURROGATE), KeyError),
    "view of a surrogate": (lambda g: g["train"][SURROGATE][:], KeyError),
    "data_id of a surrogate": (lambda g: g.set_data_id(SURROGATE), ValueError),
    "data_id of a number": (lambda g: g.set_data_id(3), ValueError),
    "deleted number": (lambda g: g.delete_data(3), TypeError),
    "shapes of a number": (lambda g: g.get_var_shapes(3), TypeError),
    "deleted item": (lambda g: g["train"].__delitem__(3), (TypeError, ValueError)),
    # phases
    "phase of a number": (lambda g: g.add_data("e", [1], phase=3), ValueError),
    "phase of none": (lambda g: g.add_data("e", [1], phase=None), ValueError),
    "phase of a surrogate": (lambda g: g.get_data("x", SURROGATE), ValueError),
    "phase of a dict": (lambda g: g.shuffle({}), ValueError),
    "phase unhashable": (lambda g: g.fingerprint("x", {1}), ValueError),
    "split of texts": (lambda g: g.add_data("e", [1], phase=("1", 0, 0)), ValueError),
    "split of NaN": (lambda g: g.add_data("e", [1], phase=(float("nan"), 0, 1)), ValueError),
    "split of infinity": (lambda g: g.add_data("e", [1], phase=(float("inf"), 0, 1)), ValueError),
    "split of two": (lambda g: g.add_data("e", [1], phase=(0.5, 0.5)), ValueError),
    "split negative": (lambda g: g.add_data("e", [1], phase=(-1, 1, 1)), ValueError),
    "phase of compact": (lambda g: g.compact("tain"), ValueError),
    # indexes
    "index of a float": (lambda g: g["train"]["x"][1.0], (TypeError, IndexError)),
    "index of a numpy float": (lambda g: g["train"]["x"][np.float64(1)], (TypeError, IndexError)),
    "index of a method of a float": (lambda g: g.get_data("x", index=1.0), (TypeError, IndexError)),
    "index of a float to update": (lambda g: g.update_data("x", [0, 0], index=1.0), (TypeError, IndexError)),
    "index of a float to assign": (lambda g: _assign(g, 1.0, [0, 0]), (TypeError, IndexError)),
    "index of floats": (lambda g: g["train"]["x"][[0.0, 1.0]], (TypeError, IndexError)),
    "index of slices of floats": (lambda g: g["train"]["x"][0:1.5], (TypeError, IndexError)),
    "index of slices of texts": (lambda g: g.get_data("x", index=slice("a", None)), (TypeError, IndexError)),
    "index of a step of zero": (lambda g: g["train"]["x"][::0], ValueError),
    "index of a bool": (lambda g: g["train"]["x"][True], (TypeError, IndexError)),
    "index of None": (lambda g: g["train"]["x"][None], (TypeError, IndexError)),
    "index of a dict": (lambda g: g["train"]["x"][{}], (TypeError, IndexError)),
    "index of a range of floats": (lambda g: g.get_data("x", index=(0, 1.5)), (TypeError, IndexError)),
    "index of a range of bools": (lambda g: g.get_data("x", index=(False, True)), (TypeError, IndexError)),
    "index of a matrix": (lambda g: g["train"]["x"][_matrix([0, 1])], IndexError),
    "index beyond": (lambda g: g["train"]["x"][99], IndexError),
    "index far beyond": (lambda g: g["train"]["x"][2**70], IndexError),
    "index of rows far beyond": (lambda g: g["train"]["x"][[2**70]], IndexError),
    "index of rows beyond": (lambda g: g["train"]["x"][[0, 99]], IndexError),
    "mask too short": (lambda g: g["train"]["x"][[True]], IndexError),
    "index of a complex": (lambda g: g["train"]["x"][1j], (TypeError, IndexError)),
    "index of bytes": (lambda g: g["train"]["x"][b"a"], (TypeError, IndexError)),
    "index of an iterator": (lambda g: g["train"]["x"][iter([1])], (TypeError, IndexError)),
    # shuffles and seeds
    "seed negative": (lambda g: g.shuffle("train", seed=-1), ValueError),
    "seed beyond": (lambda g: g.shuffle("train", seed=2**32), ValueError),
    "add shuffled by a float": (lambda g: g.add_data("e", [1], shuffle=1.9), TypeError),
    "add shuffled by a text": (lambda g: g.add_data("e", [1], shuffle="7"), TypeError),
    # batches
    "batches of none": (lambda g: g["train"]["x"].batches(0), ValueError),
    "batches rank": (lambda g: g["train"]["x"].batches(2, rank=2, world=2), ValueError),
    "batches world": (lambda g: g["train"]["x"].batches(2, world=0), ValueError),
    "batches epoch": (lambda g: g["train"]["x"].batches(2, epoch=-1), ValueError),
    "batches prefetch": (lambda g: g["train"]["x"].batches(2, prefetch=-1), ValueError),
    "batches seed": (lambda g: g["train"]["x"].batches(2, seed=-1), ValueError),
    "batches shuffle": (lambda g: g["train"]["x"].batches(2, shuffle="block"), ValueError),
    "batches shuffle of an array": (lambda g: g["train"]["x"].batches(2, shuffle=np.zeros(2)), (TypeError, ValueError)),
    "batches last": (lambda g: g["train"]["x"].batches(2, drop_last="no"), ValueError),
    "batches blocks": (lambda g: g["train"]["x"].batches(2, shuffle="blocks", block_rows=0), ValueError),
    "batches blocks of a uniform order": (lambda g: g["train"]["x"].batches(2, block_rows=4), ValueError),
    "batches buffers": (lambda g: g["train"]["x"].batches(2, shuffle="blocks", buffer_blocks=0), ValueError),
    "batches budget": (lambda g: g["train"]["x"].batches(2, budget="much"), ValueError),
    "batches budget of a list": (lambda g: g["train"]["x"].batches(2, budget=[1]), (TypeError, ValueError)),
    "batches weights of text": (lambda g: g["train"]["x"].batches(2, weights=list("abcdef")), (TypeError, ValueError)),
    "batches weights of NaN": (lambda g: g["train"]["x"].batches(2, weights=[np.nan] * 6), ValueError),
    "batches weights too few": (lambda g: g["train"]["x"].batches(2, weights=[1, 2]), ValueError),
    "batches weights of no variable": (lambda g: g["train"]["x"].batches(2, weights="no"), KeyError),
    "batches weights of a variable of text": (lambda g: g["train"]["x"].batches(2, weights="t"), TypeError),
    "batches weights of ragged": (lambda g: g["train"]["x"].batches(2, weights=[[1], [1, 2]]), ValueError),
    "batches weights and balance": (lambda g: g["train"]["x"].batches(2, weights="n", balance="n"), ValueError),
    "batches balance of a number": (lambda g: g["train"]["x"].batches(2, balance=3), (TypeError, KeyError)),
    "batches label of a number": (
        lambda g: g["train"]["x"].batches(2, shuffle="blocks", label=3),
        (TypeError, KeyError),
    ),
    "batches of names twice": (lambda g: g["train"]["x"].batches(2, var_names="n"), ValueError),
    "stream at a step": (lambda g: g["train"]["x"].batches(2).seek(0, 99), ValueError),
    "batches epochs": (lambda g: g["train"]["x"].batches(2, epochs=0), ValueError),
    "batches epochs by a float": (lambda g: g["train"]["x"].batches(2, epochs=1.5), TypeError),
    "stream at an epoch": (lambda g: g["train"]["x"].batches(2).seek(-1), ValueError),
    "stream of a rank": (lambda g: g["train"]["x"].batches(2).on_rank(3, 2), ValueError),
    "stream of the state None": (lambda g: g["train"]["x"].batches(2).load_state_dict(None), (TypeError, ValueError)),
    "stream of the state of nobody": (lambda g: g["train"]["x"].batches(2).load_state_dict({}), ValueError),
    "stream of a step of text": (
        lambda g: (s := g["train"]["x"].batches(2)).load_state_dict({**s.state_dict(), "step": "1"}),
        (TypeError, ValueError),
    ),
    "label of a list": (lambda g: g["train"]["x"].batches(2, shuffle="blocks", label=["n"]), TypeError),
    "balance of a list": (lambda g: g["train"]["x"].batches(2, balance=["n"]), TypeError),
    "explain of a gate's name": (lambda g: explain("a"), TypeError),  # type: ignore[arg-type]
    "explain of nothing": (lambda g: explain(None), TypeError),  # type: ignore[arg-type]
    # versions
    "vacuum of a text": (lambda g: g.vacuum(older_than="soon"), ValueError),
    "vacuum of nobody": (lambda g: g.vacuum(older_than=None), (TypeError, ValueError)),
    "vacuum of a bool": (lambda g: g.vacuum(older_than=True), (TypeError, ValueError)),
    "vacuum of NaN": (lambda g: g.vacuum(older_than=float("nan")), ValueError),
    "vacuum of less than nothing": (lambda g: g.vacuum(older_than=-1), ValueError),
    "vacuum that keeps nothing": (lambda g: g.vacuum(keep_versions=0), ValueError),
    "rollback to the future": (lambda g: g.rollback(99), ValueError),
    "rollback before the first": (lambda g: g.rollback(-1), ValueError),
    "rollback far": (lambda g: g.rollback(2**70), ValueError),
    "diff of the future": (lambda g: g.diff(0, 99), ValueError),
    # hybrid
    "mode unknown": (lambda g: g.set_mode("disk"), ValueError),
    "mode of a number": (lambda g: g.set_mode(3), ValueError),
    "mode of an array": (lambda g: g.set_mode(np.zeros(2)), ValueError),
    "mode unhashable": (lambda g: g.set_mode([]), ValueError),
    "to memory by a float": (lambda g: g.to_memory(1.5), (TypeError, ValueError)),
    "to memory in another backend": (lambda g: g.to_memory("x"), ValueError),
    "to storage in another backend": (lambda g: g.to_storage("x"), ValueError),
    "to memory by no callable": (lambda g: g.to_memory("x", callback=3), TypeError),
    "to memory by a callback of nothing": (lambda g: g.to_memory("x", callback=lambda n, d: None), TypeError),
    "to memory under two names": (lambda g: g.to_memory("x", output_var_names=["a", "b"]), ValueError),
}


for _what, _call in {
    "rollback": lambda g, n: g.rollback(n),
    "diff": lambda g, n: g.diff(n, 2),
    "diff to": lambda g, n: g.diff(1, n),
    "shuffle": lambda g, n: g.shuffle("train", seed=n),
    "onehot": lambda g, n: g.onehot("n", n),
    "argmax": lambda g, n: g.argmax("x", n),
    "batches": lambda g, n: g["train"]["x"].batches(n),
    "seed": lambda g, n: g["train"]["x"].batches(2, seed=n),
    "epoch": lambda g, n: g["train"]["x"].batches(2, epoch=n),
    "rank": lambda g, n: g["train"]["x"].batches(2, rank=n, world=3),
    "world": lambda g, n: g["train"]["x"].batches(2, world=n),
    "prefetch": lambda g, n: g["train"]["x"].batches(2, prefetch=n),
    "seek": lambda g, n: g["train"]["x"].batches(2).seek(n),
    "seek step": lambda g, n: g["train"]["x"].batches(2).seek(0, n),
    "on_rank": lambda g, n: g["train"]["x"].batches(2).on_rank(n, 2),
    "keep_versions": lambda g, n: g.vacuum(keep_versions=n),
}.items():
    for _bad in NO_INTEGERS:
        CALLS[f"{_what} by {_bad!r}"] = (
            lambda g, call=_call, bad=_bad: call(g, bad),
            (TypeError, ValueError) if _what == "argmax" else TypeError,
        )


def _matrix(rows: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        return np.matrix(rows)


def _assign(gate: StoreGate, item: Any, data: Any, name: str = "x") -> None:
    gate["train"][name][item] = data


def _backends(what: str) -> Sequence[str]:
    """Return the backends that have what a call is about."""
    if what.startswith(("vacuum", "keep_versions")):
        return [name for name in BACKENDS if name != "numpy"]
    if what.endswith("in another backend"):
        return [name for name in BACKENDS if name != "hybrid"]
    return ["hybrid"] if what.startswith(("mode ", "to memory ", "to storage ")) else BACKENDS


@pytest.fixture(scope="module")
def kept(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[StoreGate, Path]]:
    root = tmp_path_factory.mktemp("bad")
    args = {} if request.param == "numpy" else {"output_dir": str(root)}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data("x", np.arange(12.0).reshape(6, 2))
        gate.add_data(["n", "t", "d"], [np.arange(6), list("abcdef"), np.arange(6).astype("M8[s]")], do_compile=True)
        yield gate, root


def test_a_matrix_is_its_array(tmp_path: Path) -> None:
    with StoreGate("zarr", {"output_dir": str(tmp_path)}, data_id="a") as gate:
        gate.add_data("x", _matrix([[1, 2], [3, 4]]))
        gate["train"]["x"][0:1] = _matrix([[5, 6]])
        found = gate["train"]["x"][:]
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, [[5, 6], [3, 4]])


@pytest.mark.parametrize(
    ("kept", "what"),
    [
        pytest.param(name, what, marks=() if at == number % len(_backends(what)) else pytest.mark.slow)
        for number, what in enumerate(CALLS)
        for at, name in enumerate(_backends(what))
    ],
    indirect=["kept"],
)
def test_a_bad_call_is_a_typed_error_and_changes_nothing(kept: tuple[StoreGate, Path], what: str) -> None:
    gate, root = kept
    call, builtin = CALLS[what]
    table, files = gate.table, files_in(root)
    with pytest.raises(StoreGateError) as refused:
        call(gate)
    assert isinstance(refused.value, builtin)
    assert len(str(refused.value)) > 20
    str(refused.value).encode()
    assert gate.table is table
    assert files_in(root) == files
    assert gate.data_id == "a"
