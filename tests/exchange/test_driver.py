"""The driver of exchanges: its steps, whoever runs them and in whatever order, give the rows that numpy gives."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storegate import StoreGate
from storegate_engine.buffers import Workspace
from storegate_engine.errors import CorruptStoreError
from storegate_engine.exchange import Exchange, driver
from storegate_engine.orders import ArrayIndex, Range, Take, cut, permute
from tests.examples import examples

N_ROWS = 1000


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """Variables of 1,000 rows and some widths, as they are stored."""
    rng = np.random.default_rng(0)
    with StoreGate("zarr", {"output_dir": tmp_path_factory.mktemp("store"), "chunk": 10}, "a") as gate:
        gate.add_data(["a", "b", "c"], [rng.random(N_ROWS), rng.random((N_ROWS, 5)), np.arange(N_ROWS)])
        yield [gate.table["train"][name] for name in "abc"]


def order_of(kind):
    permuted = permute(Range(0, N_ROWS), 4)
    if kind == "repeated":
        return Take(permuted, ArrayIndex(np.random.default_rng(1).integers(0, N_ROWS, 700)))
    return cut(permuted, 100, 800) if kind == "cut" else cut(permute(Range(0, N_ROWS), 9), 0, 700)


def exchange_of(variables, directory, map_rows, bucket_rows, coarse=1):
    prefixes = [f"{number}-map" for number in range(len(variables))]
    return Exchange.of(
        variables,
        [str(directory)] * len(variables),
        map_rows=map_rows,
        bucket_rows=bucket_rows,
        prefixes=prefixes,
        coarse=coarse,
    )


def buckets(exchange, n_buckets):
    """Return the rows of every variable, collected bucket by bucket."""
    spaces = [Workspace() for _ in exchange.sorts]
    found = [[np.array(rows) for rows in exchange.collect(bucket, spaces)] for bucket in range(n_buckets)]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


@settings(max_examples=examples(30), deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_variables_orders_sizes_and_turns(stored, tmp_path_factory, data):
    kinds = data.draw(st.lists(st.sampled_from(["repeated", "cut", "other"]), min_size=3, max_size=3), "orders")
    orders = {kind: order_of(kind) for kind in kinds}
    variables = [replace(variable, order=orders[kind]) for variable, kind in zip(stored, kinds, strict=True)]
    map_rows = data.draw(st.lists(st.sampled_from([30, 170, 170, 1000]), min_size=3, max_size=3), "rows of a map")
    bucket_rows = data.draw(st.sampled_from([40, 130, 700]), "rows of a bucket")
    coarse = data.draw(st.sampled_from([1, 2, 5]), "coarse")
    exchange = exchange_of(variables, tmp_path_factory.mktemp("spill"), map_rows, bucket_rows, coarse)
    for step in exchange.steps():
        turns = data.draw(st.permutations(range(step.n_tasks)), step.name)
        for number in [*turns, *turns[:3]]:  # in any order, and some of them again
            elsewhere, same = pickle.loads(pickle.dumps((exchange, step)))
            elsewhere.run(same, number, Workspace())
    found = buckets(exchange, -(-700 // bucket_rows))
    for rows, variable in zip(found, variables, strict=True):
        np.testing.assert_array_equal(rows, variable.read(0, 700))


@pytest.mark.parametrize(
    ("kind", "coarse", "names"),
    [
        ("cut", 1, ["scatter"]),
        ("cut", 2, ["scatter", "split"]),
        ("repeated", 1, ["request", "scatter"]),
        ("repeated", 2, ["request", "scatter", "split"]),
    ],
)
def test_the_steps_of_an_exchange(stored, tmp_path, kind, coarse, names):
    variable = replace(stored[0], order=order_of(kind))
    exchange = exchange_of([variable], tmp_path, [100], 70, coarse)
    n_tasks = {"request": 10 // coarse, "scatter": 10, "split": 10 // coarse}
    assert [(step.name, step.n_tasks) for step in exchange.steps()] == [(name, n_tasks[name]) for name in names]


@pytest.mark.parametrize("skipped", [0, 1])
def test_a_step_that_was_skipped_is_missed_by_name(stored, tmp_path, skipped):
    exchange = exchange_of([replace(stored[0], order=order_of("repeated"))], tmp_path, [100], 70, 2)
    steps = exchange.steps()
    for step in steps[:skipped]:
        for number in range(step.n_tasks):
            exchange.run(step, number, Workspace())
    with pytest.raises(CorruptStoreError, match=r"spill file .*0-map-.* is missing"):
        exchange.run(steps[skipped + 1], 0, Workspace())


def test_what_follows_from_an_order_is_found_once_for_all_variables_that_have_it(stored, tmp_path, monkeypatch):
    counts = {"destinations": 0, "ranks": 0}
    for name in counts:
        original = getattr(driver, name)

        def counting(*args, original=original, name=name):
            counts[name] += 1
            return original(*args)

        monkeypatch.setattr(driver, name, counting)
    order = order_of("cut")
    exchange = exchange_of([replace(variable, order=order) for variable in stored], tmp_path, [100, 100, 250], 70)
    (step,) = exchange.steps()
    assert step.n_tasks == 10 + 4, "a and b are scattered together, c in larger tasks"
    for number in range(step.n_tasks):
        exchange.run(step, number, Workspace())
    buckets(exchange, 10)
    assert counts == {"destinations": 14, "ranks": 10}
