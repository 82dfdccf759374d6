"""A state machine over the whole interface, on every backend, against a plain dict of ndarrays."""

from __future__ import annotations

import copy
import pickle
import shutil
import tempfile

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from storegate import StoreGate
from storegate_engine import testing
from storegate_engine.testing import Model
from tests.examples import examples

PHASES = ("train", "valid", "test")


def boundaries(split, n_rows):
    """The documented boundaries of a split, of phases with rows, written in another way than the library's."""
    return {phase: cut for phase, cut in shares(split, n_rows).items() if cut.start < cut.stop}


def shares(split, n_rows):
    if isinstance(split, str):
        return {split: slice(0, n_rows)}
    if all(isinstance(share, int) for share in split):
        first, second = split[0], split[0] + split[1]
    else:
        first = int(np.floor(np.round(n_rows * split[0], 9)))
        second = int(np.floor(np.round(n_rows * (split[0] + split[1]), 9)))
    return {"train": slice(0, first), "valid": slice(first, second), "test": slice(second, n_rows)}


class StoreMachine(RuleBasedStateMachine):
    """Every public change, in any order; after each step all values are read and compared."""

    backend = "numpy"

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.models = {"numpy": Model(), "zarr": Model()}
        self.mode = "numpy" if self.backend == "numpy" else "zarr"
        self.gate = self.open()

    def open(self):
        args = {"chunk": 7} if self.backend == "numpy" else {"chunk": 7, "output_dir": self.directory}
        return StoreGate(self.backend, args, data_id="machine")

    def teardown(self):
        self.gate.close()
        shutil.rmtree(self.directory)

    @property
    def model(self):
        return self.models[self.mode]

    def known(self, phase):
        return list(self.model.phases[phase])

    @initialize(data=st.data())
    def start(self, data):
        self.add(data, shuffle=False)

    @rule(data=st.data(), shuffle=st.sampled_from([False, True, 0, 7]))
    def add(self, data, shuffle):
        name = data.draw(testing.names(), "name")
        n_rows = data.draw(st.integers(1, 30), "rows")
        phase = data.draw(testing.splits(n_rows), "phase")
        cuts = boundaries(phase, n_rows)
        olds = [self.model.phases[at][name] for at in cuts if name in self.model.phases[at]]
        if len({(old.dtype, old.shape[1:]) for old in olds}) > 1:
            return
        rows = data.draw(
            testing.arrays(n_rows, dtype=olds[0].dtype, row_shape=olds[0].shape[1:])
            if olds
            else testing.arrays(n_rows),
            "rows",
        )
        given_rows = rows.copy()
        self.gate.add_data(name, rows, phase, shuffle=shuffle)
        np.testing.assert_array_equal(rows, given_rows)
        if shuffle is not False:
            rows = rows[np.random.RandomState(int(shuffle)).permutation(n_rows)]
        for at, cut in cuts.items():
            self.model.append(at, name, rows[cut])

    @rule(data=st.data())
    def append_other_dtype(self, data):
        phase = data.draw(st.sampled_from(PHASES))
        numbers = [name for name in self.known(phase) if self.model.phases[phase][name].dtype.kind in "biufc"]
        if numbers:
            name = data.draw(st.sampled_from(numbers))
            old = self.model.phases[phase][name]
            rows = data.draw(testing.arrays(3, dtype=data.draw(testing.dtypes(text=False)), row_shape=old.shape[1:]))
            if self.model.appended_dtype(old, rows) is None:
                with pytest.raises(TypeError, match="astype"):
                    self.gate.add_data(name, rows, phase)
                return
            self.gate.add_data(name, rows, phase)
            self.model.append(phase, name, rows)

    def pick(self, data):
        phases = [phase for phase in PHASES if self.known(phase)]
        if not phases:
            return None
        phase = data.draw(st.sampled_from(phases), "phase")
        return phase, data.draw(st.sampled_from(self.known(phase)), "name")

    @rule(data=st.data())
    def update(self, data):
        if (target := self.pick(data)) is None:
            return
        phase, name = target
        old = self.model.phases[phase][name]
        index = data.draw(testing.indices(len(old)), "index")
        selected = old[index]
        kind = data.draw(testing.dtypes(text=False)) if old.dtype.kind in "biufc" else old.dtype
        one = selected.ndim < old.ndim
        rows = data.draw(testing.arrays(1 if one else len(selected), dtype=kind, row_shape=old.shape[1:]), "rows")
        whole = isinstance(index, slice) and (
            index in (slice(None), slice(0, None), slice(None, None, 1))
            or (len(old) > 0 and index.indices(len(old)) == (0, len(old), 1))
        )
        if one:
            rows = rows[0]
        if not whole and np.size(selected) and self.model.fitting_dtype(old, rows) is None:
            with pytest.raises(TypeError, match="astype"):
                self.gate[phase][name][index] = rows
            return
        try:
            self.gate[phase][name][index] = rows
        except ValueError:
            assert not self.model.even()  # an update compiles, and all of it is undone when that fails
            return
        if whole:
            self.model.phases[phase][name] = rows.copy()
        else:
            self.model.replace(phase, name, index, rows)

    @rule(data=st.data())
    def delete(self, data):
        if (target := self.pick(data)) is None:
            return
        phase, name = target
        self.gate.delete_data(name, phase, do_compile=False)
        del self.model.phases[phase][name]

    @rule(data=st.data(), dtype=testing.dtypes(text=False))
    def astype(self, data, dtype):
        if (target := self.pick(data)) is None:
            return
        phase, name = target
        old = self.model.phases[phase][name]
        if old.dtype.kind in "biuf" and dtype.kind not in "c":
            self.gate.astype(name, dtype, phase)
            self.model.phases[phase][name] = old.astype(dtype)

    @rule(data=st.data())
    def onehot(self, data):
        if (target := self.pick(data)) is None:
            return
        phase, name = target
        old = self.model.phases[phase][name]
        if old.dtype.kind in "bu" and old.ndim < 4:
            classes = int(old.max(initial=0)) + 2
            if classes < 200:
                self.gate.onehot(name, classes, phase)
                self.model.phases[phase][name] = np.identity(classes)[old.astype(np.int64)]

    @rule(data=st.data(), axis=st.sampled_from([1, -1]))
    def argmax(self, data, axis):
        if (target := self.pick(data)) is None:
            return
        phase, name = target
        old = self.model.phases[phase][name]
        if old.dtype.kind in "biuf" and old.ndim > 1 and old.shape[axis]:
            self.gate.argmax(name, axis, phase)
            self.model.phases[phase][name] = np.argmax(old, axis)

    @precondition(lambda self: self.model.even())
    @rule(phase=st.sampled_from([*PHASES, "all"]), seed=st.integers(0, 2**32 - 1))
    def shuffle(self, phase, seed):
        before = np.random.get_state()[1].copy()
        self.gate.shuffle(phase, seed)
        np.testing.assert_array_equal(np.random.get_state()[1], before)
        for at in PHASES if phase == "all" else (phase,):
            for name, rows in self.model.phases[at].items():
                self.model.phases[at][name] = rows[np.random.RandomState(seed).permutation(len(rows))]

    @precondition(lambda self: self.model.even())
    @rule(data=st.data(), how=st.sampled_from(["filter", "select", "sample", "sort"]))
    def choose(self, data, how):
        if (target := self.pick(data)) is None:
            return
        phase, name = target
        rows = self.model.phases[phase][name]
        places = np.arange(len(rows))
        if how == "filter":
            index = np.array(data.draw(st.lists(st.booleans(), min_size=len(rows), max_size=len(rows))), bool)
            kept, call = places[index], lambda: self.gate.filter(index, phase)
        elif how == "select":
            index = data.draw(testing.indices(len(rows)), "index")
            kept, call = places[index], lambda: self.gate.select(index, phase)
        elif how == "sample":
            n_rows, seed = data.draw(st.integers(min(1, len(rows)), len(rows))), data.draw(st.integers(0, 2**32 - 1))
            order = np.random.RandomState(seed).permutation(len(rows))
            kept, call = order[:n_rows], lambda: self.gate.sample(n_rows, seed, phase)
        else:
            if rows.ndim > 1 or rows.dtype.kind not in "biufmM":
                return
            kept, call = np.argsort(rows, kind="stable"), lambda: self.gate.sort(name, phase)
        if not np.ndim(kept) or not len(kept):
            return
        call()
        for name, rows in self.model.phases[phase].items():
            self.model.phases[phase][name] = rows[kept]

    @precondition(lambda self: self.model.even())
    @rule(seed=st.one_of(st.none(), st.integers(0, 2**32 - 1)))
    def split(self, seed):
        filled = [phase for phase in PHASES if self.known(phase)]
        names = self.known(filled[0]) if filled else []
        parts = {name: [self.model.phases[phase].get(name) for phase in filled] for name in names}
        is_common = all(set(self.known(phase)) == set(names) for phase in filled)
        if not is_common or any(len({(of.dtype, of.shape[1:]) for of in part}) > 1 for part in parts.values()):
            return
        wholes = {name: np.concatenate(part) for name, part in parts.items()}
        n_rows = len(next(iter(wholes.values()))) if wholes else 0
        if not n_rows:
            return
        cuts = shares((0.5, 0.25, 0.25), n_rows)
        order = np.arange(n_rows) if seed is None else np.random.RandomState(seed).permutation(n_rows)
        self.gate.split((0.5, 0.25, 0.25), seed=seed)
        for phase, cut in cuts.items():  # phases without rows keep their variables
            self.model.phases[phase] = {name: rows[order[cut]] for name, rows in wholes.items()}

    @rule(phase=st.sampled_from([*PHASES, "all"]))
    def compact(self, phase):
        self.gate.compact(phase)

    @rule(how=st.sampled_from(["open", "pickle", "copy"]))
    def reopen(self, how):
        if how == "pickle":
            self.gate = pickle.loads(pickle.dumps(self.gate))
        elif how == "copy":
            self.gate = copy.deepcopy(self.gate)
        elif self.backend == "zarr":
            self.gate = self.open()

    @precondition(lambda self: self.backend == "hybrid")
    @rule(data=st.data(), to=st.sampled_from(["to_memory", "to_storage"]), renamed=st.booleans())
    def move(self, data, to, renamed):
        source, target = ("zarr", "numpy") if to == "to_memory" else ("numpy", "zarr")
        phases = [phase for phase in PHASES if self.models[source].phases[phase]]
        if not phases:
            return
        phase = data.draw(st.sampled_from(phases))
        name = data.draw(st.sampled_from(list(self.models[source].phases[phase])))
        new = "moved" if renamed else name
        getattr(self.gate, to)(name, phase, output_var_names=new)
        self.models[target].phases[phase][new] = self.models[source].phases[phase][name].copy()
        if source == "numpy":
            del self.models["numpy"].phases[phase][name]

    @precondition(lambda self: self.backend == "hybrid")
    @rule(mode=st.sampled_from(["numpy", "zarr"]))
    def set_mode(self, mode):
        if self.models[mode].even():
            self.gate.set_mode(mode)
            self.mode = mode
        else:
            with pytest.raises(ValueError, match="different numbers of rows"):
                self.gate.set_mode(mode)

    @rule(data=st.data())
    def read(self, data):
        if (target := self.pick(data)) is None:
            return
        phase, name = target
        rows = self.model.phases[phase][name]
        index = data.draw(testing.indices(len(rows)), "index")
        equal(self.gate[phase][name][index], rows[index])
        lo, hi = sorted((data.draw(st.integers(0, len(rows))), data.draw(st.integers(0, len(rows)))))
        equal(self.gate.get_data(name, phase, (lo, hi)), rows[lo:hi])
        equal(self.gate.get_data(name, phase, (lo, hi), compute=False).compute(scheduler="sync"), rows[lo:hi])

    @rule()
    def read_all_phases(self):
        if not self.model.even():
            with pytest.raises(ValueError, match="different numbers of rows"):
                self.gate.compile()
            return
        self.gate.compile()
        filled = [phase for phase in PHASES if self.known(phase)]
        if not filled:
            return
        for name in set.intersection(*(set(self.known(phase)) for phase in filled)):
            parts = [self.model.phases[phase][name] for phase in filled]
            if len({part.shape[1:] for part in parts}) == 1 and all(part.dtype.kind in "biufc" for part in parts):
                wanted = np.concatenate(parts)
                if makes_floats_of_integers(parts):
                    with pytest.raises(TypeError, match="no integer dtype"):
                        self.gate.get_data(name, "all")
                else:
                    equal(self.gate.get_data(name, "all"), wanted)
        assert self.gate.get_metadata()["total_events"] == [
            max((len(rows) for rows in self.model.phases[phase].values()), default=0) for phase in PHASES
        ]

    @invariant()
    def equals_the_model(self):
        for phase in PHASES:
            assert sorted(self.gate.get_var_names(phase)) == sorted(self.known(phase))
            for name, rows in self.model.phases[phase].items():
                equal(self.gate.get_data(name, phase), rows)
                assert self.gate.get_var_shapes(name, phase) == rows.shape[1:]


def makes_floats_of_integers(parts):
    """Whether numpy, joining arrays one after another, would make floats of two integer dtypes."""
    dtypes = [np.result_type(*parts[:n]) for n in range(1, len(parts) + 1)]
    steps = zip(dtypes, [part.dtype for part in parts[1:]], dtypes[1:], strict=False)
    return any(one.kind in "iu" and other.kind in "iu" and both.kind == "f" for one, other, both in steps)


def equal(found, expected):
    """Assert equal values, dtype and shape."""
    expected = np.asarray(expected)
    assert np.asarray(found).dtype == expected.dtype
    np.testing.assert_array_equal(found, expected, strict=True) if isinstance(found, np.ndarray) else (
        np.testing.assert_array_equal(found, expected)
    )


machine_settings = settings(
    max_examples=examples(40), stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.mark.filterwarnings("ignore:the split leaves phase")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # casts out of range warn in numpy and here
@pytest.mark.filterwarnings("ignore::storegate_engine.errors.AlignmentWarning")  # the model shuffles each as it likes
@pytest.mark.hypothesis
@pytest.mark.parametrize("backend", ["numpy", "zarr", "hybrid"])
def test_store_equals_model(backend):
    machine = type(f"Machine_{backend}", (StoreMachine,), {"backend": backend})
    run_state_machine_as_test(machine, settings=machine_settings)
