"""The benchmarks: each can be imported and is listed, and small ones run; what they measure is not looked at."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from benchmarks.__main__ import main
from tests.processes import environment

ROOT = Path(__file__).parents[2]
MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("[!_]*.py"))
BENCHMARKS = [name for name in MODULES if hasattr(importlib.import_module(f"benchmarks.{name}"), "run")]
OURS = {"benchmarks", "storegate", "storegate_engine"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEEDED = {re.split(r"[^\w-]", requirement)[0] for requirement in PROJECT["dependencies"]}

FAST = ("scale", "narrow --rows 5000")
SLOW = (
    "core --quick --size 1MiB",
    "ingest --quick --only f4",
    "shuffle --rows 4000 --cluster --only compact,mean,peek,graph,cluster",
    "tables --rows 1000",
    "io --size 4MiB --only attach,read",
    "scalings --size 1MiB",
    "windows --size 1MiB",
    "lists --rows 1000 --quick",
    "batches --quick --only images",
    "ranks --size 1MiB",
)
NEITHER = {"objects": "needs a server", "devices": "needs a GPU", "figure": "measures nothing: test_readme.py runs it"}


def imported_at_once(tree: ast.Module) -> set[str]:
    """Return the packages that a module imports outside of functions."""
    found: set[str] = set()
    nodes: list[ast.AST] = [tree]
    while nodes:
        match nodes.pop():
            case ast.FunctionDef() | ast.Lambda():
                pass
            case ast.Import(names=names):
                found.update(name.name.partition(".")[0] for name in names)
            case ast.ImportFrom(module=module):
                found.add((module or "").partition(".")[0])
            case node:
                nodes.extend(ast.iter_child_nodes(node))
    return found


@pytest.mark.parametrize("name", MODULES)
def test_an_import_needs_no_optional_package(name):
    found = imported_at_once(ast.parse((ROOT / "benchmarks" / f"{name}.py").read_text("utf-8")))
    allowed = {*sys.stdlib_module_names, *OURS, *NEEDED}
    assert found - allowed <= ({"psutil"} if name == "harness" else set())  # without it no memory is measured


def test_imports_are_seen():
    program = "import a\nif x:\n    from b.c import d\ndef f():\n    import e\nclass G:\n    import h.i"
    assert imported_at_once(ast.parse(program)) == {"a", "b", "h"}


def test_the_command_line_lists_every_benchmark(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert sorted(re.findall(r"^ {4}(\w+) ", capsys.readouterr().out, re.MULTILINE)) == BENCHMARKS


def test_the_page_names_every_benchmark():
    page = (ROOT / "docs" / "benchmarks.md").read_text("utf-8")
    assert sorted(re.findall(r"^python -m benchmarks (\w+) +# ", page, re.MULTILINE)) == BENCHMARKS


def test_every_benchmark_is_run_by_a_test():
    assert sorted({*(command.split()[0] for command in (*FAST, *SLOW)), *NEITHER}) == BENCHMARKS


def require_lines(command: str, directory: Path) -> None:
    """Run a benchmark once, and raise unless it prints lines, and none of a case that failed."""
    where = [] if command == "scale" else ["--repeat", "1", "--directory", str(directory)]
    arguments = [sys.executable, "-m", "benchmarks", *command.split(), *where]
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    _, _, lines = done.stdout.partition("\n\n")[-1].partition("\n\n")  # behind the title and the facts
    assert len(lines.splitlines()) >= 2
    assert re.findall(r".*(?:failed|not run|not finished|not written|\b(?:nan|inf)\b).*", lines) == []
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("command", FAST)
def test_a_small_run_has_no_failed_line(command, tmp_path):
    require_lines(command, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("command", SLOW)
def test_every_benchmark_runs(command, tmp_path):
    require_lines(command, tmp_path)


@pytest.mark.parametrize(
    ("missing", "command", "message"),
    [
        ("psutil", "narrow", r'^psutil is not installed: python -m pip install -e "\.\[bench\]"$'),
        ("obstore", "objects", r"^this benchmark reads with obstore: python -m pip install obstore$"),
        ("torch", "devices", r"^this benchmark needs a CUDA device and PyTorch: python -m pip install torch$"),
    ],
)
def test_a_missing_package_is_named(missing, command, message, monkeypatch):
    for name in ("benchmarks.harness", f"benchmarks.{command}"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=message):
        main([command])
