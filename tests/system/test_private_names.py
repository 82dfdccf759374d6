"""Tests reach what they test by its public names: what is private may change, and no test is in the way."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]
OURS = ("storegate", "storegate_engine")
PRIVATE = re.compile(r"_[^_]\w*")
BY_NAME = ("setattr", "getattr", "delattr", "hasattr")

OTHERS = {
    "_exit": "os: a forked child ends without what its parent does at the end",
    "_repr_html_": "IPython's protocol",
    "_ipython_key_completions_": "IPython's protocol",
    "_view_to_list": "of the predecessor's interface, which others call",
    "_correct_state": "distributed: what `scale` calls, for workers that are not alike",
}
"""Private names that tests need, and why."""


def private_names(source: str) -> Iterator[tuple[int, str]]:
    """Yield the private names that a module takes from elsewhere, with their lines."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=module, names=names):
                if module and module.split(".")[0] in OURS:
                    dotted = [*module.split("."), *(alias.name for alias in names)]
                    yield from ((node.lineno, name) for name in dotted if PRIVATE.fullmatch(name))
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if PRIVATE.fullmatch(name):
                yield node.lineno, name
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called), args=args) if called in BY_NAME:
                for text in (each.value for each in args if isinstance(each, ast.Constant)):
                    if isinstance(text, str):
                        yield from ((node.lineno, name) for name in text.split(".") if PRIVATE.fullmatch(name))
            case ast.Constant(value=str(text)) if "import " in text:  # a program of its own
                with contextlib.suppress(SyntaxError):
                    yield from ((node.lineno, name) for _, name in private_names(text))


FILES = sorted({*TESTS.rglob("*.py")} - {Path(__file__)})


def test_tests_use_no_private_name_but_those_of_others():
    found = [
        (str(path.relative_to(TESTS)), line, name)
        for path in FILES
        for line, name in private_names(path.read_text("utf-8"))
    ]
    assert [each for each in found if each[-1] not in OTHERS] == []
    assert set(OTHERS) <= {name for _, _, name in found}


@pytest.mark.parametrize(
    "source",
    [
        "from storegate_engine.orders import _hidden",
        "from storegate_engine._hidden import name",
        "gate._hidden",
        "gate.repository()._hidden = 1",
        "monkeypatch.setattr(module, '_hidden', None)",
        "monkeypatch.setattr('storegate_engine.orders._hidden', None)",
        "getattr(gate, '_hidden')",
        "run('import storegate; storegate._hidden')",
    ],
)
def test_private_names_are_seen(source):
    assert [name for _, name in private_names(source)] == ["_hidden"]
