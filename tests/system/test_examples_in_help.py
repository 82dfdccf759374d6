"""Every class, method and attribute of the reference has an example in its help, or in that of its class."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

import storegate.types
from storegate import Ragged, StoreGate, explain, pad, samples

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "api.md").read_text("utf-8")
CLASSES = {name: set(re.findall(r"\w+", excluded)) for name, excluded in re.findall(
    r"autoclass:: ([\w.]+)\n(?:   :(?!exclude)[^\n]*\n)*(?:   :exclude-members:([^\n]*)\n)?", PAGE
)}  # fmt: skip


def public(name):
    return StoreGate if name == "StoreGate" else Ragged if name == "Ragged" else getattr(storegate.types, name[16:])


def example_in(documented):
    return "\n".join(re.findall(r"(?:>>>|\.\.\.) .*", inspect.getdoc(documented) or ""))


@pytest.mark.parametrize("name", CLASSES)
def test_every_member_has_an_example(name):
    of = public(name)
    members = {
        member: inspect.getattr_static(of, member)
        for member in dir(of)
        if not member.startswith("_") and member not in CLASSES[name] and not hasattr(tuple, member)
    }
    documented = {
        member: value for member, value in members.items() if inspect.isroutine(value) or hasattr(value, "fget")
    }
    examples = "\n".join([example_in(of), *map(example_in, documented.values())])
    assert example_in(of)
    lacking = [
        member
        for member in members
        if not (member in documented and example_in(documented[member])) and not re.search(rf"\.{member}\b", examples)
    ]
    assert lacking == []


@pytest.mark.parametrize("function", [explain, pad, samples])
def test_every_function_has_an_example(function):
    assert example_in(function)
    assert f"autofunction:: {function.__name__}" in PAGE
