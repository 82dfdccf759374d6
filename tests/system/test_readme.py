"""The README and the pages of docs/ tell the truth: their Python runs as it stands, and their links lead somewhere."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from benchmarks import figure

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
CLUSTERS = [ROOT / "docs" / "clusters" / f"{name}.md" for name in ("index", "tls", "slurm")]
"""In the order in which one reads them; their Python stands in files: test_cluster_pages.py runs it."""


def fenced(text: str) -> list[tuple[str, str]]:
    """Return the blocks of a text in order, each as its language and what stands in it."""
    return re.findall(r"^```(\w+)\n((?s:.*?))^```$", text, flags=re.MULTILINE)


def blocks(page: Path, language: str) -> list[str]:
    return [text for found, text in fenced(page.read_text("utf-8")) if found == language]


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if blocks(page, "python") and page not in CLUSTERS],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_python_blocks_run_in_order(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("sklearn", "torch"):  # .ci/run has an environment with both
        if any(f"import {package}" in block or f"from {package}" in block for block in blocks(page, "python")):
            pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "page"}
    for number, block in enumerate(blocks(page, "python"), start=1):
        with contextlib.redirect_stdout(io.StringIO()):
            exec(compile(block, f"{page.relative_to(ROOT)}, Python block {number}", "exec"), namespace)


def test_the_readme_can_be_run_twice_and_prints_what_it_shows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    for _ in range(2):
        namespace: dict[str, object] = {"__name__": "page"}
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            for block in blocks(README, "python"):
                exec(compile(block, "README.md", "exec"), namespace)
                exec("print(gate)", namespace)
        for shown in blocks(README, "text"):
            assert shown in printed.getvalue()


def test_the_first_block_is_ten_lines_that_end_in_batches() -> None:
    lines = [line for line in blocks(README, "python")[0].splitlines() if line]
    assert len(lines) <= 10
    assert any('mode="w"' in line for line in lines)
    assert ".batches(" in lines[-2]
    assert "print(gate)" in README.read_text("utf-8")


def test_the_picture_is_drawn_from_what_was_measured() -> None:
    several = figure.measured(figure.PAGE.read_text("utf-8"))
    assert figure.PICTURE.read_text("utf-8") == figure.svg(several)
    assert f"[![{figure.in_words(several)}](docs/shuffle.svg)](docs/benchmarks.md)" in README.read_text("utf-8")
    assert len(several) >= 8
    assert several[0].name.startswith("StoreGate")
    ElementTree.fromstring(figure.svg(several))


def test_the_readme_says_when_other_software_is_better() -> None:
    table = README.read_text("utf-8").partition("## When something else is the better choice")[2].partition("\n## ")[0]
    for name in ("datasets", "Lance", "xarray", "zarr"):
        assert f"[{name}](https://" in table


def test_the_readme_and_the_guide_have_python() -> None:
    assert blocks(README, "python")
    assert sum(bool(blocks(page, "python")) for page in PAGES) > 2


def test_exactly_two_set_up_commands() -> None:
    assert [line for block in blocks(README, "bash") for line in block.splitlines() if "pip install" in line] == [
        'python -m pip install -e ".[demo]" && storegate demo',
        'python -m pip install -e ".[test]" && python -m pytest -n logical',
    ]


def pages_linked(page: Path) -> set[Path]:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+\.md)[^)]*\)", page.read_text("utf-8"))
    return {(page.parent / target).resolve() for target in targets}


def test_every_page_is_within_two_clicks_of_the_first() -> None:
    first = ROOT / "docs" / "index.md"
    once = pages_linked(first)
    twice = once.union(*map(pages_linked, once))
    ways = {ROOT / "docs" / folder / "index.md" for folder in ("how-to", "reference", "explanation")}  # of the sidebar
    assert {page for page in PAGES if page.is_relative_to(first.parent)} - ways <= {first, *twice}


def test_twenty_questions_have_a_source_and_an_answer() -> None:
    page = ROOT / "docs" / "how-to" / "questions.md"
    rows = re.findall(
        r"^\| (How|Why)[^|]*\| \[[^]]+\]\(https://[^|]+\| \[[^]]+\]\([^)]+\.md\) \|$", page.read_text("utf-8"), re.M
    )
    assert len(rows) >= 20
    assert page in pages_linked(ROOT / "docs" / "index.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_project_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", page.read_text("utf-8"))
    assert targets or page.parent != ROOT
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_rooms_that_contributors_are_sent_to_are_there() -> None:
    named = re.findall(
        r"`((?:tests|storegate|storegate_engine)/[\w/.]+)`", (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    )
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).exists() and not (ROOT / "engine" / name).exists()] == []
