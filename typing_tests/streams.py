"""What a loop over batches gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, assert_type

import numpy as np

from storegate import StoreGate
from storegate.types import Array, BatchArgs, Stream, StreamState


def scaled(batch: Array, rng: np.random.Generator) -> tuple[Array, float]:
    return batch / 2, rng.random()


def summed(batch: list[Array], rng: np.random.Generator) -> Array:
    return batch[0] + batch[1]


def named(batch: dict[str, Array], rng: np.random.Generator) -> Array:
    return batch["x"]


def forms(gate: StoreGate) -> None:
    train = gate["train"]
    assert_type(train["x"].batches(10), Stream[Array])
    assert_type(train["x", "y"].batches(10, shuffle="blocks", drop_last="pad"), Stream[Array])
    assert_type(train[["x", "y"]].batches(10, weights=np.ones(3), label=None), Stream[list[Array]])
    assert_type(train.batches(10), Stream[dict[str, Array]])
    assert_type(train["x"].batches(10, epochs=3), Stream[Array])
    assert_type(train["x"].batches(10).n_epochs, int | None)
    assert_type(train.batches(10, var_names="x"), Stream[Array])
    assert_type(train.batches(10, var_names=["x", "y"]), Stream[list[Array]])
    assert_type(iter(train.batches(10)), Iterator[dict[str, Array]])


def transforms(gate: StoreGate) -> None:
    train = gate["train"]
    assert_type(train["x"].batches(10, transform=scaled), Stream[tuple[Array, float]])
    assert_type(train[["x", "y"]].batches(10, transform=summed), Stream[Array])
    assert_type(train.batches(10, transform=named), Stream[Array])
    assert_type(train.batches(10, var_names="x", transform=scaled), Stream[tuple[Array, float]])
    assert_type(train.batches(10, var_names=["x", "y"], transform=summed), Stream[Array])


def passed_on(gate: StoreGate, arguments: BatchArgs) -> Stream[Array]:
    return gate["train"]["x"].batches(10, **arguments)


def states(stream: Stream[Array], text: str) -> None:
    assert_type(stream.state_dict(), StreamState)
    assert_type(stream.state_dict()["order"]["seed"], int)
    stream.load_state_dict(stream.state_dict())
    loaded: dict[str, Any] = json.loads(text)
    stream.load_state_dict(loaded)
    assert_type(stream.on_rank(0, 2), Stream[Array])
    with stream as opened:
        assert_type(opened, Stream[Array])
