"""Windows: plain indices as the oracle, at every edge: phases, files, gaps, changes of within, and replaced rows."""

from __future__ import annotations

import contextlib
import itertools
import json

import dask
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storegate import StoreGate, errors
from tests.examples import examples

N = 400
RNG = np.random.default_rng(0)
ROWS = {
    "t": np.arange(N),
    "x": RNG.random((N, 3)).astype("f4"),
    "run": np.repeat([0, 1, 2, 1], [100, 3, 200, 97]),
}


def expected(bounds, length, stride):
    """Return the rows of each window of series, written in another way than the library's."""
    return np.array(
        [range(at, at + length) for lo, hi in bounds for at in range(lo, hi - length + 1, stride)], np.int64
    ).reshape(-1, length)


@pytest.fixture(params=["numpy", "zarr"])
def gate(request, tmp_path):
    args = {} if request.param == "numpy" else {"output_dir": tmp_path / "store", "chunk": 16}
    with StoreGate(request.param, args, data_id="a") as gate:
        gate.add_data(ROWS, phase=(300, 60, 40))
        gate.compile()
        yield gate


def require(windows, rows, n_input, gap=0, names="x"):
    """Require input and target of windows, one by one, together, as a Dataset and in batches of every order."""
    given, wanted = rows[:, :n_input], rows[:, n_input + gap :]
    assert len(windows) == len(rows)
    np.testing.assert_array_equal(windows.starts, rows[:, 0])
    for at in (0, len(rows) // 2, -1):
        one = windows[at]
        np.testing.assert_array_equal(one[0], ROWS[names][given[at]])
        np.testing.assert_array_equal(one[1], ROWS[names][wanted[at]])
    for item in (slice(None), slice(5, 50, 3), [3, 0, 3]):
        some = windows[item]
        np.testing.assert_array_equal(some[0], ROWS[names][given[item]])
        np.testing.assert_array_equal(some[1], ROWS[names][wanted[item]])
    dataset = windows.to_xarray()
    np.testing.assert_array_equal(dataset[f"{names}_input"], ROWS[names][given])
    np.testing.assert_array_equal(dataset[f"{names}_target"][::7], ROWS[names][wanted[::7]])
    for shuffle in (False, "blocks", True):
        batches = list(windows.batches(16, shuffle=shuffle, seed=3, block_rows=8 if shuffle == "blocks" else None))
        found = np.concatenate([batch[0] for batch in batches]), np.concatenate([batch[1] for batch in batches])
        order = np.argsort([ROWS[names].tolist().index(row[0].tolist()) for row in found[0]], kind="stable")
        assert (order == np.arange(len(order))).all() == (shuffle is False)
        np.testing.assert_array_equal(found[0][order], ROWS[names][given])
        np.testing.assert_array_equal(found[1][order], ROWS[names][wanted])


@pytest.mark.parametrize(
    ("n_input", "target", "gap", "stride"), [(4, 1, 0, 1), (1, 1, 0, 1), (5, 2, 3, 4), (3, 0, 0, 7), (24, 6, 0, 1)]
)
def test_windows_of_a_phase(gate, n_input, target, gap, stride):
    windows = gate["train"]["x"].windows(n_input, target, gap=gap, stride=stride)
    require(windows, expected([(0, 300)], n_input + gap + target, stride), n_input, gap)


def test_windows_within_a_variable(gate):
    windows = gate["train"]["x"].windows(4, within="run")
    require(windows, expected([(0, 100), (103, 300)], 5, 1), 4)


def test_forms(gate):
    given, wanted = gate["valid"].windows(3)[:]
    assert list(given) == ["t", "x", "run"]
    np.testing.assert_array_equal(given["t"], 300 + expected([(0, 60)], 4, 1)[:, :3])
    np.testing.assert_array_equal(wanted["t"], 300 + expected([(0, 60)], 4, 1)[:, 3:])
    given, wanted = gate["valid"][["t", "run"]].windows(3)[0]
    np.testing.assert_array_equal(given[0], [300, 301, 302])
    given, wanted = gate["valid"].windows(3, var_names=("t", "run"))[:2]
    np.testing.assert_array_equal(given, [[[300, 2], [301, 2], [302, 2]], [[301, 2], [302, 2], [303, 1]]])
    (batch,) = gate["valid"].windows(3, var_names=("t", "run")).batches(100, shuffle=False)
    np.testing.assert_array_equal(batch[0][:2], given)
    (batch,) = gate["valid"].windows(3).batches(100, shuffle=False)
    assert sorted(batch[0]) == ["run", "t", "x"]


def test_no_window_goes_over_a_gap_until_rows_are_compacted(gate):
    gate.filter(ROWS["t"][:300] % 100 < 95, phase="train")
    left = np.flatnonzero(ROWS["t"][:300] % 100 < 95)
    windows = gate["train"]["t"].windows(4, 1)
    series = [(0, 95), (95, 190), (190, 285)]
    np.testing.assert_array_equal(windows[:][0], left[expected(series, 5, 1)][:, :4])
    gate.compact("train")
    assert len(gate["train"]["t"].windows(4, 1)) == 281


def test_appended_rows_are_neighbours(gate):
    gate.add_data({name: rows[:20] for name, rows in ROWS.items()}, phase="valid")
    assert len(gate["valid"]["t"].windows(4, 1)) == 76


def test_replaced_rows_are_neighbours_still(gate):
    gate.update_data("x", ROWS["x"][10:13] + 1, index=(10, 13))
    gate["train"]["x"][[50, 120, 121, 299]] = ROWS["x"][:4]
    gate["train"]["x"][0] = ROWS["x"][7]
    windows = gate["train"]["x"].windows(4, 1)
    assert len(windows) == 296
    found = gate["train"]["x"][:]
    np.testing.assert_array_equal(windows[:][0], found[expected([(0, 300)], 5, 1)[:, :4]])


def test_rows_that_moved_into_a_gap_are_no_neighbours(gate):
    """They look like replaced rows: stored elsewhere, and as many as are missing."""
    gate.add_data({name: rows[:20] + 500 for name, rows in ROWS.items()}, phase="valid")
    gate.select([0, 1, 2, 60, 61, 5, 6, 7], phase="valid")
    assert gate["valid"]["t"].windows(3, 0).starts.tolist() == [0, 5]
    gate.update_data("t", np.array([-1]), index=(6, 7), phase="valid")
    assert gate["valid"]["t"].windows(3, 0).starts.tolist() == [0, 5]
    gate.filter(lambda ds: ds.t != 7, phase="train")
    gate.add_data({name: rows[7:8] for name, rows in ROWS.items()}, phase="train")
    gate.sort("t", phase="train")
    assert not {5, 6, 7} & set(gate["train"]["t"].windows(3, 0).starts.tolist())


def test_windows_that_chance_leaves_in_a_shuffled_phase_are_of_neighbours(gate):
    gate.add_data({name: rows[:20] + 500 for name, rows in ROWS.items()}, phase="valid")
    for seed in range(12):
        gate.shuffle("valid", seed=seed)
        with contextlib.suppress(errors.ShapeError):
            found = gate["valid"]["t"].windows(2, 0)[:][0]
            np.testing.assert_array_equal(found[:, 1], found[:, 0] + 1)


def test_rows_that_were_replaced_are_known_when_the_store_is_opened_again(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.add_data("x", np.arange(50))
        gate.update_data("x", [-1, -2], index=(20, 22))
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "mode": "r"}, data_id="a") as gate:
        assert len(gate["train"]["x"].windows(4, 0)) == 47


def test_no_window_crosses_a_gap_in_any_of_its_variables(gate, tmp_path):
    for number, rows in enumerate(np.split(np.arange(300), [120])):
        np.save(tmp_path / f"{number}.npy", rows)
    gate.attach(tmp_path / "*.npy", "y", phase="train")
    for names in (["x", "y"], ["y", "x"], ["x", "t", "y"]):
        assert gate["train"][names].windows(4, 1).starts.tolist() == [*range(116), *range(120, 296)]


def test_a_shuffled_phase_is_refused_and_a_sorted_one_is_not(gate):
    gate.shuffle("train", seed=1)
    with pytest.raises(errors.ShapeError, match=r"shuffled, seed 1; sort them first, as in gate.sort\('time'\)"):
        gate["train"]["x"].windows(20)
    gate.sort("t")
    require(gate["train"]["x"].windows(4, 1), expected([(0, 300)], 5, 1), 4)


def test_windows_of_a_split_by_time(gate):
    gate.split((0.5, 0.25, 0.25), by="t", purge=5)
    for phase, lo, hi in (("train", 0, 195), ("valid", 200, 295), ("test", 300, 400)):
        found = gate[phase]["t"].windows(6, 2)[:]
        np.testing.assert_array_equal(found[0], lo + expected([(0, hi - lo)], 8, 1)[:, :6])


def test_no_window_goes_from_file_to_file(tmp_path):
    for number, rows in enumerate(np.split(np.arange(100.0), [30, 33, 80])):
        with h5py.File(tmp_path / f"{number}.h5", "w") as file:
            file["x"] = rows
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        gate.attach(str(tmp_path / "*.h5"), "x")
        windows = gate["train"]["x"].windows(4, 1)
        rows = expected([(0, 30), (33, 80), (80, 100)], 5, 1)
        np.testing.assert_array_equal(windows[:][0], rows[:, :4])
        found = np.concatenate([batch[0] for batch in windows.batches(7, shuffle="blocks", seed=1)])
        np.testing.assert_array_equal(np.sort(found[:, 0]), rows[:, 0])
        gate.select(slice(10, 90))
        assert len(gate["train"]["x"].windows(4, 1)) == (30 - 10 - 4) + (80 - 33 - 4) + (10 - 4)


@pytest.mark.parametrize("shuffle", [False, "blocks", True])
def test_ranks_and_resume(gate, shuffle):
    windows = gate["train"]["x"].windows(6, 2, stride=2)
    options = {"shuffle": shuffle, "seed": 5, **({"block_rows": 8, "buffer_blocks": 4} if shuffle == "blocks" else {})}
    whole = [batch[0] for batch in windows.batches(12, **options)]
    ranks = [list(windows.batches(12, rank=rank, world=3, **options)) for rank in range(3)]
    for step, batch in enumerate(whole):
        of_ranks = np.concatenate([of[step][0] for of in ranks])
        assert sorted(of_ranks[:, 0, 0].tolist()) == sorted(batch[:, 0, 0].tolist())
    stream = windows.batches(12, **options)
    iterator = iter(stream)
    for _ in range(3):
        next(iterator)
    state = json.loads(json.dumps(stream.state_dict()))
    again = gate["train"]["x"].windows(6, 2, stride=2).batches(12, **options)
    again.load_state_dict(state)
    for batch, other in zip(whole[3:], again, strict=True):
        np.testing.assert_array_equal(batch, other[0])
    other = gate["train"]["x"].windows(5, 4, stride=2).batches(12, **options)
    with pytest.raises(errors.StreamStateError):
        other.load_state_dict(state)


def test_another_version_changes_nothing_about_windows(gate):
    windows = gate["train"]["x"].windows(4)
    gate.shuffle("train", seed=4)
    np.testing.assert_array_equal(windows[:][0], ROWS["x"][expected([(0, 300)], 5, 1)[:, :4]])


def test_a_dataset_of_windows_is_lazy_and_pickled_streams_go_on(gate):
    import pickle

    windows = gate["train"]["x"].windows(24, 6)
    dataset = windows.to_xarray()
    assert dask.is_dask_collection(dataset)
    assert dict(dataset.sizes) == {"window": 271, "input_step": 24, "x_1": 3, "target_step": 6}
    stream = pickle.loads(pickle.dumps(windows.batches(16, shuffle=False)))
    np.testing.assert_array_equal(next(iter(stream))[0], ROWS["x"][expected([(0, 300)], 30, 1)[:16, :24]])


def test_views_of_some_rows_have_windows(gate):
    view = gate["train"].subset(slice(50, 150))
    found = view["t"].windows(4, 1)[:]
    np.testing.assert_array_equal(found[0], 50 + expected([(0, 100)], 5, 1)[:, :4])


def test_text_in_windows(tmp_path):
    with StoreGate("zarr", {"output_dir": tmp_path / "s"}, data_id="a") as gate:
        words = np.array([f"word {number}" * (number % 3) for number in range(50)], np.dtypes.StringDType())
        gate.add_data("word", words)
        windows = gate["train"]["word"].windows(3, 1)
        np.testing.assert_array_equal(windows[:][0], words[expected([(0, 50)], 4, 1)[:, :3]])
        for shuffle in (False, True):
            found = np.concatenate([batch[1] for batch in windows.batches(8, shuffle=shuffle)])
            assert sorted(found.ravel().tolist()) == sorted(words[3:].tolist())


REFUSED = [
    ({"input": 0}, ValueError, "input is 1 or more, found 0"),
    ({"input": 2, "target": -1}, ValueError, "target is 0 or more"),
    ({"input": 2, "stride": 0}, ValueError, "stride is 1 or more"),
    ({"input": 2, "gap": -1}, ValueError, "gap is 0 or more"),
    ({"input": 2.5}, TypeError, "input must be an integer"),
    ({"input": 2, "within": "x"}, ValueError, r"within= needs one value for each row.* \(3,\)"),
    ({"input": 2, "within": "nothing"}, KeyError, "no variable 'nothing'"),
    ({"input": 2, "var_names": "t"}, ValueError, "the view has"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED)
def test_refused(gate, options, error, message):
    with pytest.raises(error, match=message):
        gate["train"]["x"].windows(**options)


def test_a_phase_is_needed_and_windows_longer_than_it_are_none(gate):
    with pytest.raises(errors.PhaseNotFoundError, match="one phase"):
        gate["all"]["x"].windows(2)
    assert len(gate["test"]["x"].windows(100)) == 0
    with pytest.raises(errors.ArgumentError, match="label= names one value"):
        gate["train"]["x"].windows(2).batches(4, label="run", shuffle="blocks")


@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=60),
    st.integers(1, 6),
    st.integers(0, 3),
    st.integers(0, 2),
    st.integers(1, 5),
)
@settings(max_examples=examples(150), deadline=None)
def test_windows_never_mix_runs(runs, n_input, target, gap, stride):
    gate = StoreGate(data_id="a")
    gate.add_data({"t": np.arange(len(runs)), "run": runs})
    edges = [0, *(np.flatnonzero(np.diff(runs)) + 1), len(runs)]
    rows = expected(list(itertools.pairwise(edges)), n_input + gap + target, stride)
    try:
        windows = gate["train"]["t"].windows(n_input, target, gap=gap, stride=stride, within="run")
    except errors.ShapeError:
        assert not len(rows)
        return
    found = windows[:]
    np.testing.assert_array_equal(found[0], rows[:, :n_input])
    np.testing.assert_array_equal(found[1], rows[:, n_input + gap :])


@pytest.mark.filterwarnings("ignore:shuffle='blocks'")
def test_blocks_read_each_row_about_once(tmp_path, monkeypatch):
    with StoreGate("zarr", {"output_dir": tmp_path / "s", "compressor": "none"}, data_id="a") as gate:
        gate.add_data("x", RNG.random((40_000, 16)))
        windows = gate["train"]["x"].windows(23, 1)
        n_read = []
        inner = type(windows.variables[0].pieces[0].array.variable)
        read_into = inner.read_into

        def counted(self, lo, hi, out, **options):
            if self.name == "x":
                n_read.append(hi - lo)
            read_into(self, lo, hi, out, **options)

        monkeypatch.setattr(inner, "read_into", counted)
        n_windows = sum(len(batch[0]) for batch in windows.batches(256, shuffle="blocks", seed=1))
    assert n_windows == 40_000 - 23
    assert sum(n_read) <= 1.1 * 40_000
