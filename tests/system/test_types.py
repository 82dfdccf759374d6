"""What users see as types: the words of `batches` stand in three places, which must say the same."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import get_type_hints

import storegate.types
from storegate.parsing import BackendArgs, BatchArgs, BatchOptions, Options
from storegate.types import View


def test_the_keywords_of_batches_are_those_of_its_options():
    found = inspect.signature(View.batches).parameters
    keywords = {name: given.default for name, given in found.items() if name not in ("self", "batch_size", "var_names")}
    options = {field.name: field.default for field in fields(BatchOptions) if field.name != "batch_size"}
    assert keywords == options
    assert set(get_type_hints(BatchArgs)) == set(keywords) - {"transform"}


def test_the_keys_of_backend_args_are_those_of_the_options():
    assert set(BackendArgs.__annotations__) == {field.name for field in fields(Options)}


def test_every_public_type_is_there():
    assert all(hasattr(storegate.types, name) for name in storegate.types.__all__)
    assert list(storegate.types.__all__) == sorted(storegate.types.__all__)
