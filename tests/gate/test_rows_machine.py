"""A state machine over all calls that choose, deal, order and scale rows, with lists and sparse rows beside arrays.

The model knows of each row a number, and what belongs to it. After each call the numbers are read: the law of the call
says which they may be; then every variable must have what belongs to them.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import warnings
from itertools import pairwise

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
from scipy import sparse

from storegate import Ragged, StoreGate, errors
from tests.examples import examples
from tests.gate.list_cases import require_lists

PHASES = ("train", "valid", "test")
SEEDS = st.integers(0, 2**32 - 1)
N_COLUMNS = 5


class RowsMachine(RuleBasedStateMachine):
    """Calls on aligned variables, each in every phase."""

    backend = "numpy"

    def __init__(self):
        super().__init__()
        self.directory = tempfile.mkdtemp()
        self.rows = {phase: np.empty(0, np.int64) for phase in PHASES}
        self.lists, self.labels, self.values = [], [], []
        self.versions = {}
        self.gate = self.open()

    def open(self):
        args = {"chunk": 7} if self.backend == "numpy" else {"chunk": 7, "output_dir": self.directory}
        return StoreGate(self.backend, args, data_id="machine")

    def teardown(self):
        self.gate.close()
        shutil.rmtree(self.directory)

    # What is changed

    def columns(self, numbers):
        matrix = np.zeros((len(numbers), N_COLUMNS), "f4")
        matrix[np.arange(len(numbers)), numbers % N_COLUMNS] = numbers
        return {
            "row": numbers,
            "t": [self.lists[number] for number in numbers],
            "m": sparse.csr_array(matrix),
            "label": np.array([self.labels[number] for number in numbers], np.int64),
            "z": np.array([self.values[number] for number in numbers], np.float64),
        }

    def changed(self, **rows):
        """Remember the numbers that phases have now, and the state before for an undo."""
        before = {phase: numbers.copy() for phase, numbers in self.rows.items()}
        self.rows |= {phase: np.asarray(numbers, np.int64) for phase, numbers in rows.items()}
        if any(not np.array_equal(before[phase], self.rows[phase]) for phase in PHASES):
            self.before = before
        else:
            self.before = None  # whether the call counts as a change, it may decide

    before = None

    def read(self, phase):
        return self.gate[phase]["row"][:] if len(self.rows[phase]) else np.empty(0, np.int64)

    @initialize(data=st.data())
    def start(self, data):
        self.append(data, phase="train")

    @rule(data=st.data(), phase=st.sampled_from(PHASES))
    def append(self, data, phase):
        lists = data.draw(st.lists(st.lists(st.integers(-9, 9), max_size=4), min_size=1, max_size=12), "lists")
        numbers = np.arange(len(self.lists), len(self.lists) + len(lists))
        self.lists += [np.array(row, np.int64) for row in lists]
        self.labels += [number % 3 for number in numbers.tolist()]
        self.values += [float(number * 7 % 10) for number in numbers.tolist()]
        columns = self.columns(numbers)
        columns["t"] = Ragged.of(columns["t"])  # also those of one length by chance
        self.gate.add_data(columns, phase=phase)
        self.gate.compile()
        self.changed(**{phase: np.concatenate([self.rows[phase], numbers])})

    @rule(phase=st.sampled_from(PHASES), seed=SEEDS)
    def shuffle(self, phase, seed):
        self.gate.shuffle(seed=seed, phase=phase)
        self.changed(**{phase: self.rows[phase][np.random.RandomState(seed).permutation(len(self.rows[phase]))]})

    @rule(how=st.sampled_from(["shares", "stratify", "groups", "hash", "by"]), seed=SEEDS)
    def split(self, how, seed):
        everything = np.concatenate(list(self.rows.values()))
        if not len(everything):
            return
        options = {} if how in ("shares", "by", "hash") else {how: "label"}
        options |= {"hash": "row"} if how == "hash" else {}
        options |= {"by": "row"} if how == "by" else {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of phases that get nothing
            try:
                self.gate.split((0.5, 0.25, 0.25), seed=seed, **options)
            except errors.ArgumentError:  # too few groups, or one too large
                assert how == "groups"
                return
        sizes = self.gate.sizes
        dealt = {at: self.gate[at]["row"][:] if sizes.get(at) else np.empty(0, np.int64) for at in PHASES}
        assert sorted(np.concatenate(list(dealt.values()))) == sorted(everything)
        if how == "groups":
            groups = [{self.labels[number] for number in numbers} for numbers in dealt.values()]
            assert sum(map(len, groups)) == len(set().union(*groups))
        if how == "by":
            assert all(np.all(np.diff(np.sort(numbers)) >= 0) for numbers in dealt.values())
            ends = [numbers for numbers in dealt.values() if len(numbers)]
            assert all(one.max() <= other.min() for one, other in pairwise(ends))
        self.changed(**dealt)

    @rule(phase=st.sampled_from(PHASES), modulus=st.integers(2, 4))
    def filter(self, phase, modulus):
        if not len(self.rows[phase]):
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of conditions that keep nothing
            self.gate.filter(lambda ds: ds.row % modulus != 0, phase=phase)
        self.changed(**{phase: self.rows[phase][self.rows[phase] % modulus != 0]})

    @rule(phase=st.sampled_from(PHASES), data=st.data())
    def select(self, phase, data):
        n_rows = len(self.rows[phase])
        if not n_rows:
            return
        index = data.draw(st.lists(st.integers(-n_rows, n_rows - 1), min_size=1, max_size=n_rows, unique=True))
        if len({at % n_rows for at in index}) < len(index):
            index = index[:1]
        self.gate.select(index, phase=phase)
        self.changed(**{phase: self.rows[phase][index]})

    @rule(phase=st.sampled_from(PHASES), seed=SEEDS, share=st.sampled_from([0.3, 0.8, 1.0]))
    def sample(self, phase, seed, share):
        if not len(self.rows[phase]):
            return
        self.gate.sample(share, seed=seed, phase=phase)
        found = self.read(phase)
        assert set(found) <= set(self.rows[phase])
        assert len(found) == len(set(found))
        assert abs(len(found) - share * len(self.rows[phase])) <= 1
        self.changed(**{phase: found})

    @rule(by=st.sampled_from([["row"], ["label", "row"], ["z", "row"]]), descending=st.booleans())
    def sort(self, by, descending):
        if not any(map(len, self.rows.values())):
            return
        self.gate.sort(by, descending=descending)
        keys = {"row": lambda n: n, "label": lambda n: self.labels[n], "z": lambda n: self.values[n]}
        self.changed(
            **{
                at: sorted(numbers.tolist(), key=lambda n: [keys[key](n) for key in by], reverse=descending)
                for at, numbers in self.rows.items()
            }
        )

    scaled = False

    @precondition(lambda self: not self.scaled and len(self.rows["train"]) > 1)
    @rule(how=st.sampled_from(["standardize", "normalize"]))
    def scale(self, how):
        train = np.array([self.values[number] for number in self.rows["train"]])
        if np.ptp(train) == 0:
            return
        getattr(self.gate, how)("z")
        low, high = (train.mean(), train.mean() + train.std()) if how == "standardize" else (train.min(), train.max())
        self.values = [(value - low) / (high - low) for value in self.values]
        self.scaled = True
        self.before = None

    @rule(phase=st.sampled_from([*PHASES, "all"]))
    def compact(self, phase):
        self.gate.compact(phase)
        self.before = None

    @precondition(lambda self: self.before is not None and any(map(len, self.before.values())))
    @rule()
    def undo(self):
        with contextlib.suppress(errors.VersionNotFoundError):  # in memory, not all is kept
            self.gate.undo()
            self.rows, self.before = self.before, None

    @precondition(lambda self: self.backend == "zarr")
    @rule()
    def reopen(self):
        self.gate.close()
        self.gate = self.open()
        self.gate.compile()
        self.before = None

    @precondition(lambda self: self.backend == "zarr" and not self.scaled)
    @rule(data=st.data())
    def rollback(self, data):
        version = self.gate.repository().version
        self.versions[version] = {phase: rows.copy() for phase, rows in self.rows.items()}
        known = data.draw(st.sampled_from(sorted(self.versions)), "version")
        self.gate.rollback(known)
        self.gate.compile()
        self.rows, self.before = {phase: rows.copy() for phase, rows in self.versions[known].items()}, None

    @rule(seed=st.integers(0, 99), shuffle=st.sampled_from([True, False, "blocks"]), bucketed=st.booleans())
    def batches(self, seed, shuffle, bucketed):
        if not len(self.rows["train"]):
            return
        options = {"bucket_by": "t"} if bucketed and shuffle != "blocks" else {}
        seen = []
        try:
            for batch in self.gate["train"].batches(4, shuffle=shuffle, seed=seed, **options):
                self.require(batch, batch["row"])
                seen += batch["row"].tolist()
        except errors.ArgumentError:
            assert shuffle == "blocks"  # of rows that are shuffled lazily
            return
        assert sorted(seen) == sorted(self.rows["train"].tolist())

    # What must hold

    def require(self, found, numbers):
        expected = self.columns(numbers)
        require_lists(found["t"], [self.lists[number] for number in numbers])
        np.testing.assert_array_equal(found["m"].toarray(), expected["m"].toarray())
        np.testing.assert_array_equal(found["label"], expected["label"])
        np.testing.assert_allclose(found["z"], expected["z"], atol=1e-12)

    @invariant()
    def every_variable_has_what_belongs_to_its_rows(self):
        for phase in PHASES:
            numbers = self.rows[phase]
            np.testing.assert_array_equal(self.read(phase), numbers)
            if len(numbers):
                self.require(self.gate[phase].head(len(numbers)), numbers)


@pytest.mark.filterwarnings("ignore:.*variances vary|shuffle='blocks'")
@pytest.mark.filterwarnings("ignore:rows are added to variable 'z'")
@pytest.mark.hypothesis
@pytest.mark.parametrize("backend", ["numpy", "zarr"])
def test_rows_keep_what_belongs_to_them(backend):
    machine = type(f"Rows_{backend}", (RowsMachine,), {"backend": backend})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples(30), stateful_step_count=15, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
