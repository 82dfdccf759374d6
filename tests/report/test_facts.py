"""What a report says is what numpy says of the same rows, phase by phase, in one pass over them."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
from scipy.spatial.distance import jensenshannon

from storegate import Ragged, StoreGate
from storegate.report.drift import Drift
from tests.report.conftest import N, fill

PHASES = ("train", "valid", "test")
NUMBERS = ("normal", "holes", "far", "whole", "many", "image", "wave", "tokens", "counts")
CLASSES = ("class", "flag", "label", "colour", "word")


def values_of(rows):
    """Return all values of rows, with the zeros of a sparse matrix."""
    if isinstance(rows, Ragged):
        return rows.flat
    return (rows.toarray() if scipy.sparse.issparse(rows) else rows).ravel()


def variable(report, name):
    return next(of for of in report.facts.variables if of.name == name)


@pytest.mark.parametrize("name", NUMBERS)
def test_histograms_are_numpys(gate, found, name):
    of = variable(found, name)
    for at in PHASES:
        values = values_of(gate[at][name][:])
        values = values[np.isfinite(values)].astype(float)
        edges = np.array(of.bars.labels, float)
        inside = values[(values >= edges[0]) & (values < edges[-1])]
        np.testing.assert_array_equal(of.bars.counts[at], np.histogram(inside, edges)[0])
        assert of.bars.below[at] == (values < edges[0]).sum()
        assert of.bars.above[at] == (values >= edges[-1]).sum()
    assert 10 <= len(of.bars.labels) - 1 <= 40


@pytest.mark.parametrize("name", ["normal", "holes", "far", "empty", "many", "image", "wave", "tokens", "counts"])
def test_statistics_are_numpys(gate, found, name):
    for at, said in variable(found, name).phases.items():
        values = values_of(gate[at][name][:])
        known = values[~np.isnan(values)].astype(float)
        finite = known[np.isfinite(known)]
        assert (said.n_rows, said.n_values) == (len(gate[at]), values.size)
        assert (said.n_missing, said.n_infinite) == (np.isnan(values).sum(), np.isinf(values).sum())
        if not finite.size:
            assert (said.least, said.most, said.mean, said.std) == (None,) * 4
            continue
        assert (said.least, said.most) == (known.min(), known.max())
        np.testing.assert_allclose([said.mean, said.std], [finite.mean(), finite.std()], rtol=1e-6)


@pytest.mark.parametrize("name", CLASSES)
def test_classes_are_counted_by_phase(gate, found, name):
    bars = variable(found, name).bars
    assert bars.are_classes
    for at in PHASES:
        rows = gate[at].to_pandas()[name] if name in ("colour", "word") else gate[at][name][:]
        labels = [str(row) for row in (rows.argmax(axis=1) if name == "label" else rows)]
        assert dict(zip(bars.labels, bars.counts[at], strict=True)) == {
            label: labels.count(label) for label in bars.labels
        }
        assert sum(bars.counts[at]) == len(labels)


def test_times_have_edges_that_are_times(gate, found):
    bars = variable(found, "time").bars
    edges = np.array(bars.labels, "M8[h]")
    for at in PHASES:
        expected = np.histogram(gate[at]["time"][:].astype("i8"), edges.astype("i8"))[0]
        np.testing.assert_array_equal(bars.counts[at], expected)
    assert variable(found, "time").phases["train"].least == str(gate["train"]["time"][:].min())


def test_whole_numbers_have_bins_of_their_own(found):
    assert variable(found, "whole").bars.labels == [float(at) for at in range(32)]


@pytest.mark.parametrize("fill_value", [1e15, 1e20, 9.96921e36, -1e30, 1.7e308])
def test_a_value_that_stands_for_none_hides_no_drift(fill_value):
    rng = np.random.default_rng(0)
    train, test = np.append(rng.normal(100, 1, 9999), fill_value), rng.normal(110, 1, 5000)
    with StoreGate(data_id="a") as gate:
        gate.add_data("x", train)
        gate.add_data("x", test, phase="test")
        of = variable(gate.report(), "x")
    edges = np.array(of.bars.labels, float)
    assert 10 <= len(edges) - 1 <= 40
    for at, values in (("train", train), ("test", test)):
        inside = values[(values >= edges[0]) & (values < edges[-1])]
        np.testing.assert_array_equal(of.bars.counts[at], np.histogram(inside, edges)[0])
        assert (of.bars.below[at], of.bars.above[at]) == ((values < edges[0]).sum(), (values >= edges[-1]).sum())
    (drift,) = of.drift
    assert (drift.distance > 0.99, drift.verdict) == (True, "strong")


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_numbers_that_are_huge_themselves_are_drawn(share):
    rng = np.random.default_rng(0)
    values = np.where(rng.random(5000) < share, rng.normal(5e20, 1e20, 5000), rng.normal(size=5000))
    with StoreGate(data_id="a") as gate:
        gate.add_data("x", values)
        bars = variable(gate.report(), "x").bars
    assert sum(bars.counts["train"]) + bars.below["train"] + bars.above["train"] == 5000
    assert sum(bars.counts["train"]) > 4900
    assert 10 <= len(bars.labels) - 1 <= 40


def test_far_values_do_not_flatten_the_others(found):
    bars = variable(found, "far").bars
    assert bars.labels[-1] - bars.labels[0] < 20
    assert sum(bars.below.values()) + sum(bars.above.values()) >= 2


def test_what_has_no_histogram(found):
    assert [of.name for of in found.facts.variables if of.bars is None] == ["empty", "name", "complex"]


def test_phases_samples_history_and_costs(gate, found):
    facts = found.facts
    assert {of.name: of.n_rows for of in facts.phases} == gate.sizes
    assert [commit.operation for commit in facts.history] == [commit.operation for commit in gate.history()]
    looks = {of.variable: of.looks_like for of in facts.samples}
    assert (looks["image"], looks["wave"], looks["normal"], looks["label"]) == ("image", "series", "values", "values")
    for of in facts.samples:
        shown = of.rows.flat if of.variable == "tokens" else of.rows.ravel()
        rows = gate["train"].to_pandas(6)["colour"] if of.variable == "colour" else gate["train"][of.variable][:6]
        np.testing.assert_array_equal(shown, rows.to_numpy() if of.variable == "colour" else values_of(rows))
    assert {(of.phase, of.order) for of in facts.costs} >= {("train", "uniform"), ("test", "blocks")}
    uniform = next(of for of in facts.costs if (of.phase, of.order) == ("train", "uniform"))
    assert uniform.n_batches == len(gate["train"].batches(256))
    assert "reads" in facts.plans["train"]["normal"]


def test_leaks_are_those_of_check(tmp_path):
    with StoreGate(data_id="a") as gate:
        gate.add_data("x", [1, 2, 3, 3])
        gate.add_data("x", [3, 4], phase="test")
        (shared,) = gate.report(check=True).facts.shared
        assert (shared.equal_rows, shared.share, shared.example) == (1, 0.5, (2, 0))
        assert gate.report(check=True).facts.repeated_rows == {"train": 1, "test": 0}
        assert gate.report().facts.shared is None


def test_fingerprints_are_those_that_are_known(tmp_path):
    with StoreGate.open(tmp_path / "s", "a", mode="w") as gate:
        gate.add_data("x", [1, 2, 3])
        assert gate.report().facts.fingerprints == {"train": {}}
        digits = gate.fingerprint("x")
        assert gate.report().facts.fingerprints == {"train": {"x": digits}}


# ------------------------------------------------------------------------------------------ drift


def test_drift_is_the_jensen_shannon_distance(found):
    for of in found.facts.variables:
        for one in of.drift:
            p, q = (
                [
                    *of.bars.counts[at],
                    of.bars.below[at],
                    of.bars.above[at],
                    of.phases[at].n_missing,
                    of.phases[at].n_infinite,
                ]
                for at in (one.first, one.second)
            )
            np.testing.assert_allclose(one.distance, jensenshannon(p, q, base=2), atol=1e-7)
            assert one.verdict == "as by chance", one


def test_by_chance_is_what_random_samples_have():
    rng = np.random.default_rng(0)
    shares = rng.dirichlet(np.full(30, 5.0))
    sizes = (4000, 700)
    found = [Drift.of("x", ("a", "b"), tuple(rng.multinomial(n, shares) for n in sizes), sizes) for _ in range(400)]
    measured = math.sqrt(np.mean([one.distance**2 for one in found]))
    assert 0.95 < measured / found[0].by_chance < 1.05
    assert sum(one.verdict != "as by chance" for one in found) <= 2


@pytest.mark.parametrize(
    ("shift", "verdict"), [(0.0, "as by chance"), (0.1, "slight"), (0.5, "clear"), (3.0, "strong")]
)
def test_a_shift_is_seen(shift, verdict):
    rng = np.random.default_rng(1)
    gate = StoreGate(data_id="a")
    gate.add_data("x", rng.normal(size=20_000))
    gate.add_data("x", rng.normal(shift, 1, 5000), phase="test")
    (one,) = variable(gate.report(), "x").drift
    assert (one.first, one.second, one.verdict) == ("train", "test", verdict)


def test_missing_values_are_drift():
    gate = StoreGate(data_id="a")
    gate.add_data("x", np.zeros(1000))
    gate.add_data("x", np.full(1000, np.nan), phase="test")
    (one,) = variable(gate.report(), "x").drift
    assert (one.distance, one.verdict) == (1.0, "strong")


# ------------------------------------------------------------------------------------------ the pass


@pytest.mark.skipif(sys.platform != "linux", reason="the system counts what a process reads on Linux alone")
def test_every_row_is_read_once(tmp_path):
    def read_nbytes():
        return int(Path("/proc/self/io").read_text().split()[1])

    rng = np.random.default_rng(0)
    n_rows = 300_000
    with StoreGate(
        "zarr", {"output_dir": tmp_path / "s", "compressor": "none", "budget": "64MiB"}, data_id="a"
    ) as gate:
        gate.add_data({"warm": [1.0]}, phase="test")
        gate.report()
        gate.delete_data("warm", "test")
        gate.add_data(
            {"x": rng.normal(size=n_rows), "y": rng.normal(size=(n_rows, 4))}, phase=(0.8, 0.1, 0.1), shuffle=3
        )
        gate.shuffle("all", seed=4)
        gate.compile()
        stored = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
        before = read_nbytes()
        gate.report()
        read = read_nbytes() - before
    rows_nbytes = 5 * 8 * n_rows
    assert stored > rows_nbytes
    samples_nbytes = 2 * 6 * 2**17  # six rows of each variable, a chunk each
    assert rows_nbytes <= read <= 1.05 * rows_nbytes + samples_nbytes


@pytest.mark.parametrize("budget", ["64MiB", "1GiB"])
def test_orders_of_every_form_are_counted(budget):
    rng = np.random.default_rng(0)
    values = rng.normal(size=3000)
    gate = StoreGate("zarr", {"budget": budget}, data_id="a")
    gate.add_data({"x": values, "t": [str(at % 9) for at in range(3000)]}, phase=(0.5, 0.25, 0.25), shuffle=1)
    gate.add_data({"x": values[:50], "t": ["new"] * 50}, phase="test")  # other pieces
    gate.select([3, 3, 3, 5] * 40, phase="valid")  # rows named twice
    gate.sample(100, seed=1)  # few of the stored rows
    gate.compile()
    for of in gate.report().facts.variables:
        for at in PHASES:
            rows = gate[at][of.name][:]
            assert of.phases[at].n_values == len(rows)
            if of.name == "x":
                inside = np.histogram(rows, of.bars.labels)[0].sum()
                assert sum(of.bars.counts[at]) == inside
                np.testing.assert_allclose(of.phases[at].mean, rows.mean(), rtol=1e-9)
            else:
                assert dict(zip(of.bars.labels, of.bars.counts[at], strict=True)) == {
                    label: list(rows).count(label) for label in of.bars.labels
                }


def test_labels_that_no_phase_shows_are_no_error():
    gate = StoreGate("zarr", data_id="a")
    gate.add_data("y", [0, 1, 2, 1, 0, 7] * 50, phase=(0.5, 0.25, 0.25), shuffle=1)
    gate.filter(lambda ds: ds.y < 3)
    gate.onehot("y", 3, phase="all")
    bars = variable(gate.report(), "y").bars
    assert (bars.labels, sum(map(sum, bars.counts.values()))) == (["0", "1", "2"], 250)


def test_memory_and_storage_say_the_same(gate, found):
    memory = StoreGate(data_id="run1")
    fill(memory)
    for mine, theirs in zip(memory.report().facts.variables, found.facts.variables, strict=True):
        assert (mine.name, mine.bars, mine.drift) == (theirs.name, theirs.bars, theirs.drift)
    assert memory.report().facts.history == ()


def test_variables_of_different_lengths(tmp_path):
    gate = StoreGate(data_id="a")
    gate.add_data("x", [1.0, 2.0])
    gate.add_data("y", [1.0, 2.0, 3.0])
    facts = gate.report().facts
    assert [of.phases["train"].n_rows for of in facts.variables] == [2, 3]
    assert (facts.phases[0].n_rows, facts.plans, facts.costs) == (3, {}, [])


def test_an_empty_table_has_a_report():
    gate = StoreGate(data_id="a")
    assert "0 samples" in gate.report().to_html()
    gate.add_data("x", np.zeros((0, 3)))
    assert gate.report(check=True).facts.variables[0].bars is None


def test_json_has_every_number(found):
    document = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert document["data_id"] == "run1"
    holes = next(of for of in document["variables"] if of["name"] == "holes")
    assert holes["phases"]["train"]["most"] == "inf"
    assert sum(holes["bars"]["counts"]["train"]) > 0
    assert {of["phase"] for of in document["costs"]} == set(PHASES)
    assert sum(of["n_rows"] for of in document["phases"]) == N


def test_texts_that_are_too_many_to_count_have_no_bars():
    gate = StoreGate(data_id="a")
    gate.add_data("s", [f"w{number}" for number in range(1001)])
    gate.add_data("s", ["w1"] * 500, phase="test")
    (variable,) = gate.report().facts.variables
    assert variable.bars is None
    assert variable.drift == []
