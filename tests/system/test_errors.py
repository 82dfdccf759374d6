"""Errors: each survives the way between processes, with its type, arguments and attributes."""

from __future__ import annotations

import pickle
from concurrent.futures import ProcessPoolExecutor

import pytest

import storegate  # noqa: F401 (so that all modules that may have errors are loaded)
from storegate_engine import errors
from storegate_engine.errors import LabelError, StoreGateError


def tree(kind=StoreGateError):
    return [kind, *(below for child in kind.__subclasses__() for below in tree(child))]


def made(kind):
    """Return an error with more attributes than its class knows of."""
    error = kind("what was asked, found\x1b, and the remedy")
    error.phase = "train"
    return error.at_row(7, "label") if kind is LabelError else error


def raised(kind):
    raise made(kind) from KeyError("the cause")


def assert_same(found, kind):
    expected = made(kind)
    assert type(found) is kind
    assert (found.args, str(found), vars(found)) == (expected.args, str(expected), vars(expected))


@pytest.mark.parametrize("kind", tree(), ids=lambda kind: kind.__name__)
def test_errors_survive_pickle(kind):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert_same(pickle.loads(pickle.dumps(made(kind), protocol)), kind)


def test_errors_of_the_system_keep_their_number():
    for args in ((28, "No space left on device"), (28, "No space left on device", "file")):
        error = errors.WriteError(*args)
        found = pickle.loads(pickle.dumps(error))
        assert (found.errno, found.strerror, found.filename) == (28, args[1], error.filename)


def test_errors_of_workers_keep_their_type(cluster):
    for kind in tree():
        error = cluster.submit(raised, kind, pure=False).exception(timeout=60)
        assert_same(error, kind)
        assert isinstance(error.__cause__, KeyError)


def test_errors_of_processes_keep_their_type(processes):
    with ProcessPoolExecutor(1, mp_context=processes) as pool:
        for kind in tree():
            assert_same(pool.submit(raised, kind).exception(timeout=60), kind)


def test_all_errors_are_public_and_drawn():
    for kind in (kind for kind in tree() if not kind.__name__.startswith("_")):
        assert kind.__name__ in errors.__all__
        assert f" {kind.__name__}" in (errors.__doc__ or "") or kind is StoreGateError
