"""The commands of CONTRIBUTING.md; each session has an environment of its own, which is kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import nox

nox.options.sessions = ["tests", "lint", "types"]
nox.options.reuse_existing_virtualenvs = True


@nox.session
def tests(session: nox.Session) -> None:
    """Run the fast tests, or those that are named behind ``--``."""
    session.install("-e", ".[test]")
    session.run("python", "-m", "pytest", "-n", "logical", *session.posargs)


@nox.session
def slow(session: nox.Session) -> None:
    """Run the long tests: kills, full disks, fuzzing, whole clusters."""
    session.install("-e", ".[test]")
    kept = "tmp_path_retention_policy=failed"  # the files of all would take 15 GB
    session.run("python", "-m", "pytest", "-m", "slow", "-n", "logical", "-o", kept, *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Measure which lines and branches the fast tests run, in the processes that they start too."""
    session.install("-e", ".[dev]")
    session.env["COVERAGE_FILE"] = str(Path(session.create_tmp()) / "coverage")  # for processes in other directories
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", "-n", "logical", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into docs/_build; its notebooks run."""
    session.install("-e", ".[docs]")
    session.run("sphinx-build", "-W", "--keep-going", "docs", "docs/_build", *session.posargs)


@nox.session
def links(session: nox.Session) -> None:
    """Follow every link of the documentation to other sites: needs the network."""
    session.install("-e", ".[docs]")
    options = ["-W", "--keep-going", "-D", "nb_execution_mode=off"]
    session.run("sphinx-build", "-b", "linkcheck", *options, "docs", "docs/_build/links", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Look at form, spelling and imports."""
    session.install("-e", ".[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("codespell")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check types, and what users' type checkers see."""
    session.install("-e", ".[dev]")
    session.run("mypy", "--strict")
    session.run("pyright")


@nox.session
def package(session: nox.Session) -> None:
    """Build the sdist and the wheel into dist/, and look at both."""
    session.install("build>=1.2", "twine>=6.1")
    shutil.rmtree("dist", ignore_errors=True)
    session.run("python", "-m", "build")
    session.run("twine", "check", "--strict", *map(str, Path("dist").iterdir()))


MUTATED = ["storegate_engine/orders/*.py", "storegate_engine/arrays/frames.py", "storegate_engine/exchange/plans.py"]
FRAMED = ["tests/arrays/test_frames.py", "tests/arrays/test_shards.py"]
PLANNED = ["tests/exchange/test_plans.py", "tests/exchange/test_traffic.py"]
MUTATION = f"""
[tool.mutmut]
source_paths = ["storegate_engine"]
only_mutate = {MUTATED}
also_copy = ["storegate"]
process_isolation = "forkserver"
timeout_multiplier = 2.0
timeout_constant = 10.0
pytest_add_cli_args = ["--hypothesis-profile=any", "--tb=no"]
pytest_add_cli_args_test_selection = {["tests/orders", *FRAMED, *PLANNED]}
"""


@nox.session
def mutation(session: nox.Session) -> None:
    """Change orders, frames and plans a bit in thousands of ways, and list those that no test notices: hours.

    What follows ``--`` goes to ``mutmut run``, such as ``--max-children 2`` or names of mutants.
    """
    session.install("-e", ".[test]", "mutmut>=3.3")
    work = Path(session.create_tmp()).absolute() / "mutated"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    for name, path in {
        "storegate_engine": "engine/storegate_engine",
        "storegate": "storegate",
        "tests": "tests",
    }.items():
        shutil.copytree(path, work / name)
    # mutmut imports what it changes from where it has put it, and so needs both packages beside each other; its mutants
    # are forked from a process that has run no test, whose threads they would wait for
    options = Path("pyproject.toml").read_text("utf-8").replace('pythonpath = [".", "engine"]', 'pythonpath = ["."]')
    (work / "pyproject.toml").write_text(options.replace('    "--doctest-modules",\n', "") + MUTATION, "utf-8")
    with session.chdir(work):
        session.run("mutmut", "run", *session.posargs, success_codes=[0, 1])
        session.run("mutmut", "results")
