"""The commands of CONTRIBUTING.md; each session has an environment of its own, which is kept."""

from __future__ import annotations

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
    session.run("python", "-m", "pytest", "-m", "slow", "-n", "logical", *session.posargs)


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
