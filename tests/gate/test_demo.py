"""The demo, run as a user runs it, on the real data."""

from __future__ import annotations

import contextlib
import io
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from storegate import StoreGate
from storegate.cli import main
from storegate.demo import BUDGET, PeakMemory, check
from storegate_engine.budget import parse_nbytes


@dataclass(frozen=True)
class Run:
    directory: str
    out: str


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Run the demo once for all tests."""
    directory = str(tmp_path_factory.mktemp("demo") / "store")
    with contextlib.redirect_stdout(io.StringIO()) as out:
        assert main(["demo", "--directory", directory]) == 0
    return Run(directory, out.getvalue())


@pytest.mark.slow
def test_demo_says_what_it_did(demo: Run) -> None:
    assert demo.directory in demo.out
    assert "Aligned: all 13 columns of all 59,360 rows are those of the file." in demo.out
    assert "Aligned: all 6 columns of all 2,228,941 rows are those of the file." in demo.out
    assert demo.out.count("<xarray.Dataset>") == 2
    assert demo.out.count("One pass: ") == 2


@pytest.mark.slow
def test_demo_splits_as_numpy_would(demo: Run) -> None:
    with StoreGate("zarr", {"output_dir": demo.directory, "mode": "r"}, data_id="hits") as gate:
        assert gate.get_metadata()["sizes"] == {
            "train": 1_783_152,
            "valid": 222_894,
            "test": 222_895,
            "all": 2_228_941,
        }


@pytest.mark.slow
def test_printed_means_are_those_of_the_rows(demo: Run) -> None:
    with StoreGate("zarr", {"output_dir": demo.directory, "mode": "r"}, data_id="hits") as gate:
        triggered = gate["train"]["triggered"][:].argmax(axis=1) == 1
        tot = gate["train"]["tot"][:]
    printed = re.findall(r"^[01] +([\d.]+) +[\d.]+$", demo.out, flags=re.MULTILINE)
    expected = [tot[~triggered].mean(dtype="f8"), tot[triggered].mean(dtype="f8")]
    assert [float(mean) for mean in printed] == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_demo_prints_its_peak_beside_a_budget_below_the_data(demo: Run) -> None:
    decoded = re.search(rf"Peak memory: .*; the budget was {BUDGET}, the decoded data are (\d+) MiB", demo.out)
    assert decoded is not None
    assert parse_nbytes(BUDGET) < int(decoded[1]) * 2**20


@pytest.mark.slow
def test_info_opens_what_the_demo_left(demo: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", demo.directory]) == 0
    both = capsys.readouterr().out
    assert "AnaClass" in both
    assert "triggered" in both
    assert main(["info", demo.directory, "--data-id", "hits"]) == 0
    assert "AnaClass" not in capsys.readouterr().out


@pytest.mark.slow
def test_info_names_what_is_there(demo: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", demo.directory, "--data-id", "event"]) == 2
    err = capsys.readouterr().err
    assert "did you mean 'events'?" in err
    assert err.count("\n") == 1
    assert main(["info", str(tmp_path / "nothing")]) == 2
    err = capsys.readouterr().err
    assert err.startswith("storegate: error: ")
    assert not (tmp_path / "nothing").exists()


def test_demo_leaves_a_strange_directory_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["demo", "--directory", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("storegate: error: ")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_check_finds_a_row_out_of_line() -> None:
    values = np.arange(10.0)
    gate = StoreGate("numpy", data_id="a")
    gate.add_data(["x", "row"], [values, np.arange(10)], phase=(0.8, 0.1, 0.1), shuffle=3)
    gate.compile()
    check(gate, ["x"], lambda name: values)
    gate["train"]["x"][0] = -1.0
    with pytest.raises(RuntimeError, match="'x' in 'train' is out of line"):
        check(gate, ["x"], lambda name: values)


def test_peak_memory_counts_what_was_freed() -> None:
    memory = PeakMemory()
    np.ones(2**26, dtype=np.uint8).sum()
    above = re.search(r"Peak memory: (\d+) MiB above", memory.report())
    if above is None:
        pytest.skip("this system does not tell the peak of resident memory")
    assert int(above[1]) >= 50
